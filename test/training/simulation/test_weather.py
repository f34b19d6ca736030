"""Each weather does to each sensor what its formula says; the strengths are set, not drawn."""

from dataclasses import replace

import numpy as np
import pytest

from anyseg_ros.modality import Modality
from training.simulation import atmosphere, camera_sensor, depth_sensor, lidar_sensor
from training.simulation.atmosphere import Atmosphere
from training.simulation.drive import Drive
from training.simulation.rig import street_rig
from training.simulation.street import StreetPlan
from training.simulation.weather import WEATHER_NAMES, WEATHERS, draw_weather

T = 2.0


@pytest.fixture(scope="module")
def drive():
    """A cloudy drive; tests put other air between its sensors and its street."""
    plan = StreetPlan(4.0, WEATHERS["cloud"], "straight", True, ((0.0, 7.0),))
    with Drive((21, 0), plan, street_rig()) as opened:
        yield opened


@pytest.fixture(scope="module")
def seen(drive):
    drive.renderer.pose(T)
    rgb, depth = drive.renderer.color_and_depth(Modality.CAMERA)
    return rgb, depth, drive.renderer.view(Modality.CAMERA), drive.renderer.lamp_positions()


def _light(drive, seen, weather):
    rgb, depth, view, (positions, facings) = seen
    air = Atmosphere(weather, drive.rig.cameras[Modality.CAMERA])
    rng = np.random.default_rng(0)
    return air.radiance(rgb, depth, view, drive.street.lamps, positions, facings, rng)


def test_fog_is_koschmieders_law(drive, seen):
    clear = _light(drive, seen, WEATHERS["clear"])
    fog = replace(WEATHERS["fog"], glow=0.0)
    foggy = _light(drive, seen, fog)
    depth = seen[1]
    distance = depth * np.linalg.norm(drive.rig.cameras[Modality.CAMERA].rays(), axis=-1)
    near = np.isfinite(depth)
    through = np.exp(-fog.extinction_per_m * distance[near])[:, None]
    expected = clear[near] * through + np.array(fog.airlight) * (1 - through)
    assert np.allclose(foggy[near], expected, atol=1e-4)
    assert np.allclose(foggy[~near], fog.airlight, atol=1e-4)


def test_night_is_dark_but_for_lamps_and_its_pictures_are_grainy(drive, seen):
    day = _light(drive, seen, WEATHERS["cloud"])
    night = _light(drive, seen, replace(WEATHERS["night"], glow=0.0))
    sky = np.isinf(seen[1])
    assert np.allclose(night[sky], atmosphere.NIGHT_SKY)
    assert atmosphere.luminance(night).mean() < 0.35 * atmosphere.luminance(day).mean()
    far = np.isfinite(seen[1]) & (seen[1] > 50)
    near = seen[1] < 12
    ratio = atmosphere.luminance(night) / (atmosphere.luminance(day) + 1e-3)
    assert np.median(ratio[near]) > 2 * np.median(ratio[far])

    def grain(light):
        """Standard deviation between two pictures of the same light."""
        a, b = (camera_sensor.expose(light, 1.0, np.random.default_rng(k)) for k in (1, 2))
        return np.std(a.astype(float) - b.astype(float))

    assert grain(night) > 3 * grain(day)


def test_rain_mirrors_the_street_in_the_road_and_draws_streaks(drive, seen):
    rain = replace(WEATHERS["rain"], streaks=0.0, extinction_per_m=0.0, glow=0.0)
    dry = _light(drive, seen, WEATHERS["cloud"])
    wet = _light(drive, seen, rain)
    labels = drive.labels(T)
    changed = np.abs(wet - dry).max(-1) > 1e-3
    assert changed[labels == 0].mean() > 0.7
    assert changed[labels == 2].mean() < 0.02  # facades stay as they are
    streaky = _light(drive, seen, replace(rain, streaks=1.0))
    marked = np.abs(streaky - wet).max(-1) > 1e-3
    assert 0.005 < marked.mean() < 0.3


def test_weather_reaches_every_sub_frame_of_the_event_camera():
    plan = StreetPlan(4.0, WEATHERS["cloud"], "straight", True, ((0.0, 0.0),))
    counts = {}
    for name in ("cloud", "rain"):
        with Drive((22, 0), replace(plan, weather=WEATHERS[name]), street_rig()) as drive:
            counts[name] = len(drive.events(np.array([1.0, 1.02, 1.04]), 0).x)
    # The rig stands: what is new in the rain are streaks, each of which comes and goes.
    assert counts["rain"] > 1.5 * counts["cloud"]


def test_fog_attenuates_lidar_echoes_and_adds_droplets(drive):
    drive.renderer.pose(T)
    clear = WEATHERS["clear"]
    scans = {
        name: lidar_sensor.scan(drive.renderer, air, None, np.random.default_rng(0))
        for name, air in {
            "clear": clear,
            "thin": replace(clear, lidar_extinction_per_m=0.03),
            "fog": replace(clear, lidar_extinction_per_m=0.03, lidar_backscatter=0.2),
        }.items()
    }
    far = {k: np.linalg.norm(s.points_m, axis=1) for k, s in scans.items()}
    assert (far["thin"] > 40).sum() < 0.6 * (far["clear"] > 40).sum()
    assert np.mean(scans["thin"].intensity) < 0.8 * np.mean(scans["clear"].intensity)
    share = (far["fog"] < 4).sum() / len(drive.rig.lidar.directions())
    # A droplet echoes with 1 - exp(-0.2), and 51 % of them are nearer than 4 m.
    assert 0.06 < share < 0.13


def test_stereo_loses_far_pixels_in_fog_and_the_range_limit_holds():
    rng = np.random.default_rng
    exact = np.tile(np.linspace(2, 90, 320, dtype=np.float32), (160, 1))
    clear = depth_sensor.measure(exact, WEATHERS["clear"], 16, rng(0))
    assert not clear[exact > 71].any()
    near = exact < 40
    assert (clear[near] > 0).mean() > 0.99
    error = clear[near] / 1000.0 - exact[near]
    # d = F / z, so a disparity error e becomes z^2 e / F.
    limit = exact[near] ** 2 * depth_sensor.DISPARITY_SIGMA / depth_sensor.FOCAL_BASELINE
    assert np.std(error / limit) < 1.5
    fog = depth_sensor.measure(exact, WEATHERS["fog"], 16, rng(0))
    beyond = -np.log(depth_sensor.LEAST_CONTRAST) / WEATHERS["fog"].extinction_per_m
    assert (fog[exact > 1.1 * beyond] > 0).mean() < 0.2 < (fog[exact < 0.8 * beyond] > 0).mean()
    night = depth_sensor.measure(exact, WEATHERS["night"], 16, rng(0))
    assert (night[near] == 0).mean() > 0.1


def test_clear_weather_alone_casts_shadows_and_every_weather_can_be_drawn():
    assert [n for n in WEATHER_NAMES if WEATHERS[n].shadows] == ["clear"]
    for name in WEATHER_NAMES:
        assert draw_weather(name, np.random.default_rng(0)).name == name
    with pytest.raises(ValueError, match="hail"):
        draw_weather("hail", np.random.default_rng(0))


def test_far_walls_are_not_near_ones():
    wall = np.full((64, 128), 69.0, np.float32)
    for steps in (4, 16):
        measured = depth_sensor.measure(wall, WEATHERS["clear"], steps, np.random.default_rng(0))
        assert 0 < np.count_nonzero(measured) < measured.size  # some read less than 65.5 m
        assert measured[measured > 0].min() > 55_000
