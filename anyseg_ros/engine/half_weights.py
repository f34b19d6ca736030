"""Weights kept as half floats in an ONNX file: half its size, while all is computed in float32.

A packed weight is a half initializer and a Cast that gives the float32 tensor of the old name. ONNX Runtime
and OpenVINO fold the cast as they load; what works on the graph itself (TensorRT, quantising, training on it)
takes :func:`unpack_weights` first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_SUFFIX = ".half"
_LEAST = 256
"""Values from which a weight is worth a cast."""


def pack_weights(model: Any) -> Any:
    """Store each float32 weight of an ONNX model whose values are half floats as such, in place.

    Nothing else is rounded: biases and weights that half floats cannot hold stay.
    """
    import onnx

    casts = []
    for entry in model.graph.initializer:
        if entry.data_type != onnx.TensorProto.FLOAT or len(entry.dims) < 2:
            continue
        value = onnx.numpy_helper.to_array(entry)
        with np.errstate(over="ignore"):
            half = value.astype(np.float16)
        if value.size < _LEAST or not np.array_equal(half.astype(np.float32), value):
            continue
        name = entry.name
        entry.CopyFrom(onnx.numpy_helper.from_array(half, name + _SUFFIX))
        casts.append(
            onnx.helper.make_node(
                "Cast", [name + _SUFFIX], [name], name=f"{name}.cast", to=onnx.TensorProto.FLOAT
            )
        )
    nodes = [*casts, *model.graph.node]  # before those that use them
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def unpack_weights(model: Any) -> Any:
    """Undo :func:`pack_weights`, in place."""
    import onnx

    packed = {entry.name: entry for entry in model.graph.initializer}
    rest = []
    for node in model.graph.node:
        entry = packed.get(node.input[0]) if node.op_type == "Cast" and node.input else None
        if entry is None or entry.name != node.output[0] + _SUFFIX:
            rest.append(node)
            continue
        value = onnx.numpy_helper.to_array(entry).astype(np.float32)
        entry.CopyFrom(onnx.numpy_helper.from_array(value, node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(rest)
    return model
