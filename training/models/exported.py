"""An exported model back as a network that can be trained: how to fine-tune what was shipped as graphs.

Exporting folds the head's projections, its fuse convolution and its batch norm into one 1x1 convolution a
level, ``L_i c_i + b_i``, and each norm of a fast encoder into its convolution. What they were is lost, what
they compute is not: projections ``L_i, b_i``, a fuse convolution of identities and a batch norm that changes
nothing give the same logits, and a norm that only adds gives the bias of its convolution. Such norms know no
statistics of their data, so they have to stay as they are, which ``frozen_norm`` of the network's settings
says.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from torch import Tensor, nn

from anyseg_ros.engine.errors import ModelError
from anyseg_ros.engine.half_weights import unpack_weights
from anyseg_ros.engine.model_card import ModelCard, card_from_metadata
from anyseg_ros.engine.model_files import graph_path
from training.models.head import LEVELS
from training.models.segmentor import (
    AnymodalSegmentor,
    FusionWeights,
    NormalizationConfig,
    SegmentorConfig,
)
from training.models.strict import CheckpointError, fast_size, load_strictly, mit_size

FUSION_WEIGHTS = "fusion_weights"
"""What a card's provenance calls them; absent for a plain mean."""


def import_exported(folder: Path) -> tuple[AnymodalSegmentor, ModelCard]:
    """Read ``encode.onnx`` and ``fuse.onnx`` as ``training/export.py`` writes them.

    Returns:
        The network in evaluation mode, with ``frozen_norm``, and the model's card.

    Raises:
        CheckpointError: if a graph is missing or damaged, or is no such network: Linear Fusion, INT8.
    """
    card, weights = _read(folder, "encode")
    _, head = _read(folder, "fuse")
    early = 1 + max((int(n.split(".")[1]) for n in weights if n.startswith("stages.")), default=-1)
    for name in [name for name in head if name.startswith("late.")]:
        _, stage, rest = name.split(".", 2)
        weights[f"stages.{early + int(stage)}.{rest}"] = head.pop(name)
    encoder = {
        # The MLPs' linear layers are exported as 1x1 convolutions.
        f"encoder.{name}": value.flatten(1) if ".mlp.fc" in name and value.ndim == 4 else value
        for name, value in weights.items()
    }
    try:
        if "encoder.stages.0.0.conv.weight" in encoder:
            size = fast_size(encoder, folder)
            encoder = _with_norms(encoder)
        else:
            size = mit_size(encoder, folder)
        classifier = head["head.classifier.weight"]
        levels = [
            (head[f"head.levels.{i}.weight"], head[f"head.levels.{i}.bias"]) for i in range(LEVELS)
        ]
        bias = head["head.classifier.bias"]
    except KeyError as error:
        raise CheckpointError(
            f"{folder} has no weights {error.args[0]}: only exported floating-point models that "
            "average modalities can be trained on"
        ) from None
    width = len(levels[0][0])
    weighed = card.provenance.get(FUSION_WEIGHTS)
    network = AnymodalSegmentor(
        SegmentorConfig(
            encoder=size,
            late_stages=LEVELS - early,
            head_width=width,
            classes=len(classifier),
            normalization=NormalizationConfig(
                **{
                    f"{modality.label}_{key}": getattr(card.normalization[modality], key)
                    for modality in card.modalities
                    for key in ("mean", "std")
                }
            ),
            frozen_norm=True,
            fusion_weights=None if weighed is None else FusionWeights(**weighed),
        )
    )
    unfolded = {
        "head.fuse.weight": torch.eye(width).repeat(1, LEVELS)[:, :, None, None],
        **_norm("head.norm", torch.zeros(width)),
        "head.classifier.weight": classifier,
        "head.classifier.bias": bias,
    }
    for index, (weight, shift) in enumerate(levels):
        unfolded[f"head.projections.{index}.weight"] = weight[:, :, 0, 0]
        unfolded[f"head.projections.{index}.bias"] = shift
    own = {"mean", "std"} | {n for n in network.state_dict() if n.endswith("num_batches_tracked")}
    load_strictly(network, {**encoder, **unfolded}, own, folder)
    return network.eval(), card


def _norm(name: str, bias: Tensor) -> dict[str, Tensor]:
    """Of a batch norm that adds ``bias`` and does nothing else."""
    return {
        f"{name}.weight": torch.ones_like(bias),
        f"{name}.bias": bias,
        f"{name}.running_mean": torch.zeros_like(bias),
        f"{name}.running_var": torch.full_like(bias, 1.0 - nn.BatchNorm2d(1).eps),
    }


def _with_norms(folded: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A fast encoder's weights: the bias of each folded convolution is that of a norm after it."""
    weights = {}
    for name, value in folded.items():
        if name.endswith(".conv.bias"):
            weights.update(_norm(name.removesuffix("conv.bias") + "norm", value))
        else:
            weights[name] = value
    return weights


def _read(folder: Path, graph: str) -> tuple[ModelCard, dict[str, Tensor]]:
    """A graph's card and its weights by their names in the network."""
    try:
        path = graph_path(folder, graph)
        model = unpack_weights(onnx.load(str(path)))
        card = card_from_metadata({e.key: e.value for e in model.metadata_props}, path)
    except ModelError as error:
        raise CheckpointError(str(error)) from None
    except (OSError, DecodeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from None
    stored = {i.name: torch.from_numpy(_array(i)) for i in model.graph.initializer}
    weights = {name: value for name, value in stored.items() if name.endswith((".weight", ".bias"))}
    # A linear layer is a product with the turned weight, which lost its name, and a sum with the bias.
    products = {n.output[0]: n.input[1] for n in model.graph.node if n.op_type == "MatMul"}
    for node in model.graph.node:
        if node.op_type != "Add":
            continue
        names = [name for name in node.input if name.endswith(".bias")]
        others = [products[name] for name in node.input if products.get(name) in stored]
        if names and others:
            weights[names[0].removesuffix("bias") + "weight"] = stored[others[0]].T.contiguous()
    return card, weights


def _array(initializer: Any) -> Any:
    return numpy_helper.to_array(initializer).copy()  # torch wants to be able to write
