"""Raw sensor data in, segmentation out: everything the node does that is not ROS.

The same object serves the node, bag evaluation and the benchmarks, so what is evaluated is what runs
on the robot.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from anyseg_ros.classes import IGNORE_ID
from anyseg_ros.engine import Engine, Features
from anyseg_ros.load import LoadShedder
from anyseg_ros.modalities import (
    CameraModel,
    DepthFrame,
    LidarScan,
    ModalityError,
    ModalityImageBuilder,
    RigCalibration,
    SegmentationGrid,
    SensorCalibration,
    SensorData,
    join_packets,
    make_image_builder,
)
from anyseg_ros.modality import Modality
from anyseg_ros.sync import MatchedSet

OutputSize = Literal["model", "camera"]
_PREPARED = 4
"""Members encoded ahead of their set that are kept a modality; the earliest, as their sets come first."""

_POINTS_A_PIXEL = 1000
"""A range sensor that draws fewer pixels than one for so many points is not seen. A LiDAR that looks all
around and a camera of 10 by 5 degrees share one point in 200, and a point draws several pixels."""
_NO_RETURN_M = 1e5
"""What is not nearer is how some drivers write that there was no echo: infinity, the largest float."""


class NoUsableInputError(RuntimeError):
    """Not one member of a matched set could be turned into a modality image."""


@dataclass(frozen=True)
class Timings:
    """Seconds spent on one set."""

    build_s: float
    encode_s: float
    fuse_s: float
    early_s: float = 0.0
    """of building and encoding that was done before the set was complete; not in the total"""

    @property
    def total_s(self) -> float:
        return self.build_s + self.encode_s + self.fuse_s


@dataclass(frozen=True)
class Segmentation:
    """A segmentation and what it was made from."""

    stamp_ns: int
    """The anchor's stamp."""
    labels: npt.NDArray[np.uint8]
    """uint8[H, W], class ids; 255 outside the camera's view (letterbox border)"""
    confidence: npt.NDArray[np.uint8]
    """uint8[H, W], 255 times the largest class probability; 0 outside the camera's view"""
    used: tuple[Modality, ...]
    """The modalities that went into the network."""
    skipped: Mapping[Modality, str]
    """Members of the set that could not be used, with the reason."""
    images: Mapping[Modality, npt.NDArray[np.uint8]] = field(repr=False)
    """The newest modality image of each used modality, uint8[H, W, 3]."""
    timings: Timings
    shed: tuple[Modality, ...] = ()
    """The skipped members that only the latency budget left out."""


@dataclass(frozen=True)
class _Encoded:
    key: tuple[int, int]
    """Epoch and stamp of the member it was made from."""
    image: npt.NDArray[np.uint8]
    features: Features
    message: Any = None
    """The member's message, if it was encoded ahead of its set: stamps may lie, messages do not."""
    early_s: float = 0.0
    """Seconds it took, if that was before its set was complete."""


@dataclass(frozen=True)
class _Started:
    """An image that another thread builds."""

    key: tuple[int, int]
    message: Any
    image: Future[tuple[npt.NDArray[np.uint8], float]]


class Pipeline:
    """Builds modality images, encodes what is new, fuses what is live.

    For one thread, except :meth:`start_building`.
    """

    def __init__(
        self,
        engine: Engine,
        rig: RigCalibration,
        output_size: OutputSize = "model",
        latency_budget_s: float = 0.0,
    ) -> None:
        """Bind an engine to a rig.

        Args:
            engine: the loaded model.
            rig: the grid and the sensors' calibration. A modality without an entry cannot be used,
                except the camera, which then is taken to be the grid's own.
            output_size: size of the labels: the model's input or the grid's native size.
            latency_budget_s: seconds that a set may take; modalities that would exceed it are left
                out, the last ones of the synchronizer's priority first. 0: no limit.
        """
        self._engine = engine
        self.load = LoadShedder(latency_budget_s)
        self._output_size = output_size
        self._builds = ThreadPoolExecutor(1, "build-image")
        self._rig: RigCalibration | None = None
        self._calibrated: dict[Modality, SensorCalibration] = {}
        self._builders: dict[Modality, ModalityImageBuilder] = {}
        self._cache: dict[Modality, _Encoded] = {}
        self._prepared: dict[Modality, list[_Encoded]] = {}
        self._started: dict[Modality, _Started] = {}
        self.recalibrate(rig)

    @property
    def engine(self) -> Engine:
        return self._engine

    @property
    def grid(self) -> SegmentationGrid:
        return self._grid

    @property
    def rig(self) -> RigCalibration:
        assert self._rig is not None
        return self._rig

    @property
    def output_camera(self) -> CameraModel:
        """Intrinsics of the labels' image."""
        return self._grid.camera if self._output_size == "camera" else self._grid.input_camera

    def recalibrate(self, rig: RigCalibration) -> None:
        """Take another calibration.

        What it says anew of a sensor costs that sensor its features, and new tables with its next message;
        the others stay as they are, so that a sensor that joins does not hold up those that are there.
        """
        card = self._engine.card
        same_grid = self._rig is not None and self._rig.grid == rig.grid
        known = self._calibrated if same_grid else {}
        self._rig = rig
        self._grid = SegmentationGrid.create(
            rig.grid, rig.grid_frame_id, card.input_width, card.input_height
        )
        self._calibrated = dict(rig.sensors)
        self._calibrated.setdefault(
            Modality.CAMERA, SensorCalibration(rig.grid_frame_id, camera=rig.grid)
        )
        for modality in card.modalities:
            now, old = self._calibrated.get(modality), known.get(modality)
            if now is not None and old is not None and now.is_like(old):
                continue
            for kept in (self._builders, self._cache, self._prepared, self._started):
                kept.pop(modality, None)
            if now is not None:
                self._builders[modality] = make_image_builder(
                    modality, card.encodings[modality], self._grid, now
                )

    def reset(self) -> None:
        """Forget cached features."""
        self._cache.clear()
        self._prepared.clear()
        self._started.clear()

    def build_image(
        self, modality: Modality, data: SensorData, end_stamp_ns: int
    ) -> npt.NDArray[np.uint8]:
        """The modality image uint8[H, W, 3] of raw data.

        Raises:
            ModalityError: if the sensor is not calibrated, or the data cannot be used.
        """
        builder = self._builders.get(modality)
        if builder is None:
            if modality not in self._engine.card.modalities:
                raise ModalityError(f"the model was not trained on {modality.label}")
            raise ModalityError(
                f"no calibration for {modality.label}: its extrinsics to {self.rig.grid_frame_id!r} "
                "are needed from the calibration file or TF"
            )
        image = builder.build(data, end_stamp_ns)
        if isinstance(data, LidarScan):
            self._check_in_view(image, data.points_m[:, 0], "scan", "LiDAR")
        elif isinstance(data, DepthFrame):
            self._check_in_view(image, data.depth_m, "depth image", "depth camera")
        return image

    def _check_in_view(
        self, image: npt.NDArray[np.uint8], points: npt.NDArray[Any], what: str, sensor: str
    ) -> None:
        """Refuse points that are not in the picture: the network would be told that nothing is there.

        Wrong extrinsics look like this, above all a frame that is not optical where one is expected.

        Args:
            image: uint8[H, W, 3], made from the points; the first channel is 0 where none is.
            points: a coordinate of each point in metres; 0, NaN and huge ones are none.
            what: name of the message.
            sensor: name of what sent it.
        """
        drawn, pixels = int(np.count_nonzero(image[..., 0])), int(image[..., 0].size)
        if drawn >= min(int(points.size), pixels) // _POINTS_A_PIXEL:
            return
        away = np.abs(points)
        count = int(np.count_nonzero((away > 0) & (away < _NO_RETURN_M)))
        if drawn < min(count, pixels) // _POINTS_A_PIXEL:
            raise ModalityError(
                f"hardly any of the {what}'s {count} points lies in the view of the grid "
                f"{self.rig.grid_frame_id!r}; check the {sensor}'s extrinsics, and that this frame is an "
                "optical one (z forward, x right)"
            )

    def features_of(self, result: Segmentation) -> dict[Modality, Features]:
        """What the network made of each modality of the set that was segmented last."""
        return {modality: self._cache[modality].features for modality in result.used}

    def encode_alone(self, modality: Modality, message: Any, end_stamp_ns: int) -> Features:
        """Features of one message (or packets) outside any set; nothing is kept.

        Raises:
            ModalityError: if the sensor is not calibrated, or the data cannot be used.
        """
        image = self.build_image(modality, _sensor_data(message), end_stamp_ns)
        return self._engine.encode(image[None], np.array([int(modality)], np.int64))[0]

    def start_building(self, modality: Modality, message: Any, stamp_ns: int, epoch: int) -> None:
        """Begin to build a message's image on a thread of its own, while the network is busy.

        May be called while another thread is in :meth:`prepare`, but in no other method. :meth:`prepare` or
        :meth:`segment` takes the image; only the latest of each modality is kept. Arguments as for
        :meth:`prepare`.
        """
        key = (epoch, stamp_ns)
        if self.load.budget_s > 0:  # it might be left out
            return
        started, cached = self._started.get(modality), self._cache.get(modality)
        known = [*self._prepared.get(modality, ()), *([started] if started else ())]
        if cached is not None and cached.key == key:
            return
        if any(k.key == key and same_message(k.message, message) for k in known):
            return
        if started is not None:
            started.image.cancel()
        self._started[modality] = _Started(
            key, message, self._builds.submit(self._build_timed, modality, message, stamp_ns)
        )

    def _build_timed(
        self, modality: Modality, message: Any, stamp_ns: int
    ) -> tuple[npt.NDArray[np.uint8], float]:
        """A message's image, and the seconds that it took."""
        began = time.perf_counter()
        image = self.build_image(modality, _sensor_data(message), stamp_ns)
        return image, time.perf_counter() - began

    def _image_of(
        self, modality: Modality, message: Any, key: tuple[int, int]
    ) -> tuple[npt.NDArray[np.uint8], float]:
        """A message's image, from the other thread if that has begun it, and the seconds it took."""
        started = self._started.get(modality)
        if started and started.key == key and same_message(started.message, message):
            self._started.pop(modality, None)
            if not started.image.cancel():
                return started.image.result()
        return self._build_timed(modality, message, key[1])

    def prepare(self, modality: Modality, message: Any, stamp_ns: int, epoch: int) -> bool:
        """Build and encode what will presumably be a member of the next set, before that is complete.

        Does nothing if that was done, or if as much as is kept waits for its set already.

        Args:
            message: as in a :class:`~anyseg_ros.sync.Member`.
            stamp_ns: the member's stamp.
            epoch: the set's epoch.

        Returns:
            Whether it was encoded.

        Raises:
            ModalityError: if the sensor is not calibrated, or the data cannot be used.
        """
        key = (epoch, stamp_ns)
        prepared = self._prepared.setdefault(modality, [])
        if modality not in self._engine.card.modalities or len(prepared) == _PREPARED:
            return False
        if any(e.key == key and same_message(e.message, message) for e in prepared):
            return False
        began = time.perf_counter()
        image, build_s = self._image_of(modality, message, key)
        built = time.perf_counter()
        features = self._engine.encode(image[None], np.array([int(modality)], np.int64))[0]
        early_s = max(build_s, built - began) + time.perf_counter() - built
        prepared.append(_Encoded(key, image, features, message, early_s))
        return True

    def segment(self, matched: MatchedSet) -> Segmentation:
        """Segment one matched set.

        A member's message is its sensor data, or a callable that decodes to it, which is called only
        if the member is needed; of a windowed stream a tuple of packets of either form. Features of a
        member that an earlier set held already are not computed again.

        Raises:
            NoUsableInputError: if no member can be used; the message gives each one's reason.
        """
        started = time.perf_counter()
        skipped: dict[Modality, str] = {}
        images: dict[Modality, npt.NDArray[np.uint8]] = {}
        new: dict[Modality, tuple[int, int]] = {}
        build_s: dict[Modality, float] = {}
        early_s = 0.0
        keys = {m: (matched.epoch, member.stamp_ns) for m, member in matched.members.items()}
        for modality, key in keys.items():
            prepared = self._prepared.get(modality, [])
            message = matched.members[modality].message
            for found in prepared:
                if found.key == key and same_message(found.message, message):
                    self._cache[modality] = found
                    early_s += found.early_s
            self._prepared[modality] = [e for e in prepared if e.key > key]
            cached = self._cache.get(modality)
            if cached is not None and cached.key == key:
                images[modality] = cached.image
        # The members stand in order of priority.
        to_build = [m for m in keys if m not in images and m in self._engine.card.modalities]
        shed = self.load.choose(matched.anchor, to_build, tuple(images))
        for modality in shed:
            skipped[modality] = f"left out to keep the latency budget of {self.load.budget_s:g} s"

        def build(modality: Modality) -> None:
            message = matched.members[modality].message
            try:
                image, seconds = self._image_of(modality, message, keys[modality])
            except ModalityError as error:
                skipped[modality] = str(error)
            except Exception as error:  # whatever is wrong with one sensor, the others are not
                skipped[modality] = f"unexpected {type(error).__name__}: {error}"
            else:
                skipped.pop(modality, None)
                images[modality] = image
                new[modality] = keys[modality]
                build_s[modality] = seconds

        for modality in sorted(matched.members):
            if modality not in images and modality not in shed:
                build(modality)
        while shed and not images:  # better late than nothing
            self.load.take_back(shed[0])
            build(shed.pop(0))
        if not images:
            reasons = "; ".join(f"{m.label}: {reason}" for m, reason in skipped.items())
            raise NoUsableInputError(f"nothing to segment at {matched.stamp_ns} ns: {reasons}")
        built = time.perf_counter()

        if new:
            encoded = self._engine.encode(
                np.stack([images[modality] for modality in new]),
                np.array([int(modality) for modality in new], np.int64),
            )
            for modality, features in zip(new, encoded, strict=True):
                self._cache[modality] = _Encoded(new[modality], images[modality], features)
        done_encoding = time.perf_counter()

        used = tuple(sorted(images))
        output = self._engine.fuse([self._cache[modality].features for modality in used])
        labels, confidence = self._place(output.labels, output.confidence)
        finished = time.perf_counter()
        self.load.measure(build_s, done_encoding - built, finished - done_encoding)
        return Segmentation(
            stamp_ns=matched.stamp_ns,
            labels=labels,
            confidence=confidence,
            used=used,
            skipped=skipped,
            images=images,
            timings=Timings(
                built - started, done_encoding - built, finished - done_encoding, early_s
            ),
            shed=tuple(shed),
        )

    def _place(
        self, labels: npt.NDArray[np.uint8], confidence: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        if self._output_size == "camera":
            return self._grid.letterbox.restore(labels), self._grid.letterbox.restore(confidence)
        if not self._grid.letterbox.is_full:
            labels, confidence = labels.copy(), confidence.copy()
            self._grid.letterbox.fill_border(labels, IGNORE_ID)
            self._grid.letterbox.fill_border(confidence, 0)
        return labels, confidence


def same_message(one: Any, other: Any) -> bool:
    """Whether two members' messages are the same object, or tuples of the same packets."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
    return one is other


def _sensor_data(message: Any) -> SensorData:
    if isinstance(message, tuple):
        return join_packets([_sensor_data(packet) for packet in message])  # type: ignore[misc]
    data: SensorData = message() if callable(message) else message
    return data
