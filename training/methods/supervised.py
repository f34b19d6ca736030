"""Supervised training with OHEM cross-entropy: all modalities always, or a random subset a sample.

With ``data.modality_dropout: true`` this is the anymodal baseline; with ``false`` it is AnySeg's first
stage, parallel multimodal learning, which yields the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from training.data.batches import Batch
from training.errors import SettingsError
from training.losses.ohem import ohem_cross_entropy
from training.methods.base import SegmentationMethod, present_pairs
from training.methods.schedule import OptimizerConfig
from training.models.segmentor import AnymodalSegmentor, Features, SegmentorConfig, full_size


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


class Predictions(NamedTuple):
    """What a network says of B samples from all that is present, and from each modality among others."""

    together: Tensor
    """logits ``[B, classes, H/4, W/4]``"""
    alone: Tensor
    """logits ``[A, classes, H/4, W/4]``"""
    samples: Tensor
    """int64[A], whose these are"""

    def loss_alone(self, labels: Tensor, config: OhemConfig) -> Tensor:
        """OHEM cross-entropy of ``alone`` in the joint batch of all processes; 0 if there is none.

        Args:
            labels: uint8 ``[B, H, W]``.
            config: the loss.
        """
        # At the logits' size, 1/4, with the label in the middle of each cell: a fourth of the time.
        return supervised_loss([self.alone], labels[:, 2::4, 2::4][self.samples], config)


def predict_together_and_alone(
    network: AnymodalSegmentor,
    features: Features,
    modality_ids: Tensor,
    sample_index: Tensor,
    present: Tensor,
) -> Predictions:
    """Both kinds of predictions from the same maps.

    Args:
        network: whose head predicts.
        features: maps ``[P, C_i, H_i, W_i]`` of the present pairs.
        modality_ids: int64[P], of each pair.
        sample_index: int64[P], of each pair.
        present: bool ``[B, M]``.
    """
    samples = len(present)
    # What is present alone is no second prediction. All go through the head at once: its batch norm
    # sees maps of one modality and means of several in the mixture that it will meet.
    among_others = (present.sum(1)[sample_index] > 1).nonzero()[:, 0]
    own = samples + torch.arange(len(among_others), device=sample_index.device)
    logits = network.fuse(
        [torch.cat([level, level[among_others]]) for level in features],
        torch.cat([modality_ids, modality_ids[among_others]]),
        torch.cat([sample_index, own]),
        samples + len(own),
    )
    return Predictions(logits[:samples], logits[samples:], sample_index[among_others])


class Supervised(SegmentationMethod):
    """OHEM cross-entropy on whatever modalities the batch says are present.

    Args:
        network: what is trained.
        optimizer: how.
        ohem: the loss.
        alone: weight of a second loss, that of each present modality's own prediction. The images are
            encoded anyway, so that a modality that says little learns from every sample for the price
            of the head.
        start_from: checkpoint or exported model whose weights the network starts from.
        imagenet: file of ImageNet weights that the encoder begins with; random ones otherwise.
        seed: of the weights and of dropout.

    Raises:
        SettingsError: if ``alone`` is set for a network that does not average modalities.
        CheckpointError: if ``start_from`` or ``imagenet`` cannot be read or is of another network.
    """

    def __init__(
        self,
        network: SegmentorConfig = SegmentorConfig(),  # noqa: B008 (frozen)
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008 (frozen)
        ohem: OhemConfig = OhemConfig(),
        alone: float = 0.0,
        start_from: Path | None = None,
        imagenet: Path | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(network, optimizer, seed, start_from, imagenet)
        self.ohem = ohem
        self.alone = alone
        if alone and not isinstance(self.network, AnymodalSegmentor):
            raise SettingsError(
                "alone needs a network that averages modalities: linear_fusion must be null"
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.alone:
            loss = self._together_and_alone(batch)
            self.log("train/loss", loss, prog_bar=True)
            return loss
        predictions = self.network.predictions(batch.images, batch.present)
        loss = supervised_loss(predictions, batch.labels, self.ohem, self.network.align_corners)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def _together_and_alone(self, batch: Batch) -> Tensor:
        assert isinstance(self.network, AnymodalSegmentor)
        images, modality_ids, sample_index = present_pairs(batch)
        features = self.network.encode(images, modality_ids)
        found = predict_together_and_alone(
            self.network, features, modality_ids, sample_index, batch.present
        )
        together = supervised_loss([found.together], batch.labels, self.ohem)
        return together + self.alone * found.loss_alone(batch.labels, self.ohem)
