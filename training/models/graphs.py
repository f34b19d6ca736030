"""The graphs that the runtime's engines run.

Of a network that averages modalities two: encode one sensor's image, fuse the live ones. Of a Linear Fusion
network one, whose slots are all computed whatever is live: segment.

Everything around the network is inside: uint8 images in, normalisation, head folded to one 1x1
convolution a level, bilinear up-sampling before arg-max, uint8 labels and confidence out.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models.checkpoint import Weights
from training.models.encoder import MixFeedForward
from training.models.fast_encoder import fold_norms, run_stages
from training.models.head import MlpHead
from training.models.linear_fusion import LinearFusionSegmentor
from training.models.network import Network
from training.models.segmentor import AnymodalSegmentor

ENSEMBLE, LIVE = "ensemble", "live"
"""The mean of all predictions of a Linear Fusion network, or of those of the live modalities."""


def add_network_options(parser: ArgumentParser) -> None:
    """``--weights`` and ``--prediction``: which of a checkpoint's networks, and what of it."""
    parser.add_argument(
        "--weights",
        default="auto",
        choices=get_args(Weights),
        help="of a checkpoint with an averaged teacher; auto: the teacher",
    )
    parser.add_argument(
        "--prediction",
        default=ENSEMBLE,
        help="of a checkpoint of a Linear Fusion network: ensemble, live (mean of the live modalities' "
        "predictions) or a modality's name",
    )


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
        return self.classify(self.projected(maps))

    def projected(self, maps: Sequence[Tensor]) -> Tensor:
        """Sum of the levels before the ReLU, ``[B, width, H/4, W/4]``: affine, so that the mean of several
        images' sums is the sum of their mean maps."""
        size = maps[0].shape[2:]
        total: Tensor = self.levels[0](maps[0])
        for level, convolution in zip(list(maps)[1:], list(self.levels)[1:], strict=True):
            total = total + F.interpolate(
                convolution(level), size=size, mode="bilinear", align_corners=False
            )
        return total

    def classify(self, total: Tensor) -> Tensor:
        """Logits from :meth:`projected`."""
        logits: Tensor = self.classifier(F.relu(total))
        return logits


class EncodeGraph(nn.Module):
    """``images`` uint8[K, H, W, 3] and ``modality_ids`` int64[K] to the maps of each image.

    With fusion weights the maps are scaled by them, and the weight itself, float[K, 1, 1, 1], is the last of
    them: engines and the node need not know.
    """

    scale: Tensor
    shift: Tensor
    modality_weights: Tensor | None

    def __init__(self, network: AnymodalSegmentor, width: int) -> None:
        super().__init__()
        self.stages = network.encoder.stages[: network.early_stages]
        # Scaled before the first convolution, whose zero padding then means the mean, as in training.
        # A whole row's factors: engines are slow where they repeat after three numbers.
        self.register_buffer("scale", (1.0 / network.std)[:, None, :, 0, 0].repeat(1, 1, width))
        shift = (-network.mean / network.std)[:, None, :, 0, 0].repeat(1, 1, width)
        self.register_buffer("shift", shift)
        weights = network.modality_weights
        self.register_buffer(
            "modality_weights", None if weights is None else weights.view(-1, 1, 1, 1)
        )

    @property
    def features(self) -> list[str]:
        """Names of what it gives, and the fuse graph takes."""
        maps = [f"f{level + 1}" for level in range(len(self.stages))]
        return maps if self.modality_weights is None else [*maps, "weight"]

    def forward(self, images: Tensor, modality_ids: Tensor) -> tuple[Tensor, ...]:
        rows = images.float().flatten(2)
        normal = (rows * self.scale[modality_ids] + self.shift[modality_ids]).view(images.shape)
        maps = run_stages(self.stages, normal.permute(0, 3, 1, 2))
        if self.modality_weights is None:
            return maps
        weight = self.modality_weights[modality_ids]
        return (*(weight * level for level in maps), weight)


class FuseGraph(nn.Module):
    """Maps of the M live streams ``[M, C_i, h_i, w_i]`` to labels and confidence uint8[H, W].

    Args:
        network: the trained network.
        height: of the input in pixels.
        width: of the input.
        output_stride: 2 decides on every second pixel and row only and repeats it, for a quarter of the
            work behind the head.
    """

    def __init__(
        self, network: AnymodalSegmentor, height: int, width: int, output_stride: int = 1
    ) -> None:
        super().__init__()
        self.late = network.encoder.stages[network.early_stages :]
        self.head = FoldedHead(network.head)
        self.size = (height // output_stride, width // output_stride)
        self.output_stride = output_stride
        self.weighted = network.modality_weights is not None

    def forward(self, *maps: Tensor) -> tuple[Tensor, Tensor]:
        fused = [level.mean(dim=0, keepdim=True) for level in maps]
        if self.weighted:
            *fused, weight = fused
            fused = [level / weight for level in fused]
        fused += run_stages(self.late, fused[-1])
        labels, confidence = decide(self.head(fused), self.size)
        stride = self.output_stride
        if stride > 1:
            both = torch.stack([labels, confidence])[None]
            size = [stride * side for side in self.size]
            labels, confidence = F.interpolate(both, size=size, mode="nearest")[0]
        return labels.to(torch.uint8), confidence.to(torch.uint8)


def decide(logits: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Label and confidence (0..255) of each pixel, float ``[H, W]``, from logits ``[1, classes, h, w]``.

    Resized bilinearly before the decision: nearest would move class borders. The largest logit of each
    coarse pixel is taken off first; a softmax does not change by that, and no value is above 0 after it, so
    the exponentials of the resized ones need no maximum taken off, one pass less at full size.
    """
    # Held above -80, or a border between two pixels that are that sure of different classes underflows.
    relative = (logits - logits.amax(dim=1, keepdim=True)).clamp_min(-80.0)
    full = F.interpolate(relative, size=size, mode="bilinear", align_corners=False)
    best, label = torch.topk(full, 1, dim=1)  # in one pass what max and arg-max take two for
    share = torch.exp(best) / torch.exp(full).sum(dim=1, keepdim=True)
    return label[0, 0].float(), (255.0 * share).round()[0, 0]


def labels_and_confidence(logits: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 ``[H, W]`` each, from logits ``[classes, H, W]``; confidence in 1/255."""
    best, labels = logits.max(dim=0)
    # The largest softmax value is 1 / sum(exp(z - max z)).
    confidence = 255.0 / torch.exp(logits - best).sum(dim=0)
    return labels.to(torch.uint8), confidence.round().to(torch.uint8)


class SegmentGraph(nn.Module):
    """``images`` uint8[M, H, W, 3] and ``present`` bool[M] to labels and confidence uint8[H, W].

    Args:
        network: the trained network.
        height: of the input in pixels.
        width: of the input.
        prediction: :data:`ENSEMBLE`, :data:`LIVE`, or the name of a modality for its own prediction.

    Raises:
        ValueError: if there is no such prediction.
    """

    scale: Tensor
    shift: Tensor
    weights: Tensor

    def __init__(
        self, network: LinearFusionSegmentor, height: int, width: int, prediction: str = ENSEMBLE
    ) -> None:
        super().__init__()
        names = [m.label for m in network.modalities]
        if prediction not in (ENSEMBLE, LIVE, *names):
            raise ValueError(
                f"no prediction {prediction!r}; this network has {', '.join((ENSEMBLE, LIVE, *names))}"
            )
        self.encoder = network.encoder
        self.head = FoldedHead(network.head)
        self.align_corners = network.align_corners
        self.size = (height, width)
        self.live_only = prediction == LIVE
        weights = torch.softmax(network.alpha.detach(), dim=0)
        if prediction in names:
            weights = torch.eye(len(names))[names.index(prediction)]
        self.register_buffer("weights", weights.view(-1, 1, 1, 1))
        # One sample: [M, 1, 3, 1, 1] to [M, 3, 1, 1].
        self.register_buffer("scale", (1.0 / network.std).flatten(0, 1))
        self.register_buffer("shift", (-network.mean / network.std).flatten(0, 1))

    def forward(self, images: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        normal = images.float().permute(0, 3, 1, 2) * self.scale + self.shift
        maps = self.encoder(normal.unsqueeze(1), present.unsqueeze(1))
        logits = self.head([level.squeeze(1) for level in maps])
        weights = self.weights
        if self.live_only:
            weights = weights * present.view(-1, 1, 1, 1).float()
            weights = weights / weights.sum()
        mean = (weights * logits).sum(dim=0, keepdim=True)
        full = F.interpolate(
            mean, size=self.size, mode="bilinear", align_corners=self.align_corners
        )[0]
        return labels_and_confidence(full)


def exportable_segment(
    network: LinearFusionSegmentor, height: int, width: int, prediction: str = ENSEMBLE
) -> SegmentGraph:
    """The graph of a Linear Fusion network; arguments and errors as :class:`SegmentGraph`, and as below."""
    _prepare(network, height, width)
    return SegmentGraph(network, height, width, prediction).eval()


def exportable(
    network: AnymodalSegmentor, height: int, width: int, output_stride: int = 1
) -> tuple[EncodeGraph, FuseGraph]:
    """The graphs of a trained network for inputs of the given size (pixels, multiples of 32).

    The network is changed in place where a layer has a form that exports better.

    Raises:
        ValueError: if a side is no multiple of 32, or the output stride neither 1 nor 2.
    """
    if output_stride not in (1, 2):
        raise ValueError(f"output stride {output_stride}; expected 1 or 2")
    _prepare(network, height, width)
    fold_norms(network)
    fuse = FuseGraph(network, height, width, output_stride)
    return EncodeGraph(network, width).eval(), fuse.eval()


def _prepare(network: Network, height: int, width: int) -> None:
    if height % 32 or width % 32 or min(height, width) < 32:
        raise ValueError(f"input {width}x{height}: both sides must be multiples of 32")
    network.eval()
    for module in network.encoder.modules():
        if isinstance(mlp := getattr(module, "mlp", None), MixFeedForward):
            module.mlp = ConvolutionalFeedForward(mlp)
