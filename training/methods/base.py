"""What all methods share: the network under training, validation, checkpoints."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import lightning
import torch
from torch import Tensor

from anyseg_ros.evaluation.metrics import ConfusionMatrix
from anyseg_ros.modality import Modality, subset_name
from training.data.batches import Batch
from training.errors import SettingsError
from training.methods.schedule import OptimizerConfig, make_optimizer
from training.models.checkpoint import start_network
from training.models.encoder import MixTransformer
from training.models.linear_fusion import LinearFusionEncoder
from training.models.network import Network, make_network
from training.models.reference_checkpoints import import_imagenet_encoder
from training.models.segmentor import SegmentorConfig, full_size


class SegmentationMethod(lightning.LightningModule):
    """A method that trains ``self.network``; subclasses define ``training_step``.

    Args:
        network: what is trained.
        optimizer: how.
        seed: of the weights and of dropout.
        start_from: checkpoint or exported model whose weights the network starts from, to go on with other
            data or settings.
        imagenet: file of ImageNet weights that the encoder begins with, ``mit_b0.pth`` and its like. Without
            either all weights begin random.

    Raises:
        CheckpointError: if ``start_from`` or ``imagenet`` cannot be read or is of another network.
        SettingsError: if both are given, or ``imagenet`` for an encoder that is no Mix Transformer.
    """

    learns_from_unlabelled: ClassVar[bool] = False
    """Whether batches are :class:`~training.data.few_labels.FewLabelBatch`."""
    needs_all_sensors: ClassVar[bool] = False
    """Whether sensors are read that a sample is not said to show."""

    def __init__(
        self,
        network: SegmentorConfig,
        optimizer: OptimizerConfig,
        seed: int = 0,
        start_from: Path | None = None,
        imagenet: Path | None = None,
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.network = make_network(network)
        if start_from is not None and imagenet is not None:
            raise SettingsError("start_from and imagenet both say where to begin; give one of them")
        if start_from is not None:
            start_network(self.network, Path(start_from))
        if imagenet is not None:
            self._start_from_imagenet(Path(imagenet))
        self.optimizer_config = optimizer
        self.seed = seed
        self.begun = {"start_from": start_from, "imagenet": imagenet}
        self._matrices: dict[str, ConfusionMatrix] = {}
        self.sensors: tuple[Modality, ...] = self.network.modalities
        """those of the network that the data set has and the run trains on"""

    def _start_from_imagenet(self, path: Path) -> None:
        encoder = self.network.encoder
        if not isinstance(encoder, MixTransformer | LinearFusionEncoder):
            raise SettingsError(
                f"ImageNet weights are for mit_b0 .. mit_b5, not {type(encoder).__name__}"
            )
        import_imagenet_encoder(path, encoder)

    def setup(self, stage: str) -> None:
        known = self.network.modalities
        chosen = getattr(getattr(self.trainer, "datamodule", None), "modalities", known)
        if extra := [m.label for m in chosen if m not in known]:
            raise SettingsError(
                f"data.modalities names {', '.join(extra)}, for which the network has no slot; "
                "set data.modalities to linear_fusion.modalities"
            )
        self.sensors = tuple(m for m in known if m in chosen)
        if stage == "fit":
            self._check_trainer()
            self._check_classes()
            self._check_data()

    def _check_classes(self) -> None:
        """Labels beyond the network's classes end a run deep inside a kernel; missing ones never show."""
        data = getattr(self.trainer, "datamodule", None)
        names = [] if data is None else data.describe().get("class_names", [])
        classes = self.network.config.classes
        if names and len(names) != classes:
            raise SettingsError(
                f"model.network.classes is {classes}, but the data set has {len(names)} classes"
            )

    def _check_data(self) -> None:
        """Refuse batches of a kind that the method cannot read, or would read wrongly."""
        data = getattr(self.trainer, "datamodule", None)
        given = getattr(data, "unlabelled", "none") != "none"
        name = type(self).__name__
        if self.learns_from_unlabelled and not given:
            raise SettingsError(
                f"{name} learns from unlabelled frames too: it needs data of few_labels.py (FewLabelStreet) "
                "with data.unlabelled: rest"
            )
        if given and not self.learns_from_unlabelled:
            raise SettingsError(f"{name} learns from labels alone: set data.unlabelled to none")
        frames = getattr(data, "frames", None)
        if self.needs_all_sensors and frames is not None:
            chosen = [int(m) for m in self.sensors]
            if not bool(frames()[0].available[:, chosen].all()):
                raise SettingsError(
                    f"{name} looks at every sensor of a frame, and some labelled drive lacks one: name those "
                    "that all of them have in data.modalities"
                )

    def _check_trainer(self) -> None:
        """Refuse what would train in silence with other batches or rates than the settings say."""
        if int(self.trainer.max_steps) < 1:
            raise SettingsError("trainer.max_steps must be given: the learning rate decays over it")
        if self.trainer.accumulate_grad_batches != 1:
            raise SettingsError(
                "trainer.accumulate_grad_batches must be 1: order and masks belong to optimizer steps"
            )

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout's randomness belongs to the step, so that a resumed run repeats it.
        torch.manual_seed(zlib.crc32(f"{self.seed}/{self.global_step}/{self.global_rank}".encode()))

    def configure_optimizers(self) -> Any:
        # A fused optimizer takes the loss's scale off within its step, after the gradients were clipped.
        fused = self.trainer.precision != "16-mixed"
        optimizer, schedule = make_optimizer(
            self, self.optimizer_config, int(self.trainer.max_steps), fused
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        if self.optimizer_config.clip_norm > 0:
            torch.nn.utils.clip_grad_norm_(self.parameters(), self.optimizer_config.clip_norm)

    @property
    def validated(self) -> Network:
        """The network that validation looks at."""
        return self.network

    @property
    def validation_subsets(self) -> tuple[tuple[Modality, ...], ...]:
        """Cheap to watch: each modality that is trained on alone, and all of them together."""
        together = [self.sensors] if len(self.sensors) > 1 else []
        return (*((m,) for m in self.sensors), *together)

    def on_validation_epoch_start(self) -> None:
        classes = self.network.config.classes
        self._matrices = {subset_name(s): ConfusionMatrix(classes) for s in self.validation_subsets}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        network = self.validated
        height, width = batch.labels.shape[1:]
        for subset, logits in zip(
            self.validation_subsets,
            network.predict_subsets(batch.images, self.validation_subsets),
            strict=True,
        ):
            predicted = full_size(logits, height, width, network.align_corners).argmax(-1)
            complete = batch.present[:, [int(m) for m in subset]].all(1)
            self._matrices[subset_name(subset)].add(
                predicted[complete].to(torch.uint8).cpu().numpy(),
                batch.labels[complete].cpu().numpy(),
            )

    def on_validation_epoch_end(self) -> None:
        values = {}
        for name, matrix in self._matrices.items():
            counts = self.all_gather(torch.from_numpy(matrix.counts))
            assert isinstance(counts, torch.Tensor)
            matrix.counts = counts.reshape(-1, *matrix.counts.shape).sum(0).cpu().numpy()
            values[name] = matrix.miou()
        # Of a combination that no drive recorded there is nothing to say.
        values = {name: value for name, value in values.items() if value == value}
        for name, value in values.items():
            self.log(f"val/miou/{name}", value)
        if values:
            self.log("val/miou_mean", sum(values.values()) / len(values), prog_bar=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what the network is and was trained on as plain data, for weights-only loading."""
        checkpoint["segmentor"] = asdict(self.network.config)
        begun = {key: str(path) for key, path in self.begun.items() if path is not None}
        checkpoint["method"] = {"name": type(self).__name__, "seed": self.seed, **begun}
        data = getattr(self.trainer, "datamodule", None)
        checkpoint["data"] = data.describe() if data is not None else {}


def all_pairs(batch: Batch, sensors: Sequence[Modality]) -> tuple[Tensor, Tensor, Tensor]:
    """Every pair of a sample and one of ``sensors``, present or not: images, modality ids, sample index."""
    samples = len(batch.images)
    chosen = torch.tensor([int(m) for m in sensors], device=batch.images.device)
    index = torch.arange(samples, device=batch.images.device).repeat_interleave(len(chosen))
    return batch.images[:, chosen].flatten(0, 1), chosen.repeat(samples), index


def present_pairs(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """The present pairs: images ``[P, 3, H, W]``, modality ids and sample index ``[P]``."""
    sample_index, modality_ids = batch.present.nonzero(as_tuple=True)
    return batch.images[sample_index, modality_ids], modality_ids, sample_index
