"""SegFormer's all-MLP head, evaluated in the cheap order.

As the paper writes it, every level is projected to the embed width, up-sampled to 1/4, concatenated
(c4, c3, c2, c1) and fused by a 1x1 convolution. Projection, up-sampling and fusion are linear and
commute (the bilinear weights of a pixel sum to one, so a bias passes through unchanged), hence

    fuse(cat_i(up(P_i c_i + b_i))) = sum_i up((W_i P_i) c_i + W_i b_i),

with W_i the block of the fuse convolution that meets level i. The composed weights are formed on the fly,
in training too: same parameters and same mathematics, about a tenth of the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models.batch_norm import batch_norm

LEVELS = 4


@lru_cache(maxsize=64)
def _interpolation_matrix(size_in: int, size_out: int, align_corners: bool) -> Tensor:
    """Matrix ``[size_out, size_in]`` of bilinear resizing along one axis."""
    # Kept for later calls, which may need gradients: validation must not leave an inference tensor here.
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        columns = torch.eye(size_in)[None]
        resized = F.interpolate(columns, size=size_out, mode="linear", align_corners=align_corners)
        return resized[0].T


def resize_tokens(tokens: Tensor, height: int, width: int, align_corners: bool = False) -> Tensor:
    """Resize a map ``[B, h, w, C]`` bilinearly as two matrix products.

    Same result as ``F.interpolate``, whose backward pass is an order of magnitude slower on CPUs.
    """
    batch, rows, columns, channels = tokens.shape
    if (rows, columns) == (height, width):
        return tokens
    across = _interpolation_matrix(columns, width, align_corners).to(tokens)
    down = _interpolation_matrix(rows, height, align_corners).to(tokens)
    wide = across @ tokens.reshape(batch * rows, columns, channels)
    tall = down @ wide.view(batch, rows, width * channels)
    return tall.view(batch, height, width, channels)


class MlpHead(nn.Module):
    """Four maps to logits at 1/4 of the input.

    Args:
        channels: widths of the four maps.
        classes: number of classes.
        width: embed width (768 in AnySeg, 256 in the shipped student).
        dropout: channel dropout before the classifier.
        frozen_norm: keep the statistics of the batch norm.
    """

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        width: int = 256,
        dropout: float = 0.1,
        frozen_norm: bool = False,
    ) -> None:
        super().__init__()
        if len(channels) != LEVELS:
            raise ValueError(f"the head takes {LEVELS} levels, got {len(channels)}")
        self.width = width
        self.projections = nn.ModuleList(nn.Linear(c, width) for c in channels)
        self.fuse = nn.Conv2d(LEVELS * width, width, 1, bias=False)
        self.norm = batch_norm(width, frozen_norm)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, classes, 1)
        nn.init.kaiming_normal_(self.fuse.weight, mode="fan_in", nonlinearity="relu")
        nn.init.normal_(self.classifier.weight, std=0.01)
        assert self.classifier.bias is not None
        nn.init.zeros_(self.classifier.bias)

    def composed(self) -> list[tuple[Tensor, Tensor]]:
        """Weight ``[width, C_i]`` and bias ``[width]`` that take level i = 1..4 straight to the sum."""
        blocks = self.fuse.weight[:, :, 0, 0].split(self.width, dim=1)
        composed = []
        for level, projection in enumerate(self.projections):
            block = blocks[LEVELS - 1 - level]  # the concatenation runs from c4 to c1
            composed.append((block @ projection.weight, block @ projection.bias))
        return composed

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits ``[B, classes, H/4, W/4]`` from fused maps ``[B, C_i, H / 2^(i+1), ...]``."""
        height, width = maps[0].shape[2:]
        total: Tensor | None = None
        for level, (weight, bias) in zip(maps, self.composed(), strict=True):
            projected = F.linear(level.permute(0, 2, 3, 1), weight, bias)
            resized = resize_tokens(projected, height, width)
            total = resized if total is None else total + resized
        assert total is not None
        hidden = self.dropout(F.relu(self.norm(total.permute(0, 3, 1, 2))))
        # As a matrix product: on CPUs the backward pass of a 1x1 convolution to so few channels
        # takes longer than the whole encoder's.
        weight = self.classifier.weight[:, :, 0, 0]
        logits = F.linear(hidden.permute(0, 2, 3, 1), weight, self.classifier.bias)
        return logits.permute(0, 3, 1, 2)

    def forward_as_written(self, maps: Sequence[Tensor]) -> Tensor:
        """The paper's order of operations; :meth:`forward` is tested against it."""
        size = maps[0].shape[2:]
        projected = [
            F.interpolate(
                projection(level.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
                size=size,
                mode="bilinear",
                align_corners=False,
            )
            for level, projection in zip(maps, self.projections, strict=True)
        ]
        hidden = F.relu(self.norm(self.fuse(torch.cat(projected[::-1], dim=1))))
        logits: Tensor = self.classifier(self.dropout(hidden))
        return logits
