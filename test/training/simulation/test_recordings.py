"""What is written can be read: the data set by its contract, the bag by rosbags; same seed, same bytes."""

import hashlib
import json

import cv2
import numpy as np
import pytest
import yaml
from rosbags.highlevel import AnyReader

from anyseg_ros.classes import CITYSCAPES_19
from anyseg_ros.decoding import (
    decode_camera_info,
    decode_compressed_depth,
    decode_compressed_image,
    decode_event_cloud,
    decode_labels,
    decode_lidar,
    stamp_ns,
)
from anyseg_ros.modalities.calibration import load_calibration
from anyseg_ros.modality import Modality
from training.simulation import bag, dataset
from training.simulation.cli import main
from training.simulation.dataset import (
    DataSetError,
    DataSetPlan,
    drive_key,
    drive_plan,
    render_data_set,
)
from training.simulation.failures import FAILURES

PLAN = DataSetPlan(7, {"train": 1, "val": 1, "test": 0}, 2)


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    root = tmp_path_factory.mktemp("street") / "one"
    render_data_set(root, PLAN, workers=1)
    return root


def _digests(root):
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_workers(data_set, tmp_path):
    render_data_set(tmp_path / "two", PLAN, workers=2)
    assert _digests(tmp_path / "two") == _digests(data_set)


def test_the_data_set_keeps_its_contract(data_set):
    about = yaml.safe_load((data_set / "dataset.yaml").read_text())
    assert about["classes"] == list(CITYSCAPES_19.names)
    drives = sorted(p.parent for p in data_set.glob("*/*/frames.jsonl"))
    assert [str(d.relative_to(data_set)) for d in drives] == ["train/00000", "val/00000"]
    for drive in drives:
        rig = load_calibration(drive / "calibration.yaml")
        records = [json.loads(line) for line in (drive / "frames.jsonl").read_text().splitlines()]
        assert [r["index"] for r in records] == [0, 1]
        for record in records:
            _check_frame(drive, rig, record)


def _check_frame(drive, rig, record):
    name, anchor = f"{record['index']:06d}", record["anchor_stamp_ns"]
    stamps = record["stamps_ns"]
    assert record["failure"] is None or record["failure"] in FAILURES
    assert stamps["camera"] == anchor
    assert abs(stamps["depth"] - anchor) <= 21e6
    assert -51e6 <= stamps["lidar"] - anchor <= 21e6
    assert 0 <= stamps["event"] - anchor <= 13e6
    picture = cv2.imread(str(drive / "camera" / f"{name}.jpg"))
    labels = cv2.imread(str(drive / "label" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
    assert picture.shape[:2] == labels.shape == (rig.grid.height, rig.grid.width) == (256, 512)
    assert labels.dtype == np.uint8 and labels.max() < len(CITYSCAPES_19)
    depth = cv2.imread(str(drive / "depth" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
    camera = rig.sensors[Modality.DEPTH].camera
    assert depth.dtype == np.uint16 and depth.shape == (camera.height, camera.width)
    with np.load(drive / "event" / f"{name}.npz") as events:
        eye = rig.sensors[Modality.EVENT].camera
        assert events["x"].dtype == events["y"].dtype == np.uint16
        assert events["polarity"].dtype == np.uint8 and events["stamp_ns"].dtype == np.int64
        if len(events["x"]):
            assert events["x"].max() < eye.width and events["y"].max() < eye.height
            assert events["stamp_ns"][0] >= anchor - 106e6
            assert events["stamp_ns"][-1] <= stamps["event"]
            assert (np.diff(events["stamp_ns"]) >= 0).all()
    with np.load(drive / "lidar" / f"{name}.npz") as scan:
        assert scan["points_m"].dtype == scan["intensity"].dtype == np.float32
        assert scan["points_m"].shape == (len(scan["intensity"]), 3)
        assert len(scan["intensity"]) > 300
        assert 0 <= scan["intensity"].min() <= scan["intensity"].max() <= 1


def test_weathers_take_turns_and_no_two_drives_share_a_key():
    weathers = [drive_plan(drive_key(0, "train", k), k, 4).weather.name for k in range(10)]
    assert all(weathers.count(w) == 2 for w in set(weathers)) and len(set(weathers)) == 5
    keys = {drive_key(0, s, k) for s in dataset.SPLITS for k in range(50)}
    assert len(keys) == 150
    assert bag.BAG_SPLIT not in range(len(dataset.SPLITS))


def test_a_folder_in_use_is_not_overwritten(data_set, tmp_path, capsys):
    with pytest.raises(DataSetError, match="not empty"):
        render_data_set(data_set, PLAN, workers=1)
    (tmp_path / "bag").mkdir()
    assert main(["bag", "--out", str(tmp_path / "bag"), "--seconds", "1"]) == 1
    assert "exists already" in capsys.readouterr().err


# -- the bag -------------------------------------------------------------------------------------

SECONDS = 1.0


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bag")
    bag.write_bag(folder / "drive", folder / "calibration.yaml", 5, SECONDS, "clear")
    messages = {}
    with AnyReader([folder / "drive"]) as reader:
        for connection, logged, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            messages.setdefault(connection.topic, []).append((logged, message))
    return folder, messages


def test_the_bag_holds_every_topic_at_its_rate(recording):
    _, messages = recording
    assert set(messages) == {topic for topic, _ in bag.TOPICS.values()}
    for topic in ("/camera/image/compressed", "/depth/image/compressedDepth", "/lidar/points"):
        assert len(messages[topic]) == round(SECONDS / bag.PERIOD_S)
    packets = messages["/events/points"]
    assert len(packets) == int((SECONDS + 0.1) / bag.EVENT_PACKET_S)
    assert len(messages["/tf_static"]) == 1
    assert {t.child_frame_id for t in messages["/tf_static"][0][1].transforms} == set(
        bag.FRAME_IDS.values()
    )


def test_messages_arrive_after_their_stamp_by_the_latency_of_the_sensor(recording):
    _, messages = recording
    for topic, latency in (
        ("/camera/image/compressed", 0.015),
        ("/depth/image/compressedDepth", 0.020),
        ("/lidar/points", 0.012),
    ):
        delays = [(logged - stamp_ns(m.header.stamp)) * 1e-9 for logged, m in messages[topic]]
        assert latency <= min(delays) <= max(delays) <= latency + bag.LATENCY_JITTER_S
    for logged, message in messages["/events/points"]:
        end = stamp_ns(message.header.stamp) + round(bag.EVENT_PACKET_S * 1e9)
        assert 0.003 <= (logged - end) * 1e-9 <= 0.003 + bag.LATENCY_JITTER_S
        events = decode_event_cloud(message)
        assert len(events.x) > 0
        assert events.stamp_ns.min() >= stamp_ns(message.header.stamp)
        assert events.stamp_ns.max() < end


def test_the_bag_decodes_with_the_runtimes_decoders(recording):
    folder, messages = recording
    rig = load_calibration(folder / "calibration.yaml")
    stamps = [stamp_ns(m.header.stamp) for _, m in messages["/camera/image/compressed"]]
    labelled = [stamp_ns(m.header.stamp) for _, m in messages["/ground_truth/labels"]]
    assert stamps == labelled
    image = decode_compressed_image(messages["/camera/image/compressed"][3][1]).image
    labels = decode_labels(messages["/ground_truth/labels"][3][1])
    assert image.shape[:2] == labels.shape == (rig.grid.height, rig.grid.width)
    assert labels.max() < len(CITYSCAPES_19)
    depth = decode_compressed_depth(messages["/depth/image/compressedDepth"][3][1]).depth_m
    assert 2 < np.median(depth[depth > 0]) < 40
    scan = decode_lidar(messages["/lidar/points"][3][1])
    assert len(scan.points_m) > 500
    steps = scan.points_m / bag.POINT_STEP_M
    assert np.array_equal(steps, np.rint(steps))
    for modality, topic in (
        (Modality.CAMERA, "/camera/camera_info"),
        (Modality.DEPTH, "/depth/camera_info"),
        (Modality.EVENT, "/events/camera_info"),
    ):
        camera = decode_camera_info(messages[topic][0][1])
        expected = rig.sensors[modality].camera
        assert (camera.width, camera.height) == (expected.width, expected.height)
        assert np.allclose(camera.matrix, expected.matrix)


def test_the_montage_shows_every_weather_and_failure(tmp_path):
    assert main(["montage", "--out", str(tmp_path / "montage.png")]) == 0
    sheet = cv2.imread(str(tmp_path / "montage.png"))
    assert sheet.shape == (600, 1000, 3)
    # The event pictures have a white ground, the failures' row an over-exposed picture.
    assert (sheet[:500, 400:600] > 240).all(-1).mean() > 0.3
    assert (sheet[500:, 200:400] > 240).all(-1).mean() > 0.1
    assert (tmp_path / "montage.png").stat().st_size < 400_000
