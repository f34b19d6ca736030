"""Faults that a recording did not have: what a failing sensor would have sent instead."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anyseg_ros.evaluation.outages import Outage
from anyseg_ros.modalities import CameraFrame, DepthFrame, EventPacket, LidarScan, SensorData
from anyseg_ros.modality import Modality


class FaultInjector:
    """Applies a timetable to one run's sensor data. Seeded by stamps: the same data, the same noise."""

    def __init__(self, outages: Sequence[Outage]) -> None:
        self._outages = tuple(outages)
        self._last: dict[Modality, SensorData] = {}

    def __call__(
        self, modality: Modality, stamp_ns: int, data: SensorData, bag_time_s: float
    ) -> SensorData | None:
        """What the sensor sends at a bag time; ``None`` if it is silent."""
        active = [o.kind for o in self._outages if o.sensor is modality and o.covers(bag_time_s)]
        if not active:
            self._last[modality] = data
            return data
        if "silent" in active:
            return None
        if active[0] == "frozen":
            return _frozen(self._last.get(modality, data), stamp_ns)
        if active[0] == "blank":
            return _blank(data)
        return _noise(data, np.random.default_rng(stamp_ns))


def _frozen(data: SensorData, stamp_ns: int) -> SensorData:
    """The same data again; events keep their pattern and move to the new time."""
    if isinstance(data, EventPacket) and len(data.stamp_ns):
        shift = stamp_ns - int(data.stamp_ns[-1])
        return EventPacket(data.x, data.y, data.polarity, data.stamp_ns + shift)
    return data


def _blank(data: SensorData) -> SensorData:
    if isinstance(data, CameraFrame):
        return CameraFrame(np.zeros_like(data.image))
    if isinstance(data, DepthFrame):
        return DepthFrame(np.zeros_like(data.depth_m))
    if isinstance(data, EventPacket):
        return EventPacket(data.x[:0], data.y[:0], data.polarity[:0], data.stamp_ns[:0])
    return LidarScan(np.zeros_like(data.points_m), np.zeros_like(data.intensity))


def _noise(data: SensorData, random: np.random.Generator) -> SensorData:
    if isinstance(data, CameraFrame):
        return CameraFrame(random.integers(0, 256, data.image.shape, np.uint8))
    if isinstance(data, DepthFrame):
        return DepthFrame(random.uniform(0.3, 40.0, data.depth_m.shape).astype(np.float32))
    if isinstance(data, EventPacket):
        order = random.permutation(len(data.x))
        return EventPacket(
            data.x[order], data.y[random.permutation(len(data.y))], data.polarity, data.stamp_ns
        )
    extent = np.abs(data.points_m).max(initial=1.0)
    points = random.uniform(-extent, extent, data.points_m.shape).astype(np.float32)
    return LidarScan(points, random.uniform(0, 1, data.intensity.shape).astype(np.float32))
