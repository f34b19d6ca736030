"""Pinhole cameras, rigid transforms, the segmentation grid and its letterbox.

Conventions: camera frames are optical frames (x right, y down, z forward; REP 103). Pixel centres lie
at integer coordinates, as in OpenCV and ``sensor_msgs/CameraInfo``. ``a_from_b`` maps coordinates in
frame *b* to frame *a*.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]

_UNDISTORT = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 100, 1e-9)

DISTORTION_LENGTHS = {"plumb_bob": (4, 5), "rational_polynomial": (8,), "equidistant": (4,)}
"""Distortion models of ``CameraInfo`` and the number of coefficients each takes."""


@dataclass(frozen=True)
class RigidTransform:
    """A rotation followed by a translation in metres."""

    rotation: npt.NDArray[np.float64]
    """float64[3, 3]"""
    translation: npt.NDArray[np.float64]
    """float64[3], metres"""

    @classmethod
    def identity(cls) -> RigidTransform:
        return cls(np.eye(3), np.zeros(3))

    @classmethod
    def from_quaternion(
        cls, rotation_xyzw: npt.ArrayLike, translation_m: npt.ArrayLike
    ) -> RigidTransform:
        """Build from a quaternion in ROS order (x, y, z, w) and a translation.

        Raises:
            ValueError: if the quaternion has no length, or either has the wrong size or is not finite.
        """
        q = np.asarray(rotation_xyzw, np.float64)
        t = np.asarray(translation_m, np.float64)
        if q.shape != (4,) or t.shape != (3,):
            raise ValueError(
                f"rotation must have 4 numbers (x, y, z, w) and translation 3; got {q.shape} and {t.shape}"
            )
        if not np.isfinite(t).all():
            raise ValueError(f"translation {t.tolist()} is not finite")
        norm = np.linalg.norm(q)
        if not np.isfinite(norm) or norm < 1e-6:
            raise ValueError(f"rotation quaternion {q.tolist()} has no direction")
        x, y, z, w = q / norm
        rotation = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )
        return cls(rotation, t)

    @property
    def quaternion_xyzw(self) -> npt.NDArray[np.float64]:
        """Unit quaternion (x, y, z, w) with w >= 0 (Bar-Itzhack's method, exact at half turns too)."""
        r = self.rotation
        k = np.empty((4, 4))
        k[:3, :3] = r + r.T - np.trace(r) * np.eye(3)
        k[3, :3] = k[:3, 3] = r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]
        k[3, 3] = np.trace(r)
        quaternion = np.linalg.eigh(k)[1][:, -1]
        return quaternion if quaternion[3] >= 0 else -quaternion

    def apply(self, points: FloatArray) -> FloatArray:
        """Transform points ``[N, 3]``, float32 or float64; keeps their dtype."""
        # Coordinate by coordinate: a matrix product with 3 columns is what BLAS is slowest at, on threads
        # that others need. The result is three rows seen as columns, so what follows runs along rows too.
        moved = np.empty((3, len(points)), points.dtype)
        for row, offset, out in zip(self.rotation, self.translation, moved, strict=True):
            out[:] = float(offset)
            for factor, coordinate in zip(row, points.T, strict=True):
                if factor:
                    out += float(factor) * coordinate
        return moved.T

    def inverse(self) -> RigidTransform:
        return RigidTransform(self.rotation.T, -self.rotation.T @ self.translation)

    def __matmul__(self, other: RigidTransform) -> RigidTransform:
        """``a_from_b @ b_from_c`` is ``a_from_c``."""
        return RigidTransform(
            self.rotation @ other.rotation, self.rotation @ other.translation + self.translation
        )


@dataclass(frozen=True)
class CameraModel:
    """Intrinsics of a camera, as in ``sensor_msgs/CameraInfo`` (size, K, D). Lengths in pixels."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion_model: str = ""
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"camera size {self.width}x{self.height} is empty")
        values = (self.fx, self.fy, self.cx, self.cy, *self.distortion)
        if not all(math.isfinite(v) for v in values) or self.fx <= 0 or self.fy <= 0:
            raise ValueError(
                f"camera intrinsics fx={self.fx} fy={self.fy} cx={self.cx} cy={self.cy} are not those "
                "of a camera (an uncalibrated CameraInfo has K all zero)"
            )
        if self.distorted:
            lengths = DISTORTION_LENGTHS.get(self.distortion_model)
            if lengths is None:
                raise ValueError(
                    f"unknown distortion model {self.distortion_model!r}; "
                    f"expected one of {', '.join(DISTORTION_LENGTHS)}"
                )
            if len(self.distortion) not in lengths:
                raise ValueError(
                    f"{self.distortion_model} takes {' or '.join(map(str, lengths))} coefficients, "
                    f"got {len(self.distortion)}"
                )

    @classmethod
    def from_fov(cls, width: int, height: int, horizontal_fov_deg: float) -> CameraModel:
        """An ideal pinhole camera with square pixels and the principal point at the centre."""
        focal = width / 2 / math.tan(math.radians(horizontal_fov_deg) / 2)
        return cls(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)

    @property
    def distorted(self) -> bool:
        return any(self.distortion)

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """K, float64[3, 3]."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], np.float64)

    def undistorted(self) -> CameraModel:
        """The ideal pinhole camera with the same K and size."""
        return replace(self, distortion_model="", distortion=())

    def project(self, points: FloatArray) -> FloatArray:
        """Project camera-frame points ``[N, 3]`` (z > 0) to pixels ``[N, 2]``, distortion included."""
        if not self.distorted:
            inverse_z = 1.0 / points[:, 2:3]
            focal = np.array([self.fx, self.fy], points.dtype)
            centre = np.array([self.cx, self.cy], points.dtype)
            pixels: FloatArray = points[:, :2] * inverse_z * focal + centre
            return pixels
        if len(points) == 0:
            return np.empty((0, 2), points.dtype)
        zero = np.zeros(3)
        coefficients = np.asarray(self.distortion, np.float64)
        shaped = np.ascontiguousarray(points, np.float64).reshape(-1, 1, 3)
        if self.distortion_model == "equidistant":
            projected, _ = cv2.fisheye.projectPoints(shaped, zero, zero, self.matrix, coefficients)
        else:
            projected, _ = cv2.projectPoints(shaped, zero, zero, self.matrix, coefficients)
        return projected.reshape(-1, 2).astype(points.dtype)

    def rays(self) -> FloatArray:
        """Directions with z = 1 through every pixel, float32[H, W, 3], distortion removed."""
        u, v = np.meshgrid(np.arange(self.width), np.arange(self.height))
        if not self.distorted:
            x: npt.NDArray = (u - self.cx) / self.fx
            y: npt.NDArray = (v - self.cy) / self.fy
        else:
            pixels = np.stack([u, v], -1).reshape(-1, 1, 2).astype(np.float64)
            coefficients = np.asarray(self.distortion, np.float64)
            normal: npt.NDArray
            if self.distortion_model == "equidistant":
                normal = cv2.fisheye.undistortPoints(pixels, self.matrix, coefficients)
            else:
                # Its own 5 iterations leave wide depth cameras tens of pixels off.
                same = np.eye(3)
                normal = cv2.undistortPointsIter(
                    pixels, self.matrix, coefficients, same, same, _UNDISTORT
                )
            x, y = np.moveaxis(normal.reshape(self.height, self.width, 2), -1, 0)
        return np.stack([x, y, np.ones_like(x)], -1).astype(np.float32)

    def resized(self, width: int, height: int) -> CameraModel:
        """The same camera with its image scaled to another size."""
        sx, sy = width / self.width, height / self.height
        return replace(
            self,
            width=width,
            height=height,
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=(self.cx + 0.5) * sx - 0.5,
            cy=(self.cy + 0.5) * sy - 0.5,
        )


@dataclass(frozen=True)
class Letterbox:
    """Placement of an image, aspect kept, in the middle of a canvas of another size (pixels)."""

    source_width: int
    source_height: int
    width: int
    height: int
    left: int
    top: int
    content_width: int
    content_height: int

    @classmethod
    def fit(cls, source_width: int, source_height: int, width: int, height: int) -> Letterbox:
        scale = min(width / source_width, height / source_height)
        content_width = min(width, max(1, round(source_width * scale)))
        content_height = min(height, max(1, round(source_height * scale)))
        return cls(
            source_width,
            source_height,
            width,
            height,
            (width - content_width) // 2,
            (height - content_height) // 2,
            content_width,
            content_height,
        )

    @property
    def content(self) -> tuple[slice, slice]:
        """Rows and columns of the canvas that the image covers."""
        return (
            slice(self.top, self.top + self.content_height),
            slice(self.left, self.left + self.content_width),
        )

    @property
    def is_full(self) -> bool:
        """Whether the image covers the whole canvas."""
        return (self.content_width, self.content_height) == (self.width, self.height)

    def fill_border(self, canvas: npt.NDArray[np.uint8], value: int) -> None:
        """Set what the image does not cover of ``canvas`` ``[H, W, ...]``, in place."""
        rows, columns = self.content
        canvas[: rows.start] = canvas[rows.stop :] = value
        canvas[:, : columns.start] = canvas[:, columns.stop :] = value

    def camera(self, source: CameraModel) -> CameraModel:
        """Intrinsics of the canvas, given those of the source image."""
        scaled = source.resized(self.content_width, self.content_height)
        return replace(
            scaled,
            width=self.width,
            height=self.height,
            cx=scaled.cx + self.left,
            cy=scaled.cy + self.top,
        )

    def place(self, image: npt.NDArray, interpolation: int) -> npt.NDArray:
        """Scale an image of the source's aspect ratio onto the canvas; the border is 0."""
        size = (self.content_width, self.content_height)
        if image.shape[1::-1] != size:
            image = cv2.resize(image, size, interpolation=interpolation)
        if (self.content_width, self.content_height) == (self.width, self.height):
            return image
        canvas = np.zeros((self.height, self.width, *image.shape[2:]), image.dtype)
        canvas[self.content] = image
        return canvas

    def restore(self, canvas: npt.NDArray) -> npt.NDArray:
        """Cut the content out of a canvas and scale it back to the source size (nearest)."""
        content = canvas[self.content]
        if content.shape[1::-1] == (self.source_width, self.source_height):
            return content
        return cv2.resize(
            content, (self.source_width, self.source_height), interpolation=cv2.INTER_NEAREST_EXACT
        )


@dataclass(frozen=True)
class SegmentationGrid:
    """The pinhole grid in which everything is segmented, and its letterbox into the network's input."""

    camera: CameraModel
    """Ideal pinhole camera of the grid at its native size."""
    frame_id: str
    letterbox: Letterbox

    @classmethod
    def create(
        cls, camera: CameraModel, frame_id: str, input_width: int, input_height: int
    ) -> SegmentationGrid:
        """Grid of ``camera`` (its distortion is removed) for a network input of the given size."""
        letterbox = Letterbox.fit(camera.width, camera.height, input_width, input_height)
        return cls(camera.undistorted(), frame_id, letterbox)

    @property
    def input_camera(self) -> CameraModel:
        """Intrinsics of the grid at the network's input size, border included."""
        return self.letterbox.camera(self.camera)
