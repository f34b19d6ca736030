"""A small convolutional encoder for real-time students: inverted residuals, batch norms that fold away.

The block is MobileNetV2's (Sandler et al. 2018, arXiv 1801.04381) with ReLU throughout: widen by a 1x1
convolution, filter each channel by itself, narrow again, add. Every norm folds into its convolution for
export, so that an engine sees convolutions, ReLU and additions only, which all of them fuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from training.errors import SettingsError
from training.models.batch_norm import batch_norm
from training.models.depthwise import depthwise_conv


@dataclass(frozen=True)
class FastSize:
    """Shape of one encoder: the stages work at 1/4, 1/8, 1/16 and 1/32 of the input."""

    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    expansion: int


FAST_SIZES: dict[str, FastSize] = {
    "fast_xs": FastSize((16, 32, 96, 160), (1, 1, 3, 2), 3),
    "fast_s": FastSize((24, 40, 128, 224), (1, 1, 5, 4), 3),
    "fast_m": FastSize((32, 64, 160, 256), (1, 3, 5, 4), 4),
}
KERNELS = (3, 3, 5, 5)
"""Of the depth-wise convolutions: wide where the map is small, for context at little cost."""


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm and, if asked for, ReLU."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        relu: bool = True,
        frozen_norm: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, channels, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.norm: nn.Module = batch_norm(channels, frozen_norm)
        self.relu = relu
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.conv.kernel_size == (1, 1) and not x.is_cuda:
            # A matrix product, whose backward pass is many times faster on CPUs in bf16.
            weight = self.conv.weight[:, :, 0, 0]
            out = F.linear(x.permute(0, 2, 3, 1), weight).permute(0, 3, 1, 2)
        elif self.training and self.conv.groups > 1 and self.conv.stride == (1, 1):
            out = depthwise_conv(x, self.conv.weight)
        else:
            out = self.conv(x)
        out = self.norm(out)
        return F.relu(out) if self.relu else out

    def fold(self) -> None:
        """Put the norm's running statistics into the convolution. For evaluation mode."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv, self.norm)
            self.norm = nn.Identity()


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow, add."""

    def __init__(
        self, channels: int, expansion: int, kernel: int, frozen_norm: bool = False
    ) -> None:
        super().__init__()
        hidden = channels * expansion
        self.widen = ConvNorm(channels, hidden, frozen_norm=frozen_norm)
        self.depthwise = ConvNorm(hidden, hidden, kernel, groups=hidden, frozen_norm=frozen_norm)
        self.narrow = ConvNorm(hidden, channels, relu=False, frozen_norm=frozen_norm)
        # Starts as the identity, so that a deep stack trains from the first step.
        assert isinstance(self.narrow.norm, nn.BatchNorm2d)
        nn.init.zeros_(self.narrow.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.narrow(self.depthwise(self.widen(x)))
        return out


class FastEncoder(nn.Module):
    """Four stages at 1/4, 1/8, 1/16 and 1/32 of the input.

    Args:
        size: a key of :data:`FAST_SIZES`.
        frozen_norm: keep the statistics of all batch norms.

    Raises:
        SettingsError: if ``size`` is unknown; the message lists the known ones.
    """

    def __init__(self, size: str = "fast_s", frozen_norm: bool = False) -> None:
        super().__init__()
        if size not in FAST_SIZES:
            raise SettingsError(
                f"unknown encoder {size!r}; expected one of {', '.join(FAST_SIZES)}"
            )
        shape = FAST_SIZES[size]
        self.channels = shape.channels
        stages = []
        before = 3
        for index, (channels, depth) in enumerate(zip(shape.channels, shape.depths, strict=True)):
            # As MiT: patches of 7x7 at stride 4 first, then 3x3 at stride 2.
            kernel, stride = (7, 4) if index == 0 else (3, 2)
            down = ConvNorm(before, channels, kernel, stride, frozen_norm=frozen_norm)
            blocks = [
                InvertedResidual(channels, shape.expansion, KERNELS[index], frozen_norm)
                for _ in range(depth)
            ]
            stages.append(nn.Sequential(down, *blocks))
            before = channels
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps ``[P, C_i, H / 2^(i+1), W / 2^(i+1)]`` of normalised images ``[P, 3, H, W]``."""
        return run_stages(self.stages, images)


def run_stages(stages: Sequence[nn.Module] | nn.ModuleList, x: Tensor) -> tuple[Tensor, ...]:
    """The map after each stage, ``x`` going through one after the other."""
    maps = []
    for stage in stages:
        x = stage(x)
        maps.append(x)
    return tuple(maps)


def fold_norms(module: nn.Module) -> None:
    """Fold every batch norm of :class:`ConvNorm` parts, in place; the module goes to evaluation mode."""
    module.eval()
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, ConvNorm):
                part.fold()
