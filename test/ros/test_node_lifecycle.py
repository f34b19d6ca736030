"""The node through its lifecycle under load: no crash, nothing leaked, every refusal explained."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rclpy
import rig
import yaml
from geometry_msgs.msg import Quaternion, Transform, TransformStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from ros_graph import Process, domain
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from tiny_model import tiny_card, write_tiny_model

from anyseg_ros.modalities import (
    DEFAULT_ENCODINGS,
    EncodingSpec,
    SensorCalibration,
    save_calibration,
)
from anyseg_ros.modality import MODALITIES, Modality
from anyseg_ros.ros.messages import decode_image
from anyseg_ros.ros.node import SegmentationNode
from anyseg_ros.sync import MatchedSet, StreamState

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class Log:
    """What the node logs, kept."""

    def __init__(self):
        self.lines: list[str] = []

    def __getattr__(self, level: str):
        return lambda text, **_: self.lines.append(f"{level}: {text}")

    def __str__(self) -> str:
        return "\n".join(self.lines)


class Host:
    """A node in this process, spun in this thread between its transitions."""

    def __init__(self, number: int, **values) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=number)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.log = Log()
        overrides = [Parameter(name.replace("__", "."), value=v) for name, v in values.items()]
        self.node = SegmentationNode(context=self.context, parameter_overrides=overrides)
        self.node.get_logger = lambda: self.log
        self.node._log._logger = self.log
        self.executor.add_node(self.node)

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.node.release()
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def spin(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.executor.spin_once(timeout_sec=left)

    def spin_until(self, condition, what: str, seconds: float = 20.0) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, f"not within {seconds} s: {what}\n{self.log}"
            self.executor.spin_once(timeout_sec=0.05)

    @property
    def published(self) -> int:
        return self.node._published

    def entities(self) -> dict[str, int]:
        """Everything that a transition might leak."""
        return {
            "subscriptions": len(list(self.node.subscriptions)),
            "publishers": len(list(self.node.publishers)),
            "timers": len(list(self.node.timers)),
            "managed": len(self.node._managed_entities),
            "threads": sum(t.name.startswith("anyseg") for t in threading.enumerate()),
        }


def test_reconfigured_again_and_again_under_load(values, tmp_path):
    bag = rig.write_bag(tmp_path, 4.0)
    with domain() as number, Host(number, **values) as host:
        player = Process.start(
            "anyseg_ros.ros.bag_player",
            [str(bag), "--loop", "--rate", "3"],
            number,
            tmp_path / "player.log",
        )
        try:
            unconfigured = host.entities()
            inactive = active = None
            for cycle in range(6):
                assert host.node.trigger_configure() == SUCCESS, str(host.log)
                inactive = inactive or host.entities()
                assert host.entities() == inactive
                for _ in range(3):
                    assert host.node.trigger_activate() == SUCCESS, str(host.log)
                    active = active or host.entities()
                    assert host.entities()["subscriptions"] == active["subscriptions"]
                    if cycle == 0:
                        host.spin_until(lambda: host.published > 10, "output")
                    host.spin(0.15)
                    assert host.node.trigger_deactivate() == SUCCESS
                    assert host.entities() == inactive
                    before = host.published
                    host.spin(0.05)
                    assert host.published == before
                assert host.node.trigger_cleanup() == SUCCESS
                assert host.entities() == unconfigured
            assert active["subscriptions"] == inactive["subscriptions"] + len(MODALITIES)

            assert host.node.trigger_configure() == SUCCESS
            assert host.node.trigger_activate() == SUCCESS
            host.spin(0.5)
            assert host.node.trigger_shutdown() == SUCCESS
            assert host.entities() == unconfigured
            assert player.process.poll() is None, player.text()
        finally:
            player.stop()
        assert not [line for line in host.log.lines if line.startswith("error:")]


def test_output_returns_after_every_activation(values, tmp_path):
    bag = rig.write_bag(tmp_path, 4.0)
    with domain() as number, Host(number, **values) as host:
        player = Process.start(
            "anyseg_ros.ros.bag_player", [str(bag), "--loop"], number, tmp_path / "player.log"
        )
        try:
            assert host.node.trigger_configure() == SUCCESS
            for _ in range(3):
                assert host.node.trigger_activate() == SUCCESS
                host.spin_until(lambda: host.published >= 5, "output after activation")
                assert host.node._last_used == MODALITIES
                assert host.node.trigger_deactivate() == SUCCESS
        finally:
            player.stop()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "/nowhere/model"}, "no model folder /nowhere/model"),
        ({"calibration_file": "/nowhere/rig.yaml"}, "/nowhere/rig.yaml"),
        ({"camera__timeout": -1.0}, "camera.timeout"),
        ({"camera__timeout": "soon"}, "camera.timeout"),
        ({"threads": "many"}, "threads"),
        ({"depth__type": "nonsense"}, "depth.type"),
        ({"engine": "abacus"}, "engine"),
        ({"priority": ["radar"]}, "priority"),
        ({f"{m.label}__enabled": False for m in MODALITIES}, "enable one"),
    ],
)
def test_configure_refuses_with_a_sentence_and_leaves_nothing(values, change, words):
    with domain() as number, Host(number, **{**values, **change}) as host:
        before = host.entities()
        assert host.node.trigger_configure() == FAILURE
        assert words in str(host.log)
        assert host.entities() == before
        assert host.node._state_machine.current_state[1] == "unconfigured"
        status = host.node._overall_status()
        assert words in status.message and status.level == b"\x02"


def test_an_engine_that_cannot_be_closed_is_given_up(values):
    def fail():
        raise RuntimeError("cuCtxPushCurrent failed: the GPU is gone")

    with domain() as number, Host(number, **values) as host:
        for _ in range(2):
            assert host.node.trigger_configure() == SUCCESS, str(host.log)
            host.node._engine.close = fail
            assert host.node.trigger_cleanup() == SUCCESS
        assert str(host.log).count("error: the engine cannot be released: RuntimeError('cuCtx") == 2


def test_a_wrong_parameter_is_refused_until_it_is_set(values):
    """Not only once: a manager that tries again would get the default in its place."""
    wrong = {"engine": "tensort", "lidar__timeout": -3.0}
    with domain() as number, Host(number, **{**values, **wrong}) as host:
        for _ in range(2):
            host.log.lines.clear()
            assert host.node.trigger_configure() == FAILURE
            assert "engine" in str(host.log) and "lidar.timeout" in str(host.log)
        host.node.set_parameters([Parameter("engine", value="onnxruntime")])
        host.log.lines.clear()
        assert host.node.trigger_configure() == FAILURE
        assert "engine" not in str(host.log) and "lidar.timeout" in str(host.log)
        host.node.set_parameters([Parameter("lidar.timeout", value=0.4)])
        assert host.node.trigger_configure() == SUCCESS, str(host.log)


@pytest.mark.parametrize("durability", ["latched", "best effort"])
def test_a_camera_info_of_any_qos_is_heard(values, durability):
    values |= {"calibration_file": "", "camera__qos_reliable": True}
    qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    if durability == "best effort":
        qos = qos_profile_sensor_data
    with domain() as number, Host(number, **values) as host:
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=number)
        driver = rclpy.create_node("driver", context=context)
        info = driver.create_publisher(CameraInfo, "/camera/camera_info", qos)
        message = rig.camera_info(Modality.CAMERA, rig.START_NS)
        info.publish(message)  # once, before the node is there
        assert host.node.trigger_configure() == SUCCESS
        assert host.node.trigger_activate() == SUCCESS

        def known() -> bool:
            if durability == "best effort":
                info.publish(message)
            return host.node._calibration.grid_frame_id != ""

        host.spin_until(known, "CameraInfo")
        driver.destroy_node()
        rclpy.shutdown(context=context)


def test_timeouts_changed_while_running_keep_the_order_of_the_masks(values):
    with domain() as number, Host(number, **values) as host:
        assert host.node.trigger_configure() == SUCCESS
        assert host.node.trigger_activate() == SUCCESS
        before = host.node._synchronizer, host.node._health
        changed = [Parameter("camera.timeout", value=0.2), Parameter("max_wait_s", value=0.03)]
        assert all(r.successful for r in host.node.set_parameters(changed))
        assert (host.node._synchronizer, host.node._health) == before
        stream = host.node._synchronizer._streams[Modality.CAMERA]
        assert stream.timeout_ns == 200_000_000
        assert host.node._synchronizer._max_wait_ns == 30_000_000


def test_tf_is_listened_to_only_while_something_is_missing(values, monkeypatch):
    """With a stand-in for tf2_ros, which has no wheel: a buffer that finds a transform when asked again."""
    asked = []

    class Listener:
        open = 0

        def __init__(self, *_):
            Listener.open += 1

        def unregister(self):
            Listener.open -= 1

    class Buffer:
        def lookup_transform(self, target, source, _):
            asked.append((target, source))
            if len(asked) < 2:
                raise TransformError
            return TransformStamped(transform=Transform(rotation=Quaternion(w=1.0)))

    class TransformError(Exception):
        pass

    stand_in = SimpleNamespace(
        TransformException=TransformError, Buffer=Buffer, TransformListener=Listener
    )
    monkeypatch.setitem(sys.modules, "tf2_ros", stand_in)
    only = {f"{m.label}__enabled": m in (Modality.CAMERA, Modality.LIDAR) for m in MODALITIES}
    with domain() as number, Host(number, **values) as host:
        assert host.node.trigger_configure() == SUCCESS
        assert host.node.trigger_activate() == SUCCESS
        assert Listener.open == 0, "the file says where everything is"
    with domain() as number, Host(number, **{**values, **only, "calibration_file": ""}) as host:
        assert host.node.trigger_configure() == SUCCESS
        assert host.node.trigger_activate() == SUCCESS
        assert Listener.open == 1
        host.node._on_camera_info(Modality.CAMERA, rig.CAMERA, "cam")
        host.node._on_data(Modality.LIDAR, 1, None, "velodyne")
        assert asked == [("cam", "velodyne")] and Listener.open == 1
        host.node._update_waiting()
        assert asked == [("cam", "velodyne")] * 2
        host.node._update_waiting()
        assert Listener.open == 0 and not host.node._calibration.missing(Modality.LIDAR)


def test_a_file_of_the_event_camera_alone_is_enough_beside_a_camera_info(values, tmp_path):
    data = yaml.safe_load(Path(values["calibration_file"]).read_text())
    short = tmp_path / "event_camera.yaml"
    short.write_text(yaml.safe_dump({"sensors": {"event": data["sensors"]["event"]}}))
    with domain() as number, Host(number, **{**values, "calibration_file": str(short)}) as host:
        assert host.node.trigger_configure() == SUCCESS, str(host.log)
        assert host.node.trigger_activate() == SUCCESS, str(host.log)
        topics = {s.topic_name for s in host.node.subscriptions}
        assert "/camera/camera_info" in topics and not any(
            "events/camera_info" in t for t in topics
        )
        host.node._on_camera_info(Modality.CAMERA, rig.CAMERA, "cam")
        known = host.node._pipeline.rig
        assert (known.grid, known.grid_frame_id) == (rig.CAMERA, "cam")
        assert Modality.EVENT in known.sensors


def test_without_tf2_a_sensor_that_has_no_place_is_told_so(values, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2_ros", None)
    with domain() as number, Host(number, **{**values, "calibration_file": ""}) as host:
        assert host.node.trigger_configure() == SUCCESS
        assert host.node.trigger_activate() == SUCCESS
        host.node._on_camera_info(Modality.CAMERA, rig.CAMERA, "cam")
        host.node._on_data(Modality.LIDAR, 1, None, "velodyne")
        assert "tf2_ros cannot be imported" in host.node._inputs[Modality.LIDAR].log.waiting_for


def test_a_grid_without_a_frame_is_refused(values, tmp_path):
    data = yaml.safe_load(Path(values["calibration_file"]).read_text())
    del data["grid"]["frame_id"]
    path = tmp_path / "rig.yaml"
    path.write_text(yaml.safe_dump(data))
    with domain() as number, Host(number, **{**values, "calibration_file": str(path)}) as host:
        assert host.node.trigger_configure() == FAILURE
        assert "frame_id is missing" in str(host.log)


@pytest.mark.parametrize("damage", ["missing", "garbage", "foreign"])
def test_a_model_that_is_none_is_refused_by_file(values, tmp_path, tiny_model, damage):
    import shutil

    import onnx

    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    if damage == "missing":
        (broken / "fuse.onnx").unlink()
    elif damage == "garbage":
        (broken / "fuse.onnx").write_bytes(b"not a model")
    else:
        model = onnx.load(str(broken / "fuse.onnx"))
        del model.metadata_props[:]
        onnx.save(model, str(broken / "fuse.onnx"))
    with domain() as number, Host(number, **{**values, "model": str(broken)}) as host:
        assert host.node.trigger_configure() == FAILURE
        assert "fuse.onnx" in str(host.log)
        # Put right, the same node configures.
        host.node.set_parameters([Parameter("model", value=str(tiny_model))])
        assert host.node.trigger_configure() == SUCCESS


def test_parameters_change_at_run_time_where_safe(values):
    with domain() as number, Host(number, **values) as host:
        assert host.node.trigger_configure() == SUCCESS
        assert host.node.trigger_activate() == SUCCESS

        def change(name, value):
            return host.node.set_parameters([Parameter(name, value=value)])[0]

        assert change("camera.timeout", 0.2).successful
        assert host.node.parameters.sensors[MODALITIES[0]].timeout_s == 0.2
        assert change("overlay_alpha", 0.9).successful
        assert host.node.parameters.overlay_alpha == 0.9
        refused = change("camera.topic", "/other")
        assert not refused.successful and "configure" in refused.reason
        out_of_range = change("camera.timeout", 1e6)
        assert not out_of_range.successful and "camera.timeout" in out_of_range.reason
        assert host.node.trigger_deactivate() == SUCCESS
        assert host.node.trigger_cleanup() == SUCCESS
        assert change("camera.topic", "/other").successful


def test_parameters_reach_the_synchronizer_and_the_health_checks(values, tmp_path):
    short = EncodingSpec(DEFAULT_ENCODINGS[Modality.EVENT].name, {"window_s": 0.05})
    card = tiny_card(encodings={**DEFAULT_ENCODINGS, Modality.EVENT: short})
    values |= {"priority": ["lidar", "event"], "depth__expected_rate": 15.0}
    values["model"] = str(write_tiny_model(tmp_path / "short", card))
    camera, depth, event, lidar = MODALITIES
    for kind in ("points", "image"):
        with domain() as number, Host(number, **values, event__type=kind) as host:
            assert host.node.trigger_configure() == SUCCESS, str(host.log)
            assert host.node.trigger_activate() == SUCCESS, str(host.log)
            assert tuple(host.node._synchronizer.status(0)) == (lidar, event, camera, depth)
            configs = host.node._stream_configs()
            assert [configs[m].windowed for m in MODALITIES] == [
                False,
                False,
                kind == "points",
                False,
            ]
            assert configs[event].window_s == 0.05, "that of the model's encoding"
            assert configs[depth].expected_rate_hz == 15.0
            changed = [Parameter("camera.black_level", value=0.0)]
            changed += [Parameter("health.bad_messages", value=7)]
            assert all(r.successful for r in host.node.set_parameters(changed))
            settings = host.node._health._settings
            assert settings.hysteresis.bad_count == 7 and settings.limits[camera].black_level == 0


def test_a_node_without_output_is_an_error_in_diagnostics(values):
    with domain() as number, Host(number, **values) as host:
        assert host.node.trigger_configure() == SUCCESS, str(host.log)
        assert host.node.trigger_activate() == SUCCESS, str(host.log)
        before = host.node._overall_status()
        assert before.level != b"\x02" and "waiting for sensors" in before.message
        host.node._last_published_at -= 7.0
        after = host.node._overall_status()
        assert after.level == b"\x02" and after.message.startswith("no output for 7 s; before: ")


def test_nothing_is_encoded_early_where_it_is_switched_off(values):
    with domain() as number, Host(number, **values) as host:
        assert host.node.trigger_configure() == SUCCESS, str(host.log)
        assert host.node.trigger_activate() == SUCCESS, str(host.log)
        prepared = []
        host.node._worker.prepare = lambda modality, *_: prepared.append(modality)
        host.node._worker.submit = lambda _: None
        for early in (True, False):
            prepared.clear()
            host.node.set_parameters([Parameter("encode_early", value=early)])
            # The first picture leaves at once; the second waits for a LiDAR that is alive.
            now = host.node._now_ns()
            host.node._synchronizer.add(Modality.LIDAR, now, None, now)
            picture = decode_image(rig.camera_image(now + 1_000_000))
            host.node._on_data(Modality.CAMERA, now + 1_000_000, picture, "camera_frame")
            assert prepared == ([Modality.CAMERA] if early else [])


def test_a_new_epoch_reaches_the_worker_before_its_first_set(values):
    with domain() as number, Host(number, **values) as host:
        assert host.node.trigger_configure() == SUCCESS, str(host.log)
        assert host.node.trigger_activate() == SUCCESS, str(host.log)
        done = []
        host.node._worker.reset = lambda: done.append("reset")
        host.node._worker.submit = lambda matched, _: done.append(matched.epoch)
        for epoch in (3, 3, 4):
            host.node._emit([MatchedSet(Modality.CAMERA, 1, epoch, {})], 1)
        assert done == [3, 3, "reset", 4]


def test_a_result_says_of_a_sensor_that_waits_for_extrinsics_that_it_does(values):
    with domain() as number, Host(number, **{**values, "calibration_file": ""}) as host:
        node = host.node
        assert node.trigger_configure() == SUCCESS, str(host.log)
        assert node.trigger_activate() == SUCCESS, str(host.log)
        node._on_camera_info(Modality.CAMERA, rig.CAMERA, "cam")
        node._on_data(Modality.LIDAR, 1, None, "velodyne")
        told = []
        node._worker.submit = lambda _, statuses: told.append(statuses)
        node._emit([MatchedSet(Modality.CAMERA, 1, 0, {})], 1)
        assert "no extrinsics from frame 'velodyne'" in told[0][Modality.LIDAR].reason
        assert told[0][Modality.EVENT].reason == "nothing received yet"


def test_switching_the_consistency_check_off_frees_whom_it_accused(values):
    with domain() as number, Host(number, **values) as host:
        node = host.node
        node.set_parameters([Parameter("consistency.every", value=5)])
        assert node.trigger_configure() == SUCCESS
        assert node.trigger_activate() == SUCCESS
        node._health.accuse_only({Modality.LIDAR: "departs"})

        def state() -> StreamState:
            now = node._now_ns()
            node._synchronizer.add(Modality.LIDAR, now, None, now)
            return node._synchronizer.status(node._now_ns())[Modality.LIDAR].state

        assert state() is StreamState.QUARANTINED
        assert node.set_parameters([Parameter("consistency.every", value=0)])[0].successful
        assert state() is not StreamState.QUARANTINED


def publish_good(publishers, index: int) -> None:
    for modality in MODALITIES:
        stamp = rig.START_NS + index * 100_000_000 + int(modality)
        publishers[modality].publish(rig.MAKERS[modality](stamp))


def bad_messages(stamp: int):
    """One of every kind of bad input, by sensor, with a word of the reason it must give."""
    image = rig.camera_image(stamp)
    image.encoding = "yuv9"
    yield MODALITIES[0], image, "encoding"
    image = rig.camera_image(stamp)
    image.data = image.data[:100]
    yield MODALITIES[0], image, "data"
    image = rig.camera_image(stamp)
    image.header.stamp.sec = image.header.stamp.nanosec = 0
    yield MODALITIES[0], image, "header.stamp"
    image = rig.encode_image(np.zeros((64, 64, 3), np.uint8), "rgb8", stamp, "camera_frame")
    yield MODALITIES[0], image, "aspect ratio"
    depth = rig.depth_image(stamp)
    depth.step = 3
    yield MODALITIES[1], depth, "step"
    events = rig.event_cloud(stamp)
    events.fields = events.fields[:3]
    yield MODALITIES[2], events, "fields"
    points = np.zeros(3, rig.EVENT_DTYPE)
    points["x"] = 5000
    events = rig.cloud(MODALITIES[2], stamp, points, rig.EVENT_FIELDS)
    yield MODALITIES[2], events, "calibrated sensor"
    yield MODALITIES[3], rig.lidar_cloud(stamp, 0), "0 points"
    points = np.full((5, 4), np.nan, np.float32).view(
        [(name, "<f4") for name in ("x", "y", "z", "intensity")]
    )
    yield MODALITIES[3], rig.cloud(MODALITIES[3], stamp, points[:, 0], rig.LIDAR_FIELDS), "NaN"


def test_a_bad_message_costs_only_itself(values):
    with domain() as number, Host(number, **values) as host:
        publishers = {
            m: host.node.create_publisher(type(rig.MAKERS[m](rig.START_NS)), rig.TOPICS[m], 50)
            for m in MODALITIES
        }
        assert host.node.trigger_configure() == SUCCESS
        assert host.node.trigger_activate() == SUCCESS
        index = 0

        def send_until(condition, what):
            nonlocal index
            until = time.monotonic() + 20
            while not condition():
                assert time.monotonic() < until, f"{what}\n{host.log}"
                publish_good(publishers, index)
                index += 1
                host.spin(0.1)

        send_until(lambda: host.published >= 5, "output")
        inputs = host.node._inputs
        rejected = 0
        for modality, message, words in bad_messages(rig.START_NS + index * 100_000_000):
            before = inputs[modality].log.rejected
            publishers[modality].publish(message)
            host.spin_until(
                lambda m=modality, b=before: inputs[m].log.rejected == b + 1, f"refusal: {words}"
            )
            assert words in inputs[modality].log.last_error
            rejected += 1
            before = host.published
            send_until(lambda b=before: host.published >= b + 2, f"output after {words}")
            assert host.node._last_used == MODALITIES, words
        assert sum(i.log.rejected for i in inputs.values()) == rejected == 9
        for topic in rig.TOPICS.values():
            assert f"refused a message on {topic}" in str(host.log)


def test_without_calibration_the_sensors_say_what_they_wait_for(values):
    values["calibration_file"] = ""
    with domain() as number, Host(number, **values) as host:
        camera = host.node.create_publisher(type(rig.camera_image(1)), "/camera/image", 10)
        info = host.node.create_publisher(
            type(rig.camera_info(MODALITIES[0], 1)), "/camera/camera_info", 10
        )
        assert host.node.trigger_configure() == SUCCESS
        assert host.node.trigger_activate() == SUCCESS
        log = host.node._inputs[MODALITIES[0]].log

        def send(index):
            camera.publish(rig.camera_image(rig.START_NS + index * 100_000_000))
            host.spin(0.05)

        for index in range(400):
            send(index)
            if log.waiting_for:
                break
        assert "calibration_file" in log.waiting_for
        assert "camera waits: no segmentation grid" in str(host.log)
        bad = rig.camera_info(MODALITIES[0], rig.START_NS)
        bad.k = [0.0] * 9
        info.publish(bad)
        host.spin_until(lambda: log.info_rejected == 1, "refused CameraInfo")
        assert "uncalibrated" in log.info_error
        # Counted apart: every picture has been received and none is refused.
        assert log.rejected == 0 and log.last_error == ""
        received = log.received
        while log.received == received:
            send(received)
        for words in ("/camera/camera_info but is refused", "uncalibrated", "camera_info_topic"):
            assert words in log.waiting_for
        info.publish(rig.camera_info(MODALITIES[0], rig.START_NS))
        for later in range(400, 800):
            send(later)
            if host.published >= 3:
                break
        assert host.published >= 3 and host.node._last_used == (MODALITIES[0],)


def test_a_model_without_the_camera_takes_its_grid_from_camera_info(values, tmp_path):
    known = (Modality.DEPTH, Modality.LIDAR)
    folder = write_tiny_model(tmp_path / "blind", tiny_card(modalities=known))
    values |= {"model": str(folder), "calibration_file": "", "depth__registered": True}
    with domain() as number, Host(number, **values) as host:
        info = host.node.create_publisher(CameraInfo, "/camera/camera_info", 10)
        depth = host.node.create_publisher(Image, "/depth/image", 10)
        assert host.node.trigger_configure() == SUCCESS, str(host.log)
        assert host.node.trigger_activate() == SUCCESS, str(host.log)
        topics = {s.topic_name for s in host.node.subscriptions}
        assert "/camera/camera_info" in topics and "/camera/image" not in topics
        index = 0

        def segments() -> bool:
            nonlocal index
            stamp = rig.START_NS + index * 100_000_000
            index += 1
            info.publish(rig.camera_info(Modality.CAMERA, stamp))
            # In the camera's picture, so of its shape.
            picture = np.full((64, 128), 8000, np.uint16)
            picture[::5] = 3000 + index % 1000
            depth.publish(rig.encode_image(picture, "16UC1", stamp, "camera_frame"))
            host.spin(0.05)
            return host.published >= 2

        host.spin_until(segments, "output")
        assert host.node._last_used == (Modality.DEPTH,)


def test_a_sensor_that_changes_its_frame_and_back_is_known_by_its_last_one(values):
    with domain() as number, Host(number, **values) as host:
        lidar = host.node.create_publisher(PointCloud2, "/lidar/points", 10)
        assert host.node.trigger_configure() == SUCCESS, str(host.log)
        assert host.node.trigger_activate() == SUCCESS, str(host.log)
        index = 0
        for frame in ("front", "rear", "front"):

            def known(frame=frame) -> bool:
                nonlocal index
                index += 1
                scan = rig.lidar_cloud(rig.START_NS + index * 100_000_000)
                scan.header.frame_id = frame
                lidar.publish(scan)
                host.spin(0.05)
                sensors = host.node._calibration.rig().sensors
                return sensors[Modality.LIDAR].frame_id == frame

            host.spin_until(known, frame)
        assert "lidar changes its frame (front, rear), now it is 'rear'" in str(host.log)


def test_a_scan_that_is_not_in_view_is_named_in_diagnostics(values, tmp_path):
    file = rig.calibration()
    sensors = {**file.sensors, Modality.LIDAR: SensorCalibration("lidar_frame")}
    save_calibration(replace(file, sensors=sensors), tmp_path / "unturned.yaml")
    values["calibration_file"] = str(tmp_path / "unturned.yaml")
    with domain() as number, Host(number, **values) as host:
        publishers = {
            m: host.node.create_publisher(type(rig.MAKERS[m](1)), rig.TOPICS[m], 10)
            for m in (Modality.CAMERA, Modality.LIDAR)
        }
        assert host.node.trigger_configure() == SUCCESS, str(host.log)
        assert host.node.trigger_activate() == SUCCESS, str(host.log)
        index = 0

        def told() -> bool:
            nonlocal index
            index += 1
            stamp = rig.START_NS + index * 100_000_000
            publishers[Modality.CAMERA].publish(rig.camera_image(stamp))
            publishers[Modality.LIDAR].publish(rig.lidar_cloud(stamp, 1000))
            host.spin(0.08)
            status = host.node._synchronizer.status(host.node._now_ns())[Modality.LIDAR]
            report = host.node._sensor_status(Modality.LIDAR, status)
            return report.level == b"\x01" and "extrinsics" in report.message

        host.spin_until(told, "a warning")
        assert "lidar not used: hardly any of the scan's 1000 points" in str(host.log)
        assert host.node._last_used == (Modality.CAMERA,)


def test_an_empty_list_in_a_parameter_file_is_no_error(values, tmp_path):
    parameters = {k: v for k, v in values.items()} | {"lidar": {"extrinsics": []}, "priority": []}
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}))
    with domain() as number:
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=number)
        node = SegmentationNode(
            context=context, cli_args=["--ros-args", "--params-file", str(path)]
        )
        try:
            assert node.trigger_configure() == SUCCESS, node._last_result
            assert node.parameters.sensors[Modality.LIDAR].extrinsics == ()
            assert node.parameters.priority == MODALITIES
        finally:
            node.release()
            node.destroy_node()
            rclpy.shutdown(context=context)


def test_two_nodes_have_statuses_of_their_own(values):
    with domain() as number, Host(number, **values) as host:
        names = set()
        for namespace in ("front", "rear"):
            node = SegmentationNode(context=host.context, namespace=namespace)
            names.add(node._overall_status().name)
            node.destroy_node()
        names.add(host.node._overall_status().name)
    assert names == {f"{name}anyseg: segmentation" for name in ("", "front/", "rear/")}


def test_a_lidar_with_its_own_clock_does_not_push_out_the_camera(values):
    camera, lidar = MODALITIES[0], MODALITIES[3]
    with domain() as number, Host(number, **values) as host:
        publishers = {
            m: host.node.create_publisher(type(rig.MAKERS[m](rig.START_NS)), rig.TOPICS[m], 50)
            for m in (camera, lidar)
        }
        assert host.node.trigger_configure() == SUCCESS
        assert host.node.trigger_activate() == SUCCESS

        def send_until(condition, what):
            until = time.monotonic() + 20
            while not condition():
                assert time.monotonic() < until, f"{what}\n{host.log}"
                since_boot = time.monotonic_ns() - began + 100 * 10**9
                publishers[lidar].publish(rig.MAKERS[lidar](since_boot))
                if camera_is_there:
                    publishers[camera].publish(rig.MAKERS[camera](time.time_ns()))
                host.spin(0.05)

        began = time.monotonic_ns()
        camera_is_there = False
        send_until(lambda: host.published >= 5, "output of the LiDAR alone")
        assert host.node._last_used == (lidar,)
        camera_is_there = True
        send_until(lambda: host.node._last_used == (camera,), "output of the camera")
        status = host.node._synchronizer.status(host.node._now_ns())[lidar]
        assert "timestamp mode" in status.reason
        assert 0 <= host.node._synchronizer.status(host.node._now_ns())[camera].age_s < 5


def test_a_sensor_of_another_clock_is_used_with_its_offset(values):
    """An event camera on TAI, 37 s ahead; its packets date every event."""
    camera, event = MODALITIES[0], MODALITIES[2]
    with domain() as number, Host(number, event__stamp_offset=-37.0, **values) as host:
        publishers = {
            m: host.node.create_publisher(type(rig.MAKERS[m](rig.START_NS)), rig.TOPICS[m], 50)
            for m in (camera, event)
        }
        assert host.node.trigger_configure() == SUCCESS
        assert host.node.trigger_activate() == SUCCESS
        until = time.monotonic() + 20
        while host.node._last_used != (camera, event):
            assert time.monotonic() < until, host.log
            publishers[camera].publish(rig.MAKERS[camera](time.time_ns()))
            publishers[event].publish(rig.MAKERS[event](time.time_ns() + 37 * 10**9))
            host.spin(0.05)
        status = host.node._synchronizer.status(host.node._now_ns())[event]
        assert host.node._sensor_status(event, status).message == "live"
        assert abs(host.node._inputs[event].log.behind_clock_s) < 5


def test_a_type_mismatch_and_a_qos_mismatch_are_named(values):
    values["camera__qos_reliable"] = True
    with domain() as number, Host(number, **values) as host:
        # Of its own context: one DDS participant cannot have two types on a topic.
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=number)
        driver = rclpy.create_node("driver", context=context)
        driver.create_publisher(Image, "/camera/image", qos_profile_sensor_data)
        driver.create_publisher(CompressedImage, "/depth/image", 10)
        assert host.node.trigger_configure() == SUCCESS
        assert host.node.trigger_activate() == SUCCESS
        host.spin(0.5)

        def messages():
            statuses = host.node._synchronizer.status(host.node._now_ns())
            return {m.label: host.node._sensor_status(m, s).message for m, s in statuses.items()}

        host.spin_until(lambda: "QoS mismatch on /camera/image" in messages()["camera"], "QoS")
        assert "camera.qos_reliable to false" in messages()["camera"]
        host.spin_until(lambda: "depth.type to 'compressed_depth'" in messages()["depth"], "type")
        assert "nobody publishes on /lidar/points" in messages()["lidar"]
        driver.destroy_node()
        rclpy.shutdown(context=context)
