"""M3L, a multi-modal teacher for masked modality learning (arXiv 2304.10756), and AnySeg on top of it.

``M3L``: the student sees [labelled, labelled again, unlabelled]; the first copies are complete, of each other
sample a random non-empty subset of the sensors is shown. The teacher, a moving average of the student, sees
all sensors of all samples, and its ensemble's labels are learnt everywhere:

    L = L_OHEM(student on both labelled copies, label) + w * CE(student on everything, argmax teacher).

``AnySegM3L`` is this project's combination: the same batches and the same averaged teacher, for the network
that averages modalities, and the three distillation terms of AnySeg (arXiv 2411.17141) from this teacher on
all samples, labelled or not. It needs no teacher trained beforehand, hence no labels for one.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from training.errors import SettingsError
from training.losses.cmd import CmdConfig, cross_modal_distillation
from training.losses.mad import MadConfig, semantic_distillation
from training.losses.umd import UmdConfig, unimodal_distillation
from training.methods.mean_teacher import (
    MeanTeacher,
    TeacherConfig,
    View,
    pseudo_loss,
)
from training.methods.schedule import OptimizerConfig
from training.methods.supervised import OhemConfig
from training.models.segmentor import AnymodalSegmentor, SegmentorConfig


def seen_once(view: View) -> View:
    """``view`` without its first copies: a teacher that sees everything says the same of both."""
    return View(
        view.images[view.complete :],
        view.labels[view.complete :],
        view.available[view.complete :],
        view.present[view.complete :],
        0,
        1,
    )


def twice(values: Tensor, count: int) -> Tensor:
    """What belongs to the samples of :func:`seen_once`, the first ``count`` put before them again."""
    return torch.cat([values[:count], values])


class M3L(MeanTeacher):
    """M3L; needs a data module that gives :class:`~training.data.few_labels.FewLabelBatch`.

    Args:
        network: what is trained; ``linear_fusion`` as published, or the averaging network.
        optimizer: how.
        ohem: the supervised loss.
        teacher: the average and its loss.
        start_from: checkpoint or exported model whose weights the network starts from.
        imagenet: file of ImageNet weights that the encoder begins with; random ones otherwise.
        seed: of the weights, of masks and of dropout.
    """

    def __init__(
        self,
        network: SegmentorConfig = SegmentorConfig(),  # noqa: B008 (frozen)
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008 (frozen)
        ohem: OhemConfig = OhemConfig(),  # noqa: B008 (frozen)
        teacher: TeacherConfig = TeacherConfig(),  # noqa: B008 (frozen)
        start_from: Path | None = None,
        imagenet: Path | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            network,
            optimizer,
            ohem,
            teacher,
            modality_dropout=True,
            start_from=start_from,
            imagenet=imagenet,
            seed=seed,
        )

    def shown_to_teacher(self, view: View) -> Tensor:
        """bool[N, M]: everything there is."""
        return view.available

    @torch.no_grad()
    def teach(self, view: View) -> Tensor:
        """The teacher's labels int64 ``[N, H, W]``."""
        if self.teacher_config.dropout:
            return super().teach(view)
        return twice(super().teach(seen_once(view)), view.complete)


class AnySegM3L(M3L):
    """M3L with AnySeg's distillation from the averaged teacher.

    Args:
        network: the student, which averages modalities.
        optimizer: how it is trained.
        ohem: the supervised loss.
        teacher: the average and the loss on its labels.
        umd: unimodal distillation; the weights of these three are far below those for a teacher that was
            trained beforehand, as this one knows little more than its student.
        cmd: cross-modal distillation.
        mad: semantic distillation.
        start_from: checkpoint or exported model whose weights the network starts from.
        imagenet: file of ImageNet weights that the encoder begins with; random ones otherwise.
        seed: of the weights, of masks and of dropout.

    Raises:
        SettingsError: if the network is no averaging one, or cross-modal distillation would need sensors
            that a sample may lack.
    """

    def __init__(
        self,
        network: SegmentorConfig = SegmentorConfig(),  # noqa: B008 (frozen)
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008 (frozen)
        ohem: OhemConfig = OhemConfig(),  # noqa: B008 (frozen)
        teacher: TeacherConfig = TeacherConfig(),  # noqa: B008 (frozen)
        umd: UmdConfig = UmdConfig(weight=0.5),  # noqa: B008 (frozen)
        cmd: CmdConfig = CmdConfig(weight=1.0),  # noqa: B008 (frozen)
        mad: MadConfig = MadConfig(weight=2.0),  # noqa: B008 (frozen)
        start_from: Path | None = None,
        imagenet: Path | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(network, optimizer, ohem, teacher, start_from, imagenet, seed)
        if not isinstance(self.network, AnymodalSegmentor):
            raise SettingsError(
                "AnySeg distils into a network that averages modalities, without linear_fusion"
            )
        if cmd.weight and cmd.reading == "pairs":
            raise SettingsError(
                "cmd.reading must be relations: pairs needs every sensor in every sample, and drives may "
                "lack some"
            )
        self.umd, self.cmd, self.mad = umd, cmd, mad

    def terms(self, view: View) -> dict[str, Tensor]:
        """The weighted terms of the loss, by name."""
        if not self.taught:
            return super().terms(view)
        student = self.network
        assert isinstance(student, AnymodalSegmentor)
        samples, modalities = view.present.shape
        sample_index, modality_ids = view.present.nonzero(as_tuple=True)
        features = student.encode(view.images[sample_index, modality_ids], modality_ids)
        logits = student.fuse(features, modality_ids, sample_index, samples)
        if self.teacher_config.dropout:
            theirs, their_logits = self._teach_features(view)
        else:
            once, logits_once = self._teach_features(seen_once(view))
            theirs = tuple(twice(level, view.complete * modalities) for level in once)
            their_logits = twice(logits_once, view.complete)
        labels = self.labels_of(their_logits, view)
        terms = {
            "segmentation": self.supervised_term([logits], view),
            "pseudo": self.teacher_config.weight
            * pseudo_loss([logits], labels, student.align_corners),
        }
        pairs = sample_index * modalities + modality_ids
        if self.umd.weight:
            terms["umd"] = self.umd.weight * unimodal_distillation(
                features, theirs, pairs, self.umd
            )
        if self.cmd.weight:
            terms["cmd"] = self.cmd.weight * cross_modal_distillation(
                features, theirs, pairs, modalities, self.cmd
            )
        if self.mad.weight:
            terms["mad"] = self.mad.weight * semantic_distillation(logits, their_logits, self.mad)
        return terms

    @torch.no_grad()
    def _teach_features(self, view: View) -> tuple[tuple[Tensor, ...], Tensor]:
        """The teacher's maps of all pairs ``[N * M, ...]`` and its logits from what is available."""
        teacher = self.teacher_network
        assert isinstance(teacher, AnymodalSegmentor)
        samples, modalities = view.available.shape
        ids = torch.arange(modalities, device=view.images.device).repeat(samples)
        index = torch.arange(samples, device=view.images.device).repeat_interleave(modalities)
        features = teacher.encode(view.images.flatten(0, 1), ids)
        keep = view.available.flatten()
        logits = teacher.fuse([level[keep] for level in features], ids[keep], index[keep], samples)
        return features, logits
