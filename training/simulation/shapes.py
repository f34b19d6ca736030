"""Triangle meshes of the primitive shapes, with texture coordinates in metres."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vector = Sequence[float] | npt.NDArray[np.float64]


@dataclass(frozen=True)
class Mesh:
    """Triangles with texture coordinates: float64[N, 3], int64[M, 3] anticlockwise, float64[N, 2]."""

    vertices: npt.NDArray[np.float64]
    faces: npt.NDArray[np.int64]
    texture: npt.NDArray[np.float64]

    def moved(self, position: Vector, rotation: npt.NDArray[np.float64] | None = None) -> Mesh:
        """The mesh turned by a 3x3 matrix, then shifted."""
        turned = self.vertices if rotation is None else self.vertices @ rotation.T
        return Mesh(turned + np.asarray(position, np.float64), self.faces, self.texture)


def join_meshes(parts: Sequence[Mesh]) -> Mesh:
    """Several meshes as one."""
    offsets = np.cumsum([0, *(len(p.vertices) for p in parts[:-1])])
    return Mesh(
        np.concatenate([p.vertices for p in parts]),
        np.concatenate([p.faces + o for p, o in zip(parts, offsets, strict=True)]),
        np.concatenate([p.texture for p in parts]),
    )


def quaternion_matrix(quat: Vector) -> npt.NDArray[np.float64]:
    """Rotation matrix of a quaternion (w, x, y, z), which need not have length 1."""
    w, x, y, z = np.asarray(quat, np.float64) / np.linalg.norm(quat)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


# Corners of each side of a cube, anticlockwise from outside.
_SIDES = np.array(
    [
        [(1, -1, -1), (1, 1, -1), (1, 1, 1), (1, -1, 1)],
        [(-1, 1, -1), (-1, -1, -1), (-1, -1, 1), (-1, 1, 1)],
        [(1, 1, -1), (-1, 1, -1), (-1, 1, 1), (1, 1, 1)],
        [(-1, -1, -1), (1, -1, -1), (1, -1, 1), (-1, -1, 1)],
        [(-1, -1, 1), (1, -1, 1), (1, 1, 1), (-1, 1, 1)],
        [(-1, 1, -1), (1, 1, -1), (1, -1, -1), (-1, -1, -1)],
    ],
    np.float64,
)
_SIDE_AXES = ((1, 2), (1, 2), (0, 2), (0, 2), (0, 1), (0, 1))
_SIDE_FACES = np.concatenate([4 * k + np.array([[0, 1, 2], [0, 2, 3]]) for k in range(6)])


def box(half: Vector) -> Mesh:
    """A box around the origin; every side has vertices of its own, so that its edges are sharp."""
    corners = _SIDES * np.asarray(half, np.float64)
    texture = np.stack([corners[k][:, list(axes)] for k, axes in enumerate(_SIDE_AXES)])
    return Mesh(corners.reshape(-1, 3), _SIDE_FACES, texture.reshape(-1, 2))


def _lathe(radii: npt.NDArray[np.float64], heights: npt.NDArray[np.float64], sides: int) -> Mesh:
    """A surface of revolution about z through rings from below to above."""
    angle = 2 * np.pi * np.arange(sides + 1) / sides
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    count = len(radii)
    vertices = np.empty((count, sides + 1, 3))
    vertices[..., :2] = radii[:, None, None] * ring
    vertices[..., 2] = heights[:, None]
    texture = np.empty((count, sides + 1, 2))
    texture[..., 0] = angle * float(radii.max())
    texture[..., 1] = heights[:, None]
    k = (np.arange(count - 1)[:, None] * (sides + 1) + np.arange(sides)).ravel()
    up = k + sides + 1
    faces = np.concatenate([np.stack([k, k + 1, up + 1], 1), np.stack([k, up + 1, up], 1)])
    # Triangles at a pole have no area.
    flat = vertices.reshape(-1, 3)
    a, b, c = (flat[faces[:, i]] for i in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    return Mesh(flat, faces[area > 1e-12], texture.reshape(-1, 2))


def _along(a: Vector, b: Vector) -> tuple[float, npt.NDArray[np.float64]]:
    """Length of a segment, and a rotation that turns +z into its direction."""
    axis = np.asarray(b, np.float64) - np.asarray(a, np.float64)
    length = float(np.linalg.norm(axis))
    z = axis / length
    x = np.cross((0.0, 1.0, 0.0) if abs(z[1]) < 0.9 else (1.0, 0.0, 0.0), z)
    x /= np.linalg.norm(x)
    return length, np.stack([x, np.cross(z, x), z], 1)


def cylinder(a: Vector, b: Vector, radius: float, sides: int = 12) -> Mesh:
    """A cylinder between two points."""
    length, rotation = _along(a, b)
    wall = _lathe(np.array([radius, radius]), np.array([0.0, length]), sides)
    lids = [
        _lathe(np.array([1e-4 * radius, radius])[::step], np.array([z, z]), sides)
        for z, step in ((0.0, 1), (length, -1))
    ]
    # _lathe faces outwards for rising rings; a flat lid from the middle outwards faces down.
    return join_meshes([wall, *lids]).moved(a, rotation)


def capsule(a: Vector, b: Vector, radius: float, sides: int = 8) -> Mesh:
    """A cylinder between two points with round ends."""
    length, rotation = _along(a, b)
    bend = np.deg2rad([-90, -40, 0, 0, 40, 90])
    heights = radius * np.sin(bend) + np.array([0, 0, 0, length, length, length])
    return _lathe(radius * np.maximum(np.cos(bend), 1e-4), heights, sides).moved(a, rotation)


def ellipsoid(centre: Vector, radii: Vector, sides: int = 11, rings: int = 7) -> Mesh:
    """An ellipsoid, flat-sided enough to be cheap and smooth-shaded."""
    bend = np.linspace(-math.pi / 2, math.pi / 2, rings)
    x, y, z = (float(r) for r in radii)
    ball = _lathe(np.maximum(np.cos(bend), 1e-4), np.sin(bend), sides)
    scale = np.array([x, y, z])
    texture = ball.texture * np.array([(x + y) / 2, z])
    return Mesh(ball.vertices * scale + np.asarray(centre, np.float64), ball.faces, texture)


def rectangle(centre: Vector, half: Vector) -> Mesh:
    """A horizontal rectangle facing up, half sizes in x and y."""
    corners = np.array([(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)], np.float64)
    corners *= np.array([half[0], half[1], 0.0])
    return Mesh(
        corners + np.asarray(centre, np.float64),
        np.array([[0, 1, 2], [0, 2, 3]]),
        corners[:, :2].copy(),
    )
