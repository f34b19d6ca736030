"""What leaves the node beside the mask, as Nav2's semantic segmentation layer subscribes to it.

https://github.com/kiwicampus/semantic_segmentation_layer (branch rolling, a70cf6e): mask, confidence and
a cloud with a point for every pixel of the mask by sensor-data QoS, LabelInfo reliable and latched.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import rclpy
import rig
from diagnostic_msgs.msg import DiagnosticArray
from message_package import LABEL_INFO, VISION_CLASS, message_package
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from ros_graph import domain
from sensor_msgs.msg import Image, PointCloud2
from test_node_lifecycle import Host, publish_good

from anyseg_ros.classes import IGNORE_ID
from anyseg_ros.modality import MODALITIES, Modality
from anyseg_ros.ros import publishers as publishers_module
from anyseg_ros.ros.messages import stamp_ns
from anyseg_ros.ros.stand_ins import point_cloud2

SUCCESS = TransitionCallbackReturn.SUCCESS


@pytest.fixture(scope="module")
def vision_msgs(tmp_path_factory) -> Iterator[Any]:
    with message_package(
        "vision_msgs",
        {"VisionClass": VISION_CLASS, "LabelInfo": LABEL_INFO},
        lambda: tmp_path_factory.mktemp("messages"),
    ) as module:
        yield module


class Listener:
    """A node of another process's kind: its own context, spun by the test."""

    def __init__(self, number: int) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=number)
        self.node = rclpy.create_node("listener", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.received: dict[str, list[Any]] = {}

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def subscribe(self, kind: type, topic: str, qos: Any = qos_profile_sensor_data) -> None:
        got = self.received.setdefault(topic, [])
        self.node.create_subscription(kind, f"/anyseg/{topic}", got.append, qos)

    def spin(self) -> None:
        self.executor.spin_once(timeout_sec=0.01)


def feed(host: Host) -> dict[Modality, Any]:
    return {
        m: host.node.create_publisher(type(rig.MAKERS[m](rig.START_NS)), rig.TOPICS[m], 50)
        for m in MODALITIES
    }


def run_until(host: Host, listener: Listener, inputs, condition, what: str) -> None:
    index = 0

    def step() -> bool:
        nonlocal index
        publish_good(inputs, index)
        index += 1
        host.spin(0.08)
        for _ in range(8):
            listener.spin()
        return condition()

    try:
        host.spin_until(step, what)
    except AssertionError:
        counts = {topic: len(got) for topic, got in listener.received.items()}
        pytest.fail(f"{what} not within time; received {counts}\n{host.log}")


def test_mask_confidence_labels_and_cloud_as_the_costmap_layer_takes_them(values, vision_msgs):
    with domain() as number, Host(number, **values) as host, Listener(number) as listener:
        inputs = feed(host)
        assert host.node.trigger_configure() == SUCCESS, str(host.log)
        assert host.node.trigger_activate() == SUCCESS, str(host.log)
        # After activation: whoever comes late gets the labels all the same.
        listener.subscribe(
            vision_msgs.LabelInfo,
            "label_info",
            QoSProfile(depth=5, durability=DurabilityPolicy.TRANSIENT_LOCAL),
        )
        for topic in ("segmentation", "confidence"):
            listener.subscribe(Image, topic)
        for topic in ("pixel_points", "semantic_points"):
            listener.subscribe(PointCloud2, topic)
        run_until(
            host,
            listener,
            inputs,
            lambda: all(
                len(got) >= (1 if t == "label_info" else 3) for t, got in listener.received.items()
            ),
            "every topic",
        )
        got = listener.received
        assert len(got["label_info"]) == 1
        classes = host.node._engine.card.classes
        assert [(c.class_id, c.class_name) for c in got["label_info"][0].class_map] == list(
            enumerate(classes.names)
        )

        by_stamp = {stamp_ns(m.header.stamp): m for m in got["segmentation"]}
        shared = [m for m in got["pixel_points"] if stamp_ns(m.header.stamp) in by_stamp]
        assert shared, "exact-time synchronization finds no pair"
        cloud, mask = shared[-1], by_stamp[stamp_ns(shared[-1].header.stamp)]
        assert mask.encoding == "mono8" and got["confidence"][-1].encoding == "mono8"
        assert (cloud.height, cloud.width) == (mask.height, mask.width)
        assert cloud.header.frame_id == mask.header.frame_id == rig.FRAMES[Modality.CAMERA]
        points = point_cloud2.read_points(cloud)
        assert points.dtype.names == ("x", "y", "z") and len(points) == mask.height * mask.width
        known = np.isfinite(points["z"])
        assert known.mean() > 0.3
        # The depth image shows stripes at 3..4 m and at 8 m.
        depths = np.unique(np.round(points["z"][known]))
        assert {8.0} <= set(depths) and depths.min() >= 3.0

        sent = rig.lidar_cloud(rig.START_NS)
        semantic = got["semantic_points"][-1]
        assert semantic.header.frame_id == rig.FRAMES[Modality.LIDAR]
        points = point_cloud2.read_points(semantic)
        assert points.dtype.names == ("x", "y", "z", "rgb", "class_id", "confidence")
        assert len(points) == sent.width
        seen = points["class_id"] != IGNORE_ID
        assert 0.1 < seen.mean() < 1.0
        assert points["class_id"][seen].max() < len(classes)
        assert (points["confidence"][seen] > 0).all() and (points["confidence"][~seen] == 0).all()
        colours = points["rgb"].view(np.uint32)
        first = np.flatnonzero(seen)[0]
        red, green, blue = classes.colors[points["class_id"][first]]
        assert colours[first] == red << 16 | green << 8 | blue
        # Ahead of the sensor (x forward) and in view.
        assert (points["x"][seen] > 0).all()


def test_clouds_are_made_only_for_subscribers(values, monkeypatch):
    made = []
    for name in ("label_points", "depth_of_pixels", "draw_overlay"):
        real = getattr(publishers_module, name)
        monkeypatch.setattr(
            publishers_module,
            name,
            lambda *args, real=real, name=name: (made.append(name), real(*args))[1],
        )
    with domain() as number, Host(number, **values) as host, Listener(number) as listener:
        inputs = feed(host)
        assert host.node.trigger_configure() == SUCCESS, str(host.log)
        assert host.node.trigger_activate() == SUCCESS, str(host.log)
        run_until(host, listener, inputs, lambda: host.published >= 5, "output")
        assert made == []
        listener.subscribe(PointCloud2, "semantic_points")
        run_until(host, listener, inputs, lambda: bool(made), "a cloud")
        assert set(made) == {"label_points"}


def test_without_vision_msgs_there_are_no_labels_and_nothing_else_is_lost(values, monkeypatch):
    monkeypatch.setitem(sys.modules, "vision_msgs.msg", None)
    with domain() as number, Host(number, **values) as host, Listener(number) as listener:
        inputs = feed(host)
        assert host.node.trigger_configure() == SUCCESS, str(host.log)
        assert str(host.log).count("vision_msgs") == 1 and "debug: no ~/label_info" in str(host.log)
        assert host.node.trigger_activate() == SUCCESS, str(host.log)
        run_until(host, listener, inputs, lambda: host.published >= 3, "output")
        topics = {p.topic_name for p in host.node.publishers}
        assert "/anyseg/segmentation" in topics and "/anyseg/label_info" not in topics


def test_a_subscriber_that_asks_for_reliable_in_vain_is_named_with_the_remedy(values):
    with domain() as number, Host(number, **values) as host, Listener(number) as listener:
        inputs = feed(host)
        assert host.node.trigger_configure() == SUCCESS, str(host.log)
        assert host.node.trigger_activate() == SUCCESS, str(host.log)
        listener.subscribe(Image, "overlay", QoSProfile(depth=1))
        mismatches = host.node._results.mismatches
        run_until(host, listener, inputs, lambda: bool(mismatches), "mismatch")
        reason = mismatches["/anyseg/overlay"]
        assert "RELIABILITY" in reason and "output_reliable" in reason
        assert reason in str(host.log)


def test_a_latency_budget_that_is_too_small_leaves_the_anchor_and_is_shown(values):
    values["latency_budget"] = 0.0001
    with domain() as number, Host(number, **values) as host, Listener(number) as listener:
        inputs = feed(host)
        assert host.node.trigger_configure() == SUCCESS, str(host.log)
        assert host.node.trigger_activate() == SUCCESS, str(host.log)
        shown: list[dict[str, dict[str, str]]] = []
        listener.node.create_subscription(
            DiagnosticArray,
            "/diagnostics",
            lambda m: shown.append({s.name: {v.key: v.value for v in s.values} for s in m.status}),
            10,
        )

        def sheds() -> bool:
            overall = shown[-1].get("anyseg: segmentation", {}) if shown else {}
            return overall.get("shed", "none") != "none" and host.node._last_used == (
                Modality.CAMERA,
            )

        run_until(host, listener, inputs, sheds, "shed sensors in /diagnostics")
        overall = shown[-1]["anyseg: segmentation"]
        assert overall["shed"] == "depth+event+lidar"
        assert float(overall["latency_budget_s"]) == pytest.approx(0.0, abs=0.001)
        assert int(overall["shed_lidar"]) > 0 and "shed_camera" not in overall
        stages = shown[-1]["anyseg: stages"]
        for stage in ("decode_camera", "decode_lidar", "image", "encode", "fuse", "publish"):
            assert 0 < float(stages[f"{stage}_median_ms"]) <= float(stages[f"{stage}_p95_ms"])
        # Lifted while it runs, all four are back.
        host.node.set_parameters([rclpy.Parameter("latency_budget", value=0.0)])
        run_until(host, listener, inputs, lambda: host.node._last_used == MODALITIES, "all four")


def test_a_publisher_that_offers_too_little_is_named_at_once(values):
    values["camera__qos_reliable"] = True
    with domain() as number, Host(number, **values) as host, Listener(number) as listener:
        listener.node.create_publisher(Image, "/camera/image", qos_profile_sensor_data)
        assert host.node.trigger_configure() == SUCCESS, str(host.log)
        assert host.node.trigger_activate() == SUCCESS, str(host.log)
        log = host.node._inputs[Modality.CAMERA].log
        host.spin_until(lambda: bool(log.qos_mismatch), "mismatch")
        assert "RELIABILITY" in log.qos_mismatch and "camera.qos_reliable" in log.qos_mismatch
        assert log.qos_mismatch in str(host.log)
