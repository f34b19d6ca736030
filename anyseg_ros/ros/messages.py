"""ROS messages to raw sensor data (see :mod:`anyseg_ros.decoding`), and results to ROS messages."""

from __future__ import annotations

import array
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from anyseg_ros.classes import ClassSet
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
from anyseg_ros.ros.stand_ins import CvBridge, point_cloud2
from anyseg_ros.semantic_points import SemanticPoints

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
    "encode_label_info",
    "encode_pixel_points",
    "encode_semantic_points",
    "header",
    "stamp_ns",
]

_NS = 1_000_000_000
_BRIDGE = CvBridge()
_SEMANTIC_POINT = np.dtype(
    [
        ("x", "<f4"),
        ("y", "<f4"),
        ("z", "<f4"),
        ("rgb", "<f4"),
        ("class_id", "u1"),
        ("confidence", "u1"),
    ]
)


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


def encode_label_info(classes: ClassSet, stamp: int, frame_id: str) -> Any:
    """``vision_msgs/LabelInfo``: the class ids of the mask and their names; stamp in nanoseconds.

    Raises:
        ImportError: if ``vision_msgs`` is not installed.
    """
    from vision_msgs.msg import LabelInfo, VisionClass

    return LabelInfo(
        header=header(stamp, frame_id),
        class_map=[
            VisionClass(class_id=i, class_name=name) for i, name in enumerate(classes.names)
        ],
        threshold=0.0,
    )


def encode_semantic_points(
    points: SemanticPoints, classes: ClassSet, stamp: int, frame_id: str
) -> Any:
    """``sensor_msgs/PointCloud2`` of points with class and confidence; stamp in nanoseconds.

    Fields: x, y, z (float32, metres), rgb (the class colour as PCL and RViz pack it into a float32),
    class_id (uint8, 255 for none), confidence (uint8, 255 times the probability).
    """
    packed = np.empty(len(points.labels), _SEMANTIC_POINT)
    for column, axis in enumerate("xyz"):
        packed[axis] = points.points_m[:, column]
    colours = classes.colorize(points.labels).astype(np.uint32)
    packed["rgb"] = (colours[:, 0] << 16 | colours[:, 1] << 8 | colours[:, 2]).view(np.float32)
    packed["class_id"] = points.labels
    packed["confidence"] = points.confidence
    return point_cloud2.create_cloud(header(stamp, frame_id), _fields(_SEMANTIC_POINT), packed)


def encode_pixel_points(points: npt.NDArray[np.float32], stamp: int, frame_id: str) -> Any:
    """Organized ``sensor_msgs/PointCloud2`` of float32[H, W, 3]; stamp in nanoseconds."""
    from sensor_msgs.msg import PointCloud2

    height, width = points.shape[:2]
    layout = np.dtype([(axis, "<f4") for axis in "xyz"])
    cloud = PointCloud2(
        header=header(stamp, frame_id),
        height=height,
        width=width,
        fields=_fields(layout),
        is_bigendian=sys.byteorder != "little",
        point_step=layout.itemsize,
        row_step=layout.itemsize * width,
        is_dense=False,
    )
    # Set after construction: the constructor checks every byte.
    cloud.data = array.array("B", np.ascontiguousarray(points, np.float32).tobytes())
    return cloud


def _fields(layout: np.dtype[Any]) -> list[Any]:
    from sensor_msgs.msg import PointField

    assert layout.fields is not None
    kinds = {np.dtype("<f4"): PointField.FLOAT32, np.dtype("u1"): PointField.UINT8}
    return [
        PointField(name=name, offset=offset, datatype=kinds[kind], count=1)
        for name, (kind, offset, *_) in layout.fields.items()
    ]
