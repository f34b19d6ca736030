"""LiDAR scans to modality images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from anyseg_ros.modalities.calibration import SensorCalibration
from anyseg_ros.modalities.encoding import EncodingSpec, resolve_settings
from anyseg_ros.modalities.errors import ModalityError
from anyseg_ros.modalities.geometry import FloatArray, SegmentationGrid
from anyseg_ros.modalities.projection import (
    NearestPoints,
    drawn_planes,
    inverse_log,
    linear_byte,
)
from anyseg_ros.modalities.sensor_data import LidarScan
from anyseg_ros.modality import Modality

_NEAREST_M = 0.1


class LidarImageBuilder:
    """Encoding ``range_height_intensity``: points drawn into the grid, the nearest on top.

    Channels: inverse log range; height over the grid's optical centre along its vertical axis;
    intensity. Pixels without a point are 0.
    """

    def __init__(
        self, spec: EncodingSpec, grid: SegmentationGrid, sensor: SensorCalibration
    ) -> None:
        self._settings = resolve_settings(Modality.LIDAR, spec)
        self._grid = grid
        self._camera = grid.input_camera
        self._grid_from_sensor = sensor.grid_from_sensor

    def build(self, scan: LidarScan) -> npt.NDArray[np.uint8]:
        """uint8[H, W, 3] in the grid's input.

        Raises:
            ModalityError: if points and intensities are not float[N, 3] and float[N].
        """
        if scan.points_m.ndim != 2 or scan.points_m.shape[1] != 3:
            raise ModalityError(f"LiDAR points must be [N, 3], got {scan.points_m.shape}")
        if scan.intensity.shape != scan.points_m.shape[:1]:
            raise ModalityError(
                f"{len(scan.points_m)} LiDAR points but intensities {scan.intensity.shape}"
            )
        settings = self._settings
        camera = self._camera
        size = (int(settings["splat_width_px"]), int(settings["splat_height_px"]))
        canvas = NearestPoints((camera.height, camera.width), size)
        drawn: list[tuple[FloatArray, FloatArray, FloatArray]] = []
        for start in range(0, max(len(scan.points_m), 1), canvas.CHUNK):
            part = slice(start, start + canvas.CHUNK)
            x, y, z = self._grid_from_sensor.apply(scan.points_m[part]).T
            # Most of a scan lies behind the camera. A NaN or an infinity anywhere reaches the sum.
            with np.errstate(all="ignore"):
                ahead = np.flatnonzero((z > _NEAREST_M) & np.isfinite(x + y + z))
                x, y, z = points = np.stack([axis.take(ahead) for axis in (x, y, z)])
                distance = np.sqrt(x * x + y * y + z * z)
                pixels = camera.project(points.T)
            canvas.draw(pixels[:, 0], pixels[:, 1], distance)
            drawn.append((distance, y, scan.intensity[part][ahead]))
        where, which = canvas.visible()
        distance, down, intensity = (
            np.concatenate(column).take(which) for column in zip(*drawn, strict=True)
        )
        channels = [
            inverse_log(distance, settings["min_m"], settings["max_m"]),
            linear_byte(-down, settings["min_height_m"], settings["max_height_m"]),
            linear_byte(intensity, 0.0, 1.0),
        ]
        return drawn_planes(where, channels, self._grid)
