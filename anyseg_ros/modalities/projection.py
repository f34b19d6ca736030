"""Moving pixels and points into the segmentation grid: rotation warps and z-buffered splats."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from anyseg_ros.modalities.errors import ModalityError
from anyseg_ros.modalities.geometry import (
    CameraModel,
    FloatArray,
    RigidTransform,
    SegmentationGrid,
)

_SAME_RAY_PX = 0.05
_FAR_SHARE = 0.02


def camera_for_image(camera: CameraModel, width: int, height: int, what: str) -> CameraModel:
    """Intrinsics for an image that a driver may have scaled against its calibration.

    Raises:
        ModalityError: if the image has another aspect ratio than the calibration.
    """
    if (width, height) == (camera.width, camera.height):
        return camera
    if abs(width / height / (camera.width / camera.height) - 1) > _FAR_SHARE:
        raise ModalityError(
            f"{what} image is {width}x{height} but its calibration is for "
            f"{camera.width}x{camera.height}, another aspect ratio"
        )
    return camera.resized(width, height)


def is_registered(
    camera: CameraModel, grid: SegmentationGrid, grid_from_sensor: RigidTransform
) -> bool:
    """Whether an image of ``camera`` already lies in the grid, up to its scale."""
    if camera.distorted or np.abs(grid_from_sensor.translation).max() > 1e-4:
        return False
    if np.abs(grid_from_sensor.rotation - np.eye(3)).max() > 1e-4:
        return False
    if (
        abs(camera.width / camera.height / (grid.camera.width / grid.camera.height) - 1)
        > _FAR_SHARE
    ):
        return False
    scaled = camera.resized(grid.camera.width, grid.camera.height)
    return bool(np.abs(scaled.matrix - grid.camera.matrix).max() < _SAME_RAY_PX)


def shrunk_camera(camera: CameraModel, grid: SegmentationGrid, finest: float = 1.5) -> CameraModel:
    """The camera with an image at most ``finest`` times as fine as the grid.

    An image much finer than the grid is shrunk before it is warped, as sampling it at points would alias.
    """
    target = grid.input_camera
    shrink = min(1.0, finest * target.fx / camera.fx, finest * target.fy / camera.fy)
    if shrink == 1.0:
        return camera
    return camera.resized(
        max(1, round(camera.width * shrink)), max(1, round(camera.height * shrink))
    )


class RotationWarp:
    """Warps images of one camera into the grid by rotation and intrinsics.

    The translation between the sensors is not used, as it needs depth: a point at distance ``d`` is
    shown ``f * t / d`` pixels off, for a baseline ``t`` across the view.
    """

    def __init__(
        self,
        camera: CameraModel,
        grid: SegmentationGrid,
        grid_from_sensor: RigidTransform,
        interpolation: int,
        shrink: bool = True,
    ) -> None:
        target = grid.input_camera
        source = shrunk_camera(camera, grid) if shrink else camera
        self._size = (source.width, source.height)
        rays = target.rays().reshape(-1, 3)
        local = rays @ grid_from_sensor.rotation.astype(np.float32)
        pixels = np.full((len(local), 2), -1e4, np.float32)
        # Wide distortion polynomials fold back far off the axis: beyond the sensor's own corner
        # rays nothing can be seen, so nothing is projected there.
        corner = np.abs(source.rays()[..., :2]).reshape(-1, 2).max(0)
        ahead = local[:, 2] > 1e-3
        slope = np.abs(local[:, :2] / np.where(ahead, local[:, 2], 1.0)[:, None])
        ahead &= (slope <= corner * 1.02 + 1e-3).all(1)
        pixels[ahead] = source.project(local[ahead])
        shape = (target.height, target.width)
        outside = np.ones(shape, bool)
        outside[grid.letterbox.content] = False
        pixels[outside.ravel()] = -1e4
        self._maps = cv2.convertMaps(
            pixels[:, 0].reshape(shape), pixels[:, 1].reshape(shape), cv2.CV_16SC2
        )
        self._interpolation = interpolation

    def __call__(self, image: npt.NDArray) -> npt.NDArray:
        """Warp ``[H, W, C]`` to the grid's input size; what the sensor does not see is 0."""
        if image.shape[1::-1] != self._size:
            image = cv2.resize(image, self._size, interpolation=cv2.INTER_AREA)
        return cv2.remap(image, *self._maps, self._interpolation, borderMode=cv2.BORDER_CONSTANT)


class NearestPoints:
    """Points drawn as small rectangles; where they overlap, the nearest stays visible.

    Args:
        shape: (height, width) of the picture.
        size: (width, height) of the rectangle in pixels.
    """

    CHUNK = 1 << 15
    """Points to draw at a time: what is computed for them on the way then stays in the processor's cache,
    which makes drawing a depth image twice as fast."""

    def __init__(self, shape: tuple[int, int], size: tuple[int, int]) -> None:
        self._shape, self._size = shape, size
        # The canvas has a margin, so that a rectangle that begins outside still reaches in, and one cell
        # more for points that are not drawn: cheaper than taking them out.
        self._rows, self._columns = shape[0] + size[1] - 1, shape[1] + size[0] - 1
        self._canvas = np.zeros(self._rows * self._columns + 1, np.uint64)
        self._count = 0

    def draw(
        self,
        across: FloatArray,
        down: FloatArray,
        depth: FloatArray,
        allowed: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Add points; they are numbered on from those drawn before.

        Args:
            across: float[N], pixels, with pixel centres at integers; may be NaN where not allowed.
            down: likewise.
            depth: float[N], metres, positive where allowed; decides what hides what.
            allowed: bool[N], the points that take part; all if ``None``.
        """
        height, width = self._shape
        left = np.floor(across - across.dtype.type((self._size[0] - 1) / 2 - 0.5))
        top = np.floor(down - down.dtype.type((self._size[1] - 1) / 2 - 0.5))
        inside = left > -self._size[0]
        inside &= left < width
        inside &= top > -self._size[1]
        inside &= top < height
        if allowed is not None:
            inside &= allowed
        with np.errstate(invalid="ignore"):  # whatever a NaN or a huge number becomes is not inside
            index = top.astype(np.int32)
            index *= self._columns
            index += left.astype(np.int32)
        index += (self._size[1] - 1) * self._columns + self._size[0] - 1
        index[~inside] = self._rows * self._columns

        # One number a point, nearness before its own number: the largest is the nearest point. The bits of
        # positive floats are ordered as the floats are.
        bits = depth.astype(np.float32, copy=False).view(np.uint32)
        key = np.subtract(np.uint32(0xFFFFFFFF), bits, dtype=np.uint64)
        key <<= np.uint64(32)
        first = self._count + 1
        key |= np.arange(first, first + len(key), dtype=np.uint64)
        np.maximum.at(self._canvas, index, key)
        self._count += len(key)

    def visible(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """What is to be seen.

        Returns:
            int64[K], the pixels that show a point, as indices into the flat picture; int64[K], the number of
            the point that each of them shows, from 0.
        """
        (height, width), size = self._shape, self._size
        # Growing each point to a rectangle is a running maximum along rows, then along columns.
        wide = self._canvas[:-1].reshape(self._rows, self._columns)
        grown = wide[:, size[0] - 1 :].copy() if size[0] > 1 else wide
        for step in range(size[0] - 1):
            np.maximum(grown, wide[:, step : step + width], out=grown)
        tall = grown[size[1] - 1 :].copy() if size[1] > 1 else grown
        for step in range(size[1] - 1):
            np.maximum(tall, grown[step : step + height], out=tall)
        shown = tall.astype(np.uint32).ravel()
        where = np.flatnonzero(shown)
        return where, shown.take(where).astype(np.int64) - 1


def drawn_planes(
    where: npt.NDArray[np.int64], channels: list[npt.NDArray[np.uint8]], grid: SegmentationGrid
) -> npt.NDArray[np.uint8]:
    """uint8[H, W, 3] of the grid's input: values of the pixels ``where`` (flat indices), 0 elsewhere.

    Plane by plane: writing three bytes at each of many places takes several times as long.

    Args:
        where: int64[K]
        channels: three of uint8[K]
    """
    target = grid.input_camera
    planes = []
    for values in channels:
        plane = np.zeros((target.height, target.width), np.uint8)
        plane.reshape(-1)[where] = values
        planes.append(plane)
    picture = np.asarray(cv2.merge(planes), np.uint8)
    grid.letterbox.fill_border(picture, 0)
    return picture


def splat_size(camera: CameraModel, grid: SegmentationGrid) -> tuple[int, int]:
    """Rectangle (pixels) with which pixels of ``camera`` leave no holes in the grid."""
    target = grid.input_camera
    return math.ceil(target.fx / camera.fx), math.ceil(target.fy / camera.fy)


def inverse_log(distance_m: FloatArray, min_m: float, max_m: float) -> npt.NDArray[np.uint8]:
    """1..255, near is bright, equal steps for equal ratios of distance; 0 where not in (0, inf).

    ``1 + 254 * log(max / d) / log(max / min)``, with ``d`` limited to [min, max].
    """
    valid = np.isfinite(distance_m) & (distance_m > 0)
    limited = np.clip(np.where(valid, distance_m, max_m), min_m, max_m)
    scaled = 1.5 + 254.0 / math.log(max_m / min_m) * np.log(max_m / limited)
    return np.where(valid, scaled, 0).astype(np.uint8)


def linear_byte(value: FloatArray, low: float, high: float) -> npt.NDArray[np.uint8]:
    """Map [low, high] to 1..255, limited at both ends; NaN becomes 0."""
    scaled = 1.5 + 254.0 * (np.clip(value, low, high) - low) / (high - low)
    return np.nan_to_num(scaled, nan=0.0).astype(np.uint8)
