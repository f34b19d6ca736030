"""What is rendered is true: labels, depth and LiDAR against independent rays; streets as promised."""

import math

import mujoco
import mujoco.egl
import numpy as np
import pytest

from anyseg_ros.classes import CITYSCAPES_19
from anyseg_ros.modalities.calibration import load_calibration, save_calibration
from anyseg_ros.modality import Modality
from training.simulation import renderer
from training.simulation.drive import Drive
from training.simulation.rig import draw_rig, street_rig
from training.simulation.road import LAYOUTS
from training.simulation.street import StreetPlan, build_street
from training.simulation.weather import WEATHERS

T = 2.0
SPEED = ((0.0, 7.0),)


@pytest.fixture(scope="module")
def drive():
    plan = StreetPlan(4.0, WEATHERS["cloud"], "bend", True, SPEED)
    with Drive((11, 0), plan, street_rig()) as opened:
        yield opened


def _pixel_rays(drive, modality, pixels):
    """World rays through pixels by the calibration alone, with mj_ray, one by one."""
    drive.renderer.pose(T)
    view = drive.renderer.view(modality)
    model, data = drive.renderer.model, drive.renderer.data
    model.geom_group[:] = 0
    labels, depths = [], []
    for u, v in pixels:
        local = np.array(
            [(u - view.camera.cx) / view.camera.fx, (v - view.camera.cy) / view.camera.fy, 1]
        )
        direction = view.world_from_optical.rotation @ local
        geom = np.zeros(1, np.int32)
        distance = mujoco.mj_ray(
            model, data, view.world_from_optical.translation, direction, None, 1, -1, geom, None
        )
        labels.append(int(model.geom_user[geom[0], 0]) if geom[0] >= 0 else renderer.SKY)
        depths.append(distance if geom[0] >= 0 else math.inf)
    return np.array(labels), np.array(depths)


@pytest.mark.parametrize("modality", [Modality.CAMERA, Modality.DEPTH])
def test_labels_and_depth_agree_with_rays_cast_through_the_calibration(drive, modality):
    camera = drive.rig.cameras[modality]
    rng = np.random.default_rng(0)
    pixels = np.stack([rng.integers(0, camera.width, 600), rng.integers(0, camera.height, 600)], 1)
    expected, distance = _pixel_rays(drive, modality, pixels)
    drive.renderer.pose(T)
    labels, depth = drive.renderer.labels_and_depth(modality)
    seen = labels[pixels[:, 1], pixels[:, 0]]
    agree = seen == expected
    assert agree.mean() > 0.985  # edges of geoms fall within a pixel
    measured = depth[pixels[:, 1], pixels[:, 0]]
    assert np.array_equal(np.isinf(measured[agree]), np.isinf(distance[agree]))
    # A ray of z = 1 has its z-depth as length; what is far is drawn in a float's precision.
    finite = agree & np.isfinite(distance)
    error = np.abs(measured[finite] - distance[finite])
    assert np.median(error) < 1e-3
    assert np.quantile(error / distance[finite], 0.95) < 0.01


def test_lidar_points_lie_on_what_the_camera_sees(drive):
    drive.renderer.pose(T)
    labels, depth = drive.renderer.labels_and_depth(Modality.CAMERA)
    directions, hits = drive.renderer.lidar_hits(90.0)
    found = np.isfinite(hits.distance_m)
    points = directions[found] * hits.distance_m[found, None]
    calibration = drive.rig.calibration()
    points = calibration.sensors[Modality.LIDAR].grid_from_sensor.apply(points)
    ahead = points[:, 2] > 2
    pixels = np.rint(calibration.grid.project(points[ahead])).astype(int)
    inside = ((pixels >= 0) & (pixels < (512, 256))).all(1)
    x, y = pixels[inside].T
    z = points[ahead][inside][:, 2]
    visible = np.abs(depth[y, x] - z) < 0.03 * z
    assert visible.mean() > 0.85  # the rest is hidden from the camera: the sensors sit apart
    same = labels[y, x] == hits.labels[found][ahead][inside]
    assert same[visible].mean() > 0.96


def test_the_vehicle_never_sees_itself(drive):
    assert not np.any(drive.renderer.model.geom_bodyid == drive.renderer.model.body("ego").id)


def test_culling_changes_no_label(drive):
    drive.renderer.pose(T)
    culled, _ = drive.renderer.labels_and_depth(Modality.CAMERA)
    hide = drive.renderer._hide
    drive.renderer._hide = lambda *_: drive.renderer.model.geom_group.__setitem__(slice(None), 0)
    try:
        drive.renderer.pose(T)
        whole, _ = drive.renderer.labels_and_depth(Modality.CAMERA)
    finally:
        drive.renderer._hide = hide
    assert (culled != whole).mean() < 0.001


def test_streets_hold_the_classes_of_the_field():
    seen = set()
    for k in range(6):
        plan = StreetPlan(4.0, WEATHERS["cloud"], LAYOUTS[k % 4], k % 2 == 0, SPEED)
        with Drive((12, k), plan, street_rig()) as drive:
            labels = np.concatenate([drive.labels(t).ravel() for t in (0.5, 3.5)])
        ids, counts = np.unique(labels, return_counts=True)
        seen |= set(ids[counts > 20])
    names = {CITYSCAPES_19.names[i] for i in seen}
    assert len(names) >= 16, sorted(names)
    assert {"road", "sidewalk", "building", "vegetation", "sky", "person", "car", "pole"} <= names


@pytest.mark.parametrize("layout", LAYOUTS)
def test_roads_curve_and_cross(layout):
    plan = StreetPlan(4.0, WEATHERS["cloud"], layout, layout != "sweep", SPEED)
    street = build_street(np.random.default_rng(5), plan, street_rig().mount)
    assert (street.turn_rad > 0.3) == (layout != "straight")
    assert (street.crossing_m is not None) == (layout != "sweep")


def test_layouts_and_crossings_are_drawn_where_the_plan_leaves_them_open():
    streets = [
        build_street(
            np.random.default_rng([6, k]), StreetPlan(4.0, WEATHERS["cloud"]), street_rig().mount
        )
        for k in range(8)
    ]
    assert len({s.layout for s in streets}) >= 3
    assert 0 < sum(s.crossing_m is not None for s in streets) < 8


def test_the_sensors_sit_apart_and_the_calibration_survives_a_file(tmp_path):
    rig = street_rig()
    calibration = rig.calibration()
    places = [tuple(t.translation) for t in rig.base_from_sensor.values()]
    assert len(set(places)) == 4
    assert calibration.grid == calibration.sensors[Modality.CAMERA].camera
    save_calibration(calibration, tmp_path / "calibration.yaml")
    read = load_calibration(tmp_path / "calibration.yaml")
    for modality, sensor in calibration.sensors.items():
        assert np.allclose(
            read.sensors[modality].grid_from_sensor.rotation, sensor.grid_from_sensor.rotation
        )
    # The LiDAR looks along the camera's axis: x of one is z of the other.
    forward = calibration.sensors[Modality.LIDAR].grid_from_sensor.rotation @ [1, 0, 0]
    assert forward[2] > 0.99


def test_sensor_quality_varies_between_drives():
    rigs = [draw_rig(np.random.default_rng(k)) for k in range(20)]
    assert len({r.lidar for r in rigs}) > 3
    assert len({r.disparity_steps for r in rigs}) == 3
    assert any(math.isinf(r.event_limit_hz) for r in rigs)
    assert any(r.event_limit_hz < 5e5 for r in rigs)
    assert len({r.event_threshold for r in rigs}) == 20


def test_without_opengl_the_packages_are_named(monkeypatch):
    def refuse(*_):
        raise RuntimeError("no display")

    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setattr(mujoco.egl, "GLContext", refuse)
    with pytest.raises(renderer.RenderingError, match="libegl1 libgl1-mesa-dri libopengl0"):
        renderer._open_context(8, 8)
