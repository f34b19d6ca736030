"""The command line: reports, exit codes, many recordings, bags and data sets that come out."""

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import cv2
import made_bag
import numpy as np
import pytest
import yaml
from made_bag import write_bag

from anyseg_ros.evaluation.bag import Bag, find_bags
from anyseg_ros.evaluation.evaluate_bag import DONE, FAILED, PARTIAL, WRONG_USE, main
from anyseg_ros.modality import MODALITIES

QUICK = ("--threads", "1", "--subsets", "leave-one-out")


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return write_bag(tmp_path_factory.mktemp("bags") / "drive", 2.0)


@pytest.fixture(scope="module")
def reported(recording, tiny_model, tmp_path_factory):
    """Folder of the report of a run with everything in it."""
    out = tmp_path_factory.mktemp("out")
    timetable = out / "outages.yaml"
    timetable.write_text("outages: [{sensor: camera, from_s: 0.5, to_s: 1.2}]")
    arguments = ["--outages", str(timetable), "--tag", "fog", "--threads", "1"]
    status = main([str(recording), "--model", str(tiny_model), "--out", str(out), *arguments])
    assert status == DONE
    return out / "drive"


# --- the report -------------------------------------------------------------------------------


class Links(HTMLParser):
    """Collects every address a page refers to, and its headings."""

    def __init__(self):
        super().__init__()
        self.addresses, self.ids, self.tags = [], set(), []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        self.addresses += [
            found[k] for k in ("src", "href", "data") if k in found and tag != "path"
        ]
        if tag == "h2":
            self.ids.add(found.get("id"))


def test_the_page_is_whole_and_needs_nothing_else(reported):
    text = (reported / "index.html").read_text()
    page = Links()
    page.feed(text)
    assert {
        "moments", "subsets", "contributions", "classes", "tags", "timeline", "fragile",
        "outages", "recovery", "outage-moments", "speed", "inputs", "facts",
    } <= page.ids  # fmt: skip
    pictures = [a for a in page.addresses if not a.startswith("#")]
    assert pictures and all(a.startswith("data:image/jpeg;base64,") for a in pictures)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert not re.search(r"url\(\s*['\"]?https?:", text)
    assert "nan" not in re.sub(r"<[^>]*>", " ", text).lower().split()
    assert len(text) < 3_000_000
    assert "Ground truth: topic /ground_truth/labels" in text


def test_the_page_says_which_moments_its_rows_are_about(reported, recording, tiny_model, tmp_path):
    assert "so all rows are about the same" in (reported / "index.html").read_text()
    arguments = [
        "--model",
        str(tiny_model),
        "--out",
        str(tmp_path),
        "--every",
        "5",
        "--threads",
        "1",
    ]
    assert main([str(recording), *arguments]) == DONE
    text = (tmp_path / "drive" / "index.html").read_text()
    assert "so all rows are about the same" not in text and "(<code>--every</code>)" in text


def test_the_page_explains_its_dashes_units_and_speed(reported):
    text = " ".join(re.sub(r"<[^>]*>", "", (reported / "index.html").read_text()).split())
    assert "over the whole recording" in text and "in percent of the labelled pixels" in text
    assert "A dash under used again or recovered" in text
    assert "one set of 4 sensors, median" in text
    for told in re.finditer("sets a second|real time", text):
        assert "the other combinations of sensors" in text[told.end() : told.end() + 120]
    assert "classes in the labels" not in text


def test_a_list_of_subsets_without_all_sensors_gives_a_report(recording, tiny_model, tmp_path):
    arguments = ("--subsets", "camera+depth+lidar", "--duration", "0.6", "--threads", "1")
    model = ("--model", str(tiny_model), "--out", str(tmp_path))
    assert main([str(recording), *model, *arguments]) == DONE
    assert "With all sensors mIoU is" in (tmp_path / "drive" / "index.html").read_text()


def test_the_page_shows_in_a_real_browser(reported, tmp_path):
    browser = next(
        (b for n in ("chromium", "chromium-browser", "google-chrome") if (b := shutil.which(n))),
        None,
    )
    if browser is None:
        pytest.skip("no chromium or chrome on this machine: the page is not drawn")
    page, picture = (reported / "index.html").as_uri(), tmp_path / "page.png"
    # No name resolves: whatever the page would fetch from the network is missing in the picture.
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1250,3000", "--virtual-time-budget=2000",
    ]  # fmt: skip
    shot = subprocess.run(
        [*command, f"--screenshot={picture}", page], capture_output=True, timeout=60
    )
    assert shot.returncode == 0, shot.stderr.decode()
    drawn = cv2.imread(str(picture))
    assert drawn is not None and drawn.shape[:2] == (3000, 1250)
    # Content from top to bottom, and the film strip's colours among it.
    for band in np.array_split(drawn, 8):
        assert (band < 250).mean() > 0.005
    colors = cv2.cvtColor(drawn, cv2.COLOR_BGR2HSV)
    assert (colors[..., 1] > 120).mean() > 0.02
    # What a reader sees as text, as the browser laid it out.
    dom = subprocess.run([*command, "--dump-dom", page], capture_output=True, timeout=60)
    assert "Every combination of sensors" in dom.stdout.decode()


def test_tables_are_written(reported):
    results = json.loads((reported / "results.json").read_text())
    assert results["model"]["name"] == "tiny"
    assert len(results["subsets"]) == 16
    lines = (reported / "subsets.csv").read_text().splitlines()
    assert len(lines) == 17 and lines[0].startswith("subset,")
    frames = (reported / "frames.csv").read_text().splitlines()
    assert len(frames) == 1 + results["run"]["segmented"]
    timing = json.loads((reported / "timing.json").read_text())
    assert set(timing["stages_ms"]) == {"build", "encode", "fuse"}


# --- exit codes -------------------------------------------------------------------------------


def run(tiny_model, out, *arguments):
    return main([*map(str, arguments), "--model", str(tiny_model), "--out", str(out), *QUICK])


def test_damage_and_failure_have_exit_codes_of_their_own(recording, tiny_model, tmp_path, capsys):
    damaged = tmp_path / "damaged"
    shutil.copytree(recording, damaged)
    file = next(damaged.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[:-2000])
    assert run(tiny_model, tmp_path, damaged) == PARTIAL
    assert "damaged" in capsys.readouterr().out
    assert (tmp_path / "damaged" / "index.html").is_file()

    (tmp_path / "empty.mcap").write_bytes(b"")
    assert run(tiny_model, tmp_path, tmp_path / "empty.mcap") == FAILED
    assert run(tiny_model, tmp_path, tmp_path / "nowhere") == FAILED
    told = capsys.readouterr().err
    assert "empty.mcap cannot be read" in told and "nowhere: no such file" in told
    assert all(line.startswith("anyseg-evaluate: ") for line in told.splitlines())

    silent = write_bag(tmp_path / "silent", 0.0, transforms=False, infos=False)
    assert run(tiny_model, tmp_path, silent) == FAILED
    assert "is empty: it holds no message" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, told",
    [
        (("--model", "nowhere/at/all"), "no model folder"),
        (("--outages", "nowhere.yaml"), "cannot read timetable"),
        (("--subsets", "sonar"), "unknown modality 'sonar'"),
        (("--topic", "camera"), "expected SENSOR=VALUE"),
        (("--random-outages", "x"), "SEED"),
        (("--jobs", "0"), "--jobs is 0"),
        (("--calibration", "nowhere.yaml"), "cannot read calibration"),
        (("--extrinsics", "lidar=1,2"), "expected x,y,z,qx,qy,qz,qw"),
    ],
)
def test_wrong_use_is_told_before_anything_runs(recording, tiny_model, capsys, arguments, told):
    model = () if arguments[0] == "--model" else ("--model", str(tiny_model))
    assert main([str(recording), *model, *arguments]) == WRONG_USE
    assert told in capsys.readouterr().err


# --- many recordings --------------------------------------------------------------------------


def test_many_recordings_one_of_them_broken_then_again(recording, tiny_model, tmp_path, capsys):
    drives = tmp_path / "drives"
    for name in ("monday", "tuesday"):
        shutil.copytree(recording, drives / name)
    (drives / "broken.mcap").write_bytes(b"\x89MCAP0\r\nnothing")
    out = tmp_path / "out"
    arguments = (drives, "--duration", "0.6", "--jobs", "2")
    assert run(tiny_model, out, *arguments) == FAILED
    said = capsys.readouterr().out
    assert "2 of 3 recordings evaluated" in said
    assert "cannot be read" in (out / "broken" / "log.txt").read_text()
    table = (out / "recordings.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in table[1:]] == [
        ["broken", "failed"],
        ["monday", "done"],
        ["tuesday", "done"],
    ]
    # The same again: what is done stays as it is, what failed is tried once more.
    before = (out / "monday" / "results.json").stat().st_mtime_ns
    (drives / "broken.mcap").unlink()
    assert run(tiny_model, out, *arguments) == DONE
    assert "2 of 2 recordings are done already" in capsys.readouterr().out
    assert (out / "monday" / "results.json").stat().st_mtime_ns == before


def test_recordings_may_be_named_behind_the_options(recording, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("monday", "tuesday"):
        shutil.copytree(recording, tmp_path / "drives" / name)
    options = ["--subsets", "none", "--duration", "0.3", "--tag", "drives", "--tag", "fog"]
    model = ["--model", str(tiny_model)]
    assert main([*model, "--out", "out", *options, "./drives/"]) == DONE
    results = json.loads((tmp_path / "out" / "monday" / "results.json").read_text())
    assert {t["tag"] for t in results["tags"]} == {"drives", "fog"}
    assert [s["subset"] for s in results["subsets"]] == ["as recorded", "camera+depth+event+lidar"]


def test_done_already_is_only_what_was_done_last_and_with_the_same_labels(
    tiny_model, tmp_path, capsys
):
    path = write_bag(tmp_path / "drive", 0.5, labels=False)
    labels, out = tmp_path / "labels", tmp_path / "out"
    labels.mkdir()
    for index in range(5):
        stamp = made_bag.START_NS + index * 100_000_000
        cv2.imwrite(str(labels / f"{stamp}.png"), made_bag.scene(stamp))
    timetable = tmp_path / "outages.yaml"
    timetable.write_text("outages: [{sensor: camera, from_s: 0.1, to_s: 0.2}]")
    everything = (path, "--labels", labels, "--outages", timetable)

    def again(*arguments):
        assert run(tiny_model, out, *arguments) == DONE
        return "done already" in capsys.readouterr().out

    assert not again(*everything)
    assert again(*everything)
    cv2.imwrite(str(labels / f"{made_bag.START_NS}.png"), np.zeros((32, 64), np.uint8))
    assert not again(*everything), "the labels have changed"
    assert (out / "drive" / "classes.csv").is_file() and (out / "drive" / "outages.csv").is_file()
    # Another evaluation takes the place of this one, with all its tables.
    assert not again(path)
    left = {p.name for p in (out / "drive").iterdir()}
    assert not {"classes.csv", "outages.csv", "outage_frames.csv"} & left
    # One that fails leaves nothing that could be taken for its result.
    next(path.glob("*.mcap")).write_bytes(b"")
    assert run(tiny_model, out, path) == FAILED
    assert not {"finished.json", "results.json"} & {p.name for p in (out / "drive").iterdir()}


def test_a_report_that_cannot_be_written_is_told_before_the_replay(
    recording, tiny_model, tmp_path, capsys
):
    (tmp_path / "drive").write_text("in the way")
    assert run(tiny_model, tmp_path, recording) == WRONG_USE
    told = capsys.readouterr()
    assert f"cannot write the report to {tmp_path / 'drive'}" in told.err and "--out" in told.err
    assert "topics" not in told.out
    # Of many recordings it costs the one.
    other = tmp_path / "other"
    shutil.copytree(recording, other)
    assert run(tiny_model, tmp_path, recording, other, "--duration", "0.3") == FAILED
    assert (tmp_path / "other" / "index.html").is_file()


# --- what comes out besides -------------------------------------------------------------------


def test_the_output_bag_holds_the_results_on_the_nodes_topics(recording, tiny_model, tmp_path):
    folder = tmp_path / "bags"
    extra = ("--write-bag", str(folder))
    assert run(tiny_model, tmp_path / "out", recording, *extra) == DONE
    results = json.loads((tmp_path / "out" / "drive" / "results.json").read_text())
    with Bag([folder / "drive_anyseg"]) as bag:
        counts = {topic.name: topic.messages for topic in bag.topics}
        sets = results["run"]["segmented"]
        for name in ("segmentation", "confidence", "overlay/compressed", "camera_info"):
            assert counts[f"/anyseg/{name}"] == sets
        assert counts["/tf_static"] == 1
        messages = [m.decode() for m in bag.messages(["/anyseg/segmentation"])]
        overlay = bag.first("/anyseg/overlay/compressed")
    stamps = [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in messages]
    assert stamps == sorted(set(stamps)) and stamps[0] == made_bag.START_NS
    assert {(m.encoding, m.width, m.height) for m in messages} == {("mono8", 128, 64)}
    assert cv2.imdecode(overlay.data, cv2.IMREAD_COLOR).shape == (64, 128, 3)
    first = (folder / "drive_anyseg" / "drive_anyseg.mcap").read_bytes()
    assert run(tiny_model, tmp_path / "out", recording, *extra, "--fresh") == DONE
    assert (folder / "drive_anyseg" / "drive_anyseg.mcap").read_bytes() == first


def test_a_bag_of_results_beside_the_recording_is_not_evaluated(recording, tiny_model, tmp_path):
    drives = tmp_path / "drives"
    shutil.copytree(recording, drives / "monday")
    short = (
        *QUICK,
        "--model",
        str(tiny_model),
        "--out",
        str(tmp_path / "out"),
        "--duration",
        "0.3",
    )
    assert main([str(drives), *short, "--write-bag"]) == DONE
    assert (drives / "monday_anyseg" / "metadata.yaml").is_file()
    assert find_bags(drives) == [[drives / "monday"]]
    both = [str(drives / name) for name in ("monday", "monday_anyseg")]
    assert main([*both, *short, "--fresh"]) == DONE
    assert not (tmp_path / "out" / "monday_anyseg").exists()


@pytest.mark.parametrize("labels", [True, False])
def test_an_extracted_drive_is_read_by_training(tiny_model, tmp_path, labels):
    from training.data import street

    path = write_bag(tmp_path / "drive", 2.0, labels=labels)
    root = tmp_path / "data"
    assert run(tiny_model, tmp_path / "out", path, "--extract", root, "--tag", "fog") == DONE
    frames = street.list_frames(root, "train")
    assert len(frames) == 4
    spec = street.ImageSpec(width=128, height=64)
    for frame in frames:
        planes = street.build_planes(frame, spec)
        assert planes.shape[1:] == (64, 128)
        label = planes[-1]
        if labels:
            np.testing.assert_array_equal(label, made_bag.scene(frame.anchor_stamp_ns))
        else:
            assert (label == 255).all()
        for modality in MODALITIES:
            assert planes[3 * modality : 3 * modality + 3].any(), modality
    about = (root / "train" / "drive" / "drive.yaml").read_text()
    assert f"labelled_frames: {4 if labels else 0}" in about


def test_labels_made_by_hand_are_not_extracted_over(tiny_model, tmp_path, capsys):
    path = write_bag(tmp_path / "drive", 2.0, labels=False)
    root = tmp_path / "data"
    extract = (tiny_model, tmp_path / "out", path, "--extract", root)
    assert run(*extract) == DONE
    assert run(*extract, "--extract-every", "0.4") == DONE, "nothing was labelled"
    drive = root / "train" / "drive"
    label = drive / "label" / "000001.png"
    cv2.imwrite(str(label), np.zeros((64, 128), np.uint8))
    made = label.read_bytes()
    assert run(*extract) == FAILED
    assert "were changed since they were extracted" in capsys.readouterr().err
    assert label.read_bytes() == made
    (drive / "drive.yaml").unlink()  # as if it had been stopped
    assert run(*extract) == DONE
    label.write_bytes(made)
    (drive / "drive.yaml").unlink()
    later = label.stat().st_mtime + 3600
    os.utime(label, (later, later))
    assert run(*extract, "--fresh") == FAILED
    assert label.read_bytes() == made


def test_what_was_extracted_and_is_gone_is_extracted_again(recording, tiny_model, tmp_path):
    root, bags = tmp_path / "data", tmp_path / "bags"
    both = (tiny_model, tmp_path / "out", recording, "--extract", root, "--write-bag", bags)
    for written in (root / "train" / recording.stem, bags / f"{recording.stem}_anyseg"):
        assert run(*both) == DONE
        shutil.rmtree(written)
        assert run(*both) == DONE
        assert written.is_dir()


def test_a_data_set_keeps_classes_of_its_own(recording, tiny_model, tmp_path, capsys):
    root = tmp_path / "data"
    root.mkdir()
    about = root / "dataset.yaml"
    about.write_text("classes: [cat, dog]")
    assert run(tiny_model, tmp_path / "out", recording, "--extract", root) == FAILED
    assert re.search(
        r"the labels hold .*, but .*dataset.yaml names 2 classes", capsys.readouterr().err
    )
    bare = write_bag(tmp_path / "bare", 1.0, labels=False)
    assert run(tiny_model, tmp_path / "out", bare, "--extract", root) == DONE
    assert "ids of the" not in capsys.readouterr().out
    about.write_text(json.dumps({"classes": [f"class {i}" for i in range(200)]}))
    shutil.rmtree(root / "train")
    assert run(tiny_model, tmp_path / "out", recording, "--extract", root) == DONE
    assert "labels are ids of the 200 classes in dataset.yaml" in capsys.readouterr().out


def test_the_few_labels_of_a_drive_are_all_extracted(tiny_model, tmp_path, capsys):
    """They lie where somebody drew them, not where the spacing of frames would have looked."""
    path = write_bag(tmp_path / "drive", 2.0, labels=False)
    labels, root = tmp_path / "labels", tmp_path / "data"
    labels.mkdir()
    for index in (3, 8, 9, 17):
        stamp = made_bag.START_NS + index * 10**8
        cv2.imwrite(str(labels / f"{stamp}.png"), made_bag.scene(stamp))
    assert run(tiny_model, tmp_path / "out", path, "--labels", labels, "--extract", root) == DONE
    assert "1 labelled sets were not extracted: less than 0.5 s" in capsys.readouterr().out
    about = yaml.safe_load((root / "train" / "drive" / "drive.yaml").read_text())
    assert about["labelled_frames"] == 3 and about["frames"] > 4


# --- a real recording -------------------------------------------------------------------------


def test_a_real_event_recording_goes_through_from_end_to_end(tiny_model, tmp_path):
    path = os.environ.get("ANYSEG_EVENT_BAG")
    if not path:
        pytest.skip("set ANYSEG_EVENT_BAG to a bag of event_camera_msgs/EventPacket")
    out = tmp_path / "out"
    extra = ("--duration", "1.0", "--write-bag", str(tmp_path / "bags"))
    assert run(tiny_model, out, path, *extra) == DONE
    results = json.loads((out / Path(path).name / "results.json").read_text())
    (sensor,) = results["sensors"]
    assert sensor["sensor"] == "event" and sensor["refused"] == 0
    assert results["run"]["segmented"] > 50
    assert results["subsets"][0]["miou"] is None
    assert (out / Path(path).name / "index.html").is_file()
