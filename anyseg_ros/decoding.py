"""ROS messages to raw sensor data. Every contradiction is refused by name.

Nothing of ROS is imported: the decoders read attributes only, so they take messages of ``rclpy`` and
of ``rosbags`` alike, and the node and the bag evaluation see the same data.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from anyseg_ros.modalities.errors import ModalityError
from anyseg_ros.modalities.evt3 import Evt3Decoder
from anyseg_ros.modalities.geometry import DISTORTION_LENGTHS, CameraModel
from anyseg_ros.modalities.image import SensorData
from anyseg_ros.modalities.projection import camera_for_image
from anyseg_ros.modalities.sensor_data import (
    SELF_RANGE_M,
    CameraFrame,
    DepthFrame,
    EventPacket,
    LidarScan,
)
from anyseg_ros.modality import Modality

ImageArray = npt.NDArray[Any]

MAX_PIXELS = 1 << 26
"""Larger pictures are refused before they are decoded: a few bytes of PNG can unpack to gigabytes."""
MAX_POINTS = 1 << 25
MAX_POINT_STEP = 1 << 16
_CUT_OFF_BY_CHOICE, _CUT_OFF_BY_DEFAULT = 0.5, 0.01
"""Share of a scan's intensities that may lie beyond the scale, where it was given and where not."""

_NS = 1_000_000_000
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_MAX_PNG_CHUNKS = 1 << 16

# encoding: (bytes a channel, channels, OpenCV's conversion to RGB). OpenCV names Bayer patterns by the
# second row, ROS by the first.
_BAYER = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}
_COLOR_ENCODINGS: dict[str, tuple[int, int, int | None]] = {
    "rgb8": (1, 3, None),
    "bgr8": (1, 3, cv2.COLOR_BGR2RGB),
    "rgba8": (1, 4, cv2.COLOR_RGBA2RGB),
    "bgra8": (1, 4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, 1, cv2.COLOR_GRAY2RGB),
    "rgb16": (2, 3, None),
    "bgr16": (2, 3, cv2.COLOR_BGR2RGB),
    "rgba16": (2, 4, cv2.COLOR_RGBA2RGB),
    "bgra16": (2, 4, cv2.COLOR_BGRA2RGB),
    "mono16": (2, 1, cv2.COLOR_GRAY2RGB),
    **{f"bayer_{pattern}8": (1, 1, code) for pattern, code in _BAYER.items()},
    **{f"bayer_{pattern}16": (2, 1, code) for pattern, code in _BAYER.items()},
    # The last two are older names of the first two.
    "uyvy": (1, 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuyv": (1, 2, cv2.COLOR_YUV2RGB_YUY2),
    "yuv422": (1, 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (1, 2, cv2.COLOR_YUV2RGB_YUY2),
}
_DEPTH_ENCODINGS: dict[str, str] = {"16UC1": "<u2", "mono16": "<u2", "32FC1": "<f4"}

_POINT_TYPE_NAMES = {
    1: "int8",
    2: "uint8",
    3: "int16",
    4: "uint16",
    5: "int32",
    6: "uint32",
    7: "float32",
    8: "float64",
}
_POINT_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 8: 8}


INTENSITY_FIELD = "intensity"
"""What most drivers call it; a cloud without it has an intensity of 0."""


class MessageError(ValueError):
    """A message that contradicts itself or is of no use. Names the field and what was expected."""

    def __init__(self, field: str, got: object, expected: str) -> None:
        self.field = field
        super().__init__(f"field '{field}' is {got}; expected {expected}")


def stamp_ns(stamp: Any) -> int:
    """Nanoseconds of a ``builtin_interfaces/Time``.

    Raises:
        MessageError: if it is 0 (a driver that sets no stamp cannot be aligned) or out of range.
    """
    seconds, nanoseconds = int(stamp.sec), int(stamp.nanosec)
    if not 0 <= nanoseconds < _NS:
        raise MessageError("header.stamp.nanosec", nanoseconds, "less than 1000000000")
    total = seconds * _NS + nanoseconds
    if total <= 0:
        raise MessageError("header.stamp", f"{total} ns", "the time of the measurement, above 0")
    return total


def _check_image(message: Any, bytes_per_pixel: int) -> None:
    if message.width < 1 or message.height < 1 or message.width * message.height > MAX_PIXELS:
        raise MessageError(
            "width, height",
            f"{message.width} x {message.height}",
            f"a picture of 1 to {MAX_PIXELS} pixels",
        )
    row = message.width * bytes_per_pixel
    if message.step < row:
        raise MessageError(
            "step", message.step, f"at least {row} ({message.width} pixels of {message.encoding})"
        )
    length = message.step * message.height
    if len(message.data) != length:
        raise MessageError(
            "data",
            f"{len(message.data)} bytes long",
            f"{length} (step {message.step} x height {message.height})",
        )


def _plain_view(message: Any, dtype: str, channels: int) -> ImageArray:
    """[H, W, C] of a checked image message, whatever its row padding and byte order. No copy."""
    wire = np.dtype(dtype)
    if message.is_bigendian and wire.itemsize > 1:
        wire = wire.newbyteorder(">")
    strides = (message.step, wire.itemsize * channels, wire.itemsize)
    shape = (message.height, message.width, channels)
    return np.ndarray(shape, wire, buffer=memoryview(message.data), strides=strides)


def _to_rgb8(pixels: ImageArray, conversion: int | None) -> npt.NDArray[np.uint8]:
    """RGB of [H, W, C]; 16 bit is scaled and rounded, as ``cv_bridge`` does."""
    rgb: ImageArray = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("="))
    if conversion is not None:
        rgb = cv2.cvtColor(rgb, conversion)
    if rgb.dtype == np.uint8:
        return rgb
    return np.rint(rgb * np.float32(255.0 / 65535.0)).astype(np.uint8)


def decode_image(message: Any) -> CameraFrame:
    """``sensor_msgs/Image`` of a colour, grey, Bayer or YUV 4:2:2 encoding to RGB.

    Raises:
        MessageError: for an unknown encoding, or a size, step or data length that do not fit.
    """
    if message.encoding not in _COLOR_ENCODINGS:
        raise MessageError(
            "encoding", repr(message.encoding), f"one of {', '.join(_COLOR_ENCODINGS)}"
        )
    size, channels, conversion = _COLOR_ENCODINGS[message.encoding]
    _check_image(message, size * channels)
    pixels = _plain_view(message, f"<u{size}", channels)
    needs_pairs = message.encoding.startswith(("uyvy", "yuyv", "yuv422", "bayer"))
    if needs_pairs and (message.width < 2 or message.width % 2 or message.height < 2):
        raise MessageError(
            "width, height",
            f"{message.width} x {message.height}",
            f"an even width and at least 2 x 2 for {message.encoding}",
        )
    try:
        image = _to_rgb8(pixels, conversion)
    except cv2.error as error:
        raise MessageError("encoding", repr(message.encoding), f"a picture: {error}") from None
    return CameraFrame(image)


def decode_depth_image(message: Any) -> DepthFrame:
    """``sensor_msgs/Image`` 16UC1 (millimetres) or 32FC1 (metres) to metres (REP 118).

    Raises:
        MessageError: for another encoding, or a size, step or data length that do not fit.
    """
    if message.encoding not in _DEPTH_ENCODINGS:
        raise MessageError(
            "encoding",
            repr(message.encoding),
            "16UC1 (millimetres) or 32FC1 (metres) for a depth image",
        )
    dtype = _DEPTH_ENCODINGS[message.encoding]
    _check_image(message, np.dtype(dtype).itemsize)
    return DepthFrame(_metres(_plain_view(message, dtype, 1)[..., 0]))


def _metres(pixels: ImageArray) -> npt.NDArray[np.float32]:
    metres = np.ascontiguousarray(pixels, np.float32)
    if pixels.dtype.kind == "u":
        metres = metres * np.float32(0.001)
    return metres


def _encoded_size(data: npt.NDArray[np.uint8]) -> tuple[int, int] | None:
    """Width and height in the header of a JPEG or PNG; ``None`` if it is neither."""
    head = data[:24].tobytes()
    if head[:8] == _PNG_MAGIC and len(head) == 24:
        width, height = struct.unpack(">II", head[16:24])
        return width, height
    if head[:2] != b"\xff\xd8":
        return None
    position = 2
    while position + 9 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = int(data[position + 1])
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[position + 5 : position + 9].tobytes())
            return width, height
        if 0xD0 <= marker <= 0xD7 or marker == 0x01:  # markers without a length
            position += 2
            continue
        length = int(data[position + 2]) << 8 | int(data[position + 3])
        position += 2 + max(length, 2)
    return None


def _check_png_chunks(data: npt.NDArray[np.uint8]) -> None:
    """Refuse a PNG that says it is longer than it is: OpenCV allocates what a chunk's length says."""
    position = len(_PNG_MAGIC)
    for _ in range(_MAX_PNG_CHUNKS):
        head = data[position : position + 8].tobytes()
        if len(head) < 8:
            break
        position += 12 + int.from_bytes(head[:4], "big")
        if position > len(data):
            break
        if head[4:] == b"IEND":
            return
    raise MessageError("data", f"a PNG cut off after {len(data)} bytes", "one with its end chunk")


def _check_jpeg_end(data: npt.NDArray[np.uint8]) -> None:
    """Refuse a JPEG that is cut off: OpenCV fills its rest with grey and only warns."""
    # Cameras on USB pass their buffers on as they are, with zeros behind the picture.
    end = len(data) if data[-1] else len(data.tobytes().rstrip(b"\0"))
    if b"\xff\xd9" not in data[max(end - 64, 0) : end].tobytes():
        raise MessageError("data", f"a JPEG cut off after {end} bytes", "one with its end marker")


def _decode_picture(data: npt.NDArray[np.uint8], flags: int) -> ImageArray:
    size = _encoded_size(data)
    if size is None:
        raise MessageError("data", f"{len(data)} bytes without a picture", "a whole JPEG or PNG")
    if not 0 < size[0] * size[1] <= MAX_PIXELS:
        raise MessageError(
            "data", f"a picture of {size[0]} x {size[1]}", f"one of 1 to {MAX_PIXELS} pixels"
        )
    if data[: len(_PNG_MAGIC)].tobytes() == _PNG_MAGIC:
        _check_png_chunks(data)
    try:
        picture = cv2.imdecode(data, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise MessageError("data", "not decodable", f"a whole JPEG or PNG ({error.err})") from None
    if picture is None:
        raise MessageError("data", "a damaged picture", "a whole JPEG or PNG")
    return picture


def _bytes_of(message: Any) -> npt.NDArray[np.uint8]:
    return np.frombuffer(memoryview(message.data), np.uint8)


def compressed_size(message: Any) -> tuple[int, int] | None:
    """Width and height of a ``sensor_msgs/CompressedImage``, by its header; ``None`` if it tells none."""
    depth = "compresseddepth" in message.format.lower()
    return _encoded_size(_bytes_of(message)[12 if depth else 0 :])


def decode_compressed_image(message: Any) -> CameraFrame:
    """``sensor_msgs/CompressedImage`` (JPEG or PNG) to RGB.

    Raises:
        MessageError: if the format names another codec, or the data is no whole picture.
    """
    words = message.format.lower()
    if "compresseddepth" in words:
        raise MessageError("format", repr(message.format), "a JPEG or PNG colour image")
    if words and not any(codec in words for codec in ("jpeg", "jpg", "png")):
        raise MessageError("format", repr(message.format), "jpeg or png")
    data = _bytes_of(message)
    if data[:2].tobytes() == b"\xff\xd8":
        _check_jpeg_end(data)
    picture = _decode_picture(data, cv2.IMREAD_COLOR)
    return CameraFrame(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False))


def decode_compressed_depth(message: Any) -> DepthFrame:
    """``compressedDepth`` of image_transport: 12-byte header, then PNG; to metres.

    16UC1 is millimetres. 32FC1 is quantised inverse depth: ``depth = a / (pixel - b)``, with ``a``
    and ``b`` from the header and pixel 0 for invalid
    (``compressed_depth_image_transport/codec.cpp``).

    Raises:
        MessageError: for another codec or encoding, or data that is no whole picture.
    """
    encoding = message.format.split(";")[0].strip()
    if "compresseddepth" not in message.format.lower() or encoding not in ("16UC1", "32FC1"):
        raise MessageError(
            "format",
            repr(message.format),
            "'16UC1; compressedDepth png' or '32FC1; compressedDepth png'",
        )
    if "rvl" in message.format.lower():
        raise MessageError("format", repr(message.format), "PNG; RVL is not supported")
    data = _bytes_of(message)
    if len(data) <= 12:
        raise MessageError("data", f"{len(data)} bytes long", "a 12-byte header and a PNG")
    pixels = _decode_picture(data[12:], cv2.IMREAD_UNCHANGED)
    if pixels.dtype != np.uint16 or pixels.ndim != 2:
        raise MessageError(
            "data", f"a picture of {pixels.dtype} {pixels.shape}", "a 16-bit picture of one channel"
        )
    if encoding == "16UC1":
        return DepthFrame(_metres(pixels))
    a, b = struct.unpack("<ff", data[4:12].tobytes())
    if not (math.isfinite(a) and math.isfinite(b)) or a <= 0:
        raise MessageError("data", f"depth parameters {a}, {b}", "finite, the first above 0")
    inverse = pixels.astype(np.float32) - np.float32(b)
    with np.errstate(divide="ignore", invalid="ignore"):
        metres = np.float32(a) / inverse
    metres[(pixels == 0) | (inverse <= 0)] = np.nan
    return DepthFrame(metres)


def decode_camera_info(message: Any, rectified: bool = False) -> CameraModel:
    """``sensor_msgs/CameraInfo`` to the model of the images as published, binning and ROI applied.

    Args:
        rectified: the images are rectified: use P, without distortion, instead of K and D.

    Raises:
        MessageError: for an uncalibrated or contradictory calibration.
    """
    if message.width < 1 or message.height < 1 or message.width * message.height > MAX_PIXELS:
        raise MessageError(
            "width, height", f"{message.width} x {message.height}", "the size of the camera"
        )
    name = "p" if rectified else "k"
    matrix = [float(v) for v in getattr(message, name)]
    fx, cx, fy, cy = (matrix[i] for i in ((0, 2, 5, 6) if rectified else (0, 2, 4, 5)))
    if not all(math.isfinite(v) for v in matrix) or fx <= 0 or fy <= 0:
        raise MessageError(
            name, f"fx={fx} fy={fy} cx={cx} cy={cy}", "a calibration (all 0 means uncalibrated)"
        )
    model = str(message.distortion_model)
    coefficients = tuple(float(v) for v in message.d)
    if not all(math.isfinite(v) for v in coefficients):
        raise MessageError("d", coefficients, "finite numbers")
    if rectified or not any(coefficients):
        model, coefficients = "", ()
    elif model not in DISTORTION_LENGTHS:
        raise MessageError(
            "distortion_model", repr(model), f"one of {', '.join(DISTORTION_LENGTHS)}"
        )
    elif len(coefficients) not in DISTORTION_LENGTHS[model]:
        raise MessageError(
            "d",
            f"{len(coefficients)} coefficients",
            f"{' or '.join(map(str, DISTORTION_LENGTHS[model]))} for {model}",
        )
    binning_x, binning_y = max(1, int(message.binning_x)), max(1, int(message.binning_y))
    roi = message.roi
    width, height = int(roi.width) or message.width, int(roi.height) or message.height
    if roi.x_offset + width > message.width or roi.y_offset + height > message.height:
        raise MessageError(
            "roi",
            f"{width} x {height} at ({roi.x_offset}, {roi.y_offset})",
            f"a part of the {message.width} x {message.height} picture",
        )
    if binning_x > width or binning_y > height:
        raise MessageError(
            "binning_x, binning_y", f"{binning_x}, {binning_y}", "less than the picture"
        )
    return CameraModel(
        width // binning_x,
        height // binning_y,
        fx / binning_x,
        fy / binning_y,
        (cx - roi.x_offset + 0.5) / binning_x - 0.5,
        (cy - roi.y_offset + 0.5) / binning_y - 0.5,
        distortion_model=model,
        distortion=coefficients,
    )


def _cloud_columns(message: Any, wanted: Sequence[str]) -> npt.NDArray[Any]:
    """Structured view ``[height, width]`` of the fields that are wanted and present."""
    if message.is_bigendian:
        raise MessageError("is_bigendian", "true", "a little-endian cloud")
    count = message.width * message.height
    if count > MAX_POINTS:
        raise MessageError("width, height", f"{count} points", f"at most {MAX_POINTS}")
    if not 1 <= message.point_step <= MAX_POINT_STEP:
        raise MessageError("point_step", message.point_step, f"1 to {MAX_POINT_STEP} bytes")
    if message.row_step < message.width * message.point_step:
        raise MessageError(
            "row_step",
            message.row_step,
            f"at least {message.width * message.point_step} "
            f"(width {message.width} x point_step {message.point_step})",
        )
    length = message.row_step * message.height
    if len(message.data) != length:
        raise MessageError(
            "data",
            f"{len(message.data)} bytes long",
            f"{length} (row_step {message.row_step} x height {message.height})",
        )
    for field in message.fields:
        name = f"fields[{field.name}]"
        if field.datatype not in _POINT_TYPE_SIZES:
            raise MessageError(f"{name}.datatype", field.datatype, "1 to 8")
        if field.offset + _POINT_TYPE_SIZES[field.datatype] * max(field.count, 1) > (
            message.point_step
        ):
            raise MessageError(
                f"{name}.offset", field.offset, f"inside point_step {message.point_step}"
            )
    fields = [field for field in message.fields if field.name in wanted]
    for field in fields:
        if field.count != 1:
            raise MessageError(f"fields[{field.name}].count", field.count, "1")
    in_order = sorted(fields, key=lambda field: field.offset)
    for one, other in itertools.pairwise(in_order):
        end = one.offset + _POINT_TYPE_SIZES[one.datatype]
        if one.name != other.name and other.offset < end:
            raise MessageError(
                f"fields[{other.name}].offset", other.offset, f"at least {end}, behind {one.name}"
            )
    names = [field.name for field in fields]
    if len(set(names)) != len(names):
        raise MessageError("fields", names, "each name once")
    if not fields:
        return np.empty((message.height, message.width), [])
    dtype = np.dtype(
        {
            "names": names,
            "formats": [_POINT_TYPE_NAMES[field.datatype] for field in fields],
            "offsets": [field.offset for field in fields],
            "itemsize": message.point_step,
        }
    )
    if count == 0:
        return np.empty((message.height, message.width), dtype)
    return np.ndarray(
        (message.height, message.width),
        dtype,
        buffer=memoryview(message.data),
        strides=(message.row_step, message.point_step),
    )


def _require_fields(message: Any, allowed: dict[str, tuple[str, ...]]) -> None:
    present = {field.name: field.datatype for field in message.fields}
    for name, types in allowed.items():
        if name not in present:
            raise MessageError("fields", list(present), f"a field '{name}' ({' or '.join(types)})")
        got = _POINT_TYPE_NAMES.get(present[name], str(present[name]))
        if got not in types:
            raise MessageError(f"fields[{name}].datatype", got, " or ".join(types))


def decode_lidar(
    message: Any, intensity_max: float = 0.0, intensity_field: str = INTENSITY_FIELD
) -> LidarScan:
    """``sensor_msgs/PointCloud2`` with x, y, z (and intensity, if any) to a scan of its echoes.

    Lost echoes go: drivers mark them by NaN, infinity, or a point at the sensor itself, usually zeros.

    Args:
        intensity_max: what counts as full intensity; 0 means 255 for uint8, 65535 for uint16 and
            1 for floating point.
        intensity_field: what is read as intensity; another than the default one must be there.

    Raises:
        MessageError: if fields, steps and length contradict each other, no point is finite, or more
            than half of the intensities exceed ``intensity_max`` (a hundredth of them, if it is 0).
    """
    _require_fields(message, {axis: ("float32", "float64") for axis in "xyz"})
    if intensity_field != INTENSITY_FIELD and all(
        f.name != intensity_field for f in message.fields
    ):
        raise MessageError(
            "fields",
            [field.name for field in message.fields],
            f"a field '{intensity_field}', which lidar.intensity_field names",
        )
    columns = _cloud_columns(message, ("x", "y", "z", intensity_field)).reshape(-1)
    if not len(columns):
        raise MessageError("width, height", "0 points", "at least one point")
    with np.errstate(over="ignore"):
        rows = np.stack([columns[axis] for axis in "xyz"]).astype(np.float32, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        square = np.einsum("ij,ij->j", rows, rows)
    finite = square < np.inf  # false for NaN
    if not finite.any():
        raise MessageError("data", f"{len(columns)} points, all NaN", "at least one finite point")
    echo = finite & (square > SELF_RANGE_M**2)
    echoes = int(np.count_nonzero(echo))
    if echoes < len(columns):
        rows = rows.compress(echo, axis=1)
    points = rows.T  # each coordinate contiguous, as projection wants them
    if intensity_field not in (columns.dtype.names or ()):
        return LidarScan(points, np.zeros(len(points), np.float32))
    raw = columns[intensity_field]
    if echoes < len(columns):
        raw = raw[echo]
    by_type = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0, "float64": 1.0}
    if raw.dtype.name not in by_type:
        raise MessageError(
            f"fields[{intensity_field}].datatype", raw.dtype.name, " or ".join(by_type)
        )
    full = intensity_max or by_type[raw.dtype.name]
    with np.errstate(over="ignore"):
        scaled = raw.astype(np.float32) / np.float32(full)
    intensity = np.nan_to_num(scaled, posinf=1.0, neginf=0.0)
    # A scale that was chosen may cut off mirrors and signs; one that was only assumed must fit. Scans
    # of a wrong one are then refused alike, whatever share of their points has no intensity at all.
    allowed = _CUT_OFF_BY_CHOICE if intensity_max else _CUT_OFF_BY_DEFAULT
    beyond = np.count_nonzero(intensity > 1.001) / max(len(intensity), 1)
    if beyond > allowed:
        raise MessageError(
            "data",
            f"{beyond:.0%} intensities above {full:g} (largest {float(np.nanmax(raw)):g})",
            f"the parameter lidar.intensity_max set to this sensor's full intensity, {_full_hint(raw)}",
        )
    return LidarScan(points, np.clip(intensity, 0.0, 1.0))


def _full_hint(raw: npt.NDArray[Any]) -> str:
    """What full intensity may be, in words, going by one scan that goes beyond what was taken for it."""
    values = raw[np.isfinite(raw)].astype(np.float64)
    if values.max() <= 255.0:
        return "often 255"
    high = float(np.percentile(values, 99))
    step = max(1.0, 10.0 ** (np.floor(np.log10(max(high, 1.0))) - 1))
    return f"perhaps {np.ceil(high / step) * step:.0f}: 99 % of this scan's are not above"


def decode_event_cloud(message: Any) -> EventPacket:
    """``PointCloud2`` of events: x, y uint16, t uint32 (ns after the header's stamp), p uint8.

    Events come out in order of time. A packet without events is a quiet scene, not an error.

    Raises:
        MessageError: if a field is missing or of another type, or the layout contradicts itself.
    """
    start_ns = stamp_ns(message.header.stamp)
    _require_fields(
        message,
        {"x": ("uint16",), "y": ("uint16",), "t": ("uint32",), "p": ("uint8",)},
    )
    columns = _cloud_columns(message, ("x", "y", "t", "p")).reshape(-1)
    times = columns["t"].astype(np.int64) + start_ns
    if len(times) > 1 and (times[1:] < times[:-1]).any():
        order = np.argsort(times, kind="stable")
        columns, times = columns[order], times[order]
    return EventPacket(
        np.ascontiguousarray(columns["x"]),
        np.ascontiguousarray(columns["y"]),
        (columns["p"] > 0).astype(np.uint8),
        times,
    )


class EventPacketDecoder:
    """``event_camera_msgs/EventPacket`` (encodings ``evt3`` and ``mono``) of one sensor to events.

    Packets must come in the order they were sent: an EVT3 stream carries its state across them.

    EVT3 dates events by the sensor's clock and the header by the host's, at the packet's arrival, which
    jitters by milliseconds. The sensor's clock is taken as steady; its distance to the host's is the
    least that a packet has shown, let rise slowly so that drifting clocks stay together.
    """

    _DRIFT = 1e-4
    _JUMP_NS = _NS
    """A clock that is this far from where it should be has been set anew."""

    def __init__(self) -> None:
        self._evt3 = Evt3Decoder()
        self._offset_ns: int | None = None
        self._last_ns = 0

    def __call__(self, message: Any) -> EventPacket:
        """Decode one packet.

        Raises:
            MessageError: for another encoding, or data whose length does not fit it.
        """
        decoders = {"evt3": self._decode_evt3, "mono": self._decode_mono}
        if message.encoding not in decoders:
            remedy = (  # it sends these alone
                "; the node republish of event_camera_legacy_tools decodes those of libcaer_driver to mono"
                if message.encoding.startswith("libcaer")
                else ""
            )
            raise MessageError("encoding", repr(message.encoding), " or ".join(decoders) + remedy)
        if message.width < 1 or message.height < 1:
            raise MessageError(
                "width, height", f"{message.width} x {message.height}", "the size of the sensor"
            )
        x, y, polarity, times = decoders[message.encoding](message, stamp_ns(message.header.stamp))
        inside = (x < message.width) & (y < message.height)
        if not inside.all():
            if np.count_nonzero(inside) * 2 < len(inside):
                raise MessageError(
                    "events",
                    f"mostly outside the sensor (up to {x.max()}, {y.max()})",
                    f"inside {message.width} x {message.height}",
                )
            x, y, polarity, times = x[inside], y[inside], polarity[inside], times[inside]
        if len(times) > 1 and (times[1:] < times[:-1]).any():
            order = np.argsort(times, kind="stable")
            x, y, polarity, times = x[order], y[order], polarity[order], times[order]
        return EventPacket(x, y, polarity, times)

    def _decode_evt3(self, message: Any, header_ns: int) -> tuple[ImageArray, ...]:
        data = _bytes_of_events(message, 2)
        events = self._evt3.decode(data.view(">u2" if message.is_bigendian else "<u2"))
        if not len(events.time_us):
            return events.x, events.y, events.polarity, events.time_us
        first_ns = int(events.time_us[0]) * 1000
        apart = header_ns - first_ns
        if self._offset_ns is None or abs(apart - self._offset_ns) > self._JUMP_NS:
            self._offset_ns = apart
        else:
            risen = self._offset_ns + round(max(first_ns - self._last_ns, 0) * self._DRIFT)
            self._offset_ns = min(risen, apart)
        self._last_ns = first_ns
        times = events.time_us * 1000 + self._offset_ns
        return events.x, events.y, events.polarity, times

    def _decode_mono(self, message: Any, header_ns: int) -> tuple[ImageArray, ...]:
        data = _bytes_of_events(message, 8)
        words = data.view(">u8" if message.is_bigendian else "<u8").astype(np.uint64)
        return (
            ((words >> np.uint64(32)) & np.uint64(0xFFFF)).astype(np.uint16),
            ((words >> np.uint64(48)) & np.uint64(0x7FFF)).astype(np.uint16),
            (words >> np.uint64(63)).astype(np.uint8),
            (words & np.uint64(0xFFFFFFFF)).astype(np.int64) + header_ns,
        )


def _bytes_of_events(message: Any, size: int) -> npt.NDArray[np.uint8]:
    data = np.frombuffer(memoryview(message.events), np.uint8)
    if len(data) % size:
        raise MessageError("events", f"{len(data)} bytes long", f"a multiple of {size}")
    return data


def decode_labels(message: Any) -> npt.NDArray[np.uint8]:
    """Class ids uint8[H, W] of a label image: ``Image`` mono8 (8UC1), or ``CompressedImage`` PNG.

    Raises:
        MessageError: for another encoding, or a picture that is not of one 8-bit channel.
    """
    if hasattr(message, "encoding"):
        if message.encoding not in ("mono8", "8UC1"):
            raise MessageError("encoding", repr(message.encoding), "mono8 for class ids")
        _check_image(message, 1)
        return np.ascontiguousarray(_plain_view(message, "u1", 1)[..., 0])
    words = message.format.lower()
    if words and ("png" not in words or "jp" in words or "compresseddepth" in words):
        raise MessageError("format", repr(message.format), "png: JPEG would change class ids")
    labels = _decode_picture(_bytes_of(message), cv2.IMREAD_UNCHANGED)
    if labels.dtype != np.uint8 or labels.ndim != 2:
        raise MessageError(
            "data", f"a picture of {labels.dtype} {labels.shape}", "one 8-bit channel of class ids"
        )
    return labels


def data_stamp_ns(message: Any, data: SensorData) -> int:
    """The stamp that a message's data is matched by, nanoseconds.

    The header's; but a packet of events is known by the end of what it covers.

    Raises:
        MessageError: if the header has no stamp.
    """
    stamp = stamp_ns(message.header.stamp)
    if isinstance(data, EventPacket) and len(data.stamp_ns):
        return int(data.stamp_ns[-1])
    return stamp


def on_host_clock(message: Any, data: SensorData, offset_ns: int) -> tuple[int, SensorData]:
    """What :func:`data_stamp_ns` gives, and the data, of a sensor whose clock is off.

    Args:
        offset_ns: what is to be added to its stamps, nanoseconds.

    Raises:
        MessageError: if the header has no stamp, or none above 0 is left of it.
    """
    stamp = data_stamp_ns(message, data) + offset_ns
    if stamp <= 0:
        raise MessageError("header.stamp", f"{stamp} ns with its stamp_offset", "a time above 0")
    if offset_ns and isinstance(data, EventPacket):
        data = replace(data, stamp_ns=data.stamp_ns + offset_ns)
    return stamp, data


def check_against_calibration(
    modality: Modality, data: SensorData, camera: CameraModel | None
) -> None:
    """Refuse data that cannot come from the calibrated sensor.

    Raises:
        MessageError: if a picture has another aspect ratio, or an event lies outside the sensor.
    """
    if camera is None:
        return
    if isinstance(data, EventPacket):
        if len(data.x) and (data.x.max() >= camera.width or data.y.max() >= camera.height):
            raise MessageError(
                "x, y",
                f"up to ({data.x.max()}, {data.y.max()})",
                f"inside the calibrated sensor of {camera.width} x {camera.height}",
            )
    elif isinstance(data, (CameraFrame, DepthFrame)):
        pixels = data.image if isinstance(data, CameraFrame) else data.depth_m
        try:
            camera_for_image(camera, pixels.shape[1], pixels.shape[0], modality.label)
        except ModalityError as error:
            raise MessageError(
                "width, height", f"{pixels.shape[1]} x {pixels.shape[0]}", str(error)
            ) from None
