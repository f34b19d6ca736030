"""The data sets by name: what a checkpoint was trained on is what it is evaluated on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from training.data.batches import LabelledSource
from training.data.deliver import DeliverData
from training.data.indoor import open_indoor
from training.data.muses import MusesData
from training.data.street import DataSetError, ImageSpec, StreetData

DATASETS = ("street", "deliver", "muses", "stanford_indoor", "sun_rgbd")


class Frame(Protocol):
    """One frame of a split."""

    @property
    def conditions(self) -> tuple[str, ...]:
        """Under which it counts besides "all": its weather and the like."""
        ...


class FrameSource(LabelledSource, Protocol):
    """A split: its frames, and their planes."""

    @property
    def frames(self) -> Sequence[Frame]: ...


def open_source(
    about: Mapping[str, Any],
    root: Path,
    split: str,
    spec: ImageSpec,
    workers: int = 0,
    unlabelled_is_road: bool = False,
) -> FrameSource:
    """A split of the data set that ``about`` names.

    Args:
        about: what a checkpoint says about its data: ``dataset`` (a street if it says nothing) and the
            input size.
        root: the data set's folder.
        split: ``train``, ``val`` or ``test``.
        spec: which images of a street.
        workers: processes that build missing images of a street.
        unlabelled_is_road: MUSES only: the published rule for unlabelled pixels.

    Raises:
        DataSetError: if there is no such data set, or it is incomplete.
    """
    name = about.get("dataset", "street")
    if name == "street":
        return StreetData(root, split, spec, workers)
    if name == "deliver":
        return DeliverData(root, split, int(about["input_height"]))
    if name == "muses":
        return MusesData(root, split, int(about["input_height"]), unlabelled_is_road)
    if name in ("stanford_indoor", "sun_rgbd"):
        size = (int(about["input_height"]), int(about["input_width"]))
        return open_indoor(name, root, split, size)
    raise DataSetError(f"no data set {name!r}; there are {', '.join(DATASETS)}")
