"""The classes a network predicts: names and display colours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IGNORE_ID = 255
"""Label value of pixels that count in no loss and no metric."""


@dataclass(frozen=True)
class ClassSet:
    """Class names and their RGB colours; the position in the tuple is the class id."""

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.colors) or not self.names:
            raise ValueError(f"{len(self.names)} class names but {len(self.colors)} colours")
        if len(self.names) > IGNORE_ID:
            raise ValueError(f"{len(self.names)} classes; at most {IGNORE_ID} fit into a byte")

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """Class id of ``name``; raises ``ValueError`` if there is none."""
        return self.names.index(name)

    def colorize(self, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Map class ids ``uint8[H, W]`` to an RGB picture ``uint8[H, W, 3]``; other ids are black."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self.colors)] = self.colors
        return table[labels]


CITYSCAPES_19 = ClassSet(
    names=(
        "road",
        "sidewalk",
        "building",
        "wall",
        "fence",
        "pole",
        "traffic light",
        "traffic sign",
        "vegetation",
        "terrain",
        "sky",
        "person",
        "rider",
        "car",
        "truck",
        "bus",
        "train",
        "motorcycle",
        "bicycle",
    ),
    colors=(
        (128, 64, 128),
        (244, 35, 232),
        (70, 70, 70),
        (102, 102, 156),
        (190, 153, 153),
        (153, 153, 153),
        (250, 170, 30),
        (220, 220, 0),
        (107, 142, 35),
        (152, 251, 152),
        (70, 130, 180),
        (220, 20, 60),
        (255, 0, 0),
        (0, 0, 142),
        (0, 0, 70),
        (0, 60, 100),
        (0, 80, 100),
        (0, 0, 230),
        (119, 11, 32),
    ),
)
"""The 19 Cityscapes train ids, as MUSES uses them."""
