"""Training batches as a pure function of (seed, step), so that a resumed run sees the same ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import lightning
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from anyseg_ros.modality import MODALITIES, Modality
from training.data.street import DataSetError, ImageSpec, StreetData, class_set, provenance
from training.data.transforms import LABEL_PLANE, AugmentConfig, Planes
from training.errors import SettingsError


class Batch(NamedTuple):
    """Samples with all modalities, and the subset each sample is to be trained on."""

    images: Tensor
    """uint8[B, M, 3, H, W]"""
    labels: Tensor
    """uint8[B, H, W]"""
    present: Tensor
    """bool[B, M], at least one a sample"""


class PlaneSource(Protocol):
    """Anything that hands out samples as planes."""

    def __len__(self) -> int: ...

    def planes(self, index: int) -> Planes: ...


class LabelledSource(PlaneSource, Protocol):
    """A split of a data set."""

    def available(self, index: int) -> npt.NDArray[np.bool_]:
        """bool[M]: the sensors that a sample has."""
        ...

    def labelled(self) -> Sequence[int]:
        """The samples with a labelled pixel."""
        ...


class Augmentation(Protocol):
    """Varies a training sample; a pure function of the sample and the generator."""

    def apply(self, planes: Planes, rng: np.random.Generator) -> Planes: ...


def split_planes(planes: Planes) -> tuple[Planes, Planes]:
    """Images uint8[M, 3, H, W] and label uint8[H, W] of a sample."""
    images = planes[:LABEL_PLANE].reshape(len(MODALITIES), 3, *planes.shape[1:])
    return images, planes[LABEL_PLANE]


def draw_subsets(
    samples: int,
    modalities: Sequence[Modality],
    rng: np.random.Generator,
    weights: Mapping[str, float] | None = None,
) -> np.ndarray:
    """A random non-empty subset for each sample: its size uniform in 1..n, then its members.

    Members are uniform, or drawn with ``weights`` by modality (1 where not named): a modality that
    says little alone needs to be alone more often.

    Sizes are stratified: among n samples that follow each other every size occurs once. That keeps the
    distribution of each sample, and makes the work of a step constant and equal for all processes.

    Returns:
        bool[samples, M]
    """
    count = len(modalities)
    groups = -(-samples // count)
    sizes = np.concatenate([rng.permutation(count) + 1 for _ in range(groups)])[:samples]
    present = np.zeros((samples, len(MODALITIES)), bool)
    share = np.array([(weights or {}).get(m.label, 1.0) for m in modalities])
    share /= share.sum()
    for row, size in zip(present, sizes, strict=True):
        row[rng.choice(np.asarray(modalities), size, replace=False, p=share)] = True
    return present


class StepBatches(Dataset[Batch]):
    """Item ``step`` is the whole batch of that step.

    Args:
        source: the samples.
        augmentation: how they are varied.
        batch_size: samples a step.
        seed: of everything random.
        modalities: the ones trained on.
        modality_dropout: draw a random subset for each sample; otherwise all are present.
        rank: which share of the joint batch this process takes.
        world_size: number of processes; must divide ``batch_size``.
        subset_weights: how much likelier than another a modality is drawn, by name.
    """

    def __init__(
        self,
        source: PlaneSource,
        augmentation: Augmentation,
        batch_size: int,
        seed: int,
        modalities: Sequence[Modality] = MODALITIES,
        modality_dropout: bool = True,
        rank: int = 0,
        world_size: int = 1,
        subset_weights: Mapping[str, float] | None = None,
    ) -> None:
        if batch_size % world_size:
            raise SettingsError(f"batch size {batch_size} is no multiple of {world_size} processes")
        self._source = source
        self._augmentation = augmentation
        self._batch_size = batch_size
        self._seed = seed
        self._modalities = tuple(modalities)
        self._dropout = modality_dropout
        self._subset_weights = subset_weights
        share = batch_size // world_size
        self._share = range(rank * share, (rank + 1) * share)

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng([self._seed, step])
        if self._dropout:
            present = draw_subsets(self._batch_size, self._modalities, rng, self._subset_weights)
        else:
            present = np.zeros((self._batch_size, len(MODALITIES)), bool)
            present[:, list(self._modalities)] = True
        seeds = rng.integers(0, 2**63, self._batch_size)
        samples = []
        for position, frame in zip(self._share, self.frames(step), strict=True):
            planes = self._source.planes(frame)
            samples.append(self._augmentation.apply(planes, np.random.default_rng(seeds[position])))
        stacked = np.stack(samples)
        images = stacked[:, :LABEL_PLANE].reshape(len(samples), -1, 3, *stacked.shape[2:])
        return Batch(
            torch.from_numpy(images),
            torch.from_numpy(stacked[:, LABEL_PLANE]),
            torch.from_numpy(present[list(self._share)]),
        )

    def frames(self, step: int) -> list[int]:
        """The frames of this process's share of a step's batch."""
        return [self._sample(step * self._batch_size + position) for position in self._share]

    def _sample(self, position: int) -> int:
        """Sample number ``position`` of an endless sequence of shuffled passes over the data."""
        count = len(self._source)
        order = np.random.default_rng([self._seed, position // count, 1]).permutation(count)
        return int(order[position % count])


class StepSampler(Sampler[int]):
    """The steps of one epoch; an epoch is a fixed number of steps, whatever the size of the data.

    Args:
        steps: length of an epoch.
        next_step: gives the number of steps done so far, asked when an epoch begins. The trainer's own count
            of epochs will not do: it is off by one after a resume from a checkpoint made in validation.
    """

    def __init__(self, steps: int, next_step: Callable[[], int]) -> None:
        self._steps = steps
        self._next_step = next_step

    def __iter__(self) -> Iterator[int]:
        first = self._next_step()
        yield from range(first, first + self._steps)

    def __len__(self) -> int:
        return self._steps


def thinned_out(frames: Sequence[int], limit: int) -> list[int]:
    """At most ``limit`` of the frames, evenly chosen; all if that is 0."""
    count = len(frames) if limit <= 0 else min(limit, len(frames))
    return [frames[i] for i in np.linspace(0, len(frames) - 1, count).round().astype(int)]


class ValidationSamples(Dataset[Batch]):
    """Full labelled frames of a split, evenly thinned out to at most ``limit``, shared among the processes.

    Raises:
        DataSetError: if no frame is labelled.
    """

    def __init__(
        self, source: LabelledSource, limit: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self._source = source
        labelled = source.labelled()
        if not labelled:
            raise DataSetError("no frame of the validation split has a labelled pixel")
        self._indices = thinned_out(labelled, limit)[rank::world_size]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Batch:
        frame = self._indices[index]
        images, label = split_planes(np.array(self._source.planes(frame)))
        present = torch.from_numpy(self._source.available(frame))
        return Batch(torch.from_numpy(images)[None], torch.from_numpy(label)[None], present[None])


@dataclass(frozen=True)
class LoaderConfig:
    """Sizes of the loaders.

    Args:
        batch_size: samples a step, over all processes.
        unlabelled_batch_size: unlabelled samples a step beside them, for methods that learn from such; 0 for
            as many as labelled ones.
        steps_per_epoch: validation and checkpoints happen after this many steps.
        val_frames: validation frames a time; 0 for all.
        workers: loader processes; 0 loads in the training process.
        build_workers: processes that build modality images once, before training.
    """

    batch_size: int = 8
    unlabelled_batch_size: int = 0
    steps_per_epoch: int = 500
    val_frames: int = 40
    workers: int = 0
    build_workers: int = 2


class SegmentationDataModule(lightning.LightningDataModule, ABC):
    """What all data sets share; subclasses name their sources and describe themselves.

    Args:
        root: folder of the data set.
        seed: of order, crops and subsets.
        loader: sizes.
        augment: how training samples are varied.
        modalities: the modalities to train on, by name.
        modality_dropout: a random subset a sample (anymodal), or all of them always.
        subset_weights: how much likelier than another a modality is drawn, by name.
    """

    def __init__(
        self,
        root: Path,
        seed: int,
        loader: LoaderConfig,
        augment: Augmentation,
        modalities: tuple[str, ...],
        modality_dropout: bool,
        subset_weights: dict[str, float] | None,
    ) -> None:
        super().__init__()
        self.root = Path(root)
        self.seed = seed
        self.loader = loader
        self.augment = augment
        self.modalities = tuple(Modality.from_label(name) for name in modalities)
        self.modality_dropout = modality_dropout
        for label in subset_weights or {}:
            Modality.from_label(label)  # a name that is none must not pass as a weight of 1
        if bad := [label for label, weight in (subset_weights or {}).items() if not weight > 0]:
            raise SettingsError(
                f"data.subset_weights of {', '.join(bad)} must be above 0; to train without a sensor leave "
                "it out of data.modalities"
            )
        self.subset_weights = subset_weights

    @abstractmethod
    def source(self, split: str) -> LabelledSource:
        """The samples of a split."""

    def describe(self) -> dict[str, Any]:
        """What checkpoints and model cards say about the data, as plain Python values."""
        return {
            "seed": self.seed,
            "modalities": [m.label for m in self.modalities],
            "modality_dropout": self.modality_dropout,
            "subset_weights": self.subset_weights or {},
        }

    def train_dataloader(self) -> DataLoader[Any]:
        trainer = self.trainer
        batches = StepBatches(
            self.source("train"),
            self.augment,
            self.loader.batch_size,
            self.seed,
            self.modalities,
            self.modality_dropout,
            trainer.global_rank if trainer else 0,
            trainer.world_size if trainer else 1,
            self.subset_weights,
        )
        return self.step_loader(batches)

    def step_loader(self, batches: Dataset[Any]) -> DataLoader[Any]:
        """Loads ``batches``, one a training step, from the trainer's step on."""
        trainer = self.trainer
        return DataLoader(
            batches,
            batch_size=None,
            sampler=StepSampler(
                self.loader.steps_per_epoch, lambda: trainer.global_step if trainer else 0
            ),
            num_workers=self.loader.workers,
            persistent_workers=self.loader.workers > 0,
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        trainer = self.trainer
        samples = ValidationSamples(
            self.source("val"),
            self.loader.val_frames,
            trainer.global_rank if trainer else 0,
            trainer.world_size if trainer else 1,
        )
        return self.validation_loader(samples)

    def validation_loader(self, samples: ValidationSamples) -> DataLoader[Batch]:
        """Loads ``samples``, with as many processes as training does."""
        workers = self.loader.workers
        return DataLoader(
            samples, batch_size=None, num_workers=workers, persistent_workers=workers > 0
        )


class StreetDataModule(SegmentationDataModule):
    """The synthetic street for Lightning.

    Args:
        root: folder of the data set.
        seed: of order, crops and subsets.
        loader: sizes.
        augment: how training samples are varied.
        modalities: the modalities to train on, by name.
        modality_dropout: a random subset a sample (anymodal), or all of them always.
        subset_weights: how much likelier than another a modality is drawn, by name.
        height: input height of the modality images.
        width: input width.
    """

    def __init__(
        self,
        root: Path,
        seed: int = 0,
        loader: LoaderConfig = LoaderConfig(),
        augment: AugmentConfig = AugmentConfig(),  # noqa: B008 (frozen)
        modalities: tuple[str, ...] = ("camera", "depth", "event", "lidar"),
        modality_dropout: bool = True,
        subset_weights: dict[str, float] | None = None,
        height: int = 256,
        width: int = 512,
    ) -> None:
        super().__init__(root, seed, loader, augment, modalities, modality_dropout, subset_weights)
        self.spec = ImageSpec(width, height)

    def describe(self) -> dict[str, Any]:
        """What checkpoints and model cards say about the data, as plain Python values."""
        classes = class_set(self.root)
        return {
            **super().describe(),
            **provenance(self.root),
            "dataset": "street",
            "input_width": self.spec.width,
            "input_height": self.spec.height,
            "encodings": {
                m.label: {"name": e.name, "settings": dict(e.settings)}
                for m, e in self.spec.encodings.items()
            },
            "class_names": list(classes.names),
            "class_colors": [list(color) for color in classes.colors],
        }

    def prepare_data(self) -> None:
        """Build what the cache lacks; in one process only."""
        for split in ("train", "val"):
            StreetData(self.root, split, self.spec, self.loader.build_workers)

    def source(self, split: str) -> StreetData:
        """A split, whose images are in the cache by then.

        Raises:
            DataSetError: if a training drive lacks a sensor that is trained on.
        """
        data = StreetData(self.root, split, self.spec, 0)
        for index in range(len(data)) if split == "train" else ():
            lacking = [m.label for m in self.modalities if not data.available(index)[m]]
            if lacking:
                raise DataSetError(
                    f"{data.frames[index].drive} has no {', '.join(lacking)}: name the sensors that all "
                    "drives have in data.modalities, or use FewLabelStreet "
                    "(training/configs/fine_tune.yaml), which leaves out what a drive lacks"
                )
        return data
