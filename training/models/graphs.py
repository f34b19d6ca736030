"""The two graphs that the runtime's engines run: encode one sensor's image, fuse the live ones.

Everything around the network is inside: uint8 images in, normalisation, head folded to one 1x1
convolution a level, bilinear up-sampling before arg-max, uint8 labels and confidence out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models.encoder import MixFeedForward
from training.models.head import MlpHead
from training.models.segmentor import AnymodalSegmentor


class ConvolutionalFeedForward(nn.Module):
    """:class:`MixFeedForward` with its linear layers as 1x1 convolutions: same result, and ONNX Runtime
    need not transpose the widest map of a block twice."""

    def __init__(self, source: MixFeedForward) -> None:
        super().__init__()
        self.fc1 = _as_convolution(source.fc1)
        self.depthwise = source.depthwise
        self.fc2 = _as_convolution(source.fc2)

    def forward(self, x: Tensor) -> Tensor:
        image = x.permute(0, 3, 1, 2)
        out: Tensor = self.fc2(F.gelu(self.depthwise(self.fc1(image))))
        return out.permute(0, 2, 3, 1)


def _as_convolution(linear: nn.Linear) -> nn.Conv2d:
    convolution = nn.Conv2d(linear.in_features, linear.out_features, 1)
    convolution.weight = nn.Parameter(linear.weight.detach()[:, :, None, None].clone())
    convolution.bias = nn.Parameter(linear.bias.detach().clone())
    return convolution


class FoldedHead(nn.Module):
    """:class:`MlpHead` in evaluation mode: projection, fusion and norm in one convolution a level."""

    def __init__(self, head: MlpHead) -> None:
        super().__init__()
        if head.norm.running_var is None or head.norm.running_mean is None:
            raise ValueError("the head's batch norm keeps no running statistics to fold")
        scale = head.norm.weight / torch.sqrt(head.norm.running_var + head.norm.eps)
        shift = head.norm.bias - head.norm.running_mean * scale
        levels = []
        for index, (weight, bias) in enumerate(head.composed()):
            level = nn.Conv2d(weight.shape[1], head.width, 1)
            level.weight = nn.Parameter((scale[:, None] * weight).detach()[:, :, None, None])
            # One level carries the norm's shift; the sum needs it once.
            level.bias = nn.Parameter((scale * bias + (shift if index == 0 else 0)).detach())
            levels.append(level)
        self.levels = nn.ModuleList(levels)
        self.classifier = head.classifier

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits ``[B, classes, H/4, W/4]``."""
        size = maps[0].shape[2:]
        total = self.levels[0](maps[0])
        for level, convolution in zip(list(maps)[1:], list(self.levels)[1:], strict=True):
            total = total + F.interpolate(
                convolution(level), size=size, mode="bilinear", align_corners=False
            )
        logits: Tensor = self.classifier(F.relu(total))
        return logits


class EncodeGraph(nn.Module):
    """``images`` uint8[K, H, W, 3] and ``modality_ids`` int64[K] to the four maps of each image."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: AnymodalSegmentor) -> None:
        super().__init__()
        self.encoder = network.encoder
        # Scaled before the first convolution, whose zero padding then means the mean, as in training.
        self.register_buffer("scale", (1.0 / network.std).permute(0, 2, 3, 1))
        self.register_buffer("shift", (-network.mean / network.std).permute(0, 2, 3, 1))

    def forward(
        self, images: Tensor, modality_ids: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        normal = images.float() * self.scale[modality_ids] + self.shift[modality_ids]
        maps: tuple[Tensor, Tensor, Tensor, Tensor] = self.encoder(normal.permute(0, 3, 1, 2))
        return maps


class FuseGraph(nn.Module):
    """Maps of the M live streams ``[M, C_i, h_i, w_i]`` to labels and confidence uint8[H, W]."""

    def __init__(self, network: AnymodalSegmentor, height: int, width: int) -> None:
        super().__init__()
        self.head = FoldedHead(network.head)
        self.size = (height, width)

    def forward(self, f1: Tensor, f2: Tensor, f3: Tensor, f4: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.head([level.mean(dim=0, keepdim=True) for level in (f1, f2, f3, f4)])
        full = F.interpolate(logits, size=self.size, mode="bilinear", align_corners=False)[0]
        best, labels = full.max(dim=0)
        # The largest softmax value is 1 / sum(exp(z - max z)).
        confidence = 255.0 / torch.exp(full - best).sum(dim=0)
        return labels.to(torch.uint8), confidence.round().to(torch.uint8)


def exportable(
    network: AnymodalSegmentor, height: int, width: int
) -> tuple[EncodeGraph, FuseGraph]:
    """The graphs of a trained network for inputs of the given size (pixels, multiples of 32).

    The network is changed in place where a layer has a form that exports better.

    Raises:
        ValueError: if a side is no multiple of 32.
    """
    if height % 32 or width % 32 or min(height, width) < 32:
        raise ValueError(f"input {width}x{height}: both sides must be multiples of 32")
    network.eval()
    for module in network.encoder.modules():
        if isinstance(mlp := getattr(module, "mlp", None), MixFeedForward):
            module.mlp = ConvolutionalFeedForward(mlp)
    return EncodeGraph(network).eval(), FuseGraph(network, height, width).eval()
