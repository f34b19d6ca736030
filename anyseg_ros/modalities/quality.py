"""Is this data believable? Content checks on decoded sensor data, one checker a stream.

Every check works on a thinned copy (some rows of a picture, some points of a cloud), so that its
cost does not grow with the sensor. What is measured and what is judged are kept apart: the
``measure_*`` functions give numbers, :class:`QualityChecker` holds them against
:class:`QualityLimits` and against what its stream has shown before. ``docs/health.md`` has the
formulas and the measured distributions behind the defaults.

No clock, no ROS. A check never changes the data.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from anyseg_ros.modalities.image import SensorData
from anyseg_ros.modalities.sensor_data import (
    SELF_RANGE_M,
    CameraFrame,
    DepthFrame,
    EventPacket,
    LidarScan,
)
from anyseg_ros.modality import Modality

_ROWS = 32
"""Rows of a picture that are looked at."""
_POINTS = 4096
"""Points of a cloud and events of a packet that are looked at; clumping needs up to four times as many."""
_DIRECTIONS = (120, 90)
"""Columns and rows of the whole sphere: 3 by 2 degrees."""
_LEAST_SCATTER = 0.2
"""Random points have more. So have rain, fog, leaves and grass, whose neighbours agree."""
_LEAST_AGREEMENT = 0.3
"""Rain, fog and leaves have 0.65 and more, the densest grass 0.42. Points at random places in any
volume have 0.14 (1 - exp(-3 * 0.05), since their number grows with the cube of range), at random
ranges 0.05."""
_SAME_RANGE = 0.05
"""Ranges that differ by less than this share agree."""
_PATCH_DEG = 3.0
_PATCHES = (16, 64)
"""Fewest and most patches of directions in which neighbours are compared."""
_PATCH_POINTS = 128
"""Points of a patch that are compared."""
_COMPARED_POINTS = 1 << 15
"""Points among which neighbours are looked for."""
_GOLDEN_RATIO = 0.6180339887
_SECTORS = 36
"""Sectors of 10 degrees of azimuth around a LiDAR."""
_NEW_USUAL = 600
"""Partial scans in a row, a minute at 10 Hz, after which what is usual is learned anew."""
_DYING = 0.05
"""Less than this share of the usual echoes is no other place, but a LiDAR that dies."""
_RECENT = 4
"""Messages that a new one may repeat; a driver stuck in a ring of buffers repeats its last few."""
_LEARN = 8
"""Good messages before a stream's own past counts."""
_FOLLOW = 1 / 64
"""Share of each good message in what is usual: follows in some seconds, not at once."""
_CELLS = (12, 16)
"""Rows and columns of the grid in which events are counted."""
_MIN_BURST_EVENTS = 2000
_STRUCTURED = 5
"""A stream whose packets usually have this many times the least structure does not lose it ..."""
_STEADY_RATE = 0.8
"""... while it sends this share of its usual events: then they are noise."""
_MIN_PATTERN_EVENTS = 64
"""Fewer events may repeat by chance: a hot pixel alone sends the same packet for ever."""
_QUIET_CONTRAST = 1.5
"""Standard deviation of an event picture's brightness below which it holds next to no events."""


class Fault(Enum):
    """What is wrong with the content of a message."""

    FROZEN = "frozen"
    BLACK = "black"
    SATURATED = "saturated"
    FLAT = "flat"
    """a picture or depth without any structure"""
    INVALID = "mostly invalid"
    EMPTY = "empty"
    PARTIAL = "partial"
    """a part of the usual cloud is missing"""
    NOISE = "noise"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a message."""

    fault: Fault
    reason: str
    """in words, with the number that was measured and its limit"""

    def __str__(self) -> str:
        return f"{self.fault.value}: {self.reason}"


@dataclass(frozen=True)
class QualityLimits:
    """From where on data is not believed; :data:`DEFAULT_LIMITS` holds each modality's own."""

    frozen_share: float = 0.001
    """a message that differs from a recent one in less than this share repeats it; 0: never"""
    black_level: float = 6.0
    """camera: brightness (0..255) below which 99 % of the pixels lie in a black picture; 0: never"""
    saturated_share: float = 0.9
    """camera: share of pixels at 250 or more; 1: never"""
    flat_contrast: float = 1.5
    """camera: standard deviation of brightness, 0..255; depth: of metres over their mean; 0: never"""
    noise_roughness: float = 0.88
    """camera, depth, lidar: see :func:`roughness`; uncorrelated noise has 1; 2 and more: never"""
    min_valid_share: float = 0.05
    """depth: share of valid pixels; 0: never"""
    min_points: int = 50
    """lidar: points with an echo"""
    min_usual_share: float = 0.25
    """lidar: points against the stream's usual number; 0: never"""
    missing_sectors: float = 0.3
    """lidar: share of the usually filled azimuth sectors that may be without echo; 1: never"""
    burst_factor: float = 8.0
    """event: rate against the stream's usual rate, in a packet without structure; 0.8 of the
    usual rate is enough where packets usually have structure"""
    burst_clumping: float = 0.1
    """event: :attr:`EventMeasures.clumping` below which a packet has no structure; 0: never"""


DEFAULT_LIMITS: Mapping[Modality, QualityLimits] = {
    Modality.CAMERA: QualityLimits(),
    Modality.DEPTH: QualityLimits(flat_contrast=0.0015, noise_roughness=0.5),
    Modality.EVENT: QualityLimits(),
    Modality.LIDAR: QualityLimits(),
}


def roughness(values: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None = None) -> float | None:
    """Mean square difference of horizontal neighbours over twice the variance, of [rows, N].

    0 for smooth scenes, 1 for uncorrelated noise (von Neumann's ratio, halved). ``None`` if there
    are fewer than 64 pairs or no variance.
    """
    values = values.astype(np.float32, copy=False)
    differences = values[:, 1:] - values[:, :-1]
    if valid is not None:
        differences = differences[valid[:, 1:] & valid[:, :-1]]
        values = values[valid]
    if differences.size < 64:
        return None
    variance = float(values.var())
    if variance <= 1e-12:
        return None
    flat = differences.ravel()
    return float(np.dot(flat, flat)) / flat.size / (2.0 * variance)


def _some_rows(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    step = max(image.shape[0] // _ROWS, 1)
    return image[step // 2 :: step]


@dataclass(frozen=True)
class CameraMeasures:
    """Numbers about a picture; brightness 0..255."""

    sample: npt.NDArray[np.uint8]
    """grey values of some rows"""
    bright_level: int
    """99 % of the pixels are at most this bright"""
    saturated_share: float
    contrast: float
    roughness: float | None


def measure_camera(image: npt.NDArray[np.uint8]) -> CameraMeasures:
    """Measure uint8[H, W, 3]."""
    grey = cv2.cvtColor(np.ascontiguousarray(_some_rows(image)), cv2.COLOR_RGB2GRAY)
    histogram = np.bincount(grey.ravel(), minlength=256)
    total = grey.size
    levels = np.arange(256)
    mean = float(histogram @ levels) / total
    variance = float(histogram @ (levels - mean) ** 2) / total
    return CameraMeasures(
        grey.astype(np.uint8, copy=False),
        int(np.searchsorted(np.cumsum(histogram), 0.99 * total)),
        float(histogram[250:].sum()) / total,
        variance**0.5,
        roughness(grey),
    )


@dataclass(frozen=True)
class DepthMeasures:
    """Numbers about a depth picture."""

    sample: npt.NDArray[np.int32]
    """some rows, the floats' bits, so that NaN equals NaN"""
    valid_share: float
    mean_m: float
    contrast: float
    """standard deviation over mean, of the valid pixels"""
    roughness: float | None
    """of the logarithm of depth"""


def measure_depth(depth_m: npt.NDArray[np.float32]) -> DepthMeasures:
    """Measure float32[H, W]; 0, negative, NaN and inf are invalid."""
    rows = np.ascontiguousarray(_some_rows(depth_m), np.float32)
    valid = np.isfinite(rows) & (rows > 0)
    share = np.count_nonzero(valid) / max(rows.size, 1)
    if not share:
        return DepthMeasures(rows.view(np.int32), 0.0, 0.0, 0.0, None)
    chosen = rows[valid]
    mean = float(chosen.mean())
    return DepthMeasures(
        rows.view(np.int32),
        share,
        mean,
        float(chosen.std()) / mean,
        roughness(np.log(np.where(valid, rows, 1.0)), valid),
    )


@dataclass(frozen=True)
class LidarMeasures:
    """Numbers about a scan."""

    sample: npt.NDArray[np.int32]
    """some points' coordinates, the floats' bits"""
    points: int
    """echoes: finite and farther than 5 cm"""
    sectors: npt.NDArray[np.int64]
    """int64[36], echoes by azimuth in sectors of 10 degrees (of some points, scaled)"""
    roughness: float | None
    """of the logarithm of range, from each point to the one stored next to it; 1 for a cloud that
    was shuffled, too, and near it for points in the order in which a spinning sensor fires"""
    scatter: float | None
    """of the logarithm of range: variance among echoes of nearly one direction (3 by 2 degrees) over
    that of all, whatever their order"""


def measure_lidar(points_m: npt.NDArray[np.float32]) -> LidarMeasures:
    """Measure float32[N, 3]."""
    count = len(points_m)
    step = max(count // _POINTS, 1)
    chosen = np.ascontiguousarray(points_m[::step], np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.sqrt(np.einsum("ij,ij->i", chosen, chosen))
        echoes = np.isfinite(distance) & (distance > SELF_RANGE_M)
    seen, distance = chosen[echoes], distance[echoes]
    azimuth = np.arctan2(seen[:, 1], seen[:, 0])
    elevation = np.arcsin(np.clip(seen[:, 2] / distance, -1, 1))
    sector = ((azimuth + np.pi) * (_SECTORS / (2 * np.pi))).astype(np.int64) % _SECTORS
    return LidarMeasures(
        chosen.view(np.int32),
        round(len(seen) * count / max(len(chosen), 1)),
        np.bincount(sector, minlength=_SECTORS) * step,
        _neighbours_roughness(points_m, step),
        _scatter(np.log(distance), azimuth, elevation),
    )


def _neighbours_roughness(points_m: npt.NDArray[np.float32], step: int) -> float | None:
    first, second = points_m[:-1:step], points_m[1::step]
    length = min(len(first), len(second))
    pairs = np.stack([first[:length], second[:length]], 1).astype(np.float32, copy=False)
    with np.errstate(invalid="ignore", over="ignore"):
        ranges = np.sqrt(np.einsum("ijk,ijk->ij", pairs, pairs))
        echoes = np.isfinite(ranges) & (ranges > SELF_RANGE_M)
    return roughness(np.log(np.where(echoes, ranges, 1.0)), echoes)


def neighbours_agreement(points_m: npt.NDArray[np.float32]) -> float | None:
    """Share of echoes that have their nearest neighbour in direction at nearly the same range.

    Near 1 for surfaces, less where drops or leaves are between them; about 0.14 for random points.
    The order of the points does not matter: the echoes of some patches of 3 degrees are compared, each
    with the one of the nearest direction.

    Args:
        points_m: float32[N, 3].

    Returns:
        A share, 0..1; ``None`` for fewer than 64 echoes with a neighbour.
    """
    points = points_m[:: max(len(points_m) // _COMPARED_POINTS, 1)]
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.sqrt(np.einsum("ij,ij->i", points, points))
        echoes = np.isfinite(distance) & (distance > SELF_RANGE_M)
    if not echoes.all():
        points, distance = points[echoes], distance[echoes]
    count = len(points)
    patches = int(np.clip(_PATCHES[0] * _COMPARED_POINTS // max(count, 1), *_PATCHES))
    # Not evenly: every so many points of a driver are of one ring.
    centres = (np.arange(patches) * _GOLDEN_RATIO % 1.0 * count).astype(np.int64)[:count]
    x, y, z = np.ascontiguousarray(points.T)
    limit = distance * np.float32(np.cos(np.deg2rad(_PATCH_DEG)))
    compared = agreeing = 0
    for cx, cy, cz in points[centres] / distance[centres, None]:
        # Not a product of matrices: its threads would wait for busy cores, for tens of milliseconds.
        patch = np.flatnonzero(cx * x + cy * y + cz * z > limit)[:_PATCH_POINTS]
        if len(patch) < 2:
            continue
        ranges = distance[patch]
        directions = points[patch] / ranges[:, None]
        cosines = directions @ directions.T
        np.fill_diagonal(cosines, -1.0)
        others = ranges[cosines.argmax(axis=1)]
        compared += len(patch)
        agreeing += int(np.count_nonzero(np.abs(others - ranges) < _SAME_RANGE * ranges))
    return agreeing / compared if compared >= 64 else None


def _scatter(
    values: npt.NDArray[np.float32],
    azimuth: npt.NDArray[np.float32],
    elevation: npt.NDArray[np.float32],
) -> float | None:
    """Variance among values of nearly one direction over that of all, whatever their order.

    ``None`` if fewer than 64 values share a direction.
    """
    columns, rows = _DIRECTIONS
    cell = ((azimuth + np.pi) * (columns / (2 * np.pi))).astype(np.int64) % columns
    cell += columns * ((elevation + np.pi / 2) * (rows / np.pi)).astype(np.int64)
    counts = np.bincount(cell)
    shared = counts > 1
    freedom = int(counts[shared].sum()) - int(np.count_nonzero(shared))
    variance = float(values.var()) if len(values) else 0.0
    if freedom < 64 or variance <= 1e-12:
        return None
    sums, squares = np.bincount(cell, values), np.bincount(cell, values * values)
    within = float((squares[shared] - sums[shared] ** 2 / counts[shared]).sum())
    return within / freedom / variance


@dataclass(frozen=True)
class EventMeasures:
    """Numbers about a packet of events."""

    events: int
    clumping: float | None
    """relative variance of the counts in 12 x 16 cells beyond that of chance; 0: no structure.
    ``None`` for fewer than 2000 events"""


def measure_events(packet: EventPacket, width: int, height: int) -> EventMeasures:
    """Measure a packet of a sensor of ``width`` x ``height`` pixels."""
    count = len(packet.x)
    if count < _MIN_BURST_EVENTS:
        return EventMeasures(count, None)
    step = max(count // (4 * _POINTS), 1)
    x, y = packet.x[::step].astype(np.int64), packet.y[::step].astype(np.int64)
    rows, columns = _CELLS
    cell = np.minimum(y * rows // height, rows - 1) * columns
    cell += np.minimum(x * columns // width, columns - 1)
    counts = np.bincount(cell, minlength=rows * columns)
    mean = float(counts.mean())
    return EventMeasures(count, (float(counts.var()) - mean) / mean**2)


class _Usual:
    """What a stream usually shows: the median of its first good messages, then a slow mean."""

    def __init__(self) -> None:
        self._first: list[npt.NDArray[np.float64]] = []
        self.value: npt.NDArray[np.float64] | None = None

    def learn(self, value: npt.NDArray[Any] | float) -> None:
        new = np.asarray(value, np.float64)
        if self.value is not None:
            self.value = self.value + _FOLLOW * (new - self.value)
            return
        self._first.append(new)
        if len(self._first) >= _LEARN:
            self.value = np.median(np.stack(self._first), axis=0)
            self._first.clear()


class QualityChecker:
    """Judges the messages of one stream, in the order of their arrival. Not locked."""

    def __init__(self, modality: Modality, limits: QualityLimits | None = None) -> None:
        self.modality = modality
        self.limits = limits or DEFAULT_LIMITS[modality]
        self.measured: dict[str, float] = {}
        """what the last message showed, by the name of the limit it is held against"""
        self.reset()

    def reset(self) -> None:
        """Forget what the stream has shown."""
        self._recent: deque[npt.NDArray[Any]] = deque(maxlen=_RECENT)
        self._usual_points = _Usual()
        self._usual_sectors = _Usual()
        self._partial_scans = 0
        self._usual_rate = _Usual()
        self._usual_clumping = _Usual()
        self._event_size = (1, 1)
        self._last_end_ns: int | None = None

    def check(self, data: SensorData) -> Finding | None:
        """The first thing that is wrong with a message, ``None`` if it is believable."""
        self.measured = {}
        if isinstance(data, EventPacket):
            return self._check_events(data)
        if isinstance(data, LidarScan):
            return self._check_lidar(data)
        if isinstance(data, DepthFrame):
            return self._check_depth(data)
        if self.modality is Modality.EVENT:
            return self._check_event_picture(data)
        return self._check_camera(data)

    # --- one modality each ----------------------------------------------------------------------

    def _check_camera(self, frame: CameraFrame) -> Finding | None:
        limits, seen = self.limits, measure_camera(frame.image)
        repeated = self._repeats(seen.sample)
        self.measured |= {
            "black_level": seen.bright_level,
            "saturated_share": seen.saturated_share,
            "flat_contrast": seen.contrast,
        }
        if seen.bright_level < limits.black_level:
            return Finding(
                Fault.BLACK,
                f"99 % of the picture at brightness {seen.bright_level} or below "
                f"(limit {limits.black_level:g} of 255)",
            )
        if seen.saturated_share > limits.saturated_share:
            return Finding(
                Fault.SATURATED,
                f"{seen.saturated_share:.0%} of the picture at full brightness "
                f"(limit {limits.saturated_share:.0%})",
            )
        if seen.contrast < limits.flat_contrast:
            return Finding(
                Fault.FLAT,
                f"the picture has a contrast of {seen.contrast:.2f} (limit {limits.flat_contrast:g})",
            )
        return repeated or self._noise(seen.roughness, limits.noise_roughness, "picture")

    def _check_event_picture(self, frame: CameraFrame) -> Finding | None:
        """A still scene gives the same empty picture for ever: quiet is not faulty."""
        seen = measure_camera(frame.image)
        if seen.contrast < _QUIET_CONTRAST:
            return None
        return self._repeats(seen.sample)

    def _check_depth(self, frame: DepthFrame) -> Finding | None:
        limits, seen = self.limits, measure_depth(frame.depth_m)
        repeated = self._repeats(seen.sample)
        self.measured |= {"min_valid_share": seen.valid_share, "flat_contrast": seen.contrast}
        if seen.valid_share < limits.min_valid_share:
            return Finding(
                Fault.INVALID,
                f"{seen.valid_share:.1%} of the depth pixels are valid "
                f"(limit {limits.min_valid_share:.1%})",
            )
        if seen.contrast < limits.flat_contrast:
            return Finding(Fault.FLAT, f"the same depth everywhere, {seen.mean_m:.2f} m")
        return repeated or self._noise(seen.roughness, limits.noise_roughness, "depth picture")

    def _check_lidar(self, scan: LidarScan) -> Finding | None:
        limits, seen = self.limits, measure_lidar(scan.points_m)
        repeated = self._repeats(seen.sample)
        self.measured["min_points"] = seen.points
        if seen.points < limits.min_points:
            return Finding(
                Fault.EMPTY, f"{seen.points} points with an echo (limit {limits.min_points})"
            )
        partial = self._partial(seen)
        found = repeated or self._lidar_noise(scan, seen)
        usual = self._usual_points.value
        dying = usual is not None and seen.points < _DYING * usual
        lasts = partial is not None and found is None and not dying
        self._partial_scans = self._partial_scans + 1 if lasts else 0
        if partial is not None and self._partial_scans < _NEW_USUAL:
            return partial
        if partial is not None:  # what lasts is the surroundings: a yard after a hall
            self._usual_points, self._usual_sectors = _Usual(), _Usual()
            self._partial_scans = 0
        if found is None:
            self._usual_points.learn(seen.points)
            self._usual_sectors.learn(seen.sectors)
        return found

    def _partial(self, seen: LidarMeasures) -> Finding | None:
        """Whether much of the scan is missing that usually is there."""
        limits, usual = self.limits, self._usual_points.value
        if usual is not None:
            self.measured["min_usual_share"] = seen.points / float(usual)
        if usual is not None and seen.points < limits.min_usual_share * usual:
            return Finding(
                Fault.PARTIAL,
                f"{seen.points} points, usually {usual:.0f} (limit {limits.min_usual_share:.0%})",
            )
        missing = self._missing_sectors(seen.sectors)
        self.measured["missing_sectors"] = missing
        if missing > limits.missing_sectors:
            return Finding(
                Fault.PARTIAL,
                f"no echo in {missing:.0%} of the directions that usually have some "
                f"(limit {limits.missing_sectors:.0%})",
            )
        return None

    def _lidar_noise(self, scan: LidarScan, seen: LidarMeasures) -> Finding | None:
        """Random points, whatever the order of the true ones: a driver may send them ring by ring, as
        they were fired, or shuffled. The dearest measure comes last.
        """
        noise = self._noise(seen.roughness, self.limits.noise_roughness, "cloud")
        if noise is None or seen.scatter is None or seen.scatter < _LEAST_SCATTER:
            return None
        agreement = neighbours_agreement(scan.points_m)
        return noise if agreement is not None and agreement < _LEAST_AGREEMENT else None

    def _missing_sectors(self, sectors: npt.NDArray[np.int64]) -> float:
        usual = self._usual_sectors.value
        if usual is None:
            return 0.0
        filled = usual > 0.25 * usual[usual > 0].mean() if (usual > 0).any() else usual > 0
        if not filled.any():
            return 0.0
        return np.count_nonzero(sectors[filled] == 0) / int(np.count_nonzero(filled))

    def _check_events(self, packet: EventPacket) -> Finding | None:
        if not len(packet.x):
            return None
        start, end = int(packet.stamp_ns[0]), int(packet.stamp_ns[-1])
        if self._last_end_ns is not None and start - int(1e9) < self._last_end_ns < end:
            start = self._last_end_ns
        self._last_end_ns = end
        self._event_size = (
            max(self._event_size[0], int(packet.x.max()) + 1),
            max(self._event_size[1], int(packet.y.max()) + 1),
        )
        if len(packet.x) >= _MIN_PATTERN_EVENTS:
            step = max(len(packet.x) // _POINTS, 1)
            # Times are left out: a driver that repeats a packet stamps it anew.
            pattern = np.stack([packet.x[::step], packet.y[::step]])
            repeated = self._repeats(pattern)
            if repeated is not None:
                return repeated
        seen = measure_events(packet, *self._event_size)
        rate = seen.events / max((end - start) * 1e-9, 1e-3)
        usual = self._usual_rate.value
        if seen.clumping is not None:
            self.measured["burst_clumping"] = seen.clumping
        if usual is not None:
            self.measured["burst_factor"] = rate / float(usual)
        if usual is not None and self._is_noise(seen.clumping, rate / float(usual)):
            return Finding(
                Fault.NOISE,
                f"{rate:.0f} events a second without structure ({seen.clumping:.2f}, limit "
                f"{self.limits.burst_clumping:g}), usually {usual:.0f} a second",
            )
        if seen.clumping is not None:
            self._usual_clumping.learn(seen.clumping)
        self._usual_rate.learn(rate)
        return None

    def _is_noise(self, clumping: float | None, rate_factor: float) -> bool:
        """Whether a packet has no structure though it has far too many events, or though the
        stream's packets usually have it. At night a standing sensor has little but noise, but also
        far fewer events than in motion.
        """
        if clumping is None or clumping >= self.limits.burst_clumping:
            return False
        structure = self._usual_clumping.value
        return rate_factor > self.limits.burst_factor or (
            structure is not None
            and float(structure) > _STRUCTURED * self.limits.burst_clumping
            and rate_factor > _STEADY_RATE
        )

    # --- what several share ---------------------------------------------------------------------

    def _repeats(self, sample: npt.NDArray[Any]) -> Finding | None:
        """Whether a recent message showed the same, and remember this one."""
        limit = self.limits.frozen_share
        least = min(
            (
                np.count_nonzero(sample != earlier) / sample.size
                for earlier in self._recent
                if sample.size and earlier.shape == sample.shape
            ),
            default=1.0,
        )
        self.measured["frozen_share"] = least
        if least < limit:
            return Finding(
                Fault.FROZEN,
                "the same data as before"
                if least == 0
                else f"only {least:.2%} differs from before (limit {limit:.2%})",
            )
        self._recent.append(sample)
        return None

    def _noise(self, measured: float | None, limit: float, what: str) -> Finding | None:
        if measured is not None:
            self.measured["noise_roughness"] = measured
        if measured is None or measured < limit:
            return None
        return Finding(
            Fault.NOISE,
            f"neighbours in the {what} have nothing in common "
            f"(roughness {measured:.2f}, limit {limit:g})",
        )
