"""The stand-ins give what ``cv_bridge`` and ``sensor_msgs_py`` give; compared where those are present."""

import array
from types import SimpleNamespace

import numpy as np
import pytest
import rig
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image, PointField
from std_msgs.msg import Header

from anyseg_ros.modality import Modality
from anyseg_ros.ros.stand_ins import cv_bridge as stand_in_cv_bridge
from anyseg_ros.ros.stand_ins import message_filters as stand_in_message_filters
from anyseg_ros.ros.stand_ins import point_cloud2 as stand_in_point_cloud2

BRIDGE = stand_in_cv_bridge.CvBridge()
RNG = np.random.default_rng(1)
TYPES = {
    "mono8": (np.uint8, 1),
    "rgb8": (np.uint8, 3),
    "bgr8": (np.uint8, 3),
    "rgba8": (np.uint8, 4),
    "bgra8": (np.uint8, 4),
    "mono16": (np.uint16, 1),
    "rgb16": (np.uint16, 3),
    "bgr16": (np.uint16, 3),
    "bayer_rggb8": (np.uint8, 1),
    "bayer_bggr8": (np.uint8, 1),
    "bayer_gbrg8": (np.uint8, 1),
    "bayer_grbg8": (np.uint8, 1),
    "yuv422": (np.uint8, 2),
    "yuv422_yuy2": (np.uint8, 2),
    "16UC1": (np.uint16, 1),
    "32FC1": (np.float32, 1),
    "8UC3": (np.uint8, 3),
}


def make(encoding: str) -> Image:
    dtype, channels = TYPES[encoding]
    shape = (6, 8) if channels == 1 else (6, 8, channels)
    high = 256 if dtype == np.uint8 else 65536
    pixels = RNG.integers(0, high, shape).astype(dtype)
    message = Image(height=6, width=8, encoding=encoding)
    message.data.frombytes(pixels.tobytes())
    message.step = len(message.data) // 6
    return message


def test_passthrough_keeps_type_and_shape():
    for encoding, (dtype, channels) in TYPES.items():
        image = BRIDGE.imgmsg_to_cv2(make(encoding))
        assert image.dtype == dtype
        assert image.shape == ((6, 8) if channels == 1 else (6, 8, channels))


@pytest.mark.parametrize(
    ("source", "target"), [("16UC1", "mono8"), ("8UC3", "bgr8"), ("nonsense", "bgr8")]
)
def test_what_cv_bridge_refuses_is_refused(source, target):
    message = make("8UC3") if source == "nonsense" else make(source)
    message.encoding = source
    with pytest.raises(stand_in_cv_bridge.CvBridgeError):
        BRIDGE.imgmsg_to_cv2(message, target)


def test_images_to_messages_and_back():
    for encoding, (dtype, channels) in TYPES.items():
        pixels = BRIDGE.imgmsg_to_cv2(make(encoding))
        message = BRIDGE.cv2_to_imgmsg(pixels, encoding, Header(frame_id="f"))
        assert message.encoding == encoding and message.header.frame_id == "f"
        assert message.step == 8 * channels * np.dtype(dtype).itemsize
        assert np.array_equal(BRIDGE.imgmsg_to_cv2(message), pixels)
    assert BRIDGE.cv2_to_imgmsg(np.zeros((2, 3, 3), np.uint8)).encoding == "8UC3"
    with pytest.raises(stand_in_cv_bridge.CvBridgeError):
        BRIDGE.cv2_to_imgmsg(np.zeros((2, 3), np.uint8), "bgr8")


def test_padded_rows_and_the_other_byte_order_are_read():
    plain = make("rgb16")
    pixels = BRIDGE.imgmsg_to_cv2(plain)
    padded = Image(height=6, width=8, encoding="rgb16", step=54, is_bigendian=True)
    rows = np.zeros((6, 9, 3), ">u2")
    rows[:, :8], rows[:, 8] = pixels, 7
    padded.data.frombytes(rows.tobytes())
    read = BRIDGE.imgmsg_to_cv2(padded)
    assert read.dtype == np.uint16 and np.array_equal(read, pixels)
    swapped = BRIDGE.cv2_to_imgmsg(pixels.astype(">u2"))
    assert swapped.is_bigendian and np.array_equal(BRIDGE.imgmsg_to_cv2(swapped), pixels)


def test_16_bits_are_scaled_to_8_and_back():
    message = BRIDGE.cv2_to_imgmsg(np.array([[0, 257, 32896, 65535]], np.uint16), "mono16")
    assert BRIDGE.imgmsg_to_cv2(message, "mono8").tolist() == [[0, 1, 128, 255]]
    message = BRIDGE.cv2_to_imgmsg(np.array([[0, 1, 128, 255]], np.uint8), "mono8")
    assert BRIDGE.imgmsg_to_cv2(message, "mono16").tolist() == [[0, 257, 32896, 65535]]


@pytest.mark.parametrize("source", TYPES)
@pytest.mark.parametrize("target", ["passthrough", "rgb8", "bgr8", "mono8", "mono16"])
def test_against_the_real_cv_bridge(source, target):
    real = pytest.importorskip("cv_bridge")
    if not hasattr(real, "CvBridge"):
        pytest.skip("cv_bridge on this path is not the ROS package")
    try:
        real.CvBridge().encoding_to_cvtype2(source)
    except real.CvBridgeError:
        pytest.skip(f"this cv_bridge does not know {source}")
    message = make(source)
    try:
        expected = real.CvBridge().imgmsg_to_cv2(message, target)
    except real.CvBridgeError:
        with pytest.raises(stand_in_cv_bridge.CvBridgeError):
            BRIDGE.imgmsg_to_cv2(message, target)
        return
    image = BRIDGE.imgmsg_to_cv2(message, target)
    assert image.dtype == expected.dtype and image.shape == expected.shape
    assert np.abs(image.astype(float) - expected.astype(float)).max() <= (
        1 if image.dtype == np.uint8 else 0
    )


FIELDS = [
    PointField(name="x", offset=0, datatype=PointField.FLOAT32, count=1),
    PointField(name="ring", offset=4, datatype=PointField.UINT16, count=1),
    PointField(name="", offset=8, datatype=PointField.FLOAT64, count=2),
]


def test_types_of_points():
    dtype = stand_in_point_cloud2.dtype_from_fields(FIELDS, point_step=32)
    assert dtype.names == ("x", "ring", "unnamed_field_2_0", "unnamed_field_2_1")
    assert dtype.itemsize == 32 and dtype.fields["unnamed_field_2_1"][1] == 16
    with pytest.raises(AssertionError):
        stand_in_point_cloud2.dtype_from_fields([PointField(name="x", datatype=7, count=0)])


def test_clouds_to_points_and_back():
    points = np.zeros(3, stand_in_point_cloud2.dtype_from_fields(FIELDS[:2]))
    points["x"], points["ring"] = [1, np.nan, 3], [4, 5, 6]
    cloud = stand_in_point_cloud2.create_cloud(Header(), FIELDS[:2], points)
    assert (cloud.width, cloud.height, cloud.row_step) == (3, 1, 18)
    assert np.array_equal(stand_in_point_cloud2.read_points(cloud)["ring"], [4, 5, 6])
    kept = stand_in_point_cloud2.read_points(cloud, ["x"], skip_nans=True)
    assert kept["x"].tolist() == [1, 3]


def test_clouds_of_the_other_byte_order_and_of_rows_are_read():
    points = np.zeros((3, 2), stand_in_point_cloud2.dtype_from_fields(FIELDS[:2]))
    points["x"], points["ring"] = 1.5, np.arange(6).reshape(3, 2)
    cloud = stand_in_point_cloud2.create_cloud(Header(), FIELDS[:2], points)
    assert cloud.width * cloud.height == 6
    cloud.is_bigendian = True
    cloud.data = array.array("B", points.byteswap().tobytes())
    assert stand_in_point_cloud2.read_points(cloud)["ring"].tolist() == list(range(6))


def test_a_subscriber_keeps_the_qos_that_it_is_given():
    asked = []
    node = SimpleNamespace(create_subscription=lambda *args, **more: asked.append((args, more)))
    for more in ({"qos_profile": qos_profile_sensor_data}, {}):
        found = stand_in_message_filters.Subscriber(node, Image, "camera/image", **more)
        assert found.getTopic() == "camera/image" and found.node is node
    assert [args[:2] for args, _ in asked] == [(Image, "camera/image")] * 2
    assert [more["qos_profile"] for _, more in asked] == [qos_profile_sensor_data, 10]
    got = []
    found.registerCallback(lambda *told: got.append(told), "tag")
    asked[1][0][2]("picture")
    assert got == [("picture", "tag")]


def test_against_the_real_sensor_msgs_py():
    real = pytest.importorskip("sensor_msgs_py.point_cloud2")
    for cloud in (rig.lidar_cloud(rig.START_NS), rig.event_cloud(rig.START_NS)):
        for names in (None, ["x", "y"]):
            for skip_nans in (False, True):
                expected = real.read_points(cloud, names, skip_nans)
                found = stand_in_point_cloud2.read_points(cloud, names, skip_nans)
                assert found.dtype == expected.dtype and np.array_equal(found, expected)
        assert stand_in_point_cloud2.dtype_from_fields(
            cloud.fields, cloud.point_step
        ) == real.dtype_from_fields(cloud.fields, cloud.point_step)
    points = np.ones(4, real.dtype_from_fields(FIELDS[:2]))
    expected = real.create_cloud(rig.header(Modality.LIDAR, 7), FIELDS[:2], points)
    found = stand_in_point_cloud2.create_cloud(rig.header(Modality.LIDAR, 7), FIELDS[:2], points)
    assert found == expected
    flat = np.arange(9, dtype=np.float32).reshape(3, 3)
    kinds = [PointField(name=n, offset=4 * i, datatype=7, count=1) for i, n in enumerate("xyz")]
    assert stand_in_point_cloud2.create_cloud(Header(), kinds, flat) == real.create_cloud(
        Header(), kinds, flat
    )
