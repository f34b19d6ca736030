"""A small four-sensor rig: its calibration, its messages, and a bag of them."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import Header

from anyseg_ros.modalities import (
    CameraModel,
    RigCalibration,
    RigidTransform,
    SensorCalibration,
    save_calibration,
)
from anyseg_ros.modality import MODALITIES, Modality
from anyseg_ros.ros.messages import encode_camera_info, encode_image

CAMERA = CameraModel.from_fov(128, 64, 90.0)
DEPTH = CameraModel.from_fov(80, 60, 80.0)
EVENT = CameraModel.from_fov(64, 48, 90.0)
FRAMES = {m: f"{m.label}_frame" for m in MODALITIES}
# LiDAR frame: x forward, y left; grid: z forward, x right.
OPTICAL_FROM_BODY = (0.5, -0.5, 0.5, 0.5)
START_NS = 1_700_000_000_000_000_000
PERIOD_S = {Modality.CAMERA: 0.1, Modality.DEPTH: 0.1, Modality.EVENT: 0.04, Modality.LIDAR: 0.1}
DELAY_S = {
    Modality.CAMERA: 0.015,
    Modality.DEPTH: 0.02,
    Modality.EVENT: 0.003,
    Modality.LIDAR: 0.012,
}
TOPICS = {
    Modality.CAMERA: "/camera/image",
    Modality.DEPTH: "/depth/image",
    Modality.EVENT: "/events/points",
    Modality.LIDAR: "/lidar/points",
}


def calibration() -> RigCalibration:
    body = RigidTransform.from_quaternion(OPTICAL_FROM_BODY, (0.0, -0.3, 0.1))
    return RigCalibration(
        CAMERA,
        FRAMES[Modality.CAMERA],
        {
            Modality.CAMERA: SensorCalibration(
                FRAMES[Modality.CAMERA], RigidTransform.identity(), CAMERA
            ),
            Modality.DEPTH: SensorCalibration(
                FRAMES[Modality.DEPTH],
                RigidTransform.from_quaternion((0, 0, 0, 1), (0.05, 0, 0)),
                DEPTH,
            ),
            Modality.EVENT: SensorCalibration(
                FRAMES[Modality.EVENT],
                RigidTransform.from_quaternion((0, 0, 0, 1), (-0.05, 0, 0)),
                EVENT,
            ),
            Modality.LIDAR: SensorCalibration(FRAMES[Modality.LIDAR], body),
        },
    )


def write_calibration(folder: Path) -> Path:
    path = folder / "calibration.yaml"
    save_calibration(calibration(), path)
    return path


def header(modality: Modality, stamp_ns: int) -> Header:
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    return Header(stamp=Time(sec=seconds, nanosec=nanoseconds), frame_id=FRAMES[modality])


def camera_image(stamp_ns: int, value: int = 120) -> Image:
    picture = np.full((64, 128, 3), value, np.uint8)
    picture[::7] = stamp_ns // 1_000_000 % 256
    return encode_image(picture, "rgb8", stamp_ns, FRAMES[Modality.CAMERA])


def compressed_image(stamp_ns: int) -> CompressedImage:
    picture = np.full((64, 128, 3), 120, np.uint8)
    message = CompressedImage(header=header(Modality.CAMERA, stamp_ns), format="jpeg")
    message.data.frombytes(cv2.imencode(".jpg", picture)[1].tobytes())
    return message


def depth_image(stamp_ns: int) -> Image:
    depth = np.full((60, 80), 8000, np.uint16)
    depth[::5] = 3000 + stamp_ns // 1_000_000 % 1000
    return encode_image(depth, "16UC1", stamp_ns, FRAMES[Modality.DEPTH])


def compressed_depth(stamp_ns: int) -> CompressedImage:
    message = CompressedImage(
        header=header(Modality.DEPTH, stamp_ns), format="16UC1; compressedDepth png"
    )
    picture = cv2.imencode(".png", np.full((60, 80), 8000, np.uint16))[1].tobytes()
    message.data.frombytes(struct.pack("<iff", 0, 0.0, 0.0) + picture)
    return message


def cloud(
    modality: Modality, stamp_ns: int, points: np.ndarray, kinds: dict[str, tuple[int, int]]
) -> PointCloud2:
    """``points`` structured, ``kinds``: field name to (PointField type, offset)."""
    message = PointCloud2(
        header=header(modality, stamp_ns),
        height=1,
        width=len(points),
        fields=[
            PointField(name=name, offset=offset, datatype=kind, count=1)
            for name, (kind, offset) in kinds.items()
        ],
        point_step=points.dtype.itemsize,
        row_step=points.dtype.itemsize * len(points),
        is_dense=True,
    )
    message.data.frombytes(points.tobytes())
    return message


LIDAR_FIELDS = {"x": (7, 0), "y": (7, 4), "z": (7, 8), "intensity": (7, 12)}
EVENT_FIELDS = {"x": (4, 0), "y": (4, 2), "t": (6, 4), "p": (2, 8)}
EVENT_DTYPE = np.dtype([("x", "<u2"), ("y", "<u2"), ("t", "<u4"), ("p", "u1")])


def lidar_cloud(stamp_ns: int, count: int = 500) -> PointCloud2:
    rng = np.random.default_rng(stamp_ns)
    points = np.zeros(count, [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4")])
    # Rings of a scanner before a curved wall, as believable as a sensor's.
    azimuth, ring = np.linspace(-1.0, 1.0, 50), np.arange(count) // 50
    angle = azimuth[np.arange(count) % 50]
    distance = 12 + 4 * np.sin(3 * angle) + rng.normal(0, 0.02, count)
    points["x"], points["y"] = distance * np.cos(angle), distance * np.sin(angle)
    points["z"] = distance * (-0.1 + 0.03 * ring)
    points["intensity"] = rng.uniform(0, 1, count)
    return cloud(Modality.LIDAR, stamp_ns, points, LIDAR_FIELDS)


def event_cloud(stamp_ns: int, count: int = 300, span_s: float = 0.039) -> PointCloud2:
    rng = np.random.default_rng(stamp_ns)
    points = np.zeros(count, EVENT_DTYPE)
    points["x"] = rng.integers(0, EVENT.width, count)
    points["y"] = rng.integers(0, EVENT.height, count)
    points["t"] = np.linspace(0, span_s * 1e9, count).astype(np.uint32)
    points["p"] = rng.integers(0, 2, count)
    return cloud(Modality.EVENT, stamp_ns, points, EVENT_FIELDS)


MAKERS = {
    Modality.CAMERA: camera_image,
    Modality.DEPTH: depth_image,
    Modality.EVENT: event_cloud,
    Modality.LIDAR: lidar_cloud,
}


def camera_info(modality: Modality, stamp_ns: int) -> CameraInfo:
    camera = calibration().sensors[modality].camera
    return encode_camera_info(camera, stamp_ns, FRAMES[modality])


def write_bag(folder: Path, duration_s: float) -> Path:
    """A bag of all four sensors at their rates, log time = stamp + the sensor's latency."""
    path = folder / "bag"
    entries = []
    for modality in MODALITIES:
        period, delay = PERIOD_S[modality], DELAY_S[modality]
        # An event packet is stamped with its start and sent when it is full.
        full = period if modality is Modality.EVENT else 0.0
        for index in range(int(duration_s / period)):
            stamp = START_NS + int((index * period + 0.007 * modality) * 1e9)
            log_time = stamp + int((delay + full) * 1e9)
            entries.append((log_time, TOPICS[modality], MAKERS[modality](stamp)))
    entries.sort(key=lambda entry: entry[0])
    store = get_typestore(Stores.ROS2_KILTED)
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {}
        for log_time, topic, message in entries:
            if topic not in connections:
                package = type(message).__module__.split(".")[0]
                connections[topic] = writer.add_connection(
                    topic, f"{package}/msg/{type(message).__name__}", typestore=store
                )
            writer.write(connections[topic], log_time, serialize_message(message))
    return path
