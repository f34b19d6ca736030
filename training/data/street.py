"""The synthetic street: raw sensor files on disk to modality images, built once and cached.

Layout, as ``python -m training.simulation`` writes it: ``<root>/dataset.yaml`` and
``<root>/{train,val,test}/<drive>/`` with ``calibration.yaml``, ``drive.yaml``, ``frames.jsonl`` and one
file a frame under ``camera/ depth/ event/ lidar/ label/``. The images are built by the same builders that
run on the robot.
"""

from __future__ import annotations

import colorsys
import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import yaml
from tqdm import tqdm

from anyseg_ros.classes import CITYSCAPES_19, IGNORE_ID, ClassSet
from anyseg_ros.modalities.calibration import load_calibration
from anyseg_ros.modalities.encoding import DEFAULT_ENCODINGS, EncodingSpec
from anyseg_ros.modalities.errors import ModalityError
from anyseg_ros.modalities.geometry import SegmentationGrid
from anyseg_ros.modalities.image import ModalityImageBuilder, SensorData, make_image_builder
from anyseg_ros.modalities.projection import camera_for_image
from anyseg_ros.modalities.sensor_data import CameraFrame, DepthFrame, EventPacket, LidarScan
from anyseg_ros.modality import MODALITIES, Modality
from training.data.transforms import LABEL_PLANE, PLANES, Planes

CACHE_FORMAT = 2
_OF_DRIVE = ("calibration.yaml", "frames.jsonl")
"""Files that change when all images of a drive do."""
SPLITS = ("train", "val", "test")


class DataSetError(ValueError):
    """A data set that cannot be read; the message names the file and what is missing."""


@dataclass(frozen=True)
class StreetFrame:
    """One frame of a drive: where its files are and what the weather was."""

    drive: Path
    index: int
    anchor_stamp_ns: int
    weather: str
    failure: str | None

    @property
    def conditions(self) -> tuple[str, str]:
        """Weather, and failure or ``no_failure``."""
        return self.weather, self.failure or "no_failure"


@dataclass(frozen=True)
class ImageSpec:
    """Which modality images are built: the encodings, and the network's input size in pixels."""

    width: int = 512
    height: int = 256
    encodings: Mapping[Modality, EncodingSpec] = field(default_factory=lambda: DEFAULT_ENCODINGS)

    def digest(self) -> str:
        """Short hash of everything that determines the images."""
        text = json.dumps(
            [
                CACHE_FORMAT,
                self.width,
                self.height,
                [
                    [m.label, s.name, sorted(s.settings.items())]
                    for m, s in sorted(self.encodings.items())
                ],
            ]
        )
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def provenance(root: Path) -> dict[str, Any]:
    """Name of a data set and whether it is synthetic, for checkpoints and model cards.

    Only what the simulation rendered counts as synthetic; drives extracted from recordings do not.

    Raises:
        DataSetError: if ``dataset.yaml`` is missing or no mapping.
    """
    about = _read_description(root / "dataset.yaml")
    synthetic = "training.simulation" in str(about.get("command", ""))
    return {
        "name": "synthetic street" if synthetic else root.resolve().name,
        "synthetic_only": synthetic,
    }


def class_set(root: Path) -> ClassSet:
    """The classes of a data set: ``classes`` of its ``dataset.yaml``, Cityscapes' 19 if it has none.

    ``class_colors``, RGB a class, may stand beside them; without, names of Cityscapes have its colours,
    others colours that differ.

    Raises:
        DataSetError: if ``dataset.yaml`` cannot be read, or names and colours are not what they should be.
    """
    path = root / "dataset.yaml"
    about = _read_description(path)
    names = about.get("classes", list(CITYSCAPES_19.names))
    if (
        not isinstance(names, list)
        or not all(isinstance(name, str) and name for name in names)
        or len(set(names)) != len(names)
    ):
        raise DataSetError(f"{path}: classes must be a list of different names, got {names!r}")
    known = dict(zip(CITYSCAPES_19.names, CITYSCAPES_19.colors, strict=True))
    colors = about.get("class_colors") or [
        known.get(name, _color(index)) for index, name in enumerate(names)
    ]
    try:
        return ClassSet(tuple(names), tuple((int(r), int(g), int(b)) for r, g, b in colors))
    except (TypeError, ValueError) as error:
        raise DataSetError(f"{path}: {error}") from None


def _color(index: int) -> tuple[int, int, int]:
    """Colours far from each other: hues turned by the golden angle."""
    red, green, blue = colorsys.hsv_to_rgb(index * 0.381966 % 1.0, 0.75, 0.55 + 0.4 * (index % 2))
    return round(255 * red), round(255 * green), round(255 * blue)


def _read_description(path: Path) -> Mapping[str, Any]:
    try:
        about = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise DataSetError(f"cannot read {path}: {error}") from None
    if not isinstance(about, Mapping):
        raise DataSetError(f"{path} must be a mapping")
    return about


def list_frames(root: Path, split: str) -> list[StreetFrame]:
    """All frames of a split, by drive and index.

    Raises:
        DataSetError: if the split is missing, empty or was not rendered to its end, or a line of
            ``frames.jsonl`` is malformed.
    """
    folder = root / split
    if not folder.is_dir():
        raise DataSetError(
            f"no split {split!r} in {root}: expected the folder {folder}; render one with "
            f"python -m training.simulation, or make one of recordings with anyseg-evaluate --extract {root} "
            f"--split {split}"
        )
    frames = []
    for listing in sorted(folder.glob("*/frames.jsonl")):
        for number, line in enumerate(listing.read_text().splitlines(), 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                frames.append(
                    StreetFrame(
                        listing.parent,
                        int(entry["index"]),
                        int(entry["anchor_stamp_ns"]),
                        str(entry["weather"]),
                        None if entry["failure"] is None else str(entry["failure"]),
                    )
                )
            except (ValueError, KeyError, TypeError) as error:
                raise DataSetError(f"{listing}, line {number}: {error!r}") from None
    if not frames:
        raise DataSetError(f"{folder} holds no drive with a frames.jsonl")
    _check_complete(root, split, len(frames))
    return frames


def _check_complete(root: Path, split: str, frames: int) -> None:
    """Refuse what is left of a rendering that was killed: it would pass for the whole split."""
    try:
        about = yaml.safe_load((root / "dataset.yaml").read_text())
        planned = int(about["drives"][split]) * int(about["frames_per_drive"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return  # own drives: how many there are is not planned
    if frames < planned:
        raise DataSetError(
            f"{root / split} holds {frames} of {planned} frames: its rendering did not end; remove {root} "
            "and render it again"
        )


def _find(folder: Path, stem: str, suffixes: tuple[str, ...]) -> Path:
    for suffix in suffixes:
        path = folder / f"{stem}{suffix}"
        if path.is_file():
            return path
    raise DataSetError(f"no {folder / stem} with suffix {' or '.join(suffixes)}")


def _read_image(path: Path, flags: int) -> npt.NDArray[Any]:
    image: npt.NDArray[Any] | None = cv2.imread(str(path), flags)
    if image is None:
        raise DataSetError(f"{path} is no readable image")
    return image


def read_raw(frame: StreetFrame, modality: Modality) -> SensorData:
    """One sensor's raw data of a frame.

    Raises:
        DataSetError: naming the file that is missing or damaged.
    """
    folder, stem = frame.drive / modality.label, f"{frame.index:06d}"
    if modality is Modality.CAMERA:
        image = _read_image(_find(folder, stem, (".png", ".jpg")), cv2.IMREAD_COLOR)
        rgb: npt.NDArray[Any] = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        return CameraFrame(rgb)
    if modality is Modality.DEPTH:
        millimetres = _read_image(_find(folder, stem, (".png",)), cv2.IMREAD_UNCHANGED)
        return DepthFrame(millimetres.astype(np.float32) * np.float32(1e-3))
    path = _find(folder, stem, (".npz",))
    try:
        with np.load(path, allow_pickle=False) as data:
            if modality is Modality.EVENT:
                return EventPacket(data["x"], data["y"], data["polarity"], data["stamp_ns"])
            return LidarScan(data["points_m"], data["intensity"])
    except (OSError, ValueError, KeyError) as error:
        raise DataSetError(f"{path}: {error}") from None


@lru_cache(maxsize=8)
def _drive_tools(
    drive: Path, width: int, height: int, digest: str
) -> tuple[SegmentationGrid, dict[Modality, ModalityImageBuilder]]:
    rig = load_calibration(drive / "calibration.yaml")
    grid = SegmentationGrid.create(rig.grid, rig.grid_frame_id, width, height)
    encodings = _ENCODINGS_OF[digest]
    absent = [m.label for m in MODALITIES if m not in rig.sensors]
    if absent:
        raise DataSetError(
            f"{drive}/calibration.yaml: no grid_from_sensor for {', '.join(absent)}; it is needed of "
            "every sensor"
        )
    builders = {m: make_image_builder(m, encodings[m], grid, rig.sensors[m]) for m in MODALITIES}
    return grid, builders


# Specs hold dictionaries and so cannot be cache keys themselves.
_ENCODINGS_OF: dict[str, Mapping[Modality, EncodingSpec]] = {}


def read_label(frame: StreetFrame, grid: SegmentationGrid, classes: int) -> npt.NDArray[np.uint8]:
    """Class ids of a frame, uint8[h, w] of the grid's aspect ratio.

    Raises:
        DataSetError: naming the file, if it is missing or no picture of class ids, or is of another
            aspect ratio, or holds an id that is no class.
    """
    path = _find(frame.drive / "label", f"{frame.index:06d}", (".png",))
    label = _read_image(path, cv2.IMREAD_UNCHANGED)
    if label.ndim != 2 or label.dtype != np.uint8:
        channels = 1 if label.ndim == 2 else label.shape[2]
        raise DataSetError(
            f"{path} has {channels} channel{'s' if channels > 1 else ''} of {label.dtype}; expected class "
            "ids in one channel of 8 bits, no colours and no palette"
        )
    height, width = label.shape
    box = grid.letterbox
    try:
        camera_for_image(grid.camera, width, height, "label")
    except ModalityError:
        raise DataSetError(
            f"{path} is {width} x {height}; expected the aspect ratio of the drive's grid, "
            f"{box.source_width} x {box.source_height}"
        ) from None
    ids = np.unique(label)
    if foreign := [int(i) for i in ids if classes <= i != IGNORE_ID]:
        raise DataSetError(
            f"{path} holds {', '.join(map(str, foreign[:5]))}{' and more' if len(foreign) > 5 else ''}; "
            f"expected ids of the {classes} classes in dataset.yaml, 0 to {classes - 1}, and {IGNORE_ID} "
            "where nothing is labelled"
        )
    return label


def build_planes(frame: StreetFrame, spec: ImageSpec, classes: int = IGNORE_ID) -> Planes:
    """All modality images and the label of a frame: uint8[PLANES, H, W] (see ``transforms``).

    Args:
        classes: how many there are; ids beyond are refused.

    Raises:
        DataSetError: naming the file that is missing or wrong.
    """
    digest = spec.digest()
    _ENCODINGS_OF[digest] = spec.encodings
    grid, builders = _drive_tools(frame.drive, spec.width, spec.height, digest)
    planes = np.empty((PLANES, spec.height, spec.width), np.uint8)
    for modality in MODALITIES:
        image = builders[modality].build(read_raw(frame, modality), frame.anchor_stamp_ns)
        planes[3 * modality : 3 * modality + 3] = image.transpose(2, 0, 1)
    label = read_label(frame, grid, classes)
    planes[LABEL_PLANE] = IGNORE_ID
    content = grid.letterbox.content
    planes[LABEL_PLANE][content] = grid.letterbox.place(label, cv2.INTER_NEAREST_EXACT)[content]
    return planes


@lru_cache(maxsize=4096)
def _recorded(drive: Path) -> npt.NDArray[np.bool_]:
    path = drive / "drive.yaml"
    try:
        about = yaml.safe_load(path.read_text())
        empty = [Modality.from_label(name) for name in about.get("empty_sensors", [])]
    except (OSError, yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        raise DataSetError(f"cannot read {path}: {error}") from None
    available = np.ones(len(MODALITIES), bool)
    available[[int(m) for m in empty]] = False
    return available


def _check_label_names(frames: Sequence[StreetFrame]) -> None:
    """Refuse label files that belong to no frame: their labels would be missed in silence."""
    known: dict[Path, set[str]] = {}
    for frame in frames:
        known.setdefault(frame.drive / "label", set()).add(f"{frame.index:06d}.png")
    for folder, names in known.items():
        if stray := sorted(p.name for p in folder.glob("[!.]*") if p.name not in names):
            raise DataSetError(
                f"{folder / stray[0]} belongs to no frame of {folder.parent.name}; expected names like "
                f"{min(names)}, that of the picture in camera/"
            )


class StreetData:
    """Frames of one split, as modality images from the cache; missing ones are built first.

    Args:
        root: folder of the data set.
        split: ``train``, ``val`` or ``test``.
        spec: which images.
        workers: processes that build missing images; 0 builds in this one.
        rebuild: build all images anew (after a change of the builders' code).

    Raises:
        DataSetError: if the data set is incomplete.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        spec: ImageSpec | None = None,
        workers: int = 2,
        rebuild: bool = False,
    ) -> None:
        self.spec = spec or ImageSpec()
        self.frames = list_frames(root, split)
        description = root / "dataset.yaml"
        self.classes = class_set(root)
        _check_label_names(self.frames)
        # Another rendering under the same path must not meet the old cache.
        source = hashlib.sha256(description.read_bytes()).hexdigest()[:12]
        self._cache = root / ".cache" / f"{self.spec.digest()}-{source}" / split
        self._fill(workers, rebuild)

    def __len__(self) -> int:
        return len(self.frames)

    def planes(self, index: int) -> Planes:
        """uint8[PLANES, H, W] of a frame, mapped from the cache (read only)."""
        planes: Planes = np.load(self._path(self.frames[index]), mmap_mode="r")
        return planes

    def available(self, index: int) -> npt.NDArray[np.bool_]:
        """bool[M]: the sensors that the frame's drive recorded.

        Raises:
            DataSetError: if the drive does not say.
        """
        return _recorded(self.frames[index].drive)

    def labelled(self) -> list[int]:
        """The frames of which at least one pixel is labelled."""
        return [i for i in range(len(self)) if (self.planes(i)[LABEL_PLANE] != IGNORE_ID).any()]

    def __iter__(self) -> Iterator[tuple[StreetFrame, Planes]]:
        for index, frame in enumerate(self.frames):
            yield frame, self.planes(index)

    def _path(self, frame: StreetFrame) -> Path:
        return self._cache / frame.drive.name / f"{frame.index:06d}.npy"

    def _is_stale(self, frame: StreetFrame) -> bool:
        """Whether a frame is not in the cache, or was labelled, calibrated or extracted anew since."""
        try:
            built = self._path(frame).stat().st_mtime_ns
        except FileNotFoundError:
            return True
        if any((frame.drive / name).stat().st_mtime_ns > built for name in _OF_DRIVE):
            return True
        label = frame.drive / "label" / f"{frame.index:06d}.png"
        if not label.is_file():
            return True  # it was there: to build it anew says what is missing
        about = label.stat()
        # A label that was copied here with its old time of change is new all the same.
        return max(about.st_mtime_ns, about.st_ctime_ns) > built

    def _fill(self, workers: int, rebuild: bool) -> None:
        missing = [f for f in self.frames if rebuild or self._is_stale(f)]
        if not missing:
            return
        for drive in {f.drive.name for f in missing}:
            (self._cache / drive).mkdir(parents=True, exist_ok=True)
        tasks = [(frame, self._path(frame)) for frame in missing]
        build = partial(_build_and_store, spec=self.spec, classes=len(self.classes))
        progress = partial(tqdm, total=len(tasks), desc="modality images", unit="frame")
        if workers < 1 or len(tasks) < 2 * workers:
            for _ in progress(map(build, tasks)):
                pass
            return
        # Forked children would inherit locks of torch's and OpenCV's thread pools.
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            for _ in progress(pool.imap_unordered(build, tasks, chunksize=8)):
                pass


def _build_and_store(task: tuple[StreetFrame, Path], spec: ImageSpec, classes: int) -> None:
    frame, path = task
    cv2.setNumThreads(1)
    planes = build_planes(frame, spec, classes)
    part = path.with_suffix(f".{os.getpid()}.part")  # another run may be at the same image
    with part.open("wb") as file:
        np.save(file, planes)
    part.replace(path)  # a killed run leaves no half-written image behind
