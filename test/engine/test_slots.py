"""Models of one ``segment`` graph run behind the same engine protocol, and are checked as strictly."""

import importlib.util
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_model import LEVELS, tiny_card

from anyseg_ros.engine import ModelError, load_engine
from anyseg_ros.engine.model_card import attach_card
from anyseg_ros.engine.slots import fill_slots, slot_features
from anyseg_ros.modality import Modality

ENGINES = [
    "onnxruntime",
    pytest.param(
        "openvino_fp32",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed"
        ),
    ),
]


def write_segment_model(folder, card=None, slots=None):
    """Class k wins where the mean of the present pictures is near ``LEVELS[k]``."""
    card = card or tiny_card()
    count = slots or len(card.modalities)
    height, width = card.input_height, card.input_width
    folder.mkdir(parents=True, exist_ok=True)
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["present"], ["share"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["share", "column"], ["weight"]),
        helper.make_node("Mul", ["pixels", "weight"], ["seen"]),
        helper.make_node("ReduceSum", ["seen", "first"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["share", "first"], ["live"], keepdims=0),
        helper.make_node("Div", ["sum", "live"], ["mean3"]),
        helper.make_node("ReduceMean", ["mean3"], ["mean"], axes=[2], keepdims=1),
        helper.make_node("Mul", ["mean", "slope"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["argmax"], axis=2, keepdims=0),
        helper.make_node("Cast", ["argmax"], ["labels"], to=TensorProto.UINT8),
        helper.make_node("Softmax", ["logits"], ["softmax"], axis=2),
        helper.make_node("ReduceMax", ["softmax"], ["best"], axes=[2], keepdims=0),
        helper.make_node("Mul", ["best", "byte"], ["scaled_best"]),
        helper.make_node("Cast", ["scaled_best"], ["confidence"], to=TensorProto.UINT8),
    ]
    constants = {
        "column": np.array([-1, 1, 1, 1], np.int64),
        "first": np.array([0], np.int64),
        "slope": (2 * LEVELS / 100).astype(np.float32),
        "bias": (-(LEVELS**2) / 100).astype(np.float32),
        "byte": np.array(255.0, np.float32),
    }
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "segment",
        [
            info("images", TensorProto.UINT8, [count, height, width, 3]),
            info("present", TensorProto.BOOL, [count]),
        ],
        [info(name, TensorProto.UINT8, [height, width]) for name in ("labels", "confidence")],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(folder / "segment.onnx"))
    attach_card(folder / "segment.onnx", card.for_graph("segment"))
    return folder


def pictures(*values):
    return np.stack([np.full((64, 128, 3), v, np.uint8) for v in values])


@pytest.mark.parametrize("name", ENGINES)
def test_labels_come_from_the_live_slots_only(tmp_path, name):
    engine = load_engine(write_segment_model(tmp_path / "m"), name)
    images, ids = pictures(0, 255, 255), np.array([0, 1, 3])
    for members, expected in (([0], 0), ([1], 3), ([0, 1, 2], 2), ([2, 0, 1], 2)):
        output = engine.segment(images[members], ids[members])
        assert output.labels.shape == output.confidence.shape == (64, 128)
        assert output.labels.dtype == output.confidence.dtype == np.uint8
        assert (output.labels == expected).all(), members
    engine.close()


@pytest.mark.parametrize("name", ENGINES)
def test_what_was_encoded_before_can_be_fused_later(tmp_path, name):
    engine = load_engine(write_segment_model(tmp_path / "m"), name)
    camera = engine.encode(pictures(255), np.array([Modality.CAMERA]))[0]
    for value, expected in ((60, 2), (255, 3)):
        lidar = engine.encode(pictures(value), np.array([Modality.LIDAR]))[0]
        assert (engine.fuse([camera, lidar]).labels == expected).all()
    with pytest.raises(ValueError, match="nothing to fuse"):
        engine.fuse([])
    assert engine.encode(pictures(1)[:0], np.empty(0, np.int64)) == []


def test_slots_follow_the_card():
    card = tiny_card(modalities=(Modality.DEPTH, Modality.LIDAR))
    images, present = fill_slots(slot_features(pictures(7), np.array([3])), card)
    assert present.tolist() == [False, True]
    assert not images[0].any() and (images[1] == 7).all()
    with pytest.raises(ValueError, match="not trained on camera"):
        fill_slots(slot_features(pictures(7), np.array([0])), card)
    with pytest.raises(ValueError, match="two images of depth"):
        fill_slots(slot_features(pictures(7, 8), np.array([1, 1])), card)


@pytest.mark.parametrize("name", ENGINES)
def test_models_that_contradict_their_card_are_refused(tmp_path, name):
    folder = write_segment_model(tmp_path / "m")
    attach_card(folder / "segment.onnx", tiny_card(width=256).for_graph("segment"))
    with pytest.raises(ModelError, match="its card says"):
        load_engine(folder, name)
    attach_card(folder / "segment.onnx", tiny_card())
    with pytest.raises(ModelError, match="holds the graph 'encode', expected 'segment'"):
        load_engine(folder, name)
    three = write_segment_model(tmp_path / "three", slots=3)
    with pytest.raises(ModelError, match=r"takes 3 images.* 4 modalities"):
        load_engine(three, name)


@pytest.mark.parametrize("name", ENGINES)
def test_another_graph_under_the_name_is_refused(tmp_path, name, tiny_model):
    folder = tmp_path / "m"
    folder.mkdir()
    shutil.copy(tiny_model / "encode.onnx", folder / "segment.onnx")
    attach_card(folder / "segment.onnx", tiny_card().for_graph("segment"))
    with pytest.raises(ModelError, match=r"segment\.onnx takes .*modality_ids"):
        load_engine(folder, name)
