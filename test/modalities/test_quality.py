"""What a sensor sends when it fails is found; what a healthy one sends in any weather is not."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from sensor_scenes import FIRING_ORDER, RANDOM, camera, depth, events, lidar, orchard, scene

from anyseg_ros.modalities import CameraFrame, DepthFrame, EventPacket, LidarScan
from anyseg_ros.modalities.quality import (
    DEFAULT_LIMITS,
    Fault,
    QualityChecker,
    measure_events,
    measure_lidar,
    neighbours_agreement,
    roughness,
)
from anyseg_ros.modality import Modality

HEALTHY = {
    Modality.CAMERA: camera,
    Modality.DEPTH: depth,
    Modality.LIDAR: lidar,
}


def found(modality, data, before=12):
    """Fault found in a message after ``before`` healthy ones."""
    checker = QualityChecker(modality)
    for i in range(before):
        good = events(3000, (i + 1) * 10_000_000) if modality is Modality.EVENT else None
        assert checker.check(good or HEALTHY[modality]()) is None
    finding = checker.check(data)
    if finding is None:
        return None
    assert finding.reason and str(finding).startswith(finding.fault.value)
    return finding.fault


def test_roughness_tells_smooth_from_noise():
    assert roughness(scene()) < 0.1
    assert roughness(RANDOM.normal(size=(32, 500))) == pytest.approx(1, abs=0.05)
    assert roughness(np.ones((8, 100))) is None


@pytest.mark.parametrize(
    ("image", "fault"),
    [
        (np.zeros((240, 320, 3), np.uint8), Fault.BLACK),
        (RANDOM.integers(0, 5, (240, 320, 3)).astype(np.uint8), Fault.BLACK),
        (np.full((240, 320, 3), 255, np.uint8), Fault.SATURATED),
        (np.full((240, 320, 3), 128, np.uint8), Fault.FLAT),
        (RANDOM.integers(0, 256, (240, 320, 3)).astype(np.uint8), Fault.NOISE),
    ],
)
def test_an_unusable_picture(image, fault):
    assert found(Modality.CAMERA, CameraFrame(image)) is fault


@pytest.mark.parametrize("gain", [30.0, 500.0])
def test_a_dark_or_bright_picture_that_shows_something_is_believed(gain):
    assert found(Modality.CAMERA, camera(gain=gain)) is None


def test_a_night_with_a_few_lamps_and_a_bright_day_are_believed():
    night = RANDOM.integers(0, 4, (240, 320, 3)).astype(np.uint8)
    night[:, 100:106] = 200  # 2 % of the picture
    assert found(Modality.CAMERA, CameraFrame(night)) is None
    day = np.clip(camera().image, 246, 249)
    day[:, :20] = 200  # a shadow
    assert found(Modality.CAMERA, CameraFrame(day)) is None


@pytest.mark.parametrize(
    ("depth_m", "fault"),
    [
        (np.full((240, 320), np.nan, np.float32), Fault.INVALID),
        (np.zeros((240, 320), np.float32), Fault.INVALID),
        (np.full((240, 320), -1.0, np.float32), Fault.INVALID),
        (np.full((240, 320), np.inf, np.float32), Fault.INVALID),
        (np.full((240, 320), 3.0, np.float32), Fault.FLAT),
        (RANDOM.uniform(0.3, 40, (240, 320)).astype(np.float32), Fault.NOISE),
    ],
)
def test_unusable_depth(depth_m, fault):
    assert found(Modality.DEPTH, DepthFrame(depth_m)) is fault


def scan(points):
    points = np.asarray(points, np.float32)
    return LidarScan(points, np.zeros(len(points), np.float32))


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (scan(np.empty((0, 3))), Fault.EMPTY),
        (scan(np.zeros((9000, 3))), Fault.EMPTY),
        (scan(np.full((9000, 3), np.nan)), Fault.EMPTY),
        (lidar(slice(0, 20)), Fault.PARTIAL),
        (lidar(slice(0, 360)), Fault.PARTIAL),
        (scan(RANDOM.uniform(-30, 30, (11520, 3))), Fault.NOISE),
    ],
    ids=["empty", "zeros", "NaN", "sliver", "half", "noise"],
)
def test_an_unusable_cloud(data, fault):
    assert found(Modality.LIDAR, data) is fault


@pytest.mark.parametrize("part", [slice(0, 80), slice(0, 360)], ids=["sparse", "half"])
def test_another_place_is_usual_after_a_minute(part):
    """A robot that leaves a hall for a yard: a LiDAR has far fewer echoes there, for good."""
    checker = QualityChecker(Modality.LIDAR)
    for _ in range(12):
        assert checker.check(lidar()) is None
    findings = [checker.check(lidar(part)) for _ in range(650)]
    believed = next(k for k, found in enumerate(findings) if found is None)
    assert believed == 599 and not any(findings[believed:])
    assert checker.check(lidar()) is None, "more than usual is never wrong"


def test_a_lidar_that_has_next_to_nothing_left_is_not_in_another_place():
    checker = QualityChecker(Modality.LIDAR)
    for _ in range(12):
        assert checker.check(lidar()) is None
    assert all(checker.check(lidar(slice(0, 20))) for _ in range(650))


def test_a_shuffled_cloud_is_believed():
    """Filters and merges may give the points in any order."""
    points = lidar().points_m
    assert found(Modality.LIDAR, scan(RANDOM.permutation(points))) is None


@pytest.mark.parametrize("fog", [0.0, 0.15], ids=["clear", "fog"])
@pytest.mark.parametrize(
    "in_order",
    [
        lambda points: points[:, FIRING_ORDER].reshape(-1, 3),
        lambda points: points.swapaxes(0, 1).reshape(-1, 3),
        lambda points: RANDOM.permutation(points.reshape(-1, 3)),
    ],
    ids=["firing", "rings", "shuffled"],
)
@pytest.mark.parametrize("step_deg", [0.2, 0.05], ids=["28800", "115200"])
def test_leaves_and_fog_are_believed_in_any_order_of_the_points(in_order, fog, step_deg):
    points = in_order(orchard(fog, step_deg))
    assert found(Modality.LIDAR, scan(points)) is None
    assert neighbours_agreement(points) > 0.5


def test_what_leaves_alone_would_be_taken_for():
    """The order in which the points are fired is rough, and so are leaves."""
    seen = measure_lidar(orchard()[:, FIRING_ORDER].reshape(-1, 3))
    assert seen.roughness > DEFAULT_LIMITS[Modality.LIDAR].noise_roughness
    assert seen.scatter > 0.2


def random_ranges():
    points = orchard().reshape(-1, 3)
    directions = points / np.linalg.norm(points, axis=1, keepdims=True)
    return directions * RANDOM.uniform(0.5, 100, (len(points), 1))


@pytest.mark.parametrize(
    "points",
    [
        RANDOM.uniform(-30, 30, (3000, 3)),
        RANDOM.uniform(-1, 1, (28800, 3)) * [80, 27, 8],
        RANDOM.uniform(-1, 1, (28800, 3)) * [100, 100, 3],
        RANDOM.normal(0, 10, (28800, 3)),
        random_ranges(),
    ],
    ids=["few", "box", "flat", "normal", "ranges"],
)
def test_random_points_are_noise_wherever_they_are(points):
    assert found(Modality.LIDAR, scan(points)) is Fault.NOISE
    assert neighbours_agreement(points.astype(np.float32)) < 0.25


def test_a_first_cloud_of_half_a_sensor_is_that_sensors_usual():
    checker = QualityChecker(Modality.LIDAR)
    assert all(checker.check(lidar(slice(0, 360))) is None for _ in range(20))


@pytest.mark.parametrize("modality", HEALTHY, ids=lambda m: m.label)
def test_a_repeated_message_is_frozen_and_a_new_one_is_not(modality):
    data = HEALTHY[modality]()
    checker = QualityChecker(modality)
    assert checker.check(data) is None
    for _ in range(3):
        assert checker.check(data).fault is Fault.FROZEN
    assert checker.check(HEALTHY[modality]()) is None


@pytest.mark.parametrize("buffers", [2, 4])
def test_a_ring_of_buffers_is_frozen(buffers):
    checker = QualityChecker(Modality.CAMERA)
    ring = [camera() for _ in range(buffers)]
    assert [checker.check(frame) for frame in ring] == [None] * buffers
    assert all(checker.check(ring[i % buffers]).fault is Fault.FROZEN for i in range(12))


@pytest.mark.parametrize("quality", [30, 60, 95])
def test_a_still_scene_with_a_sensors_noise_is_not_frozen(quality):
    checker = QualityChecker(Modality.CAMERA)
    for _ in range(10):
        jpeg = cv2.imencode(".jpg", camera(noise=0.5).image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        assert checker.check(CameraFrame(cv2.imdecode(jpeg[1], cv2.IMREAD_COLOR))) is None


def test_a_frozen_camera_with_a_moving_time_stamp_in_its_corner():
    checker = QualityChecker(Modality.CAMERA)
    image = camera().image
    assert checker.check(CameraFrame(image)) is None
    image = image.copy()
    image[2:8, 4:12] ^= 255
    limit = DEFAULT_LIMITS[Modality.CAMERA].frozen_share
    assert limit > 48 / (240 * 320)
    assert checker.check(CameraFrame(image)).fault is Fault.FROZEN


def test_a_switched_off_check_finds_nothing():
    limits = replace(DEFAULT_LIMITS[Modality.CAMERA], frozen_share=0.0, black_level=0.0)
    limits = replace(limits, flat_contrast=0.0)
    checker = QualityChecker(Modality.CAMERA, limits)
    black = CameraFrame(np.zeros((48, 64, 3), np.uint8))
    assert checker.check(black) is None and checker.check(black) is None


@pytest.mark.parametrize("modality", list(Modality), ids=lambda m: m.label)
def test_tiny_data_does_not_break_a_check(modality):
    checker = QualityChecker(modality)
    for size in (1, 2, 3):
        for data in (
            CameraFrame(np.full((size, size, 3), 90, np.uint8)),
            DepthFrame(np.full((size, size), 2.0, np.float32)),
            scan(np.ones((size, 3))),
            events(size, 10**9),
        ):
            checker.check(data)


# --- events: quiet is not a fault ------------------------------------------------------------------


def test_quiet_events_and_a_hot_pixel_are_believed():
    checker = QualityChecker(Modality.EVENT)
    empty = events(0, 0)
    hot = EventPacket(*(np.array([v], t) for v, t in ((5, "u2"), (6, "u2"), (1, "u1"), (0, "i8"))))
    for i in range(200):
        assert checker.check(empty) is None
        shifted = EventPacket(hot.x, hot.y, hot.polarity, hot.stamp_ns + i * 10_000_000)
        assert checker.check(shifted) is None


def test_a_rendered_event_picture_may_stay_empty_but_not_full():
    checker = QualityChecker(Modality.EVENT)
    assert all(checker.check(CameraFrame(np.zeros((48, 64, 3), np.uint8))) is None for _ in "abc")
    assert checker.check(camera()) is None
    full = camera()
    assert checker.check(full) is None
    assert checker.check(full).fault is Fault.FROZEN


def test_a_burst_of_noise_is_found_and_a_burst_of_motion_is_not():
    end = 13 * 10_000_000
    assert found(Modality.EVENT, events(60_000, end, uniform=True)) is Fault.NOISE
    assert found(Modality.EVENT, events(60_000, end)) is None
    assert found(Modality.EVENT, events(3_000, end, uniform=True)) is Fault.NOISE


def test_a_packet_that_was_long_in_coming_tells_of_all_the_time_since_the_last():
    """A driver may cut its packets by number: then the span of one alone says nothing of the rate."""
    checker = QualityChecker(Modality.EVENT)
    for i in range(12):
        assert checker.check(events(3000, (i + 1) * 10_000_000)) is None
    stamps = np.linspace(10**9 - 10**5, 10**9, 3000).astype(np.int64)
    assert checker.check(replace(events(3000, 10**9, uniform=True), stamp_ns=stamps)) is None


def test_noise_alone_of_a_standing_sensor_at_night_is_believed():
    """It had structure while it moved; standing, it sends fewer events, and they have none."""
    checker = QualityChecker(Modality.EVENT)
    packets = [events(30_000, (i + 1) * 10_000_000) for i in range(20)]
    packets += [events(4_000, (i + 21) * 10_000_000, uniform=True) for i in range(50)]
    assert all(checker.check(packet) is None for packet in packets)


def test_the_same_events_again_are_frozen_whatever_their_times():
    checker = QualityChecker(Modality.EVENT)
    first = events(500, 10_000_000)
    assert checker.check(first) is None
    again = EventPacket(first.x, first.y, first.polarity, first.stamp_ns + 10_000_000)
    assert checker.check(again).fault is Fault.FROZEN


def test_clumping_does_not_depend_on_the_number_of_events():
    few, many = (measure_events(events(n, 0, uniform=True), 640, 480) for n in (3000, 300_000))
    assert abs(few.clumping) < 0.1 and abs(many.clumping) < 0.1
    assert measure_events(events(3000, 0), 640, 480).clumping > 1
