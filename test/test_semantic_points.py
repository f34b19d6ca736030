"""Points take the class of the pixel that shows them, and pixels the place that a sensor knows."""

import numpy as np
import pytest

from anyseg_ros.classes import IGNORE_ID
from anyseg_ros.modalities import CameraModel, DepthFrame, LidarScan, ModalityError, RigidTransform
from anyseg_ros.semantic_points import depth_of_pixels, label_points, points_of_pixels

CAMERA = CameraModel(8, 4, 4.0, 4.0, 3.5, 1.5)
LABELS = np.arange(32, dtype=np.uint8).reshape(4, 8)
CONFIDENCE = (LABELS + 100).astype(np.uint8)
BODY = RigidTransform.from_quaternion((0.5, -0.5, 0.5, 0.5), (0.0, -0.5, 0.2))
"""Optical frame from x forward, y left, z up; mounted half a metre higher."""


def scan(*points) -> LidarScan:
    xyz = np.array(points, np.float32).reshape(-1, 3)
    return LidarScan(xyz, np.zeros(len(xyz), np.float32))


def at_pixel(u: float, v: float, z: float) -> np.ndarray:
    """The point seen at a pixel, in the LiDAR's frame."""
    optical = np.array([[(u - 3.5) / 4 * z, (v - 1.5) / 4 * z, z]])
    return BODY.inverse().apply(optical)[0]


def test_each_point_has_the_class_of_its_pixel_and_keeps_its_place_in_the_scan():
    pixels = [(0, 0), (7, 3), (3, 2), (6.4, 0.6)]
    found = label_points(
        scan(*(at_pixel(u, v, 10.0) for u, v in pixels)), BODY, LABELS, CONFIDENCE, CAMERA
    )
    assert found.labels.tolist() == [0, 31, 19, 14]
    assert found.confidence.tolist() == [100, 131, 119, 114]


def test_what_the_camera_does_not_see_has_no_class():
    found = label_points(
        scan(at_pixel(8, 0, 5.0), at_pixel(3, 4, 5.0), at_pixel(3, 1, -5.0), at_pixel(3, 1, 0.05)),
        BODY,
        LABELS,
        CONFIDENCE,
        CAMERA,
    )
    assert (found.labels == IGNORE_ID).all() and (found.confidence == 0).all()
    assert len(found.points_m) == 4
    nothing = label_points(scan(), BODY, LABELS, CONFIDENCE, CAMERA)
    assert len(nothing.labels) == 0


def test_what_hides_behind_something_nearer_does_not_take_its_class():
    found = label_points(
        scan(
            at_pixel(3, 1, 20.0),  # two pixels beside the pole
            at_pixel(5, 1, 5.0),  # the pole
            at_pixel(5, 2, 20.0),  # below it: another line of the scan
            at_pixel(6, 1, 5.6),  # leans a little back
            at_pixel(1, 1, 20.0),
        ),
        BODY,
        LABELS,
        CONFIDENCE,
        CAMERA,
    )
    assert found.labels.tolist() == [IGNORE_ID, 13, 21, 14, 9]


def test_pixels_know_their_depth_from_the_frame_and_else_from_the_scan():
    depth = np.full((4, 8), np.nan, np.float32)
    depth[:, :3] = 2.0
    depth[0, 0] = 0.0
    lidar = (scan(at_pixel(1, 1, 9.0), at_pixel(6, 2, 9.0), at_pixel(6, 2, 7.0)), BODY)
    z = depth_of_pixels(CAMERA, (DepthFrame(depth), CAMERA, RigidTransform.identity()), lidar)
    expected = depth.copy()
    expected[0, 0] = np.nan
    expected[2, 6] = 7.0
    np.testing.assert_allclose(z, expected, rtol=1e-5)
    only_scan = depth_of_pixels(CAMERA, None, lidar)
    assert np.isfinite(only_scan).sum() == 2 and only_scan[1, 1] == pytest.approx(9.0)
    assert np.isnan(depth_of_pixels(CAMERA, None, None)).all()


def test_a_depth_camera_that_sits_apart_is_moved_into_the_grid():
    grid_from_depth = RigidTransform.from_quaternion((0, 0, 0, 1), (1.0, 0.0, 0.0))
    depth = np.full((4, 8), 4.0, np.float32)
    z = depth_of_pixels(CAMERA, (DepthFrame(depth), CAMERA, grid_from_depth), None)
    # One metre to the right at 4 m and f = 4 px is one pixel.
    assert np.isnan(z[:, 0]).all()
    np.testing.assert_allclose(z[:, 1:], 4.0)
    with pytest.raises(ModalityError, match="aspect ratio"):
        depth_of_pixels(CAMERA, (DepthFrame(depth[:, :4]), CAMERA, grid_from_depth), None)


def test_points_project_back_to_their_pixels():
    z = np.random.default_rng(0).uniform(1, 50, (4, 8)).astype(np.float32)
    z[2, 3] = np.nan
    points = points_of_pixels(z, CAMERA)
    known = np.isfinite(points).all(-1)
    assert not known[2, 3] and known.sum() == 31
    pixels = CAMERA.project(points[known])
    v, u = np.nonzero(known)
    np.testing.assert_allclose(pixels, np.stack([u, v], -1), atol=1e-4)
