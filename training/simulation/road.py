"""Where the road runs: a centre line with curvature, its cross-section, and the strips laid along it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.simulation.shapes import Mesh, join_meshes

STEP_M = 0.5
"""Spacing of the samples of a centre line."""
LAYOUTS = ("straight", "bend", "s_bend", "sweep")
MAX_TURN_RAD = 1.7
"""Total turn allowed, so that a road never meets itself."""


@dataclass(frozen=True)
class Pose2D:
    """A place on the ground plane and a heading, counted from x towards y."""

    x: float
    y: float
    yaw: float


class RoadPath:
    """A centre line, addressed by arc length ``s`` and lateral ``offset`` (left is positive), in metres."""

    def __init__(self, start: Pose2D, first_m: float, curvature: npt.NDArray[np.float64]) -> None:
        """Integrate a curvature profile sampled every :data:`STEP_M`.

        Args:
            start: pose at s = 0.
            first_m: arc length of the first sample (0 or negative).
            curvature: float64[N], 1/m.
        """
        self.s = first_m + STEP_M * np.arange(len(curvature))
        heading = np.concatenate([[0.0], np.cumsum((curvature[1:] + curvature[:-1]) / 2 * STEP_M)])
        heading += start.yaw - np.interp(0.0, self.s, heading)
        middle = (heading[1:] + heading[:-1]) / 2
        x = np.concatenate([[0.0], np.cumsum(np.cos(middle) * STEP_M)])
        y = np.concatenate([[0.0], np.cumsum(np.sin(middle) * STEP_M)])
        self.heading = heading
        self.x = x + start.x - np.interp(0.0, self.s, x)
        self.y = y + start.y - np.interp(0.0, self.s, y)

    @property
    def first_m(self) -> float:
        return float(self.s[0])

    @property
    def last_m(self) -> float:
        return float(self.s[-1])

    @property
    def turn_rad(self) -> float:
        """Span of headings along the road: 0 for a straight one."""
        return float(np.ptp(self.heading))

    def pose(self, s: float, offset: float = 0.0) -> Pose2D:
        """Place and heading at arc length ``s``, moved sideways; beyond the ends it goes straight on."""
        inside = min(max(s, self.first_m), self.last_m)
        yaw = float(np.interp(inside, self.s, self.heading))
        beyond = s - inside
        x = float(np.interp(inside, self.s, self.x)) + beyond * math.cos(yaw)
        y = float(np.interp(inside, self.s, self.y)) + beyond * math.sin(yaw)
        return Pose2D(x - offset * math.sin(yaw), y + offset * math.cos(yaw), yaw)

    def curvature(self, s: float) -> float:
        """Mean curvature over the 10 m around ``s``, 1/m; left turns are positive."""
        return (self.pose(s + 5).yaw - self.pose(s - 5).yaw) / 10.0


def random_path(
    rng: np.random.Generator, layout: str, first_m: float, last_m: float, keep_straight_m: float
) -> RoadPath:
    """A road of a given layout.

    Args:
        rng: source of the shape.
        layout: one of :data:`LAYOUTS`.
        first_m: arc length of its beginning, negative (behind the ego vehicle's start).
        last_m: arc length of its end.
        keep_straight_m: length at the beginning, from s = 0, over which it bends little.
    """
    s = np.arange(first_m, last_m + STEP_M, STEP_M)
    curvature = np.zeros(len(s))
    side = float(rng.choice((-1.0, 1.0)))

    def add(begin: float, end: float, radius: float, sign: float) -> None:
        ramp = 8.0
        rise = np.clip((s - begin) / ramp, 0, 1) * np.clip((end - s) / ramp, 0, 1)
        curvature[:] += sign / radius * rise * rise * (3 - 2 * rise)

    if layout == "bend":
        begin = keep_straight_m + rng.uniform(0, 15)
        add(begin, begin + rng.uniform(45, 90), rng.uniform(35, 90), side)
    elif layout == "s_bend":
        begin = keep_straight_m + rng.uniform(-5, 15)
        length, radius = rng.uniform(35, 60), rng.uniform(40, 90)
        add(begin, begin + length, radius, side)
        add(begin + length + 4, begin + 2 * length, radius * rng.uniform(0.9, 1.3), -side)
    elif layout == "sweep":
        radius = rng.uniform(45, 110)
        add(first_m - 20, first_m + 1.5 * radius, radius, side)
    elif layout != "straight":
        raise ValueError(f"unknown road layout {layout!r}; expected one of {', '.join(LAYOUTS)}")
    turn = float(np.ptp(np.concatenate([[0.0], np.cumsum(curvature * STEP_M)])))
    curvature *= min(1.0, MAX_TURN_RAD / max(turn, 1e-9))
    return RoadPath(Pose2D(0.0, 0.0, 0.0), first_m, curvature)


def straight_path(start: Pose2D, first_m: float, last_m: float) -> RoadPath:
    """A straight road through ``start``."""
    count = math.ceil((last_m - first_m) / STEP_M) + 1
    return RoadPath(start, first_m, np.zeros(count))


@dataclass(frozen=True)
class CrossSection:
    """Widths of a street in metres, the same on both sides."""

    lane_m: float
    """One traffic lane; there is one each way."""
    outer_m: float
    """Parking or cycle strip between lane and kerb."""
    verge_m: float
    """Grass between kerb and sidewalk; 0 for none."""
    sidewalk_m: float

    @property
    def half_road_m(self) -> float:
        return self.lane_m + self.outer_m

    @property
    def sidewalk_inner_m(self) -> float:
        return self.half_road_m + self.verge_m

    @property
    def sidewalk_outer_m(self) -> float:
        return self.sidewalk_inner_m + self.sidewalk_m


def strip(
    path: RoadPath,
    s0: float,
    s1: float,
    right_m: float,
    left_m: float,
    z_m: float,
    tile_m: float,
    skirt_m: float = 0.0,
    step_m: float = 2.0,
) -> Mesh:
    """A ribbon along a road between two offsets, facing up.

    Args:
        path: the centre line.
        s0: where it begins.
        s1: where it ends.
        right_m: offset of its right edge.
        left_m: offset of its left edge, larger.
        z_m: height of its surface.
        tile_m: metres a repeat of the texture.
        skirt_m: depth of a vertical face at all edges (a kerb); 0 for none.
        step_m: spacing of the cross lines.
    """
    count = max(2, math.ceil((s1 - s0) / step_m) + 1)
    stations = np.linspace(s0, s1, count)
    poses = [path.pose(float(s)) for s in stations]
    centre = np.array([(p.x, p.y) for p in poses])
    normal = np.array([(-math.sin(p.yaw), math.cos(p.yaw)) for p in poses])
    right, left = centre + right_m * normal, centre + left_m * normal

    def ribbon(
        a: npt.NDArray[np.float64],
        b: npt.NDArray[np.float64],
        za: float,
        zb: float,
        va: float,
        vb: float,
    ) -> Mesh:
        vertices = np.empty((2 * count, 3))
        vertices[0::2, :2], vertices[0::2, 2] = a, za
        vertices[1::2, :2], vertices[1::2, 2] = b, zb
        texture = np.empty((2 * count, 2))
        texture[0::2, 0] = texture[1::2, 0] = stations / tile_m
        texture[0::2, 1], texture[1::2, 1] = va / tile_m, vb / tile_m
        k = 2 * np.arange(count - 1)
        faces = np.concatenate([np.stack([k, k + 2, k + 1], 1), np.stack([k + 2, k + 3, k + 1], 1)])
        return Mesh(vertices, faces, texture)

    parts = [ribbon(right, left, z_m, z_m, right_m, left_m)]
    if skirt_m > 0:
        low = z_m - skirt_m
        parts.append(ribbon(right, right, low, z_m, right_m - skirt_m, right_m))
        parts.append(ribbon(left, left, z_m, low, left_m, left_m + skirt_m))
        for k, flip in ((0, False), (count - 1, True)):
            a, b = (left[k], right[k]) if flip else (right[k], left[k])
            corners = np.array([[*a, z_m], [*b, z_m], [*a, low], [*b, low]])
            faces = np.array([[0, 1, 2], [1, 3, 2]])
            parts.append(Mesh(corners, faces, corners[:, :2] / tile_m))
    return join_meshes(parts)


def dashes(
    path: RoadPath,
    s0: float,
    s1: float,
    offset_m: float,
    width_m: float,
    dash_m: float,
    gap_m: float,
    gaps: Sequence[tuple[float, float]],
) -> list[Mesh]:
    """Painted dashes along a road; ``gap_m`` 0 paints a line. None lies in the intervals ``gaps``."""
    meshes = []
    s = s0
    while s < s1:
        end = min(s + dash_m, s1)
        if not any(s < b and end > a for a, b in gaps):
            meshes.append(
                strip(path, s, end, offset_m - width_m / 2, offset_m + width_m / 2, 0.006, 1.0)
            )
        s += dash_m + gap_m
    return meshes
