"""A depth-wise convolution whose backward pass suits the small maps of deep stages on CPUs.

torch's gradient of the weights takes as long on a map of 2x4 pixels as on one of 16x32, as it works by
batches of positions that such maps do not fill. One product and sum for each weight does not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

SMALL_MAP = 32
"""Pixels of a map up to which this is faster for 5x5 weights; on larger ones torch's own way is."""


class _SmallDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        (channels, height, width), size = x.shape[1:], weight.shape[-1]
        margin = size // 2
        to_x = F.conv2d(gradient, weight.flip(2, 3), padding=margin, groups=channels)
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, margin, margin, margin, margin))
        last = gradient.permute(0, 2, 3, 1).contiguous()
        to_weight = torch.empty_like(weight)
        for row in range(size):
            for column in range(size):
                window = padded[:, row : row + height, column : column + width]
                to_weight[:, 0, row, column] = (window * last).sum((0, 1, 2))
        return to_x, to_weight


def depthwise_conv(x: Tensor, weight: Tensor) -> Tensor:
    """``F.conv2d(x, weight, padding=k // 2, groups=C)`` at stride 1.

    Args:
        x: ``[N, C, H, W]``
        weight: ``[C, 1, k, k]``, k odd.
    """
    small = x.shape[2] * x.shape[3] <= SMALL_MAP and weight.shape[-1] > 3
    if small and not x.is_cuda and not torch.is_autocast_enabled(x.device.type):
        out: Tensor = _SmallDepthwise.apply(x, weight)
        return out
    return F.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=x.shape[1])
