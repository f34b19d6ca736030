"""Few labelled frames and many without: nested splits, and batches that carry both.

Which frames count as labelled is a function of the data set, the fraction and ``split_seed`` alone: those
with a labelled pixel are shuffled once, and the first ``round(fraction * n)`` of them (at least one) keep
their label. So the 1 % split is part of the 5 % split, which is part of the 25 % split. With
``label_unit: drives`` drives are drawn, each with all its labels: the way recordings are annotated, and less
to learn from, as the frames of a drive resemble each other. All others are unlabelled, and so are frames that
have no labelled pixel, e.g. those of a drive that ``anyseg-evaluate --extract`` wrote. A sensor that a drive
lacks is absent in its samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from anyseg_ros.classes import IGNORE_ID
from anyseg_ros.modality import MODALITIES, Modality
from training.data.batches import (
    Augmentation,
    Batch,
    LabelledSource,
    LoaderConfig,
    StepBatches,
    StreetDataModule,
)
from training.data.street import DataSetError, StreetData
from training.data.subsets import random_subsets
from training.data.transforms import AugmentConfig, Planes
from training.errors import SettingsError

T = TypeVar("T")


class FewLabelBatch(NamedTuple):
    """Labelled and unlabelled samples of a step; ``present`` says which sensors a sample has."""

    labelled: Batch
    unlabelled: Batch
    """its labels are 255 throughout"""


class Chosen:
    """Some frames of a source, or of several that follow each other.

    Args:
        parts: pairs of a source and the frames taken from it.
        modalities: the sensors to use; others are treated as not recorded.
    """

    def __init__(
        self,
        parts: Sequence[tuple[LabelledSource, Sequence[int]]],
        modalities: Sequence[Modality] = MODALITIES,
    ) -> None:
        wanted = np.isin(np.arange(len(MODALITIES)), [int(m) for m in modalities])
        self._frames: list[tuple[LabelledSource, int]] = []
        table = []
        for source, frames in parts:
            for frame in frames:
                available = source.available(frame) & wanted
                if available.any():
                    self._frames.append((source, frame))
                    table.append(available)
        self.available = torch.from_numpy(np.array(table, bool).reshape(-1, len(MODALITIES)))
        """bool[N, M]: the sensors of each frame; frames without any are left out"""

    def __len__(self) -> int:
        return len(self._frames)

    def planes(self, index: int) -> Planes:
        """uint8[PLANES, H, W] of a frame."""
        source, frame = self._frames[index]
        return source.planes(frame)


def split_labels(
    candidates: Sequence[T], fraction: float, split_seed: int
) -> tuple[list[T], list[T]]:
    """Frames (or drives) that keep their label and those that lose it, both in the order of the candidates.

    For one seed a smaller fraction's labelled ones are among a larger one's.

    Raises:
        SettingsError: if the fraction is not within 0..1 or there are no candidates.
    """
    if not 0.0 < fraction <= 1.0:
        raise SettingsError(f"label fraction {fraction} must be above 0 and at most 1")
    if not candidates:
        raise SettingsError("no frame is labelled")
    order = np.random.default_rng([split_seed, len(candidates)]).permutation(len(candidates))
    count = max(1, round(fraction * len(candidates)))
    chosen = {int(k) for k in order[:count]}
    kept = [frame for k, frame in enumerate(candidates) if k in chosen]
    return kept, [frame for k, frame in enumerate(candidates) if k not in chosen]


class FewLabelBatches(Dataset[FewLabelBatch | Batch]):
    """Item ``step`` is the batch of that step; without unlabelled frames a plain :class:`Batch`.

    Args:
        labelled: frames with labels.
        unlabelled: frames whose labels are hidden; ``None`` for none.
        augmentation: how samples are varied.
        batch_size: labelled samples a step.
        seed: of everything random.
        modality_dropout: give labelled samples a random subset of their sensors; for methods that do not
            mask by themselves.
        rank: which share of the joint batch this process takes.
        world_size: number of processes; must divide both batch sizes.
        unlabelled_batch_size: unlabelled samples a step; by default as many as labelled ones.
    """

    def __init__(
        self,
        labelled: Chosen,
        unlabelled: Chosen | None,
        augmentation: Augmentation,
        batch_size: int,
        seed: int,
        modality_dropout: bool = False,
        rank: int = 0,
        world_size: int = 1,
        unlabelled_batch_size: int | None = None,
    ) -> None:
        self._labelled = labelled
        self._unlabelled = unlabelled
        self._seed = seed
        self._dropout = modality_dropout
        self._rank = rank
        share = {"modality_dropout": False, "rank": rank, "world_size": world_size}
        self._with = StepBatches(labelled, augmentation, batch_size, seed, **share)  # type: ignore[arg-type]
        self._without = (
            None
            if unlabelled is None
            else StepBatches(
                unlabelled,
                augmentation,
                unlabelled_batch_size or batch_size,
                seed + 1_000_003,
                **share,  # type: ignore[arg-type]
            )
        )

    def __getitem__(self, step: int) -> FewLabelBatch | Batch:
        batch = self._with[step]
        available = self._labelled.available[self._with.frames(step)]
        if self._dropout:
            key = np.random.default_rng([self._seed, step, self._rank, 2]).integers(2**63)
            available = random_subsets(available, torch.Generator().manual_seed(int(key)))
        labelled = batch._replace(present=available)
        if self._unlabelled is None or self._without is None:
            return labelled
        batch = self._without[step]
        hidden: Tensor = torch.full_like(batch.labels, IGNORE_ID)
        return FewLabelBatch(
            labelled,
            Batch(batch.images, hidden, self._unlabelled.available[self._without.frames(step)]),
        )


class FewLabelStreet(StreetDataModule):
    """Street drives of which a fraction is labelled.

    Args:
        root: folder of the data set, or of drives that ``anyseg-evaluate --extract`` wrote.
        label_fraction: share of the labelled training frames (or drives) whose label is used.
        label_unit: what ``label_fraction`` counts: ``frames``, drawn from all drives, or whole ``drives``.
        split_seed: which ones; by default ``seed``.
        unlabelled: ``none`` for methods that learn from labels alone, ``rest`` for those that use the other
            training frames as well.
        unlabelled_roots: more drives to learn from, in the same layout; their labels, if any, are not read.
        seed: of order, crops and subsets.
        loader: sizes; ``batch_size`` labelled and ``unlabelled_batch_size`` unlabelled samples a step.
        augment: how training samples are varied.
        modalities: the modalities to train on, by name.
        modality_dropout: labelled samples get a random subset of their sensors; leave it off for methods
            that mask by themselves.
        height: input height of the modality images.
        width: input width.
    """

    def __init__(
        self,
        root: Path,
        label_fraction: float = 1.0,
        label_unit: Literal["frames", "drives"] = "frames",
        split_seed: int | None = None,
        unlabelled: Literal["none", "rest"] = "rest",
        unlabelled_roots: tuple[Path, ...] = (),
        seed: int = 0,
        loader: LoaderConfig = LoaderConfig(),  # noqa: B008 (frozen)
        augment: AugmentConfig = AugmentConfig(),  # noqa: B008 (frozen)
        modalities: tuple[str, ...] = ("camera", "depth", "event", "lidar"),
        modality_dropout: bool = False,
        height: int = 256,
        width: int = 512,
    ) -> None:
        super().__init__(
            root, seed, loader, augment, modalities, modality_dropout, None, height, width
        )
        self.label_fraction = label_fraction
        self.label_unit = label_unit
        self.split_seed = seed if split_seed is None else split_seed
        self.unlabelled = unlabelled
        self.unlabelled_roots = tuple(Path(r) for r in unlabelled_roots)

    def describe(self) -> dict[str, Any]:
        """What checkpoints and model cards say about the data, as plain Python values."""
        return {
            **super().describe(),
            "label_fraction": self.label_fraction,
            "label_unit": self.label_unit,
            "split_seed": self.split_seed,
            "unlabelled": self.unlabelled,
            "unlabelled_roots": [root.resolve().name for root in self.unlabelled_roots],
        }

    def prepare_data(self) -> None:
        """Build what the cache lacks; in one process only."""
        super().prepare_data()
        for root in self.unlabelled_roots:
            StreetData(root, "train", self.spec, self.loader.build_workers)
        labelled, unlabelled = self.frames()
        rest = "" if unlabelled is None else f", {len(unlabelled)} without a label"
        print(f"training on {len(labelled)} frames with a label{rest}", flush=True)
        seen = labelled.available.any(0)
        if unlabelled is not None:
            seen |= unlabelled.available.any(0)
        if unseen := [m.label for m in self.modalities if not seen[m]]:
            print(
                f"note: no frame has {', '.join(unseen)}, but the model will say that it knows it; name the "
                "sensors that it shall use in data.modalities",
                flush=True,
            )

    def frames(self) -> tuple[Chosen, Chosen | None]:
        """The labelled and the unlabelled training frames.

        Raises:
            DataSetError: if no frame is labelled, or none is left to learn from without a label.
        """
        data = StreetData(self.root, "train", self.spec, 0)
        candidates = data.labelled()
        if not candidates:
            raise DataSetError(f"no frame of {self.root / 'train'} has a labelled pixel")
        unit: dict[int, int | Path] = {
            i: data.frames[i].drive if self.label_unit == "drives" else i for i in candidates
        }
        units = list(dict.fromkeys(unit.values()))
        drawn = set(split_labels(units, self.label_fraction, self.split_seed)[0])
        kept = [i for i in candidates if unit[i] in drawn]
        labelled = Chosen([(data, kept)], self.modalities)
        if not len(labelled):
            names = ", ".join(m.label for m in self.modalities)
            raise DataSetError(f"no labelled frame of {self.root / 'train'} has {names}")
        if self.unlabelled == "none":
            return labelled, None
        rest = sorted(set(range(len(data))) - set(kept))
        parts: list[tuple[LabelledSource, Sequence[int]]] = [(data, rest)]
        for root in self.unlabelled_roots:
            drives = StreetData(root, "train", self.spec, 0)
            parts.append((drives, range(len(drives))))
        unlabelled = Chosen(parts, self.modalities)
        if not len(unlabelled):
            raise DataSetError(
                f"every frame of {self.root / 'train'} is labelled: lower label_fraction, name "
                "unlabelled_roots, or set unlabelled: none"
            )
        return labelled, unlabelled

    def train_dataloader(self) -> DataLoader[FewLabelBatch | Batch]:  # type: ignore[override]
        trainer = self.trainer
        labelled, unlabelled = self.frames()
        batches = FewLabelBatches(
            labelled,
            unlabelled,
            self.augment,
            self.loader.batch_size,
            self.seed,
            self.modality_dropout,
            trainer.global_rank if trainer else 0,
            trainer.world_size if trainer else 1,
            self.loader.unlabelled_batch_size or None,
        )
        return self.step_loader(batches)
