"""Raw sensor data: what a driver delivers, as numpy, in metres and nanoseconds. No ROS types."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SELF_RANGE_M = 0.05
"""A LiDAR's point nearer than this is no echo: drivers fill lost echoes with zeros."""


@dataclass(frozen=True)
class CameraFrame:
    image: npt.NDArray[np.uint8]
    """uint8[H, W, 3], RGB"""


@dataclass(frozen=True)
class DepthFrame:
    depth_m: npt.NDArray[np.float32]
    """float32[H, W], z-depth in metres; 0, NaN and inf are invalid (REP 118)"""


@dataclass(frozen=True)
class EventPacket:
    """Events of one packet, in order of time."""

    x: npt.NDArray[np.uint16]
    y: npt.NDArray[np.uint16]
    polarity: npt.NDArray[np.uint8]
    """uint8[N], 1 = brighter, 0 = darker"""
    stamp_ns: npt.NDArray[np.int64]
    """int64[N], absolute time of each event"""


@dataclass(frozen=True)
class LidarScan:
    """Echoes of one scan."""

    points_m: npt.NDArray[np.float32]
    """float32[N, 3], metres, in the sensor's frame (x forward, y left, z up)"""
    intensity: npt.NDArray[np.float32]
    """float32[N], 0..1; zeros where the sensor has none"""
