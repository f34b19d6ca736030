"""Camera frames to modality images."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from anyseg_ros.modalities.calibration import SensorCalibration
from anyseg_ros.modalities.encoding import EncodingSpec, resolve_settings
from anyseg_ros.modalities.errors import ModalityError
from anyseg_ros.modalities.geometry import SegmentationGrid
from anyseg_ros.modalities.projection import RotationWarp, camera_for_image, is_registered
from anyseg_ros.modalities.sensor_data import CameraFrame
from anyseg_ros.modality import Modality


class ImageWarper:
    """Brings pictures of one camera into the grid: scaled if already registered, else warped.

    A sensor without intrinsics is taken to be the grid's own camera.
    """

    def __init__(self, grid: SegmentationGrid, sensor: SensorCalibration, what: str) -> None:
        self._grid = grid
        self._sensor = sensor
        self._what = what
        self._warps: dict[tuple[int, int], RotationWarp | None] = {}

    def __call__(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """uint8[h, w, 3] of the sensor to uint8[H, W, 3] of the grid's input."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ModalityError(
                f"{self._what} image must be uint8 [H, W, 3], got {image.dtype} {image.shape}"
            )
        size = (image.shape[1], image.shape[0])
        warps = self._warps  # another thread may be at an image of another size
        if size not in warps:
            if len(warps) > 3:  # a driver that changes its size for ever must not fill memory
                warps = self._warps = {}
            warps[size] = self._make_warp(*size)
        warp = warps[size]
        if warp is not None:
            return warp(image)
        box = self._grid.letterbox
        smaller = box.content_width < size[0]
        return box.place(image, cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)

    def _make_warp(self, width: int, height: int) -> RotationWarp | None:
        camera = camera_for_image(
            self._sensor.camera or self._grid.camera, width, height, self._what
        )
        if is_registered(camera, self._grid, self._sensor.grid_from_sensor):
            return None
        return RotationWarp(camera, self._grid, self._sensor.grid_from_sensor, cv2.INTER_LINEAR)


class CameraImageBuilder:
    """Encoding ``rgb``: the picture itself, undistorted into the grid."""

    def __init__(
        self, spec: EncodingSpec, grid: SegmentationGrid, sensor: SensorCalibration
    ) -> None:
        resolve_settings(Modality.CAMERA, spec)
        self._warp = ImageWarper(grid, sensor, "camera")

    def build(self, frame: CameraFrame) -> npt.NDArray[np.uint8]:
        """uint8[H, W, 3] RGB in the grid's input."""
        return self._warp(frame.image)
