"""How things move: speed profiles and followers of a road, as functions of time only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.simulation.people import Pedestrian
from training.simulation.road import Pose2D, RoadPath

TABLE_STEP_S = 0.02


class SpeedProfile:
    """Speed over time and its integral. Before t = 0 and after the last knot the speed is constant."""

    def __init__(self, knots: Sequence[tuple[float, float]]) -> None:
        """``knots`` are (time in seconds, speed in m/s); speeds between them follow a smooth step."""
        times = np.array([k[0] for k in knots], np.float64)
        speeds = np.array([k[1] for k in knots], np.float64)
        # Sensors are also rendered shortly before t = 0 and after the last frame.
        self._t = np.arange(min(0.0, times[0]) - 2.0, times[-1] + 2.0, TABLE_STEP_S)
        index = np.clip(np.searchsorted(times, self._t) - 1, 0, max(len(times) - 2, 0))
        if len(times) == 1:
            self._v = np.full(len(self._t), speeds[0])
        else:
            span = times[index + 1] - times[index]
            u = np.clip((self._t - times[index]) / span, 0, 1)
            self._v = speeds[index] + (speeds[index + 1] - speeds[index]) * u * u * (3 - 2 * u)
        middle = (self._v[1:] + self._v[:-1]) / 2
        distance = np.concatenate([[0.0], np.cumsum(middle * TABLE_STEP_S)])
        self._s = distance - np.interp(0.0, self._t, distance)

    def distance(self, t: float) -> float:
        """Metres travelled since t = 0; negative before."""
        if t > self._t[-1]:
            return float(self._s[-1] + (t - self._t[-1]) * self._v[-1])
        if t < self._t[0]:
            return float(self._s[0] + (t - self._t[0]) * self._v[0])
        return float(np.interp(t, self._t, self._s))

    def speed(self, t: float) -> float:
        """Metres per second."""
        return float(np.interp(t, self._t, self._v))


def constant_speed(speed: float) -> SpeedProfile:
    """A profile of one speed."""
    return SpeedProfile([(0.0, speed)])


@dataclass(frozen=True)
class Mover:
    """Something that follows a road at an offset, with or against its direction."""

    body: str
    path: RoadPath
    start_m: float
    offset_m: float
    profile: SpeedProfile
    direction: int = 1
    height_m: float = 0.0
    yaw_extra: float = 0.0
    range_m: tuple[float, float] = (-math.inf, math.inf)
    """It stands still when it reaches either end."""

    def distance(self, t: float) -> float:
        """Metres that it has come since t = 0, along its own direction."""
        moved = self.profile.distance(t)
        low, high = self.range_m
        return min(max(self.start_m + self.direction * moved, low), high) * self.direction - (
            self.start_m * self.direction
        )

    def moving(self, t: float) -> bool:
        """Whether it moves at ``t``."""
        s = self.start_m + self.direction * self.profile.distance(t)
        return self.range_m[0] < s < self.range_m[1] and self.profile.speed(t) > 0.05

    def pose(self, t: float) -> Pose2D:
        """Where it is at ``t``."""
        pose = self.path.pose(self.start_m + self.direction * self.distance(t), self.offset_m)
        yaw = pose.yaw + (math.pi if self.direction < 0 else 0.0) + self.yaw_extra
        return Pose2D(pose.x, pose.y, yaw)


@dataclass(frozen=True)
class Walker:
    """A pedestrian and the way it goes."""

    person: Pedestrian
    mover: Mover


@dataclass(frozen=True)
class EgoMotion:
    """The vehicle that carries the rig: along its lane, swaying a little while it moves."""

    mover: Mover
    sway_phase: float

    def pose(self, t: float) -> tuple[Pose2D, float, float, float]:
        """Ground pose, heave in metres, pitch and roll in radians (about y and x of the vehicle)."""
        pose = self.mover.pose(t)
        # The body sways with the way travelled, hence not at all when it stands.
        s = self.mover.profile.distance(t)
        weight = min(1.0, self.mover.profile.speed(t) / 4.0)
        phase = self.sway_phase
        heave = weight * 0.012 * math.sin(1.3 * s + phase)
        pitch = weight * 0.0035 * math.sin(1.7 * s + 2 * phase)
        roll = weight * 0.003 * math.sin(0.9 * s + 3 * phase)
        lateral = 0.12 * math.sin(0.11 * s + phase)
        yaw = pose.yaw + 0.12 * 0.11 * math.cos(0.11 * s + phase)
        return (
            Pose2D(
                pose.x - lateral * math.sin(pose.yaw), pose.y + lateral * math.cos(pose.yaw), yaw
            ),
            heave,
            pitch,
            roll,
        )
