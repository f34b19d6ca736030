"""Messages become sensor data exactly, and whatever contradicts itself is refused by name."""

import array
import random
import struct

import cv2
import numpy as np
import pytest
import rig
from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField

from anyseg_ros.modality import Modality
from anyseg_ros.ros import messages
from anyseg_ros.ros.messages import MessageError

STAMP = rig.START_NS + 5


def image(pixels: np.ndarray, encoding: str, padding: int = 0, big_endian: bool = False) -> Image:
    """An image message with optional bytes of padding at the end of each row."""
    pixels = np.atleast_3d(pixels)
    wire = pixels.astype(pixels.dtype.newbyteorder(">" if big_endian else "<"))
    rows = wire.reshape(len(wire), -1).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    message = Image(
        height=pixels.shape[0], width=pixels.shape[1], encoding=encoding, step=rows.shape[1]
    )
    message.is_bigendian = int(big_endian)
    message.data = array.array("B", rows.tobytes())
    return message


RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)


@pytest.mark.parametrize("padding", [0, 1, 7])
@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb8", RGB),
        ("bgr8", RGB[..., ::-1]),
        ("rgba8", np.dstack([RGB, RGB[..., 0]])),
        ("bgra8", np.dstack([RGB[..., ::-1], RGB[..., 0]])),
    ],
)
def test_colour_orders_and_padded_rows_give_the_same_picture(encoding, pixels, padding):
    assert np.array_equal(messages.decode_image(image(pixels, encoding, padding)).image, RGB)


@pytest.mark.parametrize("big_endian", [False, True])
def test_sixteen_bits_are_scaled_to_eight_in_either_byte_order(big_endian):
    wide = RGB.astype(np.uint16) * 257
    for encoding, pixels in (("rgb16", wide), ("bgr16", wide[..., ::-1])):
        decoded = messages.decode_image(image(pixels, encoding, 2, big_endian)).image
        assert np.array_equal(decoded, RGB)
    grey = messages.decode_image(image(wide[..., 0], "mono16", 0, big_endian)).image
    assert np.array_equal(grey, np.repeat(RGB[..., :1], 3, 2))


def test_grey_bayer_and_yuv():
    grey = messages.decode_image(image(RGB[..., 0], "mono8")).image
    assert np.array_equal(grey, np.repeat(RGB[..., :1], 3, 2))
    red = np.zeros((8, 8), np.uint8)
    red[::2, ::2] = 200  # the red pixels of an RGGB mosaic
    for encoding in ("bayer_rggb8",):
        assert messages.decode_image(image(red, encoding)).image[4, 4].tolist() == [200, 0, 0]
    blue = messages.decode_image(image(red, "bayer_bggr8")).image
    assert blue[4, 4].tolist() == [0, 0, 200]
    neutral = np.full((4, 4, 2), 128, np.uint8)
    for encoding in ("uyvy", "yuyv", "yuv422", "yuv422_yuy2"):
        decoded = messages.decode_image(image(neutral, encoding)).image
        assert np.ptp(decoded) == 0 and decoded.shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("names", "bright", "chroma"), [(("yuyv", "yuv422_yuy2"), 0, 1), (("uyvy", "yuv422"), 1, 0)]
)
def test_yuv_by_its_current_and_its_former_name(names, bright, chroma):
    red = np.empty((4, 4, 2), np.uint8)
    red[..., bright] = 82
    red[:, ::2, chroma], red[:, 1::2, chroma] = 90, 240  # U, V
    for encoding in names:
        decoded = messages.decode_image(image(red, encoding)).image
        assert (decoded[..., 0] > 240).all() and (decoded[..., 1:] < 15).all()
        with pytest.raises(MessageError, match="even width"):
            messages.decode_image(image(red[:, :3], encoding))


def changed(message, /, **changes):
    for name, value in changes.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"encoding": "yuv9"}, "encoding"),
        ({"encoding": "8UC3"}, "encoding"),
        ({"encoding": ""}, "encoding"),
        ({"step": 23}, "step"),
        ({"step": 25}, "data"),
        ({"height": 7}, "data"),
        ({"height": 0}, "width, height"),
        ({"width": 0}, "width, height"),
        ({"width": 4_000_000_000}, "width, height"),
        ({"data": array.array("B", [0] * 143)}, "data"),
        ({"data": array.array("B")}, "data"),
    ],
)
def test_an_image_that_contradicts_itself_is_refused_by_field(change, field):
    with pytest.raises(MessageError, match="expected") as caught:
        messages.decode_image(changed(image(RGB, "rgb8"), **change))
    assert caught.value.field == field


@pytest.mark.parametrize("big_endian", [False, True])
def test_depth_is_metres(big_endian):
    millimetres = np.array([[0, 500], [1000, 65535]], np.uint16)
    depth = messages.decode_depth_image(image(millimetres, "16UC1", 2, big_endian)).depth_m
    assert depth.dtype == np.float32
    assert np.allclose(depth, [[0, 0.5], [1, 65.535]])
    metres = np.array([[0.5, np.nan], [np.inf, 3]], np.float32)
    depth = messages.decode_depth_image(image(metres, "32FC1", 0, big_endian)).depth_m
    assert np.array_equal(depth, metres, equal_nan=True)


def test_depth_refuses_pictures():
    with pytest.raises(MessageError, match="16UC1"):
        messages.decode_depth_image(image(RGB, "rgb8"))


def compressed(data: bytes, format_: str) -> CompressedImage:
    message = CompressedImage(format=format_)
    message.data = array.array("B", data)
    return message


def picture(extension: str, pixels: np.ndarray = RGB[..., ::-1]) -> bytes:
    return cv2.imencode(extension, np.ascontiguousarray(pixels))[1].tobytes()


def test_compressed_images():
    decoded = messages.decode_compressed_image(compressed(picture(".png"), "png")).image
    assert np.array_equal(decoded, RGB)
    flat = np.full((16, 16, 3), (10, 120, 240), np.uint8)
    for words in ("jpeg", "jpg", "bgr8; jpeg compressed bgr8", ""):
        decoded = messages.decode_compressed_image(compressed(picture(".jpg", flat), words)).image
        assert np.abs(decoded[8, 8].astype(int) - [240, 120, 10]).max() < 6


def png_that_claims(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height) + bytes(20)


@pytest.mark.parametrize("zeros", [1, 64, 100_000])
def test_a_jpeg_with_its_buffers_zeros_behind_it_is_whole(zeros):
    whole = messages.decode_compressed_image(compressed(picture(".jpg"), "jpeg")).image
    padded = compressed(picture(".jpg") + bytes(zeros), "jpeg")
    assert np.array_equal(messages.decode_compressed_image(padded).image, whole)


@pytest.mark.parametrize(
    ("data", "format_", "field"),
    [
        (picture(".png"), "16UC1; compressedDepth png", "format"),
        (picture(".png"), "h264", "format"),
        (b"", "jpeg", "data"),
        (b"no picture at all", "jpeg", "data"),
        (picture(".jpg")[:-40], "jpeg", "data"),
        (picture(".jpg")[:-40] + bytes(5000), "jpeg", "data"),
        (b"\xff\xd8" + bytes(100), "jpeg", "data"),
        (picture(".png")[:40], "png", "data"),
        (png_that_claims(60000, 60000), "png", "data"),
        (png_that_claims(0, 10), "png", "data"),
    ],
)
def test_bad_compressed_images_are_refused(data, format_, field):
    with pytest.raises(MessageError) as caught:
        messages.decode_compressed_image(compressed(data, format_))
    assert caught.value.field == field


def compressed_depth(pixels, a=0.0, b=0.0, format_="16UC1; compressedDepth png"):
    return compressed(struct.pack("<iff", 0, a, b) + picture(".png", pixels), format_)


def test_compressed_depth_in_both_forms():
    millimetres = np.array([[0, 500], [1000, 65535]], np.uint16)
    depth = messages.decode_compressed_depth(compressed_depth(millimetres)).depth_m
    assert np.allclose(depth, [[0, 0.5], [1, 65.535]])

    # As compressed_depth_image_transport encodes: depth_max 10, quantisation 100.
    quantization, depth_max = 100.0, 10.0
    a = quantization * (quantization + 1.0)
    b = 1.0 - a / depth_max
    metres = np.array([[1.0, 2.0], [5.0, 9.5]])
    inverse = (a / metres + b).astype(np.uint16)
    inverse[0, 0] = 0  # invalid
    message = compressed_depth(inverse, a, b, "32FC1; compressedDepth png")
    decoded = messages.decode_compressed_depth(message).depth_m
    assert np.isnan(decoded[0, 0])
    assert np.allclose(decoded.ravel()[1:], metres.ravel()[1:], rtol=0.02)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (compressed_depth(np.ones((2, 2), np.uint16), format_="jpeg"), "format"),
        (
            compressed_depth(np.ones((2, 2), np.uint16), format_="16UC1; compressedDepth rvl"),
            "format",
        ),
        (compressed_depth(np.ones((2, 2), np.uint8)), "data"),
        (compressed(b"123", "16UC1; compressedDepth png"), "data"),
        (
            compressed_depth(
                np.ones((2, 2), np.uint16), np.nan, 0, format_="32FC1; compressedDepth png"
            ),
            "data",
        ),
    ],
)
def test_bad_compressed_depth_is_refused(message, field):
    with pytest.raises(MessageError) as caught:
        messages.decode_compressed_depth(message)
    assert caught.value.field == field


def camera_info(**changes) -> CameraInfo:
    message = CameraInfo(width=640, height=480)
    message.k = [500.0, 0.0, 319.5, 0.0, 510.0, 239.5, 0.0, 0.0, 1.0]
    message.p = [400.0, 0.0, 300.0, 0.0, 0.0, 410.0, 200.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    message.distortion_model = "plumb_bob"
    message.d = [-0.2, 0.1, 0.0, 0.0, 0.0]
    return changed(message, **changes)


def test_camera_info():
    camera = messages.decode_camera_info(camera_info())
    assert (camera.width, camera.height) == (640, 480)
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (500, 510, 319.5, 239.5)
    assert camera.distortion_model == "plumb_bob" and camera.distortion[0] == -0.2
    rectified = messages.decode_camera_info(camera_info(), rectified=True)
    assert (rectified.fx, rectified.cy) == (400, 200) and not rectified.distorted
    assert not messages.decode_camera_info(camera_info(d=[])).distorted


def test_binning_and_region_of_interest_keep_rays():
    message = camera_info(binning_x=2, binning_y=2, d=[])
    message.roi.x_offset, message.roi.y_offset = 100, 40
    message.roi.width, message.roi.height = 400, 300
    camera = messages.decode_camera_info(message)
    assert (camera.width, camera.height) == (200, 150)
    # The ray through the corner of the published picture is that of the full picture's pixel.
    assert (-0.5 - camera.cx) / camera.fx == pytest.approx((99.5 - 319.5) / 500)
    assert (149.5 - camera.cy) / camera.fy == pytest.approx((339.5 - 239.5) / 510)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"k": [0.0] * 9}, "k"),
        ({"k": [float("nan")] + [1.0] * 8}, "k"),
        ({"width": 0}, "width, height"),
        ({"distortion_model": "brown"}, "distortion_model"),
        ({"d": [0.1, 0.2]}, "d"),
        ({"d": [float("inf")] * 5}, "d"),
        ({"binning_x": 700}, "binning_x, binning_y"),
    ],
)
def test_bad_camera_info_is_refused(change, field):
    with pytest.raises(MessageError) as caught:
        messages.decode_camera_info(camera_info(**change))
    assert caught.value.field == field


def test_a_region_outside_the_picture_is_refused():
    message = camera_info()
    message.roi.x_offset, message.roi.width = 600, 100
    with pytest.raises(MessageError, match="roi"):
        messages.decode_camera_info(message)


XYZ = np.array([[1, 2, 3], [4, np.nan, 6], [7, 8, np.inf], [-1, -2, -3]])


def lidar(
    points: np.ndarray = XYZ,
    coordinate: str = "<f4",
    intensity: str | None = None,
    values=(1, 2, 3, 4),
    offset: int = 0,
):
    layout = [(f"pad{offset}", f"V{offset}")] if offset else []
    layout += [(axis, coordinate) for axis in "xyz"]
    if intensity:
        layout.append(("intensity", intensity))
    data = np.zeros(len(points), layout)
    for i, axis in enumerate("xyz"):
        data[axis] = points[:, i]
    if intensity:
        data["intensity"] = values
    kinds = {"<f4": 7, "<f8": 8, "u1": 2, "<u2": 4, "<i4": 5}
    fields = {
        name: (kinds[str(dict(layout)[name])], data.dtype.fields[name][1])
        for name in data.dtype.names
        if not name.startswith("pad")
    }
    return rig.cloud(Modality.LIDAR, STAMP, data, fields)


@pytest.mark.parametrize("coordinate", ["<f4", "<f8"])
@pytest.mark.parametrize("offset", [0, 3])
def test_finite_points_of_any_layout(coordinate, offset):
    scan = messages.decode_lidar(lidar(coordinate=coordinate, offset=offset))
    assert scan.points_m.dtype == np.float32
    assert scan.points_m.tolist() == [[1, 2, 3], [-1, -2, -3]]
    assert scan.intensity.tolist() == [0, 0]


def test_lost_echoes_are_no_obstacles():
    """Drivers that fill them with zeros would put points where the sensor is, next to the camera."""
    points = np.array([[0, 0, 0], [20, 0, 0], [0.03, 0.02, 0], [0, 0, -9]])
    scan = messages.decode_lidar(lidar(points, intensity="<f4", values=(1, 0.5, 1, 0.25)))
    assert scan.points_m.tolist() == [[20, 0, 0], [0, 0, -9]]
    assert scan.intensity.tolist() == [0.5, 0.25]
    # That nothing came back is for the health checks to judge: they know what is usual.
    nothing = messages.decode_lidar(lidar(np.zeros((4, 3)), intensity="<f4", values=(9, 9, 9, 9)))
    assert nothing.points_m.shape == (0, 3) and nothing.intensity.shape == (0,)


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("u1", (255, 0, 0, 51), (1, 0.2)),
        ("<u2", (65535, 0, 0, 13107), (1, 0.2)),
        ("<f4", (0.5, 0, 0, np.nan), (0.5, 0)),
        ("<f8", (0.25, 9, 9, -1), (0.25, 0)),
    ],
)
def test_intensity_is_scaled_by_its_type(kind, values, expected):
    scan = messages.decode_lidar(lidar(intensity=kind, values=values))
    assert np.allclose(scan.intensity, expected)


def test_another_field_serves_as_intensity_and_must_be_there():
    message = lidar(intensity="<u2", values=(255, 0, 0, 51))
    message.fields[3].name = "reflectivity"
    assert not messages.decode_lidar(message).intensity.any()
    scan = messages.decode_lidar(message, 255.0, "reflectivity")
    assert np.allclose(scan.intensity, (1, 0.2))
    with pytest.raises(
        MessageError, match=r"'reflectivity'\]; .*'signal', which lidar\.intensity_"
    ):
        messages.decode_lidar(message, 255.0, "signal")


def test_intensity_beyond_its_scale_names_the_parameter():
    message = lidar(intensity="<f4", values=(100, 0, 0, 200))
    with pytest.raises(MessageError, match="intensity_max"):
        messages.decode_lidar(message)
    assert np.allclose(messages.decode_lidar(message, 200.0).intensity, (0.5, 1))


def test_the_suggested_full_intensity_is_the_scans_own_and_is_taken():
    """An Ouster counts photons: its scans may have just been refused for 255, which fits many drivers."""
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 1234, 2000)
    values[:5] = 60_000
    values[5] = np.nan
    message = lidar(rng.uniform(1, 9, (2000, 3)), intensity="<f4", values=values)
    for assumed in (0.0, 255.0):
        with pytest.raises(MessageError, match=r"intensity_max .*perhaps 1300") as caught:
            messages.decode_lidar(message, assumed)
        assert "often 255" not in str(caught.value)
    messages.decode_lidar(message, 1300.0)
    dim = lidar(rng.uniform(1, 9, (2000, 3)), intensity="<f4", values=rng.uniform(0, 200, 2000))
    with pytest.raises(MessageError, match="often 255"):
        messages.decode_lidar(dim)


@pytest.mark.parametrize("zeros", [0.0, 0.49, 0.51, 0.9])
def test_a_wrong_scale_is_refused_in_every_scan(zeros):
    """A driver that sends 0..255 as floats, in scenes of which more or less does not reflect."""
    rng = np.random.default_rng(0)
    values = np.where(rng.random(2000) < zeros, 0.0, rng.uniform(1, 255, 2000))
    points = rng.uniform(1, 9, (2000, 3))
    message = lidar(points, intensity="<f4", values=values)
    with pytest.raises(MessageError, match=r"intensities above 1 .*lidar\.intensity_max"):
        messages.decode_lidar(message)
    assert np.allclose(messages.decode_lidar(message, 255.0).intensity, values / 255)
    # Who says 100 wants signs, which shine brighter, cut off.
    signs = lidar(points, intensity="<f4", values=np.where(rng.random(2000) < 0.2, 200, 50))
    assert messages.decode_lidar(signs, 100.0).intensity.max() == 1
    few = lidar(points, intensity="<f4", values=np.where(np.arange(2000) < 10, 1.5, 0.5))
    assert messages.decode_lidar(few).intensity.max() == 1


def test_an_organised_cloud_with_padded_rows():
    rows = np.zeros((2, 40), np.uint8)
    points = np.arange(18, dtype="<f4").reshape(2, 3, 3)
    rows[:, :36] = points.reshape(2, 9).view(np.uint8)
    message = rig.cloud(Modality.LIDAR, STAMP, points.reshape(-1, 3)[:, 0], rig.LIDAR_FIELDS)
    message.fields = message.fields[:3]
    message.height, message.width, message.point_step, message.row_step = 2, 3, 12, 40
    message.data = array.array("B", rows.tobytes())
    assert np.array_equal(messages.decode_lidar(message).points_m, points.reshape(-1, 3))


def without_field(message: PointCloud2, name: str) -> PointCloud2:
    message.fields = [field for field in message.fields if field.name != name]
    return message


def with_field(message: PointCloud2, field_name: str, /, **changes) -> PointCloud2:
    changed(next(field for field in message.fields if field.name == field_name), **changes)
    return message


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (without_field(lidar(), "z"), "fields"),
        (with_field(lidar(), "x", datatype=PointField.INT32), "fields[x].datatype"),
        (with_field(lidar(), "x", datatype=99), "fields[x].datatype"),
        (with_field(lidar(), "y", count=2), "fields[y].count"),
        (with_field(lidar(), "z", offset=10), "fields[z].offset"),
        (with_field(lidar(), "z", offset=4_000_000_000), "fields[z].offset"),
        (with_field(lidar(), "z", name="x"), "fields"),
        (changed(lidar(), is_bigendian=True), "is_bigendian"),
        (changed(lidar(), point_step=0), "point_step"),
        (changed(lidar(), row_step=40), "row_step"),
        (changed(lidar(), row_step=60), "data"),
        (changed(lidar(), height=2), "data"),
        (changed(lidar(), width=5), "row_step"),
        (changed(lidar(), width=4_000_000_000), "width, height"),
        (changed(lidar(), data=array.array("B", [1] * 47)), "data"),
        (lidar(np.empty((0, 3)), values=()), "width, height"),
        (lidar(np.full((4, 3), np.nan)), "data"),
        (lidar(intensity="<i4"), "fields[intensity].datatype"),
    ],
)
def test_bad_clouds_are_refused(message, field):
    with pytest.raises(MessageError) as caught:
        messages.decode_lidar(message)
    assert caught.value.field == field


def test_events_come_out_in_order_with_absolute_times():
    points = np.zeros(3, rig.EVENT_DTYPE)
    points["x"], points["y"], points["t"], points["p"] = (
        [1, 2, 3],
        [4, 5, 6],
        [30, 10, 20],
        [0, 1, 5],
    )
    packet = messages.decode_event_cloud(rig.cloud(Modality.EVENT, STAMP, points, rig.EVENT_FIELDS))
    assert packet.stamp_ns.tolist() == [STAMP + 10, STAMP + 20, STAMP + 30]
    assert packet.x.tolist() == [2, 3, 1] and packet.y.tolist() == [5, 6, 4]
    assert packet.polarity.tolist() == [1, 1, 0]


def test_a_packet_without_events_is_a_quiet_scene():
    empty = rig.cloud(Modality.EVENT, STAMP, np.zeros(0, rig.EVENT_DTYPE), rig.EVENT_FIELDS)
    assert len(messages.decode_event_cloud(empty).x) == 0


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (without_field(rig.event_cloud(STAMP), "t"), "fields"),
        (with_field(rig.event_cloud(STAMP), "x", datatype=PointField.INT16), "fields[x].datatype"),
        (with_field(rig.event_cloud(STAMP), "t", datatype=PointField.INT32), "fields[t].datatype"),
        (changed(rig.event_cloud(STAMP), is_bigendian=True), "is_bigendian"),
        (changed(rig.event_cloud(STAMP), point_step=8, row_step=2400), "data"),
    ],
)
def test_bad_event_clouds_are_refused(message, field):
    with pytest.raises(MessageError) as caught:
        messages.decode_event_cloud(message)
    assert caught.value.field == field


def test_a_stamp_must_say_something():
    message = rig.camera_image(STAMP)
    assert messages.stamp_ns(message.header.stamp) == STAMP
    message.header.stamp.sec = message.header.stamp.nanosec = 0
    with pytest.raises(MessageError, match="stamp"):
        messages.stamp_ns(message.header.stamp)
    message.header.stamp.nanosec = 2_000_000_000
    with pytest.raises(MessageError, match="nanosec"):
        messages.stamp_ns(message.header.stamp)


def test_results_as_messages_carry_stamp_frame_and_pixels():
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    message = messages.encode_image(labels, "mono8", STAMP, "grid")
    assert (message.height, message.width, message.step) == (3, 4, 4)
    assert bytes(message.data) == labels.tobytes()
    assert messages.stamp_ns(message.header.stamp) == STAMP
    assert message.header.frame_id == "grid"
    info = messages.encode_camera_info(rig.CAMERA, STAMP, "grid")
    assert messages.decode_camera_info(info) == rig.CAMERA


def test_two_megabytes_become_a_message_in_milliseconds():
    import time

    picture = np.zeros((800, 900, 3), np.uint8)
    started = time.perf_counter()
    messages.encode_image(picture, "bgr8", STAMP, "grid")
    assert time.perf_counter() - started < 0.05  # assigning the array takes 150 ms


def mutate(message, rng: random.Random):
    """Set a random field, at any depth, to a random value of its type."""
    targets = []

    def collect(part):
        for name in part.get_fields_and_field_types():
            value = getattr(part, name)
            if hasattr(value, "get_fields_and_field_types"):
                collect(value)
            elif (
                isinstance(value, list)
                and value
                and hasattr(value[0], "get_fields_and_field_types")
            ):
                for entry in value:
                    collect(entry)
            else:
                targets.append((part, name, value))

    collect(message)
    part, name, value = rng.choice(targets)
    try:
        if isinstance(value, bool):
            setattr(part, name, rng.random() < 0.5)
        elif isinstance(value, int):
            bits = rng.choice([1, 3, 8, 16, 31, 32])
            setattr(part, name, rng.getrandbits(bits))
        elif isinstance(value, float):
            setattr(part, name, rng.choice([0.0, -1.0, 1e308, float("nan"), float("inf")]))
        elif isinstance(value, str):
            setattr(part, name, rng.choice(["", "16UC1", "rgb8", "x", "png", "yuv422", "\x00"]))
        elif isinstance(value, array.array) and value.typecode == "B":
            data = bytearray(value)
            for _ in range(rng.randrange(1, 5)):
                if data:
                    data[rng.randrange(len(data))] = rng.getrandbits(8)
            cut = rng.choice([len(data), len(data), rng.randrange(len(data) + 1)])
            setattr(part, name, array.array("B", data[:cut]))
    except AssertionError:
        pass  # the field's own type check refused the value


DECODERS = [
    (lambda: rig.camera_image(STAMP), messages.decode_image),
    (lambda: image(RGB[..., 0], "bayer_rggb8"), messages.decode_image),
    (lambda: rig.compressed_image(STAMP), messages.decode_compressed_image),
    (lambda: compressed(picture(".png"), "png"), messages.decode_compressed_image),
    (lambda: rig.depth_image(STAMP), messages.decode_depth_image),
    (lambda: rig.compressed_depth(STAMP), messages.decode_compressed_depth),
    (lambda: rig.event_cloud(STAMP, 20), messages.decode_event_cloud),
    (lambda: rig.lidar_cloud(STAMP, 20), messages.decode_lidar),
    (lambda: camera_info(), messages.decode_camera_info),
]


@pytest.mark.parametrize("number", range(len(DECODERS)))
def test_random_damage_is_decoded_or_refused_never_anything_else(number):
    make, decode = DECODERS[number]
    rng = random.Random(number)
    refused = 0
    for _ in range(400):
        message = make()
        for _ in range(rng.randrange(1, 4)):
            mutate(message, rng)
        try:
            decode(message)
        except MessageError as error:
            refused += 1
            assert "expected" in str(error)
    assert refused > 20


@settings(max_examples=200)
@given(st.binary(max_size=400), st.sampled_from(["jpeg", "png", "16UC1; compressedDepth png"]))
def test_random_bytes_are_no_picture(data, format_):
    message = compressed(data, format_)
    decode = (
        messages.decode_compressed_depth
        if "compressedDepth" in format_
        else messages.decode_compressed_image
    )
    with pytest.raises(MessageError):
        decode(message)
