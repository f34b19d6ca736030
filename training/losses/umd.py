"""AnySeg's unimodal distillation: each modality's maps follow the teacher's of the same modality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.losses.distances import Distance, distance
from training.losses.joint import joint_mean


@dataclass(frozen=True)
class UmdConfig:
    """Unimodal distillation.

    Args:
        weight: of the term in the total loss; 0 switches it off.
        distance: the paper's wording fits ``kl`` (of channel softmaxes); ``cosine`` and ``l2`` are the
            alternatives.
        temperature: of the softmax for ``kl``.
    """

    weight: float = 5.0
    distance: Distance = "kl"
    temperature: float = 1.0


def unimodal_distillation(
    student: Sequence[Tensor], teacher: Sequence[Tensor], pairs: Tensor, config: UmdConfig
) -> Tensor:
    """Mean over the stages i of ``d(s_i(m), t_i(m))``, over all present (sample, modality) pairs
    of the joint batch of all processes.

    Args:
        student: un-averaged maps of the present pairs, one a stage, ``[P, C_i, H_i, W_i]``.
        teacher: un-averaged maps of all pairs, ``[B * M, C_i, H_i, W_i]``, sample by sample.
        pairs: int64 ``[P]``, the teacher's row of each present pair: ``sample * M + modality``.
        config: which distance.
    """
    terms = [
        distance(s, t[pairs], config.distance, config.temperature)
        for s, t in zip(student, teacher, strict=True)
    ]
    return joint_mean(torch.stack(terms).mean(), len(pairs))
