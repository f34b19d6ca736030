"""Distances between feature maps, position by position, over channels. The teacher's side is constant."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

Distance = Literal["kl", "cosine", "l2"]


def channel_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean over positions of KL(q || p), p and q the channel softmaxes of student and teacher.

        T^2 * mean_x sum_c q_c(x) (log q_c(x) - log p_c(x)),  q = softmax(t / T),  p = softmax(s / T)

    Args:
        student: ``[P, C, H, W]``
        teacher: ``[P, C, H, W]``
        temperature: T; the factor T^2 keeps gradients of the same size (Hinton et al. 2015).
    """
    q = F.log_softmax(teacher.detach().float() / temperature, dim=1)
    p = F.log_softmax(student.float() / temperature, dim=1)
    return temperature**2 * (q.exp() * (q - p)).sum(dim=1).mean()


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over positions of ``1 - cos(s, t)``; maps ``[P, C, H, W]``."""
    return (1.0 - F.cosine_similarity(student.float(), teacher.detach().float(), dim=1)).mean()


def normalized_l2(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over positions and channels of ``(s' - t')^2``, each map standardised over its channels.

    ``s' = (s - mean_c s) / std_c s``, so that only the pattern over channels counts, not the scale.
    """
    channels = (student.shape[1],)
    s = F.layer_norm(student.float().movedim(1, -1), channels)
    t = F.layer_norm(teacher.detach().float().movedim(1, -1), channels)
    return F.mse_loss(s, t)


def distance(student: Tensor, teacher: Tensor, kind: Distance, temperature: float = 1.0) -> Tensor:
    """The distance called ``kind`` between maps ``[P, C, H, W]``."""
    if kind == "kl":
        return channel_kl(student, teacher, temperature)
    if kind == "cosine":
        return cosine(student, teacher)
    return normalized_l2(student, teacher)
