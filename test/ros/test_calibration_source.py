"""Grid, intrinsics and extrinsics become known one by one, and what is missing is said."""

import pytest
import rig

from anyseg_ros.modalities import CameraModel, RigidTransform
from anyseg_ros.modality import MODALITIES, Modality
from anyseg_ros.ros.calibration_source import CalibrationSource
from anyseg_ros.ros.parameters import NodeParameters


def source(from_file=None, modalities=MODALITIES, **values):
    parameters = NodeParameters.from_values({k.replace("__", "."): v for k, v in values.items()})
    return CalibrationSource(parameters.sensors, modalities, from_file)


def test_a_file_is_enough_without_any_camera_info():
    found = source(rig.calibration())
    assert not any(found.missing(m) for m in MODALITIES)
    assert set(found.rig().sensors) == set(MODALITIES)
    assert not any(found.needs_camera_info(m) for m in MODALITIES)


def test_without_a_file_each_sensor_says_what_it_waits_for():
    found = source()
    assert found.rig() is None
    assert all("CameraInfo on camera/camera_info" in found.missing(m) for m in MODALITIES)

    assert found.set_camera_info(Modality.CAMERA, rig.CAMERA, "cam")
    assert not found.set_camera_info(Modality.CAMERA, rig.CAMERA, "cam")
    assert found.grid_frame_id == "cam"
    assert found.missing(Modality.CAMERA) == ""
    assert "depth/camera_info" in found.missing(Modality.DEPTH)
    assert "calibration_file" in found.missing(Modality.LIDAR)

    found.set_camera_info(Modality.DEPTH, rig.DEPTH, "dep")
    found.set_frame(Modality.DEPTH, "dep")
    found.set_frame(Modality.LIDAR, "velodyne")
    assert "'dep' to 'cam'" in found.missing(Modality.DEPTH)
    assert found.missing_transforms() == {Modality.DEPTH: "dep", Modality.LIDAR: "velodyne"}
    found.set_transform(Modality.LIDAR, RigidTransform.identity())
    assert set(found.rig().sensors) == {Modality.CAMERA, Modality.LIDAR}


def test_extrinsics_from_parameters():
    found = source(lidar__extrinsics=[1, 2, 3, 0, 0, 0, 2])
    found.set_camera_info(Modality.CAMERA, rig.CAMERA, "cam")
    assert found.rig().sensors[Modality.LIDAR].grid_from_sensor.translation.tolist() == [1, 2, 3]


def test_registered_depth_lies_in_the_cameras_picture():
    found = source(depth__registered=True)
    distorted = CameraModel(128, 64, 60, 60, 64, 32, "plumb_bob", (0.1, 0, 0, 0, 0))
    found.set_camera_info(Modality.CAMERA, distorted, "cam")
    depth = found.rig().sensors[Modality.DEPTH]
    assert depth.camera == distorted
    assert not found.needs_camera_info(Modality.DEPTH)
    assert not found.rig().grid.distorted


@pytest.mark.parametrize("disabled", [True, False])
def test_the_grid_comes_from_camera_info_even_if_the_camera_is_not_used(disabled):
    modalities = MODALITIES[1:] if disabled else MODALITIES
    found = source(modalities=modalities, depth__registered=True)
    assert found.needs_camera_info(Modality.CAMERA)
    found.set_camera_info(Modality.CAMERA, rig.CAMERA, "cam")
    assert Modality.DEPTH in found.rig().sensors
    assert (Modality.CAMERA in found.rig().sensors) is not disabled
