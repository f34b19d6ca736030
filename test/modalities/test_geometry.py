"""Transforms, cameras and the letterbox agree with OpenCV and with themselves."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyseg_ros.modalities import CameraModel, Letterbox, RigidTransform, SegmentationGrid

unit = st.floats(-1, 1)


@given(st.tuples(unit, unit, unit, unit).filter(lambda q: np.linalg.norm(q) > 0.1))
def test_quaternions_survive_a_round_trip(q):
    expected = np.array(q) / np.linalg.norm(q)
    got = RigidTransform.from_quaternion(q, [0, 0, 0]).quaternion_xyzw
    assert min(np.abs(got - expected).max(), np.abs(got + expected).max()) < 1e-6
    assert got[3] >= 0


def test_a_transform_times_its_inverse_is_nothing():
    transform = RigidTransform.from_quaternion([0.1, -0.2, 0.3, 0.9], [1, 2, 3])
    points = np.random.default_rng(0).normal(size=(50, 3))
    back = transform.inverse().apply(transform.apply(points))
    np.testing.assert_allclose(back, points, atol=1e-12)
    twice = (transform @ transform).apply(points)
    np.testing.assert_allclose(twice, transform.apply(transform.apply(points)), atol=1e-12)


@pytest.mark.parametrize(
    ("model", "coefficients"),
    [
        ("", ()),
        ("plumb_bob", (-0.2, 0.05, 0.001, -0.002, 0.01)),
        ("rational_polynomial", (0.1, -0.05, 0.0, 0.0, 0.01, 0.2, -0.02, 0.01)),
        ("equidistant", (0.02, -0.01, 0.003, 0.0)),
    ],
)
def test_rays_are_the_inverse_of_projection(model, coefficients):
    camera = CameraModel(160, 120, 120, 118, 80, 59, model, coefficients)
    pixels = camera.project(camera.rays().reshape(-1, 3)).reshape(120, 160, 2)
    u, v = np.meshgrid(np.arange(160), np.arange(120))
    np.testing.assert_allclose(pixels, np.stack([u, v], -1), atol=0.02)


def test_rays_of_a_wide_and_distorted_depth_camera():
    """As a time-of-flight camera of 120 degrees describes itself."""
    coefficients = (5.3, 3.3, -1e-4, 3e-5, 0.17, 5.6, 5.0, 0.9)
    camera = CameraModel(512, 512, 252, 252, 258, 257, "rational_polynomial", coefficients)
    pixels = camera.project(camera.rays().reshape(-1, 3)).reshape(512, 512, 2)
    u, v = np.meshgrid(np.arange(512), np.arange(512))
    error = np.hypot(*np.moveaxis(pixels - np.stack([u, v], -1), -1, 0))
    seen = np.hypot(u - 258, v - 257) < 250
    assert np.percentile(error[seen], 99) < 0.1


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_place_that_is_no_number_is_refused(wrong):
    with pytest.raises(ValueError, match="not finite"):
        RigidTransform.from_quaternion((0, 0, 0, 1), (wrong, 0, 0))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fx": 0.0}, "not those of a camera"),
        ({"fx": float("nan")}, "not those of a camera"),
        ({"width": 0}, "empty"),
        ({"distortion_model": "fov", "distortion": (0.1,)}, "unknown distortion model 'fov'"),
        ({"distortion_model": "plumb_bob", "distortion": (0.1, 0.2)}, "4 or 5 coefficients"),
    ],
)
def test_impossible_cameras_are_refused(change, said):
    values = {"width": 64, "height": 32, "fx": 50.0, "fy": 50.0, "cx": 31.5, "cy": 15.5}
    with pytest.raises(ValueError, match=said):
        CameraModel(**{**values, **change})


@given(st.integers(8, 300), st.integers(8, 300), st.integers(8, 300), st.integers(8, 300))
def test_letterbox_keeps_the_aspect_and_stays_on_the_canvas(sw, sh, w, h):
    box = Letterbox.fit(sw, sh, w, h)
    assert box.content_width <= w and box.content_height <= h
    assert box.content_width == w or box.content_height == h
    scale = min(w / sw, h / sh)
    assert abs(box.content_width - sw * scale) <= 1 and abs(box.content_height - sh * scale) <= 1
    canvas = box.place(np.full((sh, sw), 7, np.uint8), cv2.INTER_NEAREST)
    assert canvas.shape == (h, w) and (canvas[box.content] == 7).all()
    assert int((canvas == 7).sum()) == box.content_width * box.content_height
    restored = box.restore(canvas)
    assert restored.shape == (sh, sw) and (restored == 7).all()


def test_a_mask_that_is_scaled_back_holds_no_class_between_two():
    box = Letterbox.fit(300, 200, 64, 64)
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 10
    restored = box.restore(mask)
    assert restored.shape == (200, 300) and set(np.unique(restored)) == {0, 10}
    assert (restored[:, :149] == 0).all() and (restored[:, 151:] == 10).all()


def test_an_ideal_camera_looks_through_the_middle_of_its_picture():
    camera = CameraModel.from_fov(128, 64, 90)
    rays = camera.rays()
    np.testing.assert_allclose(rays[..., :2], -rays[::-1, ::-1, :2], atol=1e-6)
    # The edges of the outermost pixels see 45 degrees.
    np.testing.assert_allclose(camera.project(np.array([[1.0, 0, 1]])), [[127.5, 31.5]])


def test_letterbox_intrinsics_point_at_the_same_thing():
    camera = CameraModel(640, 480, 400, 410, 300, 250)
    grid = SegmentationGrid.create(camera, "optical", 512, 256)
    point = np.array([[0.3, -0.2, 2.0]])
    native, canvas = camera.project(point)[0], grid.input_camera.project(point)[0]
    box = grid.letterbox
    expected_u = (native[0] + 0.5) * box.content_width / 640 - 0.5 + box.left
    expected_v = (native[1] + 0.5) * box.content_height / 480 - 0.5 + box.top
    np.testing.assert_allclose(canvas, [expected_u, expected_v], atol=1e-9)
