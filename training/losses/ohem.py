"""Cross-entropy with online hard example mining (Shrivastava et al. 2016, as used by AnySeg)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from anyseg_ros.classes import IGNORE_ID
from training.losses.joint import joint_mean, joint_sum, joint_threshold, processes


def ohem_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    threshold: float = 0.7,
    minimum_share: float = 1 / 16,
    class_weights: Tensor | None = None,
    minimum_pixels: int | None = None,
) -> Tensor:
    """Mean cross-entropy over the hard pixels only.

    With ``l_p = -w_y log softmax(z_p)[y_p]`` over the n pixels that are not ignored,

        H = {p : l_p > -log(threshold)};  if |H| < n * minimum_share: H = the n * minimum_share largest,
        L = mean of l_p over H.

    Pixels are counted and ranked over the joint batch of all processes (``joint.py``); of pixels that tie
    for the last place all are kept then.

    Args:
        logits: ``[..., classes]``
        labels: integer ``[...]``, 255 is ignored.
        threshold: a pixel whose true class has at most this probability is hard.
        minimum_share: at least this share of the pixels counts (the papers' code has 1/16).
        class_weights: ``[classes]`` or ``None``.
        minimum_pixels: this many pixels count at least, instead of a share; all if there are fewer.

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
    losses = losses[flat != IGNORE_ID]
    hard = losses.detach() > -math.log(threshold)
    counts = [losses.numel(), int(hard.sum()), minimum_pixels or 0]
    valid, enough, minimum = joint_sum(torch.tensor(counts, device=losses.device)).tolist()
    if valid == 0:
        return losses.sum() + 0.0 * logits.sum()
    if minimum_pixels is None:
        minimum = int(valid * minimum_share)
    minimum = max(1, min(minimum, valid))
    if enough >= minimum:
        kept = losses[hard]
    elif processes() == 1:
        kept = torch.topk(losses, minimum, sorted=False).values
    else:
        kept = losses[losses.detach() >= joint_threshold(losses, minimum)]
    # A process may own none of the joint batch's hard pixels.
    mean = kept.mean() if kept.numel() else 0.0 * logits.sum()
    return joint_mean(mean, kept.numel())
