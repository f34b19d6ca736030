"""From recordings to training data: matched sets as a data set in the layout that ``training/`` reads.

::

    <root>/dataset.yaml
    <root>/<split>/<recording>/calibration.yaml  drive.yaml  frames.jsonl
        camera/000000.png   RGB
        depth/000000.png    uint16 millimetres, 0 invalid
        event/000000.npz    x, y uint16, polarity uint8, stamp_ns int64
        lidar/000000.npz    points_m float32[N, 3], intensity float32[N]
        label/000000.png    uint8 class ids in the grid; 255 everywhere without ground truth

A sensor that the recording lacks is written empty and named in ``drive.yaml``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import yaml

from anyseg_ros.classes import IGNORE_ID, ClassSet
from anyseg_ros.evaluation.bag import NS_PER_S, Bag
from anyseg_ros.evaluation.evaluate import Listener
from anyseg_ros.evaluation.replay import SetResult, Walk
from anyseg_ros.evaluation.sources import Rig
from anyseg_ros.modalities import (
    CameraFrame,
    DepthFrame,
    EventPacket,
    LidarScan,
    RigCalibration,
    SensorCalibration,
    SensorData,
    join_packets,
    save_calibration,
)
from anyseg_ros.modality import MODALITIES, Modality
from anyseg_ros.pipeline import Segmentation

FORMAT_VERSION = 1
_MAX_DEPTH_MM = 65535
_ABOUT, _LISTING = "drive.yaml", "frames.jsonl"
_LABELS = "labels_sha256"
"""Key of the digest of the labels as they were extracted."""
_BY_HAND_S = 60.0
"""A label that is so much newer than its picture was not written with it."""


class ExtractError(ValueError):
    """A data set that cannot be written; the message names the folder and says why."""


class DataSetWriter(Listener):
    """Writes the sets that every sensor of the recording contributed to, some time apart.

    One with a label is written whenever the last such one is that long ago, whatever lies between.
    """

    def __init__(self, folder: Path, classes: ClassSet, step_s: float = 0.5) -> None:
        """Prepare to write a drive; an earlier extract of that name is replaced.

        Args:
            folder: ``<root>/<split>/<recording>``.
            classes: of the model, and of a new data set; one that names classes of its own keeps them.
            step_s: least time between two frames, so that they differ.
        """
        self.folder = folder
        self.frames = 0
        self._root = folder.parents[1]
        self._classes = classes
        self._step_s, self._step_ns = step_s, round(step_s * NS_PER_S)
        self._last_ns: int | None = None
        self._last_labelled_ns: int | None = None
        self._labelled = 0
        self._left_out = 0
        self._own_classes: int | None = None

    def begin(self, bag: Bag, walk: Walk, rig: Rig) -> None:
        """Create the folders, write the calibration.

        Raises:
            ExtractError: if the folder holds something else, or labels that were made by hand.
        """
        self._bag = bag
        self._sensors = walk.sensors
        self._grid = walk.pipeline.grid
        self._write_description()
        if self.folder.exists():
            # An extraction that was stopped has left no drive.yaml, but a listing.
            if not any((self.folder / name).is_file() for name in (_ABOUT, _LISTING)):
                raise ExtractError(f"{self.folder} is in the way: it is no drive of a data set")
            if self._was_labelled():
                raise ExtractError(
                    f"the labels in {self.folder / 'label'} were changed since they were extracted, and "
                    "would be lost: move that folder away, or extract to another data set"
                )
            shutil.rmtree(self.folder)
        for name in (*(m.label for m in MODALITIES), "label"):
            (self.folder / name).mkdir(parents=True)
        sensors = dict(rig.calibration.sensors)
        for modality in MODALITIES:
            camera = None if modality is Modality.LIDAR else rig.calibration.grid
            sensors.setdefault(
                modality, SensorCalibration(rig.calibration.grid_frame_id, camera=camera)
            )
        save_calibration(
            RigCalibration(rig.calibration.grid, rig.calibration.grid_frame_id, sensors),
            self.folder / "calibration.yaml",
        )
        self._calibration = sensors
        self._weather = bag.tags.get("weather", "unknown")
        self._listing = (self.folder / _LISTING).open("w")

    def take(
        self, result: SetResult, output: Segmentation, truth: npt.NDArray[np.uint8] | None
    ) -> None:
        """Write one set, if it is complete and long enough after the one before."""
        members = result.matched.members
        last_ns = self._last_ns if truth is None else self._last_labelled_ns
        due = last_ns is None or abs(output.stamp_ns - last_ns) >= self._step_ns
        if not due or output.used != self._sensors:
            self._left_out += truth is not None
            return
        self._last_ns = output.stamp_ns
        if truth is not None:
            self._last_labelled_ns = output.stamp_ns
        name = f"{self.frames:06d}"
        for modality in MODALITIES:
            data = self._data(members[modality].message) if modality in members else None
            self._write(modality, name, data)
        shape = (self._grid.camera.height, self._grid.camera.width)
        labels = np.full(shape, IGNORE_ID, np.uint8)
        if truth is not None:
            self._check_ids(truth)
            labels = self._grid.letterbox.restore(truth)
            self._labelled += 1
        _write_image(self.folder / "label" / f"{name}.png", labels)
        record = {
            "index": self.frames,
            "anchor_stamp_ns": output.stamp_ns,
            "stamps_ns": {m.label: member.stamp_ns for m, member in sorted(members.items())},
            "weather": self._weather,
            "failure": None,
            "labelled": truth is not None,
        }
        self._listing.write(json.dumps(record) + "\n")
        self.frames += 1

    def end(self) -> None:
        """Finish the drive."""
        self._listing.close()
        about = {
            "recording": self._bag.name,
            "weather": self._weather,
            "sensors": [m.label for m in self._sensors],
            "empty_sensors": [m.label for m in MODALITIES if m not in self._sensors],
            "frames": self.frames,
            "labelled_frames": self._labelled,
            _LABELS: _digest(self.folder / "label"),
        }
        (self.folder / _ABOUT).write_text(yaml.safe_dump(about, sort_keys=False))

    def remarks(self) -> list[str]:
        """What a user should know of the drive that was written, a line each."""
        lines = []
        if self._left_out:
            lines.append(
                f"{self._left_out} labelled sets were not extracted: less than {self._step_s:g} s "
                "(--extract-every) after another one, or without all sensors"
            )
        if self._labelled and self._own_classes is not None:
            lines.append(
                f"extracted labels are ids of the {self._own_classes} classes in dataset.yaml, which are not "
                "the model's: the scores above are not of them"
            )
        return lines

    def _check_ids(self, truth: npt.NDArray[np.uint8]) -> None:
        if self._own_classes is None:
            return
        foreign = [int(i) for i in np.unique(truth) if self._own_classes <= i != IGNORE_ID]
        if foreign:
            path = self._root / "dataset.yaml"
            raise ExtractError(
                f"the labels hold {', '.join(map(str, foreign[:5]))}, but {path} names {self._own_classes} "
                "classes: extract to a folder of its own"
            )

    def _was_labelled(self) -> bool:
        """Whether the labels are not those that were extracted."""
        try:
            written = yaml.safe_load((self.folder / _ABOUT).read_text())[_LABELS]
        except (OSError, yaml.YAMLError, KeyError, TypeError):
            # Stopped, or extracted before there were digests: a label is written right after its picture.
            return any(
                label.stat().st_mtime > picture.stat().st_mtime + _BY_HAND_S
                for label in (self.folder / "label").glob("*.png")
                if (picture := self.folder / "camera" / label.name).is_file()
            )
        return bool(written != _digest(self.folder / "label"))

    def _write_description(self) -> None:
        path = self._root / "dataset.yaml"
        names = list(self._classes.names)
        if path.is_file():
            try:
                known = yaml.safe_load(path.read_text())["classes"]
            except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
                raise ExtractError(f"{path} describes no data set: {error}") from None
            if list(known) != names:
                self._own_classes = len(known)
            return
        if self._root.exists() and any(p.name[0] != "." for p in self._root.iterdir()):
            raise ExtractError(f"{self._root} is not empty and no data set; choose a new folder")
        self._root.mkdir(parents=True, exist_ok=True)
        about = {
            "format_version": FORMAT_VERSION,
            "command": "anyseg-evaluate --extract",
            "classes": names,
        }
        # Several recordings may be extracted at once: the file is whole from the start.
        part = path.with_name(f".dataset-{os.getpid()}.yaml")
        part.write_text(yaml.safe_dump(about, sort_keys=False))
        part.replace(path)

    @staticmethod
    def _data(message: Any) -> SensorData:
        return join_packets(message) if isinstance(message, tuple) else message

    def _write(self, modality: Modality, name: str, data: SensorData | None) -> None:
        folder = self.folder / modality.label
        if modality is Modality.CAMERA:
            image = data.image if isinstance(data, CameraFrame) else self._empty(3, np.uint8)
            _write_image(folder / f"{name}.png", image[..., ::-1])
        elif modality is Modality.DEPTH:
            metres = data.depth_m if isinstance(data, DepthFrame) else self._empty(0, np.float32)
            millimetres = np.nan_to_num(metres * 1000.0, nan=0.0, posinf=0.0, neginf=0.0)
            millimetres[(millimetres < 0) | (millimetres > _MAX_DEPTH_MM)] = 0
            _write_image(folder / f"{name}.png", np.rint(millimetres).astype(np.uint16))
        elif modality is Modality.EVENT:
            if isinstance(data, CameraFrame):
                raise ExtractError(
                    "the event topic holds rendered pictures; a data set needs the events: name "
                    "their topic with --topic event=TOPIC, or leave them out with --sensors"
                )
            none = np.empty(0, np.uint16)
            events = (
                data
                if isinstance(data, EventPacket)
                else EventPacket(none, none, none.astype(np.uint8), none.astype(np.int64))
            )
            np.savez_compressed(
                folder / f"{name}.npz",
                x=events.x,
                y=events.y,
                polarity=events.polarity,
                stamp_ns=events.stamp_ns,
            )
        else:
            scan = (
                data
                if isinstance(data, LidarScan)
                else LidarScan(np.empty((0, 3), np.float32), np.empty(0, np.float32))
            )
            np.savez(folder / f"{name}.npz", points_m=scan.points_m, intensity=scan.intensity)

    def _empty(self, channels: int, kind: type) -> npt.NDArray:
        camera = self._grid.camera
        shape = (camera.height, camera.width)
        return np.zeros((*shape, channels) if channels else shape, kind)


def _digest(folder: Path) -> str:
    """SHA-256 over the files of a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _write_image(path: Path, image: npt.NDArray) -> None:
    if not cv2.imwrite(str(path), image):
        raise ExtractError(f"cannot write {path}")
