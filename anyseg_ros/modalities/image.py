"""One door to the image builders of all modalities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from anyseg_ros.modalities.calibration import SensorCalibration
from anyseg_ros.modalities.camera import CameraImageBuilder
from anyseg_ros.modalities.depth import DepthImageBuilder
from anyseg_ros.modalities.encoding import EncodingSpec
from anyseg_ros.modalities.errors import ModalityError
from anyseg_ros.modalities.event import EventImageBuilder
from anyseg_ros.modalities.geometry import SegmentationGrid
from anyseg_ros.modalities.lidar import LidarImageBuilder
from anyseg_ros.modalities.sensor_data import CameraFrame, DepthFrame, EventPacket, LidarScan
from anyseg_ros.modality import Modality

SensorData = CameraFrame | DepthFrame | EventPacket | LidarScan

_ACCEPTED: dict[Modality, tuple[type, ...]] = {
    Modality.CAMERA: (CameraFrame,),
    Modality.DEPTH: (DepthFrame,),
    Modality.EVENT: (EventPacket, CameraFrame),
    Modality.LIDAR: (LidarScan,),
}
_BUILDERS: dict[Modality, Callable[..., Any]] = {
    Modality.CAMERA: CameraImageBuilder,
    Modality.DEPTH: DepthImageBuilder,
    Modality.EVENT: EventImageBuilder,
    Modality.LIDAR: LidarImageBuilder,
}


class ModalityImageBuilder(Protocol):
    """Builds one sensor's modality images."""

    def build(self, data: SensorData, end_stamp_ns: int) -> npt.NDArray[np.uint8]:
        """uint8[H, W, 3] in the grid's input; ``end_stamp_ns`` is the anchor's stamp (events only)."""
        ...


class _UniformBuilder:
    """Adapts the builders, which differ in what they take, to one call."""

    def __init__(
        self,
        modality: Modality,
        spec: EncodingSpec,
        grid: SegmentationGrid,
        sensor: SensorCalibration,
    ) -> None:
        self._modality = modality
        self._builder: Any = _BUILDERS[modality](spec, grid, sensor)

    def build(self, data: SensorData, end_stamp_ns: int) -> npt.NDArray[np.uint8]:
        if not isinstance(data, _ACCEPTED[self._modality]):
            raise ModalityError(
                f"{self._modality.label} takes "
                f"{' or '.join(t.__name__ for t in _ACCEPTED[self._modality])}, "
                f"got {type(data).__name__}"
            )
        if self._modality is Modality.EVENT:
            return self._builder.build(data, end_stamp_ns)
        return self._builder.build(data)


def make_image_builder(
    modality: Modality, spec: EncodingSpec, grid: SegmentationGrid, sensor: SensorCalibration
) -> ModalityImageBuilder:
    """The builder of a modality's images.

    Args:
        spec: encoding and settings, as the model card names them.
        grid: where the image is to lie.
        sensor: where the sensor sits.

    Raises:
        ModalityError: if the encoding is unknown, or has unknown settings.
    """
    return _UniformBuilder(modality, spec, grid, sensor)
