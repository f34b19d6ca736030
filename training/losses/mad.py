"""AnySeg's modality-agnostic semantic distillation: predict from some modalities what all would give."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from training.losses.distances import channel_kl


@dataclass(frozen=True)
class MadConfig:
    """Semantic distillation.

    Args:
        weight: of the term in the total loss; 0 switches it off.
        temperature: of both softmaxes.
    """

    weight: float = 50.0
    temperature: float = 1.0


def semantic_distillation(student: Tensor, teacher: Tensor, config: MadConfig) -> Tensor:
    """Mean over pixels of ``KL(softmax teacher || softmax student)``, classes as channels.

    Args:
        student: logits from the student's subset, ``[B, classes, H, W]``.
        teacher: logits from all modalities, same shape; constant.
        config: temperature.
    """
    return channel_kl(student, teacher, config.temperature)
