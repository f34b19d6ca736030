"""A rig's calibration survives its file; a wrong file is refused by name."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from anyseg_ros.modalities import (
    CalibrationError,
    CameraModel,
    RigCalibration,
    RigidTransform,
    SensorCalibration,
    load_calibration,
    load_calibration_file,
    save_calibration,
)
from anyseg_ros.modality import Modality


@pytest.fixture
def rig():
    camera = CameraModel(64, 32, 40, 40, 31.5, 15.5, "plumb_bob", (0.1, 0.0, 0.0, 0.0, 0.0))
    transform = RigidTransform.from_quaternion([0.5, -0.5, 0.5, -0.5], [0.1, 0.2, 0.3])
    return RigCalibration(
        camera.undistorted(),
        "camera_optical_frame",
        {
            Modality.CAMERA: SensorCalibration("camera_optical_frame", camera=camera),
            Modality.LIDAR: SensorCalibration("lidar", transform),
        },
    )


def test_round_trip(rig, tmp_path):
    save_calibration(rig, tmp_path / "rig.yaml")
    loaded = load_calibration(tmp_path / "rig.yaml")
    assert loaded.grid == rig.grid and loaded.grid_frame_id == rig.grid_frame_id
    assert loaded.sensors[Modality.CAMERA].camera == rig.sensors[Modality.CAMERA].camera
    for name in ("rotation", "translation"):
        np.testing.assert_allclose(
            getattr(loaded.sensors[Modality.LIDAR].grid_from_sensor, name),
            getattr(rig.sensors[Modality.LIDAR].grid_from_sensor, name),
            atol=1e-9,
        )


def test_a_sensor_without_a_place_in_the_file_gets_none_except_the_camera(rig, tmp_path):
    path = tmp_path / "rig.yaml"
    save_calibration(rig, path)
    data = yaml.safe_load(path.read_text())
    for entry in data["sensors"].values():
        del entry["grid_from_sensor"]
    data["sensors"]["depth"] = {"intrinsics": data["grid"] | {"width": 128}}
    path.write_text(yaml.safe_dump(data))
    loaded = load_calibration(path)
    assert set(loaded.sensors) == {Modality.CAMERA}
    assert set(loaded.unplaced) == {Modality.DEPTH, Modality.LIDAR}
    assert loaded.camera_of(Modality.DEPTH).width == 128
    assert loaded.camera_of(Modality.LIDAR) is None
    save_calibration(loaded, path)
    assert load_calibration(path).unplaced == loaded.unplaced


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda d: d.pop("sensors"), "expected the section 'sensors'.*found 'grid'"),
        (lambda d: d.update(gird=d.pop("grid")), "found 'gird', 'sensors'"),
        (
            lambda d: (d.pop("grid"), d["sensors"]["camera"].pop("intrinsics")),
            "sensors/camera/grid_from_sensor: without a section 'grid'",
        ),
        (lambda d: (d.pop("grid"), d["sensors"].pop("camera")), "'grid' is missing.*CameraInfo"),
        (lambda d: d["grid"].pop("fx"), r"grid: missing \['fx'\]"),
        (lambda d: d["grid"].update(fov=90), r"unknown \['fov'\]"),
        (lambda d: d["sensors"].update(radar={}), "sensors/radar: unknown modality 'radar'"),
        (lambda d: d["sensors"]["lidar"].update(pose=1), r"sensors/lidar: unknown \['pose'\]"),
        (
            lambda d: d["sensors"]["lidar"]["grid_from_sensor"].update(rotation_xyzw=[0, 0, 0, 0]),
            "has no direction",
        ),
        (
            lambda d: d["sensors"]["lidar"]["grid_from_sensor"].update(translation_m=[0, 1]),
            "translation 3",
        ),
        (lambda d: d["grid"].update(width=640.9), "width is 640.9; expected a whole number"),
        (lambda d: d["grid"].update(height=float("inf")), "grid: cannot convert float infinity"),
    ],
)
def test_a_wrong_file_is_refused_by_name(rig, tmp_path, break_it, said):
    path = tmp_path / "rig.yaml"
    save_calibration(rig, path)
    data = yaml.safe_load(path.read_text())
    break_it(data)
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(CalibrationError, match=said) as caught:
        load_calibration(path)
    assert str(path) in str(caught.value)


def test_without_a_grid_it_is_the_cameras_view(rig, tmp_path):
    path = tmp_path / "rig.yaml"
    save_calibration(rig, path)
    data = yaml.safe_load(path.read_text())
    del data["grid"], data["sensors"]["camera"]["grid_from_sensor"]
    path.write_text(yaml.safe_dump(data))
    loaded = load_calibration(path)
    assert (loaded.grid, loaded.grid_frame_id) == (rig.grid, rig.grid_frame_id)
    del data["sensors"]["camera"]
    path.write_text(yaml.safe_dump(data))
    known = load_calibration_file(path)
    assert known.grid is None and set(known.sensors) == {Modality.LIDAR}


@pytest.mark.parametrize("content", [None, "{", "- 1", "\x00\x01"])
def test_an_unreadable_file_is_refused(tmp_path, content):
    path = tmp_path / "rig.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CalibrationError, match=r"rig\.yaml"):
        load_calibration(path)


def documented(folder, begin):
    """The example in the node's documentation that begins with this section, as a file."""
    page = (Path(__file__).parents[2] / "docs/node.md").read_text()
    text = re.search(rf"```yaml\n({begin}:.*?)```", page, re.DOTALL)
    assert text is not None
    path = folder / "rig.yaml"
    path.write_text(text[1])
    return path


def test_the_documented_file_loads_and_its_lidar_looks_ahead(tmp_path):
    rig = load_calibration(documented(tmp_path, "grid"))
    lidar = rig.sensors[Modality.LIDAR].grid_from_sensor
    assert lidar is not None
    ahead_left_up = np.array([[10.0, 2.0, 1.0]])
    np.testing.assert_allclose(
        lidar.apply(ahead_left_up) - lidar.translation, [[-2.0, -1.0, 10.0]], atol=1e-9
    )
    camera = rig.sensors[Modality.CAMERA].camera
    assert camera is not None and camera.distorted


def test_the_documented_short_file_places_an_event_camera(tmp_path):
    known = load_calibration_file(documented(tmp_path, "sensors"))
    assert known.grid is None and set(known.sensors) == {Modality.EVENT}
    assert known.camera_of(Modality.EVENT) is not None
