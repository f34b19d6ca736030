"""Points with classes: a LiDAR scan that takes its classes from a segmentation, and depth for its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from anyseg_ros.classes import IGNORE_ID
from anyseg_ros.modalities import (
    CameraModel,
    DepthFrame,
    LidarScan,
    RigidTransform,
)
from anyseg_ros.modalities.geometry import FloatArray
from anyseg_ros.modalities.projection import camera_for_image

NEAREST_M = 0.1
"""Points nearer to the grid's optical centre than this, or behind it, are in no pixel."""
_BEHIND_RATIO = 1.2
_BEHIND_M = 0.5
_BESIDE_PX = 2


@dataclass(frozen=True)
class SemanticPoints:
    """Points with the class of the pixel they are seen in."""

    points_m: npt.NDArray[np.float32]
    """float32[N, 3], metres, in the sensor's frame, in the order of the scan"""
    labels: npt.NDArray[np.uint8]
    """uint8[N], class ids; 255 where the segmentation does not see the point"""
    confidence: npt.NDArray[np.uint8]
    """uint8[N], 255 times the class probability; 0 where the segmentation does not see the point"""


def label_points(
    scan: LidarScan,
    grid_from_lidar: RigidTransform,
    labels: npt.NDArray[np.uint8],
    confidence: npt.NDArray[np.uint8],
    camera: CameraModel,
) -> SemanticPoints:
    """Give every point of a scan the class of the pixel it falls into.

    The LiDAR looks from another place than the grid's camera, so it sees surfaces that hide behind
    others there. Such a point would take the class of what hides it; it is told by a point of the same row,
    at most 2 pixels aside, that is nearer by more than a fifth and half a metre, and gets no class. What
    hides in a gap between the scan's lines is not told.

    Args:
        labels: uint8[H, W], class ids.
        confidence: uint8[H, W].
        camera: ideal pinhole camera of the labels.
    """
    points = grid_from_lidar.apply(scan.points_m)
    shape = labels.shape
    index, seen = _pixels(points, camera, shape)
    depth = points[seen, 2]
    nearest = np.full(shape, np.inf, np.float32)
    np.minimum.at(nearest.reshape(-1), index, depth)
    beside = nearest.copy()
    for step in range(1, _BESIDE_PX + 1):
        np.minimum(beside[:, step:], nearest[:, :-step], out=beside[:, step:])
        np.minimum(beside[:, :-step], nearest[:, step:], out=beside[:, :-step])
    shown = depth <= beside.reshape(-1)[index] * _BEHIND_RATIO + _BEHIND_M
    seen, index = seen[shown], index[shown]
    classes = np.full(len(points), IGNORE_ID, np.uint8)
    classes[seen] = labels.reshape(-1)[index]
    sure = np.zeros(len(points), np.uint8)
    sure[seen] = confidence.reshape(-1)[index]
    return SemanticPoints(scan.points_m, classes, sure)


def depth_of_pixels(
    camera: CameraModel,
    depth: tuple[DepthFrame, CameraModel, RigidTransform] | None,
    lidar: tuple[LidarScan, RigidTransform] | None,
) -> npt.NDArray[np.float32]:
    """Distance along the optical axis for the pixels of a camera, where a sensor knows it.

    Depth images and scans are projected, the nearest wins; a scan counts only where depth has nothing.

    Args:
        camera: ideal pinhole camera of the pixels, in the grid's frame.
        depth: a frame with its intrinsics and ``grid_from_depth``, if there is one.
        lidar: a scan with its ``grid_from_lidar``, if there is one.

    Returns:
        float32[H, W], metres; NaN where nothing is known.

    Raises:
        ModalityError: if the depth image has another aspect ratio than its intrinsics.
    """
    z = np.full((camera.height, camera.width), np.nan, np.float32)
    if lidar is not None:
        _draw_nearest(z, lidar[1].apply(lidar[0].points_m), camera)
    if depth is not None:
        depth_m = depth[0].depth_m
        source = camera_for_image(depth[1], depth_m.shape[1], depth_m.shape[0], "depth")
        valid = np.isfinite(depth_m) & (depth_m > 0)
        points = _rays(source)[valid] * depth_m[valid, None]
        _draw_nearest(z, depth[2].apply(points), camera)
    return z


@lru_cache(maxsize=4)
def _rays(camera: CameraModel) -> FloatArray:
    return camera.rays()


def points_of_pixels(z: npt.NDArray[np.float32], camera: CameraModel) -> npt.NDArray[np.float32]:
    """Points float32[H, W, 3] (metres, camera frame) of pixels with known depth; NaN elsewhere."""
    points: npt.NDArray[np.float32] = _rays(camera) * z[..., None]
    return points


def _pixels(
    points: FloatArray, camera: CameraModel, shape: tuple[int, ...]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(flat pixel index, index of the point) of the points that fall into the picture."""
    ahead = np.flatnonzero(points[:, 2] > NEAREST_M)
    pixels = np.floor(camera.project(points[ahead]) + 0.5)
    inside = ((pixels >= 0) & (pixels < np.array([shape[1], shape[0]]))).all(1)
    column, row = pixels[inside].astype(np.int64).T
    return row * shape[1] + column, ahead[inside]


def _draw_nearest(z: npt.NDArray[np.float32], points: FloatArray, camera: CameraModel) -> None:
    index, seen = _pixels(points, camera, z.shape)
    nearest = np.full(z.size, np.inf, np.float32)
    np.minimum.at(nearest, index, points[seen, 2])
    known = np.isfinite(nearest)
    z.reshape(-1)[known] = nearest[known]
