"""Reading this project's checkpoints, weights only: nothing is unpickled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from training.models.network import Network, make_network
from training.models.segmentor import (
    AnymodalSegmentor,
    LinearFusionConfig,
    NormalizationConfig,
    SegmentorConfig,
)

Weights = Literal["auto", "student", "teacher"]
"""Which network of a checkpoint: ``auto`` is the averaged teacher where the method keeps one."""
_PREFIXES = {"student": "network.", "teacher": "teacher.module."}


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and what is wrong."""


@dataclass(frozen=True)
class TrainedSegmentor:
    """A network and where it comes from."""

    network: Network
    """in evaluation mode, on the CPU"""
    steps: int
    method: dict[str, Any]
    """name and seed of the method"""
    data: dict[str, Any]
    """what the data module said about itself"""

    @property
    def anymodal(self) -> AnymodalSegmentor:
        """The network, where only one that averages modalities will do.

        Raises:
            CheckpointError: if it is another.
        """
        if not isinstance(self.network, AnymodalSegmentor):
            raise CheckpointError("a network that averages modalities is needed, not Linear Fusion")
        return self.network


def load_trained(path: Path, weights: Weights = "auto") -> TrainedSegmentor:
    """Read a checkpoint that ``training/train.py`` wrote. Every weight must be there and fit.

    Args:
        path: the file.
        weights: the network wanted; only methods with an averaged teacher have two.

    Raises:
        CheckpointError: if the file is missing, damaged, no checkpoint of this project, or has no teacher.
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
    if (fusion := settings.pop("linear_fusion", None)) is not None:
        fusion = LinearFusionConfig(**{**fusion, "modalities": tuple(fusion["modalities"])})
    network = make_network(
        SegmentorConfig(**settings, normalization=normalization, linear_fusion=fusion)
    )
    of = {
        role: {k.removeprefix(p): v for k, v in stored["state_dict"].items() if k.startswith(p)}
        for role, p in _PREFIXES.items()
    }
    if weights == "teacher" and not of["teacher"]:
        raise CheckpointError(f"{path} holds no teacher: {stored['method']['name']} trains without")
    role = weights if weights != "auto" else "teacher" if of["teacher"] else "student"
    try:
        network.load_state_dict(of[role], strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: {error}") from None
    method = {**stored["method"], **({"weights": role} if of["teacher"] else {})}
    return TrainedSegmentor(
        network.eval(), int(stored["global_step"]), method, dict(stored["data"])
    )


def start_network(network: Network, path: Path) -> None:
    """Give a new network the weights of a trained one of the same make.

    Raises:
        CheckpointError: if the checkpoint cannot be read, or its network differs; the message names where.
    """
    trained = load_trained(path).network
    try:
        network.load_state_dict(trained.state_dict(), strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"cannot start from {path}: {error}") from None
