"""Faults that a recording did not have: what a failing sensor would have sent instead, and when.

They act on messages as ``rosbags`` deserialises them, before any decoder has seen them, so the bag
player, the evaluation of bags and the fault matrix bring about the same. See
:data:`~anyseg_ros.evaluation.outages.KINDS` for the vocabulary.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from anyseg_ros.evaluation.outages import Outage
from anyseg_ros.modality import Modality

T = TypeVar("T")
Bytes = npt.NDArray[np.uint8]

DATA_TYPES = (
    "sensor_msgs/msg/Image",
    "sensor_msgs/msg/CompressedImage",
    "sensor_msgs/msg/PointCloud2",
    "event_camera_msgs/msg/EventPacket",
)
"""Types of message that carry sensor data. All others can only be withheld."""

SLOW_EVERY = 4
BURST_S = 1.0
LATE_S = 0.3
STAMP_JUMP_S = 10.0
NAN_SHARE = 0.98
EVENT_FLOOD = 10

_NS = 1_000_000_000
_COMPRESSED_DEPTH_HEADER = 12
_POINT_TYPES = {2: "u1", 4: "u2", 6: "u4", 7: "f4", 8: "f8"}
_INT32 = 5


@dataclass(frozen=True)
class Delivery(Generic[T]):
    """A message as it is received."""

    time_s: float
    """bag time"""
    item: T
    """what was handed in"""
    message: Any | None
    """the message that a fault has made of it; ``None``: as it was recorded"""


@dataclass
class _Topic(Generic[T]):
    """What the injector remembers of one topic."""

    count: dict[int, int] = field(default_factory=dict)
    """messages since the onset, by outage"""
    last: Callable[[], Any] | None = None
    """the last message before the fault"""
    frozen: Any | None = None
    swapped: Delivery[T] | None = None
    """waits for the message it is to arrive behind"""
    twin_stamp: Any | None = None


class FaultInjector(Generic[T]):
    """Applies a timetable to messages in order of bag time. The same messages give the same faults.

    Hand in every message with :meth:`feed`, and call :meth:`flush` at the end.
    """

    def __init__(self, outages: Sequence[Outage]) -> None:
        self._outages = tuple(outages)
        self._topics: dict[str, _Topic[T]] = {}
        self._waiting: list[tuple[float, int, Delivery[T]]] = []
        self._number = 0
        self.withheld = 0
        """messages that never arrive"""
        self.changed = 0
        """messages that arrive with another stamp or content"""

    def feed(
        self,
        sensor: Modality | None,
        topic: str,
        time_s: float,
        item: T,
        parse: Callable[[], Any],
        carries_data: bool = True,
    ) -> list[Delivery[T]]:
        """Hand in a message; gives what is received up to then, in order.

        Args:
            sensor: whose message it is; ``None`` for one that no fault concerns.
            time_s: bag time at which it was received. Must not fall.
            item: handed back with the delivery.
            parse: gives the message; called only where a fault looks into it. What cannot be read
                or changed is broken enough: it arrives as it was recorded.
            carries_data: otherwise (CameraInfo) the message is only ever withheld.
        """
        self._take(sensor, topic, time_s, item, parse, carries_data)
        return self._due(time_s)

    def flush(self) -> list[Delivery[T]]:
        """What is still on its way."""
        for topic in self._topics.values():
            if topic.swapped is not None:
                self._release_swapped(topic, topic.swapped.time_s)
        return self._due(float("inf"))

    def _due(self, time_s: float) -> list[Delivery[T]]:
        found = []
        while self._waiting and self._waiting[0][0] <= time_s:
            found.append(heapq.heappop(self._waiting)[2])
        return found

    def _send(self, delivery: Delivery[T]) -> None:
        self._number += 1
        heapq.heappush(self._waiting, (delivery.time_s, self._number, delivery))

    def _release_swapped(self, topic: _Topic[T], time_s: float) -> None:
        if topic.swapped is not None:
            self._send(replace(topic.swapped, time_s=time_s))
            topic.swapped = None

    def _take(
        self,
        sensor: Modality | None,
        topic_name: str,
        time_s: float,
        item: T,
        parse: Callable[[], Any],
        carries_data: bool,
    ) -> None:
        active = [
            (number, outage)
            for number, outage in enumerate(self._outages)
            if outage.sensor is sensor and outage.covers(time_s)
        ]
        if any(outage.kind == "silent" for _, outage in active):
            self.withheld += 1
            return
        if sensor is None or not carries_data:
            self._send(Delivery(time_s, item, None))
            return
        topic = self._topics.setdefault(topic_name, _Topic())
        delivery: Delivery[T] = Delivery(time_s, item, None)
        if not active:
            topic.last, topic.frozen, topic.twin_stamp = parse, None, None
            self._send(delivery)
            self._release_swapped(topic, time_s)
            return
        message: Any | None = None
        swaps = False
        for number, outage in active:
            count = topic.count.get(number, 0)
            topic.count[number] = count + 1
            kind = outage.kind
            if kind == "slow":
                if count % SLOW_EVERY:
                    self.withheld += 1
                    return
            elif kind == "late":
                delivery = replace(delivery, time_s=delivery.time_s + LATE_S)
            elif kind == "burst":
                bursts = int((time_s - outage.from_s) / BURST_S) + 1
                until = min(outage.from_s + bursts * BURST_S, outage.to_s)
                delivery = replace(delivery, time_s=max(delivery.time_s, until))
            elif kind == "reordered":
                swaps = True
            else:
                try:
                    current = parse() if message is None else message
                    if kind == "frozen" and topic.frozen is None:
                        topic.frozen = (topic.last or parse)()
                    elif kind == "stuck_stamps" and topic.twin_stamp is None:
                        topic.twin_stamp = (topic.last or parse)().header.stamp
                    if kind == "frozen":
                        message = _with_stamp(topic.frozen, current.header.stamp)
                    elif kind in _STAMP_FAULTS:
                        message = _STAMP_FAULTS[kind](topic, count, current)
                    else:
                        message = _change(kind, outage.sensor, current)
                except Exception:  # a damaged message may break reading and changing it in any way
                    continue
        self.changed += message is not None
        delivery = replace(delivery, message=message)
        if swaps and topic.swapped is None:
            topic.swapped = delivery
            return
        self._send(delivery)
        self._release_swapped(topic, delivery.time_s)


# --- stamps -----------------------------------------------------------------------------------


def _with_stamp(message: Any, stamp: Any) -> Any:
    return replace(message, header=replace(message.header, stamp=stamp))


def _shifted(message: Any, shift_s: float) -> Any:
    stamp = message.header.stamp
    seconds, nanoseconds = divmod(stamp.sec * _NS + stamp.nanosec + round(shift_s * _NS), _NS)
    return _with_stamp(message, replace(stamp, sec=seconds, nanosec=nanoseconds))


def _duplicate(topic: _Topic[Any], count: int, message: Any) -> Any:
    if count % 2 == 0 or topic.twin_stamp is None:
        topic.twin_stamp = message.header.stamp
        return message
    return _with_stamp(message, topic.twin_stamp)


def _stuck(topic: _Topic[Any], count: int, message: Any) -> Any:
    return _with_stamp(message, topic.twin_stamp)


_STAMP_FAULTS: dict[str, Callable[[_Topic[Any], int, Any], Any]] = {
    "duplicate_stamps": _duplicate,
    "stuck_stamps": _stuck,
    "stamps_back": lambda _topic, _count, message: _shifted(message, -STAMP_JUMP_S),
    "stamps_future": lambda _topic, _count, message: _shifted(message, STAMP_JUMP_S),
}


# --- content ----------------------------------------------------------------------------------


def _change(kind: str, sensor: Modality, message: Any) -> Any:
    """The message with a content fault; a copy."""
    stamp = message.header.stamp
    random = np.random.default_rng([int(sensor), int(stamp.sec), int(stamp.nanosec)])
    if hasattr(message, "fields"):
        return _change_cloud(kind, sensor, message, random)
    if hasattr(message, "events"):
        return _change_packet(kind, message, random)
    if hasattr(message, "format"):
        return _change_compressed(kind, sensor, message, random)
    return _change_image(kind, sensor, message, random)


def _half(data: Bytes) -> Bytes:
    return data[: len(data) // 2]


def _change_image(kind: str, sensor: Modality, message: Any, random: np.random.Generator) -> Any:
    data = np.asarray(message.data)
    if kind == "empty":
        return replace(message, width=0, height=0, step=0, data=data[:0])
    if kind == "wrong_encoding":
        return replace(message, encoding="rgb8" if sensor is Modality.DEPTH else "32FC1")
    if kind == "truncated":
        return replace(message, data=_half(data))
    if kind == "black":
        return replace(message, data=np.zeros_like(data))
    if sensor is not Modality.DEPTH:
        if kind == "saturated":
            return replace(message, data=np.full_like(data, 255))
        return replace(message, data=random.integers(0, 256, data.shape, np.uint8))
    is_float = message.encoding == "32FC1"
    byte_order = ">" if message.is_bigendian else "<"
    dtype = np.dtype(byte_order + ("f4" if is_float else "u2"))
    length = len(data) // dtype.itemsize
    millimetres = _depth_values(kind, data[: length * dtype.itemsize].view(dtype), random)
    values = millimetres.astype(dtype)
    if is_float and kind in ("saturated", "noise"):
        values = (millimetres * 0.001).astype(dtype)
    if is_float and kind == "nan":
        values[random.random(length) < NAN_SHARE] = np.nan
    changed = data.copy()
    changed[: values.nbytes] = values.view(np.uint8)
    return replace(message, data=changed)


def _depth_values(
    kind: str, values: npt.NDArray[Any], random: np.random.Generator
) -> npt.NDArray[Any]:
    """Depth pixels with a fault: millimetres for those that are made up, else as they come."""
    if kind == "saturated":
        return np.full(values.shape, 65535)
    if kind == "noise":
        return random.integers(300, 40_000, values.shape)
    if values.dtype.kind == "u":  # nan: integers know 0 as invalid
        return np.where(random.random(values.shape) < NAN_SHARE, 0, values)
    return values.copy()


def _change_compressed(
    kind: str, sensor: Modality, message: Any, random: np.random.Generator
) -> Any:
    data = np.asarray(message.data)
    if kind == "empty":
        return replace(message, data=data[:0])
    if kind == "wrong_encoding":
        return replace(message, format="h264")
    if kind == "truncated":
        return replace(message, data=_half(data))
    is_depth = "compresseddepth" in message.format.lower()
    head = data[:_COMPRESSED_DEPTH_HEADER] if is_depth else data[:0]
    decoded = cv2.imdecode(data[len(head) :], cv2.IMREAD_UNCHANGED)
    if decoded is None:
        return message
    picture: npt.NDArray[Any] = np.asarray(decoded)
    if kind == "black":
        picture = np.zeros_like(picture)
    elif is_depth:
        # 32FC1 is stored as inverse depth, of which no pixel value means NaN but 0, as in 16UC1.
        picture = _depth_values(kind, picture, random).astype(picture.dtype)
    elif kind == "saturated":
        picture = np.full_like(picture, 65535 if picture.dtype == np.uint16 else 255)
    else:
        picture = random.integers(0, 256, picture.shape).astype(picture.dtype)
    is_jpeg = data[len(head) : len(head) + 2].tobytes() == b"\xff\xd8"
    # Fast rather than small: a player has a pace to keep.
    encoded = (
        cv2.imencode(".jpg", picture)[1]
        if is_jpeg
        else cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
    )
    return replace(message, data=np.concatenate([head, encoded.ravel()]))


def _change_cloud(kind: str, sensor: Modality, message: Any, random: np.random.Generator) -> Any:
    data = np.asarray(message.data)
    if kind == "empty" or (kind == "black" and sensor is Modality.EVENT):
        return replace(message, width=0, height=1, row_step=0, data=data[:0])
    if kind == "truncated":
        return replace(message, data=_half(data))
    if kind == "wrong_encoding":
        fields = [
            replace(field, datatype=_INT32) if field.name == "x" else field
            for field in message.fields
        ]
        return replace(message, fields=fields)
    points, rows = _points(message)
    if sensor is Modality.EVENT:
        if kind == "saturated":
            points = _flood(points, random)
            rows = 1
        else:
            for name in ("x", "y"):
                most = int(points[name].max(initial=0))
                points[name] = random.integers(0, most + 1, len(points))
    elif kind == "black":
        points.view(np.uint8)[:] = 0
    elif kind == "nan":
        points["x"][random.random(len(points)) < NAN_SHARE] = np.nan
    else:
        for name in ("x", "y", "z"):
            finite = points[name][np.isfinite(points[name])]
            extent = float(np.abs(finite).max(initial=1.0))
            points[name] = random.uniform(-extent, extent, len(points))
    width = len(points) // rows
    return replace(
        message,
        width=width,
        height=rows,
        row_step=width * message.point_step,
        data=points.view(np.uint8).ravel(),
    )


def _points(message: Any) -> tuple[npt.NDArray[Any], int]:
    """A packed copy of a cloud's points, structured, and its rows."""
    known = [f for f in message.fields if f.datatype in _POINT_TYPES and f.count == 1]
    dtype = np.dtype(
        {
            "names": [f.name for f in known],
            "formats": ["<" + _POINT_TYPES[f.datatype] for f in known],
            "offsets": [f.offset for f in known],
            "itemsize": message.point_step,
        }
    )
    data = np.ascontiguousarray(message.data)
    rows = data.reshape(message.height, message.row_step) if len(data) else data.reshape(1, 0)
    packed = rows[:, : message.width * message.point_step].copy()
    return packed.reshape(-1).view(dtype), max(len(rows), 1)


def _flood(events: npt.NDArray[Any], random: np.random.Generator) -> npt.NDArray[Any]:
    """Many times the events, at random places, over the same time."""
    if not len(events):
        return events
    flood = np.zeros(len(events) * EVENT_FLOOD, events.dtype)
    for name in ("x", "y"):
        flood[name] = random.integers(0, int(events[name].max()) + 1, len(flood))
    flood["t"] = np.sort(random.integers(0, int(events["t"].max()) + 1, len(flood)))
    flood["p"] = random.integers(0, 2, len(flood))
    return flood


def _change_packet(kind: str, message: Any, random: np.random.Generator) -> Any:
    data = np.ascontiguousarray(message.events)
    if kind in ("empty", "black"):
        return replace(message, events=data[:0])
    if kind == "wrong_encoding":
        return replace(message, encoding="evt2")
    if kind == "truncated":
        # Not a whole number of words: what a cut transfer looks like.
        return replace(message, events=data[: len(data) // 2 | 1])
    size = 8 if message.encoding == "mono" else 2
    words = data[: len(data) // size * size].view(f"{'>' if message.is_bigendian else '<'}u{size}")
    if not len(words):
        return message
    many = len(words) * (EVENT_FLOOD if kind == "saturated" else 1)
    x = random.integers(0, message.width, many).astype(np.uint64)
    y = random.integers(0, message.height, many).astype(np.uint64)
    if message.encoding == "mono":
        times = np.sort(random.choice(words & 0xFFFFFFFF, many))
        polarity = random.integers(0, 2, many).astype(np.uint64)
        made = times.astype(np.uint64) | x << np.uint64(32) | y << np.uint64(48)
        made |= polarity << np.uint64(63)
    else:
        # EVT3: the times stay, every other word (a row, then a column in it) is made up.
        kinds = words >> 12
        made = np.repeat(words, many // len(words)).astype(np.uint64)
        moved = np.isin(np.repeat(kinds, many // len(words)), (0x0, 0x2, 0x3, 0x4, 0x5))
        row, column = np.nonzero(moved)[0][::2], np.nonzero(moved)[0][1::2]
        made[row] = y[row]
        made[column] = np.uint64(0x2000) | x[column]
    return replace(message, events=made.astype(words.dtype).view(np.uint8))
