"""The five failures degrade their own sensor, by their formula, and no other."""

import numpy as np
import pytest

from anyseg_ros.modality import Modality
from training.simulation import failures
from training.simulation.drive import Drive
from training.simulation.event_sensor import EventSensor
from training.simulation.failures import FAILURES
from training.simulation.rig import street_rig
from training.simulation.street import StreetPlan
from training.simulation.weather import WEATHERS

T = 2.0
TIMES = np.array([1.96, 1.98, 2.0])
OWN_SENSOR = {
    "motion_blur": "camera",
    "over_exposure": "camera",
    "under_exposure": "camera",
    "lidar_jitter": "lidar",
    "event_low_resolution": "event",
}


@pytest.fixture(scope="module")
def drive():
    plan = StreetPlan(4.0, WEATHERS["cloud"], "bend", True, ((0.0, 9.0),))
    with Drive((31, 0), plan, street_rig()) as opened:
        yield opened


def _capture(drive, failure):
    scan = drive.lidar(T, failure)
    events = drive.events(TIMES, 0, failure)
    return {
        "camera": drive.camera(T, failure).tobytes(),
        "depth": drive.depth(T).tobytes(),
        "event": events.x.tobytes() + events.stamp_ns.tobytes(),
        "lidar": scan.points_m.tobytes() + scan.intensity.tobytes(),
    }


@pytest.fixture(scope="module")
def healthy(drive):
    return _capture(drive, None)


@pytest.mark.parametrize("failure", FAILURES)
def test_only_the_named_sensor_is_degraded(drive, healthy, failure):
    failed = _capture(drive, failure)
    assert {s for s in healthy if failed[s] != healthy[s]} == {OWN_SENSOR[failure]}


def test_an_unknown_failure_is_refused(drive):
    with pytest.raises(ValueError, match="motion_blur"):
        drive.camera(T, "hiccup")


def _sharpness(picture):
    values = picture.astype(float).mean(-1)
    return np.abs(np.diff(values, axis=1)).mean()


def test_motion_blur_averages_an_exposure_centred_on_the_stamp(drive):
    times = failures.blur_times(T)
    assert np.isclose(times.mean(), T) and np.isclose(np.ptp(times), failures.BLUR_EXPOSURE_S)
    assert _sharpness(drive.camera(T, "motion_blur")) < 0.8 * _sharpness(drive.camera(T))


def test_exposure_fails_by_the_stated_stops(drive):
    for failure, (low, high), sign in (
        ("over_exposure", failures.OVER_STOPS, 1),
        ("under_exposure", failures.UNDER_STOPS, -1),
    ):
        gains = [failures.exposure_gain(failure, np.random.default_rng(k)) for k in range(50)]
        stops = sign * np.log2(gains)
        assert low <= stops.min() < stops.max() <= high
    assert failures.exposure_gain(None, np.random.default_rng(0)) == 1.0
    good = drive.camera(T)
    over = drive.camera(T, "over_exposure")
    under = drive.camera(T, "under_exposure")
    assert (over == 255).mean() > 0.25 > (good == 255).mean()
    assert under.mean() < 0.5 * good.mean()


def test_lidar_jitter_is_a_rotation_of_a_degree_and_a_shift_of_a_centimetre():
    points = np.random.default_rng(0).uniform(-30, 30, (500, 3)).astype(np.float32)
    angles = []
    for k in range(40):
        moved = failures.jitter_points(points, np.random.default_rng(k))
        # Best rotation between both clouds (Kabsch).
        u, _, vt = np.linalg.svd((moved - moved.mean(0)).T @ (points - points.mean(0)))
        rotation = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
        angles.append(np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))))
        shift = moved.astype(float) - points.astype(float) @ rotation.T
        assert np.abs(shift).max() < failures.JITTER_M + 1e-3
    assert max(angles) < failures.JITTER_DEG * np.sqrt(3) + 1e-3
    assert max(angles) > 0.7 * failures.JITTER_DEG


def test_a_low_resolution_event_camera_reports_block_centres(drive):
    events = drive.events(TIMES, 0, "event_low_resolution")
    assert len(events.x) > 100
    centre = failures.EVENT_BLOCK // 2
    assert set(np.unique(events.x % failures.EVENT_BLOCK)) == {centre}
    assert set(np.unique(events.y % failures.EVENT_BLOCK)) == {centre}


# -- the event camera itself ---------------------------------------------------------------------


def _sensor(limit_hz=np.inf, weather=WEATHERS["clear"]):
    quiet = np.random.default_rng(0)
    return EventSensor(64, 32, weather, None, quiet, 0.24, limit_hz)


def _flat(value):
    return np.full((32, 64, 3), value, np.float32)


def test_events_count_the_steps_of_log_luminance_and_are_stamped_between_sub_frames():
    sensor = _sensor()
    rng = np.random.default_rng(1)
    assert len(sensor.see(0, _flat(0.2), rng).x) == 0
    events = sensor.see(10_000_000, _flat(0.4), rng)
    # A pixel starts up to half a threshold off its last event, and only whole steps count.
    steps = np.log(0.42 / 0.22) / 0.24 - 0.5
    assert len(events.x) / (64 * 32) == pytest.approx(steps, rel=0.05)
    assert events.polarity.mean() > 0.99
    assert events.stamp_ns.min() >= 0 and events.stamp_ns.max() <= 10_000_000
    assert (np.diff(events.stamp_ns) >= 0).all()
    darker = sensor.see(20_000_000, _flat(0.2), rng)
    assert darker.polarity.mean() < 0.01


def test_a_still_scene_gives_noise_only_and_the_night_more_of_it():
    for name in ("clear", "night"):
        weather = WEATHERS[name]
        sensor = _sensor(weather=weather)
        rng = np.random.default_rng(1)
        sensor.see(0, _flat(0.2), rng)
        events = sensor.see(1_000_000_000, _flat(0.2), rng)
        expected = weather.event_noise_hz * 64 * 32
        assert len(events.x) == pytest.approx(expected, abs=4 * np.sqrt(expected) + 1)


def test_event_rate_control_keeps_a_random_share():
    sensor = _sensor(limit_hz=50_000)
    rng = np.random.default_rng(1)
    sensor.see(0, _flat(0.2), rng)
    events = sensor.see(10_000_000, _flat(0.8), rng)
    assert len(events.x) == pytest.approx(500, abs=100)


def test_the_rig_at_rest_sees_few_events():
    counts = {}
    for speed in (0.0, 8.0):
        plan = StreetPlan(4.0, WEATHERS["cloud"], "straight", False, ((0.0, speed),))
        with Drive((32, 0), plan, street_rig()) as drive:
            counts[speed] = len(drive.events(TIMES, 0).x)
            camera = drive.rig.cameras[Modality.EVENT]
    assert counts[0.0] < 0.35 * counts[8.0]
    assert counts[8.0] > 0.02 * camera.width * camera.height
