"""Mix Transformer (MiT), the encoder of SegFormer (Xie et al. 2021, arXiv 2105.15203).

Tokens stay a map ``[P, H, W, C]`` throughout: linear layers and norms act on the last axis, and a
convolution sees the same memory as a channels-last image, so that nothing is copied in between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.errors import SettingsError

BLOCK_NORM_EPS = 1e-6
"""Of the two norms of a block and the norm that ends a stage."""
EMBED_NORM_EPS = 1e-5
"""Of the norms after a patch embedding and after the attention's reduction."""


@dataclass(frozen=True)
class MitSize:
    """Widths and depths of one MiT; the rest is the same for all sizes."""

    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]


_WIDE = (64, 128, 320, 512)
MIT_SIZES: dict[str, MitSize] = {
    "mit_b0": MitSize((32, 64, 160, 256), (2, 2, 2, 2)),
    "mit_b1": MitSize(_WIDE, (2, 2, 2, 2)),
    "mit_b2": MitSize(_WIDE, (3, 4, 6, 3)),
    "mit_b3": MitSize(_WIDE, (3, 4, 18, 3)),
    "mit_b4": MitSize(_WIDE, (3, 8, 27, 3)),
    "mit_b5": MitSize(_WIDE, (3, 6, 40, 3)),
}
HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)
STRIDES = (4, 2, 2, 2)
KERNELS = (7, 3, 3, 3)
MLP_RATIO = 4


def _as_image(tokens: Tensor) -> Tensor:
    """``[P, H, W, C]`` seen as a channels-last image ``[P, C, H, W]``."""
    return tokens.permute(0, 3, 1, 2)


def _as_tokens(image: Tensor) -> Tensor:
    """Invert :func:`_as_image`."""
    return image.permute(0, 2, 3, 1)


class DropPath(nn.Module):
    """Stochastic depth: drops a whole residual branch per image, in training only."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0.0:
            return x
        keep = 1.0 - self.probability
        mask = torch.empty(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(keep)
        return x * (mask / keep)


class PatchEmbed(nn.Module):
    """Overlapping strided convolution and a norm: ``[P, C_in, H, W]`` -> ``[P, H/s, W/s, C]``."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(channels, eps=EMBED_NORM_EPS)

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.norm(_as_tokens(self.proj(image)))
        return out


class EfficientAttention(nn.Module):
    """Self-attention whose keys and values come from a map reduced by ``reduction`` a side."""

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        self.reduce: nn.Conv2d | None = None
        self.norm: nn.LayerNorm | None = None
        if reduction > 1:
            self.reduce = nn.Conv2d(channels, channels, reduction, reduction)
            self.norm = nn.LayerNorm(channels, eps=EMBED_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        head_width = channels // self.heads
        q = self.q(x).view(batch, height * width, self.heads, head_width).transpose(1, 2)
        source = x
        if self.reduce is not None and self.norm is not None:
            source = self.norm(self._reduced(x, self.reduce))
        count = source.shape[1] * source.shape[2]
        kv = self.kv(source).view(batch, count, 2, self.heads, head_width)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        if x.is_cuda:
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            # The fused kernel's backward is slow on CPUs when there are few keys, as here.
            scores = (q * head_width**-0.5) @ k.transpose(-2, -1)
            out = scores.softmax(-1).to(v.dtype) @ v
        merged = out.transpose(1, 2).reshape(batch, height, width, channels)
        projected: Tensor = self.proj(merged)
        return projected

    def _reduced(self, x: Tensor, reduce: nn.Conv2d) -> Tensor:
        """The strided convolution on tokens ``[P, H, W, C]`` -> ``[P, H/r, W/r, C]``."""
        batch, height, width, channels = x.shape
        r = reduce.stride[0]
        if not self.training or x.is_cuda or height % r or width % r:
            return _as_tokens(reduce(_as_image(x)))
        # Its patches do not overlap, so it is a matrix product, whose backward pass is many times
        # faster on CPUs than that of the convolution.
        patches = x.reshape(batch, height // r, r, width // r, r, channels).transpose(2, 3)
        weight = reduce.weight.permute(0, 2, 3, 1).reshape(channels, -1)
        return F.linear(patches.reshape(batch, height // r, width // r, -1), weight, reduce.bias)


class MixFeedForward(nn.Module):
    """Linear, depth-wise 3x3 convolution, GELU, linear. The convolution tells tokens where they are."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels * MLP_RATIO
        self.fc1 = nn.Linear(channels, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden = _as_tokens(self.depthwise(_as_image(self.fc1(x))))
        out: Tensor = self.fc2(F.gelu(hidden))
        return out


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, channels: int, heads: int, reduction: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=BLOCK_NORM_EPS)
        self.attention = EfficientAttention(channels, heads, reduction)
        self.norm2 = nn.LayerNorm(channels, eps=BLOCK_NORM_EPS)
        self.mlp = MixFeedForward(channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(self.norm1(x)))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out


class Stage(nn.Module):
    """Patch embedding, blocks, norm: ``[P, C_in, H, W]`` -> ``[P, C, H/s, W/s]``."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: int,
        stride: int,
        heads: int,
        reduction: int,
        drop_paths: Sequence[float],
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(in_channels, channels, kernel, stride)
        self.blocks = nn.ModuleList(Block(channels, heads, reduction, p) for p in drop_paths)
        self.norm = nn.LayerNorm(channels, eps=BLOCK_NORM_EPS)

    def forward(self, image: Tensor) -> Tensor:
        return self.transform(self.patch_embed(image))

    def transform(self, tokens: Tensor) -> Tensor:
        """What follows the patch embedding: tokens ``[P, h, w, C]`` to the stage's map ``[P, C, h, w]``."""
        for block in self.blocks:
            tokens = block(tokens)
        return _as_image(self.norm(tokens))


class MixTransformer(nn.Module):
    """Four stages at 1/4, 1/8, 1/16 and 1/32 of the input.

    Args:
        size: a key of :data:`MIT_SIZES`.
        drop_path: stochastic depth of the last block; earlier blocks have linearly less.

    Raises:
        SettingsError: if ``size`` is unknown; the message lists the known ones.
    """

    def __init__(self, size: str = "mit_b0", drop_path: float = 0.0) -> None:
        super().__init__()
        if size not in MIT_SIZES:
            raise SettingsError(f"unknown encoder {size!r}; expected one of {', '.join(MIT_SIZES)}")
        shape = MIT_SIZES[size]
        self.channels = shape.channels
        total = sum(shape.depths)
        rates = [drop_path * i / max(total - 1, 1) for i in range(total)]
        stages = []
        before, first = 3, 0
        for index, (channels, depth) in enumerate(zip(shape.channels, shape.depths, strict=True)):
            stages.append(
                Stage(
                    before,
                    channels,
                    KERNELS[index],
                    STRIDES[index],
                    HEADS[index],
                    REDUCTIONS[index],
                    rates[first : first + depth],
                )
            )
            before, first = channels, first + depth
        self.stages = nn.ModuleList(stages)
        self.apply(_initialize)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Encode normalised images.

        Args:
            images: float ``[P, 3, H, W]``; H and W multiples of 32.

        Returns:
            Maps ``[P, C_i, H / 2^(i+1), W / 2^(i+1)]`` of the stages i = 1..4.
        """
        maps = []
        x = images
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[0], maps[1], maps[2], maps[3]


def _initialize(module: nn.Module) -> None:
    """Truncated normal for linear layers, fan-out normal for kernels, as SegFormer does."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / (fan_out // module.groups)))
        if module.bias is not None:
            # Not zero: an empty image (no events, no returns) would give tokens without variance, and
            # the gradients of the norms, each up to eps ** -0.5, would multiply up to infinity.
            bound = (module.weight[0].numel()) ** -0.5
            nn.init.uniform_(module.bias, -bound, bound)
