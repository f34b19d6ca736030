"""Reading this project's checkpoints and exported models, weights only: nothing is unpickled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from training.models.exported import import_exported
from training.models.network import Network, make_network
from training.models.segmentor import (
    AnymodalSegmentor,
    FusionWeights,
    LinearFusionConfig,
    NormalizationConfig,
    SegmentorConfig,
)
from training.models.strict import CheckpointError

Weights = Literal["auto", "student", "teacher"]
"""Which network of a checkpoint: ``auto`` is the averaged teacher where there is one by then."""
_PREFIXES = {"student": "network.", "teacher": "teacher.module."}


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
    folded: bool = False
    """whether it was exported in between: its batch norm is part of other weights"""

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
    """Read a checkpoint of ``training/train.py`` or an exported model. Every weight must be there and fit.

    Args:
        path: the file, or the folder of a model that ``training/export.py`` wrote.
        weights: the network wanted; only methods with an averaged teacher have two.

    Raises:
        CheckpointError: if the file is missing, damaged, no checkpoint of this project, or has no teacher.
    """
    if path.is_dir():
        last = path / "checkpoints" / "last.ckpt"
        if last.is_file():
            raise CheckpointError(f"{path} is the folder of a run; name its checkpoint, {last}")
        return _load_exported(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint {path}")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for damaged or foreign files
        # Its texts are of other cases, and recommend to load what is not to be trusted.
        raise CheckpointError(
            f"{path} is no readable checkpoint ({type(error).__name__})"
        ) from None
    if not isinstance(stored, dict) or not {"segmentor", "state_dict"} <= set(stored):
        raise CheckpointError(f"{path} is no checkpoint of training/train.py")
    settings = dict(stored["segmentor"])
    normalization = NormalizationConfig(
        **{name: tuple(values) for name, values in settings.pop("normalization").items()}
    )
    if (fusion := settings.pop("linear_fusion", None)) is not None:
        fusion = LinearFusionConfig(**{**fusion, "modalities": tuple(fusion["modalities"])})
    if (fusion_weights := settings.pop("fusion_weights", None)) is not None:
        fusion_weights = FusionWeights(**fusion_weights)
    network = make_network(
        SegmentorConfig(
            **settings,
            normalization=normalization,
            linear_fusion=fusion,
            fusion_weights=fusion_weights,
        )
    )
    of = {
        role: {k.removeprefix(p): v for k, v in stored["state_dict"].items() if k.startswith(p)}
        for role, p in _PREFIXES.items()
    }
    keeps_teacher = bool(of["teacher"])
    if keeps_teacher and not stored["state_dict"]["teacher.n_averaged"]:
        # So far a random network: it begins as a copy of the student, after supervised_steps.
        if weights == "teacher":
            raise CheckpointError(f"{path} was saved before its teacher began")
        of["teacher"] = {}
    elif weights == "teacher" and not of["teacher"]:
        raise CheckpointError(f"{path} holds no teacher: {stored['method']['name']} trains without")
    role = weights if weights != "auto" else "teacher" if of["teacher"] else "student"
    try:
        network.load_state_dict(of[role], strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: {error}") from None
    method = {**stored["method"], **({"weights": role} if keeps_teacher else {})}
    return TrainedSegmentor(
        network.eval(), int(stored["global_step"]), method, dict(stored["data"])
    )


def _load_exported(folder: Path) -> TrainedSegmentor:
    network, card = import_exported(folder)
    said = card.provenance
    seeds = said.get("seeds", {})
    return TrainedSegmentor(
        network,
        int(said.get("steps", 0)),
        {"name": said.get("method", "unknown"), "seed": seeds.get("method", 0)},
        {
            "name": said.get("data", "unknown"),
            "synthetic_only": card.synthetic_only,
            "modality_dropout": bool(said.get("modality_dropout", False)),
            "seed": seeds.get("data", 0),
            "modalities": [m.label for m in card.modalities],
            "input_width": card.input_width,
            "input_height": card.input_height,
            "encodings": {
                m.label: {"name": e.name, "settings": dict(e.settings)}
                for m, e in card.encodings.items()
            },
            "class_names": list(card.classes.names),
            "class_colors": [list(color) for color in card.classes.colors],
        },
        folded=True,
    )


def start_network(network: Network, path: Path) -> None:
    """Give a new network the weights of a trained one of the same make.

    Raises:
        CheckpointError: if the checkpoint cannot be read, or its network differs; the message names where.
    """
    copy_weights(network, load_trained(path), path)


def copy_weights(network: Network, trained: TrainedSegmentor, path: Path) -> None:
    """Give a new network the weights of ``trained``, which was read from ``path``.

    Raises:
        CheckpointError: if the networks differ; the message names where.
    """
    if trained.folded and not network.config.frozen_norm:
        raise CheckpointError(
            f"cannot start from {path}: its batch norm is folded into other weights and has no statistics; "
            "keep it as it is by --model.network.frozen_norm true"
        )
    theirs, ours = trained.network.config, network.config
    if theirs.normalization != ours.normalization:
        raise CheckpointError(
            f"cannot start from {path}: it was trained with the normalization {theirs.normalization}, "
            f"this network has {ours.normalization}; set model.network.normalization to the same"
        )
    if trained.network.modalities != network.modalities:
        names = [", ".join(m.label for m in n.modalities) for n in (trained.network, network)]
        raise CheckpointError(f"cannot start from {path}: its slots are {names[0]}, not {names[1]}")
    state = trained.network.state_dict()
    if theirs.classes != ours.classes:
        # Other classes: what decides between them begins random, all below it is taken over.
        own = network.state_dict()
        deciding = [
            name
            for name, value in state.items()
            if name in own
            and (*value.shape[:1], *own[name].shape)
            == (theirs.classes, ours.classes, *value.shape[1:])
        ]
        state |= {name: own[name] for name in deciding}
        print(
            f"start from {path}: of {theirs.classes} classes there and {ours.classes} here, so "
            f"{', '.join(deciding)} begin random",
            flush=True,
        )
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"cannot start from {path}: {error}") from None
    if isinstance(network, AnymodalSegmentor) and ours.fusion_weights is None:
        network.set_fusion_weights(theirs.fusion_weights)
