"""The pipeline turns matched sets into segmentations, encodes only what is new, and says what it used."""

import threading
import time

import numpy as np
import pytest
from tiny_model import tiny_card, write_tiny_model
from tiny_segment_model import write_segment_model

from anyseg_ros.engine import load_engine
from anyseg_ros.modalities import (
    CameraFrame,
    CameraModel,
    DepthFrame,
    EventPacket,
    LidarScan,
    ModalityError,
    RigCalibration,
    RigidTransform,
    SensorCalibration,
)
from anyseg_ros.modality import MODALITIES, Modality, parse_subset
from anyseg_ros.pipeline import NoUsableInputError, Pipeline
from anyseg_ros.sync import MatchedSet, Member

CAMERA = CameraModel.from_fov(128, 64, 88)


class CountingEngine:
    """The real engine, counting what it is asked to encode."""

    def __init__(self, engine):
        self._engine = engine
        self.encoded = []

    def encode(self, images, modality_ids):
        self.encoded.append([Modality(int(i)).label for i in modality_ids])
        return self._engine.encode(images, modality_ids)

    def __getattr__(self, name):
        return getattr(self._engine, name)


def rig(*modalities, grid=CAMERA, frame="optical", baseline_m=0.0):
    place = RigidTransform(np.eye(3), np.array([baseline_m, 0.0, 0.0]))
    sensors = {m: SensorCalibration(frame, place, grid) for m in modalities}
    return RigCalibration(grid, "optical", sensors)


def matched(stamp_ns=1000, epoch=0, **members):
    found = {}
    for label, (stamp, message) in members.items():
        found[Modality.from_label(label)] = Member(stamp, message, (stamp_ns - stamp) / 1e9, False)
    return MatchedSet(min(found), stamp_ns, epoch, found)


def gray(value, size=(64, 128)):
    return CameraFrame(np.full((*size, 3), value, np.uint8))


def packet(*stamps, x=3, y=4):
    count = len(stamps)
    return EventPacket(
        np.full(count, x, np.uint16),
        np.full(count, y, np.uint16),
        np.ones(count, np.uint8),
        np.array(stamps, np.int64),
    )


@pytest.fixture
def engine(tiny_model):
    return CountingEngine(load_engine(tiny_model))


def test_it_segments_whatever_the_set_holds(engine):
    pipeline = Pipeline(engine, rig(*MODALITIES))
    depth = DepthFrame(np.full((64, 128), 5.0, np.float32))
    scan = LidarScan(np.array([[5, 0, 0]], np.float32), np.zeros(1, np.float32))
    for names in ("camera", "depth", "event", "lidar", "camera+lidar", "depth+event", "all"):
        data = {
            "camera": (990, gray(250)),
            "depth": (980, depth),
            "event": (1000, (packet(900, 950),)),
            "lidar": (970, scan),
        }
        members = {m.label: data[m.label] for m in parse_subset(names)}
        result = pipeline.segment(matched(**members))
        assert result.used == parse_subset(names) and not result.skipped
        assert result.labels.shape == (64, 128) and result.stamp_ns == 1000
        pipeline.reset()


def test_a_held_message_is_not_encoded_again(engine):
    pipeline = Pipeline(engine, rig(*MODALITIES))
    depth = DepthFrame(np.full((64, 128), 5.0, np.float32))
    first = pipeline.segment(matched(1000, camera=(1000, gray(10)), depth=(990, depth)))
    second = pipeline.segment(matched(2000, camera=(2000, gray(250)), depth=(990, depth)))
    assert engine.encoded == [["camera", "depth"], ["camera"]]
    assert (first.labels != second.labels).any(), "the new picture must reach the output"
    fresh = Pipeline(engine, rig(*MODALITIES)).segment(
        matched(2000, camera=(2000, gray(250)), depth=(990, depth))
    )
    np.testing.assert_array_equal(second.labels, fresh.labels)


def test_what_was_prepared_is_not_encoded_with_its_set_and_gives_the_same(engine):
    pipeline = Pipeline(engine, rig(*MODALITIES))
    depth = DepthFrame(np.full((64, 128), 5.0, np.float32))
    for stamp in (990, 1990, 2990):
        pipeline.prepare(Modality.DEPTH, depth, stamp, 0)
    for stamp in (1000, 2000):
        members = {"camera": (stamp, gray(stamp % 250)), "depth": (stamp - 10, depth)}
        result = pipeline.segment(matched(stamp, **members))
        assert result.timings.early_s > 0
        fresh = Pipeline(engine, rig(*MODALITIES)).segment(matched(stamp, **members))
        assert fresh.timings.early_s == 0
        np.testing.assert_array_equal(result.labels, fresh.labels)
    both = ["camera", "depth"]
    assert engine.encoded == [["depth"]] * 3 + [["camera"], both] * 2
    # Not what was prepared in another epoch, nor with another calibration.
    pipeline.segment(matched(3000, epoch=1, depth=(2990, depth)))
    pipeline.prepare(Modality.DEPTH, depth, 3990, 1)
    pipeline.recalibrate(rig(*MODALITIES, baseline_m=0.1))
    pipeline.segment(matched(4000, epoch=1, depth=(3990, depth)))
    assert engine.encoded[-3:] == [["depth"], ["depth"], ["depth"]]
    # Not another message of the same stamp.
    pipeline.prepare(Modality.DEPTH, DepthFrame(np.full((64, 128), 9.0, np.float32)), 4990, 1)
    twin = pipeline.segment(matched(5000, epoch=1, depth=(4990, depth)))
    assert twin.timings.early_s == 0 and engine.encoded[-1] == ["depth"]
    with pytest.raises(ModalityError):
        Pipeline(engine, rig()).prepare(Modality.DEPTH, depth, 1, 0)


def test_what_comes_first_is_prepared_while_many_sets_are_open(engine):
    pipeline = Pipeline(engine, rig(*MODALITIES))
    frames = [DepthFrame(np.full((64, 128), 5.0 + i, np.float32)) for i in range(6)]
    done = [pipeline.prepare(Modality.DEPTH, frame, i, 0) for i, frame in enumerate(frames)]
    assert done == [True] * 4 + [False] * 2
    early = [
        pipeline.segment(matched(10 + i, depth=(i, frame))).timings.early_s > 0
        for i, frame in enumerate(frames)
    ]
    assert early == done


class Source:
    """A message that is decoded when it is needed, and notes by which thread."""

    def __init__(self, data):
        self.data, self.threads = data, []

    def __call__(self):
        self.threads.append(threading.current_thread().name.split("_")[0])
        if isinstance(self.data, Exception):
            raise self.data
        return self.data


def begun(source):
    """Wait until a source's image is being built."""
    deadline = time.monotonic() + 20
    while not source.threads:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_an_image_begun_on_the_other_thread_is_not_built_twice(engine):
    pipeline = Pipeline(engine, rig(*MODALITIES))
    here = threading.current_thread().name.split("_")[0]
    depth, camera = Source(DepthFrame(np.full((64, 128), 5.0, np.float32))), Source(gray(10))
    pipeline.start_building(Modality.DEPTH, depth, 990, 0)
    pipeline.start_building(Modality.DEPTH, depth, 990, 0)
    begun(depth)
    result = pipeline.segment(matched(1000, camera=(1000, camera), depth=(990, depth)))
    assert (depth.threads, camera.threads) == (["build-image"], [here])
    fresh = Pipeline(engine, rig(*MODALITIES)).segment(
        matched(1000, camera=(1000, camera), depth=(990, depth))
    )
    np.testing.assert_array_equal(result.labels, fresh.labels)
    pipeline.start_building(Modality.DEPTH, depth, 990, 0)  # held: its features are there
    pipeline.prepare(Modality.CAMERA, camera, 2000, 0)
    pipeline.start_building(Modality.CAMERA, camera, 2000, 0)  # prepared
    pipeline.segment(matched(2000, camera=(2000, camera), depth=(990, depth)))
    assert depth.threads[2:] == [] and len(camera.threads) == 3


def test_an_image_begun_for_another_message_or_calibration_is_not_used(engine):
    pipeline = Pipeline(engine, rig(*MODALITIES))
    near = DepthFrame(np.full((64, 128), 2.0, np.float32))
    far = Source(DepthFrame(np.full((64, 128), 50.0, np.float32)))
    pipeline.start_building(Modality.DEPTH, far, 990, 0)
    used = pipeline.segment(matched(1000, depth=(990, near))).images[Modality.DEPTH]
    assert used[32, 64, 0] > 128, "the image of the near one"
    for stamp, forget in (
        (1990, lambda: pipeline.recalibrate(rig(*MODALITIES, baseline_m=0.1))),
        (2990, pipeline.reset),
    ):
        source = Source(near)
        pipeline.start_building(Modality.DEPTH, source, stamp, 0)
        begun(source)
        forget()
        pipeline.segment(matched(stamp + 10, depth=(stamp, source)))
        assert len(source.threads) == 2
    budget = Pipeline(engine, rig(*MODALITIES), latency_budget_s=1.0)
    budget.start_building(Modality.DEPTH, near, 990, 0)
    assert not budget._started, "it might be left out"


def test_an_image_that_cannot_be_built_is_reported_by_its_set(engine):
    pipeline = Pipeline(engine, rig(*MODALITIES))
    broken = Source(ModalityError("cut short"))
    pipeline.start_building(Modality.DEPTH, broken, 990, 0)
    begun(broken)
    result = pipeline.segment(matched(1000, camera=(1000, gray(1)), depth=(990, broken)))
    assert result.used == (Modality.CAMERA,) and result.skipped == {Modality.DEPTH: "cut short"}


def test_packets_are_known_one_by_one(engine):
    pipeline = Pipeline(engine, rig(*MODALITIES))
    packets = [packet(900, 950), packet(960, 990)]
    pipeline.prepare(Modality.EVENT, tuple(packets), 1000, 0)
    assert pipeline.segment(matched(1000, event=(1000, tuple(packets)))).timings.early_s > 0
    pipeline.prepare(Modality.EVENT, tuple(packets), 2000, 0)
    late = (packets[0], packet(955), packets[1])
    assert pipeline.segment(matched(2000, event=(2000, late))).timings.early_s == 0


def test_the_same_stamp_in_another_epoch_is_encoded_again(engine):
    pipeline = Pipeline(engine, rig(*MODALITIES))
    dark = pipeline.segment(matched(epoch=0, camera=(1000, gray(0))))
    bright = pipeline.segment(matched(epoch=1, camera=(1000, gray(255))))
    assert (dark.labels == 0).all() and (bright.labels == 3).all()


def test_events_are_cut_at_the_members_stamp(engine):
    pipeline = Pipeline(engine, rig(*MODALITIES))
    stamp = 150_000_000
    packets = (packet(10_000_000, 60_000_000), packet(90_000_000, 160_000_000))
    result = pipeline.segment(matched(stamp, event=(stamp, packets)))
    # Of four events at one pixel, the first is before the 100 ms window, the last after the stamp.
    assert result.images[Modality.EVENT][4, 3, 0] == round(128 + 2 * 127 / 4)


def test_a_message_is_decoded_only_when_it_is_needed(engine):
    calls = []

    def decode():
        calls.append(1)
        return gray(10)

    pipeline = Pipeline(engine, rig(*MODALITIES))
    for stamp in (1000, 1100):
        pipeline.segment(matched(stamp, camera=(1000, decode)))
    assert calls == [1]


def test_a_bad_member_costs_only_itself(engine):
    def broken():
        raise ModalityError("this JPEG is cut short")

    pipeline = Pipeline(engine, rig(*MODALITIES))
    result = pipeline.segment(matched(camera=(1000, gray(250)), depth=(1000, broken)))
    assert result.used == (Modality.CAMERA,)
    assert result.skipped == {Modality.DEPTH: "this JPEG is cut short"}
    with pytest.raises(NoUsableInputError, match="depth: this JPEG is cut short"):
        pipeline.segment(matched(2000, depth=(2000, broken)))


@pytest.mark.parametrize("points", [999, 1000, 50_000])
def test_a_scan_that_is_not_in_the_picture_is_skipped_and_the_extrinsics_are_named(engine, points):
    angle = np.linspace(-np.pi, np.pi, points, dtype=np.float32)
    # A ring around a LiDAR whose z points up, as the drivers give it.
    ring = np.stack([10 * np.cos(angle), 10 * np.sin(angle), np.zeros_like(angle)], -1)
    scan = LidarScan(ring, np.zeros(points, np.float32))
    data = {"camera": (1000, gray(9)), "lidar": (1000, scan)}
    turned = rig(Modality.CAMERA)
    place = RigidTransform.from_quaternion((0.5, -0.5, 0.5, -0.5), (0, 0, 0))
    turned.sensors[Modality.LIDAR] = SensorCalibration("lidar", place)
    assert Pipeline(engine, turned).segment(matched(**data)).used == tuple(
        parse_subset("camera+lidar")
    )

    result = Pipeline(engine, rig(Modality.CAMERA, Modality.LIDAR)).segment(matched(**data))
    # A handful of points may be somewhere else.
    assert (Modality.LIDAR in result.used) is (points < 1000)
    if points >= 1000:
        assert f"{points} points" in result.skipped[Modality.LIDAR]
        assert "extrinsics" in result.skipped[Modality.LIDAR]


def test_depth_that_is_not_in_the_picture_is_skipped_and_the_extrinsics_are_named(engine):
    data = {
        "camera": (1000, gray(9)),
        "depth": (1000, DepthFrame(np.full((64, 128), 5.0, np.float32))),
    }
    turned = rig(Modality.CAMERA)
    # A link's frame, x forward, taken for an optical one.
    place = RigidTransform.from_quaternion((0.5, -0.5, 0.5, -0.5), (0.1, 0, 0))
    turned.sensors[Modality.DEPTH] = SensorCalibration("depth", place, CAMERA)
    result = Pipeline(engine, turned).segment(matched(**data))
    assert result.used == (Modality.CAMERA,)
    assert "8192 points" in result.skipped[Modality.DEPTH]
    assert "depth camera's extrinsics" in result.skipped[Modality.DEPTH]
    for value in (0.0, np.nan, np.inf, np.finfo(np.float32).max):
        nothing = DepthFrame(np.full((64, 128), value, np.float32))
        assert not Pipeline(engine, turned).segment(matched(depth=(1000, nothing))).skipped


def test_a_narrow_depth_camera_of_many_pixels_is_in_view(engine):
    grid = CameraModel.from_fov(640, 320, 120)
    beside = rig(Modality.CAMERA, grid=grid)
    narrow = CameraModel.from_fov(1280, 720, 12)
    place = RigidTransform(np.eye(3), np.array([0.05, 0.0, 0.0]))
    beside.sensors[Modality.DEPTH] = SensorCalibration("depth", place, narrow)
    depth = DepthFrame(np.full((720, 1280), 5.0, np.float32))
    result = Pipeline(engine, beside).segment(matched(depth=(1000, depth)))
    assert result.used == (Modality.DEPTH,)


def test_reprojected_depth_keeps_to_the_letterbox(engine):
    grid = CameraModel.from_fov(64, 64, 60)  # half of the input is border
    turned = rig(Modality.CAMERA, grid=grid)
    place = RigidTransform(np.eye(3), np.array([0.05, 0.0, 0.0]))
    turned.sensors[Modality.DEPTH] = SensorCalibration(
        "depth", place, CameraModel.from_fov(128, 64, 120)
    )
    depth = DepthFrame(np.full((64, 128), 5.0, np.float32))
    image = Pipeline(engine, turned).segment(matched(depth=(1000, depth))).images[Modality.DEPTH]
    assert image[:, 34:94].any() and not image[:, :32].any() and not image[:, 96:].any()


def test_whatever_is_wrong_with_one_member_the_others_are_segmented(engine):
    def broken():
        raise ZeroDivisionError("a decoder's own")

    pipeline = Pipeline(engine, rig(*MODALITIES))
    result = pipeline.segment(matched(camera=(1000, gray(250)), depth=(1000, broken)))
    assert result.used == (Modality.CAMERA,)
    assert result.skipped == {Modality.DEPTH: "unexpected ZeroDivisionError: a decoder's own"}


def test_an_anchor_that_cannot_be_used_is_replaced_by_what_the_budget_left_out(engine):
    def broken():
        raise ModalityError("cut short")

    pipeline = Pipeline(engine, rig(*MODALITIES), latency_budget_s=1e-6)
    depth = DepthFrame(np.full((64, 128), 5.0, np.float32))
    for stamp in (1000, 2000, 3000):
        result = pipeline.segment(
            matched(stamp, camera=(stamp, gray(stamp % 200)), depth=(stamp, depth))
        )
    assert result.used == (Modality.CAMERA,) and result.shed == (Modality.DEPTH,)
    before = pipeline.load.shed_counts[Modality.DEPTH]
    result = pipeline.segment(matched(4000, camera=(4000, broken), depth=(4000, depth)))
    assert result.used == (Modality.DEPTH,) and result.shed == pipeline.load.shed == ()
    assert pipeline.load.shed_counts[Modality.DEPTH] == before
    assert result.skipped == {Modality.CAMERA: "cut short"}


def test_the_first_of_those_that_the_budget_left_out_takes_the_anchors_place(engine):
    def broken():
        raise ModalityError("cut short")

    pipeline = Pipeline(engine, rig(*MODALITIES), latency_budget_s=1e-6)
    depth = DepthFrame(np.full((64, 128), 5.0, np.float32))
    scan = LidarScan(np.array([[0, 0, 5]], np.float32), np.zeros(1, np.float32))
    for stamp in (1000, 2000, 3000):
        members = {"depth": (stamp, depth), "lidar": (stamp, scan)}
        camera = gray(stamp % 200) if stamp < 3000 else broken
        result = pipeline.segment(matched(stamp, camera=(stamp, camera), **members))
    assert result.used == (Modality.DEPTH,) and result.shed == (Modality.LIDAR,)


def test_a_sensor_without_calibration_is_skipped_by_name_but_the_camera_is_the_grids(engine):
    pipeline = Pipeline(engine, rig())
    scan = LidarScan(np.zeros((1, 3), np.float32), np.zeros(1, np.float32))
    result = pipeline.segment(matched(camera=(1000, gray(9)), lidar=(1000, scan)))
    assert result.used == (Modality.CAMERA,)
    assert "no calibration for lidar" in result.skipped[Modality.LIDAR]


def test_a_modality_the_model_does_not_know_is_skipped(tmp_path):
    folder = write_tiny_model(tmp_path / "m", tiny_card(modalities=(Modality.CAMERA,)))
    pipeline = Pipeline(load_engine(folder), rig(*MODALITIES))
    depth = DepthFrame(np.full((64, 128), 5.0, np.float32))
    result = pipeline.segment(matched(camera=(1000, gray(9)), depth=(1000, depth)))
    assert "not trained on depth" in result.skipped[Modality.DEPTH]


def test_a_letterboxed_mask_is_void_outside_or_cut_to_the_camera(engine):
    grid = CameraModel(80, 64, 60, 60, 39.5, 31.5)
    frame = {"camera": (1000, gray(255, (64, 80)))}
    padded = Pipeline(engine, rig(Modality.CAMERA, grid=grid)).segment(matched(**frame))
    assert padded.labels.shape == (64, 128)
    assert (padded.labels[:, :24] == 255).all() and (padded.confidence[:, 104:] == 0).all()
    pipeline = Pipeline(engine, rig(Modality.CAMERA, grid=grid), output_size="camera")
    cut = pipeline.segment(matched(**frame))
    assert cut.labels.shape == (64, 80) and pipeline.output_camera == grid
    assert (cut.labels == 3).all()


def test_another_calibration_takes_effect(engine):
    pipeline = Pipeline(engine, rig(Modality.CAMERA))
    pipeline.segment(matched(camera=(1000, gray(9))))
    pipeline.recalibrate(rig(Modality.CAMERA, Modality.DEPTH))
    depth = DepthFrame(np.full((64, 128), 5.0, np.float32))
    result = pipeline.segment(matched(camera=(1000, gray(9)), depth=(1000, depth)))
    assert result.used == (Modality.CAMERA, Modality.DEPTH)
    assert engine.encoded == [["camera"], ["depth"]]


def test_a_sensor_that_joins_costs_the_others_nothing(engine):
    """Their tables take half a second to build where lenses distort: the output would stop for that long."""
    pipeline = Pipeline(engine, rig(Modality.CAMERA, Modality.DEPTH))
    depth = DepthFrame(np.full((64, 128), 5.0, np.float32))
    held = {"depth": (990, depth)}
    pipeline.segment(matched(1000, camera=(1000, gray(9)), **held))
    before = dict(pipeline._builders)
    pipeline.recalibrate(rig(*MODALITIES, frame="named_now"))
    assert pipeline.rig.sensors[Modality.LIDAR].frame_id == "named_now"
    assert all(pipeline._builders[m] is builder for m, builder in before.items())
    pipeline.segment(matched(2000, camera=(2000, gray(99)), **held))
    assert engine.encoded[-1] == ["camera"], "depth's features are as good as before"
    pipeline.recalibrate(rig(Modality.CAMERA))
    result = pipeline.segment(matched(3000, camera=(3000, gray(9)), **held))
    assert "no calibration for depth" in result.skipped[Modality.DEPTH]
    # Another grid is another view for all of them.
    pipeline.recalibrate(rig(Modality.CAMERA, grid=CameraModel.from_fov(128, 64, 60)))
    assert pipeline._builders[Modality.CAMERA] is not before[Modality.CAMERA]


def test_other_intrinsics_of_a_sensor_take_effect(engine):
    """A driver that switches its mode sends another CameraInfo of the same sensor in the same place."""
    narrow = rig(*MODALITIES)
    narrow.sensors[Modality.DEPTH] = SensorCalibration(
        "optical", RigidTransform.identity(), CameraModel.from_fov(128, 64, 40)
    )
    depth = {"depth": (990, DepthFrame(np.full((64, 128), 5.0, np.float32)))}
    pipeline = Pipeline(engine, rig(*MODALITIES))
    wide = pipeline.segment(matched(1000, **depth)).images[Modality.DEPTH]
    pipeline.recalibrate(narrow)
    held = pipeline.segment(matched(2000, **depth)).images[Modality.DEPTH]
    fresh = Pipeline(engine, narrow).segment(matched(2000, **depth)).images[Modality.DEPTH]
    assert wide.all() and not held.all()
    np.testing.assert_array_equal(held, fresh)


def test_a_reset_forgets_what_was_encoded(engine):
    pipeline = Pipeline(engine, rig(*MODALITIES))
    camera, depth = gray(10), DepthFrame(np.full((64, 128), 5.0, np.float32))
    pipeline.segment(matched(1000, camera=(1000, camera)))
    pipeline.prepare(Modality.DEPTH, depth, 1000, 0)
    pipeline.reset()
    engine.encoded.clear()
    result = pipeline.segment(matched(1000, camera=(1000, camera), depth=(1000, depth)))
    assert engine.encoded == [["camera", "depth"]] and result.timings.early_s == 0


def test_what_was_prepared_counts_for_one_set_only(engine):
    pipeline = Pipeline(engine, rig(*MODALITIES))
    depth = DepthFrame(np.full((64, 128), 5.0, np.float32))
    pipeline.prepare(Modality.DEPTH, depth, 990, 0)
    early = [
        pipeline.segment(matched(stamp, depth=(990, depth))).timings.early_s > 0
        for stamp in (1000, 1100)
    ]
    assert early == [True, False]


def test_an_image_begun_for_another_end_of_the_events_window_is_not_used(engine):
    """A set's stamp cuts the packets, and the next set may hold the same ones."""
    pipeline = Pipeline(engine, rig(*MODALITIES))
    packets = (packet(10_000_000), packet(90_000_000))
    for end, seen in ((50_000_000, 1), (100_000_000, 2)):
        pipeline.start_building(Modality.EVENT, packets, 100_000_000 + 50_000_000 - end, 0)
        image = pipeline.segment(matched(end, event=(end, packets))).images[Modality.EVENT]
        assert image[4, 3, 0] == round(128 + seen * 127 / 4)


def test_a_model_of_one_graph_serves_as_well(tmp_path):
    engine = CountingEngine(load_engine(write_segment_model(tmp_path / "m"), "onnxruntime"))
    pipeline = Pipeline(engine, rig(Modality.CAMERA, Modality.DEPTH))
    depth = (900, DepthFrame(np.full((64, 128), 80.0, np.float32)))
    alone = pipeline.segment(matched(camera=(1000, gray(255))))
    assert alone.used == (Modality.CAMERA,) and (alone.labels == 3).all()
    both = pipeline.segment(matched(2000, camera=(2000, gray(255)), depth=depth))
    held = pipeline.segment(matched(3000, camera=(3000, gray(0)), depth=depth))
    assert both.used == held.used == (Modality.CAMERA, Modality.DEPTH)
    assert not np.array_equal(both.labels, alone.labels)
    assert not np.array_equal(held.labels, both.labels)
    # A held image is not built again either.
    assert engine.encoded == [["camera"], ["camera", "depth"], ["camera"]]
