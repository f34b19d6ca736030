"""Linear Fusion (M3L, arXiv 2304.10756): a token stream a modality through one shared encoder.

Every convolution and linear layer is shared, every layer norm is a modality's own, and after the attention
of every block the streams exchange what they found. For two modalities the published network, with r = 0.8:

    f_0 = r a_0 + (1 - r) a_1,    f_1 = (1 - r) a_0 + r a_1.

For M modalities the share that is not a stream's own is split evenly among the others, which is the same
for M = 2, keeps the streams apart at r = 1 and makes their exchanged parts equal at r = 1 / M:

    f_m = r a_m + (1 - r) / (M - 1) * sum over n != m of a_n.

One head predicts from each stream; the ensemble is the mean of these predictions and passes no gradient on.
The tokens of a missing modality are replaced by one learned token right after the first patch embedding,
so that nothing of its pixels gets through; its stream flows on, fed by the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anyseg_ros.modality import MODALITIES, Modality
from training.errors import SettingsError
from training.models.encoder import (
    HEADS,
    REDUCTIONS,
    Block,
    EfficientAttention,
    MixTransformer,
    Stage,
)
from training.models.head import MlpHead
from training.models.segmentor import Features, SegmentorConfig

NORM_EPS = 1e-6
"""Of every layer norm of this network."""


class ModalityNorm(nn.Module):
    """A layer norm a modality, for tokens whose first axis runs over modalities, then samples."""

    def __init__(self, modalities: int, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(channels, NORM_EPS) for _ in range(modalities))

    def forward(self, x: Tensor) -> Tensor:
        streams = x.unflatten(0, (len(self.norms), -1)).unbind(0)
        return torch.cat([norm(s) for norm, s in zip(self.norms, streams, strict=True)])


class ExchangingAttention(EfficientAttention):
    """Attention within each stream, then the linear exchange between them."""

    def __init__(
        self, channels: int, heads: int, reduction: int, modalities: int, ratio: float
    ) -> None:
        super().__init__(channels, heads, reduction)
        self.modalities = modalities
        self.own = ratio
        self.other = (1.0 - ratio) / max(modalities - 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = super().forward(x)
        if self.modalities == 1 or self.other == 0.0:
            return found
        streams = found.unflatten(0, (self.modalities, -1))
        total = streams.sum(dim=0, keepdim=True)
        return ((self.own - self.other) * streams + self.other * total).flatten(0, 1)


class LinearFusionEncoder(nn.Module):
    """Mix Transformer over M streams.

    Args:
        size: a MiT size, ``mit_b0`` .. ``mit_b5``.
        modalities: M, number of streams.
        ratio: r above, within 0..1.
        drop_path: stochastic depth of the last block, drawn for each modality and sample.

    Raises:
        SettingsError: if ``ratio`` is no share, or the size is unknown.
    """

    def __init__(
        self, size: str, modalities: int, ratio: float = 0.8, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        if not 0.0 <= ratio <= 1.0:
            raise SettingsError(f"ratio {ratio} must be within 0..1")
        self.modalities = modalities
        mit = MixTransformer(size, drop_path)
        self.channels = mit.channels
        for index, stage in enumerate(mit.stages):
            assert isinstance(stage, Stage)
            for block in stage.blocks:
                exchanging = ExchangingAttention(
                    self.channels[index], HEADS[index], REDUCTIONS[index], modalities, ratio
                )
                assert isinstance(block, Block)
                exchanging.load_state_dict(block.attention.state_dict())
                block.attention = exchanging
        _separate_norms(mit, modalities)
        self.stages = mit.stages
        self.mask_token = nn.Parameter(torch.randn(self.channels[0]))

    def forward(self, images: Tensor, present: Tensor) -> Features:
        """Encode normalised images.

        Args:
            images: float ``[M, B, 3, H, W]``; H and W multiples of 32.
            present: bool ``[M, B]``; images elsewhere do not matter.

        Returns:
            Maps ``[M, B, C_i, H / 2^(i+1), W / 2^(i+1)]`` of the stages i = 1..4.
        """
        first = self.stages[0]
        assert isinstance(first, Stage)
        flat = images.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        tokens = first.patch_embed(flat)
        seen = present.flatten().view(-1, 1, 1, 1)
        x = first.transform(torch.where(seen, tokens, self.mask_token.to(tokens.dtype)))
        maps = [x]
        for stage in list(self.stages)[1:]:
            x = stage(x)
            maps.append(x)
        split = [level.unflatten(0, (self.modalities, -1)) for level in maps]
        return split[0], split[1], split[2], split[3]


class LinearFusionSegmentor(nn.Module):
    """Images of M modalities and a mask in; a prediction a modality and their ensemble out.

    Raises:
        SettingsError: if ``config.linear_fusion`` is ``None`` or its modalities are not in order, or if
            ``late_stages`` or ``fusion_weights`` is set.
    """

    mean: Tensor
    std: Tensor
    slots: Tensor

    def __init__(self, config: SegmentorConfig) -> None:
        super().__init__()
        fusion = config.linear_fusion
        if fusion is None:
            raise SettingsError("a Linear Fusion network needs the settings linear_fusion")
        if config.late_stages:
            raise SettingsError(
                "a Linear Fusion network keeps its streams apart: late_stages must be 0"
            )
        if config.fusion_weights is not None:
            raise SettingsError("a Linear Fusion network has no mean: fusion_weights must be null")
        self.modalities = tuple(Modality.from_label(name) for name in fusion.modalities)
        if not self.modalities or list(self.modalities) != sorted(set(self.modalities)):
            names = ", ".join(m.label for m in MODALITIES)
            raise SettingsError(
                f"linear_fusion.modalities {list(fusion.modalities)}: expected some of {names}, each "
                "once, in this order"
            )
        self.config = config
        self.align_corners = fusion.align_corners
        count = len(self.modalities)
        self.encoder = LinearFusionEncoder(config.encoder, count, fusion.ratio, config.drop_path)
        self.head = MlpHead(
            self.encoder.channels,
            config.classes,
            config.head_width,
            config.dropout,
            config.frozen_norm,
        )
        # The published training never changes it, so that the ensemble is a plain mean; it is here
        # because it belongs to the published weights.
        self.alpha = nn.Parameter(torch.ones(count), requires_grad=False)
        table = [config.normalization.of(m) for m in self.modalities]
        shape = (count, 1, 3, 1, 1)
        self.register_buffer("mean", 255.0 * torch.tensor([n.mean for n in table]).view(shape))
        self.register_buffer("std", 255.0 * torch.tensor([n.std for n in table]).view(shape))
        slots = torch.tensor([int(m) for m in self.modalities])
        self.register_buffer("slots", slots, persistent=False)

    def forward(self, images: Tensor, present: Tensor) -> list[Tensor]:
        """Segment a batch.

        Args:
            images: ``[M, B, 3, H, W]``, 0..255, in the order of ``self.modalities``.
            present: bool ``[M, B]``; pixels of absent images have no influence.

        Returns:
            M + 1 logits ``[B, classes, H/4, W/4]``: one a modality, in order, then the ensemble.
        """
        normal = (images.to(self.mean.dtype) - self.mean) / self.std
        maps = self.encoder(normal, present)
        logits = self.head([level.flatten(0, 1) for level in maps])
        single = logits.unflatten(0, (len(self.modalities), -1))
        weights = torch.softmax(self.alpha, dim=0).view(-1, 1, 1, 1, 1)
        ensemble = (weights * single.detach()).sum(dim=0)
        return [*single.unbind(0), ensemble]

    def predictions(self, images: Tensor, present: Tensor) -> list[Tensor]:
        """:meth:`forward` for images ``[B, 4, 3, H, W]`` and present ``[B, 4]`` of all modalities."""
        return self(
            images.index_select(1, self.slots).transpose(0, 1),
            present.index_select(1, self.slots).transpose(0, 1),
        )

    @torch.no_grad()
    def predict_subsets(
        self, images: Tensor, subsets: Sequence[tuple[Modality, ...]]
    ) -> list[Tensor]:
        """The ensemble's logits ``[B, classes, H/4, W/4]`` from each subset.

        Args:
            images: ``[B, 4, 3, H, W]``, 0..255, of all modalities.
            subsets: which modalities, for all samples alike; those without a slot are left out.
        """
        results = []
        for subset in subsets:
            present = torch.zeros(images.shape[:2], dtype=torch.bool, device=images.device)
            present[:, [int(m) for m in subset]] = True
            results.append(self.predictions(images, present)[-1])
        return results


def _separate_norms(module: nn.Module, modalities: int) -> None:
    """Replace every layer norm within ``module`` by one a modality."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.LayerNorm):
            setattr(module, name, ModalityNorm(modalities, child.normalized_shape[0]))
        else:
            _separate_norms(child, modalities)
