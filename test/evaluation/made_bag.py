"""Small recordings of a four-sensor rig, written without ROS, with labels that the tiny model can meet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from tiny_model import LEVELS

from anyseg_ros.evaluation.bag import known_types
from anyseg_ros.modalities import CameraModel, RigidTransform
from anyseg_ros.modality import MODALITIES, Modality

TYPES = known_types()
CAMERA = CameraModel.from_fov(128, 64, 90.0)
DEPTH = CameraModel.from_fov(64, 48, 80.0)
EVENT = CameraModel.from_fov(64, 48, 90.0)
FRAMES = {m: f"{m.label}_frame" for m in MODALITIES}
START_NS = 1_700_000_000_000_000_000
PERIOD_S = {Modality.CAMERA: 0.1, Modality.DEPTH: 0.1, Modality.EVENT: 0.04, Modality.LIDAR: 0.1}
DELAY_S = {
    Modality.CAMERA: 0.015,
    Modality.DEPTH: 0.02,
    Modality.EVENT: 0.003,
    Modality.LIDAR: 0.012,
}
TOPICS = {
    Modality.CAMERA: "/camera/image/compressed",
    Modality.DEPTH: "/depth/image/compressedDepth",
    Modality.EVENT: "/events/points",
    Modality.LIDAR: "/lidar/points",
}
LABELS = "/ground_truth/labels"
EXTRINSICS = {
    Modality.DEPTH: RigidTransform.from_quaternion((0, 0, 0, 1), (0.05, 0, 0)),
    Modality.EVENT: RigidTransform.from_quaternion((0, 0, 0, 1), (-0.05, 0, 0)),
    # LiDAR frame: x forward, y left; grid: z forward, x right.
    Modality.LIDAR: RigidTransform.from_quaternion((0.5, -0.5, 0.5, 0.5), (0.0, -0.3, 0.1)),
}


def make(kind: str, /, **fields):
    return TYPES.types[kind](**fields)


def header(frame: str, stamp_ns: int):
    seconds, nanoseconds = divmod(stamp_ns, 10**9)
    time = make("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds)
    return make("std_msgs/msg/Header", stamp=time, frame_id=frame)


def scene(stamp_ns: int) -> np.ndarray:
    """Class ids uint8[64, 128] of the tiny model's four classes; an edge that moves with time."""
    labels = np.ones((64, 128), np.uint8)
    labels[:32] = 3
    edge = 20 + int((stamp_ns - START_NS) / 1e9 * 16) % 88
    labels[24:56, edge : edge + 20] = 2
    labels[60:] = 0
    return labels


def camera_message(stamp_ns: int):
    picture = np.repeat(LEVELS.astype(np.uint8)[scene(stamp_ns)][..., None], 3, -1)
    data = cv2.imencode(".png", picture)[1]
    frame = header(FRAMES[Modality.CAMERA], stamp_ns)
    return make("sensor_msgs/msg/CompressedImage", header=frame, format="png", data=data)


def label_message(stamp_ns: int):
    data = cv2.imencode(".png", scene(stamp_ns))[1]
    frame = header(FRAMES[Modality.CAMERA], stamp_ns)
    return make("sensor_msgs/msg/CompressedImage", header=frame, format="png", data=data)


def depth_message(stamp_ns: int):
    depth = np.full((48, 64), 9000, np.uint16)
    depth[24:] = 3000 + stamp_ns // 1_000_000 % 500
    data = np.concatenate([np.zeros(12, np.uint8), cv2.imencode(".png", depth)[1].ravel()])
    frame = header(FRAMES[Modality.DEPTH], stamp_ns)
    kind = "16UC1; compressedDepth png"
    return make("sensor_msgs/msg/CompressedImage", header=frame, format=kind, data=data)


def cloud(modality: Modality, stamp_ns: int, points: np.ndarray):
    types = {"uint8": 2, "uint16": 4, "uint32": 6, "float32": 7}
    fields = [
        make(
            "sensor_msgs/msg/PointField",
            name=name,
            offset=points.dtype.fields[name][1],
            datatype=types[points.dtype.fields[name][0].name],
            count=1,
        )
        for name in points.dtype.names
    ]
    return make(
        "sensor_msgs/msg/PointCloud2",
        header=header(FRAMES[modality], stamp_ns),
        height=1,
        width=len(points),
        fields=fields,
        is_bigendian=False,
        point_step=points.dtype.itemsize,
        row_step=points.nbytes,
        data=points.view(np.uint8).ravel(),
        is_dense=True,
    )


def event_message(stamp_ns: int):
    random = np.random.default_rng(stamp_ns % 2**32)
    events = np.zeros(200, [("x", "<u2"), ("y", "<u2"), ("t", "<u4"), ("p", "u1")])
    events["x"], events["y"] = random.integers(0, 64, 200), random.integers(0, 48, 200)
    events["t"] = np.sort(random.integers(0, 40_000_000, 200))
    events["t"][-1] = 39_999_999
    events["p"] = random.integers(0, 2, 200)
    return cloud(Modality.EVENT, stamp_ns, events)


def lidar_message(stamp_ns: int):
    random = np.random.default_rng(stamp_ns % 2**32)
    points = np.zeros(500, [(name, "<f4") for name in ("x", "y", "z", "intensity")])
    points["y"], points["z"] = random.uniform(-8, 8, 500), random.uniform(-1, 3, 500)
    # A curved wall: points in the air would be taken for noise.
    points["x"] = 10 + 4 * np.sin(points["y"] / 3) + random.normal(0, 0.02, 500)
    points["intensity"] = random.uniform(0, 1, 500)
    return cloud(Modality.LIDAR, stamp_ns, points)


MAKERS = {
    Modality.CAMERA: camera_message,
    Modality.DEPTH: depth_message,
    Modality.EVENT: event_message,
    Modality.LIDAR: lidar_message,
}


def info_message(camera: CameraModel, frame: str, stamp_ns: int):
    roi = make(
        "sensor_msgs/msg/RegionOfInterest",
        x_offset=0, y_offset=0, height=0, width=0, do_rectify=False,
    )  # fmt: skip
    return make(
        "sensor_msgs/msg/CameraInfo",
        header=header(frame, stamp_ns),
        height=camera.height,
        width=camera.width,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=camera.matrix.ravel(),
        r=np.eye(3).ravel(),
        p=np.concatenate([camera.matrix, np.zeros((3, 1))], 1).ravel(),
        binning_x=0,
        binning_y=0,
        roi=roi,
    )


def tf_message():
    edges = []
    for modality, transform in EXTRINSICS.items():
        x, y, z, w = (float(v) for v in transform.quaternion_xyzw)
        t = transform.translation
        edges.append(
            make(
                "geometry_msgs/msg/TransformStamped",
                header=header(FRAMES[Modality.CAMERA], START_NS),
                child_frame_id=FRAMES[modality],
                transform=make(
                    "geometry_msgs/msg/Transform",
                    translation=make(
                        "geometry_msgs/msg/Vector3", x=float(t[0]), y=float(t[1]), z=float(t[2])
                    ),
                    rotation=make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w),
                ),
            )
        )
    return make("tf2_msgs/msg/TFMessage", transforms=edges)


def write_bag(
    path: Path,
    duration_s: float = 3.0,
    modalities: tuple[Modality, ...] = MODALITIES,
    labels: bool = True,
    infos: bool = True,
    transforms: bool = True,
    storage: StoragePlugin = StoragePlugin.MCAP,
    compress: bool = False,
    log_time: Callable[[int], int] = lambda t: t,
    stamp: Callable[[int], int] = lambda t: t,
    change: Callable[[str, object], object] = lambda _topic, message: message,
    more: Mapping[str, object] = MappingProxyType({}),
) -> Path:
    """Write a bag folder.

    Args:
        log_time: from true receipt time to what is recorded; ns.
        stamp: from true stamp to what the header says; ns.
        change: from topic and message to the message that is recorded.
        more: messages by topic that are recorded besides, at the start.
    """
    entries = [(START_NS, topic, message) for topic, message in more.items()]
    if transforms:
        entries.append((START_NS, "/tf_static", tf_message()))
    cameras = {Modality.CAMERA: CAMERA, Modality.DEPTH: DEPTH, Modality.EVENT: EVENT}
    for modality in modalities:
        period, delay = PERIOD_S[modality], DELAY_S[modality]
        # An event packet is stamped with its start and sent when it is full.
        full = period if modality is Modality.EVENT else 0.0
        if infos and modality in cameras:
            topic = f"/{TOPICS[modality].split('/')[1]}/camera_info"
            message = info_message(cameras[modality], FRAMES[modality], START_NS)
            entries.append((START_NS, topic, message))
        for index in range(round(duration_s / period)):
            true = START_NS + int((index * period + 0.007 * modality) * 1e9)
            arrives = true + int((delay + full) * 1e9)
            entries.append((arrives, TOPICS[modality], MAKERS[modality](stamp(true))))
            if modality is Modality.CAMERA and labels:
                entries.append((arrives, LABELS, label_message(stamp(true))))
    entries.sort(key=lambda entry: log_time(entry[0]))
    writer = Writer(path, version=9, storage_plugin=storage)
    if compress:
        mode = CompressionMode.STORAGE if storage is StoragePlugin.MCAP else CompressionMode.MESSAGE
        writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for arrives, topic, message in entries:
            message = change(topic, message)
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=TYPES)
            data = TYPES.serialize_cdr(message, kind)
            writer.write(connections[topic], log_time(arrives), data)
    return path
