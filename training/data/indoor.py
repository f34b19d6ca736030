"""Stanford Indoor (2D-3D-S) and SUN RGB-D, with the label splits of M3L's publication.

Stanford Indoor, as its converter leaves it::

    <root>/area_{1,2,3,4,5a,5b,6}/{image,depth,label}/<name>.png

depth uint16 (0: no return), label uint8 0..12, 255 unknown. Areas 1, 2, 4, 6 train, 3 validates, 5a and 5b
test.

SUN RGB-D::

    <root>/images/{train,test}/img-%06d.jpg          train: number n, test: n
    <root>/depth/{train,test}/%d.png                 n, not padded
    <root>/labels/train/img-%06d.png                 n + 5050
    <root>/labels/test/img-%06d.png                  n

labels uint8 with 0 unlabelled, 1..37. Training numbers and validation numbers come from list files.

A list file has a sample a line, ``rgb <tab> depth [<tab> label]``; of its paths only area and name, or the
number, are used, as prefixes and suffixes differ from file to file. Published splits are checked by count
and, where it is known, by the hash of their sorted names.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader

from anyseg_ros.classes import IGNORE_ID, ClassSet
from anyseg_ros.modalities.depth import minmax
from anyseg_ros.modality import MODALITIES, Modality
from training.data.batches import Batch, LoaderConfig, ValidationSamples
from training.data.few_labels import Chosen, FewLabelStreet
from training.data.street import DataSetError
from training.data.transforms import LABEL_PLANE, PLANES, AugmentConfig, Planes

DataSet = Literal["stanford_indoor", "sun_rgbd"]
TRAIN_AREAS, VAL_AREAS, TEST_AREAS = ("1", "2", "4", "6"), ("3",), ("5a", "5b")

STANFORD_COUNTS = {"train": 49_199, "val": 3_704, "test": 17_593}
STANFORD_LABELLED = {
    1000: 49,
    500: 98,
    200: 245,
    100: 491,
    33: 1_475,
    20: 2_459,
    10: 4_919,
    5: 9_839,
    3: 14_759,
    2: 24_599,
}
"""1/k of the training frames: number of labelled ones"""
STANFORD_HASHES = {
    "1/1000": "4e9339c171d29da2",
    "1/500": "f24daf440bdbe099",
    "1/100": "06b2d38b1f7b3ffd",
    "val": "434f7edf97cf17b4",
    "test": "2a1156a3e45b9472",
}
SUN_COUNTS = {"train": 4_757, "val": 528, "test": 5_049}
SUN_LABELLED = {1000: 8, 50: 95, 32: 148, 16: 297, 8: 594, 4: 1_189, 2: 2_378}
SUN_HASHES = {
    "1/16": "062c1f26a3bec24a",
    "1/8": "70ae860061233460",
    "1/4": "402bbd3a7b6c67ab",
    "val": "19d04b5d5cbf4fe0",
}
_COUNTS: dict[DataSet, dict[str, int]] = {
    "stanford_indoor": STANFORD_COUNTS
    | {f"1/{k}": count for k, count in STANFORD_LABELLED.items()},
    "sun_rgbd": SUN_COUNTS | {f"1/{k}": count for k, count in SUN_LABELLED.items()},
}
_HASHES: dict[DataSet, dict[str, str]] = {
    "stanford_indoor": STANFORD_HASHES,
    "sun_rgbd": SUN_HASHES,
}

_SUN_NAMES = """wall floor cabinet bed chair sofa table door window bookshelf picture counter blinds desk
shelves curtain dresser pillow mirror floor_mat clothes ceiling books fridge tv paper towel shower_curtain
box whiteboard person night_stand toilet sink lamp bathtub bag"""


def _colored(names: Sequence[str]) -> ClassSet:
    numbers = range(1, len(names) + 1)
    return ClassSet(
        tuple(names), tuple((37 * k % 256, 91 * k % 256, 151 * k % 256) for k in numbers)
    )


STANFORD_13 = _colored([f"class_{k}" for k in range(13)])
"""Unnamed: an id is the order in which a name first appears in the data set's label file."""
SUN_37 = _colored(_SUN_NAMES.split())


@dataclass(frozen=True, order=True)
class IndoorFrame:
    """One image: its area (or SUN's folder, train or test) and its name (or number)."""

    area: str
    name: str

    @property
    def conditions(self) -> tuple[str, ...]:
        """Its area, for scores by area."""
        return (f"area_{self.area}",)

    def key(self, data_set: DataSet) -> str:
        """The line that the hash of a split is made of."""
        return self.name if data_set == "sun_rgbd" else f"{self.area} {self.name}"


def read_list(path: Path, data_set: DataSet) -> list[IndoorFrame]:
    """The frames of a published list file, whatever the prefix of its paths.

    Raises:
        DataSetError: naming the line that is no sample, or a frame that is listed twice.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise DataSetError(f"cannot read {path}: {error}") from None
    pattern = (
        r"(?:.*/)?area_(?P<area>\w+)/image/(?P<name>[^/]+?)(?:\.png)*"
        if data_set == "stanford_indoor"
        else r"(?:.*/)?images/(?P<area>train|test)/img-(?P<name>\d{6})\.jpg"
    )
    frames = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        match = re.fullmatch(pattern, line.split("\t")[0].strip())
        if match is None:
            raise DataSetError(f"{path}, line {number}: no image of {data_set}: {line[:80]!r}")
        frames.append(IndoorFrame(match["area"], match["name"]))
    if len(set(frames)) != len(frames):
        raise DataSetError(f"{path} lists a frame twice")
    return frames


def split_hash(frames: Sequence[IndoorFrame], data_set: DataSet) -> str:
    """First 16 hex digits of SHA-256 over the sorted keys, each ended by a line feed."""
    text = "".join(f"{key}\n" for key in sorted(frame.key(data_set) for frame in frames))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_split(frames: Sequence[IndoorFrame], split: str, data_set: DataSet) -> None:
    """Hold a split against the published one.

    Args:
        frames: the split.
        split: ``train``, ``val``, ``test``, or ``1/k`` for a labelled subset.
        data_set: of which data set.

    Raises:
        DataSetError: saying what differs, or that there is no such published split.
    """
    expected = _COUNTS[data_set].get(split)
    if expected is None:
        known = ", ".join(_COUNTS[data_set])
        raise DataSetError(f"{data_set} has no published split {split!r}; it has {known}")
    if len(frames) != expected:
        raise DataSetError(f"{data_set} {split}: {len(frames)} frames, published are {expected}")
    digest = _HASHES[data_set].get(split)
    if digest is not None and split_hash(frames, data_set) != digest:
        raise DataSetError(
            f"{data_set} {split}: as many frames as published, but other ones (hash "
            f"{split_hash(frames, data_set)} instead of {digest})"
        )


class IndoorData:
    """Frames of one of the two data sets as samples with camera and depth.

    Args:
        root: folder of the data set.
        data_set: which one.
        frames: the frames; :func:`area_frames` or :func:`read_list` gives them.
        size: height and width to resize whole images to, the aspect ratio not kept, as published; labels
            too, which the published code leaves at their size. By default all stay as they are.
        labelled: whether the frames have labels.
    """

    def __init__(
        self,
        root: Path,
        data_set: DataSet,
        frames: Sequence[IndoorFrame],
        size: tuple[int, int] | None = None,
        labelled: bool = True,
    ) -> None:
        self.root = root
        self.data_set = data_set
        self.frames = list(frames)
        self._size = size
        self._labelled = labelled

    def __len__(self) -> int:
        return len(self.frames)

    def available(self, index: int) -> npt.NDArray[np.bool_]:
        """bool[M]: camera and depth."""
        return np.array([m in (Modality.CAMERA, Modality.DEPTH) for m in MODALITIES])

    def labelled(self) -> Sequence[int]:
        """All frames, or none."""
        return range(len(self) if self._labelled else 0)

    def planes(self, index: int) -> Planes:
        """uint8[PLANES, H, W]; the planes of other sensors are 0.

        Raises:
            DataSetError: naming the file that is missing, damaged, or of another size or type.
        """
        camera, depth, label = (self.path(self.frames[index], kind) for kind in _KINDS)
        rgb = _read(camera, cv2.IMREAD_COLOR)[..., ::-1]
        raw = _read(depth, cv2.IMREAD_UNCHANGED)
        if raw.ndim != 2 or raw.dtype not in (np.uint8, np.uint16):
            raise DataSetError(f"{depth} is no depth image of one channel")
        ids = np.full(rgb.shape[:2], IGNORE_ID, np.uint8)
        if self._labelled:
            ids = _read(label, cv2.IMREAD_UNCHANGED)
            if ids.ndim != 2 or ids.dtype != np.uint8:
                raise DataSetError(f"{label} is no label image of one byte a pixel")
            if self.data_set == "sun_rgbd":
                ids = ids - np.uint8(1)  # 0, unlabelled, becomes 255
        if not rgb.shape[:2] == raw.shape == ids.shape:
            raise DataSetError(
                f"{camera}, its depth and its label differ in size: {rgb.shape[:2]}, {raw.shape}, "
                f"{ids.shape}"
            )
        if self._size is not None:
            size = self._size[::-1]
            rgb = cv2.resize(np.ascontiguousarray(rgb), size, interpolation=cv2.INTER_LINEAR)
            raw = cv2.resize(raw, size, interpolation=cv2.INTER_NEAREST)
            ids = np.asarray(cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST), np.uint8)
        near = np.repeat(minmax(raw.astype(np.float32))[..., None], 3, axis=-1)
        planes = np.zeros((PLANES, *ids.shape), np.uint8)
        for modality, image in ((Modality.CAMERA, rgb), (Modality.DEPTH, near)):
            planes[3 * modality : 3 * modality + 3] = image.transpose(2, 0, 1)
        planes[LABEL_PLANE] = ids
        return planes

    def path(self, frame: IndoorFrame, kind: Literal["image", "depth", "label"]) -> Path:
        """A file of a frame."""
        if self.data_set == "stanford_indoor":
            return self.root / f"area_{frame.area}" / kind / f"{frame.name}.png"
        number = int(frame.name)
        if kind == "image":
            return self.root / "images" / frame.area / f"img-{number:06d}.jpg"
        if kind == "depth":
            return self.root / "depth" / frame.area / f"{number}.png"
        number += 5050 if frame.area == "train" else 0
        return self.root / "labels" / frame.area / f"img-{number:06d}.png"


_KINDS: tuple[Literal["image", "depth", "label"], ...] = ("image", "depth", "label")


def area_frames(root: Path, areas: Sequence[str]) -> list[IndoorFrame]:
    """All frames of some areas of Stanford Indoor, by area and name.

    Raises:
        DataSetError: if an area is missing or empty.
    """
    frames = []
    for area in areas:
        names = sorted(path.stem for path in (root / f"area_{area}" / "image").glob("*.png"))
        if not names:
            raise DataSetError(f"no images in {root / f'area_{area}' / 'image'}")
        frames += [IndoorFrame(area, name) for name in names]
    return frames


def sun_test_frames(root: Path) -> list[IndoorFrame]:
    """The published test frames of SUN RGB-D: all of its test folder but number 5050.

    Raises:
        DataSetError: if there are none.
    """
    paths = sorted((root / "images" / "test").glob("img-*.jpg"))
    frames = [IndoorFrame("test", path.stem.removeprefix("img-")) for path in paths]
    frames = [frame for frame in frames if frame.name != "005050"]
    if not frames:
        raise DataSetError(f"no images in {root / 'images' / 'test'}")
    return frames


def open_indoor(data_set: DataSet, root: Path, split: str, size: tuple[int, int]) -> IndoorData:
    """A split to evaluate on, at the network's input size.

    Stanford Indoor's splits are areas. SUN RGB-D's test split is its folder; other splits are read from the
    list ``<root>/<split>.txt``.

    Args:
        data_set: which one.
        root: its folder.
        split: ``train``, ``val`` or ``test``.
        size: height and width.

    Raises:
        DataSetError: if there is no such split, or no such list.
    """
    areas = {"train": TRAIN_AREAS, "val": VAL_AREAS, "test": TEST_AREAS}
    if split not in areas:
        raise DataSetError(f"{data_set} has no split {split!r}; it has {', '.join(areas)}")
    if data_set == "stanford_indoor":
        frames = area_frames(root, areas[split])
    elif split == "test":
        frames = sun_test_frames(root)
    else:
        frames = read_list(root / f"{split}.txt", data_set)
    return IndoorData(root, data_set, frames, size)


def about_indoor(data_set: DataSet, height: int, width: int) -> dict[str, Any]:
    """What checkpoints say about one of the data sets, seen at this input size in pixels."""
    classes = STANFORD_13 if data_set == "stanford_indoor" else SUN_37
    names = {"stanford_indoor": "Stanford Indoor (2D-3D-S)", "sun_rgbd": "SUN RGB-D"}
    return {
        "name": names[data_set],
        "dataset": data_set,
        "synthetic_only": False,
        "input_width": width,
        "input_height": height,
        "encodings": {
            "camera": {"name": "rgb", "settings": {}},
            "depth": {"name": "minmax", "settings": {}},
        },
        "class_names": list(classes.names),
        "class_colors": [list(color) for color in classes.colors],
    }


class FewLabelIndoor(FewLabelStreet):
    """Camera and depth indoors, few of the frames labelled, for the methods of M3L.

    Args:
        root: folder of the data set.
        data_set: which one.
        train_list: all training frames; by default the areas 1, 2, 4 and 6 of Stanford Indoor.
        labelled_list: those whose label is used.
        val_list: the validation frames; by default area 3 of Stanford Indoor.
        labelled_split: which published split ``labelled_list`` is, e.g. ``1/100``; ``none`` for an own one,
            and then nothing is held against the publication.
        unlabelled: ``none`` for methods that learn from labels alone, ``rest`` for those that use the other
            training frames as well.
        seed: of order, crops and subsets.
        loader: sizes.
        augment: how samples are varied. Unlike the published code's, crops never reach over the image's edge,
            and scales are any between two bounds.
        modality_dropout: labelled samples get a random subset of camera and depth.
        height: whole images are validated at this height, a multiple of 32 (published: 540, 500).
        width: and at this width; the aspect ratio is not kept.
    """

    def __init__(
        self,
        root: Path,
        data_set: DataSet,
        labelled_list: Path,
        train_list: Path | None = None,
        val_list: Path | None = None,
        labelled_split: str = "none",
        unlabelled: Literal["none", "rest"] = "rest",
        seed: int = 0,
        loader: LoaderConfig = LoaderConfig(),  # noqa: B008 (frozen)
        augment: AugmentConfig = AugmentConfig(544, 544, 0.5, 2.0),  # noqa: B008 (frozen)
        modality_dropout: bool = False,
        height: int = 544,
        width: int = 544,
    ) -> None:
        super().__init__(
            root,
            unlabelled=unlabelled,
            seed=seed,
            loader=loader,
            augment=augment,
            modalities=("camera", "depth"),
            modality_dropout=modality_dropout,
            height=height,
            width=width,
        )
        self.data_set: DataSet = data_set
        self.labelled_split = labelled_split
        self._lists = {"train": train_list, "labelled": labelled_list, "val": val_list}

    def split(self, name: Literal["train", "labelled", "val"]) -> list[IndoorFrame]:
        """The frames of a split, held against the published one unless ``labelled_split`` is ``none``.

        Raises:
            DataSetError: if a list is missing or the split is not the published one.
        """
        path = self._lists[name]
        if path is not None:
            frames = read_list(Path(path), self.data_set)
        elif self.data_set == "stanford_indoor":
            frames = area_frames(self.root, TRAIN_AREAS if name == "train" else VAL_AREAS)
        else:
            raise DataSetError(f"SUN RGB-D needs the list {name}_list")
        if self.labelled_split != "none":
            check_split(frames, self.labelled_split if name == "labelled" else name, self.data_set)
        return frames

    def describe(self) -> dict[str, Any]:
        """What checkpoints and model cards say about the data, as plain Python values."""
        return {
            **about_indoor(self.data_set, self.spec.height, self.spec.width),
            "seed": self.seed,
            "modalities": [m.label for m in self.modalities],
            "modality_dropout": self.modality_dropout,
            "subset_weights": {},
            "labelled_split": self.labelled_split,
            "unlabelled": self.unlabelled,
        }

    def prepare_data(self) -> None:
        """Nothing is built beforehand: samples are read from the images."""

    def frames(self) -> tuple[Chosen, Chosen | None]:
        """The labelled and the unlabelled training frames.

        Raises:
            DataSetError: if a labelled frame is no training frame, or a split is not the published one.
        """
        train, labelled = self.split("train"), self.split("labelled")
        if strays := sorted(set(labelled) - set(train)):
            raise DataSetError(f"{len(strays)} labelled frames are no training frames: {strays[0]}")
        with_labels = IndoorData(self.root, self.data_set, labelled)
        first = Chosen([(with_labels, range(len(labelled)))], self.modalities)
        if self.unlabelled == "none":
            return first, None
        rest = sorted(set(train) - set(labelled))
        without = IndoorData(self.root, self.data_set, rest, labelled=False)
        return first, Chosen([(without, range(len(rest)))], self.modalities)

    def val_dataloader(self) -> DataLoader[Batch]:
        trainer = self.trainer
        size = (self.spec.height, self.spec.width)
        samples = ValidationSamples(
            IndoorData(self.root, self.data_set, self.split("val"), size),
            self.loader.val_frames,
            trainer.global_rank if trainer else 0,
            trainer.world_size if trainer else 1,
        )
        return self.validation_loader(samples)


def _read(path: Path, flags: int) -> npt.NDArray[Any]:
    image: npt.NDArray[Any] | None = cv2.imread(str(path), flags) if path.is_file() else None
    if image is None:
        raise DataSetError(f"{path} is missing or no readable image")
    return image
