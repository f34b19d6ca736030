"""The anymodal segmentor: one shared encoder, a mean over present modalities, one head.

AnySeg's network (arXiv 2411.17141): each modality of a sample is an image of its own and passes through
the same encoder; the maps are averaged at the end of each stage for the head only, while the un-averaged
maps go on. A missing modality is simply left out of the mean, and the order does not matter. Not in the
paper: a modality may have a weight in the mean, as ``training/fusion_weights.py`` finds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from anyseg_ros.engine.model_card import Normalization
from anyseg_ros.modality import MODALITIES, Modality
from training.errors import SettingsError
from training.models.encoder import MixTransformer
from training.models.fast_encoder import FAST_SIZES, FastEncoder, run_stages
from training.models.fusion import mean_over_present
from training.models.head import MlpHead, resize_tokens

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


Triple = tuple[float, float, float]


@dataclass(frozen=True)
class NormalizationConfig:
    """``(pixel / 255 - mean) / std`` for each modality and channel.

    ImageNet's for the camera; the others are only scaled, so that "nothing measured" stays 0.
    """

    camera_mean: Triple = IMAGENET_MEAN
    camera_std: Triple = IMAGENET_STD
    depth_mean: Triple = (0.0, 0.0, 0.0)
    depth_std: Triple = (0.25, 0.25, 0.25)
    event_mean: Triple = (0.0, 0.0, 0.0)
    event_std: Triple = (0.25, 0.25, 0.25)
    lidar_mean: Triple = (0.0, 0.0, 0.0)
    lidar_std: Triple = (0.25, 0.25, 0.25)

    def of(self, modality: Modality) -> Normalization:
        """The normalisation of one modality."""
        return Normalization(
            getattr(self, f"{modality.label}_mean"), getattr(self, f"{modality.label}_std")
        )


@dataclass(frozen=True)
class FusionWeights:
    """What each modality counts in the fused maps, ``sum(w_m f_m) / sum(w_m)``; only ratios matter.

    Raises:
        SettingsError: if one is not above 0.
    """

    camera: float = 1.0
    depth: float = 1.0
    event: float = 1.0
    lidar: float = 1.0

    def __post_init__(self) -> None:
        for name, weight in asdict(self).items():
            if not (weight > 0.0 and np.isfinite(weight)):
                raise SettingsError(f"fusion weight of {name} is {weight}; expected one above 0")

    def of(self, modality: Modality) -> float:
        """The weight of one modality."""
        return float(getattr(self, modality.label))


@dataclass(frozen=True)
class LinearFusionConfig:
    """Makes the network a Linear Fusion network (``training/models/linear_fusion.py``).

    Args:
        modalities: the network's slots, by name; each has layer norms and a prediction of its own.
        ratio: share of a modality's own attention output in each block; the others share the rest.
        align_corners: resize logits to the input's size as the reference does.
    """

    modalities: tuple[str, ...] = ("camera", "depth", "event", "lidar")
    ratio: float = 0.8
    align_corners: bool = False


@dataclass(frozen=True)
class SegmentorConfig:
    """What the network is made of; stored in every checkpoint.

    Args:
        encoder: a MiT size, ``mit_b0`` .. ``mit_b5``, or a fast one, ``fast_xs`` .. ``fast_m``.
        late_stages: how many of the encoder's last stages run once on the fused map instead of once a
            modality (0: none, as in AnySeg).
        head_width: embed width of the all-MLP head.
        classes: number of classes.
        drop_path: stochastic depth of the encoder.
        dropout: channel dropout of the head.
        normalization: of the input images.
        frozen_norm: keep batch norms, the head's and those of a fast encoder, at their first statistics
            (M3L's code does, at 0 and 1).
        linear_fusion: make it a Linear Fusion network instead of one that averages modalities.
        fusion_weights: of the modalities in that average; ``None`` for those of the weights it starts from,
            else AnySeg's plain mean.
    """

    encoder: str = "mit_b0"
    head_width: int = 256
    classes: int = 19
    drop_path: float = 0.0
    dropout: float = 0.1
    normalization: NormalizationConfig = field(default_factory=NormalizationConfig)
    frozen_norm: bool = False
    linear_fusion: LinearFusionConfig | None = None
    late_stages: int = 0
    fusion_weights: FusionWeights | None = None


Features = tuple[Tensor, ...]
"""One map for each of the stages that run once a modality."""


class AnymodalSegmentor(nn.Module):
    """Images of the present (sample, modality) pairs in, logits a sample out."""

    mean: Tensor
    std: Tensor
    modality_weights: Tensor | None
    modalities = MODALITIES
    align_corners = False
    """how logits are resized to the input's size"""

    def __init__(self, config: SegmentorConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder: MixTransformer | FastEncoder
        if config.encoder in FAST_SIZES:
            self.encoder = FastEncoder(config.encoder, config.frozen_norm)
        else:
            self.encoder = MixTransformer(config.encoder, config.drop_path)
        stages = len(self.encoder.stages)
        if not 0 <= config.late_stages < stages:
            raise SettingsError(f"late_stages is {config.late_stages}; expected 0 to {stages - 1}")
        self.early_stages = stages - config.late_stages
        self.head = MlpHead(
            self.encoder.channels,
            config.classes,
            config.head_width,
            config.dropout,
            config.frozen_norm,
        )
        table = [config.normalization.of(m) for m in MODALITIES]
        shape = (len(table), 3, 1, 1)
        self.register_buffer("mean", 255.0 * torch.tensor([n.mean for n in table]).view(shape))
        self.register_buffer("std", 255.0 * torch.tensor([n.std for n in table]).view(shape))
        self.set_fusion_weights(config.fusion_weights)

    def set_fusion_weights(self, weights: FusionWeights | None) -> None:
        """Fuse with these weights from now on; ``None`` for the plain mean."""
        self.config = replace(self.config, fusion_weights=weights)
        table = None if weights is None else torch.tensor([weights.of(m) for m in MODALITIES])
        self.register_buffer(
            "modality_weights", None if table is None else table.to(self.mean), persistent=False
        )

    def normalize(self, images: Tensor, modality_ids: Tensor) -> Tensor:
        """Pixel values 0..255 (any dtype) ``[P, 3, H, W]`` to the encoder's input, each by its modality."""
        return (images.to(self.mean.dtype) - self.mean[modality_ids]) / self.std[modality_ids]

    def encode(self, images: Tensor, modality_ids: Tensor) -> Features:
        """Un-averaged maps of each image ``[P, C_i, H / 2^(i+1), W / 2^(i+1)]``, of the early stages."""
        normal = self.normalize(images, modality_ids).contiguous(memory_format=torch.channels_last)
        return run_stages(self.encoder.stages[: self.early_stages], normal)

    def fuse(
        self,
        features: Sequence[Tensor],
        modality_ids: Tensor,
        sample_index: Tensor,
        samples: int,
    ) -> Tensor:
        """Logits ``[samples, classes, H/4, W/4]`` from un-averaged maps; indices as in :meth:`forward`."""
        weights = None if self.modality_weights is None else self.modality_weights[modality_ids]
        fused = [mean_over_present(level, sample_index, samples, weights) for level in features]
        fused += run_stages(self.encoder.stages[self.early_stages :], fused[-1])
        logits: Tensor = self.head(fused)
        return logits

    def forward(
        self, images: Tensor, modality_ids: Tensor, sample_index: Tensor, samples: int
    ) -> Tensor:
        """Segment a batch in which every sample has its own subset of modalities.

        Args:
            images: ``[P, 3, H, W]``, 0..255, one for each present (sample, modality) pair.
            modality_ids: int64 ``[P]``
            sample_index: int64 ``[P]``, 0..samples-1; every sample owns at least one image.
            samples: number of samples.

        Returns:
            Logits ``[samples, classes, H/4, W/4]``.
        """
        features = self.encode(images, modality_ids)
        return self.fuse(features, modality_ids, sample_index, samples)

    def predictions(self, images: Tensor, present: Tensor) -> list[Tensor]:
        """The one prediction ``[B, classes, H/4, W/4]``, from what is present.

        Args:
            images: ``[B, M, 3, H, W]``, 0..255, in the order of the modalities.
            present: bool ``[B, M]``, at least one a sample.
        """
        sample_index, modality_ids = present.nonzero(as_tuple=True)
        pairs = images[sample_index, modality_ids]
        return [self(pairs, modality_ids, sample_index, len(images))]

    @torch.no_grad()
    def predict_subsets(
        self, images: Tensor, subsets: Sequence[tuple[Modality, ...]]
    ) -> list[Tensor]:
        """Logits ``[B, classes, H/4, W/4]`` from each subset, every image encoded only once.

        Args:
            images: ``[B, M, 3, H, W]``, 0..255, in the order of the modalities.
            subsets: which modalities, for all samples alike.
        """
        samples, modalities = images.shape[:2]
        ids = torch.arange(modalities, device=images.device).repeat(samples)
        index = torch.arange(samples, device=images.device).repeat_interleave(modalities)
        features = self.encode(images.flatten(0, 1), ids)
        results = []
        for subset in subsets:
            keep = torch.isin(ids, torch.tensor([int(m) for m in subset], device=images.device))
            maps = [level[keep] for level in features]
            results.append(self.fuse(maps, ids[keep], index[keep], samples))
        return results


def full_size(logits: Tensor, height: int, width: int, align_corners: bool = False) -> Tensor:
    """Up-sample logits ``[B, classes, h, w]`` bilinearly to the size of the input, as float32.

    Returns:
        ``[B, height, width, classes]``: classes last, as the loss reads them.
    """
    # Products would round to autocast's type, and ties decide labels and hard pixels.
    with torch.autocast(logits.device.type, enabled=False):
        return resize_tokens(logits.permute(0, 2, 3, 1).float(), height, width, align_corners)
