"""OpenVINO gives what ONNX Runtime gives: exactly in fp32, to rounding in bf16."""

from pathlib import Path

import numpy as np
import pytest
from pictures import areas
from tiny_model import tiny_card, write_tiny_model

from anyseg_ros.engine import ModelError, OpenVinoEngine, load_engine
from anyseg_ros.modality import Modality

pytest.importorskip("openvino", reason="OpenVINO is not installed: its engine is not run")

MODELS = sorted(p.parent for p in Path(__file__).parents[2].glob("models/*/encode.onnx"))


@pytest.mark.parametrize("model", MODELS, ids=lambda p: p.name)
@pytest.mark.parametrize(("precision", "equal"), [("fp32", 0.9999), ("bf16", 0.98)])
def test_labels_are_those_of_onnx_runtime(model, precision, equal):
    exact, engine = load_engine(model, "onnxruntime"), OpenVinoEngine(model, 0, precision)
    assert engine.card == exact.card and precision in engine.description
    card = exact.card
    # Not noise: a student that knows its limits is near a tie everywhere in it. What bf16 costs on the test
    # split is in docs/results/precision.json.
    images = areas(card, 4)
    for live in range(1, 5):
        ids = np.arange(live)
        expected, got = exact.segment(images[:live], ids), engine.segment(images[:live], ids)
        assert (expected.labels == got.labels).mean() >= equal, live
        off = np.abs(expected.confidence.astype(int) - got.confidence)
        assert np.quantile(off, equal) <= (1 if precision == "fp32" else 25), live


def test_features_stay_as_they_were_when_others_are_encoded(tiny_model):
    engine = load_engine(tiny_model, "openvino_fp32")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 64, 128, 3)).astype(np.uint8)
    first = engine.encode(images[:1], np.array([0]))
    kept = [level.copy() for level in first[0]]
    output = engine.fuse(first)
    labels = output.labels.copy()
    second = engine.encode(images[1:], np.array([1]))
    engine.fuse([*first, *second])
    for level, before in zip(first[0], kept, strict=True):
        np.testing.assert_array_equal(level, before)
    np.testing.assert_array_equal(output.labels, labels)


def test_fewer_modalities_and_nothing_at_all(tmp_path):
    card = tiny_card(modalities=(Modality.CAMERA, Modality.LIDAR))
    engine = load_engine(write_tiny_model(tmp_path / "m", card), "openvino")
    assert engine.encode(np.zeros((0, 64, 128, 3), np.uint8), np.empty(0, np.int64)) == []
    with pytest.raises(ValueError, match="nothing to fuse"):
        engine.fuse([])


def test_damaged_and_foreign_files_are_refused(tmp_path, tiny_model):
    folder = write_tiny_model(tmp_path / "m")
    path = folder / "fuse.onnx"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"fuse\.onnx"):
        load_engine(folder, "openvino")
    path.unlink()
    with pytest.raises(ModelError, match="no model file"):
        load_engine(folder, "openvino")
