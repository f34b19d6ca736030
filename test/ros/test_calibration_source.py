"""Grid, intrinsics and extrinsics become known one by one, and what is missing is said."""

from dataclasses import replace

import pytest
import rig

from anyseg_ros.modalities import (
    CalibrationError,
    CalibrationFile,
    CameraModel,
    RigCalibration,
    RigidTransform,
    SensorCalibration,
)
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


def test_intrinsics_from_a_file_and_extrinsics_from_tf():
    file = rig.calibration()
    open_place = {Modality.DEPTH: rig.DEPTH, Modality.LIDAR: None}
    placed = {m: s for m, s in file.sensors.items() if m not in open_place}
    found = source(RigCalibration(file.grid, file.grid_frame_id, placed, open_place))
    assert not any(found.needs_camera_info(m) for m in MODALITIES)
    for modality in open_place:
        found.set_frame(modality, rig.FRAMES[modality])
        assert "no extrinsics" in found.missing(modality)
        assert modality not in found.rig().sensors
    assert found.missing_transforms() == {m: rig.FRAMES[m] for m in open_place}
    found.set_transform(Modality.DEPTH, RigidTransform.identity())
    assert found.rig().sensors[Modality.DEPTH].camera == rig.DEPTH


def test_a_transform_from_tf_serves_only_the_frames_that_it_joins():
    found = source()
    found.set_camera_info(Modality.CAMERA, rig.CAMERA, "cam")

    def lacks_a_transform() -> bool:
        return "no extrinsics" in found.missing(Modality.LIDAR)

    for frame in ("front", "rear", "front"):
        assert found.set_frame(Modality.LIDAR, frame) and lacks_a_transform()
        assert not found.set_frame(Modality.LIDAR, frame)
        assert found.missing_transforms() == {Modality.LIDAR: frame}
        found.set_transform(Modality.LIDAR, RigidTransform.identity())
        assert not lacks_a_transform()
    found.set_camera_info(Modality.CAMERA, rig.CAMERA, "other_cam")
    assert lacks_a_transform()


def test_a_file_of_one_sensor_leaves_grid_and_the_others_to_camera_info_and_tf():
    """An event camera whose driver sends no CameraInfo, beside sensors that tell all by themselves."""
    event = rig.calibration().sensors[Modality.EVENT]
    found = source(CalibrationFile(None, "", {Modality.EVENT: event}))
    assert found.rig() is None and found.grid_frame_id == ""
    assert "give a grid in calibration_file" in found.missing(Modality.EVENT)
    wanted = {m for m in MODALITIES if found.needs_camera_info(m)}
    assert wanted == {Modality.CAMERA, Modality.DEPTH}
    found.set_camera_info(Modality.CAMERA, rig.CAMERA, "cam")
    found.set_camera_info(Modality.DEPTH, rig.DEPTH, "dep")
    assert found.rig().grid == rig.CAMERA and found.grid_frame_id == "cam"
    assert found.rig().sensors[Modality.EVENT] == event
    assert not found.missing(Modality.CAMERA) and not found.missing(Modality.EVENT)
    for modality in (Modality.DEPTH, Modality.LIDAR):
        found.set_frame(modality, modality.label)
        assert "no extrinsics" in found.missing(modality)
        found.set_transform(modality, RigidTransform.identity())
    assert set(found.rig().sensors) == set(MODALITIES)


def test_a_sensor_in_the_grids_own_frame_needs_no_tf():
    """Aligned depth of a RealSense, say, carries the colour camera's frame."""
    found = source()
    optical = "camera_color_optical_frame"
    found.set_camera_info(Modality.CAMERA, rig.CAMERA, optical)
    found.set_camera_info(Modality.DEPTH, rig.CAMERA, optical)
    assert "no extrinsics" in found.missing(Modality.DEPTH)  # no message has named a frame yet
    found.set_frame(Modality.DEPTH, optical)
    assert found.missing(Modality.DEPTH) == "" and Modality.DEPTH not in found.missing_transforms()
    placed = found.rig().sensors[Modality.DEPTH].grid_from_sensor
    assert (placed.rotation == RigidTransform.identity().rotation).all()
    assert not placed.translation.any()
    found.set_frame(Modality.DEPTH, "camera_depth_optical_frame")
    assert "no extrinsics" in found.missing(Modality.DEPTH)
    unnamed = source()
    unnamed.set_camera_info(Modality.CAMERA, rig.CAMERA, "")
    unnamed.set_frame(Modality.LIDAR, "")
    assert "no extrinsics" in unnamed.missing(Modality.LIDAR)


def test_where_tf_cannot_be_heard_nobody_is_sent_there():
    found = source()
    found.set_camera_info(Modality.CAMERA, rig.CAMERA, "cam")
    found.set_frame(Modality.LIDAR, "velodyne")
    assert "publish them on TF" in found.missing(Modality.LIDAR)
    found.tf_problem = "tf2_ros cannot be imported (No module named 'tf2_ros')"
    said = found.missing(Modality.LIDAR)
    assert "'velodyne' to 'cam'" in said and "publish" not in said
    for words in ("tf2_ros cannot be imported", "calibration_file", "lidar.extrinsics"):
        assert words in said


def test_a_refused_camera_info_is_told_from_one_that_does_not_come():
    found = source(camera__topic="/front/image_raw")
    assert "no CameraInfo on /front/camera_info yet" in found.missing(Modality.DEPTH)
    found.refuse_camera_info(Modality.CAMERA, "all 0 means uncalibrated")
    for modality in MODALITIES:
        assert "comes on /front/camera_info but is refused" in found.missing(modality)
        assert "uncalibrated" in found.missing(modality)
        assert "camera.camera_info_topic" in found.missing(modality)
    found.set_camera_info(Modality.CAMERA, rig.CAMERA, "cam")
    assert found.missing(Modality.CAMERA) == ""
    found.refuse_camera_info(Modality.EVENT, "distortion_model")
    assert "no intrinsics" in found.missing(Modality.EVENT)
    assert "event.camera_info_topic" in found.missing(Modality.EVENT)
    assert "refused" not in found.missing(Modality.DEPTH)


def test_extrinsics_from_parameters():
    found = source(lidar__extrinsics=[1, 2, 3, 0, 0, 0, 2])
    found.set_camera_info(Modality.CAMERA, rig.CAMERA, "cam")
    assert found.rig().sensors[Modality.LIDAR].grid_from_sensor.translation.tolist() == [1, 2, 3]


def test_the_file_comes_before_camera_info_and_a_parameter_before_the_file():
    file = rig.calibration()
    found = source(file, lidar__extrinsics=[1.0, 2, 3, 0, 0, 0, 1])
    other = CameraModel.from_fov(80, 60, 30.0)
    for modality in (Modality.CAMERA, Modality.DEPTH):
        found.set_camera_info(modality, other, "elsewhere")
        found.set_transform(modality, RigidTransform.identity())
    sensors = found.rig().sensors
    assert found.rig().grid == file.grid and found.grid_frame_id == file.grid_frame_id
    assert sensors[Modality.DEPTH].camera == rig.DEPTH
    placed = file.sensors[Modality.DEPTH].grid_from_sensor
    assert sensors[Modality.DEPTH].grid_from_sensor is placed
    assert sensors[Modality.LIDAR].grid_from_sensor.translation.tolist() == [1, 2, 3]
    # The file's frame is that of the place that the parameter overrules.
    assert found.frame_in_file(Modality.LIDAR) == ""
    assert found.frame_in_file(Modality.DEPTH) == rig.FRAMES[Modality.DEPTH]


def test_registered_depth_lies_in_the_cameras_picture():
    found = source(depth__registered=True)
    distorted = CameraModel(128, 64, 60, 60, 64, 32, "plumb_bob", (0.1, 0, 0, 0, 0))
    found.set_camera_info(Modality.CAMERA, distorted, "cam")
    depth = found.rig().sensors[Modality.DEPTH]
    assert depth.camera == distorted
    assert not found.needs_camera_info(Modality.DEPTH)
    assert not found.rig().grid.distorted


@pytest.mark.parametrize("in_file", [True, False])
def test_registered_depth_has_the_cameras_distortion_though_its_pictures_are_not_used(in_file):
    distorted = CameraModel(128, 64, 60, 60, 64, 32, "plumb_bob", (0.1, 0, 0, 0, 0))
    moved = RigidTransform.from_quaternion((0, 0, 0, 1), (0.1, 0, 0))
    file = RigCalibration(
        distorted.undistorted(),
        "grid",
        {Modality.CAMERA: SensorCalibration("cam", moved, distorted)},
    )
    found = source(file if in_file else None, MODALITIES[1:], depth__registered=True)
    assert found.needs_camera_info(Modality.CAMERA) is not in_file
    if not in_file:
        found.set_camera_info(Modality.CAMERA, distorted, "cam")
    depth = found.rig().sensors[Modality.DEPTH]
    assert depth.camera == distorted
    assert (depth.grid_from_sensor is moved) is in_file


def test_a_file_with_the_grid_alone_leaves_the_cameras_distortion_to_camera_info():
    distorted = CameraModel(128, 64, 60, 60, 64, 32, "plumb_bob", (0.1, 0, 0, 0, 0))
    file = RigCalibration(distorted.undistorted(), "cam", {})
    found = source(file, MODALITIES[1:], depth__registered=True)
    assert found.needs_camera_info(Modality.CAMERA)
    found.set_camera_info(Modality.CAMERA, distorted, "cam")
    assert found.rig().sensors[Modality.DEPTH].camera == distorted


@pytest.mark.parametrize("disabled", [True, False])
def test_the_grid_comes_from_camera_info_even_if_the_camera_is_not_used(disabled):
    modalities = MODALITIES[1:] if disabled else MODALITIES
    found = source(modalities=modalities, depth__registered=True)
    assert found.needs_camera_info(Modality.CAMERA)
    found.set_camera_info(Modality.CAMERA, rig.CAMERA, "cam")
    assert Modality.DEPTH in found.rig().sensors
    assert (Modality.CAMERA in found.rig().sensors) is not disabled


def test_a_frame_that_messages_do_not_name_is_the_files_never_the_cameras():
    found = source(rig.calibration())
    assert found.rig().sensors[Modality.LIDAR].frame_id == rig.FRAMES[Modality.LIDAR]
    found.set_frame(Modality.LIDAR, "velodyne")
    assert found.rig().sensors[Modality.LIDAR].frame_id == "velodyne"
    found.set_frame(Modality.LIDAR, "")
    assert found.rig().sensors[Modality.LIDAR].frame_id == rig.FRAMES[Modality.LIDAR]
    bare = source(lidar__extrinsics=[0.0, 0, 0, 0, 0, 0, 1])
    bare.set_camera_info(Modality.CAMERA, rig.CAMERA, "cam")
    assert bare.rig().sensors[Modality.LIDAR].frame_id == ""


def test_a_camera_info_without_a_frame_is_helped_out_by_the_pictures():
    found = source()
    found.set_camera_info(Modality.CAMERA, rig.CAMERA, "")
    found.set_frame(Modality.LIDAR, "velodyne")
    assert "neither the camera's CameraInfo nor its pictures name a frame" in found.missing(
        Modality.LIDAR
    )
    assert found.missing(Modality.CAMERA) == ""  # it is segmented all the same
    found.set_frame(Modality.CAMERA, "cam")
    assert found.grid_frame_id == "cam"
    assert "'velodyne' to 'cam'" in found.missing(Modality.LIDAR)


def test_tf_is_of_use_only_while_a_place_is_unknown():
    found = source(lidar__extrinsics=[0.0, 0, 0, 0, 0, 0, 1])
    assert found.lacks_extrinsics
    found.set_camera_info(Modality.CAMERA, rig.CAMERA, "cam")
    for modality in (Modality.DEPTH, Modality.EVENT):
        found.set_frame(modality, modality.label)
        found.set_transform(modality, RigidTransform.identity())
    assert not found.lacks_extrinsics
    assert not source(rig.calibration()).lacks_extrinsics


def test_rectified_pictures_of_a_distorted_camera_are_refused():
    file = rig.calibration()
    bent = replace(rig.CAMERA, distortion_model="plumb_bob", distortion=(-0.3, 0.1, 0, 0, 0))
    sensors = {**file.sensors, Modality.CAMERA: SensorCalibration("cam", camera=bent)}
    bent_file = RigCalibration(file.grid, file.grid_frame_id, sensors)
    with pytest.raises(CalibrationError, match=r"camera\.rectified is true, but calibration_file"):
        source(bent_file, camera__rectified=True)
    source(bent_file)
    source(file, camera__rectified=True)
