"""The demo takes every kind of topic that it says it takes."""

from __future__ import annotations

import pytest
import rig
from rclpy.serialization import serialize_message

from anyseg_ros.modalities import DEFAULT_ENCODINGS, SegmentationGrid, make_image_builder
from anyseg_ros.modality import MODALITIES
from anyseg_ros.ros.demo import DemoError, _picture, _sensor_parameters
from anyseg_ros.ros.recorder import InputReceipt

CAMERA, DEPTH, EVENT, LIDAR = MODALITIES


@pytest.mark.parametrize(
    ("modality", "kind", "message"),
    [
        (CAMERA, "image", rig.camera_image),
        (CAMERA, "compressed", rig.compressed_image),
        (DEPTH, "image", rig.depth_image),
        (DEPTH, "compressed_depth", rig.compressed_depth),
        (EVENT, "points", rig.event_cloud),
        (EVENT, "image", rig.camera_image),
        (LIDAR, "points", rig.lidar_cloud),
    ],
)
def test_a_picture_is_drawn_of_what_the_topic_carries(modality, kind, message):
    calibration = rig.calibration()
    grid = SegmentationGrid.create(calibration.grid, calibration.grid_frame_id, 128, 64)
    sensor = calibration.sensors[modality]
    if (modality, kind) == (EVENT, "image"):
        sensor = calibration.sensors[CAMERA]  # a picture of the camera's size
    builder = make_image_builder(modality, DEFAULT_ENCODINGS[modality], grid, sensor)
    stamps = [rig.START_NS + index * 40_000_000 for index in range(3)]
    receipts = [InputReceipt(s, s, serialize_message(message(s))) for s in stamps]
    picture = _picture(modality, kind, receipts, builder, stamps[-1] + 40_000_000)
    assert picture is not None and picture.shape == (64, 128, 3)
    assert picture.any()


def test_a_type_that_the_demo_does_not_read_is_told(tmp_path):
    path = tmp_path / "params.yaml"
    text = "/**:\n  ros__parameters:\n    camera: {topic: /image}\n    event: {topic: /events%s}\n"
    path.write_text(text % "")
    found = _sensor_parameters(path)
    assert {m: block["type"] for m, block in found.items()} == {CAMERA: "image", EVENT: "points"}
    path.write_text(text % ", type: packets")
    with pytest.raises(DemoError, match=r"event.type is 'packets'; the demo reads points, image"):
        _sensor_parameters(path)
