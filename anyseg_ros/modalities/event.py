"""Events to modality images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from anyseg_ros.modalities.calibration import SensorCalibration
from anyseg_ros.modalities.camera import ImageWarper
from anyseg_ros.modalities.encoding import EncodingSpec, resolve_settings
from anyseg_ros.modalities.errors import ModalityError
from anyseg_ros.modalities.geometry import CameraModel, SegmentationGrid
from anyseg_ros.modalities.projection import (
    RotationWarp,
    is_registered,
    linear_byte,
    shrunk_camera,
)
from anyseg_ros.modalities.sensor_data import CameraFrame, EventPacket
from anyseg_ros.modality import Modality


def join_packets(packets: Sequence[EventPacket]) -> EventPacket:
    """One packet with the events of several, in their order; none gives an empty packet."""
    if len(packets) == 1:
        return packets[0]
    empty = np.empty(0, np.int64)
    return EventPacket(
        np.concatenate([p.x for p in packets] or [empty.astype(np.uint16)]),
        np.concatenate([p.y for p in packets] or [empty.astype(np.uint16)]),
        np.concatenate([p.polarity for p in packets] or [empty.astype(np.uint8)]),
        np.concatenate([p.stamp_ns for p in packets] or [empty]),
    )


def _not_larger(camera: CameraModel, grid: SegmentationGrid) -> CameraModel:
    """The camera, with an image no larger than the place that it takes in the grid."""
    box = grid.letterbox
    return camera.resized(
        min(camera.width, box.content_width), min(camera.height, box.content_height)
    )


def _larger_pixels(size: int, counted: int) -> npt.NDArray[np.int64]:
    """Which of ``counted`` pixels each of a line of ``size`` pixels belongs to, int64[size]."""
    return np.arange(size) * counted // size


def elevation_image(grid: SegmentationGrid) -> npt.NDArray[np.uint8]:
    """Elevation of each pixel's ray over the grid's horizontal plane, uint8[H, W].

    -45 degrees is 1, 45 degrees and more 255, the letterbox's border 0.
    """
    rays = grid.input_camera.rays()
    elevation = np.arctan2(-rays[..., 1], np.hypot(rays[..., 0], rays[..., 2]))
    image = np.zeros(elevation.shape, np.uint8)
    image[grid.letterbox.content] = linear_byte(elevation, -np.pi / 4, np.pi / 4)[
        grid.letterbox.content
    ]
    return image


class EventImageBuilder:
    """Encodings of the events in the window ``(end - window_s, end]``, counted per pixel.

    - ``polarity_counts``: red counts brighter, blue darker, ``255 * min(n, saturation) / saturation``;
      green is 0. The counts are warped into the grid by rotation and intrinsics. A still scene gives
      an empty picture.
    - ``polarity_counts_elevation``: green is the elevation of each pixel's ray instead, -45 degrees
      (1) to 45 (255), for a level camera. Events are edges, and few: where in the view an edge lies
      is most of what it says, and a network without position embedding cannot know it from a crop.
    - ``signed_count_elevation_recency``, counted in pixels of the sensor or, where those are finer, of
      the grid's size: red is ``128 + 127 * clip(n, -saturation, saturation) /
      saturation`` of brighter less darker events; green the elevation; blue the recency of the newest
      event, from 1 at the window's start to 255 at its end. The slope of the recency is the edge's
      speed, hence, on a moving robot, its distance. 0 where there was no event.
    """

    def __init__(
        self, spec: EncodingSpec, grid: SegmentationGrid, sensor: SensorCalibration
    ) -> None:
        self._settings = resolve_settings(Modality.EVENT, spec)
        self._grid = grid
        self._camera = sensor.camera or grid.camera
        self._warp_image = ImageWarper(grid, sensor, "event")
        self._signed = spec.name == "signed_count_elevation_recency"
        registered = is_registered(self._camera, grid, sensor.grid_from_sensor)
        # Between "no event" and a signed count or a time lies no meaningful mean: such pictures are not
        # interpolated, and events of a sensor finer than the grid are counted in pixels as large as its.
        self._counted = self._camera
        if self._signed:
            self._counted = (
                _not_larger(self._camera, grid)
                if registered
                else shrunk_camera(self._camera, grid, finest=1.0)
            )
        interpolation = cv2.INTER_NEAREST if self._signed else cv2.INTER_LINEAR
        self._shrink = cv2.INTER_NEAREST if self._signed else cv2.INTER_AREA
        self._warp = (
            None
            if registered
            else RotationWarp(
                self._counted, grid, sensor.grid_from_sensor, interpolation, shrink=not self._signed
            )
        )
        if self._signed:
            self._columns = _larger_pixels(self._camera.width, self._counted.width)
            self._rows = _larger_pixels(self._camera.height, self._counted.height)
            saturation = self._settings["saturation"]
            most = math.ceil(saturation)
            signed = np.clip(np.arange(-most, most + 1), -saturation, saturation)
            self._levels = np.rint(128 + 127 / saturation * signed).astype(np.uint8)
        self._elevation = elevation_image(grid) if "elevation" in spec.name else None

    @property
    def window_ns(self) -> int:
        return int(self._settings["window_s"] * 1e9)

    def build(self, data: EventPacket | CameraFrame, end_stamp_ns: int) -> npt.NDArray[np.uint8]:
        """uint8[H, W, 3] in the grid's input.

        Args:
            data: events, or a picture rendered from events elsewhere, which is only warped.
            end_stamp_ns: end of the window; the anchor's stamp.

        Raises:
            ModalityError: if an event lies outside the calibrated sensor.
        """
        if isinstance(data, CameraFrame):
            return self._with_elevation(self._warp_image(data.image))
        width, height = self._camera.width, self._camera.height
        keep = (data.stamp_ns > end_stamp_ns - self.window_ns) & (data.stamp_ns <= end_stamp_ns)
        x, y, polarity = data.x[keep], data.y[keep], data.polarity[keep]
        if len(x) and (x.max() >= width or y.max() >= height):
            raise ModalityError(
                f"event at ({x.max()}, {y.max()}) lies outside the calibrated sensor, "
                f"{width}x{height}"
            )
        if self._signed:
            age = (end_stamp_ns - data.stamp_ns[keep]) / self.window_ns
            image = self._signed_image(x, y, polarity, age)
        else:
            pixel = y.astype(np.int64) * width + x
            index = np.where(polarity == 0, height * width, 0) + pixel
            counts = np.bincount(index, minlength=2 * height * width).reshape(2, height, width)
            scale = 255.0 / self._settings["saturation"]
            most = int(np.ceil(255.0 / scale))
            levels = np.minimum(np.arange(most + 1) * scale + 0.5, 255).astype(np.uint8)
            level = levels.take(np.minimum(counts, most))
            image = np.stack([level[0], np.zeros_like(level[0]), level[1]], -1)
        if self._warp is not None:
            return self._with_elevation(self._warp(image))
        return self._with_elevation(self._grid.letterbox.place(image, self._shrink))

    def _signed_image(
        self,
        x: npt.NDArray[np.unsignedinteger],
        y: npt.NDArray[np.unsignedinteger],
        polarity: npt.NDArray[np.uint8],
        age: npt.NDArray[np.float64],
    ) -> npt.NDArray[np.uint8]:
        """uint8[h, w, 3] in the sensor's view, at the size at which events are counted.

        Args:
            x: column of each event in the sensor.
            y: its row.
            polarity: 0 where it became darker.
            age: before the window's end, in windows.
        """
        width, height = self._counted.width, self._counted.height
        image = np.zeros((height * width, 3), np.uint8)
        pixel = self._rows.take(y) * width + self._columns.take(x)
        # Only pixels with events are touched, as most have none.
        signed = np.zeros(height * width, np.int32)
        np.add.at(signed, pixel, np.where(polarity == 0, np.int32(-1), np.int32(1)))
        most = len(self._levels) // 2
        image[pixel, 0] = self._levels.take(signed.take(pixel) + most, mode="clip")
        recency = np.zeros(height * width, np.uint8)
        np.maximum.at(recency, pixel, (1 + 254 * (1 - age)).astype(np.uint8))
        image[pixel, 2] = recency.take(pixel)
        return image.reshape(height, width, 3)

    def _with_elevation(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        if self._elevation is None:
            return image
        image = image.copy()  # a picture that was not warped is still the caller's
        image[..., 1] = self._elevation
        return image
