"""Export a checkpoint: ``python training/export.py runs/first_student/checkpoints/best.ckpt models/<name>``.

Writes ``encode.onnx`` and ``fuse.onnx``, or ``segment.onnx`` of a Linear Fusion network, with the model card
inside, and checks them in ONNX Runtime against torch for every number of live sensors before it says they are
good.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # called as a script: make the repository importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import onnx
import torch

from anyseg_ros.classes import ClassSet
from anyseg_ros.engine import EngineError
from anyseg_ros.engine.base import EngineOutput
from anyseg_ros.engine.half_weights import pack_weights
from anyseg_ros.engine.model_card import ModelCard, attach_card, weights_hash
from anyseg_ros.engine.onnx import OnnxRuntimeEngine
from anyseg_ros.modalities.encoding import EncodingSpec
from anyseg_ros.modality import MODALITIES, Modality
from training.models.checkpoint import TrainedSegmentor, load_trained
from training.models.exported import FUSION_WEIGHTS
from training.models.graphs import (
    ENSEMBLE,
    EncodeGraph,
    FuseGraph,
    SegmentGraph,
    add_network_options,
    exportable,
    exportable_segment,
)
from training.models.linear_fusion import LinearFusionSegmentor
from training.models.strict import CheckpointError

LABEL_AGREEMENT = 0.9995
"""Share of pixels that must have the same label in torch and ONNX Runtime; the rest are near ties."""
FEATURE_TOLERANCE = 1e-3
"""Largest difference of a feature allowed between torch and ONNX Runtime (features are of order 1)."""


class ExportError(RuntimeError):
    """An exported graph that does not do what the network does."""


def make_card(trained: TrainedSegmentor, name: str, metrics: dict[str, Any]) -> ModelCard:
    """The model card of a trained network, from what its checkpoint says."""
    data = trained.data
    weights = {key: value.numpy() for key, value in trained.network.state_dict().items()}
    fusion_weights = trained.network.config.fusion_weights
    if fusion_weights is not None:
        weights[FUSION_WEIGHTS] = np.array([fusion_weights.of(m) for m in MODALITIES], np.float32)
    modalities = [Modality.from_label(label) for label in data["modalities"]]
    if isinstance(trained.network, LinearFusionSegmentor):
        modalities = list(trained.network.modalities)  # a slot each, also of those without data
    return ModelCard(
        name=name,
        classes=ClassSet(
            tuple(data["class_names"]), tuple((r, g, b) for r, g, b in data["class_colors"])
        ),
        encodings={
            m: EncodingSpec(
                data["encodings"][m.label]["name"], dict(data["encodings"][m.label]["settings"])
            )
            for m in modalities
        },
        input_width=int(data["input_width"]),
        input_height=int(data["input_height"]),
        normalization={m: trained.network.config.normalization.of(m) for m in modalities},
        provenance={
            "data": data["name"],
            "synthetic_only": bool(data["synthetic_only"]),
            "method": trained.method["name"],
            "modality_dropout": bool(data["modality_dropout"]),
            "seeds": {"method": trained.method["seed"], "data": data["seed"]},
            "steps": trained.steps,
            **{key: data[key] for key in ("label_fraction", "label_unit") if key in data},
            **{
                key: trained.method[key]
                for key in ("weights", "start_from", "imagenet")
                if key in trained.method
            },
            "encoder": trained.network.config.encoder,
            "late_stages": trained.network.config.late_stages,
            **({FUSION_WEIGHTS: asdict(fusion_weights)} if fusion_weights is not None else {}),
            "metrics": metrics,
        },
        model_id=weights_hash(weights),
    )


def export(
    trained: TrainedSegmentor,
    folder: Path,
    name: str,
    metrics: dict[str, Any] | None = None,
    prediction: str = ENSEMBLE,
    output_stride: int = 1,
    half_weights: bool = False,
) -> ModelCard:
    """Write the graphs of a model and check them against torch.

    Args:
        trained: the network; its layers are rewritten in place for export.
        folder: the model folder, created if need be.
        name: name of the model, for its card.
        metrics: measured quality, for its card.
        prediction: which prediction of a Linear Fusion network.
        output_stride: 2 for decisions on every second pixel and row only, of other networks.
        half_weights: round weights to half floats and store them as such; they are computed with in float32.

    Raises:
        ExportError: if ONNX Runtime and torch disagree, the folder cannot be made, or the network has no
            such prediction.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"cannot make the folder {folder}: {error.strerror}") from None
    card = make_card(trained, name, metrics or {})
    if half_weights:
        card = replace(
            card,
            model_id=weights_hash({"of": np.frombuffer(card.model_id.encode(), np.uint8)}),
            provenance={**card.provenance, "half_weights": True},
        )
    height, width = card.input_height, card.input_width
    if isinstance(trained.network, LinearFusionSegmentor):
        try:
            segment = exportable_segment(trained.network, height, width, prediction)
        except ValueError as error:
            raise ExportError(str(error)) from None
        if half_weights:
            round_weights(segment)
        write_segment(segment, folder, len(card.modalities), height, width)
        _finish(folder, ("segment",), card, half_weights)
        check_segment(segment, folder)
        return card.for_graph("segment")
    encode, fuse = exportable(trained.network, height, width, output_stride)
    if half_weights:
        round_weights(encode, fuse)
    write_graphs(encode, fuse, folder, height, width)
    _finish(folder, ("encode", "fuse"), card, half_weights)
    check(encode, fuse, folder)
    return card


def round_weights(*graphs: torch.nn.Module) -> None:
    """Round weights, not biases, to half floats, in place: torch is then compared as it was written."""
    with torch.no_grad():
        for graph in graphs:
            for value in graph.parameters():
                if value.ndim > 1:
                    value.copy_(value.half())


def _finish(folder: Path, graphs: Sequence[str], card: ModelCard, half_weights: bool) -> None:
    for graph in graphs:
        path = folder / f"{graph}.onnx"
        if half_weights:
            onnx.save(pack_weights(onnx.load(path)), path)
        attach_card(path, card.for_graph(graph))


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without torch's remarks on packages that are not needed and names that are not used."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def write_graphs(
    encode: EncodeGraph, fuse: FuseGraph, folder: Path, height: int, width: int
) -> None:
    """Write ``encode.onnx`` (K dynamic) and ``fuse.onnx`` (M dynamic) for inputs of one size."""
    images = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    ids = torch.tensor([0, 1])
    with torch.no_grad(), _quiet_exporter():
        maps = encode(images, ids)
        features = encode.features
        count = torch.export.Dim("K", min=1, max=8)
        torch.onnx.export(
            encode,
            (images, ids),
            str(folder / "encode.onnx"),
            dynamo=True,
            input_names=["images", "modality_ids"],
            output_names=features,
            dynamic_shapes={"images": {0: count}, "modality_ids": {0: count}},
            external_data=False,
            verbose=False,
        )
        live = torch.export.Dim("M", min=1, max=8)
        torch.onnx.export(
            fuse,
            maps,
            str(folder / "fuse.onnx"),
            dynamo=True,
            input_names=features,
            output_names=["labels", "confidence"],
            dynamic_shapes={"maps": tuple({0: live} for _ in features)},
            external_data=False,
            verbose=False,
        )


def write_segment(segment: SegmentGraph, folder: Path, slots: int, height: int, width: int) -> None:
    """Write ``segment.onnx`` for inputs of one size."""
    images = torch.zeros(slots, height, width, 3, dtype=torch.uint8)
    with torch.no_grad(), _quiet_exporter():
        torch.onnx.export(
            segment,
            (images, torch.ones(slots, dtype=torch.bool)),
            str(folder / "segment.onnx"),
            dynamo=True,
            input_names=["images", "present"],
            output_names=["labels", "confidence"],
            external_data=False,
            verbose=False,
        )


def check_segment(segment: SegmentGraph, folder: Path) -> None:
    """Compare the written graph with torch on random images for every number of live sensors.

    Raises:
        ExportError: saying by how much it differs.
    """
    engine = OnnxRuntimeEngine(folder)
    card = engine.card
    slots = np.array([int(m) for m in card.modalities], np.int64)
    rng = np.random.default_rng(0)
    shape = (len(slots), card.input_height, card.input_width, 3)
    for count in range(1, len(slots) + 1):
        live = np.sort(rng.permutation(len(slots))[:count])
        images = rng.integers(0, 256, shape, np.uint8)
        present = np.isin(np.arange(len(slots)), live)
        with torch.no_grad():
            labels, confidence = segment(torch.from_numpy(images), torch.from_numpy(present))
        output = engine.segment(images[live], slots[live])
        _compare("segment.onnx", count, output, labels, confidence)
    engine.close()


def _compare(
    graph: str, count: int, output: EngineOutput, labels: torch.Tensor, confidence: torch.Tensor
) -> None:
    agreement = float((output.labels == labels.numpy()).mean())
    off = int(np.abs(output.confidence.astype(int) - confidence.numpy().astype(int)).max())
    if agreement < LABEL_AGREEMENT or off > 2:
        raise ExportError(
            f"{graph}: {agreement:.4%} of the labels agree with torch, confidence differs by up to "
            f"{off} of 255 ({count} live)"
        )


def check(encode: EncodeGraph, fuse: FuseGraph, folder: Path) -> None:
    """Compare the written graphs with torch on random images for 1..4 live sensors.

    Raises:
        ExportError: naming the graph and by how much it differs.
    """
    engine = OnnxRuntimeEngine(folder)
    size = (engine.card.input_height, engine.card.input_width)
    rng = np.random.default_rng(0)
    for count in range(1, len(MODALITIES) + 1):
        ids = rng.permutation(len(MODALITIES))[:count].astype(np.int64)
        images = rng.integers(0, 256, (count, *size, 3), np.uint8)
        with torch.no_grad():
            maps = encode(torch.from_numpy(images), torch.from_numpy(ids))
            labels, confidence = fuse(*maps)
        features = engine.encode(images, ids)
        for level, expected in enumerate(maps):
            got = np.stack([f[level] for f in features])
            gap = float(np.abs(got - expected.numpy()).max())
            if gap > FEATURE_TOLERANCE:
                raise ExportError(
                    f"encode.onnx: map {level + 1} differs from torch by {gap:.2g} (K = {count})"
                )
        _compare("fuse.onnx", count, engine.fuse(features), labels, confidence)
    engine.close()


def add_export_options(parser: ArgumentParser) -> None:
    """Options of what is written: ``output_stride``, ``half_weights``, ``metrics``."""
    parser.add_argument(
        "--output-stride",
        type=int,
        default=1,
        choices=(1, 2),
        help="2 decides on every second pixel and row only, and repeats it: faster, borders a pixel coarser",
    )
    parser.add_argument(
        "--half-weights",
        action="store_true",
        help="store weights as half floats: half the size; all is computed in float32 as before",
    )
    parser.add_argument(
        "--metrics",
        type=read_metrics,
        help="JSON of training/evaluate.py; its figures go into the card",
    )


def read_metrics(path: str) -> dict[str, float]:
    """mIoU of each subset, and their mean, from a result file of ``training/evaluate.py``."""
    try:
        rows = json.loads(Path(path).read_text())["rows"]
        return {row["subset"]: row["miou"] for row in rows if row["condition"] == "all"}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArgumentTypeError(f"{path} is no result file of evaluate.py: {error!r}") from None


def main(arguments: list[str] | None = None) -> None:
    """Entry point; ``arguments`` default to those of the command line."""
    parser = ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path, help="model folder to write")
    add_network_options(parser)
    add_export_options(parser)
    parser.add_argument("--name", help="name in the model card; default: the folder's")
    options = parser.parse_args(arguments)
    trained = load_trained(options.checkpoint, options.weights)
    name = options.name or options.folder.name
    card = export(
        trained,
        options.folder,
        name,
        options.metrics,
        options.prediction,
        options.output_stride,
        options.half_weights,
    )
    size = sum(path.stat().st_size for path in options.folder.glob("*.onnx")) / 1e6
    print(f"{options.folder}: {card.name} {card.model_id}, {size:.1f} MB, checked against torch")


if __name__ == "__main__":
    try:
        main()
    except (CheckpointError, EngineError, ExportError) as error:
        sys.exit(f"export: {error}")
