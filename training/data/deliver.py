"""DeLiVER (CMNeXt, arXiv 2303.01480): 25 classes, four sensors, five weathers, five sensor failures.

Layout: ``<root>/{img,hha,lidar,event,semantic}/<weather>/<split>/<scene>/<frame>_<kind>_front.png``. The
depth modality of every published model is HHA: folder ``hha``, whose files are called
``…_depth_front.png`` like those of the folder ``depth`` beside it, which is not read. Weather and split are
folders of the path; a scene's failure is a part of its name between underscores. (Searching the whole
path for them, as the public loader does, finds "rain" in "train".)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anyseg_ros.classes import ClassSet
from anyseg_ros.modality import MODALITIES, Modality
from training.data.batches import LoaderConfig, SegmentationDataModule
from training.data.published_transforms import (
    PublishedAugment,
    read_png,
    resize_for_validation,
    resize_image,
    resize_nearest,
    three_channels,
)
from training.data.street import DataSetError
from training.data.transforms import LABEL_PLANE, PLANES, Planes

WEATHERS = ("cloud", "fog", "night", "rain", "sun")
FAILURES = ("motionblur", "overexposure", "underexposure", "lidarjitter", "eventlowres")
FRAMES = {"train": 3983, "val": 2005, "test": 1897}
"""Front views of the published data set, by split."""
NO_FAILURE = "no_failure"
_FOLDERS = {
    Modality.CAMERA: ("img", "rgb"),
    Modality.DEPTH: ("hha", "depth"),
    Modality.EVENT: ("event", "event"),
    Modality.LIDAR: ("lidar", "lidar"),
}

DELIVER_25 = ClassSet(
    names=(
        "building",
        "fence",
        "other",
        "pedestrian",
        "pole",
        "road line",
        "road",
        "sidewalk",
        "vegetation",
        "cars",
        "wall",
        "traffic sign",
        "sky",
        "ground",
        "bridge",
        "rail track",
        "ground rail",
        "traffic light",
        "static",
        "dynamic",
        "water",
        "terrain",
        "two-wheeler",
        "bus",
        "truck",
    ),
    colors=(
        (70, 70, 70),
        (100, 40, 40),
        (55, 90, 80),
        (220, 20, 60),
        (153, 153, 153),
        (157, 234, 50),
        (128, 64, 128),
        (244, 35, 232),
        (107, 142, 35),
        (0, 0, 142),
        (102, 102, 156),
        (220, 220, 0),
        (70, 130, 180),
        (81, 0, 81),
        (150, 100, 100),
        (230, 150, 140),
        (180, 165, 180),
        (250, 170, 30),
        (110, 190, 160),
        (170, 120, 50),
        (45, 60, 150),
        (145, 170, 100),
        (0, 0, 230),
        (0, 60, 100),
        (0, 0, 70),
    ),
)


@dataclass(frozen=True)
class DeliverFrame:
    """One front view."""

    weather: str
    split: str
    scene: str
    stem: str
    """six digits"""

    @property
    def conditions(self) -> tuple[str, str]:
        """Weather, and failure or ``no_failure``; a failed frame counts for its weather too."""
        parts = self.scene.lower().split("_")
        return self.weather, next((f for f in FAILURES if f in parts), NO_FAILURE)


def training_ids(label: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Stored ids to 0..24 and 255: 255 becomes 0, then all go down by one as bytes, 0 wrapping to 255."""
    return np.where(label == 255, np.uint8(0), label) - np.uint8(1)


class DeliverData:
    """One split.

    Args:
        root: the folder that holds ``img``, ``hha`` and so on.
        split: ``train``, ``val`` or ``test``. Training frames keep their size; those of the others come as
            the published evaluation scales them.
        shorter: shorter side of validation and test frames, in pixels.

    Raises:
        DataSetError: if the split holds no frames; later, naming each file that is missing or no picture.
    """

    def __init__(self, root: Path, split: str, shorter: int = 1024) -> None:
        self._root = root
        self._resized = split != "train"
        self._shorter = shorter
        self.frames = [
            DeliverFrame(weather, split, path.parent.name, path.name.split("_")[0])
            for weather in WEATHERS
            for path in sorted((root / "img" / weather / split).glob("*/*_rgb_front.png"))
        ]
        if not self.frames:
            raise DataSetError(
                f"no frames in {root / 'img'}/<weather>/{split}/<scene>/*_rgb_front.png: is {root} the "
                "folder DELIVER?"
            )

    def __len__(self) -> int:
        return len(self.frames)

    def available(self, index: int) -> npt.NDArray[np.bool_]:
        """bool[M]: all of them."""
        return np.ones(len(MODALITIES), bool)

    def labelled(self) -> Sequence[int]:
        """All frames."""
        return range(len(self))

    def path(self, frame: DeliverFrame, folder: str, kind: str) -> Path:
        """A frame's file in one of the folders."""
        place = self._root / folder / frame.weather / frame.split / frame.scene
        return place / f"{frame.stem}_{kind}_front.png"

    def planes(self, index: int) -> Planes:
        """uint8[PLANES, H, W] of a frame (see ``transforms``)."""
        frame = self.frames[index]
        camera = three_channels(read_png(self.path(frame, *_FOLDERS[Modality.CAMERA])))
        size = camera.shape[1:]
        planes = np.empty((PLANES, *size), np.uint8)
        for modality, (folder, kind) in _FOLDERS.items():
            image = camera
            if modality is not Modality.CAMERA:
                image = three_channels(read_png(self.path(frame, folder, kind)))
            if image.shape[1:] != size:
                # The failure "eventlowres" is a smaller picture; any other size is a different camera's.
                scale = resize_nearest if modality is Modality.EVENT else resize_image
                image = scale(image, *size)
            planes[3 * modality : 3 * modality + 3] = image
        label = read_png(self.path(frame, "semantic", "semantic"))[:1]
        if label.shape[1:] != size:
            label = resize_nearest(label, *size)
        planes[LABEL_PLANE] = training_ids(label[0])
        return resize_for_validation(planes, self._shorter) if self._resized else planes


class DeliverDataModule(SegmentationDataModule):
    """DeLiVER for Lightning.

    Args:
        root: the folder that holds ``img``, ``hha`` and so on.
        seed: of order, crops and subsets.
        loader: sizes.
        augment: the published transforms.
        modalities: the modalities to train on, by name.
        modality_dropout: a random subset a sample (anymodal), or all of them always.
        subset_weights: how much likelier than another a modality is drawn, by name.
        shorter: shorter side of validation frames, in pixels.
    """

    def __init__(
        self,
        root: Path,
        seed: int = 0,
        loader: LoaderConfig = LoaderConfig(),  # noqa: B008 (frozen)
        augment: PublishedAugment = PublishedAugment(),  # noqa: B008 (frozen)
        modalities: tuple[str, ...] = ("camera", "depth", "event", "lidar"),
        modality_dropout: bool = True,
        subset_weights: dict[str, float] | None = None,
        shorter: int = 1024,
    ) -> None:
        super().__init__(root, seed, loader, augment, modalities, modality_dropout, subset_weights)
        self.shorter = shorter

    def source(self, split: str) -> DeliverData:
        """A split."""
        return DeliverData(self.root, split, self.shorter)

    def describe(self) -> dict[str, Any]:
        """What checkpoints say about the data."""
        return {**super().describe(), **about_deliver(self.shorter)}


def about_deliver(shorter: int = 1024) -> dict[str, Any]:
    """What checkpoints say about this data set."""
    side = -(-shorter // 32) * 32
    return {
        "dataset": "deliver",
        "name": "DeLiVER",
        "synthetic_only": True,  # rendered by CARLA
        "input_width": side,
        "input_height": side,
        "encodings": {m.label: {"name": "deliver", "settings": {}} for m in MODALITIES}
        | {"camera": {"name": "rgb", "settings": {}}},
        "class_names": list(DELIVER_25.names),
        "class_colors": [list(color) for color in DELIVER_25.colors],
    }
