"""Weights that must fit: what the readers of checkpoints, published files and exported graphs share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from training.models.encoder import MIT_SIZES, MitSize
from training.models.fast_encoder import FAST_SIZES, FastSize


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and what is wrong."""


def mit_size(weights: Mapping[str, Tensor], path: Path) -> str:
    """Name of the MiT whose weights these are, by this project's names.

    Raises:
        KeyError: naming a weight that is missing.
        CheckpointError: if no MiT has such widths and depths.
    """
    channels = [len(weights[f"encoder.stages.{s}.norm.weight"]) for s in range(4)]
    depths = [
        sum(f"encoder.stages.{s}.blocks.{i}.norm1.weight" in weights for i in range(100))
        for s in range(4)
    ]
    for name, size in MIT_SIZES.items():
        if size == MitSize(tuple(channels), tuple(depths)):  # type: ignore[arg-type]
            return name
    raise CheckpointError(f"{path}: no MiT has channels {channels} and depths {depths}")


def fast_size(weights: Mapping[str, Tensor], path: Path) -> str:
    """Name of the fast encoder whose weights these are, its norms folded, by this project's names.

    Raises:
        KeyError: naming a weight that is missing.
        CheckpointError: if none has such widths and depths.
    """
    channels = tuple(len(weights[f"encoder.stages.{s}.0.conv.weight"]) for s in range(4))
    hidden = len(weights["encoder.stages.0.1.widen.conv.weight"])
    depths = tuple(
        sum(f"encoder.stages.{s}.{i}.widen.conv.weight" in weights for i in range(1, 100))
        for s in range(4)
    )
    for name, size in FAST_SIZES.items():
        if size == FastSize(channels, depths, hidden // channels[0]):  # type: ignore[arg-type]
            return name
    raise CheckpointError(f"{path}: no fast encoder has channels {channels} and depths {depths}")


def load_strictly(
    module: torch.nn.Module, weights: Mapping[str, Tensor], own: set[str], path: Path
) -> None:
    """Give a module ``weights``, each of which must fit; only those in ``own`` may be missing.

    Raises:
        CheckpointError: naming ``path`` and the keys that are missing, unknown or of another shape.
    """
    expected = module.state_dict()
    missing = sorted(set(expected) - own - set(weights))
    unknown = sorted(set(weights) - set(expected))
    shapes = [
        f"{name} {tuple(value.shape)} instead of {tuple(expected[name].shape)}"
        for name, value in sorted(weights.items())
        if name in expected and value.shape != expected[name].shape
    ]
    problems = [
        f"{what}: {listed(names)}"
        for what, names in (("missing", missing), ("unknown", unknown), ("wrong shape", shapes))
        if names
    ]
    if problems:
        raise CheckpointError(f"{path} does not fit; {'; '.join(problems)}")
    module.load_state_dict({**expected, **weights})


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
