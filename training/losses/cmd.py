"""AnySeg's cross-modal distillation: a modality's maps learn what the teacher knows from the others.

The paper leaves the exact form open; both readings are here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from training.losses.distances import Distance, cosine, normalized_l2
from training.losses.joint import joint_mean

Reading = Literal["pairs", "relations"]


@dataclass(frozen=True)
class CmdConfig:
    """Cross-modal distillation.

    Args:
        weight: of the term in the total loss; 0 switches it off.
        reading: ``pairs``: the student's map of m follows the teacher's maps of the other modalities;
            ``relations``: the student's similarities between modalities follow the teacher's.
        distance: of ``pairs``.
        temperature: of the softmax for ``kl``.
    """

    weight: float = 10.0
    reading: Reading = "relations"
    distance: Distance = "kl"
    temperature: float = 1.0


def cross_modal_distillation(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    pairs: Tensor,
    modalities: int,
    config: CmdConfig,
) -> Tensor:
    """Mean over the stages of the reading that ``config`` names, over the joint batch of all processes.

    Args:
        student: maps of the present pairs, one a stage, ``[P, C_i, H_i, W_i]``.
        teacher: maps of all pairs, ``[B * M, C_i, H_i, W_i]``.
        pairs: int64 ``[P]``: ``sample * M + modality``.
        modalities: M.
        config: which reading.
    """
    if config.reading == "pairs":
        terms = [
            other_modalities_gap(s, t, pairs, modalities, config)
            for s, t in zip(student, teacher, strict=True)
        ]
        return joint_mean(torch.stack(terms).mean(), len(pairs))
    couples = present_couples(pairs, modalities)
    terms = [relation_gap(s, t, couples) for s, t in zip(student, teacher, strict=True)]
    return joint_mean(torch.stack(terms).mean(), len(couples.left))


def other_modalities_gap(
    student: Tensor, teacher: Tensor, pairs: Tensor, modalities: int, config: CmdConfig
) -> Tensor:
    """Mean over pairs (b, m) and n != m of ``d(s(b, m), t(b, n))``, at one stage.

    The student sees m only; n may be missing in its input. 0 if there is only one modality.
    """
    if modalities < 2:
        return student.sum() * 0.0
    if config.distance == "kl":
        return _kl_to_others(student, teacher, pairs, modalities, config.temperature)
    measure = cosine if config.distance == "cosine" else normalized_l2
    first = pairs - pairs % modalities
    terms = [
        measure(student, teacher[first + (pairs + shift) % modalities])
        for shift in range(1, modalities)
    ]
    return torch.stack(terms).mean()


def _kl_to_others(
    student: Tensor, teacher: Tensor, pairs: Tensor, modalities: int, temperature: float
) -> Tensor:
    """Mean KL to the M - 1 other maps: KL is linear in the target but for its entropy, so

        mean_n KL(q_n || p) = mean_n sum_c q_n log q_n - sum_c (mean_n q_n) log p

    needs one pass over the student's map instead of M - 1.
    """
    log_q = F.log_softmax(teacher.detach().float() / temperature, dim=1)
    q = log_q.exp()
    negative_entropy = (q * log_q).sum(dim=1)
    grouped_q = q.unflatten(0, (-1, modalities))
    grouped_e = negative_entropy.unflatten(0, (-1, modalities))
    sample = pairs // modalities
    others_q = (grouped_q.sum(dim=1)[sample] - q[pairs]) / (modalities - 1)
    others_e = (grouped_e.sum(dim=1)[sample] - negative_entropy[pairs]) / (modalities - 1)
    log_p = F.log_softmax(student.float() / temperature, dim=1)
    return temperature**2 * (others_e - (others_q * log_p).sum(dim=1)).mean()


class Couples(NamedTuple):
    """Two modalities m < n that are both present in a sample; int64 ``[R]`` each."""

    left: Tensor
    """row of m among the student's maps"""
    right: Tensor
    """row of n among the student's maps"""
    teacher_left: Tensor
    """row of m among the teacher's maps"""
    teacher_right: Tensor
    """row of n among the teacher's maps"""


def present_couples(pairs: Tensor, modalities: int) -> Couples:
    """All couples of the present pairs (int64 ``[P]``, ``sample * modalities + modality``)."""
    same_sample = pairs[:, None] // modalities == pairs[None, :] // modalities
    left, right = (same_sample & (pairs[:, None] < pairs[None, :])).nonzero(as_tuple=True)
    return Couples(left, right, pairs[left], pairs[right])


def relation_gap(student: Tensor, teacher: Tensor, couples: Couples) -> Tensor:
    """Squared gap of the similarities between modalities, at one stage and each position x:

        mean over b, m < n both present, x of (cos(s_m(x), s_n(x)) - cos(t_m(x), t_n(x)))^2

    0 if no sample has two modalities.
    """
    if len(couples.left) == 0:
        return student.sum() * 0.0
    s = F.normalize(student.float(), dim=1)
    t = F.normalize(teacher.detach().float(), dim=1)
    similarity_s = (s[couples.left] * s[couples.right]).sum(dim=1)
    similarity_t = (t[couples.teacher_left] * t[couples.teacher_right]).sum(dim=1)
    return F.mse_loss(similarity_s, similarity_t)
