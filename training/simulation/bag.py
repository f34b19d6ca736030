"""Writes a drive as a rosbag2 recording (MCAP, zstd) of the four sensors, with labels and calibration.

=============================  ==================================================  ==================
topic                          type                                                rate
=============================  ==================================================  ==================
/camera/image/compressed       CompressedImage, JPEG                               10 Hz
/depth/image/compressedDepth   CompressedImage, 16UC1 PNG in millimetres           10 Hz
/events/points                 PointCloud2, x, y uint16, t uint32 (ns), p uint8    25 Hz
/lidar/points                  PointCloud2, x, y, z float32, intensity uint8       10 Hz
/<image sensor>/camera_info    CameraInfo                                          with each message
/ground_truth/labels           CompressedImage, PNG of train ids in the camera     10 Hz
/tf_static                     TFMessage, base_link to each sensor                 once
=============================  ==================================================  ==================

A message is logged when a subscriber would have received it: its stamp (for events the end of the
packet) plus the sensor's latency.
"""

from __future__ import annotations

import math
import struct
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.storage_mcap import McapWriter
from rosbags.typesys import Stores, get_typestore
from tqdm import tqdm

from anyseg_ros.modalities.calibration import save_calibration
from anyseg_ros.modalities.geometry import CameraModel
from anyseg_ros.modalities.sensor_data import EventPacket, LidarScan
from anyseg_ros.modality import Modality
from training.simulation.dataset import SPLITS
from training.simulation.drive import Drive
from training.simulation.event_sensor import join_packets
from training.simulation.rig import BASE_FRAME, FRAME_IDS, LidarLayout, Rig, street_rig
from training.simulation.street import StreetPlan
from training.simulation.weather import draw_weather

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

EPOCH_NS = 1_750_000_000_000_000_000
PERIOD_S = 0.1
EVENT_PACKET_S = 0.04
EVENT_SUBFRAME_S = 0.0125
EVENT_READOUT_NS = 10_000_000
"""The sensor reads its array out in scans of this duration, row by row; events carry the scan's time."""
PHASES_S = {Modality.CAMERA: 0.0, Modality.DEPTH: 0.012, Modality.LIDAR: 0.041}
"""Offset of each sensor's clock tick within a period."""
STAMP_JITTER_S = 0.001
LATENCIES_S = {
    Modality.CAMERA: 0.015,
    Modality.DEPTH: 0.020,
    Modality.EVENT: 0.003,
    Modality.LIDAR: 0.012,
}
LATENCY_JITTER_S = 0.002
POINT_STEP_M = 1 / 32
JPEG_QUALITY = 37
SMALL_PNG = (
    cv2.IMWRITE_PNG_COMPRESSION,
    9,
    cv2.IMWRITE_PNG_FILTER,
    cv2.IMWRITE_PNG_FILTER_NONE,
)
"""Pictures of few distinct values pack better unfiltered."""
ZSTD_LEVEL = 19
SPEED_KNOTS = ((0.0, 4.5), (5.5, 8.0), (11.0, 3.5), (15.0, 7.0), (20.0, 7.5))
BAG_SPLIT = len(SPLITS)
"""Takes the place of the split in the random key, so that no data-set drive has the bag's street."""

TOPICS = {
    "camera": ("/camera/image/compressed", "sensor_msgs/msg/CompressedImage"),
    "camera_info": ("/camera/camera_info", "sensor_msgs/msg/CameraInfo"),
    "depth": ("/depth/image/compressedDepth", "sensor_msgs/msg/CompressedImage"),
    "depth_info": ("/depth/camera_info", "sensor_msgs/msg/CameraInfo"),
    "event": ("/events/points", "sensor_msgs/msg/PointCloud2"),
    "event_info": ("/events/camera_info", "sensor_msgs/msg/CameraInfo"),
    "lidar": ("/lidar/points", "sensor_msgs/msg/PointCloud2"),
    "labels": ("/ground_truth/labels", "sensor_msgs/msg/CompressedImage"),
    "tf": ("/tf_static", "tf2_msgs/msg/TFMessage"),
}
_UINT8, _UINT16, _UINT32, _FLOAT32 = 2, 4, 6, 7


class BagError(RuntimeError):
    """The recording cannot be written; the message says why."""


@dataclass(frozen=True)
class Recording:
    """A message to be written."""

    topic: str
    """Key of :data:`TOPICS`."""
    log_ns: int
    data: bytes


@dataclass(frozen=True)
class BagReport:
    """What was written."""

    messages: dict[str, int]
    """Messages a topic."""
    raw_bytes: dict[str, int]
    """Bytes a topic before the recording's compression."""
    file_bytes: int


def bag_rig() -> Rig:
    """The rig of the recording: the street's, with sensors that fit a small file."""
    rig = street_rig()
    return replace(
        rig,
        cameras={**rig.cameras, Modality.DEPTH: CameraModel.from_fov(256, 128, 88.0)},
        lidar=LidarLayout(beams=24, half_sector_deg=48.0, azimuth_step_deg=0.8),
        disparity_steps=4,
        event_threshold=0.5,
        event_limit_hz=7e4,
    )


class _Messages:
    """Builds and serialises ROS messages without ROS."""

    def __init__(self) -> None:
        self.store = get_typestore(Stores.ROS2_JAZZY)
        self._types = self.store.types

    def make(self, kind: str, /, **fields: Any) -> Any:
        return self._types[kind](**fields)

    def serialize(self, topic: str, message: Any) -> bytes:
        return bytes(self.store.serialize_cdr(message, TOPICS[topic][1]))

    def header(self, stamp_ns: int, frame_id: str) -> Any:
        stamp = self.make(
            "builtin_interfaces/msg/Time",
            sec=stamp_ns // 1_000_000_000,
            nanosec=stamp_ns % 1_000_000_000,
        )
        return self.make("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)

    def picture(self, stamp_ns: int, frame_id: str, kind: str, data: bytes) -> Any:
        return self.make(
            "sensor_msgs/msg/CompressedImage",
            header=self.header(stamp_ns, frame_id),
            format=kind,
            data=np.frombuffer(data, np.uint8),
        )

    def camera_info(self, stamp_ns: int, frame_id: str, camera: CameraModel) -> Any:
        matrix = camera.matrix
        return self.make(
            "sensor_msgs/msg/CameraInfo",
            header=self.header(stamp_ns, frame_id),
            height=camera.height,
            width=camera.width,
            distortion_model="plumb_bob",
            d=np.zeros(5),
            k=matrix.ravel(),
            r=np.eye(3).ravel(),
            p=np.hstack([matrix, np.zeros((3, 1))]).ravel(),
            binning_x=0,
            binning_y=0,
            roi=self.make(
                "sensor_msgs/msg/RegionOfInterest",
                x_offset=0,
                y_offset=0,
                height=0,
                width=0,
                do_rectify=False,
            ),
        )

    def cloud(
        self, stamp_ns: int, frame_id: str, points: npt.NDArray[Any], kinds: dict[str, int]
    ) -> Any:
        """A PointCloud2 from a structured array."""
        assert points.dtype.fields is not None
        fields = [
            self.make(
                "sensor_msgs/msg/PointField",
                name=name,
                offset=points.dtype.fields[name][1],
                datatype=kind,
                count=1,
            )
            for name, kind in kinds.items()
        ]
        step = points.dtype.itemsize
        return self.make(
            "sensor_msgs/msg/PointCloud2",
            header=self.header(stamp_ns, frame_id),
            height=1,
            width=len(points),
            fields=fields,
            is_bigendian=False,
            point_step=step,
            row_step=step * len(points),
            data=np.frombuffer(points.tobytes(), np.uint8),
            is_dense=True,
        )

    def static_transforms(self, stamp_ns: int, rig: Rig) -> Any:
        transforms = []
        for modality, pose in rig.base_from_sensor.items():
            x, y, z, w = (float(v) for v in pose.quaternion_xyzw)
            tx, ty, tz = (float(v) for v in pose.translation)
            transforms.append(
                self.make(
                    "geometry_msgs/msg/TransformStamped",
                    header=self.header(stamp_ns, BASE_FRAME),
                    child_frame_id=FRAME_IDS[modality],
                    transform=self.make(
                        "geometry_msgs/msg/Transform",
                        translation=self.make("geometry_msgs/msg/Vector3", x=tx, y=ty, z=tz),
                        rotation=self.make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w),
                    ),
                )
            )
        return self.make("tf2_msgs/msg/TFMessage", transforms=transforms)


def _encode(extension: str, image: npt.NDArray[Any], *options: int) -> bytes:
    done, data = cv2.imencode(extension, image, options)
    if not done:
        raise BagError(f"OpenCV cannot encode {extension}")
    return bytes(data.tobytes())


def compressed_depth(depth_mm: npt.NDArray[np.uint16]) -> bytes:
    """Payload of ``16UC1; compressedDepth png``: the transport's 12-byte header, then a PNG."""
    # Enumeration "undefined" and two quantisation parameters that only 32FC1 uses.
    header = struct.pack("<iff", 0, 0.0, 0.0)
    return header + _encode(".png", depth_mm, *SMALL_PNG)


def event_array(events: EventPacket, start_ns: int) -> npt.NDArray[Any]:
    """Events as a structured array in the order of read-out: by scan, polarity, row and column."""
    # A scan's time is its beginning, so that no event lies after the packet.
    scan = (events.stamp_ns - start_ns) // EVENT_READOUT_NS
    order = np.lexsort((events.x, events.y, events.polarity, scan))
    dtype = np.dtype([("x", "<u2"), ("y", "<u2"), ("t", "<u4"), ("p", "u1")])
    points = np.zeros(len(order), dtype)
    points["x"], points["y"] = events.x[order], events.y[order]
    points["p"] = events.polarity[order]
    points["t"] = scan[order] * EVENT_READOUT_NS
    return points


def lidar_array(scan: LidarScan) -> npt.NDArray[Any]:
    """A scan as a structured array, coordinates rounded to :data:`POINT_STEP_M`."""
    dtype = np.dtype(
        {
            "names": ["x", "y", "z", "intensity"],
            "formats": ["<f4", "<f4", "<f4", "u1"],
            "offsets": [0, 4, 8, 12],
            "itemsize": 16,
        }
    )
    points = np.zeros(len(scan.points_m), dtype)
    rounded = np.rint(scan.points_m / POINT_STEP_M) * POINT_STEP_M
    for axis, name in enumerate("xyz"):
        points[name] = rounded[:, axis]
    points["intensity"] = np.rint(scan.intensity * 255)
    return points


def _capture(drive: Drive, duration_s: float, messages: _Messages) -> Iterator[Recording]:
    """Everything the sensors deliver during a drive, sensor by sensor."""
    rig = drive.rig
    rng = np.random.default_rng([*drive.key, 96])

    def log(stamp_ns: int, modality: Modality) -> int:
        delay = LATENCIES_S[modality] + float(rng.uniform(0, LATENCY_JITTER_S))
        return stamp_ns + round(delay * 1e9)

    def record(topic: str, log_ns: int, message: Any) -> Recording:
        return Recording(topic, log_ns, messages.serialize(topic, message))

    def ticks(modality: Modality) -> Iterator[tuple[float, int]]:
        for k in range(round(duration_s / PERIOD_S)):
            jitter = float(rng.uniform(-STAMP_JITTER_S, STAMP_JITTER_S))
            t = round(k * PERIOD_S + PHASES_S[modality] + 0.1 + jitter, 4)
            yield t, EPOCH_NS + round(t * 1e9)

    yield record("tf", EPOCH_NS, messages.static_transforms(EPOCH_NS, rig))
    frame_id = FRAME_IDS[Modality.CAMERA]
    for t, stamp in ticks(Modality.CAMERA):
        logged = log(stamp, Modality.CAMERA)
        jpeg = _encode(
            ".jpg",
            drive.camera(t)[..., ::-1],
            cv2.IMWRITE_JPEG_QUALITY,
            JPEG_QUALITY,
            cv2.IMWRITE_JPEG_OPTIMIZE,
            1,
        )
        picture = messages.picture(stamp, frame_id, "rgb8; jpeg compressed bgr8", jpeg)
        yield record("camera", logged, picture)
        info = messages.camera_info(stamp, frame_id, rig.cameras[Modality.CAMERA])
        yield record("camera_info", logged, info)
        png = _encode(".png", drive.labels(t), *SMALL_PNG)
        labels = messages.picture(stamp, frame_id, "mono8; png compressed mono8", png)
        yield record("labels", logged, labels)
    frame_id = FRAME_IDS[Modality.DEPTH]
    for t, stamp in ticks(Modality.DEPTH):
        logged = log(stamp, Modality.DEPTH)
        payload = compressed_depth(drive.depth(t))
        picture = messages.picture(stamp, frame_id, "16UC1; compressedDepth png", payload)
        yield record("depth", logged, picture)
        info = messages.camera_info(stamp, frame_id, rig.cameras[Modality.DEPTH])
        yield record("depth_info", logged, info)
    frame_id = FRAME_IDS[Modality.LIDAR]
    kinds = {"x": _FLOAT32, "y": _FLOAT32, "z": _FLOAT32, "intensity": _UINT8}
    for t, stamp in ticks(Modality.LIDAR):
        cloud = messages.cloud(stamp, frame_id, lidar_array(drive.lidar(t)), kinds)
        yield record("lidar", log(stamp, Modality.LIDAR), cloud)
    yield from (
        record(topic, log(end, Modality.EVENT), message)
        for topic, end, message in _event_packets(drive, duration_s, messages)
    )


def _event_packets(
    drive: Drive, duration_s: float, messages: _Messages
) -> Iterator[tuple[str, int, Any]]:
    """Topic, end of the packet and message of the event camera's packets."""
    frame_id = FRAME_IDS[Modality.EVENT]
    kinds = {"x": _UINT16, "y": _UINT16, "t": _UINT32, "p": _UINT8}
    sensor = drive.event_sensor()
    moment = 0.0
    drive.watch(sensor, moment, EPOCH_NS)
    pending: list[EventPacket] = []
    for k in range(int((duration_s + 0.1) / EVENT_PACKET_S)):
        start, end = EPOCH_NS + round(k * EVENT_PACKET_S * 1e9), 0
        end = start + round(EVENT_PACKET_S * 1e9)
        while EPOCH_NS + round(moment * 1e9) < end:
            moment = round(moment + EVENT_SUBFRAME_S, 4)
            pending.append(drive.watch(sensor, moment, EPOCH_NS + round(moment * 1e9)))
        events = join_packets(pending)
        inside = events.stamp_ns < end
        packet = EventPacket(
            events.x[inside], events.y[inside], events.polarity[inside], events.stamp_ns[inside]
        )
        later = ~inside
        pending = [
            EventPacket(
                events.x[later], events.y[later], events.polarity[later], events.stamp_ns[later]
            )
        ]
        points = event_array(packet, start)
        yield "event", end, messages.cloud(start, frame_id, points, kinds)
        camera = drive.rig.cameras[Modality.EVENT]
        yield "event_info", end, messages.camera_info(start, frame_id, camera)


def _qos(transient: bool, reliable: bool) -> Qos:
    forever = QosTime(9223372036, 854775807)
    return Qos(
        QosHistory.KEEP_LAST,
        10,
        QosReliability.RELIABLE if reliable else QosReliability.BEST_EFFORT,
        QosDurability.TRANSIENT_LOCAL if transient else QosDurability.VOLATILE,
        forever,
        forever,
        QosLiveliness.AUTOMATIC,
        forever,
        False,
    )


def bag_plan(key: tuple[int, ...], duration_s: float, weather: str) -> StreetPlan:
    """Plan of the recorded drive: through bends and over a crossing, with much traffic."""
    rng = np.random.default_rng([*key, 99])
    scale = duration_s / SPEED_KNOTS[-1][0]
    return StreetPlan(
        duration_s + 0.3,
        draw_weather(weather, rng),
        layout="s_bend",
        crossing=True,
        ego_speed=tuple((t * scale, v) for t, v in SPEED_KNOTS),
        business=2.2,
    )


def write_bag(
    folder: Path, calibration: Path, seed: int, duration_s: float, weather: str
) -> BagReport:
    """Render a drive into a recording, with a progress bar.

    Args:
        folder: the recording, a new folder.
        calibration: where to write the rig's calibration.
        seed: names the street; the same seed gives the same messages.
        duration_s: length of the drive.
        weather: one of :data:`weather.WEATHER_NAMES`.

    Raises:
        BagError: if the folder exists.
        RenderingError: if there is no OpenGL.
    """
    if folder.exists():
        raise BagError(f"{folder} exists already; choose a new folder or remove it first")
    if not math.isfinite(duration_s) or duration_s < 1:
        raise BagError(f"a drive of {duration_s} s is too short; it takes at least 1 s")
    key = (seed, BAG_SPLIT, 0)
    rig = bag_rig()
    messages = _Messages()
    count = 6 * round(duration_s / PERIOD_S) + 2 * int((duration_s + 0.1) / EVENT_PACKET_S) + 1
    with Drive(key, bag_plan(key, duration_s, weather), rig) as drive:
        captured = list(tqdm(_capture(drive, duration_s, messages), total=count, unit="message"))
    captured.sort(key=lambda r: (r.log_ns, r.topic))
    folder.parent.mkdir(parents=True, exist_ok=True)
    calibration.parent.mkdir(parents=True, exist_ok=True)
    writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    numbers: dict[str, int] = defaultdict(int)
    sizes: dict[str, int] = defaultdict(int)
    with writer:
        if isinstance(writer.storage, McapWriter):
            # Its own level is the fastest; a demo is written once and downloaded often.
            writer.storage.compressor = partial(zstd.compress, level=ZSTD_LEVEL)
        connections = {
            key: writer.add_connection(
                topic,
                kind,
                typestore=messages.store,
                offered_qos_profiles=[_qos(key == "tf", key in ("tf", "labels"))],
            )
            for key, (topic, kind) in TOPICS.items()
        }
        for item in captured:
            writer.write(connections[item.topic], item.log_ns, item.data)
            numbers[TOPICS[item.topic][0]] += 1
            sizes[TOPICS[item.topic][0]] += len(item.data)
    save_calibration(rig.calibration(), calibration)
    total = sum(p.stat().st_size for p in folder.iterdir())
    return BagReport(dict(numbers), dict(sizes), total)
