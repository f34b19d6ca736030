"""Each sensor's data land where the geometry says, with the values the encoding says."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyseg_ros.modalities import (
    DEFAULT_ENCODINGS,
    CameraFrame,
    CameraModel,
    DepthFrame,
    EncodingSpec,
    EventPacket,
    LidarScan,
    ModalityError,
    RigidTransform,
    SegmentationGrid,
    SensorCalibration,
    join_packets,
    make_image_builder,
)
from anyseg_ros.modalities.projection import NearestPoints, inverse_log
from anyseg_ros.modality import Modality

CAMERA = CameraModel.from_fov(128, 64, 88)
GRID = SegmentationGrid.create(CAMERA, "optical", 128, 64)
# LiDAR axes (x forward, y left, z up) to optical axes (x right, y down, z forward).
OPTICAL_FROM_LIDAR = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])


def builder(modality, sensor=None, spec=None, grid=GRID):
    sensor = sensor or SensorCalibration("sensor")
    return make_image_builder(modality, spec or DEFAULT_ENCODINGS[modality], grid, sensor)


def splat(pixels, depth, values, shape, size):
    """Points of colours ``values`` as rectangles, the nearest on top."""
    canvas = NearestPoints(shape, size)
    for start in range(0, len(pixels), canvas.CHUNK):
        part = slice(start, start + canvas.CHUNK)
        canvas.draw(pixels[part, 0], pixels[part, 1], depth[part])
    where, which = canvas.visible()
    picture = np.zeros((shape[0] * shape[1], 3), np.uint8)
    picture[where] = values[which]
    return picture.reshape(*shape, 3)


def events(x, y, polarity, stamp_ns):
    return EventPacket(
        np.array(x, np.uint16),
        np.array(y, np.uint16),
        np.array(polarity, np.uint8),
        np.array(stamp_ns, np.int64),
    )


# --- camera


def test_a_camera_that_is_the_grid_passes_unchanged():
    image = np.random.default_rng(0).integers(0, 256, (64, 128, 3)).astype(np.uint8)
    assert (builder(Modality.CAMERA).build(CameraFrame(image), 0) == image).all()


def test_a_camera_of_another_aspect_is_letterboxed():
    camera = CameraModel(80, 64, 60, 60, 39.5, 31.5)
    grid = SegmentationGrid.create(camera, "optical", 128, 64)
    built = builder(Modality.CAMERA, SensorCalibration("c", camera=camera), grid=grid)
    image = built.build(CameraFrame(np.full((64, 80, 3), 9, np.uint8)), 0)
    assert (image[:, 24:104] == 9).all() and (image[:, :24] == 0).all()


def test_distortion_is_removed():
    camera = CameraModel(128, 64, 66, 66, 63.5, 31.5, "plumb_bob", (-0.15, 0.02, 0, 0, 0))
    grid = SegmentationGrid.create(camera, "optical", 128, 64)
    # A picture whose brightness is a smooth function of the true viewing direction.
    rays = camera.rays()
    picture = np.clip(128 + 80 * rays[..., :1] + 40 * rays[..., 1:2], 0, 255).repeat(3, -1)
    image = builder(Modality.CAMERA, SensorCalibration("c", camera=camera), grid=grid).build(
        CameraFrame(picture.astype(np.uint8)), 0
    )
    true = grid.input_camera.rays()
    expected = np.clip(128 + 80 * true[..., 0] + 40 * true[..., 1], 0, 255)
    centre = (slice(12, 52), slice(24, 104))
    assert np.abs(image[..., 0].astype(float) - expected)[centre].max() < 3


def turned(degrees):
    """A sensor in the grid's place that looks so far to the right."""
    half = math.radians(degrees) / 2
    return RigidTransform.from_quaternion([0, math.sin(half), 0, math.cos(half)], [0, 0, 0])


@pytest.mark.parametrize("modality", [Modality.CAMERA, Modality.EVENT])
@pytest.mark.parametrize("degrees", [-12, 12])
def test_what_a_turned_sensor_sees_ahead_lies_beside_the_middle(modality, degrees):
    picture = np.zeros((64, 128, 3), np.uint8)
    picture[30:34, 62:66] = 255
    sensor = SensorCalibration("turned", turned(degrees), CAMERA)
    spec = COUNTS if modality is Modality.EVENT else None
    image = builder(modality, sensor, spec).build(CameraFrame(picture), 0)
    rows, columns = np.nonzero(image[..., 0] > 128)
    ahead = CAMERA.cx + CAMERA.fx * math.tan(math.radians(degrees))
    assert abs(columns.mean() - ahead) < 1 and abs(rows.mean() - 31.5) < 1


@pytest.mark.parametrize("degrees", [0, 1])
def test_a_finer_picture_is_averaged_not_sampled(degrees):
    sensor = SensorCalibration("c", turned(degrees), CAMERA.resized(512, 256))
    stripes = np.zeros((256, 512, 3), np.uint8)
    stripes[:, ::4] = 255
    image = builder(Modality.CAMERA, sensor).build(CameraFrame(stripes), 0)[8:-8, 8:-8]
    assert image.max() < 128 and image.mean() == pytest.approx(64, abs=4)


def test_nothing_is_shown_beyond_what_a_lens_sees():
    """Where its polynomial folds back, rays from far outside would land in the picture."""
    lens = CameraModel(128, 64, 110, 110, 63.5, 31.5, "plumb_bob", (-0.3, 0, 0, 0, 0))
    grid = SegmentationGrid.create(CameraModel.from_fov(128, 64, 120), "optical", 128, 64)
    white = CameraFrame(np.full((64, 128, 3), 255, np.uint8))
    image = builder(Modality.CAMERA, SensorCalibration("c", camera=lens), grid=grid).build(white, 0)
    aside = np.abs(grid.input_camera.rays()[..., 0])
    assert image[32, 64].all() and not image[aside > 0.9].any()


def test_a_view_wider_than_the_grid_stays_out_of_the_letterboxs_border():
    grid = SegmentationGrid.create(CameraModel.from_fov(64, 64, 60), "optical", 128, 64)
    white = CameraFrame(np.full((64, 128, 3), 255, np.uint8))
    sensor = SensorCalibration("wide", turned(1), CameraModel.from_fov(128, 64, 120))
    image = builder(Modality.CAMERA, sensor, grid=grid).build(white, 0)
    assert image[:, 32:96].all() and not image[:, :32].any() and not image[:, 96:].any()


def test_a_driver_that_changes_its_size_for_ever_does_not_fill_memory():
    built = builder(Modality.CAMERA, SensorCalibration("c", camera=CAMERA))
    for scale in range(1, 12):
        built.build(CameraFrame(np.zeros((32 * scale, 64 * scale, 3), np.uint8)), 0)
    assert len(built._builder._warp._warps) <= 4


def test_a_scaled_image_is_accepted_and_another_aspect_refused():
    built = builder(Modality.CAMERA, SensorCalibration("c", camera=CAMERA))
    assert built.build(CameraFrame(np.full((32, 64, 3), 5, np.uint8)), 0).shape == (64, 128, 3)
    with pytest.raises(ModalityError, match="another aspect ratio"):
        built.build(CameraFrame(np.zeros((62, 128, 3), np.uint8)), 0)


@pytest.mark.parametrize("shape", [(64, 128), (64, 128, 4), (0, 128, 3)])
def test_a_picture_that_is_none_is_refused(shape):
    with pytest.raises(ModalityError, match="uint8"):
        builder(Modality.CAMERA).build(CameraFrame(np.zeros(shape, np.uint8)), 0)


# --- depth


def test_inverse_log_has_the_documented_values():
    distance = np.array([0.0, np.nan, np.inf, -1, 0.5, 1.0, 80.0, 500.0, math.sqrt(80.0)])
    got = inverse_log(distance, 1.0, 80.0)
    assert got.tolist() == [0, 0, 0, 0, 255, 255, 1, 1, 128]


@pytest.mark.parametrize("encoding", ["inverse_log", "inverse_log_height", "minmax"])
def test_invalid_depth_is_zero_in_every_channel(encoding):
    depth = np.full((64, 128), 5.0, np.float32)
    depth[:8], depth[8:16], depth[16:24] = 0, np.nan, np.inf
    depth[60] = 7.0
    image = builder(Modality.DEPTH, spec=EncodingSpec(encoding)).build(DepthFrame(depth), 0)
    assert (image[:24] == 0).all() and (image[24:] > 0).all()


def test_minmax_counts_pixels_without_depth_as_zero():
    depth = np.full((64, 128), 5.0, np.float32)
    depth[32:] = 10.0
    built = builder(Modality.DEPTH, spec=EncodingSpec("minmax"))
    image = built.build(DepthFrame(depth), 0)
    assert (image[:32] == 1).all() and (image[32:] == 255).all()
    depth[0, 0] = 0.0  # the least value now
    image = built.build(DepthFrame(depth), 0)
    assert image[0, 0, 0] == 0 and image[0, 1, 0] == int(1.5 + 254 / 2) and image[40, 0, 0] == 255


def test_minmax_does_not_count_the_letterboxs_border():
    grid = SegmentationGrid.create(CameraModel.from_fov(64, 64, 60), "optical", 128, 64)
    depth = np.full((64, 64), 5.0, np.float32)
    depth[32:] = 10.0
    image = builder(Modality.DEPTH, spec=EncodingSpec("minmax"), grid=grid).build(
        DepthFrame(depth), 0
    )
    assert (image[:32, 32:96] == 1).all() and (image[32:, 32:96] == 255).all()
    assert not image[:, :32].any()


def test_no_depth_is_made_up_between_a_near_thing_and_a_far_one():
    depth = np.full((32, 64), 2.0, np.float32)
    depth[:, 32:] = 40.0
    image = builder(Modality.DEPTH).build(DepthFrame(depth), 0)
    assert set(np.unique(image[..., 0])) == set(inverse_log(np.array([2.0, 40.0]), 1.0, 80.0))


def test_depth_of_another_size_is_moved_by_its_own_parallax():
    place = RigidTransform(np.eye(3), np.array([0.5, 0, 0]))
    built = builder(Modality.DEPTH, SensorCalibration("depth", place, CAMERA))
    for scale in (1, 2, 1):
        depth = np.full((64 * scale, 128 * scale), 5.0, np.float32)
        fresh = builder(Modality.DEPTH, SensorCalibration("depth", place, CAMERA))
        expected = fresh.build(DepthFrame(depth), 0)
        assert (built.build(DepthFrame(depth), 0) == expected).all()
        assert (expected[4:-4, 16:-4] > 0).all()


def test_height_is_measured_against_the_optical_centre():
    image = builder(Modality.DEPTH).build(DepthFrame(np.full((64, 128), 4.0, np.float32)), 0)
    v = 60
    height = -(v - CAMERA.cy) / CAMERA.fy * 4.0
    expected = int(1.5 + 254 * (height + 3) / 10)
    assert abs(int(image[v, 20, 1]) - expected) <= 1


def test_depth_from_beside_the_camera_is_moved_by_its_parallax():
    baseline = 0.5
    sensor = SensorCalibration(
        "depth", RigidTransform(np.eye(3), np.array([baseline, 0, 0])), CAMERA
    )
    depth = np.zeros((64, 128), np.float32)
    depth[30:34, 60:64] = 5.0
    image = builder(Modality.DEPTH, sensor).build(DepthFrame(depth), 0)
    shift = round(CAMERA.fx * baseline / 5.0)
    rows, columns = np.nonzero(image[..., 0])
    assert (rows.min(), rows.max()) == (30, 33)
    assert abs(columns.min() - (60 + shift)) <= 1 and abs(columns.max() - (63 + shift)) <= 1


def test_where_depths_overlap_the_nearer_stays():
    # Seen from 1 m to the right, the far wall's pixels land on the near post's.
    sensor = SensorCalibration("depth", RigidTransform(np.eye(3), np.array([1.0, 0, 0])), CAMERA)
    depth = np.full((64, 128), 40.0, np.float32)
    depth[:, 40:44] = 3.0
    image = builder(Modality.DEPTH, sensor).build(DepthFrame(depth), 0)
    near = inverse_log(np.array([3.0]), 1.0, 80.0)[0]
    column = 42 + round(CAMERA.fx * 1.0 / 3.0)
    assert (image[:, column, 0] == near).all()


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["inverse_log_height", "minmax"]))
def test_reprojected_depth_is_what_its_points_show(seed, encoding):
    rng = np.random.default_rng(seed)
    moved = RigidTransform.from_quaternion([*rng.normal(0, 0.05, 3), 1.0], rng.normal(0, 0.3, 3))
    coarse = CameraModel.from_fov(96, 48, 80)
    depth = rng.uniform(0.3, 30, (48, 96)).astype(np.float32)
    depth.flat[rng.integers(0, depth.size, 400)] = 0
    depth.flat[rng.integers(0, depth.size, 200)] = np.nan
    depth.flat[rng.integers(0, depth.size, 200)] = np.inf
    image = builder(
        Modality.DEPTH, SensorCalibration("d", moved, coarse), EncodingSpec(encoding)
    ).build(DepthFrame(depth), 0)

    points = coarse.rays().reshape(-1, 3).astype(np.float64) * depth.reshape(-1, 1)
    points = moved.apply(points[np.isfinite(points).all(1) & (points[:, 2] > 0)])
    points = points[points[:, 2] > 1e-3]
    size = tuple(math.ceil(f) for f in (CAMERA.fx / coarse.fx, CAMERA.fy / coarse.fy))
    if encoding == "minmax":
        values = (1.5 + 254 * points[:, 2] / points[:, 2].max())[:, None].repeat(3, 1)
    else:
        near = inverse_log(points[:, 2], 1.0, 80.0)
        height = 1.5 + 254 * np.clip((3 - points[:, 1]) / 10, 0, 1)
        values = np.stack([near, height, near], 1)
    expected = splat(CAMERA.project(points), points[:, 2], values.astype(np.uint8), (64, 128), size)
    # A place in float32 may round to the next pixel, and a value to the next byte.
    assert (np.abs(image.astype(int) - expected) > 1).any(-1).mean() < 2e-3


def test_reprojection_onto_a_finer_grid_leaves_no_holes():
    coarse = CameraModel.from_fov(50, 25, 88)
    sensor = SensorCalibration("d", RigidTransform(np.eye(3), np.array([0.01, 0, 0])), coarse)
    image = builder(Modality.DEPTH, sensor).build(DepthFrame(np.full((25, 50), 9.0, np.float32)), 0)
    assert (image[4:-4, 4:-4] > 0).all()


def test_pixels_that_are_not_square_leave_no_holes():
    flat = CAMERA.resized(128, 16)
    sensor = SensorCalibration("d", RigidTransform(np.eye(3), np.array([0.01, 0, 0])), flat)
    image = builder(Modality.DEPTH, sensor).build(
        DepthFrame(np.full((16, 128), 9.0, np.float32)), 0
    )
    assert (image[4:-4, 4:-4] > 0).all()


# --- LiDAR


def lidar_sensor():
    return SensorCalibration("lidar", RigidTransform(OPTICAL_FROM_LIDAR, np.zeros(3)))


def test_a_point_lands_where_the_camera_sees_it():
    point = np.array([[10.0, 2.0, -1.0]], np.float32)  # 10 m ahead, 2 m left, 1 m down
    spec = EncodingSpec("range_height_intensity", {"splat_width_px": 1, "splat_height_px": 1})
    image = builder(Modality.LIDAR, lidar_sensor(), spec).build(
        LidarScan(point, np.array([0.5], np.float32)), 0
    )
    u = CAMERA.cx + CAMERA.fx * -2 / 10
    v = CAMERA.cy + CAMERA.fy * 1 / 10
    rows, columns = np.nonzero(image.any(-1))
    assert (rows.tolist(), columns.tolist()) == ([round(v)], [round(u)])
    red, green, blue = (int(c) for c in image[rows[0], columns[0]])
    assert red == inverse_log(np.linalg.norm(point, axis=1), 1.0, 80.0)[0]
    assert abs(green - (1.5 + 254 * (-1 + 3) / 10)) <= 1
    assert blue == int(1.5 + 254 * 0.5)


def test_points_behind_beside_and_not_finite_are_left_out():
    points = np.array(
        [[-5, 0, 0], [0.01, 3, 0], [np.nan, 0, 0], [np.inf, 1, 1], [1e30, 0, 0]], np.float32
    )
    image = builder(Modality.LIDAR, lidar_sensor()).build(
        LidarScan(points[:4], np.zeros(4, np.float32)), 0
    )
    assert not image.any()
    empty = LidarScan(np.empty((0, 3), np.float32), np.empty(0, np.float32))
    assert not builder(Modality.LIDAR, lidar_sensor()).build(empty, 0).any()


def test_a_point_right_before_the_sensor_is_drawn():
    point = LidarScan(np.array([[0.5, 0, 0]], np.float32), np.ones(1, np.float32))
    image = builder(Modality.LIDAR, lidar_sensor()).build(point, 0)
    assert image[31:33, 63:65, 0].max() == 255


def test_contradicting_lidar_arrays_are_refused():
    with pytest.raises(ModalityError, match="intensities"):
        builder(Modality.LIDAR, lidar_sensor()).build(
            LidarScan(np.zeros((3, 3), np.float32), np.zeros(2, np.float32)), 0
        )


@settings(max_examples=60)
@given(st.data())
def test_splat_equals_painting_point_by_point(data):
    count = data.draw(st.integers(0, 25))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    size = (data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4)))
    pixels = rng.uniform(-6, 26, (count, 2)).astype(np.float32)
    depth = rng.uniform(0.5, 50, count).astype(np.float32)
    values = rng.integers(1, 256, (count, 3)).astype(np.uint8)
    expected, zbuffer = np.zeros((16, 20, 3), np.uint8), np.full((16, 20), np.inf)
    for (u, v), z, value in zip(pixels, depth, values, strict=True):
        left = math.floor(np.float32(u) - np.float32((size[0] - 1) / 2) + np.float32(0.5))
        top = math.floor(np.float32(v) - np.float32((size[1] - 1) / 2) + np.float32(0.5))
        for row in range(max(top, 0), min(top + size[1], 16)):
            for column in range(max(left, 0), min(left + size[0], 20)):
                if z < zbuffer[row, column]:
                    zbuffer[row, column], expected[row, column] = z, value
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NearestPoints, "CHUNK", data.draw(st.integers(1, 30)))
        np.testing.assert_array_equal(splat(pixels, depth, values, (16, 20), size), expected)


def test_points_that_are_not_allowed_may_be_anything():
    canvas = NearestPoints((4, 4), (1, 1))
    nothing = np.array([np.nan, 1e30, 2.0], np.float32)
    canvas.draw(nothing, nothing, np.array([np.nan, 1.0, -1.0], np.float32), np.zeros(3, bool))
    one = np.array([2.0], np.float32)
    canvas.draw(one, one, one)
    where, which = canvas.visible()
    assert (where.tolist(), which.tolist()) == ([10], [3])


# --- events

COUNTS = EncodingSpec("polarity_counts")


def test_events_are_counted_by_polarity_in_the_window_only():
    built = builder(Modality.EVENT, SensorCalibration("event", camera=CAMERA), COUNTS)
    window_ns = 50_000_000
    end = 200_000_000
    packet = events(
        [5, 5, 5, 9, 7], [3, 3, 3, 4, 6], [1, 1, 0, 0, 1],
        [end - 10, end, end - 5, end - window_ns, end + 1],
    )  # fmt: skip
    image = built.build(packet, end)
    assert image[3, 5].tolist() == [int(2 * 255 / 4 + 0.5), 0, int(255 / 4 + 0.5)]
    assert not image[4, 9].any(), "an event exactly at the window's begin is outside it"
    assert not image[6, 7].any(), "an event after the anchor is from the future"


def test_counts_saturate():
    built = builder(Modality.EVENT, SensorCalibration("event", camera=CAMERA), COUNTS)
    image = built.build(events([1] * 40, [1] * 40, [1] * 40, range(1, 41)), 50)
    assert image[1, 1].tolist() == [255, 0, 0]


def test_a_quiet_sensor_gives_an_empty_picture():
    built = builder(Modality.EVENT, SensorCalibration("event", camera=CAMERA), COUNTS)
    assert not built.build(events([], [], [], []), 10).any()


def test_an_event_outside_the_sensor_is_refused():
    built = builder(Modality.EVENT, SensorCalibration("event", camera=CAMERA), COUNTS)
    with pytest.raises(ModalityError, match=r"\(128, 3\).*128x64"):
        built.build(events([128], [3], [1], [10]), 10)


def test_an_event_sensor_of_other_resolution_is_warped_into_the_grid():
    sensor = SensorCalibration("event", camera=CameraModel.from_fov(64, 32, 88))
    built = builder(Modality.EVENT, sensor, COUNTS)
    x, y = np.meshgrid(np.arange(30, 34), np.arange(14, 18))
    image = built.build(events(x.ravel(), y.ravel(), [1] * 16, [5] * 16), 10)
    rows, columns = np.nonzero(image[..., 0] > 30)
    assert abs(rows.mean() - 31.5) < 0.6 and abs(columns.mean() - 63.5) < 0.6


def test_a_rendered_event_image_is_taken_as_it_is():
    built = builder(Modality.EVENT, SensorCalibration("event", camera=CAMERA), COUNTS)
    picture = np.random.default_rng(0).integers(0, 256, (64, 128, 3)).astype(np.uint8)
    assert (built.build(CameraFrame(picture), 0) == picture).all()


def test_a_rendered_event_image_is_not_written_to():
    spec = EncodingSpec("polarity_counts_elevation")
    built = builder(Modality.EVENT, SensorCalibration("event", camera=CAMERA), spec)
    picture = np.full((64, 128, 3), 7, np.uint8)
    assert built.build(CameraFrame(picture), 0)[..., 1].max() > 7
    assert (picture == 7).all()


def test_elevation_fills_the_plane_between_the_counts():
    spec = EncodingSpec("polarity_counts_elevation")
    quiet = builder(Modality.EVENT, SensorCalibration("event", camera=CAMERA), spec).build(
        events([], [], [], []), 10
    )
    assert not quiet[..., [0, 2]].any()
    # 10 pixels above the optical centre, straight ahead: atan(10 / f).
    expected = 1.5 + 254 * (math.degrees(math.atan(10 / CAMERA.fy)) + 45) / 90
    row = quiet[round(CAMERA.cy - 10.5) : round(CAMERA.cy - 9.5) + 1, 63, 1].astype(float)
    assert row.min() - 2 <= expected <= row.max() + 2
    column = quiet[:, 63, 1].astype(int)
    assert (np.diff(column) <= 0).all() and column[0] > 128 > column[-1]
    # The same ray has the same elevation whatever the size of the picture, letterboxed or not.
    tall = SegmentationGrid.create(CAMERA, "optical", 128, 96)
    boxed = builder(Modality.EVENT, SensorCalibration("event", camera=CAMERA), spec, tall).build(
        events([], [], [], []), 10
    )
    assert (boxed[16:80, :, 1] == quiet[..., 1]).all()
    assert not boxed[:16].any() and not boxed[80:].any()


def test_signed_counts_and_recency():
    spec = EncodingSpec("signed_count_elevation_recency", {"window_s": 0.1, "saturation": 4})
    built = builder(Modality.EVENT, SensorCalibration("event", camera=CAMERA), spec)
    end, window_ns = 1_000_000_000, 100_000_000
    half, old = end - window_ns // 2, end - window_ns + 1000
    packet = events(
        [5, 5, 5, 9, 9, 7, 2, 8],
        [3, 3, 3, 4, 4, 6, 2, 8],
        [1, 1, 0, 0, 1, 0, 1, 1],
        [end, old, half, half, half, end + 1, old, end - window_ns],
    )
    # The order of the events does not matter: a driver may sort them by pixel.
    for order in (np.arange(8), np.arange(8)[::-1]):
        shuffled = events(
            *(a[order] for a in (packet.x, packet.y, packet.polarity, packet.stamp_ns))
        )
        image = built.build(shuffled, end)
        assert image[3, 5, [0, 2]].tolist() == [round(128 + 127 / 4), 255], "two up, one down"
        assert image[4, 9, [0, 2]].tolist() == [128, 128], "up and down cancel, but something moved"
        assert image[2, 2, [0, 2]].tolist() == [round(128 + 127 / 4), 1], "old"
        assert not image[6, 7, [0, 2]].any(), "from the future"
        assert not image[8, 8, [0, 2]].any(), "before the window"
        assert np.count_nonzero(image[..., 0]) == np.count_nonzero(image[..., 2]) == 3
    burst = built.build(events([1] * 40, [1] * 40, [0] * 40, [end] * 40), end)
    assert burst[1, 1, [0, 2]].tolist() == [1, 255], "saturated"
    elevation = EncodingSpec("polarity_counts_elevation")
    other = builder(Modality.EVENT, SensorCalibration("event", camera=CAMERA), elevation)
    assert (image[..., 1] == other.build(packet, end)[..., 1]).all()


def test_signed_counts_are_not_interpolated():
    spec = EncodingSpec("signed_count_elevation_recency")
    sensor = SensorCalibration("event", camera=CameraModel.from_fov(64, 32, 88))
    built = builder(Modality.EVENT, sensor, spec)
    x, y = np.meshgrid(np.arange(30, 34), np.arange(14, 18))
    image = built.build(events(x.ravel(), y.ravel(), [1] * 16, [10] * 16), 10)
    assert set(np.unique(image[..., 0])) == {0, 160} and set(np.unique(image[..., 2])) == {0, 255}


@pytest.mark.parametrize("turned", [False, True])
def test_signed_events_of_a_fine_sensor_are_counted_in_larger_pixels(turned):
    spec = EncodingSpec("signed_count_elevation_recency", {"window_s": 0.1, "saturation": 8})
    turn = RigidTransform.from_quaternion([0, 0.002 * turned, 0, 1], [0, 0, 0])
    sensor = SensorCalibration("event", turn, CAMERA.resized(512, 256))
    built = builder(Modality.EVENT, sensor, spec)
    x, y = np.meshgrid(np.arange(200, 240), np.arange(100, 120))
    # A mean with pixels without events would make these nearer to none.
    dark = np.zeros(x.size, int)
    image = built.build(events(x.ravel(), y.ravel(), dark, dark + 50_000_000), 100_000_000)
    level = image[..., 0]
    assert set(np.unique(level)) <= {0, *(round(128 - 127 / 8 * n) for n in range(1, 9))}
    assert set(np.unique(image[..., 2])) == {0, 128}
    rows, columns = np.nonzero(level)
    assert abs(rows.mean() - 27) < 0.7 and abs(columns.mean() - 54.5) < 1.2
    assert abs(len(rows) - 50) < 18
    # Not even where the sensor's size shrinks to no whole number of pixels.
    odd = SensorCalibration("event", turn, CameraModel.from_fov(1280, 720, 68))
    grid = SegmentationGrid.create(CameraModel.from_fov(1280, 720, 60), "optical", 512, 256)
    image = builder(Modality.EVENT, odd, spec, grid).build(
        events(
            *np.random.default_rng(0).integers(300, 700, (2, 2000)),
            dark[:1].repeat(2000),
            [0] * 2000,
        ),
        10_000_000,
    )
    assert set(np.unique(image[..., 0])) <= {0, *(round(128 - 127 / 8 * n) for n in range(1, 9))}
    alone = built.build(events([211], [111], [1], [100_000_000]), 100_000_000)
    assert turned or alone[..., 0].any(), "an event of a sensor registered to the grid is lost"


def test_packets_are_joined_in_their_order():
    one, two = events([1], [2], [1], [10]), events([3, 4], [5, 6], [0, 1], [20, 30])
    joined = join_packets([one, two])
    assert joined.x.tolist() == [1, 3, 4] and joined.stamp_ns.tolist() == [10, 20, 30]
    assert len(join_packets([]).x) == 0 and join_packets([two]) is two


# --- encodings


def test_an_unknown_encoding_and_setting_are_refused_by_name():
    with pytest.raises(ModalityError, match="no encoding 'hha' for depth"):
        builder(Modality.DEPTH, spec=EncodingSpec("hha"))
    with pytest.raises(ModalityError, match="no setting gamma"):
        builder(Modality.CAMERA, spec=EncodingSpec("rgb", {"gamma": 2.2}))


@pytest.mark.parametrize(
    ("modality", "settings", "said"),
    [
        (Modality.DEPTH, {"min_m": 0.0}, "min_m is 0.0; expected one above 0"),
        (Modality.DEPTH, {"max_m": 1.0}, "min_m is 1.0, which is not below max_m"),
        (Modality.DEPTH, {"min_height_m": 7.0}, "min_height_m is 7.0, which is not below"),
        (Modality.EVENT, {"saturation": 0.0}, "saturation is 0.0; expected one above 0"),
        (Modality.EVENT, {"window_s": float("nan")}, "window_s is nan; expected a number"),
        (Modality.LIDAR, {"splat_width_px": 2.5}, "splat_width_px is 2.5; expected a whole number"),
        (Modality.LIDAR, {"max_m": "far"}, "max_m is 'far'; expected a number"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(modality, settings, said):
    name = DEFAULT_ENCODINGS[modality].name
    with pytest.raises(ModalityError, match=said):
        builder(modality, spec=EncodingSpec(name, settings))


def test_data_of_another_sensor_is_refused():
    with pytest.raises(ModalityError, match="depth takes DepthFrame, got LidarScan"):
        builder(Modality.DEPTH).build(
            LidarScan(np.zeros((1, 3), np.float32), np.zeros(1, np.float32)), 0
        )
