"""MUSES as AnySeg reads it (arXiv 2411.17141): 19 classes; camera, event and LiDAR images.

Layout: ``<root>/<sensor>/<split>/<weather>/<time of day>/<stem>_<sensor>.png`` with the sensors
``frame_camera``, ``event_camera`` and ``lidar``, and labels
``<root>/gt_semantic/…/<stem>_gt_labelTrainIds.png``. Event and LiDAR files must already be pictures in the
frame camera's view (the data set's tools export them). Every picture is read as 8-bit RGB and resized to a
square with Pillow's bicubic filter, whatever its aspect, as published. The labels of the test split are
withheld.

Two normalisations are in use, and the repository leaves open which one its training had: bytes as they
are (its evaluation), and ImageNet's for the camera with 0..1 for the others (its augmentation file). They
are ``RAW_BYTES`` and ``IMAGENET_CAMERA`` of ``training/models/reference_checkpoints.py``; the configurations
``training/configs/muses_*.yaml`` have the second, and say how to get the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from anyseg_ros.classes import CITYSCAPES_19, IGNORE_ID
from anyseg_ros.modality import MODALITIES, Modality
from training.data.batches import LoaderConfig, SegmentationDataModule
from training.data.published_transforms import PublishedAugment
from training.data.street import DataSetError
from training.data.transforms import LABEL_PLANE, PLANES, Planes
from training.errors import SettingsError

WEATHERS = ("clear", "fog", "rain", "snow")
TIMES = ("day", "night")
FRAMES = {"train": 1500, "val": 250, "test": 750}
"""Frames of the published data set, by split."""
SENSORS = {
    Modality.CAMERA: "frame_camera",
    Modality.EVENT: "event_camera",
    Modality.LIDAR: "lidar",
}


@dataclass(frozen=True)
class MusesFrame:
    """One view."""

    weather: str
    time: str
    stem: str

    @property
    def conditions(self) -> tuple[str, str]:
        """Weather and time of day."""
        return self.weather, self.time


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError:
        raise DataSetError(f"no {path}") from None
    except (OSError, UnidentifiedImageError) as error:
        raise DataSetError(f"{path} is no readable image: {error}") from None
    return image


class MusesData:
    """One split.

    Args:
        root: the folder that holds ``frame_camera`` and the others.
        split: ``train``, ``val`` or ``test``.
        side: height and width of the images in pixels.
        unlabelled_is_road: count unlabelled pixels (255) as class 0, as the published evaluation does;
            otherwise they count nowhere.

    Raises:
        DataSetError: if the split holds no frames; later, naming each file that is missing or no picture.
    """

    def __init__(
        self, root: Path, split: str, side: int = 1024, unlabelled_is_road: bool = False
    ) -> None:
        self._root = root
        self._split = split
        self._side = side
        self._unlabelled_is_road = unlabelled_is_road
        camera, end = SENSORS[Modality.CAMERA], f"_{SENSORS[Modality.CAMERA]}.png"
        self.frames = [
            MusesFrame(weather, time, path.name.removesuffix(end))
            for weather in WEATHERS
            for time in TIMES
            for path in sorted((root / camera / split / weather / time).glob(f"*{end}"))
        ]
        if not self.frames:
            raise DataSetError(
                f"no frames in {root / camera / split}/<weather>/<day or night>/*{end}"
            )

    def __len__(self) -> int:
        return len(self.frames)

    def available(self, index: int) -> npt.NDArray[np.bool_]:
        """bool[M]: all but depth."""
        return np.array([m in SENSORS for m in MODALITIES])

    def labelled(self) -> Sequence[int]:
        """All frames."""
        return range(len(self))

    def planes(self, index: int) -> Planes:
        """uint8[PLANES, side, side] of a frame (see ``transforms``); the depth image is empty."""
        frame = self.frames[index]
        planes = np.zeros((PLANES, self._side, self._side), np.uint8)
        for modality, sensor in SENSORS.items():
            image = _open(self._path(frame, sensor, sensor)).convert("RGB")
            resized = image.resize((self._side, self._side), Image.Resampling.BICUBIC)
            planes[3 * modality : 3 * modality + 3] = np.asarray(resized).transpose(2, 0, 1)
        path = self._path(frame, "gt_semantic", "gt_labelTrainIds")
        if self._split == "test" and not path.is_file():
            raise DataSetError(f"no {path}: MUSES withholds the labels of its test split; use val")
        label = self._label(_open(path))
        planes[LABEL_PLANE] = label
        return planes

    def _label(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        stored = np.asarray(image)
        first = stored if stored.ndim == 2 else stored[..., 0]
        small = Image.fromarray(np.ascontiguousarray(first.astype(np.uint8))).resize(
            (self._side, self._side), Image.Resampling.NEAREST
        )
        label = np.array(small)
        if self._unlabelled_is_road:
            label[label == IGNORE_ID] = 0
        return label

    def _path(self, frame: MusesFrame, folder: str, kind: str) -> Path:
        place = self._root / folder / self._split / frame.weather / frame.time
        return place / f"{frame.stem}_{kind}.png"


class MusesDataModule(SegmentationDataModule):
    """MUSES for Lightning.

    Args:
        root: the folder that holds ``frame_camera`` and the others.
        seed: of order, crops and subsets.
        loader: sizes.
        augment: the published transforms.
        modalities: the modalities to train on, by name; there is no depth.
        modality_dropout: a random subset a sample (anymodal), or all of them always.
        subset_weights: how much likelier than another a modality is drawn, by name.
        side: height and width that pictures are read at, in pixels.
        unlabelled_is_road: train and validate with unlabelled pixels as road, as the published code does.

    Raises:
        SettingsError: if the modalities include depth.
    """

    def __init__(
        self,
        root: Path,
        seed: int = 0,
        loader: LoaderConfig = LoaderConfig(),  # noqa: B008 (frozen)
        augment: PublishedAugment = PublishedAugment(),  # noqa: B008 (frozen)
        modalities: tuple[str, ...] = ("camera", "event", "lidar"),
        modality_dropout: bool = True,
        subset_weights: dict[str, float] | None = None,
        side: int = 1024,
        unlabelled_is_road: bool = False,
    ) -> None:
        super().__init__(root, seed, loader, augment, modalities, modality_dropout, subset_weights)
        if Modality.DEPTH in self.modalities:
            raise SettingsError("MUSES has no depth; its modalities are camera, event and lidar")
        self.side = side
        self.unlabelled_is_road = unlabelled_is_road

    def source(self, split: str) -> MusesData:
        """A split."""
        return MusesData(self.root, split, self.side, self.unlabelled_is_road)

    def describe(self) -> dict[str, Any]:
        """What checkpoints say about the data."""
        return {**super().describe(), **about_muses(self.side)}


def about_muses(side: int = 1024) -> dict[str, Any]:
    """What checkpoints say about this data set."""
    return {
        "dataset": "muses",
        "name": "MUSES",
        "synthetic_only": False,
        "input_width": side,
        "input_height": side,
        "encodings": {m.label: {"name": "muses", "settings": {}} for m in SENSORS}
        | {"camera": {"name": "rgb", "settings": {}}},
        "class_names": list(CITYSCAPES_19.names),
        "class_colors": [list(color) for color in CITYSCAPES_19.colors],
    }
