"""What TensorRT's published table says of ONNX operators, and what of a graph it does not have."""

import onnx

# Every operator that this project's graphs may use, with the tensor types of ONNX-TensorRT's table
# "Supported ONNX Operators" (github.com/onnx/onnx-tensorrt, docs/operators.md, release 10.1 GA).
_FLOAT = {"float32", "float16"}
_NUMBER = _FLOAT | {"int32", "int64"}
_ANY = _NUMBER | {"bool"}
SUPPORTED = {
    "Add": _NUMBER,
    "ArgMax": _NUMBER,
    "Cast": _ANY | {"uint8"},
    "Clip": _FLOAT,
    "Concat": _ANY,
    "Conv": _FLOAT,
    "DequantizeLinear": _FLOAT | {"int8"},
    "Div": _NUMBER,
    "Exp": _FLOAT,
    "Expand": _ANY,
    "Gather": _ANY,
    "GatherND": _ANY,
    "Gelu": _NUMBER | {"int8"},
    "LayerNormalization": _FLOAT,
    "MatMul": _FLOAT,
    "Max": _NUMBER,
    "Mul": _NUMBER,
    "QuantizeLinear": _FLOAT | {"int8"},
    "Reciprocal": _FLOAT,
    "ReduceMax": _NUMBER,
    "ReduceMean": _NUMBER,
    "ReduceSum": _NUMBER,
    "Relu": _NUMBER,
    "Reshape": _ANY,
    "Resize": _FLOAT,
    "Round": _FLOAT,
    "Shape": _ANY,
    "Slice": _ANY,
    "Softmax": _FLOAT,
    "Split": _ANY,
    "Squeeze": _ANY,
    "Sub": _NUMBER,
    "TopK": _NUMBER,
    "Transpose": _ANY,
    "Unsqueeze": _ANY,
}
NEWEST_OPSET = 20
CONSTANT_INPUTS = {
    "Conv": (1,),
    "ReduceMax": (1,),
    "ReduceMean": (1,),
    "ReduceSum": (1,),
    "Slice": (3,),
    "Squeeze": (1,),
    "TopK": (1,),
    "Unsqueeze": (1,),
}
"""Inputs that the table wants as initializers."""
SIZE_INPUTS = {"Resize": 3}
"""The input that is a shape, of which the table's types do not speak."""
LARGEST_TOP_K = 3839


def tensor_types(model):
    """numpy type name of each tensor of a model, as shape inference finds it."""
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    graph = model.graph
    types = {
        entry.name: entry.type.tensor_type.elem_type
        for entry in [*graph.input, *graph.output, *graph.value_info]
    }
    types |= {entry.name: entry.data_type for entry in graph.initializer}
    return {name: onnx.helper.tensor_dtype_to_np_dtype(kind).name for name, kind in types.items()}


def unsupported(model):
    """What of a model TensorRT's table does not have, in words."""
    found = []
    types = tensor_types(model)
    constants = {entry.name for entry in model.graph.initializer}
    constants |= {  # weights in INT8 are constants as well
        node.output[0]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and constants.issuperset(node.input)
    }
    values = {e.name: onnx.numpy_helper.to_array(e) for e in model.graph.initializer}
    ends = {entry.name for entry in [*model.graph.input, *model.graph.output]}
    found += [
        f"opset {opset.version}"
        for opset in model.opset_import
        if opset.domain == "" and opset.version > NEWEST_OPSET
    ]
    for node in model.graph.node:
        if node.op_type not in SUPPORTED:
            found.append(node.op_type)
            continue
        sizes = SIZE_INPUTS.get(node.op_type)
        for name in [n for i, n in enumerate(node.input) if i != sizes] + list(node.output):
            if name and types[name] not in SUPPORTED[node.op_type]:
                found.append(f"{node.op_type} of {types[name]}")
            if name and types[name] == "uint8" and name not in ends:
                found.append(f"uint8 inside the graph: {name}")
        found += [
            f"{node.op_type} with computed input {index}"
            for index in CONSTANT_INPUTS.get(node.op_type, ())
            if index < len(node.input) and node.input[index] not in constants
        ]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and values[node.input[2]].any():
            found.append(f"{node.op_type} with a zero point")
        if node.op_type == "TopK" and values[node.input[1]].item() > LARGEST_TOP_K:
            found.append("TopK with too large a K")
    return found
