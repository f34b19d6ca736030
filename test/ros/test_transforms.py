"""Extrinsics from TF, against the real ``tf2_ros`` where it is installed."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import TransformStamped
from rclpy.executors import SingleThreadedExecutor
from ros_graph import domain

from anyseg_ros.modalities import RigidTransform
from anyseg_ros.ros.transforms import TransformSource


@pytest.fixture
def node():
    with domain() as number:
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=number)
        node = rclpy.create_node("listener", context=context)
        yield node
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_without_tf2_nothing_is_found(node, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2_ros", None)
    source = TransformSource(node)
    assert not source.available and source.lookup("camera", "lidar") is None
    assert "tf2_ros cannot be imported" in source.problem
    source.close()


def test_static_transforms_are_found_and_nothing_is_left_behind(node):
    tf2_ros = pytest.importorskip("tf2_ros", reason="tf2_ros is not installed (it has no wheel)")
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)

    def entities() -> tuple[int, int]:
        return len(list(node.subscriptions)), len(list(node.services))

    before = entities()
    source = TransformSource(node)
    assert source.available and source.lookup("camera", "lidar") is None and not source.problem
    mounted = RigidTransform.from_quaternion((0.1, 0.2, 0.3, 0.9), (1.0, -2.0, 0.5))
    transform = TransformStamped()
    transform.header.frame_id, transform.child_frame_id = "camera", "lidar"
    q, t = transform.transform.rotation, transform.transform.translation
    q.x, q.y, q.z, q.w = map(float, mounted.quaternion_xyzw)
    t.x, t.y, t.z = map(float, mounted.translation)
    broadcaster = tf2_ros.StaticTransformBroadcaster(node)
    broadcaster.sendTransform(transform)
    until = time.monotonic() + 20
    while (found := source.lookup("camera", "lidar")) is None:
        assert time.monotonic() < until
        executor.spin_once(timeout_sec=0.1)
    np.testing.assert_allclose(found.rotation, mounted.rotation, atol=1e-9)
    np.testing.assert_allclose(found.translation, mounted.translation)
    source.close()
    assert entities() == before
    executor.shutdown()
