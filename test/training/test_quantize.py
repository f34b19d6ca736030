"""INT8 models: calibrated on frames, alike in their labels, and in a form that TensorRT reads."""

import numpy as np
import onnx
import pytest
import torch
from street_on_disk import HEIGHT, WIDTH, write_street
from tensorrt_table import unsupported
from tiny_model import tiny_card

from anyseg_ros.classes import CITYSCAPES_19
from anyseg_ros.engine import ModelError, load_engine
from anyseg_ros.engine.model_card import attach_card
from anyseg_ros.engine.tensorrt import in_half_precision
from training import quantize
from training.export import write_graphs
from training.models.graphs import exportable
from training.models.segmentor import AnymodalSegmentor, SegmentorConfig

SIZES = {
    "fast_xs": SegmentorConfig(encoder="fast_xs", late_stages=2, head_width=32),
    "mit_b0": SegmentorConfig(encoder="mit_b0", head_width=32),
}


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    return write_street(tmp_path_factory.mktemp("street"))


@pytest.fixture(scope="module", params=SIZES)
def models(request, street, tmp_path_factory):
    """An exported model and its INT8 form, and the share of labels they have in common."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    network = AnymodalSegmentor(SIZES[request.param]).eval()
    torch.nn.init.normal_(network.head.classifier.weight, std=0.3)
    encode, fuse = exportable(network, HEIGHT, WIDTH)
    exact, small = folder / "exact", folder / "small"
    exact.mkdir()
    write_graphs(encode, fuse, exact, HEIGHT, WIDTH)
    card = tiny_card(WIDTH, HEIGHT, classes=CITYSCAPES_19)
    for graph in quantize.GRAPHS:
        attach_card(exact / f"{graph}.onnx", card.for_graph(graph))
    share = quantize.main(
        [str(exact), str(small), "--data", str(street), "--frames", "3", "--workers", "0"]
    )
    return exact, small, share


def test_labels_stay_and_weights_shrink(models):
    exact, small, share = models
    assert 0.9 < share < 1.0
    sizes = [sum(p.stat().st_size for p in f.glob("*.onnx")) for f in (exact, small)]
    assert sizes[1] < 0.6 * sizes[0]
    engines = [load_engine(f, "onnxruntime", 1) for f in (exact, small)]
    images = np.random.default_rng(1).integers(0, 256, (4, HEIGHT, WIDTH, 3), np.uint8)
    for live in range(1, 5):
        one, other = (e.segment(images[:live], np.arange(live)) for e in engines)
        assert (one.labels == other.labels).mean() > 0.8, "noise it was not calibrated on"
    card = engines[1].card
    assert card.provenance["int8"] == {"frames": 3, "of": engines[0].card.model_id}
    assert card.model_id != engines[0].card.model_id and card.name == "small"


def test_every_convolution_and_linear_layer_is_in_int8(models):
    for graph in quantize.GRAPHS:
        model = onnx.load(models[1] / f"{graph}.onnx").graph
        made_by = {out: node for node in model.node for out in node.output}
        weights = {e.name: e for e in model.initializer}
        for node in model.node:
            if node.op_type == "Conv":
                data, kernel = (made_by[name] for name in node.input[:2])
                assert data.op_type == kernel.op_type == "DequantizeLinear"
                assert weights[kernel.input[0]].data_type == onnx.TensorProto.INT8
            if node.op_type == "MatMul":
                assert not set(node.input) & weights.keys(), "a linear layer that is still exact"
                made = [made_by[name] for name in node.input]
                exact = [node for node in made if node.op_type != "DequantizeLinear"]
                assert len(exact) in (0, 2), "attention stays exact, all of it"
                linear = [n for n in made if n.input[0] in weights and not exact]
                assert exact or linear
        # Nothing is rounded but what a convolution or a linear layer reads.
        readers = {name: [] for node in model.node for name in [*node.output, *node.input]}
        for node in model.node:
            for name in node.input:
                readers[name].append(node.op_type)
        rounded = {node.output[0] for node in model.node if node.op_type == "DequantizeLinear"}
        assert all(set(readers[name]) & set(quantize.QUANTISED) for name in rounded)


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_tensorrt_can_read_it(models, half):
    for graph in quantize.GRAPHS:
        model = onnx.load(models[1] / f"{graph}.onnx")
        assert unsupported(in_half_precision(model) if half else model) == []


def test_what_cannot_be_quantised_is_refused(models, street, tmp_path):
    with pytest.raises(ModelError, match="overwrite"):
        quantize.main([str(models[0]), str(models[0]), "--data", str(street), "--workers", "0"])
    again = [str(models[1]), str(tmp_path / "x"), "--data", str(street), "--workers", "0"]
    with pytest.raises(ModelError, match="quantised already"):
        quantize.main(again)
    assert not (tmp_path / "x").exists()
    with pytest.raises(SystemExit):
        quantize.main([*again, "--frames", "0"])
