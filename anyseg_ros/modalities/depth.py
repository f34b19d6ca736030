"""Depth frames to modality images, registered to the grid or reprojected into it."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from anyseg_ros.modalities.calibration import SensorCalibration
from anyseg_ros.modalities.encoding import EncodingSpec, resolve_settings
from anyseg_ros.modalities.errors import ModalityError
from anyseg_ros.modalities.geometry import FloatArray, SegmentationGrid
from anyseg_ros.modalities.projection import (
    camera_for_image,
    inverse_log,
    is_registered,
    linear_byte,
    splat,
    splat_size,
    visible_points,
)
from anyseg_ros.modalities.sensor_data import DepthFrame
from anyseg_ros.modality import Modality


class DepthImageBuilder:
    """Encodings of depth; a pixel without valid depth is 0 in every channel.

    - ``inverse_log``: three equal channels of :func:`~anyseg_ros.modalities.projection.inverse_log`.
    - ``inverse_log_height``: inverse log depth, height over the grid's optical centre along its
      vertical axis, inverse log depth.
    - ``minmax``: depth scaled between the image's own minimum and maximum, as M3L does: a pixel without
      valid depth counts as a depth of 0, which is the minimum then.
    """

    def __init__(
        self, spec: EncodingSpec, grid: SegmentationGrid, sensor: SensorCalibration
    ) -> None:
        self._settings = resolve_settings(Modality.DEPTH, spec)
        self._name = spec.name
        self._grid = grid
        self._sensor = sensor
        self._rays: dict[tuple[int, int], FloatArray] = {}
        self._grid_slope_y = grid.input_camera.rays()[..., 1]

    def build(self, frame: DepthFrame) -> npt.NDArray[np.uint8]:
        """uint8[H, W, 3] in the grid's input.

        Raises:
            ModalityError: if the frame is no float image of the calibrated aspect ratio.
        """
        depth = frame.depth_m
        if depth.ndim != 2 or not depth.size or not np.issubdtype(depth.dtype, np.floating):
            raise ModalityError(f"depth must be float [H, W], got {depth.dtype} {depth.shape}")
        height, width = depth.shape
        camera = camera_for_image(self._sensor.camera or self._grid.camera, width, height, "depth")
        if is_registered(camera, self._grid, self._sensor.grid_from_sensor):
            placed = self._grid.letterbox.place(depth, cv2.INTER_NEAREST)
            image = self._encode(placed, -placed * self._grid_slope_y, self._grid.letterbox.content)
            return np.ascontiguousarray(image)

        if (width, height) not in self._rays:
            rays = np.ascontiguousarray(camera.rays().reshape(-1, 3).T)
            self._rays = {(width, height): rays}
        metres = depth.ravel()
        rays = self._rays[width, height]
        valid = (metres > 0) & (metres < np.inf)
        if not valid.all():
            metres, rays = metres[valid], rays[:, valid]
        points = self._sensor.grid_from_sensor.apply((rays * metres).T)
        ahead = points[:, 2] > 1e-3
        if not ahead.all():
            points = points.T[:, ahead].T
        target = self._grid.input_camera
        metres, height_m = points[:, 2], -points[:, 1]
        shape, size = (target.height, target.width), splat_size(camera, self._grid)
        if self._name == "minmax":  # of all points, those that others hide too
            return splat(
                target.project(points), metres, self._encode(metres, height_m), shape, size
            )
        where, which = visible_points(target.project(points), metres, shape, size)
        picture = np.zeros((target.height * target.width, 3), np.uint8)
        picture[where] = self._encode(metres.take(which), height_m.take(which))
        return picture.reshape(*shape, 3)

    def _encode(
        self,
        depth_m: FloatArray,
        height_m: FloatArray,
        content: tuple[slice, slice] | None = None,
    ) -> npt.NDArray[np.uint8]:
        """``[...]`` metres to uint8 ``[..., 3]``; ``content`` is the part that an image fills."""
        settings = self._settings
        if self._name == "minmax":
            # Reprojected points leave gaps, which count as well.
            gray = minmax(depth_m, complete=content is not None, within=content)
            return _last([gray, gray, gray])
        near = inverse_log(depth_m, settings["min_m"], settings["max_m"])
        if self._name == "inverse_log":
            return _last([near, near, near])
        up = linear_byte(height_m, settings["min_height_m"], settings["max_height_m"])
        return _last([near, np.where(near > 0, up, np.uint8(0)), near])


def _last(channels: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """Channels as the last axis, each still contiguous in memory."""
    return np.moveaxis(np.stack(channels), 0, -1)


def minmax(
    depth: FloatArray, complete: bool = True, within: tuple[slice, slice] | None = None
) -> npt.NDArray[np.uint8]:
    """Depth between the image's least and greatest value to 1..255; 0 where there is none.

    As M3L (arXiv 2304.10756) reads depth: a pixel without valid depth takes part with a depth of 0.

    Args:
        depth: any unit; 0, NaN and infinity are invalid.
        complete: whether these are all pixels of the image; if not, some have no depth.
        within: the part of ``depth`` that is the image.
    """
    valid = np.isfinite(depth) & (depth > 0)
    if not valid.any():
        return np.zeros(depth.shape, np.uint8)
    full = complete and bool(valid[within or ...].all())
    low = float(depth[valid].min()) if full else 0.0
    high = max(float(depth[valid].max()), low + 1e-3)
    return linear_byte(depth, low, high) * valid.astype(np.uint8)
