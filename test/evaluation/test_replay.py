"""A recording is replayed as the node would have lived it, scored right, and the same each time."""

import json
import math
import resource
import shutil
import sys
from dataclasses import replace

import cv2
import made_bag
import numpy as np
import pytest
import yaml
from made_bag import TOPICS, write_bag
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from anyseg_ros.decoding import MessageError
from anyseg_ros.engine import load_engine
from anyseg_ros.evaluation.bag import Bag, find_bags
from anyseg_ros.evaluation.evaluate import (
    EvaluationOptions,
    RandomOutages,
    evaluate_recording,
    frame_rows,
    plain,
    write_tables,
)
from anyseg_ros.evaluation.labels import TopicLabels
from anyseg_ros.evaluation.replay import (
    ReplaySettings,
    SensorSettings,
    load_settings,
    unread_parameters,
)
from anyseg_ros.evaluation.replay_report import curve, headline, spans, write_replay_report
from anyseg_ros.evaluation.sources import (
    Overrides,
    SourceError,
    find_rig,
    find_sources,
    parse_extrinsics,
    restrict,
)
from anyseg_ros.modalities import Letterbox, RigCalibration, SensorCalibration
from anyseg_ros.modality import MODALITIES, Modality

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CAMERA, DEPTH, EVENT, LIDAR = MODALITIES
NS = 1_000_000_000


@pytest.fixture(scope="module")
def engine(tiny_model):
    loaded = load_engine(tiny_model, threads=1)
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return write_bag(tmp_path_factory.mktemp("bags") / "drive", 3.0)


def evaluate(path, engine, options=None, **changes):
    options = replace(options or EvaluationOptions(subsets="leave-one-out"), **changes)
    with Bag(find_bags(path)[0]) as bag:
        return evaluate_recording(bag, engine, options)


# --- what is in a recording -------------------------------------------------------------------


def test_sensors_and_calibration_are_found_by_type(recording):
    with Bag([recording]) as bag:
        sources = find_sources(bag)
        rig = find_rig(bag, sources)
    assert {m: s.topic for m, s in sources.sensors.items()} == TOPICS
    assert sources.labels == made_bag.LABELS
    assert sources.camera_infos[EVENT] == "/events/camera_info"
    assert not rig.missing
    calibration = rig.calibration
    assert calibration.grid == made_bag.CAMERA
    assert calibration.sensors[DEPTH].camera == made_bag.DEPTH
    for modality, transform in made_bag.EXTRINSICS.items():
        found = calibration.sensors[modality].grid_from_sensor
        np.testing.assert_allclose(found.rotation, transform.rotation, atol=1e-9)
        np.testing.assert_allclose(found.translation, transform.translation, atol=1e-9)


def test_what_a_node_published_is_neither_ground_truth_nor_sensor(engine, tmp_path):
    stamp = made_bag.START_NS
    header = made_bag.header("grid", stamp)
    mask = made_bag.make(
        "sensor_msgs/msg/Image", header=header, height=64, width=128, encoding="mono8",
        is_bigendian=0, step=128, data=made_bag.scene(stamp).ravel(),
    )  # fmt: skip
    more = {
        "/anyseg/segmentation": mask,
        "/anyseg/modalities": made_bag.make(
            "diagnostic_msgs/msg/DiagnosticArray", header=header, status=[]
        ),
        "/anyseg/pixel_points": made_bag.lidar_message(stamp),
        "/anyseg/camera_info": made_bag.info_message(made_bag.CAMERA, "grid", stamp),
        "/anyseg/overlay/compressed": made_bag.camera_message(stamp),
        "/a/semantic/image": mask,
        "/b/labels": mask,
    }
    path = write_bag(tmp_path / "drive", 0.5, more=more)
    with Bag([path]) as bag:
        sources = find_sources(bag)
        named = find_sources(bag, Overrides(labels="/anyseg/segmentation"))
    assert {m: s.topic for m, s in sources.sensors.items()} == TOPICS
    assert sources.labels == made_bag.LABELS
    assert "/anyseg/camera_info" not in sources.camera_infos.values()
    assert named.labels == "/anyseg/segmentation"
    notes = "\n".join(sources.notes)
    assert "labels: /ground_truth/labels taken, not /b/labels, /a/semantic/image" in notes
    assert "/anyseg is a segmentation node" in notes
    results = evaluate(path, engine).results
    assert results["labels"] == "topic /ground_truth/labels"
    assert results["notes"] == list(sources.notes)


def test_what_is_missing_is_asked_for_by_name(tmp_path):
    path = write_bag(tmp_path / "drive", 0.5, transforms=False)
    with Bag([path]) as bag:
        sources = find_sources(bag)
        rig = find_rig(bag, sources)
        assert "--extrinsics lidar=" in rig.missing[LIDAR]
        assert CAMERA not in rig.missing
        given = Overrides(extrinsics={LIDAR: parse_extrinsics("0,0,0,0.5,-0.5,0.5,-0.5")})
        assert LIDAR not in find_rig(bag, sources, overrides=given).missing
    path = write_bag(tmp_path / "bare", 0.5, infos=False)
    with Bag([path]) as bag, pytest.raises(SourceError, match="--calibration FILE"):
        find_rig(bag, find_sources(bag))


def test_without_a_grid_it_is_told_what_was_taken_for_which_sensor(tmp_path):
    image = made_bag.make(
        "sensor_msgs/msg/Image", header=made_bag.header("os_lidar", made_bag.START_NS), height=4,
        width=8, encoding="mono16", is_bigendian=0, step=16, data=np.zeros(64, np.uint8),
    )  # fmt: skip
    pictures = dict.fromkeys(("/ouster/signal_image", "/ouster/range_image"), image)
    path = write_bag(tmp_path / "lidar", 0.5, (LIDAR,), more=pictures)
    with Bag([path]) as bag, pytest.raises(SourceError) as told:
        find_rig(bag, find_sources(bag))
    assert str(told.value) == (
        "no segmentation grid: no CameraInfo is found for camera /ouster/range_image; taken: camera "
        "/ouster/range_image, lidar /lidar/points; give --calibration FILE, or --camera-info camera=TOPIC, "
        "or another camera with --topic camera=TOPIC; camera: /ouster/range_image taken, not "
        "/ouster/signal_image; choose with --topic camera=TOPIC"
    )
    with (
        Bag([path]) as bag,
        pytest.raises(SourceError, match=r"there is no camera; taken: lidar /l"),
    ):
        find_rig(bag, restrict(find_sources(bag), [LIDAR]))


def test_a_file_without_extrinsics_leaves_them_to_tf(recording):
    grid = made_bag.CAMERA
    distorted = replace(grid, distortion_model="plumb_bob", distortion=(0.1, 0, 0, 0, 0))
    file = RigCalibration(
        grid,
        made_bag.FRAMES[CAMERA],
        {CAMERA: SensorCalibration(made_bag.FRAMES[CAMERA], camera=distorted)},
        {DEPTH: made_bag.DEPTH.resized(160, 120), LIDAR: None},
    )
    with Bag([recording]) as bag:
        sources = find_sources(bag)
        found = find_rig(bag, sources, file).calibration.sensors
        registered = find_rig(bag, sources, file, Overrides(depth_registered=True))
    assert found[DEPTH].camera == made_bag.DEPTH.resized(160, 120)
    for modality in (DEPTH, LIDAR):
        expected = made_bag.EXTRINSICS[modality]
        np.testing.assert_allclose(
            found[modality].grid_from_sensor.rotation, expected.rotation, atol=1e-9
        )
    assert registered.calibration.sensors[DEPTH].camera == distorted


def colored(message):
    message.fields[3].name = "rgb"
    return message


def in_frame(message, frame):
    message.header.frame_id = frame
    return message


@pytest.mark.parametrize(
    ("topic", "change", "why"),
    [
        ("/camera/camera/depth/color/points", colored, "depth is in its name"),
        ("/cam/points", colored, "it has colours"),
        (
            "/cam/points",
            lambda m: in_frame(m, "cam_optical_frame"),
            "its frame is cam_optical_frame",
        ),
    ],
)
def test_a_depth_cameras_cloud_is_the_lidar_only_for_want_of_another(
    tmp_path, monkeypatch, topic, change, why
):
    cloud = change(made_bag.lidar_message(made_bag.START_NS))
    monkeypatch.setitem(made_bag.TOPICS, LIDAR, topic)
    monkeypatch.setitem(made_bag.MAKERS, LIDAR, lambda _stamp: cloud)
    lidar = {"/ouster/points": made_bag.lidar_message(made_bag.START_NS)}
    with Bag([write_bag(tmp_path / "both", 0.5, (LIDAR,), more=lidar)]) as bag:
        sources = find_sources(bag)
        named = find_sources(bag, Overrides(topics={LIDAR: topic}))
    assert sources.sensors[LIDAR].topic == "/ouster/points"
    assert sources.notes == (
        f"lidar: /ouster/points taken, not {topic} (a depth camera's cloud, as {why}); choose with --topic "
        "lidar=TOPIC",
    )
    assert named.sensors[LIDAR].topic == topic and not named.notes
    with Bag([write_bag(tmp_path / "alone", 0.5, (LIDAR,))]) as bag:
        sources = find_sources(bag)
    assert sources.sensors[LIDAR].topic == topic
    (note,) = sources.notes
    assert note.startswith(f"lidar: {topic} taken, for want of another: a depth camera's cloud, as")
    assert "--sensors" in note


@pytest.mark.parametrize(
    ("kind", "sensor", "remedy"),
    [
        ("livox_ros_driver2/msg/CustomMsg", LIDAR, "xfer_format 0 in its launch file"),
        ("livox_interfaces/msg/CustomMsg", LIDAR, "xfer_format 0 in its launch file"),
        ("dvs_msgs/msg/EventArray", EVENT, "EventPacket"),
        ("prophesee_event_msgs/msg/EventArray", EVENT, "EventPacket"),
    ],
)
def test_sensor_data_of_a_type_that_is_not_read_is_told_with_a_remedy(
    tmp_path, kind, sensor, remedy
):
    types = get_typestore(Stores.EMPTY)
    types.register(get_types_from_msg("uint8[] data\n", kind))
    path = tmp_path / "drive"
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        message = types.types[kind](data=np.zeros(4, np.uint8))
        connection = writer.add_connection("/driver/own", kind, typestore=types)
        writer.write(connection, made_bag.START_NS, types.serialize_cdr(message, kind))
        picture = made_bag.camera_message(made_bag.START_NS)
        connection = writer.add_connection("/image", picture.__msgtype__, typestore=made_bag.TYPES)
        data = made_bag.TYPES.serialize_cdr(picture, picture.__msgtype__)
        writer.write(connection, made_bag.START_NS, data)
    with Bag([path]) as bag:
        (note,) = find_sources(bag).notes
        assert note.startswith(f"/driver/own ({kind}) passed over: ") and remedy in note
        with pytest.raises(SourceError, match=f"no {sensor.label} data; expected .*{remedy}"):
            find_sources(bag, Overrides(topics={sensor: "/driver/own"}))


def test_a_topic_that_is_not_there_or_of_another_type_is_refused(recording):
    with Bag([recording]) as bag:
        with pytest.raises(SourceError, match=r"no topic /nope; it has .*/lidar/points"):
            find_sources(bag, Overrides(topics={CAMERA: "/nope"}))
        with pytest.raises(SourceError, match="no camera data"):
            find_sources(bag, Overrides(topics={CAMERA: "/lidar/points"}))


def test_a_topic_that_holds_no_intrinsics_or_labels_is_refused(recording):
    with Bag([recording]) as bag:
        given = Overrides(camera_infos={CAMERA: TOPICS[CAMERA]})
        with pytest.raises(SourceError, match=r"/camera/image/compressed is .* no intrinsics"):
            find_sources(bag, given)
        with pytest.raises(SourceError, match=r"/lidar/points is .* no picture of labels"):
            find_sources(bag, Overrides(labels="/lidar/points"))


@pytest.mark.parametrize(
    ("frames", "taken", "told"),
    [
        # The nearest by name is another camera's; the own one lies elsewhere.
        ({"/rig/back/camera_info": "back", "/cal/camera_info": "front"}, "/cal/camera_info", None),
        ({"/rig/back/camera_info": "back"}, None, "its intrinsics are not taken"),
        # Drivers that stamp the two with different frames.
        (
            {"/rig/front/camera_info": "lens", "/rig/back/camera_info": "back"},
            "/rig/front/camera_info",
            "/rig/front/camera_info is of frame 'lens', /rig/front/image of 'front', its intrinsics are",
        ),
        (
            {"/rig/front/camera_info": "front", "/rig/camera_info": "front"},
            "/rig/front/camera_info",
            None,
        ),
    ],
)
def test_the_intrinsics_are_those_of_the_sensors_frame(tmp_path, frames, taken, told):
    image = made_bag.camera_message(made_bag.START_NS)
    image.header.frame_id = "front"
    infos = {
        topic: made_bag.info_message(made_bag.CAMERA, frame, made_bag.START_NS)
        for topic, frame in frames.items()
    }
    path = write_bag(
        tmp_path / "drive", 0.0, transforms=False, more={"/rig/front/image": image, **infos}
    )
    with Bag([path]) as bag:
        sources = find_sources(bag)
    assert sources.camera_infos.get(CAMERA) == taken
    assert (told in "\n".join(sources.notes)) if told else not sources.notes


def test_the_evaluators_defaults_are_the_nodes():
    from anyseg_ros.ros import parameters

    node = parameters.NodeParameters.from_values({})
    own = ReplaySettings()
    assert own.max_wait_s == node.max_wait_s
    assert own.priority == node.priority
    for modality, settings in own.sensors.items():
        for name in vars(settings):
            assert getattr(settings, name) == getattr(node.sensors[modality], name), name


def test_a_nodes_parameter_file_is_read(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(
        "/**:\n  ros__parameters:\n    max_wait_s: 0.2\n    priority: [lidar, camera]\n"
        "    camera: {timeout: 0.3, topic: /x}\n    depth: {stamp_offset: -37}\n"
        "    lidar: {intensity_field: reflectivity, intensity_max: 255}\n"
    )
    settings = load_settings(path)
    assert settings.sensors[DEPTH] == SensorSettings(stamp_offset_s=-37.0)
    assert settings.sensors[LIDAR] == SensorSettings(
        intensity_field="reflectivity", intensity_max=255.0
    )
    scan = made_bag.lidar_message(made_bag.START_NS)
    with pytest.raises(MessageError, match="reflectivity"):
        settings.sensors[LIDAR].decoder("scan")(scan)
    assert settings.offsets_ns == {CAMERA: 0, DEPTH: -37 * NS, EVENT: 0, LIDAR: 0}
    assert settings.sensors[CAMERA] == SensorSettings(timeout_s=0.3)
    assert settings.priority == (LIDAR, CAMERA, DEPTH, EVENT)
    assert settings.max_wait_s == 0.2
    path.write_text("nothing")
    with pytest.raises(SourceError, match="ros__parameters"):
        load_settings(path)


def test_dotted_parameters_are_read_and_what_is_not_read_is_told(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(
        "/**:\n  ros__parameters:\n    camera.timeout: 0.3\n    camera.topic: /x\n"
        "    camera: {tolerance: 0.02}\n    health.bad_messages: 7\n"
        "    lidar.enabled: false\n    calibration_file: rig.yaml\n    latency_budget: 0.1\n"
        "    depth: {extrinsics: [0, 0, 0, 0, 0, 0, 1], rectified: false}\n"
    )
    settings = load_settings(path)
    assert settings.sensors[CAMERA] == SensorSettings(timeout_s=0.3, tolerance_s=0.02)
    assert settings.health.hysteresis.bad_count == 7
    told = unread_parameters(path)
    assert told.startswith(
        "params.yaml: calibration_file, latency_budget, camera.topic, depth.extrinsics, lidar.enabled "
        "not read"
    )
    assert told.endswith("--calibration, --topic, --extrinsics, --sensors")
    path.write_text("/**:\n  ros__parameters:\n    camera: {timeout: 0.3, enabled: true}\n")
    assert unread_parameters(path) is None


# --- the same recording, the same results -----------------------------------------------------


def test_the_same_bag_gives_the_same_bytes(recording, engine, tmp_path):
    options = EvaluationOptions(random=RandomOutages(3, per_minute=40, mean_s=0.5))
    for name in ("first", "second"):
        write_tables(tmp_path / name, evaluate(recording, engine, options))
    written = sorted(p.name for p in (tmp_path / "first").iterdir())
    assert {"results.json", "frames.csv", "subsets.csv", "outages.csv"} <= set(written)
    for name in written:
        if name != "timing.json":
            first, second = ((tmp_path / d / name).read_bytes() for d in ("first", "second"))
            assert first == second, name


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("compress", [False, True])
def test_every_storage_tells_the_same(recording, engine, tmp_path, storage, compress):
    path = write_bag(tmp_path / "drive", 3.0, storage=storage, compress=compress)
    expected, got = (plain(evaluate(p, engine).results) for p in (recording, path))
    assert got == expected


def test_files_without_metadata_are_one_recording(recording, engine, tmp_path):
    folder = tmp_path / "killed"
    folder.mkdir()
    file = next(recording.glob("*.mcap"))
    (folder / "drive_0.mcap").write_bytes(file.read_bytes())
    run = evaluate(folder, engine).results["run"]
    assert run == evaluate(recording, engine).results["run"]


# --- scores -----------------------------------------------------------------------------------


def test_scores_with_labels(recording, engine):
    evaluation = evaluate(recording, engine, subsets="all", tags=("fog",))
    results = evaluation.results
    rows = {row["subset"]: row for row in results["subsets"]}
    assert len(rows) == 16  # 15 and what was recorded
    assert results["run"]["segmented"] == 30
    assert rows["camera"]["sets"] == results["run"]["complete"] == 29
    # The tiny model reads the camera's grey levels; pooling blurs the outlines.
    assert rows["camera"]["miou"] > 95
    assert rows["camera"]["boundary_f1"] > 90
    assert rows["camera"]["calibration_error"] < 0.02
    assert rows["event"]["miou"] < 10
    assert rows["camera+depth+event+lidar"]["agreement"] == 100
    shares = [c["shapley_points"] for c in results["contributions"]]
    assert math.isclose(sum(shares), rows["camera+depth+event+lidar"]["miou"], rel_tol=1e-9)
    tagged = {(t["tag"], t["subset"]): t["miou"] for t in results["tags"]}
    assert tagged["fog", "camera"] > 95
    classes = {c["class"] for c in results["classes"] if c["subset"] == "camera"}
    assert classes == {"road", "sidewalk", "building", "wall"}


def test_scores_without_labels(engine, tmp_path):
    path = write_bag(tmp_path / "drive", 2.0, labels=False)
    evaluation = evaluate(path, engine, subsets="all")
    assert not evaluation.scorer.labelled
    rows = {row["subset"]: row for row in evaluation.results["subsets"]}
    assert math.isnan(rows["camera"]["miou"])
    assert 0 < rows["camera"]["agreement"] < 100
    ranked = evaluation.results["fragile_stretches"]
    assert ranked and [r["loss_points"] for r in ranked] == sorted(
        (r["loss_points"] for r in ranked), reverse=True
    )
    full = rows["camera+depth+event+lidar"]
    shares = [c["shapley_points"] for c in evaluation.results["contributions"]]
    assert math.isclose(sum(shares), full["agreement_miou"], rel_tol=1e-9)


def test_an_outage_is_noticed_and_recovered_from(recording, engine, tmp_path):
    timetable = tmp_path / "outages.yaml"
    timetable.write_text(
        "outages:\n- {sensor: camera, from_s: 1.0, to_s: 2.0}\n"
        "- {sensor: depth, from_s: 2.05, to_s: 2.45, kind: noise}\n"
    )
    evaluation = evaluate(recording, engine, outages=timetable)
    disturbed = evaluation.outage_replay
    silent = [f for f in disturbed.frames if 1.7 < f.bag_time_s < 2.0]
    assert silent and all(f.used == (DEPTH, EVENT, LIDAR) for f in silent)
    # Depth sets the pace now, with stamps that the undisturbed run has none of.
    assert all(0 < f.agreement < 99 for f in silent)
    assert all(o.labels.base is None for o in disturbed.run.outputs), "a view keeps a whole picture"
    noisy = [f for f in disturbed.frames if 2.36 < f.bag_time_s < 2.5]
    # What was good may be held while it is fresh; noise is never used.
    assert noisy and noisy[-1].used == (CAMERA, EVENT, LIDAR)
    camera, depth = disturbed.reaction_rows()
    assert camera["agreement_during"] < 99
    assert camera["last_used_after_cut_s"] < 0.3
    assert 0 <= camera["used_again_s"] < 0.2
    assert 0 <= camera["recovered_s"] < 0.3
    assert 0 <= depth["recovered_s"] < 0.7, "five good messages release a quarantined stream"
    rows = disturbed.stretch_rows()
    assert [r["alive"] for r in rows][1] == "depth+event+lidar"
    assert max(r["longest_gap_s"] for r in rows) < 0.8
    # The undisturbed run beside it is not touched.
    assert evaluation.results["run"] == evaluate(recording, engine).results["run"]


def test_the_worst_moment_of_a_run_without_labels_is_the_outage(engine, tmp_path):
    path = write_bag(tmp_path / "drive", 3.0, labels=False)
    timetable = tmp_path / "outages.yaml"
    timetable.write_text("outages:\n- {sensor: camera, from_s: 1.0, to_s: 2.0}\n")
    disturbed = evaluate(path, engine, outages=timetable).outage_replay
    assert disturbed.worst_against == "undisturbed"
    worst = max(disturbed.worst_moments(), key=lambda m: m.badness)
    assert 1.0 < worst.bag_time_s < 2.1 and worst.used == (DEPTH, EVENT, LIDAR)
    assert worst.other is not None


def test_outages_that_cannot_be_brought_about_are_told(recording, engine, tmp_path):
    timetable = tmp_path / "outages.yaml"
    timetable.write_text(
        "outages:\n- {sensor: camera, from_s: 100, to_s: 101}\n"
        "- {sensor: lidar, from_s: 1, to_s: 2}\n"
    )
    results, text = remarks(recording, engine, outages=timetable, sensors=(CAMERA, DEPTH))
    assert results["outages"] is None
    assert "1 outage of the timetable left out: lidar takes no part in this replay" in text
    assert "1 outage of the timetable left out: from 100.0 s on, after the replay's end" in text


def test_features_are_computed_once_for_all_runs_and_subsets(recording, engine, monkeypatch):
    encoded = []
    encode = engine.encode

    def count(images, ids):
        encoded.append(len(ids))
        return encode(images, ids)

    monkeypatch.setattr(engine, "encode", count)
    evaluation = evaluate(
        recording, engine, subsets="all", random=RandomOutages(1, per_minute=30, mean_s=0.3)
    )
    # Two runs and fifteen subsets of some thirty sets of four: about 4 pictures a set, not 8 or 32.
    assert 2 * evaluation.results["run"]["sets"] < sum(encoded)
    assert sum(encoded) < 5 * evaluation.results["run"]["sets"]


def test_all_sensors_together_are_always_evaluated(recording, engine):
    evaluation = evaluate(recording, engine, subsets=((CAMERA, DEPTH, LIDAR),), until_s=1.0)
    names = [row["subset"] for row in evaluation.results["subsets"]]
    assert names == ["as recorded", "camera+depth+lidar", "camera+depth+event+lidar"]
    assert "With all sensors mIoU is" in headline(evaluation)


def test_the_headline_says_why_there_is_nothing_to_compare(engine, tmp_path):
    path = write_bag(tmp_path / "drive", 0.5, labels=False)
    assert headline(evaluate(path, engine, subsets=())).startswith("No combination of fewer")
    one = evaluate(path, engine, subsets=(), sensors=(CAMERA,))
    assert headline(one).startswith("One sensor and no ground truth")


def test_labels_of_a_topic_are_read_along_and_forgotten(tmp_path):
    path = write_bag(tmp_path / "drive", 15.0, modalities=(CAMERA,))
    letterbox = Letterbox.fit(128, 64, 128, 64)
    with Bag([path]) as bag:
        labels = TopicLabels(bag, made_bag.LABELS)
        labels.advance(bag.start_ns + NS)
        assert labels.found < 75, "a short part of a long recording needs few labels"
        first = labels.at(made_bag.START_NS, letterbox)
        np.testing.assert_array_equal(first, made_bag.scene(made_bag.START_NS))
        for second in range(15):
            labels.advance(bag.start_ns + second * NS)
            stamp = made_bag.START_NS + second * NS
            np.testing.assert_array_equal(labels.at(stamp, letterbox), made_bag.scene(stamp))
        assert labels.at(made_bag.START_NS, letterbox) is None
        assert labels.found == 150 and not labels.refused


def test_sets_without_labels_are_not_mixed_with_those_that_have_some(engine, tmp_path):
    path = write_bag(tmp_path / "drive", 6.0, labels=False)
    folder = tmp_path / "labels"
    folder.mkdir()
    for index in (3, 4):
        stamp = made_bag.START_NS + index * NS // 10
        cv2.imwrite(str(folder / f"{stamp}.png"), made_bag.scene(stamp))
    timetable = tmp_path / "outages.yaml"
    timetable.write_text("outages:\n- {sensor: camera, from_s: 2.0, to_s: 3.0}\n")
    evaluation = evaluate(path, engine, labels=folder, every=2, outages=timetable)
    scorer, disturbed = evaluation.scorer, evaluation.outage_replay
    assert evaluation.results["run"]["labelled"] == 2
    assert scorer.worst_by == "miou" and disturbed.worst_against == "labels"
    moments = [*scorer.worst_moments(), *disturbed.worst_moments()]
    assert moments and all(m.truth is not None and "mIoU" in m.why for m in moments)
    # Of the two sets with labels, every second was segmented from the subsets too.
    stretches = evaluation.results["fragile_stretches"]
    assert stretches and all(s["sets"] == 1 and s["from_s"] == 0 for s in stretches)
    told = [row["loss_without_camera"] for row in frame_rows(scorer)]
    assert sum(not math.isnan(loss) for loss in told) == 1
    page = write_replay_report(tmp_path, evaluation).read_text()
    assert "2 of 60 sets have labels" in page


def test_few_labels_are_scored_whatever_sets_are_left_out(engine, tmp_path):
    labels = tmp_path / "labels"
    labels.mkdir()
    for index in (3, 8, 14):
        stamp = made_bag.START_NS + index * NS // 10
        cv2.imwrite(str(labels / f"{stamp}.png"), made_bag.scene(stamp))
    path = write_bag(tmp_path / "drive", 2.0, labels=False)
    results = evaluate(path, engine, labels=labels, every=5).results
    assert not any(np.isnan(row["miou"]) for row in results["subsets"])


def test_labels_from_a_folder(engine, tmp_path):
    path = write_bag(tmp_path / "drive", 1.0, labels=False)
    folder = tmp_path / "labels"
    folder.mkdir()
    for index in range(10):
        stamp = made_bag.START_NS + int(index * 0.1 * 1e9)
        cv2.imwrite(str(folder / f"{stamp}.png"), made_bag.scene(stamp))
    evaluation = evaluate(path, engine, labels=folder, subsets=((CAMERA,),))
    rows = {row["subset"]: row for row in evaluation.results["subsets"]}
    assert rows["camera"]["miou"] > 95
    with pytest.raises(SourceError, match="holds no labels"):
        evaluate(path, engine, labels=tmp_path)


# --- recordings that are not what they should be ----------------------------------------------


def remarks(path, engine, **changes):
    results = evaluate(path, engine, **changes).results
    return results, "\n".join(results["remarks"])


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_a_truncated_bag_is_evaluated_as_far_as_it_goes(engine, tmp_path, storage):
    path = write_bag(
        tmp_path / "drive", 3.0, storage=storage, compress=storage is StoragePlugin.SQLITE3
    )
    file = next(p for p in path.iterdir() if p.suffix in (".mcap", ".db3"))
    data = file.read_bytes()
    file.write_bytes(data[: len(data) * 6 // 10])
    results, text = remarks(path, engine)
    assert "damaged" in text
    assert 3 <= results["run"]["segmented"] < 30


def parts_of(tmp_path, durations=(2.0, 0.5, 0.5), gap_s=0.0):
    """Folder of ``r_0.mcap`` and so on, as a recorder leaves it that is killed; without metadata."""
    folder, begin_s = tmp_path / "parts", 0.0
    folder.mkdir(parents=True)
    for number, duration_s in enumerate(durations):

        def later(time, by_s=begin_s):
            return time + int(by_s * NS)

        path = write_bag(tmp_path / f"r{number}", duration_s, log_time=later, stamp=later)
        next(path.glob("*.mcap")).rename(folder / f"r_{number}.mcap")
        begin_s += duration_s + gap_s
    return folder


def cut_off(file, share=0.8):
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])


def pack(file):
    file.with_name(f"{file.name}.zstd").write_bytes(zstd.compress(file.read_bytes()))
    file.unlink()


def count(bag, topic=TOPICS[CAMERA]):
    return sum(1 for _ in bag.messages([topic]))


def test_only_damaged_parts_are_copied_and_each_that_is_lost_is_named(tmp_path):
    folder = parts_of(tmp_path)
    cut_off(folder / "r_1.mcap", 0.5)
    (folder / "r_2.mcap").write_bytes(b"not at all")
    whole = (folder / "r_0.mcap").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # As on a disk on which the whole part has no room.
    resource.setrlimit(resource.RLIMIT_FSIZE, (whole // 2, limits[1]))
    try:
        with Bag(find_bags(folder)[0]) as bag:
            assert 20 < count(bag) < 25
            told = "\n".join(bag.damage)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "r_0" not in told
    assert "r_1.mcap is damaged, read as far as it goes: " in told
    assert "r_2.mcap is damaged, nothing in it can be read: " in told

    cut_off(folder / "r_0.mcap", 0.9)
    resource.setrlimit(resource.RLIMIT_FSIZE, (whole // 2, limits[1]))
    try:
        with Bag(find_bags(folder)[0]) as bag:
            assert 0 < count(bag) < 5
            assert any("r_0.mcap is left out, it cannot be copied: " in line for line in bag.damage)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_packed_parts_of_a_killed_recorder_are_read(tmp_path):
    folder = parts_of(tmp_path, (0.5, 1.5, 0.5))
    for number in (0, 1):
        pack(folder / f"r_{number}.mcap")
    (files,) = find_bags(folder)
    assert [f.name for f in files] == ["r_0.mcap.zstd", "r_1.mcap.zstd", "r_2.mcap"]
    with Bag(files) as bag:
        assert bag.name == "r" and not bag.damage
        assert count(bag) == 25
    with Bag(find_bags(folder / "r_0.mcap.zstd")[0]) as bag:
        assert bag.name == "r_0" and count(bag) == 5
    cut_off(folder / "r_1.mcap.zstd")
    with Bag(files) as bag:
        assert 10 < count(bag) < 25
        (told,) = bag.damage
        assert told.startswith("r_1.mcap.zstd is damaged, read as far as it goes")
    # The recorder was killed while it packed: the part is there twice.
    (folder / "r_2.mcap.zstd").write_bytes(b"half")
    assert find_bags(folder) == [files]


def test_a_packed_recording_with_a_damaged_part_keeps_the_others(tmp_path):
    folder = parts_of(tmp_path, (0.5, 0.5))
    shutil.copy(tmp_path / "r0" / "metadata.yaml", folder)
    for file in sorted(folder.glob("*.mcap")):
        pack(file)
    cut_off(folder / "r_1.mcap.zstd", 0.5)
    metadata = yaml.safe_load((folder / "metadata.yaml").read_text())
    metadata["rosbag2_bagfile_information"] |= {
        "relative_file_paths": ["r_0.mcap.zstd", "r_1.mcap.zstd"],
        "compression_mode": "FILE",
        "compression_format": "zstd",
    }
    (folder / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    with Bag(find_bags(folder)[0]) as bag:
        assert 5 <= count(bag) < 10
        assert bag.damage and all("r_1.mcap.zstd" in line for line in bag.damage)


def test_numbered_drives_are_not_one_recording(tmp_path):
    folder = parts_of(tmp_path, (0.3, 0.3, 0.3))
    assert len(find_bags(folder)) == 1
    shutil.rmtree(folder)
    folder = parts_of(tmp_path / "apart", (0.3, 0.3, 0.3), gap_s=3600.0)
    assert find_bags(folder) == [[folder / f"r_{n}.mcap"] for n in range(3)]
    pack(folder / "r_1.mcap")  # its times are not known before it is unpacked
    assert [len(files) for files in find_bags(folder)] == [2, 1]


def test_a_bad_definition_costs_its_topic(tmp_path):
    folder = parts_of(tmp_path, (0.5,))

    def odd(name, *connections):
        with Writer(tmp_path / name, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            for topic, kind, definition in connections:
                connection = writer.add_connection(
                    topic, kind, msgdef=definition, rihs01="RIHS01_" + "0" * 64
                )
                writer.write(connection, made_bag.START_NS + NS // 2, bytes(8))
        return tmp_path / name

    image, nonsense = ("/other/image", "sensor_msgs/msg/Image"), "this is ! no definition"
    path = odd("r1", ("/odd", "my_msgs/msg/Odd", nonsense), (*image, nonsense))
    next(path.glob("*.mcap")).rename(folder / "r_1.mcap")
    with Bag(find_bags(folder)[0]) as bag:
        assert count(bag) == 5
        assert find_sources(bag).sensors[CAMERA].topic == TOPICS[CAMERA]
        (told,) = bag.damage
        assert told.startswith("/other/image cannot be read: ")
    with Bag([odd("r2", (*image, "uint8 another"))]) as bag:
        (told,) = bag.damage
        assert "its definition of sensor_msgs/msg/Image has hash RIHS01_" in told


def test_messages_of_a_wrong_make_cost_themselves(engine, tmp_path):
    def cut_short(topic, message):
        if topic == TOPICS[LIDAR]:
            message.data = message.data[:-5]
        return message

    path = write_bag(tmp_path / "drive", 1.0, change=cut_short)
    results, text = remarks(path, engine)
    assert "lidar: 10 of 10 messages on /lidar/points refused" in text
    assert "'data'" in text
    assert results["run"]["segmented"] == 10


def elsewhen(sensor, apart_s):
    """A change of a recording: another clock for one sensor."""

    def move(topic, message):
        if topic == TOPICS[sensor]:
            stamp = message.header.stamp
            moved = stamp.sec * NS + stamp.nanosec + round(apart_s * NS)
            stamp.sec, stamp.nanosec = divmod(moved, NS)
        return message

    return move


@pytest.mark.parametrize(
    ("sensor", "apart_s", "told"),
    [
        (
            LIDAR,
            37.0,
            "lidar: 30 of 30 messages on /lidar/points not matched, most often: stamp from the future; its "
            "stamps are 37.0 s ahead of the other sensors'; if its clock is another, say "
            "lidar.stamp_offset: -37.00 in a file for --params, and record with the driver's timestamp mode "
            "set to the host's time, or leave it out with --sensors camera+depth",
        ),
        (LIDAR, -1.69e9, "stamp far behind receipt; its stamps are 53.6 years behind the other"),
        (LIDAR, -0.6, "can use; its stamps are 0.6 s behind the other"),
        (CAMERA, -3 * 86400.0, "its stamps are 3.0 days behind the other"),
    ],
)
def test_a_sensor_of_another_clock_is_told(engine, tmp_path, sensor, apart_s, told):
    path = write_bag(
        tmp_path / "drive",
        3.0,
        (CAMERA, DEPTH, LIDAR),
        labels=False,
        change=elsewhen(sensor, apart_s),
    )
    _, text = remarks(path, engine)
    assert told in text
    assert text.count("not matched") == 1
    assert "no set holds all of" in text


@pytest.mark.parametrize("clock", ["log", "stamps"])
@pytest.mark.parametrize(
    ("sensor", "apart_s"), [(LIDAR, 37.0), (EVENT, -0.6), (EVENT, -1.69e9), (CAMERA, 3.0)]
)
def test_a_clock_that_is_off_is_mended_by_its_offset(engine, tmp_path, clock, sensor, apart_s):
    right = write_bag(tmp_path / "right", 2.0)
    wrong = write_bag(tmp_path / "wrong", 2.0, change=elsewhen(sensor, apart_s))
    settings = ReplaySettings(clock=clock)
    sensors = {**settings.sensors, sensor: SensorSettings(stamp_offset_s=-apart_s)}
    mended, text = remarks(wrong, engine, settings=replace(settings, sensors=sensors))
    assert "not matched" not in text
    expected, _ = remarks(right, engine, settings=settings)
    assert mended["subsets"] == expected["subsets"]
    assert mended["run"] == expected["run"]


def test_a_sensor_that_is_never_believed_is_told_with_what_was_wrong(engine, tmp_path):
    def black(topic, message):
        if topic == TOPICS[CAMERA]:
            message.data = cv2.imencode(".png", np.zeros((64, 128, 3), np.uint8))[1]
        return message

    _, text = remarks(write_bag(tmp_path / "drive", 1.0, change=black), engine)
    assert "camera: 10 of 10 messages on /camera/image/compressed not matched" in text
    assert "most often: stream is quarantined (black: 99 % of" in text
    assert "leave it out with --sensors depth+event+lidar" in text
    assert "timestamp mode" not in text


def test_messages_that_no_set_needs_are_not_worth_a_remark(engine, tmp_path, monkeypatch):
    monkeypatch.setitem(made_bag.PERIOD_S, CAMERA, 0.4)
    results, text = remarks(write_bag(tmp_path / "drive", 4.0, (CAMERA, DEPTH)), engine)
    depth = results["sensors"][1]
    assert depth["not_matched"]["no set needed it"] > depth["received"] / 2
    assert "not matched" not in text


def test_damage_in_the_recording_does_what_the_same_fault_does(recording, engine, tmp_path):
    def damaged(topic, message):
        if topic == TOPICS[LIDAR]:
            stamp = message.header.stamp
            if 1.0 <= stamp.sec - made_bag.START_NS // NS + stamp.nanosec / NS < 1.6:
                message.data = message.data[: len(message.data) // 2]
        return message

    path = write_bag(tmp_path / "drive", 3.0, change=damaged)
    common = "outages:\n- {sensor: camera, from_s: 2.8, to_s: 2.9}\n"
    (tmp_path / "cut.yaml").write_text(common)
    (tmp_path / "both.yaml").write_text(
        common + "- {sensor: lidar, from_s: 1.0, to_s: 1.6, kind: truncated}\n"
    )

    def lidar_used(bag, outages):
        frames = evaluate(bag, engine, outages=tmp_path / outages).outage_replay.frames
        return {round(f.bag_time_s, 1): LIDAR in f.used for f in frames}

    recorded = lidar_used(path, "cut.yaml")
    assert recorded == lidar_used(recording, "both.yaml")
    # Quarantined: five good messages must come before the first is used again.
    assert not any(used for t, used in recorded.items() if 1.5 < t < 1.9)
    assert recorded[2.5]


def test_time_that_jumps_back_starts_another_epoch(engine, tmp_path):
    half = made_bag.START_NS + 1_500_000_000

    def looping(stamp):
        return stamp if stamp < half else stamp - 1_400_000_000

    path = write_bag(tmp_path / "drive", 3.0, stamp=looping)
    results, text = remarks(path, engine)
    assert "time jumped back: 2 epochs" in text
    assert "camera: stamps on /camera/image/compressed jump back 1 time" in text
    assert results["run"]["segmented"] > 20


def test_a_bag_recorded_ten_times_too_fast_says_so_and_can_still_be_evaluated(engine, tmp_path):
    def hurried(time):
        return made_bag.START_NS + (time - made_bag.START_NS) // 10

    path = write_bag(tmp_path / "drive", 3.0, log_time=hurried)
    _, text = remarks(path, engine)
    assert "run 10.0 times as fast as the recording" in text
    assert "--clock stamps" in text
    settings = ReplaySettings(clock="stamps")
    results, text = remarks(path, engine, settings=settings)
    assert results["run"]["complete"] >= 25
    assert "--clock stamps" not in text


def test_the_clock_of_the_stamps_is_that_of_outages_and_duration_too(engine, tmp_path):
    def hurried(time):
        return made_bag.START_NS + (time - made_bag.START_NS) // 4

    path = write_bag(tmp_path / "drive", 4.0, log_time=hurried)
    timetable = tmp_path / "outages.yaml"
    timetable.write_text("outages:\n- {sensor: camera, from_s: 1.0, to_s: 2.0}\n")
    settings = ReplaySettings(clock="stamps")
    evaluation = evaluate(path, engine, settings=settings, outages=timetable)
    disturbed = evaluation.outage_replay
    assert 3.9 < evaluation.results["bag"]["evaluated_s"] < 4.1
    silent = [f for f in disturbed.frames if 1.7 < f.bag_time_s < 2.0]
    assert silent and all(CAMERA not in f.used for f in silent)
    others = [f for f in disturbed.frames if f.bag_time_s < 1.0 or f.bag_time_s > 2.3]
    assert all(CAMERA in f.used for f in others)
    (reaction,) = disturbed.reaction_rows()
    assert 0 <= reaction["used_again_s"] < 0.2
    rows = disturbed.stretch_rows()
    assert [r["alive"] for r in rows][1] == rows[1]["used"] == "depth+event+lidar"
    assert 3.9 < rows[-1]["to_s"] < 4.1
    short = evaluate(path, engine, settings=settings, until_s=2.0)
    assert 18 <= short.results["run"]["segmented"] <= 22


def test_labels_that_are_far_from_every_set_are_missed_aloud(engine, tmp_path):
    def elsewhen(topic, message):
        if topic == made_bag.LABELS:
            message.header.stamp.sec += 1000
        return message

    path = write_bag(tmp_path / "drive", 0.5, change=elsewhen)
    _, text = remarks(path, engine)
    assert "none of 5 labels" in text


def test_labels_of_other_classes_score_nothing(engine, tmp_path):
    def foreign(topic, message):
        if topic == made_bag.LABELS:
            message.data = cv2.imencode(".png", np.full((64, 128), 22, np.uint8))[1]
        return message

    path = write_bag(tmp_path / "drive", 0.5, change=foreign)
    evaluation = evaluate(path, engine)
    text = "\n".join(evaluation.results["remarks"])
    assert "no class of the model (22)" in text
    assert "the labels of 5 sets hold no class of the model" in text
    assert not evaluation.scorer.labelled and "nan" not in headline(evaluation)


def jpeg(message):
    message.format = "jpeg"
    message.data = cv2.imencode(".jpg", cv2.imdecode(message.data, cv2.IMREAD_UNCHANGED))[1]
    return message


def square(message):
    message.data = cv2.imencode(".png", np.ones((64, 64), np.uint8))[1]
    return message


@pytest.mark.parametrize(
    "make, reason",
    [(jpeg, "png: JPEG would change class ids"), (square, "the aspect ratio of 128x64")],
)
def test_labels_that_would_score_wrongly_are_refused(engine, tmp_path, make, reason):
    path = write_bag(
        tmp_path / "drive", 0.5, change=lambda t, m: make(m) if t == made_bag.LABELS else m
    )
    results, text = remarks(path, engine, overrides=Overrides(labels=made_bag.LABELS))
    assert "labels: 5 of 5 refused" in text and reason in text
    assert results["run"]["labelled"] == 0


def test_sensors_can_be_left_out(recording, engine):
    evaluation = evaluate(recording, engine, sensors=(CAMERA, LIDAR), subsets="all")
    names = [row["subset"] for row in evaluation.results["subsets"]]
    assert names == ["as recorded", "camera", "lidar", "camera+lidar"]
    assert json.dumps(evaluation.results["sensors"]).count("topic") == 2


def test_a_lone_sensor_anchors_itself(engine, tmp_path):
    path = write_bag(tmp_path / "drive", 1.0, modalities=(Modality.EVENT,), infos=False)

    def lone(_topic, message):
        return message

    with Bag([path]) as bag, pytest.raises(SourceError, match="no segmentation grid"):
        # A cloud of events does not tell the size of the sensor.
        find_rig(bag, find_sources(bag))
    path = write_bag(tmp_path / "known", 1.0, modalities=(Modality.EVENT,), change=lone)
    assert evaluate(path, engine).results["run"]["segmented"] >= 20


@pytest.mark.parametrize("codec", ["png", "jpeg"])
def test_a_lone_compressed_picture_is_its_own_grid(engine, tmp_path, codec):
    def encoded(topic, message):
        if topic == TOPICS[CAMERA] and codec == "jpeg":
            picture = cv2.imdecode(message.data, cv2.IMREAD_COLOR)
            message.data, message.format = cv2.imencode(".jpg", picture)[1], "jpeg"
        return message

    path = write_bag(
        tmp_path / "drive", 0.5, (CAMERA,), infos=False, transforms=False, change=encoded
    )
    with Bag([path]) as bag:
        grid = find_rig(bag, find_sources(bag)).calibration.grid
    assert (grid.width, grid.height) == (128, 64)
    assert evaluate(path, engine).results["run"]["segmented"] == 5


# --- figures ----------------------------------------------------------------------------------


def test_a_blackout_is_not_drawn_over():
    times = [0.0, 0.1, 0.2, 10.0, 10.1, 10.2]
    has = [True, True, True, True, False, True]
    np.testing.assert_allclose(spans(times, has), [(0.0, 0.3), (10.0, 0.1), (10.2, 0.1)])
    drawn, values = curve(times, [50.0, 50.0, 50.0, 90.0, 90.0, 90.0])
    assert [math.isnan(v) for v in values] == [False] * 3 + [True] + [False] * 3
    assert drawn[:3] == times[:3]


def test_a_curve_breaks_where_nothing_is_known_and_keeps_lone_points():
    times = [0.1 * i for i in range(1000)]
    values = [math.nan if 20 < t < 40 else t for t in times]
    drawn, shown = curve(times, values)
    assert len(drawn) < 450 and sum(map(math.isnan, shown)) == 1
    assert not any(21 < t < 39 for t in drawn)
    known = [(t, v) for t, v in zip(drawn, shown, strict=True) if not math.isnan(v)]
    assert all(v == pytest.approx(t) for t, v in known)
    lone, _ = curve([0.0, 0.1, 0.2, 5.0], [1.0, 1.0, 1.0, 2.0])
    assert lone[-2:] == pytest.approx([4.95, 5.05])
