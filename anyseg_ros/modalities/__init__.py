"""Raw sensor data to modality images: one implementation for training and runtime."""

from __future__ import annotations

from anyseg_ros.modalities.calibration import (
    CalibrationError,
    CalibrationFile,
    RigCalibration,
    SensorCalibration,
    load_calibration,
    load_calibration_file,
    save_calibration,
)
from anyseg_ros.modalities.camera import CameraImageBuilder
from anyseg_ros.modalities.depth import DepthImageBuilder
from anyseg_ros.modalities.encoding import DEFAULT_ENCODINGS, EncodingSpec, window_s
from anyseg_ros.modalities.errors import ModalityError
from anyseg_ros.modalities.event import EventImageBuilder, join_packets
from anyseg_ros.modalities.geometry import (
    CameraModel,
    Letterbox,
    RigidTransform,
    SegmentationGrid,
)
from anyseg_ros.modalities.image import ModalityImageBuilder, SensorData, make_image_builder
from anyseg_ros.modalities.lidar import LidarImageBuilder
from anyseg_ros.modalities.sensor_data import CameraFrame, DepthFrame, EventPacket, LidarScan

__all__ = [
    "DEFAULT_ENCODINGS",
    "CalibrationError",
    "CalibrationFile",
    "CameraFrame",
    "CameraImageBuilder",
    "CameraModel",
    "DepthFrame",
    "DepthImageBuilder",
    "EncodingSpec",
    "EventImageBuilder",
    "EventPacket",
    "Letterbox",
    "LidarImageBuilder",
    "LidarScan",
    "ModalityError",
    "ModalityImageBuilder",
    "RigCalibration",
    "RigidTransform",
    "SegmentationGrid",
    "SensorCalibration",
    "SensorData",
    "join_packets",
    "load_calibration",
    "load_calibration_file",
    "make_image_builder",
    "save_calibration",
    "window_s",
]
