"""The model card: a model's contract, carried inside its ONNX files as metadata.

The runtime reads classes, encodings, input size and normalisation from here, so that nothing is
configured twice. ``model_id`` ties the graphs of one model together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from anyseg_ros.classes import ClassSet
from anyseg_ros.engine.errors import ModelError
from anyseg_ros.modalities.encoding import EncodingSpec, resolve_settings
from anyseg_ros.modalities.errors import ModalityError
from anyseg_ros.modality import Modality

METADATA_KEY = "anyseg_model_card"
SCHEMA_VERSION = 1
GRAPH_KINDS = ("encode", "fuse", "segment")


@dataclass(frozen=True)
class Normalization:
    """``(pixel / 255 - mean) / std`` for each of the three channels; done inside the graph."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class ModelCard:
    """What a model segments, from which modality images, and where it comes from."""

    name: str
    classes: ClassSet
    encodings: Mapping[Modality, EncodingSpec]
    input_width: int
    input_height: int
    normalization: Mapping[Modality, Normalization]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Free-form, but ``synthetic_only`` (bool) and ``data`` are read by the node."""
    model_id: str = ""
    """Hash of the weights; the same in every graph of a model."""
    graph: str = "encode"
    """Which graph this file holds: ``encode``, ``fuse`` or ``segment``."""

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return tuple(sorted(self.encodings))

    @property
    def synthetic_only(self) -> bool:
        """Whether the training data was all synthetic."""
        return bool(self.provenance.get("synthetic_only", False))

    def for_graph(self, graph: str) -> ModelCard:
        """The same card for another graph of the model."""
        return replace(self, graph=graph)

    def to_json(self) -> str:
        return json.dumps(
            {
                "schema_version": SCHEMA_VERSION,
                "name": self.name,
                "graph": self.graph,
                "model_id": self.model_id,
                "input": {"width": self.input_width, "height": self.input_height},
                "classes": [
                    {"name": name, "color": list(color)}
                    for name, color in zip(self.classes.names, self.classes.colors, strict=True)
                ],
                "modalities": {
                    m.label: {
                        "encoding": self.encodings[m].name,
                        "settings": dict(self.encodings[m].settings),
                        "mean": list(self.normalization[m].mean),
                        "std": list(self.normalization[m].std),
                    }
                    for m in self.modalities
                },
                "provenance": dict(self.provenance),
            },
            sort_keys=True,
        )

    @classmethod
    def from_json(cls, text: str, where: str = "model card") -> ModelCard:
        """Read and check a card.

        Raises:
            ModelError: naming ``where`` and the field that is missing or wrong.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ModelError(f"{where}: the model card is no JSON: {error}") from None
        if not isinstance(data, dict):
            raise ModelError(f"{where}: the model card must be a JSON object")
        version = data.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ModelError(
                f"{where}: model card schema {version!r}; this version reads {SCHEMA_VERSION}"
            )
        try:
            card = cls._from_dict(data)
        except KeyError as error:
            raise ModelError(f"{where}: the model card has no {error}") from None
        except (TypeError, ValueError, AttributeError, ModalityError) as error:
            raise ModelError(f"{where}: {error}") from None
        return card

    @classmethod
    def _from_dict(cls, data: Mapping[str, Any]) -> ModelCard:
        encodings, normalization = {}, {}
        for label, entry in data["modalities"].items():
            modality = Modality.from_label(label)
            spec = EncodingSpec(str(entry["encoding"]), dict(entry["settings"]))
            resolve_settings(modality, spec)
            encodings[modality] = spec
            mean, std = (tuple(float(v) for v in entry[key]) for key in ("mean", "std"))
            if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
                raise ValueError(f"{label}: mean and std must be three numbers, std positive")
            normalization[modality] = Normalization(mean, std)
        if not encodings:
            raise ValueError("the model card names no modality")
        width, height = int(data["input"]["width"]), int(data["input"]["height"])
        if width < 32 or height < 32 or width % 32 or height % 32:
            raise ValueError(f"input {width}x{height}: both sides must be multiples of 32")
        if data["graph"] not in GRAPH_KINDS:
            raise ValueError(f"graph {data['graph']!r}; expected one of {', '.join(GRAPH_KINDS)}")
        classes = ClassSet(
            tuple(str(c["name"]) for c in data["classes"]),
            tuple((int(r), int(g), int(b)) for r, g, b in (c["color"] for c in data["classes"])),
        )
        return cls(
            name=str(data["name"]),
            classes=classes,
            encodings=encodings,
            input_width=width,
            input_height=height,
            normalization=normalization,
            provenance=dict(data.get("provenance", {})),
            model_id=str(data["model_id"]),
            graph=str(data["graph"]),
        )


def weights_hash(weights: Mapping[str, np.ndarray]) -> str:
    """A model's id: the first 16 hex digits of SHA-256 over its named weights."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name])
        digest.update(f"{name}:{array.dtype}:{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def attach_card(path: Path, card: ModelCard) -> None:
    """Write a card into an ONNX file (needs the package ``onnx``)."""
    import onnx

    model = onnx.load(str(path))
    kept = [entry for entry in model.metadata_props if entry.key != METADATA_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.helper.set_model_props(
        model, {**{entry.key: entry.value for entry in kept}, METADATA_KEY: card.to_json()}
    )
    onnx.save(model, str(path))


def card_from_metadata(metadata: Mapping[str, str], path: Path) -> ModelCard:
    """The card in an ONNX file's metadata.

    Raises:
        ModelError: if there is none, or it is not valid.
    """
    text = metadata.get(METADATA_KEY)
    if text is None:
        raise ModelError(
            f"{path} has no model card (ONNX metadata {METADATA_KEY!r}): it is no AnySeg model; "
            "export one with training/export.py"
        )
    return ModelCard.from_json(text, str(path))
