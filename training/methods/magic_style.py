"""A modality-agnostic baseline in the style of MAGIC (arXiv 2407.11344), without a teacher.

All modalities of a sample are encoded. Their mean is the benchmark that each modality is ranked against; the
network learns to predict from what the ranking selects as it does from all:

    sim_m = mean over stages and positions of cos(f_m, mean_n f_n)
    S = {m : sim_m is largest} and {m : sim_m is smallest}
    L = L_OHEM(all) + L_OHEM(S) + w T^2 KL(softmax(all / T) || softmax(S / T))

What it shares with MAGIC: one network, ranking by similarity to the aggregated features, a second supervised
prediction from a selection of the most robust and the most fragile modality, consistency of both
predictions. What differs: the aggregate is the mean that this project's network has anyway, where MAGIC has
a module of its own with convolutions and pooling; the selection is for each sample; and weights and
temperature are not MAGIC's, whose code sets them by data set. It is a baseline of this harness, not a
reproduction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.batches import Batch
from training.errors import SettingsError
from training.losses.distances import channel_kl
from training.methods.base import SegmentationMethod, all_pairs
from training.methods.schedule import OptimizerConfig
from training.methods.supervised import OhemConfig, supervised_loss
from training.models.segmentor import AnymodalSegmentor, SegmentorConfig


@dataclass(frozen=True)
class SelectionConfig:
    """The selected prediction.

    Args:
        consistency: weight of the divergence between both predictions.
        temperature: of its softmaxes.
    """

    consistency: float = 1.0
    temperature: float = 1.0


def rank_modalities(features: Sequence[Tensor], samples: int) -> Tensor:
    """How much each modality's maps resemble their mean.

    Args:
        features: maps ``[B * M, C_i, H_i, W_i]``, sample by sample.
        samples: B.

    Returns:
        float ``[B, M]``: cosine over channels, mean over positions and stages; constant.
    """
    similarities = []
    for level in features:
        maps = level.detach().float().unflatten(0, (samples, -1))
        mean = maps.mean(dim=1, keepdim=True)
        similarities.append(F.cosine_similarity(maps, mean, dim=2).mean(dim=(2, 3)))
    return torch.stack(similarities).mean(dim=0)


class MagicStyle(SegmentationMethod):
    """OHEM on all modalities and on a ranked selection, and their consistency.

    Args:
        network: what is trained; it averages modalities.
        optimizer: how.
        ohem: the supervised loss.
        selection: the selected prediction.
        start_from: checkpoint or exported model whose weights the network starts from.
        imagenet: file of ImageNet weights that the encoder begins with; random ones otherwise.
        seed: of the weights and of dropout.

    Raises:
        SettingsError: if the network does not average modalities.
    """

    needs_all_sensors = True

    def __init__(
        self,
        network: SegmentorConfig = SegmentorConfig(),  # noqa: B008 (frozen)
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008 (frozen)
        ohem: OhemConfig = OhemConfig(),  # noqa: B008 (frozen)
        selection: SelectionConfig = SelectionConfig(),
        start_from: Path | None = None,
        imagenet: Path | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(network, optimizer, seed, start_from, imagenet)
        if not isinstance(self.network, AnymodalSegmentor):
            raise SettingsError(
                "ranking needs a network that averages modalities, not Linear Fusion"
            )
        self.ohem, self.selection = ohem, selection

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        network = self.network
        assert isinstance(network, AnymodalSegmentor)
        samples = len(batch.images)
        images, ids, index = all_pairs(batch, self.sensors)
        features = network.encode(images, ids)
        everything = network.fuse(features, ids, index, samples)
        ranking = rank_modalities(features, samples)
        chosen = torch.zeros_like(ranking, dtype=torch.bool)
        chosen.scatter_(1, ranking.argmax(dim=1, keepdim=True), True)
        chosen.scatter_(1, ranking.argmin(dim=1, keepdim=True), True)
        keep = chosen.flatten()
        selected = network.fuse(
            [level[keep] for level in features], ids[keep], index[keep], samples
        )
        consistency = channel_kl(selected, everything, self.selection.temperature)
        terms = {
            "all": supervised_loss([everything], batch.labels, self.ohem),
            "selected": supervised_loss([selected], batch.labels, self.ohem),
            "consistency": self.selection.consistency * consistency,
        }
        loss = torch.stack(list(terms.values())).sum()
        self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()})
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss
