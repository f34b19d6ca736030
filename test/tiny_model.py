"""A real but tiny model in the engine's contract: average pooling and one linear layer.

Class k wins where the mean of the fused pictures is near ``LEVELS[k]``, so tests can predict labels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from anyseg_ros.classes import CITYSCAPES_19, ClassSet
from anyseg_ros.engine import ModelCard, Normalization
from anyseg_ros.engine.model_card import attach_card
from anyseg_ros.modalities import DEFAULT_ENCODINGS
from anyseg_ros.modality import MODALITIES, Modality

CLASSES = ClassSet(CITYSCAPES_19.names[:4], CITYSCAPES_19.colors[:4])
LEVELS = np.array([0.0, 85.0, 170.0, 255.0])


def tiny_card(
    width: int = 128, height: int = 64, modalities: tuple[Modality, ...] = MODALITIES, **changes
) -> ModelCard:
    values = {
        "name": "tiny",
        "classes": CLASSES,
        "encodings": {m: DEFAULT_ENCODINGS[m] for m in modalities},
        "input_width": width,
        "input_height": height,
        "normalization": {m: Normalization((0.0,) * 3, (1.0,) * 3) for m in modalities},
        "provenance": {"synthetic_only": True, "data": "none"},
        "model_id": "0123456789abcdef",
    }
    return ModelCard(**{**values, **changes})


def _save(graph: onnx.GraphProto, path: Path, card: ModelCard) -> None:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    attach_card(path, card)


def write_tiny_model(folder: Path, card: ModelCard | None = None) -> Path:
    """Write ``encode.onnx`` and ``fuse.onnx`` into ``folder``; returns it."""
    card = card or tiny_card()
    height, width = card.input_height, card.input_width
    folder.mkdir(parents=True, exist_ok=True)

    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], perm=[0, 3, 1, 2]),
        # The ids must be used, or the exporter's contract would not be the runtime's.
        helper.make_node("Cast", ["modality_ids"], ["ids"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["ids", "zero"], ["nothing"]),
        helper.make_node("Reshape", ["nothing", "column"], ["bias"]),
        helper.make_node("Add", ["nchw", "bias"], ["x"]),
    ]
    outputs = []
    for level in range(4):
        stride = 4 * 2**level
        nodes.append(
            helper.make_node(
                "AveragePool", ["x"], [f"f{level + 1}"],
                kernel_shape=[stride, stride], strides=[stride, stride],
            )
        )  # fmt: skip
        outputs.append(
            helper.make_tensor_value_info(
                f"f{level + 1}", TensorProto.FLOAT, ["k", 3, height // stride, width // stride]
            )
        )
    encode = helper.make_graph(
        nodes, "encode",
        [
            helper.make_tensor_value_info("images", TensorProto.UINT8, ["k", height, width, 3]),
            helper.make_tensor_value_info("modality_ids", TensorProto.INT64, ["k"]),
        ],
        outputs,
        [
            numpy_helper.from_array(np.array(0.0, np.float32), "zero"),
            numpy_helper.from_array(np.array([-1, 1, 1, 1], np.int64), "column"),
        ],
    )  # fmt: skip
    _save(encode, folder / "encode.onnx", card.for_graph("encode"))

    # Squared distance to each level, up to a constant: 2 * level * mean - level ** 2.
    weight = np.repeat(2 * LEVELS[:, None] / 3, 3, 1).astype(np.float32)[..., None, None] / 100
    bias = (-(LEVELS**2) / 100).astype(np.float32)
    nodes, inputs, means = [], [], []
    for level in range(4):
        stride = 4 * 2**level
        name = f"f{level + 1}"
        inputs.append(
            helper.make_tensor_value_info(
                name, TensorProto.FLOAT, ["m", 3, height // stride, width // stride]
            )
        )
        nodes.append(helper.make_node("ReduceMean", [name], [f"mean{level}"], axes=[0], keepdims=1))
        nodes.append(
            helper.make_node(
                "Resize", [f"mean{level}", "", "", "size"], [f"up{level}"], mode="nearest"
            )
        )
        means.append(f"up{level}")
    nodes += [
        # Only the finest level decides; the others are read so that every input is used.
        helper.make_node("Sum", means[1:], ["coarse"]),
        helper.make_node("Mul", ["coarse", "zero"], ["nothing"]),
        helper.make_node("Add", [means[0], "nothing"], ["mean"]),
        helper.make_node("Conv", ["mean", "weight", "bias"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["argmax"], axis=1, keepdims=0),
        helper.make_node("Cast", ["argmax"], ["labels1"], to=TensorProto.UINT8),
        helper.make_node("Squeeze", ["labels1", "first"], ["labels"]),
        helper.make_node("Softmax", ["logits"], ["softmax"], axis=1),
        helper.make_node("ReduceMax", ["softmax"], ["best"], axes=[1], keepdims=0),
        helper.make_node("Mul", ["best", "byte"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["confidence1"], to=TensorProto.UINT8),
        helper.make_node("Squeeze", ["confidence1", "first"], ["confidence"]),
    ]
    fuse = helper.make_graph(
        nodes, "fuse", inputs,
        [
            helper.make_tensor_value_info("labels", TensorProto.UINT8, [height, width]),
            helper.make_tensor_value_info("confidence", TensorProto.UINT8, [height, width]),
        ],
        [
            numpy_helper.from_array(np.array([1, 3, height, width], np.int64), "size"),
            numpy_helper.from_array(np.array([0], np.int64), "first"),
            numpy_helper.from_array(np.array(0.0, np.float32), "zero"),
            numpy_helper.from_array(np.array(255.0, np.float32), "byte"),
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(bias, "bias"),
        ],
    )  # fmt: skip
    _save(fuse, folder / "fuse.onnx", card.for_graph("fuse"))
    return folder
