"""A model folder's two graphs: found, and held against each other and their card, whatever the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from anyseg_ros.engine.errors import ModelError
from anyseg_ros.engine.model_card import ModelCard

ENCODE_INPUTS = {"images": "uint8", "modality_ids": "int64"}
GRAPHS = ("encode", "fuse")


@dataclass(frozen=True)
class GraphInterface:
    """What a graph takes and gives, as its engine read it from the file."""

    card: ModelCard
    inputs: Mapping[str, str]
    """name to numpy type name, in the graph's order"""
    outputs: Sequence[str]
    image_size: tuple[int | None, int | None] = (None, None)
    """height and width of the input ``images``; ``None`` where not fixed"""


def graph_path(model_dir: Path, graph: str) -> Path:
    """Path of a model's ``encode.onnx`` or ``fuse.onnx``.

    Raises:
        ModelError: if there is no such file.
    """
    path = model_dir / f"{graph}.onnx"
    if not path.is_file():
        raise ModelError(
            f"no model file {path}; a model is a folder with encode.onnx and fuse.onnx"
        )
    return path


def check_pair(model_dir: Path, encode: GraphInterface, fuse: GraphInterface) -> ModelCard:
    """The card of a model whose graphs belong together and do what it says.

    Raises:
        ModelError: naming the file and the contradiction.
    """
    for found, graph in ((encode, "encode"), (fuse, "fuse")):
        if found.card.graph != graph:
            raise ModelError(
                f"{model_dir / graph}.onnx holds the graph {found.card.graph!r}, expected {graph!r}"
            )
    card = encode.card
    if card.for_graph("fuse") != fuse.card:
        raise ModelError(
            f"{model_dir}: encode.onnx ({card.name}, {card.model_id}) and fuse.onnx "
            f"({fuse.card.name}, {fuse.card.model_id}) do not belong to the same model"
        )
    if dict(encode.inputs) != ENCODE_INPUTS:
        raise ModelError(
            f"{model_dir / 'encode.onnx'} takes {dict(encode.inputs)}, expected {ENCODE_INPUTS}"
        )
    taken = list(fuse.inputs)
    if list(encode.outputs) != taken or not {"labels", "confidence"} <= set(fuse.outputs):
        raise ModelError(
            f"{model_dir}: encode.onnx gives {list(encode.outputs)}, fuse.onnx takes {taken} and "
            f"gives {sorted(fuse.outputs)}; expected the same feature names, then labels and confidence"
        )
    expected = (card.input_height, card.input_width)
    if encode.image_size not in ((None, None), expected):
        raise ModelError(
            f"{model_dir / 'encode.onnx'} takes images of {encode.image_size} (height, width), "
            f"but its card says {expected}"
        )
    return card
