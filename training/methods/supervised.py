"""Supervised training with OHEM cross-entropy: all modalities always, or a random subset a sample.

With ``data.modality_dropout: true`` this is the anymodal baseline; with ``false`` it is AnySeg's first
stage, parallel multimodal learning, which yields the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.data.batches import Batch
from training.losses.ohem import ohem_cross_entropy
from training.methods.base import SegmentationMethod
from training.methods.schedule import OptimizerConfig
from training.models.segmentor import SegmentorConfig, full_size


@dataclass(frozen=True)
class OhemConfig:
    """Hard example mining.

    Args:
        threshold: pixels whose true class has at most this probability are hard.
        minimum_share: share of the pixels that counts at least.
        of_all_pixels: count the share from all pixels of the labelled samples seen once, instead of from
            the labelled pixels of all their copies. M3L's code does, with a share of 0.08.
    """

    threshold: float = 0.7
    minimum_share: float = 1 / 16
    of_all_pixels: bool = False


def supervised_loss(
    predictions: Sequence[Tensor],
    labels: Tensor,
    config: OhemConfig,
    align_corners: bool = False,
    copies: int = 1,
) -> Tensor:
    """OHEM cross-entropy, averaged over the predictions of a network that trains.

    Args:
        predictions: logits ``[B, classes, h, w]`` each. An ensemble that passes no gradient on is left out:
            it would only scale the value.
        labels: uint8 ``[B, H, W]``, 255 is ignored.
        config: the loss.
        align_corners: how logits are resized to the labels' size.
        copies: how often each labelled sample is in the batch.
    """
    height, width = labels.shape[1:]
    minimum = None
    if config.of_all_pixels:
        minimum = int(height * width * config.minimum_share) * (len(labels) // copies)
    losses = [
        ohem_cross_entropy(
            full_size(logits, height, width, align_corners),
            labels,
            config.threshold,
            config.minimum_share,
            minimum_pixels=minimum,
        )
        for logits in trained(predictions)
    ]
    return torch.stack(losses).mean()


def trained(predictions: Sequence[Tensor]) -> Sequence[Tensor]:
    """A network's only prediction, or all but the ensemble that follows them."""
    return predictions[:-1] if len(predictions) > 1 else predictions


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
        predictions = self.network.predictions(batch.images, batch.present)
        loss = supervised_loss(predictions, batch.labels, self.ohem, self.network.align_corners)
        self.log("train/loss", loss, prog_bar=True)
        return loss
