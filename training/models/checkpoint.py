"""Reading this project's checkpoints, weights only: nothing is unpickled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from training.models.segmentor import AnymodalSegmentor, NormalizationConfig, SegmentorConfig

_PREFIX = "network."


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and what is wrong."""


@dataclass(frozen=True)
class TrainedSegmentor:
    """A network and where it comes from."""

    network: AnymodalSegmentor
    """in evaluation mode, on the CPU"""
    steps: int
    method: dict[str, Any]
    """name and seed of the method"""
    data: dict[str, Any]
    """what the data module said about itself"""


def load_trained(path: Path) -> TrainedSegmentor:
    """Read a checkpoint that ``training/train.py`` wrote. Every weight must be there and fit.

    Raises:
        CheckpointError: if the file is missing, damaged, or no checkpoint of this project.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint {path}")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for damaged or foreign files
        raise CheckpointError(f"{path} is no readable checkpoint: {error}") from None
    if not isinstance(stored, dict) or not {"segmentor", "state_dict"} <= set(stored):
        raise CheckpointError(f"{path} is no checkpoint of training/train.py")
    settings = dict(stored["segmentor"])
    normalization = NormalizationConfig(
        **{name: tuple(values) for name, values in settings.pop("normalization").items()}
    )
    network = AnymodalSegmentor(SegmentorConfig(**settings, normalization=normalization))
    weights = {
        name.removeprefix(_PREFIX): value
        for name, value in stored["state_dict"].items()
        if name.startswith(_PREFIX)
    }
    try:
        network.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return TrainedSegmentor(
        network.eval(), int(stored["global_step"]), dict(stored["method"]), dict(stored["data"])
    )
