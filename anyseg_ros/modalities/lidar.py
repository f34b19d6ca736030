"""LiDAR scans to modality images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from anyseg_ros.modalities.calibration import SensorCalibration
from anyseg_ros.modalities.encoding import EncodingSpec, resolve_settings
from anyseg_ros.modalities.errors import ModalityError
from anyseg_ros.modalities.geometry import SegmentationGrid
from anyseg_ros.modalities.projection import inverse_log, linear_byte, splat
from anyseg_ros.modalities.sensor_data import LidarScan
from anyseg_ros.modality import Modality


class LidarImageBuilder:
    """Encoding ``range_height_intensity``: points drawn into the grid, the nearest on top.

    Channels: inverse log range; height over the grid's optical centre along its vertical axis;
    intensity. Pixels without a point are 0.
    """

    def __init__(
        self, spec: EncodingSpec, grid: SegmentationGrid, sensor: SensorCalibration
    ) -> None:
        self._settings = resolve_settings(Modality.LIDAR, spec)
        self._camera = grid.input_camera
        self._content = grid.letterbox.content
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
        points = self._grid_from_sensor.apply(scan.points_m)
        x, y, z = points.T
        # Behind the grid's camera, or no number: a NaN or an infinity anywhere reaches the sum.
        with np.errstate(invalid="ignore", over="ignore"):
            ahead = (z > 0.1) & np.isfinite(x + y + z)
        points, intensity = points.T[:, ahead].T, scan.intensity[ahead]
        distance = np.sqrt(np.square(points.T).sum(0))
        values = np.stack(
            [
                inverse_log(distance, settings["min_m"], settings["max_m"]),
                linear_byte(-points[:, 1], settings["min_height_m"], settings["max_height_m"]),
                linear_byte(intensity, 0.0, 1.0),
            ]
        ).T
        image = splat(
            self._camera.project(points),
            distance,
            values,
            (self._camera.height, self._camera.width),
            (int(settings["splat_width_px"]), int(settings["splat_height_px"])),
        )
        canvas = np.zeros_like(image)
        canvas[self._content] = image[self._content]
        return canvas
