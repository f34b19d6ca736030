"""Few labelled frames and many without: splits, batches, and runs from the command line to the engine."""

import json
import os
import shutil

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
from training.data.batches import LoaderConfig, split_planes
from training.data.few_labels import (
    Chosen,
    FewLabelBatches,
    FewLabelStreet,
    StreetFrames,
    labelled_frames,
    split_labels,
)
from training.data.street import DataSetError, ImageSpec, StreetData
from training.data.transforms import AugmentConfig
from training.models.checkpoint import load_trained
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
    source = StreetFrames(StreetData(root, "train", SPEC, 0))
    assert labelled_frames(source) == [1]
    labelled, unlabelled = module(root).frames()
    assert (len(labelled), len(unlabelled)) == (1, 3)
    # A label that is drawn later counts, although the images are in the cache.
    picture = root / "train/drive_0000/label/000003.png"
    cv2.imwrite(str(picture), np.full((HEIGHT, WIDTH), 4, np.uint8))
    later = picture.stat().st_mtime_ns + 10**9
    os.utime(picture, ns=(later, later))
    assert labelled_frames(StreetFrames(StreetData(root, "train", SPEC, 0))) == [1, 3]
    # So does one that was copied here with the time at which it was drawn.
    picture = root / "train/drive_0000/label/000002.png"
    cv2.imwrite(str(picture), np.full((HEIGHT, WIDTH), 4, np.uint8))
    os.utime(picture, ns=(0, 0))
    assert labelled_frames(StreetFrames(StreetData(root, "train", SPEC, 0))) == [1, 2, 3]


def test_frames_without_a_wanted_sensor_are_left_out(drives):
    source = StreetFrames(StreetData(drives, "train", SPEC, 0))
    assert len(Chosen([(source, range(3))], [MODALITIES[3]])) == 0
    assert len(Chosen([(source, range(3))], MODALITIES[2:])) == 3
    broken = drives / "train/drive_0000/drive.yaml"
    text = broken.read_text()
    try:
        broken.write_text("empty_sensors: [radar]\n")
        from training.data.few_labels import _recorded

        _recorded.cache_clear()
        with pytest.raises(DataSetError, match=r"drive\.yaml.*radar"):
            source.available(0)
    finally:
        broken.write_text(text)
        _recorded.cache_clear()


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
