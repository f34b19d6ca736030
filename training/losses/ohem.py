"""Cross-entropy with online hard example mining (Shrivastava et al. 2016, as used by AnySeg)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from anyseg_ros.classes import IGNORE_ID


def ohem_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    threshold: float = 0.7,
    minimum_share: float = 1 / 16,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy over the hard pixels only.

    With ``l_p = -w_y log softmax(z_p)[y_p]`` over the n pixels that are not ignored,

        H = {p : l_p > -log(threshold)};  if |H| < n * minimum_share: H = the n * minimum_share largest,
        L = mean of l_p over H.

    Args:
        logits: ``[..., classes]``
        labels: integer ``[...]``, 255 is ignored.
        threshold: a pixel whose true class has at most this probability is hard.
        minimum_share: at least this share of the pixels counts (the papers' code has 1/16).
        class_weights: ``[classes]`` or ``None``.

    Returns:
        Scalar; 0 (with a gradient of 0) if every pixel is ignored.
    """
    classes = logits.shape[-1]
    flat = labels.reshape(-1).long()
    losses = F.cross_entropy(
        logits.reshape(-1, classes).float(),
        flat,
        weight=class_weights,
        ignore_index=IGNORE_ID,
        reduction="none",
    )
    valid = int((flat != IGNORE_ID).sum())
    if valid == 0:
        return losses.sum()
    minimum = max(1, int(valid * minimum_share))
    hard = losses[losses.detach() > -math.log(threshold)]
    if hard.numel() < minimum:
        hard = torch.topk(losses, minimum, sorted=False).values
    return hard.mean()
