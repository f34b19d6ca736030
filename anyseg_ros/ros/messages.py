"""ROS messages to raw sensor data (see :mod:`anyseg_ros.decoding`), and results to ROS messages."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from anyseg_ros.decoding import (
    MAX_PIXELS,
    MAX_POINTS,
    MessageError,
    decode_camera_info,
    decode_compressed_depth,
    decode_compressed_image,
    decode_depth_image,
    decode_event_cloud,
    decode_image,
    decode_lidar,
    stamp_ns,
)
from anyseg_ros.modalities.geometry import CameraModel
from anyseg_ros.ros.stand_ins import CvBridge

__all__ = [
    "MAX_PIXELS",
    "MAX_POINTS",
    "MessageError",
    "decode_camera_info",
    "decode_compressed_depth",
    "decode_compressed_image",
    "decode_depth_image",
    "decode_event_cloud",
    "decode_image",
    "decode_lidar",
    "encode_camera_info",
    "encode_image",
    "header",
    "stamp_ns",
]

_NS = 1_000_000_000
_BRIDGE = CvBridge()


def header(stamp: int, frame_id: str) -> Any:
    """``std_msgs/Header`` of a stamp in nanoseconds."""
    from std_msgs.msg import Header

    message = Header()
    message.stamp.sec, message.stamp.nanosec = divmod(stamp, _NS)
    message.frame_id = frame_id
    return message


def encode_image(image: npt.NDArray[Any], encoding: str, stamp: int, frame_id: str) -> Any:
    """``sensor_msgs/Image`` of ``uint8[H, W]`` (mono8) or ``uint8[H, W, 3]`` (bgr8, rgb8).

    Args:
        stamp: nanoseconds.
    """
    return _BRIDGE.cv2_to_imgmsg(np.ascontiguousarray(image), encoding, header(stamp, frame_id))


def encode_camera_info(camera: CameraModel, stamp: int, frame_id: str) -> Any:
    """``sensor_msgs/CameraInfo`` of a pinhole camera; stamp in nanoseconds."""
    from sensor_msgs.msg import CameraInfo

    message = CameraInfo(header=header(stamp, frame_id), width=camera.width, height=camera.height)
    message.k = [float(v) for v in camera.matrix.ravel()]
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [camera.fx, 0.0, camera.cx, 0.0, 0.0, camera.fy, camera.cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    message.distortion_model = camera.distortion_model or "plumb_bob"
    message.d = list(camera.distortion) or [0.0] * 5
    return message
