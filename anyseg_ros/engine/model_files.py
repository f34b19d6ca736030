"""A model folder's graphs: found, and held against each other and their card, whatever the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from anyseg_ros.engine.errors import ModelError
from anyseg_ros.engine.model_card import ModelCard

ENCODE_INPUTS = {"images": "uint8", "modality_ids": "int64"}
SEGMENT_INPUTS = {"images": "uint8", "present": "bool"}
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
    images: int | None = None
    """number of images that the input takes; ``None`` where not fixed"""


def graph_path(model_dir: Path, graph: str) -> Path:
    """Path of a model's ``encode.onnx``, ``fuse.onnx`` or ``segment.onnx``.

    Raises:
        ModelError: if there is no such file.
    """
    path = model_dir / f"{graph}.onnx"
    if not path.is_file():
        raise ModelError(
            f"no model file {path}; a model is a folder with encode.onnx and fuse.onnx, or with "
            "segment.onnx alone"
        )
    return path


def is_segment_model(model_dir: Path) -> bool:
    """Whether a folder holds a model of the one graph ``segment``."""
    return (model_dir / "segment.onnx").is_file() and not (model_dir / "encode.onnx").is_file()


def check_segment(model_dir: Path, found: GraphInterface) -> ModelCard:
    """The card of a model of one graph that does what its card says.

    Raises:
        ModelError: naming the file and the contradiction.
    """
    path, card = model_dir / "segment.onnx", found.card
    if card.graph != "segment":
        raise ModelError(f"{path} holds the graph {card.graph!r}, expected 'segment'")
    if dict(found.inputs) != SEGMENT_INPUTS or not {"labels", "confidence"} <= set(found.outputs):
        raise ModelError(
            f"{path} takes {dict(found.inputs)} and gives {sorted(found.outputs)}; expected "
            f"{SEGMENT_INPUTS}, then labels and confidence"
        )
    expected = (card.input_height, card.input_width)
    if found.image_size != expected:
        raise ModelError(
            f"{path} takes images of {found.image_size} (height, width), but its card says {expected}"
        )
    if found.images != len(card.modalities):
        raise ModelError(
            f"{path} takes {found.images} images, but its card names {len(card.modalities)} modalities"
        )
    return card


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
