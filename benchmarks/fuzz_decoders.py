"""Random messages against every decoder: ``docs/results/fuzz.json``.

    python benchmarks/fuzz_decoders.py --messages 1000000 [--jobs 2] [--atheris 120]

Each message begins as a valid one of a random type. Then some of its fields get random values (sizes,
steps, offsets, encodings, stamps, data, at and around the limits of their types), or some bytes of its
serialised form are changed, cut or put in, or the bytes are random throughout. It goes through the
decoder of its type as the node calls it. Counted as failures:

- anything but a result or a ``MessageError``, and a result that breaks the decoder's promise;
- a message that took longer than the time limit;
- a message whose fields contradict each other by an oracle of its own (written here from the message
  definitions, REP 117/118 and the PNG and JPEG formats) that was not refused; and one without any fault
  by that oracle that was.

Message *i* depends on the seed and *i* alone: ``--only i`` repeats it. With ``--atheris S`` libFuzzer
guides the serialised bytes by coverage for S seconds (``pip install atheris``).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import subprocess
import sys
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from anyseg_ros.decoding import (
    MAX_PIXELS,
    MAX_POINT_STEP,
    MAX_POINTS,
    EventPacketDecoder,
    MessageError,
    data_stamp_ns,
    decode_camera_info,
    decode_compressed_depth,
    decode_compressed_image,
    decode_depth_image,
    decode_event_cloud,
    decode_image,
    decode_labels,
    decode_lidar,
)
from anyseg_ros.evaluation.bag import known_types
from anyseg_ros.evaluation.results import write_results
from anyseg_ros.modalities import CameraFrame, CameraModel, DepthFrame, EventPacket, LidarScan

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs/results/fuzz.json"
TYPES = known_types()
LIMIT_S = 1.0
"""Processor time; a message that takes longer hangs the node."""
CHUNK = 2000

CONTRADICTION = "contradiction"
FAULTLESS = "faultless"
OPEN = "open"
"""Neither: unusual, or beyond what the oracle judges."""

Random = np.random.Generator


def make(kind: str, /, **fields: Any) -> Any:
    return TYPES.types[kind](**fields)


# --- valid messages ---------------------------------------------------------------------------


def _header(random: Random) -> Any:
    stamp = make(
        "builtin_interfaces/msg/Time",
        sec=int(random.integers(1, 2**31)),
        nanosec=int(random.integers(0, 10**9)),
    )
    return make("std_msgs/msg/Header", stamp=stamp, frame_id="sensor")


def _image(random: Random, encodings: Iterable[str]) -> Any:
    encoding = str(random.choice(list(encodings)))
    width, height = 2 * int(random.integers(1, 9)), 2 * int(random.integers(1, 9))
    step = width * PIXEL_BYTES[encoding] + int(random.choice([0, 0, 3, 16]))
    return make(
        "sensor_msgs/msg/Image",
        header=_header(random),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=int(random.integers(0, 2)),
        step=step,
        data=random.integers(0, 256, step * height, np.uint8),
    )


def _compressed(random: Random, kind: str) -> Any:
    shape = tuple(int(v) for v in random.integers(1, 17, 2))
    if kind == "camera":
        suffix = str(random.choice([".jpg", ".png"]))
        pixels = random.integers(0, 256, (*shape, 3), np.uint8)
        text = {".jpg": "rgb8; jpeg compressed bgr8", ".png": "png"}[suffix]
        head = b""
    elif kind == "depth":
        suffix, pixels = ".png", random.integers(0, 65536, shape, np.uint16)
        text = str(random.choice(["16UC1; compressedDepth png", "32FC1; compressedDepth png"]))
        head = np.array([0], "<i4").tobytes() + random.uniform(0.1, 50, 2).astype("<f4").tobytes()
    else:
        suffix, pixels, text, head = ".png", random.integers(0, 19, shape, np.uint8), "png", b""
    data = np.frombuffer(head + cv2.imencode(suffix, pixels)[1].tobytes(), np.uint8)
    return make("sensor_msgs/msg/CompressedImage", header=_header(random), format=text, data=data)


def _cloud(random: Random, names: str, datatypes: list[int]) -> Any:
    fields, offset = [], 0
    for name, datatype in zip(names.split(), datatypes, strict=True):
        fields.append(
            make("sensor_msgs/msg/PointField", name=name, offset=offset, datatype=datatype, count=1)
        )
        offset += POINT_BYTES[datatype]
    step = offset + int(random.choice([0, 0, 1, 4]))
    width, height = int(random.integers(1, 9)), int(random.integers(1, 4))
    row_step = width * step + int(random.choice([0, 0, 5]))
    data = random.integers(0, 256, row_step * height, np.uint8)
    if "z" in names.split():
        data = np.zeros(row_step * height, np.uint8)
        rows = data.reshape(height, row_step)[:, : width * step].reshape(height, width, step)
        for entry in fields:
            kind = {7: "<f4", 8: "<f8", 2: "u1", 4: "<u2"}[entry.datatype]
            values = random.uniform(0, 1, (height, width)).astype(kind)
            size = POINT_BYTES[entry.datatype]
            rows[..., entry.offset : entry.offset + size] = (
                values[..., None].view(np.uint8).reshape(height, width, size)
            )
    return make(
        "sensor_msgs/msg/PointCloud2",
        header=_header(random),
        height=height,
        width=width,
        fields=fields,
        is_bigendian=False,
        point_step=step,
        row_step=row_step,
        data=data,
        is_dense=True,
    )


def _lidar(random: Random) -> Any:
    axis = int(random.choice([7, 8]))
    if random.random() < 0.3:
        return _cloud(random, "x y z", [axis] * 3)
    return _cloud(
        random, "x y z intensity ring", [axis] * 3 + [int(random.choice([2, 4, 7, 8])), 4]
    )


def _packet(random: Random) -> Any:
    encoding = str(random.choice(["evt3", "mono"]))
    count = int(random.integers(0, 33))
    if encoding == "evt3":
        x, y = random.integers(0, 64, count), random.integers(0, 48, count)
        pairs = np.stack([y, 0x2000 | x], 1).ravel()
        words = np.array([0x8000 | int(random.integers(0, 4096)), 0x6000, *pairs], "<u2")
    else:
        words = random.integers(0, 64, count, np.uint64) << np.uint64(32)
        words = (words | np.arange(count, dtype=np.uint64)).astype("<u8")
    return make(
        "event_camera_msgs/msg/EventPacket",
        header=_header(random),
        height=48,
        width=64,
        seq=0,
        time_base=0,
        encoding=encoding,
        is_bigendian=False,
        events=words.view(np.uint8),
    )


def _info(random: Random) -> Any:
    width, height = (int(v) for v in random.integers(8, 2000, 2))
    model, lengths = [
        ("plumb_bob", (0, 4, 5)),
        ("rational_polynomial", (8,)),
        ("equidistant", (4,)),
    ][int(random.integers(3))]
    f, cx, cy = float(random.uniform(50, 2000)), width / 2, height / 2
    return make(
        "sensor_msgs/msg/CameraInfo",
        header=_header(random),
        height=height,
        width=width,
        distortion_model=model,
        d=random.normal(0, 0.01, int(random.choice(lengths))),
        k=np.array([f, 0, cx, 0, f, cy, 0, 0, 1.0]),
        r=np.eye(3).ravel(),
        p=np.array([f, 0, cx, 0, 0, f, cy, 0, 0, 0, 1.0, 0]),
        binning_x=int(random.choice([0, 1, 2])),
        binning_y=int(random.choice([0, 1, 2])),
        roi=make(
            "sensor_msgs/msg/RegionOfInterest",
            x_offset=0,
            y_offset=0,
            height=int(random.choice([0, height])),
            width=int(random.choice([0, width])),
            do_rectify=False,
        ),
    )


# --- the oracle -------------------------------------------------------------------------------

PIXEL_BYTES = {
    **{
        f"{kind}8": channels
        for kind, channels in (("rgb", 3), ("bgr", 3), ("rgba", 4), ("bgra", 4))
    },
    **{f"{kind}16": 2 * n for kind, n in (("rgb", 3), ("bgr", 3), ("rgba", 4), ("bgra", 4))},
    **{f"bayer_{p}{bits}": bits // 8 for p in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16)},
    "mono8": 1,
    "mono16": 2,
    "yuv422": 2,
    "yuv422_yuy2": 2,
    "8UC1": 1,
    "16UC1": 2,
    "32FC1": 4,
}
"""sensor_msgs/image_encodings.hpp"""
DEPTH_ENCODINGS = ("16UC1", "32FC1", "mono16")
LABEL_ENCODINGS = ("mono8", "8UC1")
CAMERA_ENCODINGS = tuple(e for e in PIXEL_BYTES if not e.endswith("C1"))
POINT_BYTES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 8: 8}
"""sensor_msgs/msg/PointField"""


def _stamp_lies(message: Any) -> bool:
    stamp = message.header.stamp
    return not 0 <= stamp.nanosec < 10**9 or stamp.sec < 0 or stamp.sec == stamp.nanosec == 0


def judge_image(message: Any, encodings: tuple[str, ...]) -> str:
    if message.encoding not in encodings or _stamp_lies(message):
        return CONTRADICTION
    if message.width == 0 or message.height == 0:
        return CONTRADICTION
    if message.step < message.width * PIXEL_BYTES[message.encoding]:
        return CONTRADICTION
    if len(message.data) != message.step * message.height:
        return CONTRADICTION
    if message.encoding.startswith(("yuv", "bayer")) and (message.width % 2 or message.height < 2):
        return CONTRADICTION
    return OPEN if message.width * message.height > MAX_PIXELS else FAULTLESS


def judge_cloud(message: Any, wanted: dict[str, tuple[int, ...]], optional: str = "") -> str:
    step = message.point_step
    if _stamp_lies(message) or step == 0 or message.row_step < message.width * step:
        return CONTRADICTION
    if len(message.data) != message.row_step * message.height:
        return CONTRADICTION
    taken: list[tuple[int, int]] = []
    for entry in message.fields:
        size = POINT_BYTES.get(entry.datatype)
        if size is None or entry.offset + size * max(entry.count, 1) > step:
            return CONTRADICTION
        if entry.name in wanted or entry.name == optional:
            if entry.count != 1:
                return CONTRADICTION
            begin, end = entry.offset, entry.offset + size
            if any(begin < other_end and other < end for other, other_end in taken):
                return CONTRADICTION
            taken.append((begin, end))
    names = [entry.name for entry in message.fields]
    if any(names.count(name) > 1 for name in [*wanted, optional]):
        return CONTRADICTION
    datatypes = {entry.name: entry.datatype for entry in message.fields}
    if any(datatypes.get(name) not in kinds for name, kinds in wanted.items()):
        return CONTRADICTION
    # Big-endian clouds and ones that are too large are refused too, but could be right.
    too_large = step > MAX_POINT_STEP or message.width * message.height > MAX_POINTS
    if message.is_bigendian or too_large:
        return OPEN
    if optional:
        # Whether the values are believable (NaN throughout, intensities beyond full) is another
        # question than whether the fields contradict each other.
        return OPEN
    return FAULTLESS


def judge_png(data: bytes) -> str:
    """PNG (W3C, second edition): chunks, their checksums, and the length of the pixels."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return CONTRADICTION
    at, pixels, size, ended = 8, b"", 0, False
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if len(body) < length or at + 12 + length > len(data):
            return CONTRADICTION
        check = int.from_bytes(data[at + 8 + length : at + 12 + length], "big")
        if kind in (b"IHDR", b"IDAT") and zlib.crc32(kind + body) != check:
            return CONTRADICTION
        if kind == b"IHDR":
            if length != 13:
                return CONTRADICTION
            width, height = int.from_bytes(body[:4], "big"), int.from_bytes(body[4:8], "big")
            channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(body[9], 0)
            size = height * (1 + (width * channels * body[8] + 7) // 8)
            if body[12] or not size or size > 10**8:
                return OPEN
        elif kind == b"IDAT":
            pixels += body
        elif kind == b"IEND":
            ended = True
            break
        at += 12 + length
    if not ended:
        return CONTRADICTION
    try:
        found = zlib.decompressobj().decompress(pixels, size + 1)
    except zlib.error:
        return CONTRADICTION
    return CONTRADICTION if len(found) < size else OPEN


def judge_compressed(message: Any, kind: str, original: bytes | None) -> str:
    """``original``: data that is known to be whole."""
    if kind != "label" and _stamp_lies(message):
        return CONTRADICTION
    data = bytes(message.data)
    words = message.format.lower()
    body = data
    accepted = "jpe?g|png" if kind == "camera" else "png"
    if kind == "depth":
        if not re.match(r"\s*(16UC1|32FC1)\s*;", message.format) or "compresseddepth" not in words:
            return CONTRADICTION
        if "rvl" in words or len(data) <= 12:
            return CONTRADICTION
        body = data[12:]
        if original == data:
            return FAULTLESS
    elif words and ("compresseddepth" in words or not re.search(accepted, words)):
        return CONTRADICTION
    elif original == data:
        return FAULTLESS
    if body[:2] == b"\xff\xd8":
        # Entropy-coded data has no checksum: only a missing end can be told.
        return OPEN if b"\xff\xd9" in body else CONTRADICTION
    return judge_png(body)


def judge_packet(message: Any) -> str:
    size = {"evt3": 2, "mono": 8}.get(message.encoding)
    if size is None or len(message.events) % size or _stamp_lies(message):
        return CONTRADICTION
    return CONTRADICTION if not (message.width and message.height) else OPEN


def judge_info(message: Any) -> str:
    values = [*message.k, *message.d]
    if not np.isfinite(values).all() or message.k[0] <= 0 or message.k[4] <= 0:
        return CONTRADICTION
    if not message.width or not message.height:
        return CONTRADICTION
    lengths = {"plumb_bob": (4, 5), "rational_polynomial": (8,), "equidistant": (4,)}
    if any(message.d) and len(message.d) not in lengths.get(message.distortion_model, ()):
        return CONTRADICTION
    roi = message.roi
    width, height = roi.width or message.width, roi.height or message.height
    if roi.x_offset + width > message.width or roi.y_offset + height > message.height:
        return CONTRADICTION
    if message.binning_x > width or message.binning_y > height:
        return CONTRADICTION
    return OPEN if message.width * message.height > MAX_PIXELS else FAULTLESS


# --- kinds of message -------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A decoder, the messages it is for, and the oracle."""

    build: Callable[[Random], Any]
    decoder: Callable[[], Callable[[Any], Any]]
    judge: Callable[[Any, bytes | None], str]
    stamped: bool = True


_FLOATS, _U16 = (7, 8), (4,)
KINDS: dict[str, Kind] = {
    "camera image": Kind(
        lambda r: _image(r, CAMERA_ENCODINGS),
        lambda: decode_image,
        lambda m, _: judge_image(m, CAMERA_ENCODINGS),
    ),
    "depth image": Kind(
        lambda r: _image(r, DEPTH_ENCODINGS),
        lambda: decode_depth_image,
        lambda m, _: judge_image(m, DEPTH_ENCODINGS),
    ),
    "label image": Kind(
        lambda r: _image(r, LABEL_ENCODINGS),
        lambda: decode_labels,
        lambda m, _: judge_image(m, LABEL_ENCODINGS),
    ),
    "compressed camera": Kind(
        lambda r: _compressed(r, "camera"),
        lambda: decode_compressed_image,
        lambda m, original: judge_compressed(m, "camera", original),
    ),
    "compressed depth": Kind(
        lambda r: _compressed(r, "depth"),
        lambda: decode_compressed_depth,
        lambda m, original: judge_compressed(m, "depth", original),
    ),
    "compressed labels": Kind(
        lambda r: _compressed(r, "label"),
        lambda: decode_labels,
        lambda m, original: judge_compressed(m, "label", original),
        stamped=False,
    ),
    "lidar cloud": Kind(
        _lidar,
        lambda: decode_lidar,
        lambda m, _: judge_cloud(m, {"x": _FLOATS, "y": _FLOATS, "z": _FLOATS}, "intensity"),
    ),
    "event cloud": Kind(
        lambda r: _cloud(r, "x y t p", [4, 4, 6, 2]),
        lambda: decode_event_cloud,
        lambda m, _: judge_cloud(m, {"x": _U16, "y": _U16, "t": (6,), "p": (2,)}),
    ),
    "event packet": Kind(_packet, EventPacketDecoder, lambda m, _: judge_packet(m)),
    "camera info": Kind(
        _info, lambda: decode_camera_info, lambda m, _: judge_info(m), stamped=False
    ),
}


# --- random changes ---------------------------------------------------------------------------

_EDGES = [0, 1, 2, 3, 4, 7, 8, 255, 256, 1000, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1]
_WORDS = [
    *PIXEL_BYTES,
    *("evt2", "evt3", "mono", "jpeg", "png", "16UC1; compressedDepth png", "h264", ""),
    *("32FC1; compressedDepth png", "16UC1; compressedDepth rvl", "plumb_bob", "equidistant"),
    *("rational_polynomial", "x", "y", "z", "t", "p", "intensity", "\x00", "ü" * 40),
]


def _limits(owner: Any, name: str) -> tuple[int, int]:
    """What fits the field on the wire."""
    if name == "sec":
        return -(2**31), 2**31 - 1
    if name in ("datatype", "is_bigendian") and not hasattr(owner, "fields"):
        return 0, 255
    return 0, 2**32 - 1


def change_field(random: Random, message: Any) -> None:
    """Give one field, at any depth, a random value of its type."""
    owner = message
    while True:
        names = [n for n in owner.__dataclass_fields__ if not n.startswith("__")]
        name = str(random.choice(names))
        value = getattr(owner, name)
        if name == "fields" and value and random.random() < 0.8:
            owner = value[int(random.integers(len(value)))]
        elif hasattr(value, "__dataclass_fields__"):
            owner = value
        else:
            break
    if isinstance(value, bool):
        setattr(owner, name, not value)
    elif isinstance(value, int):
        low, high = _limits(owner, name)
        choice = random.random()
        if choice < 0.4:
            found = value + int(random.integers(-3, 4))
        elif choice < 0.8:
            found = int(random.choice(_EDGES))
        else:
            found = int(random.integers(low, high, endpoint=True))
        setattr(owner, name, min(max(found, low), high))
    elif isinstance(value, str):
        setattr(owner, name, str(random.choice(_WORDS)))
    elif isinstance(value, list):  # fields of a cloud
        kept = [entry for entry in value if random.random() < 0.7]
        setattr(owner, name, kept + kept[: int(random.integers(0, 2))])
    elif value.dtype == np.uint8:
        setattr(owner, name, change_bytes(random, value))
    elif len(value):
        changed = value.copy()
        changed[int(random.integers(len(value)))] = random.choice(
            [0.0, -1.0, 1e-9, 1e300, np.nan, np.inf, -np.inf]
        )
        if name == "d" and random.random() < 0.5:
            changed = changed[: int(random.integers(len(changed) + 1))]
        setattr(owner, name, changed)


def change_bytes(random: Random, data: np.ndarray) -> np.ndarray:
    """Bytes changed, cut, put in, or random throughout."""
    data = data.copy()
    choice = random.random()
    if choice < 0.3 and len(data):
        return data[: int(random.integers(len(data)))]
    if choice < 0.45:
        return np.concatenate(
            [data, random.integers(0, 256, int(random.integers(1, 20)), np.uint8)]
        )
    if choice < 0.55:
        return random.integers(0, 256, int(random.integers(0, 300)), np.uint8)
    if len(data):
        places = random.integers(len(data), size=int(random.integers(1, 6)))
        data[places] = random.integers(0, 256, len(places), np.uint8)
    return data


class Unreadable(Exception):  # noqa: N818 - what the deserialiser refuses is no error of ours
    """Bytes that are no message of their type; over DDS they would never reach a decoder."""


def build_message(seed: int, index: int) -> tuple[str, Any, bytes | None]:
    """The message number ``index``: its kind, itself, and compressed data known to be whole."""
    random = np.random.default_rng([seed, index])
    name = str(random.choice(list(KINDS)))
    message = KINDS[name].build(random)
    original = bytes(message.data) if hasattr(message, "format") else None
    choice = random.random()
    if choice < 0.05:
        return name, message, original
    if choice < 0.65:
        for _ in range(int(random.integers(1, 5))):
            change_field(random, message)
        return name, message, original
    wire = np.frombuffer(bytes(TYPES.serialize_cdr(message, message.__msgtype__)), np.uint8)
    return name, read_message(name, message.__msgtype__, change_bytes(random, wire).tobytes()), None


def read_message(name: str, kind: str, data: bytes) -> Any:
    try:
        return TYPES.deserialize_cdr(data, kind)
    except Exception as error:  # whatever breaks on bytes that are no message
        raise Unreadable(f"{name}: {type(error).__name__}") from None


# --- the check --------------------------------------------------------------------------------


def check_result(data: Any) -> None:
    """What decoders promise of their results."""
    if isinstance(data, CameraFrame):
        assert data.image.dtype == np.uint8 and data.image.ndim == 3 and data.image.shape[2] == 3
        assert data.image.size
    elif isinstance(data, DepthFrame):
        assert data.depth_m.dtype == np.float32 and data.depth_m.ndim == 2 and data.depth_m.size
    elif isinstance(data, LidarScan):
        assert data.points_m.dtype == np.float32 and data.points_m.shape[1:] == (3,)
        assert len(data.points_m) and np.isfinite(data.points_m).all()
        assert data.intensity.shape == data.points_m.shape[:1]
        assert ((data.intensity >= 0) & (data.intensity <= 1)).all()
    elif isinstance(data, EventPacket):
        lengths = {len(data.x), len(data.y), len(data.polarity), len(data.stamp_ns)}
        assert len(lengths) == 1 and (np.diff(data.stamp_ns) >= 0).all()
        assert not len(data.polarity) or data.polarity.max() <= 1
    elif isinstance(data, CameraModel):
        assert data.width > 0 and data.height > 0 and data.fx > 0 and data.fy > 0
    else:
        assert data.dtype == np.uint8 and data.ndim == 2


@dataclass
class Tally:
    """What a stretch of messages showed."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """by kind and outcome, ``"lidar cloud: refused"``"""
    judged: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    def add(self, other: Tally) -> None:
        self.outcomes += other.outcomes
        self.judged += other.judged
        self.failures += other.failures
        self.slowest_s = max(self.slowest_s, other.slowest_s)


def check_message(
    name: str, message: Any, original: bytes | None, where: str, tally: Tally
) -> None:
    """Decode as the node does and hold the outcome against the oracle."""
    kind = KINDS[name]
    verdict = kind.judge(message, original)
    # Processor time: what else the machine does is not the decoder's. Waiting shows in run().
    began = time.thread_time()
    try:
        data = kind.decoder()(message)
        if kind.stamped:
            data_stamp_ns(message, data)
        check_result(data)
        outcome = "decoded"
    except MessageError as error:
        outcome = "refused"
        if not str(error):
            tally.failures.append(f"{where}: {name} refused without a reason")
    except Exception:
        outcome = "crashed"
        last = traceback.format_exc().strip().splitlines()
        tally.failures.append(f"{where}: {name} crashed: {' | '.join(last[-3:])}")
    took_s = time.thread_time() - began
    tally.slowest_s = max(tally.slowest_s, took_s)
    if took_s > LIMIT_S:
        tally.failures.append(f"{where}: {name} took {took_s:.1f} s")
    tally.outcomes[f"{name}: {outcome}"] += 1
    tally.judged[f"{verdict}, {outcome}"] += 1
    if verdict == CONTRADICTION and outcome == "decoded":
        tally.failures.append(f"{where}: {name} contradicts itself and was decoded")
    if verdict == FAULTLESS and outcome == "refused":
        tally.failures.append(f"{where}: {name} without fault was refused")


def fuzz(seed: int, first: int, count: int) -> Tally:
    """Check messages ``first`` to ``first + count``."""
    tally = Tally()
    for index in range(first, first + count):
        try:
            name, message, original = build_message(seed, index)
        except Unreadable as error:
            tally.outcomes[f"{str(error).split(':')[0]}: unreadable"] += 1
            continue
        with np.errstate(all="ignore"):
            check_message(name, message, original, f"message {index}", tally)
    return tally


def _work(task: tuple[int, int, int]) -> Tally:
    return fuzz(*task)


def run(seed: int, messages: int, jobs: int) -> tuple[Tally, float]:
    """Check many messages on several processes; returns the tally and the seconds it took."""
    cv2.setNumThreads(1)
    tasks = [(seed, i, min(CHUNK, messages - i)) for i in range(0, messages, CHUNK)]
    total, began = Tally(), time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with (
        context.Pool(jobs, initializer=_quiet) as pool,
        tqdm(total=messages, unit=" messages", disable=None) as progress,
    ):
        results = pool.imap_unordered(_work, tasks)
        for _ in tasks:
            # A decoder that never returns, or a process that it took down, shows as this.
            tally = results.next(timeout=60 + CHUNK * LIMIT_S)
            total.add(tally)
            progress.update(sum(tally.outcomes.values()))
            progress.set_postfix(failures=len(total.failures))
    return total, time.perf_counter() - began


def _quiet() -> None:
    """No lines about damaged pictures from the codecs."""
    cv2.setNumThreads(1)
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)


# --- guided by coverage -----------------------------------------------------------------------


def run_atheris(seconds: int, seed: int) -> dict[str, Any]:
    """Let libFuzzer look for bytes that break a decoder; returns what it says of itself."""
    command = [sys.executable, __file__, "--atheris-child", str(seconds), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    text = done.stderr
    if "No module named" in text:
        raise SystemExit("--atheris needs the package atheris: pip install atheris")
    runs = re.search(r"stat::number_of_executed_units:\s*(\d+)", text)
    covered = re.findall(r"cov: (\d+)", text)
    failed = [line for line in text.splitlines() if line.startswith("fuzz failure: ")]
    if done.returncode and not failed:
        failed = [line for line in text.splitlines() if "ERROR" in line] or [text[-300:]]
    return {
        "executed": int(runs[1]) if runs else 0,
        "covered_edges": int(covered[-1]) if covered else 0,
        "covered_edges_at_start": int(covered[0]) if covered else 0,
        "failures": failed,
    }


def atheris_child(seconds: int, seed: int) -> None:
    import atheris

    import anyseg_ros.decoding
    import anyseg_ros.modalities.evt3

    for module in (anyseg_ros.decoding, anyseg_ros.modalities.evt3):
        for value in list(vars(module).values()):
            if callable(value) and getattr(value, "__module__", "") == module.__name__:
                if hasattr(value, "__code__"):
                    atheris.instrument_func(value)
                    continue
                for member in vars(value).values():
                    if hasattr(member, "__code__"):
                        atheris.instrument_func(member)
    names = list(KINDS)
    random = np.random.default_rng(seed)
    types = {name: KINDS[name].build(random).__msgtype__ for name in names}

    def one(data: bytes) -> None:
        if not data:
            return
        name = names[data[0] % len(names)]
        tally = Tally()
        try:
            message = read_message(name, types[name], data[1:])
        except Unreadable:
            return
        with np.errstate(all="ignore"):
            check_message(name, message, None, "atheris", tally)
        if tally.failures:
            for failure in tally.failures:
                print(f"fuzz failure: {failure}", file=sys.stderr)
            raise AssertionError(tally.failures[0])

    corpus = Path(os.environ.get("TMPDIR", "/tmp")) / f"anyseg_fuzz_{os.getpid()}"
    corpus.mkdir()
    for number, name in enumerate(names):
        for copy in range(20):
            message = KINDS[name].build(np.random.default_rng([seed, number, copy]))
            wire = bytes(TYPES.serialize_cdr(message, message.__msgtype__))
            (corpus / f"{number}_{copy}").write_bytes(bytes([number]) + wire)
    options = [
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        "-max_len=4096",
        f"-timeout={int(10 * LIMIT_S)}",
        "-print_final_stats=1",
        f"-artifact_prefix={corpus}/",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


# --- command line -----------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--only", type=int, help="repeat one message and show it")
    parser.add_argument("--atheris", type=int, default=0, metavar="S", help="guided, so long")
    parser.add_argument("--atheris-child", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.atheris_child:
        atheris_child(options.atheris_child, options.seed)
        return 0
    if options.only is not None:
        tally = Tally()
        name, message, original = build_message(options.seed, options.only)
        check_message(name, message, original, f"message {options.only}", tally)
        print(message, tally, sep="\n")
        return bool(tally.failures)
    guided = run_atheris(options.atheris, options.seed) if options.atheris else None
    tally, took_s = run(options.seed, options.messages, options.jobs)
    print_tally(tally, took_s, options.jobs)
    save(options, tally, took_s, guided)
    failures = tally.failures + (guided["failures"] if guided else [])
    for failure in failures[:20]:
        print(failure)
    return 1 if failures else 0


def print_tally(tally: Tally, took_s: float, jobs: int) -> None:
    count = sum(tally.outcomes.values())
    print(f"{count} messages in {took_s:.0f} s, {count / took_s / jobs:.0f} a second and process")
    for key, number in sorted(tally.outcomes.items()):
        print(f"  {key:<32}{number:>9}")
    for key, number in sorted(tally.judged.items()):
        print(f"  oracle says {key:<25}{number:>9}")
    print(f"  slowest message {tally.slowest_s * 1e3:.1f} ms, failures {len(tally.failures)}")


def save(
    options: argparse.Namespace, tally: Tally, took_s: float, guided: dict[str, Any] | None
) -> None:
    """Write docs/results/fuzz.json."""
    rows: list[dict[str, Any]] = []
    for name in KINDS:
        counts = {
            key: tally.outcomes[f"{name}: {key}"]
            for key in ("decoded", "refused", "unreadable", "crashed")
        }
        rows.append({"decoder": name, "messages": sum(counts.values()), **counts})
    count = sum(tally.outcomes.values())
    rows.append(
        {
            "decoder": "all",
            "messages": count,
            **{
                key: sum(v for k, v in tally.outcomes.items() if k.endswith(f": {key}"))
                for key in ("decoded", "refused", "unreadable", "crashed")
            },
            "contradictions": sum(
                v for k, v in tally.judged.items() if k.startswith(CONTRADICTION)
            ),
            "contradictions_decoded": tally.judged[f"{CONTRADICTION}, decoded"],
            "faultless": sum(v for k, v in tally.judged.items() if k.startswith(FAULTLESS)),
            "faultless_refused": tally.judged[f"{FAULTLESS}, refused"],
            "slowest_ms": round(tally.slowest_s * 1e3, 1),
            "time_limit_ms": LIMIT_S * 1e3,
            "messages_per_s_and_process": round(count / took_s / options.jobs),
            "failures": len(tally.failures),
        }
    )
    if guided is not None:
        rows.append(
            {
                "decoder": "all, guided by coverage (atheris)",
                "seconds": options.atheris,
                "messages": guided["executed"],
                "covered_edges_at_start": guided["covered_edges_at_start"],
                "covered_edges": guided["covered_edges"],
                "failures": len(guided["failures"]),
            }
        )
    command = f"python benchmarks/fuzz_decoders.py --messages {options.messages} "
    command += f"--seed {options.seed} --jobs {options.jobs}"
    command += f" --atheris {options.atheris}" if options.atheris else ""
    notes = (
        "refused: MessageError with a reason; unreadable: bytes that are no message of their "
        "type, which DDS would not deliver; contradictions: by an oracle written from the message "
        "definitions."
    )
    write_results(options.out, rows, command, notes, ())
    print(f"wrote {options.out}")


if __name__ == "__main__":
    raise SystemExit(main())
