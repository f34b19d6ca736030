"""AnySeg's second stage (arXiv 2411.17141): an anymodal student taught by a multimodal teacher.

The student sees a random subset of the modalities of each sample; the frozen teacher sees all of them.

    L = L_OHEM(student(S), label) + w_u L_UMD + w_c L_CMD + w_m L_MAD

Each term is switched off by weight 0. The teacher is a checkpoint of ``training.methods.supervised`` with
``modality_dropout: false``.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from training.data.batches import Batch
from training.errors import SettingsError
from training.losses.cmd import CmdConfig, cross_modal_distillation
from training.losses.joint import joint_mean
from training.losses.mad import MadConfig, semantic_distillation
from training.losses.ohem import ohem_cross_entropy
from training.losses.umd import UmdConfig, unimodal_distillation
from training.methods.base import SegmentationMethod, all_pairs, present_pairs
from training.methods.schedule import OptimizerConfig
from training.methods.supervised import OhemConfig, Predictions, predict_together_and_alone
from training.models.checkpoint import copy_weights, load_trained
from training.models.segmentor import AnymodalSegmentor, Features, SegmentorConfig, full_size


class AnySegStudent(SegmentationMethod):
    """Supervision and three distillation terms.

    Args:
        teacher: checkpoint of the teacher, or folder of an exported model.
        network: the student; its encoder may differ from the teacher's.
        optimizer: how it is trained.
        ohem: the supervised loss.
        umd: unimodal distillation.
        cmd: cross-modal distillation.
        mad: semantic distillation.
        alone: weight of the supervised and the semantic loss of each present modality's own prediction,
            beside those of all that is present; not in the paper.
        start_from_teacher: begin with the teacher's weights instead of random ones; the networks must be
            alike. The published student begins with ImageNet's.
        start_from: checkpoint or exported model whose weights the student starts from instead.
        imagenet: file of ImageNet weights that the encoder begins with; random ones otherwise.
        seed: of the weights and of dropout.

    Raises:
        SettingsError: if teacher and student differ in their classes.
        CheckpointError: if weights to teach or to start from cannot be read or are of another network.
    """

    needs_all_sensors = True

    def __init__(
        self,
        teacher: Path,
        network: SegmentorConfig = SegmentorConfig(),  # noqa: B008 (frozen)
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008 (frozen)
        ohem: OhemConfig = OhemConfig(),  # noqa: B008 (frozen)
        umd: UmdConfig = UmdConfig(),  # noqa: B008 (frozen)
        cmd: CmdConfig = CmdConfig(),  # noqa: B008 (frozen)
        mad: MadConfig = MadConfig(),  # noqa: B008 (frozen)
        alone: float = 0.0,
        start_from_teacher: bool = False,
        start_from: Path | None = None,
        imagenet: Path | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(network, optimizer, seed, start_from, imagenet)
        if not isinstance(self.network, AnymodalSegmentor):
            raise SettingsError("AnySeg's student averages modalities: linear_fusion must be null")
        trained = load_trained(Path(teacher))
        frozen = trained.anymodal.requires_grad_(False)
        if frozen.config.classes != network.classes:
            raise SettingsError(
                f"the teacher {teacher} has {frozen.config.classes} classes, the student "
                f"{network.classes}"
            )
        if start_from_teacher:
            if start_from is not None or imagenet is not None:
                raise SettingsError("start_from_teacher leaves no room for start_from or imagenet")
            copy_weights(self.network, trained, Path(teacher))
            self.begun["start_from"] = teacher
        # Not a submodule: it is in no checkpoint of the student, and stays in evaluation mode.
        self._teacher = (frozen,)
        self._teacher_knows = trained.data.get("modalities", [m.label for m in frozen.modalities])
        # Stages that run on the fused map have no map of a single modality to teach. Without a term that
        # compares maps there is nothing to project: DDP waits for the gradient of every parameter.
        stages = min(self.student.early_stages, frozen.early_stages)
        compared = stages if umd.weight or cmd.weight else 0
        self.projections = nn.ModuleList(
            nn.Identity() if ours == theirs else nn.Conv2d(ours, theirs, 1)
            for ours, theirs in zip(
                self.student.encoder.channels[:compared],
                frozen.encoder.channels[:compared],
                strict=True,
            )
        )
        self.ohem, self.umd, self.cmd, self.mad = ohem, umd, cmd, mad
        self.alone = alone

    @property
    def student(self) -> AnymodalSegmentor:
        """The network under training."""
        assert isinstance(self.network, AnymodalSegmentor)
        return self.network

    @property
    def teacher(self) -> AnymodalSegmentor:
        """The frozen teacher."""
        return self._teacher[0]

    def setup(self, stage: str) -> None:
        super().setup(stage)
        distils = self.umd.weight or self.cmd.weight or self.mad.weight
        unknown = [m.label for m in self.sensors if m.label not in self._teacher_knows]
        if distils and unknown:
            raise SettingsError(
                f"the teacher was trained on {', '.join(self._teacher_knows)} and has nothing to teach about "
                f"{', '.join(unknown)}: set data.modalities, or train a teacher with all of them"
            )

    def on_fit_start(self) -> None:
        self.teacher.to(self.device).eval()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, modality_ids, sample_index = present_pairs(batch)
        features = self.student.encode(images, modality_ids)
        if self.alone:
            found = predict_together_and_alone(
                self.student, features, modality_ids, sample_index, batch.present
            )
        else:
            logits = self.student.fuse(features, modality_ids, sample_index, len(batch.images))
            found = Predictions(logits, logits[:0], sample_index[:0])
        height, width = batch.labels.shape[1:]
        terms = {
            "segmentation": ohem_cross_entropy(
                full_size(found.together, height, width),
                batch.labels,
                self.ohem.threshold,
                self.ohem.minimum_share,
            )
        }
        if self.alone:
            terms["alone"] = self.alone * found.loss_alone(batch.labels, self.ohem)
        if self.umd.weight or self.cmd.weight or self.mad.weight:
            terms |= self._distillation(batch, features, found, modality_ids, sample_index)
        loss = torch.stack(list(terms.values())).sum()
        self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()})
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def _distillation(
        self,
        batch: Batch,
        features: Features,
        found: Predictions,
        modality_ids: Tensor,
        sample_index: Tensor,
    ) -> dict[str, Tensor]:
        """The weighted terms that are switched on, by name.

        Args:
            batch: what the teacher sees.
            features: the student's maps of the present pairs.
            found: the student's predictions from the subsets.
            modality_ids: of each pair.
            sample_index: of each pair.
        """
        modalities = len(self.sensors)
        teacher_features, teacher_logits = self._teach(batch)
        # The teacher's rows: those of the data set's sensors, sample by sample.
        place = torch.zeros(batch.images.shape[1], dtype=torch.long, device=modality_ids.device)
        place[[int(m) for m in self.sensors]] = torch.arange(modalities, device=modality_ids.device)
        pairs = sample_index * modalities + place[modality_ids]
        projected = [p(f) for p, f in zip(self.projections, features, strict=False)]
        teacher_features = teacher_features[: len(projected)]
        terms = {}
        if self.umd.weight:
            terms["umd"] = self.umd.weight * unimodal_distillation(
                projected, teacher_features, pairs, self.umd
            )
        if self.cmd.weight:
            terms["cmd"] = self.cmd.weight * cross_modal_distillation(
                projected, teacher_features, pairs, modalities, self.cmd
            )
        if self.mad.weight:
            terms["mad"] = self.mad.weight * semantic_distillation(
                found.together, teacher_logits, self.mad
            )
            if self.alone:
                count = len(found.samples)
                own = 0.0 * found.alone.sum()
                if count:
                    own = semantic_distillation(
                        found.alone, teacher_logits[found.samples], self.mad
                    )
                terms["mad_alone"] = self.alone * self.mad.weight * joint_mean(own, count)
        return terms

    @torch.no_grad()
    def _teach(self, batch: Batch) -> tuple[Features, Tensor]:
        """The teacher's maps of all pairs ``[B * M, ...]`` and its logits from all M sensors."""
        images, ids, index = all_pairs(batch, self.sensors)
        features = self.teacher.encode(images, ids)
        return features, self.teacher.fuse(features, ids, index, len(batch.images))
