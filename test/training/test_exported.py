"""Exported models as networks to train on: the same weights and logits, and training goes on from there."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from street_on_disk import HEIGHT, WIDTH, write_street
from test_training import fit, tiny_config
from tiny_model import tiny_card

from anyseg_ros.classes import CITYSCAPES_19
from anyseg_ros.engine import load_engine
from anyseg_ros.engine.half_weights import pack_weights, unpack_weights
from anyseg_ros.modality import MODALITIES, Modality
from training import quantize
from training.export import export
from training.methods.anyseg import AnySegStudent
from training.methods.supervised import Supervised
from training.models.checkpoint import TrainedSegmentor, copy_weights, load_trained
from training.models.network import make_network
from training.models.segmentor import (
    LinearFusionConfig,
    NormalizationConfig,
    SegmentorConfig,
    full_size,
)
from training.models.strict import CheckpointError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(path.parent for path in ROOT.glob("models/*/encode.onnx"))
SUBSETS = ((Modality.CAMERA,), (Modality.DEPTH, Modality.LIDAR), MODALITIES)


def data():
    card = tiny_card(WIDTH, HEIGHT, classes=CITYSCAPES_19)
    return {
        "name": "a test",
        "synthetic_only": True,
        "modality_dropout": True,
        "seed": 3,
        "modalities": [m.label for m in MODALITIES],
        "input_width": WIDTH,
        "input_height": HEIGHT,
        "encodings": {
            m.label: {"name": e.name, "settings": dict(e.settings)}
            for m, e in card.encodings.items()
        },
        "class_names": list(CITYSCAPES_19.names),
        "class_colors": [list(color) for color in CITYSCAPES_19.colors],
    }


def exported(config, folder, half_weights=False):
    """A network with random weights and statistics, exported; the weights as they were."""
    torch.manual_seed(1)
    network = make_network(config).eval()
    torch.nn.init.normal_(network.head.classifier.weight, std=0.3)
    for norm in network.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)
    with torch.no_grad():  # as after training: no two tensors are alike
        for value in network.parameters():
            value.add_(0.01 * torch.randn_like(value))
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    trained = TrainedSegmentor(network, 7, {"name": "Supervised", "seed": 2}, data())
    card = export(trained, folder, "small", half_weights=half_weights)
    original = make_network(config).eval()
    original.load_state_dict(weights)
    return original, card


MAKES = {"mit_b0": {}, "fast_xs": {"encoder": "fast_xs", "late_stages": 2}}


@pytest.fixture(scope="module", params=MAKES)
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "small"
    normalization = NormalizationConfig(event_mean=(0.1, 0.2, 0.3), event_std=(0.5, 0.6, 0.7))
    config = SegmentorConfig(
        head_width=32, classes=19, normalization=normalization, **MAKES[request.param]
    )
    original, card = exported(config, folder)
    return folder, original, card


def images(count=2, height=HEIGHT, width=WIDTH):
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 4, 3, height, width), generator=rng, dtype=torch.uint8)


def test_it_is_the_network_that_was_exported(model):
    folder, original, card = model
    trained = load_trained(folder)
    network = trained.anymodal
    assert network.config.frozen_norm and not network.training
    assert network.config == replace(original.config, frozen_norm=True)
    before = original.state_dict()
    for name, value in network.state_dict().items():
        folded = name.startswith("head.") or network.config.encoder == "fast_xs"
        if not folded or name in ("mean", "std"):
            assert torch.equal(value, before[name]), name
    for one, other in zip(
        network.predict_subsets(images(), SUBSETS),
        original.predict_subsets(images(), SUBSETS),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert trained.data == data() and trained.steps == 7
    assert trained.method == {"name": "Supervised", "seed": 2}
    assert card.classes == CITYSCAPES_19


def test_training_goes_on_from_it(model, tmp_path):
    folder, original, _ = model
    config = replace(original.config, dropout=0.0, frozen_norm=True)
    for method in (
        Supervised(config, start_from=folder),
        AnySegStudent(folder, config, start_from_teacher=True),
    ):
        # In training too: the norm changes nothing, so the first step sees what the model says.
        network = method.network.train()
        present = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 0]], dtype=torch.bool)
        torch.testing.assert_close(
            network.predictions(images(), present)[-1],
            original.predictions(images(), present)[-1],
            rtol=1e-4,
            atol=1e-4,
        )
    with pytest.raises(CheckpointError, match=r"normalization.*event_mean=\(0\.1, .*set model"):
        Supervised(replace(config, normalization=NormalizationConfig()), start_from=folder)
    loose = replace(config, frozen_norm=False)
    with pytest.raises(CheckpointError, match=r"folded.*--model\.network\.frozen_norm true"):
        Supervised(loose, start_from=folder)
    with pytest.raises(CheckpointError, match="folded"):
        AnySegStudent(folder, loose, start_from_teacher=True)
    AnySegStudent(folder, loose)  # to teach it need not be trained


@pytest.mark.parametrize("make", [*MAKES, "segment"])
def test_half_weights_halve_the_file_and_nothing_else(make, tmp_path):
    changes = {"linear_fusion": LinearFusionConfig()} if make == "segment" else MAKES[make]
    config = SegmentorConfig(head_width=32, **changes)
    _, whole_card = exported(config, tmp_path / "whole")
    _, card = exported(config, tmp_path / "half", half_weights=True)
    assert card.provenance["half_weights"] and card.model_id != whole_card.model_id
    sizes = [
        sum(path.stat().st_size for path in (tmp_path / name).glob("*.onnx"))
        for name in ("whole", "half")
    ]
    assert sizes[1] < 0.65 * sizes[0]
    engines = [load_engine(tmp_path / name, "onnxruntime", 1) for name in ("whole", "half")]
    batch = images(1, HEIGHT, WIDTH)[0].permute(0, 2, 3, 1).numpy()
    for ids in (np.arange(4), np.array([2])) if make != "segment" else (np.array([0, 1]),):
        whole, half = (engine.segment(batch[ids], ids) for engine in engines)
        assert (whole.labels == half.labels).mean() > 0.98
    for path in (tmp_path / "half").glob("*.onnx"):
        packed = onnx.load(path)
        before = {i.name: i for i in onnx.load(tmp_path / "whole" / path.name).graph.initializer}
        unpacked = unpack_weights(onnx.load(path))
        names = {i.name for i in unpacked.graph.initializer}
        assert names == set(before) and len(packed.graph.node) > len(unpacked.graph.node)
        assert pack_weights(unpacked).graph == packed.graph
    if make != "segment":
        network = load_trained(tmp_path / "half").anymodal
        logits = network.predict_subsets(images(1, HEIGHT, WIDTH), (MODALITIES,))[0]
        labels = full_size(logits, HEIGHT, WIDTH, False).argmax(-1)[0].numpy()
        assert (labels == engines[1].segment(batch, np.arange(4)).labels).mean() > 0.999


def test_weights_of_other_slots_are_refused():
    pairs = [("camera", "depth"), ("camera", "lidar")]
    one, other = (
        make_network(SegmentorConfig(head_width=16, linear_fusion=LinearFusionConfig(pair)))
        for pair in pairs
    )
    with pytest.raises(CheckpointError, match="its slots are camera, lidar, not camera, depth"):
        copy_weights(one, TrainedSegmentor(other, 0, {}, {}), Path("other.ckpt"))


@pytest.mark.parametrize("make", MAKES)
def test_fine_tuned_and_exported_again(make, tmp_path):
    """The documented way, by its command line."""
    folder = tmp_path / "small"
    exported(SegmentorConfig(head_width=32, **MAKES[make]), folder)
    street = write_street(tmp_path / "street")
    config = tiny_config(street, tmp_path / "tiny.yaml")
    more = ["--model.init_args.network.frozen_norm", "true"]
    for name, value in MAKES[make].items():
        more += [f"--model.init_args.network.{name}", str(value)]
    more += ["--model.init_args.start_from", str(folder)]
    tuned = load_trained(fit(config, tmp_path, *more))
    assert not tuned.folded and tuned.network.config.frozen_norm
    start = load_trained(folder).network.state_dict()["head.norm.running_var"]
    assert torch.equal(tuned.network.state_dict()["head.norm.running_var"], start)
    assert tuned.method["start_from"] == str(folder)
    card = export(tuned, tmp_path / "tuned", "tuned")
    assert card.provenance["start_from"] == str(folder)


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda p: p.name)
def test_the_shipped_models_can_be_trained_on(folder):
    trained = load_trained(folder)
    engine = load_engine(folder, "onnxruntime", 1)
    height, width = engine.card.input_height, engine.card.input_width
    batch = images(1, height, width)
    found = engine.segment(batch[0].permute(0, 2, 3, 1).numpy(), np.arange(4)).labels
    stride = 2 if (found[::2, ::2] == found[1::2, 1::2]).all() else 1
    logits = trained.network.predict_subsets(batch, (MODALITIES,))[0]
    labels = full_size(logits, height // stride, width // stride, False).argmax(-1)[0]
    assert (labels.numpy() == found[::stride, ::stride]).mean() > 0.999


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda p: p.name)
def test_the_shipped_models_cards_for_people_are_of_these_models(folder):
    card, text = load_engine(folder, "onnxruntime", 1).card, (folder / "README.md").read_text()
    assert card.model_id in text
    metrics, weights = (card.provenance[key] for key in ("metrics", "fusion_weights"))
    assert f"{metrics['mean']:.1f} in the mean" in text
    assert f"{metrics['camera+depth+event+lidar']:.1f} with all four" in text
    assert f"depth {weights['depth']:g}, event {weights['event']:g}" in text


def refused(folder, match):
    with pytest.raises(CheckpointError, match=match):
        load_trained(folder)


def test_models_that_cannot_be_trained_on_are_named(model, tmp_path):
    folder, _, _ = model
    refused(tmp_path, "no model file .*encode.onnx")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for graph in ("encode", "fuse"):
        (damaged / f"{graph}.onnx").write_bytes((folder / f"{graph}.onnx").read_bytes())
    (damaged / "fuse.onnx").write_bytes(b"no graph")
    refused(damaged, r"fuse\.onnx")
    fusion = SegmentorConfig(head_width=32, linear_fusion=LinearFusionConfig())
    exported(fusion, tmp_path / "fusion")
    refused(tmp_path / "fusion", "no model file .*encode.onnx")
    street = write_street(tmp_path / "street")
    small = tmp_path / "int8"
    more = ["--data", str(street), "--frames", "2", "--workers", "0"]
    quantize.main([str(folder), str(small), *more])
    refused(small, "int8 has no weights .*floating-point")
    graph = onnx.load(folder / "encode.onnx")
    del graph.graph.initializer[5]
    onnx.save(graph, damaged / "encode.onnx")
    (damaged / "fuse.onnx").write_bytes((folder / "fuse.onnx").read_bytes())
    refused(damaged, "does not fit; missing: encoder")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("model.init_args.start_from=no/checkpoint.ckpt", "no checkpoint no/checkpoint.ckpt"),
        (
            "model.init_args.start_from=models/anyseg_street_b0",
            "cannot start from models/anyseg_street_b0: ",
        ),
        (
            "model.init_args.network.encoder=mit_b9",
            "unknown encoder 'mit_b9'; expected one of mit_b0",
        ),
        ("trainer.accumulate_grad_batches=2", "trainer.accumulate_grad_batches must be 1"),
        ("data.init_args.root=no/street", "no split 'train' in no/street: "),
    ],
    ids=lambda value: value.split("=")[0],
)
def test_the_command_line_says_what_is_wrong(setting, expected, tmp_path):
    config = tiny_config(write_street(tmp_path / "street"), tmp_path / "tiny.yaml")
    command = [sys.executable, "training/train.py", "fit", "--config", str(config)]
    command += ["--runs", str(tmp_path), f"--{setting}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith(f"train: {expected}"), done.stderr
    assert "Traceback" not in done.stderr
