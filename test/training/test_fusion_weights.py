"""Weights of the sensors in the fused maps: by hand, in each form of the network, and the search for them."""

import json

import cv2
import numpy as np
import pytest
import torch
from street_on_disk import HEIGHT, WIDTH, write_street
from test_exported import exported, images
from test_training import fit, tiny_config

from anyseg_ros.engine import load_engine
from anyseg_ros.modality import MODALITIES, Modality, all_subsets, parse_subset
from training import fusion_weights
from training.data.street import DataSetError
from training.errors import SettingsError
from training.evaluate import CheckpointPredictor, EnginePredictor, TorchPredictor
from training.methods.supervised import Supervised
from training.models.checkpoint import load_trained
from training.models.network import make_network
from training.models.segmentor import (
    AnymodalSegmentor,
    FusionWeights,
    LinearFusionConfig,
    SegmentorConfig,
)

WEIGHTS = FusionWeights(depth=1.5, event=0.25)
SMALL = {"head_width": 32, "classes": 19}


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    return write_street(tmp_path_factory.mktemp("street"), frames=6)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The same network exported with a plain mean and with weights."""
    folder = tmp_path_factory.mktemp("models")
    for name, weights in (("plain", None), ("weighted", WEIGHTS)):
        exported(SegmentorConfig(**SMALL, fusion_weights=weights), folder / name)
    return folder / "plain", folder / "weighted"


@pytest.mark.parametrize("late", [0, 2])
def test_the_fused_maps_are_the_weighted_mean(late):
    torch.manual_seed(0)
    config = SegmentorConfig(encoder="fast_xs", late_stages=late, **SMALL)
    network = AnymodalSegmentor(config).eval()
    samples = images(2).flatten(0, 1)
    ids, index = torch.arange(4).repeat(2), torch.arange(2).repeat_interleave(4)
    kept = torch.tensor(
        [0, 1, 2, 6, 7]
    )  # camera, depth, event of one sample; event, LiDAR of the other
    with torch.no_grad():
        maps = [level[kept] for level in network.encode(samples, ids)]
        means = [
            torch.stack(
                [
                    (level[0] + 1.5 * level[1] + 0.25 * level[2]) / 2.75,
                    (0.25 * level[3] + level[4]) / 1.25,
                ]
            )
            for level in maps
        ]
        by_hand = network.fuse(means, torch.tensor([0, 3]), torch.arange(2), 2)
        plain = network.fuse(maps, ids[kept], index[kept], 2)
        network.set_fusion_weights(WEIGHTS)
        weighted = network.fuse(maps, ids[kept], index[kept], 2)
        torch.testing.assert_close(weighted, by_hand, rtol=1e-4, atol=1e-5)
        assert (weighted - plain).abs().max() > 1e-3
        network.set_fusion_weights(FusionWeights(3.0, 3.0, 3.0, 3.0))
        alike = network.fuse(maps, ids[kept], index[kept], 2)
        torch.testing.assert_close(alike, plain, rtol=1e-4, atol=1e-5)


def test_exported_it_is_the_network_and_a_sensor_alone_stays(models):
    plain, weighted = (load_engine(folder, "onnxruntime", 1) for folder in models)
    network = load_trained(models[1]).anymodal
    assert network.config.fusion_weights == WEIGHTS
    assert plain.card.model_id != weighted.card.model_id
    assert "fusion_weights" not in plain.card.provenance
    batch = images(1)
    pictures = batch[0].permute(0, 2, 3, 1).numpy().copy()
    changed = []
    for subset in all_subsets():
        ids = np.array([int(m) for m in subset])
        logits = network.predict_subsets(batch, (subset,))[0]
        full = torch.nn.functional.interpolate(logits, (HEIGHT, WIDTH), mode="bilinear")
        found, other = (e.segment(pictures[ids], ids).labels for e in (weighted, plain))
        assert (found == full[0].argmax(0).numpy()).mean() > 0.999, subset
        changed.append((found != other).mean())
    assert max(changed[:4]) < 1e-3 and min(changed[-1:]) > 0.01


def test_the_order_of_streams_does_not_matter(models):
    engine = load_engine(models[1], "onnxruntime", 1)
    pictures = images(1)[0].permute(0, 2, 3, 1).numpy().copy()
    features = engine.encode(pictures, np.arange(4))
    turned = engine.fuse(features[::-1]).labels
    assert (engine.fuse(features).labels == turned).mean() > 0.999


def test_a_checkpoint_keeps_them(street, tmp_path):
    config = tiny_config(street, tmp_path / "tiny.yaml")
    run = fit(config, tmp_path, "--model.init_args.network.fusion_weights.event", "0.25")
    assert load_trained(run).network.config.fusion_weights == FusionWeights(event=0.25)


def test_all_subsets_at_once_are_scored_as_the_engine_does(models):
    pictures = images(1)[0].permute(0, 2, 3, 1).numpy().copy()
    subsets = all_subsets()
    ours = TorchPredictor(load_trained(models[1])).predict(pictures, subsets)
    theirs = EnginePredictor(models[1], "onnxruntime").predict(pictures, subsets)
    for subset in subsets:
        assert (ours[subset][0] == theirs[subset][0]).mean() > 0.999, subset


def test_training_that_starts_from_it_keeps_them(models):
    keep = SegmentorConfig(**SMALL, frozen_norm=True)
    assert Supervised(keep, start_from=models[1]).network.config.fusion_weights == WEIGHTS
    assert Supervised(keep, start_from=models[0]).network.config.fusion_weights is None
    own = SegmentorConfig(**SMALL, frozen_norm=True, fusion_weights=FusionWeights())
    method = Supervised(own, start_from=models[1])
    assert method.network.config.fusion_weights == FusionWeights()


def test_what_cannot_be_weighed_is_refused():
    with pytest.raises(SettingsError, match="fusion weight of event is 0"):
        FusionWeights(event=0.0)
    with pytest.raises(SettingsError, match="depth is nan"):
        FusionWeights(depth=float("nan"))
    config = SegmentorConfig(linear_fusion=LinearFusionConfig(), fusion_weights=WEIGHTS)
    with pytest.raises(SettingsError, match="fusion_weights must be null"):
        make_network(config)


def labelled_by_all_but_events(models, root):
    """A street whose labels are what the model says from camera, depth and LiDAR."""
    street = write_street(root, frames=6)
    engine = EnginePredictor(models[0], "onnxruntime")
    data = fusion_weights.StreetData(street, "val", engine.spec, 0)
    subset = parse_subset("camera+depth+lidar")
    for index, frame in enumerate(data.frames):
        pictures, _ = fusion_weights.split_planes(np.array(data.planes(index)))
        pictures = np.ascontiguousarray(pictures.transpose(0, 2, 3, 1))
        labels = engine.predict(pictures, [subset])[subset][0]
        path = frame.drive / "label" / f"{frame.index:06}.png"
        assert path.is_file()
        cv2.imwrite(str(path), labels)
    return street


def test_a_sensor_that_only_confuses_gets_the_least_say(models, tmp_path, capsys):
    street = labelled_by_all_but_events(models, tmp_path / "street")
    command = [str(models[0]), str(tmp_path / "found"), "--data", str(street), "--workers", "0"]
    card = fusion_weights.main(command)
    found = card.provenance["fusion_weights"]
    assert found["event"] == min(fusion_weights.GRID) < min(found["depth"], found["lidar"])
    assert load_trained(tmp_path / "found").network.config.fusion_weights.event == found["event"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("mIoU on 3 other frames")
    before, after = (float(number) for number in lines[-2].split()[1:])
    assert after > before
    alone = [line.split() for line in lines if line.split()[0] in ("camera", "event")]
    assert len(alone) == 2 and all(one == other for _, one, other in alone)


def test_what_is_written_is_chosen_as_in_an_export(models, tmp_path):
    street = write_street(tmp_path / "street", frames=4)
    rows = [
        {"subset": "mean", "condition": "all", "miou": 12.5},
        {"subset": "mean", "condition": "fog"},
    ]
    (tmp_path / "rows.json").write_text(json.dumps({"rows": rows}))
    command = [str(models[0]), str(tmp_path / "x"), "--data", str(street), "--workers", "0"]
    command += ["--weights", "event=0.5", "--output-stride", "2", "--half-weights"]
    card = fusion_weights.main([*command, "--metrics", str(tmp_path / "rows.json")])
    assert card.provenance["metrics"] == {"mean": 12.5} and card.provenance["half_weights"]
    labels = (
        load_engine(tmp_path / "x", "onnxruntime", 1)
        .segment(images(1)[0].permute(0, 2, 3, 1).numpy().copy(), np.arange(4))
        .labels
    )
    np.testing.assert_array_equal(labels[::2, ::2], labels[1::2, 1::2])
    with pytest.raises(SystemExit):
        fusion_weights.main([*command, "--metrics", str(street / "dataset.yaml")])


def test_weights_can_be_named():
    assert fusion_weights._weights("event=0.5, lidar=2") == {Modality.EVENT: 0.5, Modality.LIDAR: 2}


def test_a_sensor_that_was_not_recorded_is_not_judged(models, tmp_path):
    street = write_street(tmp_path / "street", frames=4)
    (street / "val" / "drive_0000" / "drive.yaml").write_text("empty_sensors: [lidar]\n")
    trained = load_trained(models[0])
    data = fusion_weights.StreetData(street, "val", CheckpointPredictor(trained).spec, 0)
    frames = fusion_weights.Labelled(trained, data, [0, 1])
    scores = frames.scores(dict.fromkeys(MODALITIES, 1.0))
    assert {s for s, value in scores.items() if np.isnan(value)} == {
        s for s in all_subsets() if Modality.LIDAR in s
    }
    start = load_trained(models[0])
    start.anymodal.set_fusion_weights(FusionWeights(camera=2.0, lidar=3.0))
    found = fusion_weights.search(fusion_weights.Labelled(start, data, [0, 1]), sweeps=1)
    assert found[Modality.LIDAR] == 1.5, "as it was: nothing tells of it"


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("events=0.5", "expected SENSOR=NUMBER"),
        ("event=-1", "expected a number above 0"),
        ("event", "expected SENSOR=NUMBER"),
    ],
)
def test_wrong_weights_are_named(models, street, tmp_path, capsys, weights, said):
    command = [str(models[0]), str(tmp_path / "x"), "--data", str(street)]
    with pytest.raises(SystemExit):
        fusion_weights.main([*command, "--weights", weights])
    assert said in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_frames_without_labels_are_no_judges(models, tmp_path):
    street = write_street(tmp_path / "street", frames=3)
    for path in (street / "val" / "drive_0000" / "label").iterdir():
        cv2.imwrite(str(path), np.full((HEIGHT, WIDTH), 255, np.uint8))
    with pytest.raises(DataSetError, match="0 frames with labels; expected at least 2"):
        fusion_weights.main(
            [str(models[0]), str(tmp_path / "x"), "--data", str(street), "--workers", "0"]
        )
