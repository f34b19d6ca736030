"""Few labelled frames and many without: splits, batches, and runs from the command line to the engine."""

import json
import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from street_on_disk import HEIGHT, WIDTH, write_street
from test_training import KilledError, tiny_config

from anyseg_ros.engine import load_engine
from anyseg_ros.modality import MODALITIES, all_subsets, subset_name
from training import evaluate, export, train
from training.data import street as street_data
from training.data.batches import LoaderConfig, StreetDataModule, split_planes
from training.data.few_labels import (
    Chosen,
    FewLabelBatches,
    FewLabelStreet,
    split_labels,
)
from training.data.street import DataSetError, ImageSpec, StreetData
from training.data.transforms import AugmentConfig
from training.errors import SettingsError
from training.methods.mean_teacher import ClassShares, MeanTeacher, TeacherConfig, View
from training.models.checkpoint import load_trained
from training.models.segmentor import SegmentorConfig
from training.models.strict import CheckpointError

SPEC = ImageSpec(WIDTH, HEIGHT)
CROP = AugmentConfig(crop_height=32, crop_width=64)
EXACT = AugmentConfig(HEIGHT, WIDTH, 1.0, 1.0, flip=0.0, color=0.0, empty_event=0.0, thin_event=0.0)


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    return write_street(tmp_path_factory.mktemp("street"), frames=8)


@pytest.fixture(scope="module")
def drives(tmp_path_factory):
    """As ``anyseg-evaluate --extract`` leaves a recording without ground truth and without a LiDAR."""
    root = write_street(tmp_path_factory.mktemp("mine"), frames=3)
    drive = root / "train" / "drive_0000"
    for path in (drive / "label").iterdir():
        cv2.imwrite(str(path), np.full((HEIGHT, WIDTH), 255, np.uint8))
    for path in (drive / "lidar").iterdir():
        np.savez(path, points_m=np.empty((0, 3), np.float32), intensity=np.empty(0, np.float32))
    (drive / "drive.yaml").write_text("recording: mine\nempty_sensors: [lidar]\n")
    (root / "dataset.yaml").write_text("command: anyseg-evaluate --extract\n")
    return root


def module(root, **settings):
    settings = {"height": HEIGHT, "width": WIDTH, "augment": CROP, **settings}
    return FewLabelStreet(root, loader=LoaderConfig(batch_size=4, build_workers=0), **settings)


def test_fractions_are_nested_and_seeded():
    frames = list(range(0, 2000, 2))
    one, five, quarter = (set(split_labels(frames, f, 3)[0]) for f in (0.01, 0.05, 0.25))
    assert (len(one), len(five), len(quarter)) == (10, 50, 250)
    assert one < five < quarter < set(frames)
    assert one == set(split_labels(frames, 0.01, 3)[0]) != set(split_labels(frames, 0.01, 4)[0])
    kept, rest = split_labels(frames, 0.05, 3)
    assert sorted(kept + rest) == frames and not set(kept) & set(rest)
    assert len(split_labels(frames, 1e-9, 0)[0]) == 1
    for wrong in (0.0, 1.1):
        with pytest.raises(ValueError, match="fraction"):
            split_labels(frames, wrong, 0)


def test_whole_drives_can_be_the_unit_of_labels(tmp_path):
    root = write_street(tmp_path / "s", frames=3)
    for k in range(1, 8):
        shutil.copytree(root / "train" / "drive_0000", root / "train" / f"drive_{k:04}")

    def drawn(fraction, seed=0):
        labelled, unlabelled = module(
            root, label_fraction=fraction, label_unit="drives", split_seed=seed
        ).frames()
        assert len(labelled) + len(unlabelled) == 8 * 3
        chosen = {frame for _, frame in labelled._frames}
        assert all({k - k % 3, k - k % 3 + 1, k - k % 3 + 2} <= chosen for k in chosen)
        return chosen

    one, two, four = (drawn(fraction) for fraction in (0.01, 0.25, 0.5))
    assert (len(one), len(two), len(four)) == (3, 6, 12)
    assert one < two < four and len({frozenset(drawn(0.01, seed)) for seed in range(5)}) > 1


def test_labels_of_the_unlabelled_are_hidden(street):
    labelled, unlabelled = module(street, label_fraction=0.25).frames()
    assert (len(labelled), len(unlabelled)) == (2, 6)
    batch = FewLabelBatches(labelled, unlabelled, EXACT, 4, seed=0)[3]
    assert (batch.unlabelled.labels == 255).all() and (batch.labelled.labels != 255).all()
    assert batch.labelled.present.all() and batch.unlabelled.present.all()
    pictures = {  # which frame is which, by its camera image
        split_planes(data.planes(k))[0].tobytes(): name
        for name, data in (("labelled", labelled), ("unlabelled", unlabelled))
        for k in range(len(data))
    }
    for name in ("labelled", "unlabelled"):
        images = getattr(batch, name).images.numpy()
        assert {pictures[image.tobytes()] for image in images} == {name}


def test_batches_are_a_function_of_seed_and_step_and_shared_by_processes(street):
    labelled, unlabelled = module(street, label_fraction=0.5).frames()
    whole = FewLabelBatches(labelled, unlabelled, CROP, 4, seed=1)[5]
    again = FewLabelBatches(labelled, unlabelled, CROP, 4, seed=1)[5]
    other = FewLabelBatches(labelled, unlabelled, CROP, 4, seed=2)[5]
    assert torch.equal(whole.unlabelled.images, again.unlabelled.images)
    assert not torch.equal(whole.unlabelled.images, other.unlabelled.images)
    for rank in range(2):
        share = FewLabelBatches(labelled, unlabelled, CROP, 4, 1, False, rank, 2)[5]
        assert torch.equal(share.labelled.images, whole.labelled.images[2 * rank : 2 * rank + 2])
        assert torch.equal(share.unlabelled.images, whole.unlabelled.images[2 * rank :][:2])


def test_a_step_may_hold_more_unlabelled_samples_than_labelled_ones(street):
    loader = LoaderConfig(batch_size=2, unlabelled_batch_size=6, build_workers=0)
    size = {"height": HEIGHT, "width": WIDTH}
    data = FewLabelStreet(street, label_fraction=0.5, loader=loader, augment=CROP, **size)
    batch = next(iter(data.train_dataloader()))
    assert len(batch.labelled.images) == 2 and len(batch.unlabelled.images) == 6
    assert batch.unlabelled.present.shape == (6, 4)
    alone = FewLabelBatches(*data.frames(), CROP, 2, 0)[0]
    assert len(alone.unlabelled.images) == 2


def test_supervised_methods_get_plain_batches_with_or_without_dropout(street):
    for dropout in (False, True):
        data = module(street, label_fraction=0.5, unlabelled="none", modality_dropout=dropout)
        labelled, nothing = data.frames()
        assert nothing is None
        batches = FewLabelBatches(labelled, None, CROP, 4, 0, dropout)
        present = torch.cat([batches[step].present for step in range(8)])
        assert present.any(1).all() and present.all() == (not dropout)


def test_extracted_drives_are_unlabelled_data(street, drives):
    data = module(street, label_fraction=1.0, unlabelled_roots=(drives,))
    labelled, unlabelled = data.frames()
    assert (len(labelled), len(unlabelled)) == (8, 3)
    assert unlabelled.available.tolist() == [[True, True, True, False]] * 3
    batch = FewLabelBatches(labelled, unlabelled, CROP, 4, 0)[0]
    assert not batch.unlabelled.present[:, 3].any() and batch.unlabelled.present[:, :3].all()
    about = data.describe()
    assert about["label_fraction"] == 1.0 and about["unlabelled_roots"] == [drives.name]
    with pytest.raises(DataSetError, match="has a labelled pixel"):
        module(drives).frames()
    with pytest.raises(DataSetError, match="unlabelled_roots"):
        module(street).frames()


def test_own_drives_with_a_few_labelled_frames(drives, tmp_path):
    root = write_street(tmp_path / "own", frames=4)
    for index in (0, 2, 3):
        path = root / f"train/drive_0000/label/{index:06d}.png"
        cv2.imwrite(str(path), np.full((HEIGHT, WIDTH), 255, np.uint8))
    assert StreetData(root, "train", SPEC, 0).labelled() == [1]
    labelled, unlabelled = module(root).frames()
    assert (len(labelled), len(unlabelled)) == (1, 3)
    # A label that is drawn later counts, although the images are in the cache.
    picture = root / "train/drive_0000/label/000003.png"
    cv2.imwrite(str(picture), np.full((HEIGHT, WIDTH), 4, np.uint8))
    later = picture.stat().st_mtime_ns + 10**9
    os.utime(picture, ns=(later, later))
    assert StreetData(root, "train", SPEC, 0).labelled() == [1, 3]
    # So does one that was copied here with the time at which it was drawn.
    picture = root / "train/drive_0000/label/000002.png"
    cv2.imwrite(str(picture), np.full((HEIGHT, WIDTH), 4, np.uint8))
    os.utime(picture, ns=(0, 0))
    assert StreetData(root, "train", SPEC, 0).labelled() == [1, 2, 3]


def test_frames_without_a_wanted_sensor_are_left_out(drives):
    source = StreetData(drives, "train", SPEC, 0)
    assert len(Chosen([(source, range(3))], [MODALITIES[3]])) == 0
    assert len(Chosen([(source, range(3))], MODALITIES[2:])) == 3
    broken = drives / "train/drive_0000/drive.yaml"
    text = broken.read_text()
    try:
        broken.write_text("empty_sensors: [radar]\n")
        street_data._recorded.cache_clear()
        with pytest.raises(DataSetError, match=r"drive\.yaml.*radar"):
            source.available(0)
    finally:
        broken.write_text(text)
        street_data._recorded.cache_clear()


def config(street, path, method, network=None, data=None, **settings):
    """A run of four steps; the teacher begins after the second."""
    tiny_config(
        street,
        path,
        method=f"training.methods.{method}",
        max_steps=4,
        steps_per_epoch=2,
        network=network
        or {"head_width": 16, "linear_fusion": {"modalities": [m.label for m in MODALITIES]}},
        **settings,
    )
    document = yaml.safe_load(path.read_text())
    document["data"]["class_path"] = "training.data.few_labels.FewLabelStreet"
    document["data"]["init_args"] |= {"label_fraction": 0.5, **(data or {})}
    document["data"]["init_args"]["loader"] |= {"batch_size": 2, "val_frames": 2}
    path.write_text(yaml.safe_dump(document))
    return path


def fit(path, runs, name="run", *more):
    train.main(["fit", "--config", str(path), "--runs", str(runs), "--name", name, *more])
    return runs / name / "checkpoints" / "last.ckpt"


TEACHER = {"supervised_steps": 2}
NO_UNLABELLED = {"unlabelled": "none"}


@pytest.fixture(scope="module")
def checkpoint(street, tmp_path_factory):
    folder = tmp_path_factory.mktemp("m3l")
    return fit(config(street, folder / "m3l.yaml", "m3l.M3L", teacher=TEACHER), folder)


def test_a_run_of_m3l_holds_student_and_teacher(checkpoint):
    student, teacher = (load_trained(checkpoint, role) for role in ("student", "teacher"))
    assert load_trained(checkpoint).method["weights"] == "teacher"
    assert student.steps == 4 and student.data["label_fraction"] == 0.5
    stored = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert stored["teacher.n_averaged"] == 2  # steps 3 and 4: a copy, then the mean of two
    name = "head.classifier.weight"
    gap = (student.network.state_dict()[name] - teacher.network.state_dict()[name]).abs().max()
    assert 0 < gap < 0.1
    log = (checkpoint.parents[1] / "log" / "version_0" / "metrics.csv").read_text().splitlines()
    pseudo = log[0].split(",").index("train/pseudo")
    step = log[0].split(",").index("step")
    seen = {line.split(",")[step] for line in log[1:] if line.split(",")[pseudo]}
    assert seen == {"2", "3"}


@pytest.mark.parametrize("save_every", [100, 1], ids=["end_of_epoch", "within_epoch"])
def test_a_killed_run_of_m3l_resumes_to_the_same_weights(
    street, checkpoint, tmp_path, monkeypatch, save_every
):
    from training.methods.m3l import M3L

    whole_step = M3L.training_step

    def step_or_die(self, batch, batch_idx):
        if self.global_step == 3:
            raise KilledError
        return whole_step(self, batch, batch_idx)

    path = config(street, tmp_path / "m3l.yaml", "m3l.M3L", teacher=TEACHER)
    monkeypatch.setattr(M3L, "training_step", step_or_die)
    often = ["--save_every", str(save_every)]
    with pytest.raises(KilledError):
        fit(path, tmp_path, "run", *often)
    monkeypatch.undo()
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == (3 if save_every == 1 else 2)
    resumed = torch.load(fit(path, tmp_path, "run", *often), weights_only=True)["state_dict"]
    straight = torch.load(checkpoint, weights_only=True)["state_dict"]
    for name, value in straight.items():
        assert torch.equal(resumed[name], value), name


def test_it_is_exported_as_one_graph_and_evaluates_alike(street, checkpoint, tmp_path):
    folder = tmp_path / "model"
    export.main([str(checkpoint), str(folder)])
    assert [p.name for p in folder.iterdir()] == ["segment.onnx"]
    engine = load_engine(folder, "onnxruntime", 1)
    card = engine.card
    assert card.modalities == MODALITIES and card.graph == "segment"
    assert card.provenance["weights"] == "teacher" and card.provenance["label_fraction"] == 0.5
    engine.close()
    common = ["--data", str(street), "--workers", "0", "--frames", "3"]
    from_model = evaluate.main(
        ["--model", str(folder), "--engine", "onnxruntime", "--method", "m", *common]
    )
    rows = {}
    for weights in ("student", "teacher"):
        for prediction in ("ensemble", "live", "depth"):
            which = ["--weights", weights, "--prediction", prediction, "--method", "m"]
            rows[weights, prediction] = evaluate.main(
                ["--checkpoint", str(checkpoint), *which, *common]
            )
    names = [subset_name(s) for s in all_subsets()]
    whole = [row for row in rows["teacher", "ensemble"] if row["condition"] == "all"]
    assert [row["subset"] for row in whole] == [*names, "mean"]
    assert {row["frames"] for row in whole} == {3}
    robust = np.mean([row["miou"] for row in whole[:-1]])
    assert whole[-1]["miou"] == pytest.approx(robust, abs=0.01)
    for left, right in zip(from_model, rows["teacher", "ensemble"], strict=True):
        assert left["miou"] == pytest.approx(right["miou"], abs=0.2)
    # With every sensor alive the mean over the live ones is the ensemble; a single prediction is not.
    by = {key: {r["subset"]: r for r in value} for key, value in rows.items()}
    everything = names[-1]
    assert by["student", "live"][everything] == by["student", "ensemble"][everything]
    with pytest.raises(CheckpointError, match="no prediction 'radar'"):
        evaluate.main(["--checkpoint", str(checkpoint), "--prediction", "radar", *common])
    with pytest.raises(export.ExportError, match="no prediction 'radar'"):
        export.main([str(checkpoint), str(folder), "--prediction", "radar"])


@pytest.mark.parametrize(
    ("method", "data", "settings"),
    [
        ("supervised.Supervised", {"unlabelled": "none"}, {}),
        ("supervised.Supervised", {"unlabelled": "none", "modality_dropout": True}, {}),
        ("mean_teacher.MeanTeacher", {}, {}),
        ("mean_teacher.MeanTeacher", {}, {"modality_dropout": True, "teacher": TEACHER}),
        (
            "m3l.AnySegM3L",
            {},
            {"network": {"head_width": 16}, "teacher": {**TEACHER, "threshold": 0.5}},
        ),
    ],
)
def test_every_method_of_the_table_runs(street, tmp_path, method, data, settings):
    last = fit(config(street, tmp_path / "run.yaml", method, data=data, **settings), tmp_path)
    rows = evaluate.main(
        ["--checkpoint", str(last), "--data", str(street), "--workers", "0", "--frames", "1"]
    )
    assert len([row for row in rows if row["condition"] == "all"]) == 16
    stored = torch.load(last, weights_only=True)
    if method.startswith("supervised"):
        with pytest.raises(CheckpointError, match="holds no teacher"):
            load_trained(last, "teacher")
    else:
        assert "teacher.n_averaged" in stored["state_dict"]
    log = (last.parents[1] / "log" / "version_0" / "metrics.csv").read_text().splitlines()[0]
    assert ("train/umd" in log) == ("AnySeg" in method)


def test_two_sensors_are_enough(street, tmp_path):
    two = ["camera", "depth"]
    network = {"head_width": 16, "linear_fusion": {"modalities": two, "align_corners": True}}
    path = tmp_path / "two.yaml"
    config(street, path, "m3l.M3L", network, teacher=TEACHER, ohem={"of_all_pixels": True})
    with pytest.raises(ValueError, match=r"data\.modalities names event, lidar"):
        fit(path, tmp_path)
    config(street, path, "m3l.M3L", network, {"modalities": two}, teacher=TEACHER)
    last = fit(path, tmp_path, "two")
    export.main([str(last), str(tmp_path / "model")])
    engine = load_engine(tmp_path / "model", "onnxruntime", 1)
    assert [m.label for m in engine.card.modalities] == two
    engine.close()
    rows = evaluate.main(
        ["--checkpoint", str(last), "--data", str(street), "--workers", "0", "--frames", "1"]
    )
    whole = [row["subset"] for row in rows if row["condition"] == "all"]
    assert whole == ["camera", "depth", "camera+depth", "mean"]
    assert json.dumps(rows)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Drives without events and LiDAR; of the validation drive's eight frames the fourth is labelled."""
    root = write_street(tmp_path_factory.mktemp("own") / "drives", frames=8)
    for split in ("train", "val"):
        drive = root / split / "drive_0000"
        (drive / "drive.yaml").write_text("recording: mine\nempty_sensors: [event, lidar]\n")
        for index in set(range(8)) - {3}:
            nothing = np.full((HEIGHT, WIDTH), 255, np.uint8)
            cv2.imwrite(str(drive / f"label/{index:06d}.png"), nothing)
    return root


def test_it_is_told_what_is_trained_on(own, capsys):
    module(own, unlabelled="rest").prepare_data()
    said = capsys.readouterr().out
    assert re.search(r"training on 1 frames with a label, \d+ without a label", said)
    assert "note: no frame has event, lidar, but" in said
    module(own, unlabelled="none", modalities=("camera", "depth")).prepare_data()
    said = capsys.readouterr().out
    assert "training on 1 frames with a label\n" in said and "note" not in said


def test_only_what_was_recorded_and_labelled_is_scored(own, tmp_path):
    """A sensor that no drive has would be scored on empty images, and drag the mean down."""
    path = config(own, tmp_path / "run.yaml", "mean_teacher.MeanTeacher", {"head_width": 16})
    last = fit(path, tmp_path)
    log = (tmp_path / "run/log/version_0/metrics.csv").read_text()
    names = {n.removeprefix("val/miou/") for n in log.splitlines()[0].split(",") if "val/m" in n}
    assert names == {"camera", "depth", "val/miou_mean"}, "all four are never there together"
    assert "nan" not in log and (last.parent / "best.ckpt").is_file()
    common = ["--checkpoint", str(last), "--data", str(own), "--workers", "0", "--split", "val"]
    rows = evaluate.main([*common, "--frames", "2"])
    whole = {row["subset"]: row for row in rows if row["condition"] == "all"}
    assert set(whole) == {"camera", "depth", "camera+depth", "mean"}
    assert {row["frames"] for row in whole.values()} == {1}
    with pytest.raises(DataSetError, match="has all sensors of lidar"):
        evaluate.main([*common, "--subsets", "lidar"])
    label = own / "val/drive_0000/label/000003.png"
    kept = label.read_bytes()
    try:
        cv2.imwrite(str(label), np.full((HEIGHT, WIDTH), 255, np.uint8))
        with pytest.raises(DataSetError, match="no frame of the validation split"):
            fit(path, tmp_path, "unlabelled")
    finally:
        label.write_bytes(kept)


def test_a_teacher_that_has_not_begun_is_none(street, tmp_path):
    path = config(street, tmp_path / "m3l.yaml", "m3l.M3L", teacher={"supervised_steps": 50})
    early = fit(path, tmp_path)
    trained = load_trained(early)
    assert trained.method["weights"] == "student"
    student = torch.load(early, weights_only=True)["state_dict"]
    for name, value in trained.network.state_dict().items():
        assert torch.equal(value, student[f"network.{name}"])
    with pytest.raises(CheckpointError, match="before its teacher began"):
        load_trained(early, "teacher")
    # Another method under the same name would meet weights that it has no use for.
    other = config(street, tmp_path / "other.yaml", "supervised.Supervised", data=NO_UNLABELLED)
    with pytest.raises(SettingsError, match="holds a run of M3L, which cannot go on as Supervised"):
        fit(other, tmp_path)


@pytest.mark.parametrize(
    ("method", "data", "words"),
    [
        ("supervised.Supervised", {}, "set data.unlabelled to none"),
        ("m3l.M3L", NO_UNLABELLED, "with data.unlabelled: rest"),
        ("magic_style.MagicStyle", NO_UNLABELLED, "some labelled drive lacks one"),
    ],
)
def test_data_of_the_wrong_kind_is_refused_in_words(own, tmp_path, method, data, words):
    path = config(own, tmp_path / "run.yaml", method, {"head_width": 16}, data)
    with pytest.raises(SettingsError, match=words):
        fit(path, tmp_path)


def test_sensors_that_are_not_there_are_refused_in_words(own):
    with pytest.raises(DataSetError, match=r"no labelled frame of .* has lidar"):
        module(own, modalities=("lidar",)).frames()
    whole = StreetDataModule(own, height=HEIGHT, width=WIDTH)
    whole.prepare_data()
    with pytest.raises(DataSetError, match=r"has no event, lidar: .* FewLabelStreet"):
        whole.source("train")
    with pytest.raises(SettingsError, match=r"subset_weights of event must be above 0"):
        StreetDataModule(own, subset_weights={"event": 0.0})


def test_images_follow_a_new_calibration(street, tmp_path):
    root = tmp_path / "street"
    shutil.copytree(street, root)
    before = np.array(StreetData(root, "val", SPEC, 0).planes(0))
    file = root / "val/drive_0000/calibration.yaml"
    document = yaml.safe_load(file.read_text())
    document["sensors"]["lidar"]["grid_from_sensor"]["translation_m"] = [1.0, 0.0, 0.0]
    file.write_text(yaml.safe_dump(document))
    later = file.stat().st_mtime_ns + 10**9
    os.utime(file, ns=(later, later))
    street_data._drive_tools.cache_clear()
    after = np.array(StreetData(root, "val", SPEC, 0).planes(0))
    lidar = slice(3 * MODALITIES[3], 3 * MODALITIES[3] + 3)
    assert (after[lidar] != before[lidar]).any()
    assert np.array_equal(after[:9], before[:9])


def test_alignment_evens_out_what_the_teacher_prefers():
    shares = ClassShares(3)
    labels = torch.tensor([[[0, 0, 1, 255]]], dtype=torch.uint8)
    logits = torch.log(torch.tensor([0.8, 0.1, 0.1])).view(1, 3, 1, 1).expand(2, 3, 1, 4)
    for _ in range(5):
        shares.note(labels, logits)
    torch.testing.assert_close(shares.labelled, torch.tensor([2 / 3, 1 / 3, 0.0]))
    torch.testing.assert_close(shares.predicted, torch.tensor([0.8, 0.1, 0.1]))
    first, second, never = shares.log_ratio().tolist()
    assert first == pytest.approx(np.log(2 / 3 / 0.8), abs=1e-3)
    assert second == pytest.approx(np.log(1 / 3 / 0.1), abs=1e-2) and never < -6
    made = MeanTeacher(
        network=SegmentorConfig(encoder="fast_xs", head_width=16, classes=3),
        teacher=TeacherConfig(alignment=1.0),
    )
    made.shares.load_state_dict(shares.state_dict())
    picture = torch.zeros(3, 4, 3, 8, 8, dtype=torch.uint8)
    four = torch.ones(3, 4, dtype=torch.bool)
    view = View(picture, torch.zeros(1, 8, 8, dtype=torch.uint8), four, four, 1, 1)
    doubtful = torch.log(torch.tensor([0.55, 0.44, 0.01])).view(1, 3, 1, 1).expand(3, 3, 2, 2)
    assert (made.labels_of(doubtful, view) == 1).all(), "0 is said too often"
    plain = MeanTeacher(network=SegmentorConfig(encoder="fast_xs", head_width=16, classes=3))
    assert (plain.labels_of(doubtful, view) == 0).all()
    assert not any("shares" in name for name in plain.state_dict())


@pytest.mark.parametrize("name", ["fine_tune", "fine_tune_m3l"])
def test_the_documented_ways_to_tune_the_shipped_model_run(own, tmp_path, name):
    """From its own weights, at its own size, with and without the unlabelled frames."""
    root = Path(__file__).parents[2]
    sizes = {"loader.batch_size": 1, "loader.steps_per_epoch": 1, "loader.val_frames": 1}
    last = fit(
        root / f"training/configs/{name}.yaml",
        tmp_path,
        "run",
        *("--data.root", str(own), "--trainer.max_steps", "1", "--trainer.precision", "32-true"),
        *("--model.start_from", str(root / "models/anyseg_street_b0"), "--threads", "2"),
        *(part for key, value in sizes.items() for part in (f"--data.{key}", str(value))),
    )
    trained = load_trained(last)
    assert (trained.data["input_width"], trained.data["input_height"]) == (512, 256)
    assert trained.method["name"] == ("M3L" if name.endswith("m3l") else "Supervised")
