"""Depth frames to modality images, registered to the grid or reprojected into it."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from anyseg_ros.modalities.calibration import SensorCalibration
from anyseg_ros.modalities.encoding import EncodingSpec, resolve_settings
from anyseg_ros.modalities.errors import ModalityError
from anyseg_ros.modalities.geometry import (
    CameraModel,
    FloatArray,
    RigidTransform,
    SegmentationGrid,
)
from anyseg_ros.modalities.projection import (
    NearestPoints,
    camera_for_image,
    drawn_planes,
    inverse_log,
    is_registered,
    linear_byte,
    splat_size,
)
from anyseg_ros.modalities.sensor_data import DepthFrame
from anyseg_ros.modality import Modality

_NEAREST_M = 1e-3


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
        self._reprojection: _Reprojection | None = None
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
            channels = self._encode(
                placed, -placed * self._grid_slope_y, self._grid.letterbox.content
            )
            return np.asarray(cv2.merge(channels), np.uint8)

        reprojection = self._reprojection  # images of two sizes may be built at the same time
        if reprojection is None or reprojection.camera != camera:
            reprojection = _Reprojection(camera, self._grid, self._sensor.grid_from_sensor)
            self._reprojection = reprojection
        where, metres, height_m, farthest_m = reprojection(depth)
        return drawn_planes(
            where, self._encode(metres, height_m, farthest_m=farthest_m), self._grid
        )

    def _encode(
        self,
        depth_m: FloatArray,
        height_m: FloatArray,
        content: tuple[slice, slice] | None = None,
        farthest_m: float = 0.0,
    ) -> list[npt.NDArray[np.uint8]]:
        """``[...]`` metres to three channels of uint8 ``[...]``.

        Args:
            content: the part that an image fills; ``None`` for reprojected points.
            farthest_m: of all reprojected points, those that others hide too.
        """
        settings = self._settings
        if self._name == "minmax":
            # Reprojected points leave gaps, which count as a depth of 0.
            gray = (
                linear_byte(depth_m, 0.0, farthest_m)
                if content is None
                else minmax(depth_m, within=content)
            )
            return [gray, gray, gray]
        near = inverse_log(depth_m, settings["min_m"], settings["max_m"])
        if self._name == "inverse_log":
            return [near, near, near]
        up = linear_byte(height_m, settings["min_height_m"], settings["max_height_m"])
        return [near, np.where(near > 0, up, np.uint8(0)), near]


class _Reprojection:
    """Moves the pixels of one camera's depth images into the grid, by what is known before an image is."""

    def __init__(
        self, camera: CameraModel, grid: SegmentationGrid, grid_from_sensor: RigidTransform
    ) -> None:
        self.camera = camera
        target = grid.input_camera
        self._shape = (target.height, target.width)
        self._size = splat_size(camera, grid)
        # Rotation and intrinsics at once: a pixel's place times its depth is linear in its sensor's depth.
        turned = camera.rays().reshape(-1, 3).astype(np.float64) @ grid_from_sensor.rotation.T
        self._rows = np.ascontiguousarray((turned @ target.matrix.T).T, np.float32)
        self._offsets = [float(o) for o in target.matrix @ grid_from_sensor.translation]
        self._down = np.ascontiguousarray(turned[:, 1], np.float32)
        self._down_offset = float(grid_from_sensor.translation[1])

    def __call__(
        self, depth: FloatArray
    ) -> tuple[npt.NDArray[np.int64], FloatArray, FloatArray, float]:
        """Reproject ``depth`` float[h, w] in metres.

        Returns:
            int64[K], the grid's pixels that show something, as indices into its flat picture; float[K], their
            depth in the grid; float[K], their height over its optical centre; the largest depth of all
            points, hidden ones included. In metres.
        """
        metres = depth.ravel().astype(np.float32, copy=False)
        canvas = NearestPoints(self._shape, self._size)
        farthest = 0.0
        for start in range(0, len(metres), canvas.CHUNK):
            part = slice(start, start + canvas.CHUNK)
            near = metres[part]
            with np.errstate(all="ignore"):  # where there is no depth
                across, down, away = (
                    row[part] * near + np.float32(offset)
                    for row, offset in zip(self._rows, self._offsets, strict=True)
                )
                inverse = 1 / away
                across *= inverse
                down *= inverse
            valid = near > 0
            valid &= near < np.inf
            valid &= away > _NEAREST_M
            canvas.draw(across, down, away, valid)
            farthest = max(farthest, float(away.max(initial=0.0, where=valid)))
        where, which = canvas.visible()
        shown = metres.take(which)
        away = self._rows[2].take(which) * shown + np.float32(self._offsets[2])
        height = -(self._down.take(which) * shown + np.float32(self._down_offset))
        return where, away, height, farthest


def minmax(depth: FloatArray, within: tuple[slice, slice] | None = None) -> npt.NDArray[np.uint8]:
    """Depth between the image's least and greatest value to 1..255; 0 where there is none.

    As M3L (arXiv 2304.10756) reads depth: a pixel without valid depth takes part with a depth of 0.

    Args:
        depth: any unit; 0, NaN and infinity are invalid.
        within: the part of ``depth`` that is the image.
    """
    valid = np.isfinite(depth) & (depth > 0)
    if not valid.any():
        return np.zeros(depth.shape, np.uint8)
    full = bool(valid[within or ...].all())
    low = float(depth[valid].min()) if full else 0.0
    high = max(float(depth[valid].max()), low + 1e-3)
    return linear_byte(depth, low, high) * valid.astype(np.uint8)
