"""A real but tiny model of one graph with a slot a modality.

Class k wins where the mean of the present pictures is near ``LEVELS[k]``, as in ``tiny_model.py``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tiny_model import LEVELS, tiny_card

from anyseg_ros.engine import ModelCard
from anyseg_ros.engine.model_card import attach_card


def write_segment_model(
    folder: Path, card: ModelCard | None = None, slots: int | None = None
) -> Path:
    """Write ``segment.onnx`` into ``folder``; returns it.

    Args:
        card: of the model; that of the tiny model by default.
        slots: number of images, if it is to contradict the card.
    """
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
