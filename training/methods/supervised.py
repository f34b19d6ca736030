"""Supervised training with OHEM cross-entropy: all modalities always, or a random subset a sample.

With ``data.modality_dropout: true`` this is the anymodal baseline; with ``false`` it is AnySeg's first
stage, parallel multimodal learning, which yields the teacher.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from training.data.batches import Batch
from training.losses.ohem import ohem_cross_entropy
from training.methods.base import SegmentationMethod, present_pairs
from training.methods.schedule import OptimizerConfig
from training.models.segmentor import SegmentorConfig, full_size


@dataclass(frozen=True)
class OhemConfig:
    """Hard example mining.

    Args:
        threshold: pixels whose true class has at most this probability are hard.
        minimum_share: share of the pixels that counts at least.
    """

    threshold: float = 0.7
    minimum_share: float = 1 / 16


class Supervised(SegmentationMethod):
    """OHEM cross-entropy on whatever modalities the batch says are present.

    Args:
        network: what is trained.
        optimizer: how.
        ohem: the loss.
        seed: of the weights and of dropout.
    """

    def __init__(
        self,
        network: SegmentorConfig = SegmentorConfig(),  # noqa: B008 (frozen)
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008 (frozen)
        ohem: OhemConfig = OhemConfig(),
        seed: int = 0,
    ) -> None:
        super().__init__(network, optimizer, seed)
        self.ohem = ohem

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, modality_ids, sample_index = present_pairs(batch)
        logits = self.network(images, modality_ids, sample_index, len(batch.labels))
        height, width = batch.labels.shape[1:]
        loss = ohem_cross_entropy(
            full_size(logits, height, width),
            batch.labels,
            self.ohem.threshold,
            self.ohem.minimum_share,
        )
        self.log("train/loss", loss, prog_bar=True)
        return loss
