"""Mean teacher (Tarvainen and Valpola 2017) for multimodal segmentation, plain or with modality dropout.

The teacher is a moving average of the student; its predictions on all frames, labelled or not, are labels
for the student:

    L = L_OHEM(student, label) + w * CE(student, argmax teacher).

Plain, a step sees each labelled and each unlabelled sample once, with all their sensors. With modality
dropout the batch is [labelled, labelled again, unlabelled]: the first copies stay complete, each sample of
the others keeps a random non-empty subset of its sensors, drawn anew for the student and for the teacher.
That is the published baseline (arXiv 2304.10756); the teacher of ``training/methods/m3l.py`` sees everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from anyseg_ros.classes import IGNORE_ID
from training.data.batches import Batch
from training.data.few_labels import FewLabelBatch
from training.data.subsets import random_subsets
from training.losses.joint import joint_mean, joint_sum
from training.methods.base import SegmentationMethod
from training.methods.schedule import OptimizerConfig
from training.methods.supervised import OhemConfig, supervised_loss, trained
from training.models.network import Network
from training.models.segmentor import SegmentorConfig, full_size

_SHARES_RATE = 0.01
"""At which the average shares of classes follow the batches'."""
_RAREST = 1e-4
"""Share that is added to each class's: one that is in no label would be infinitely unlikely."""


@dataclass(frozen=True)
class TeacherConfig:
    """The averaged teacher and what is learnt from it.

    Args:
        decay: cap of the average's decay ``min(1 - 1 / (t + 1), decay)``, t = 0, 1, ... its updates so far.
        weight: of the loss on the teacher's labels.
        threshold: the teacher's labels below this confidence are ignored. M3L's code has none.
        supervised_steps: steps on labels alone before the teacher begins as a copy of the student; a
            network that starts from random weights has nothing to teach yet.
        alignment: strength of distribution alignment (ReMixMatch, arXiv 1911.09785). Labels that a teacher
            chooses by the largest probability favour the classes it knows well, and it learns from them:
            those become ever more frequent. A class's logit gets ``alignment`` times the logarithm of the
            class's share of the labelled pixels over its mean probability on unlabelled samples, both
            running averages. 1 aligns fully; M3L's code has none (0).
        dropout: let dropout and stochastic depth disturb the teacher too, as M3L's code does by leaving it
            in training mode.
    """

    decay: float = 0.99
    weight: float = 1.0
    threshold: float = 0.0
    supervised_steps: int = 0
    alignment: float = 0.0
    dropout: bool = False


def decay_at(update: int, cap: float) -> float:
    """Decay of the average's update number ``update``: 0, 1/2, 2/3, ... up to ``cap``."""
    return min(1.0 - 1.0 / (update + 1), cap)


def averaged_copy(network: Network, cap: float) -> AveragedModel:
    """A copy of ``network`` that follows it with :func:`decay_at`, statistics of norms included."""

    def average(old: Tensor, new: Tensor, updates: Tensor | int) -> Tensor:
        if not old.is_floating_point():
            return new
        return old.lerp(new, 1.0 - decay_at(int(updates), cap))

    copy = AveragedModel(network, avg_fn=average, use_buffers=True)
    return copy.requires_grad_(False)


class View(NamedTuple):
    """The samples of a step, and which sensors of each the student is shown."""

    images: Tensor
    """uint8[N, M, 3, H, W]"""
    labels: Tensor
    """uint8[L, H, W] of the first L samples"""
    available: Tensor
    """bool[N, M]"""
    present: Tensor
    """bool[N, M]"""
    complete: int
    """the first samples, which keep all their sensors"""
    copies: int
    """how often a labelled sample is among the first L"""


def compose(labelled: Batch, unlabelled: Batch | None, masked: bool) -> View:
    """The batch that a step looks at.

    Args:
        labelled: B labelled samples.
        unlabelled: U without labels, or ``None``.
        masked: add the labelled samples again, and let sample B and all after it keep a random subset.
    """
    copies = 2 if masked else 1
    parts = [labelled] * copies + ([] if unlabelled is None else [unlabelled])
    available = torch.cat([part.present for part in parts])
    complete = len(labelled.labels) if masked else len(available)
    return View(
        torch.cat([part.images for part in parts]),
        torch.cat([labelled.labels] * copies),
        available,
        torch.cat([available[:complete], random_subsets(available[complete:])]),
        complete,
        copies,
    )


def pseudo_labels(logits: Tensor, height: int, width: int, threshold: float, align: bool) -> Tensor:
    """The teacher's labels int64 ``[N, H, W]``; 255 where its confidence is below ``threshold``."""
    full = full_size(logits, height, width, align)
    if threshold <= 0:
        return full.argmax(-1)
    confidence, labels = full.softmax(-1).max(-1)
    return labels.masked_fill(confidence < threshold, IGNORE_ID)


def pseudo_loss(predictions: list[Tensor], labels: Tensor, align: bool) -> Tensor:
    """Mean cross-entropy over the pixels that have a label, averaged over the trained predictions.

    The mean is that of the joint batch of all processes.
    """
    height, width = labels.shape[1:]
    flat = labels.flatten()
    used = (flat != IGNORE_ID).sum()
    losses = [
        F.cross_entropy(
            full_size(logits, height, width, align).flatten(0, -2),
            flat,
            ignore_index=IGNORE_ID,
            reduction="sum",
        )
        / used.clamp(min=1)
        for logits in trained(predictions)
    ]
    return joint_mean(torch.stack(losses).mean(), used)


class ClassShares(nn.Module):
    """How frequent each class is among labelled pixels, and in what the teacher says of unlabelled samples.

    Args:
        classes: their number.
    """

    labelled: Tensor
    """float[classes], sums to 1"""
    predicted: Tensor
    """float[classes], sums to 1"""
    steps: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("labelled", torch.full((classes,), 1.0 / classes))
        self.register_buffer("predicted", torch.full((classes,), 1.0 / classes))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def note(self, labels: Tensor, logits: Tensor) -> None:
        """Take a step's batch into the averages; those of the first steps weigh alike.

        Args:
            labels: uint8 ``[L, H, W]``, 255 is ignored.
            logits: of the unlabelled samples, ``[U, classes, h, w]``.
        """
        classes = len(self.labelled)
        counts = torch.bincount(labels[labels != IGNORE_ID].flatten(), minlength=classes)
        sums = logits.float().softmax(1).sum((0, 2, 3))
        both = joint_sum(torch.stack([counts.to(sums), sums]))
        self.steps += 1
        rate = max(1.0 / float(self.steps), _SHARES_RATE)
        for share, total in zip((self.labelled, self.predicted), both, strict=True):
            if total.sum() > 0:
                share.lerp_(total / total.sum(), rate)

    def log_ratio(self) -> Tensor:
        """float[classes], the logarithm of labelled over predicted shares."""
        return (self.labelled + _RAREST).log() - (self.predicted + _RAREST).log()


class MeanTeacher(SegmentationMethod):
    """Mean teacher; needs a data module that gives :class:`FewLabelBatch`.

    Args:
        network: what is trained; ``linear_fusion`` as published, or the averaging network.
        optimizer: how.
        ohem: the supervised loss.
        teacher: the average and its loss.
        modality_dropout: mask sensors of student and teacher as above.
        start_from: checkpoint or exported model whose weights the network starts from.
        imagenet: file of ImageNet weights that the encoder begins with; random ones otherwise.
        seed: of the weights, of masks and of dropout.
    """

    learns_from_unlabelled = True

    def __init__(
        self,
        network: SegmentorConfig = SegmentorConfig(),  # noqa: B008 (frozen)
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008 (frozen)
        ohem: OhemConfig = OhemConfig(),  # noqa: B008 (frozen)
        teacher: TeacherConfig = TeacherConfig(),
        modality_dropout: bool = False,
        start_from: Path | None = None,
        imagenet: Path | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(network, optimizer, seed, start_from, imagenet)
        self.ohem = ohem
        self.teacher_config = teacher
        self.modality_dropout = modality_dropout
        self.teacher = averaged_copy(self.network, teacher.decay)
        if teacher.alignment:
            self.shares = ClassShares(network.classes)

    @property
    def taught(self) -> bool:
        """Whether the teacher takes part in the current step."""
        return self.global_step >= self.teacher_config.supervised_steps

    @property
    def validated(self) -> Network:
        """The teacher once it is one, as that is what is deployed."""
        return self.teacher_network if int(self.teacher.n_averaged) else self.network

    @property
    def teacher_network(self) -> Network:
        """The averaged network."""
        return cast(Network, self.teacher.module)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        self.teacher.train(self.teacher_config.dropout)
        # Their statistics are averages of the student's: own ones of this batch must not get in.
        for module in self.teacher_network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        if self.taught and int(self.teacher.n_averaged) == 0:
            self.teacher_network.load_state_dict(self.network.state_dict())

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        # Not at the end of the batch: callbacks that save a checkpoint then come before the method.
        if self.taught:
            self.teacher.update_parameters(self.network)

    def training_step(self, batch: FewLabelBatch, batch_idx: int) -> Tensor:
        view = compose(
            batch.labelled, batch.unlabelled if self.taught else None, self.modality_dropout
        )
        terms = self.terms(view)
        loss = torch.stack(list(terms.values())).sum()
        self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()})
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def terms(self, view: View) -> dict[str, Tensor]:
        """The weighted terms of the loss, by name."""
        predictions = self.network.predictions(view.images, view.present)
        terms = {"segmentation": self.supervised_term(predictions, view)}
        if self.taught:
            labels = self.teach(view)
            terms["pseudo"] = self.teacher_config.weight * pseudo_loss(
                predictions, labels, self.network.align_corners
            )
        return terms

    def supervised_term(self, predictions: list[Tensor], view: View) -> Tensor:
        """The loss on the labelled samples, which come first."""
        first = [logits[: len(view.labels)] for logits in predictions]
        return supervised_loss(
            first, view.labels, self.ohem, self.network.align_corners, view.copies
        )

    @torch.no_grad()
    def teach(self, view: View) -> Tensor:
        """The teacher's labels int64 ``[N, H, W]``."""
        predictions = self.teacher_network.predictions(view.images, self.shown_to_teacher(view))
        return self.labels_of(predictions[-1], view)

    def labels_of(self, logits: Tensor, view: View) -> Tensor:
        """The labels int64 ``[N, H, W]`` that the teacher's logits stand for."""
        height, width = view.labels.shape[1:]
        if self.teacher_config.alignment:
            self.shares.note(view.labels, logits[len(view.labels) :])
            shift = self.teacher_config.alignment * self.shares.log_ratio()
            logits = logits + shift[:, None, None]
        return pseudo_labels(
            logits, height, width, self.teacher_config.threshold, self.network.align_corners
        )

    def shown_to_teacher(self, view: View) -> Tensor:
        """bool[N, M]: own draws over the same samples as the student's; all if nothing is masked."""
        masked = random_subsets(view.available[view.complete :])
        return torch.cat([view.available[: view.complete], masked])
