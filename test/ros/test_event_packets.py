"""``event_camera_msgs/EventPacket`` into the node over DDS, and what the node says without the package."""

from __future__ import annotations

import array
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import rclpy
import rig
from message_package import EVENT_PACKET, message_package
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.qos import qos_profile_sensor_data
from ros_graph import domain
from test_node_lifecycle import Host

from anyseg_ros.modality import Modality
from anyseg_ros.ros.messages import stamp_ns

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
PERIOD_US = 20_000
COUNT = 200
"""Events a packet."""


@pytest.fixture(scope="module")
def event_packet(tmp_path_factory) -> Iterator[type[Any]]:
    """The message class: the installed package's, else built from its definition."""
    with message_package(
        "event_camera_msgs",
        {"EventPacket": EVENT_PACKET},
        lambda: tmp_path_factory.mktemp("messages"),
    ) as module:
        yield module.EventPacket


@pytest.fixture
def values(values):
    return {**values, "event__type": "packets", "event__topic": "/events/packets"}


def made_events(index: int) -> tuple[np.ndarray, ...]:
    """x, y, polarity and microseconds within the packet, in order of time."""
    random = np.random.default_rng(index)
    return (
        random.integers(0, rig.EVENT.width, COUNT).astype(np.uint64),
        random.integers(0, rig.EVENT.height, COUNT).astype(np.uint64),
        random.integers(0, 2, COUNT).astype(np.uint64),
        np.sort(random.integers(0, PERIOD_US, COUNT)).astype(np.uint64),
    )


def evt3(index: int) -> bytes:
    """Time high, time low, row, column for each event: EVT 3.0 without its vectors."""
    x, y, polarity, time_us = made_events(index)
    time_us = time_us + np.uint64(index * PERIOD_US)
    words = np.stack(
        [
            0x8000 | time_us >> 12 & 0xFFF,
            0x6000 | time_us & 0xFFF,
            y,
            0x2000 | polarity << 11 | x,
        ],
        -1,
    )
    return words.astype("<u2").tobytes()


def mono(index: int) -> bytes:
    x, y, polarity, time_us = made_events(index)
    return (polarity << 63 | y << 48 | x << 32 | time_us * 1000).astype("<u8").tobytes()


@pytest.mark.parametrize("encoding", ["evt3", "mono"])
def test_packets_come_in_over_dds_and_are_segmented(values, event_packet, encoding):
    encode = {"evt3": evt3, "mono": mono}[encoding]
    with domain() as number, Host(number, **values) as host:
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=number)
        driver = rclpy.create_node("driver", context=context)
        publisher = driver.create_publisher(
            event_packet, "/events/packets", qos_profile_sensor_data
        )
        assert host.node.trigger_configure() == SUCCESS, str(host.log)
        assert host.node.trigger_activate() == SUCCESS, str(host.log)
        sensor = host.node._inputs[Modality.EVENT]
        assert sensor.message_type == "event_camera_msgs/msg/EventPacket"
        received, pass_on = [], sensor._on_data

        def note(modality, stamp, data, frame):
            received.append(data)
            pass_on(modality, stamp, data, frame)

        sensor._on_data = note
        host.spin_until(lambda: publisher.get_subscription_count() == 1, "discovery")
        sent = 0
        until = time.monotonic() + 20
        while host.published < 5:
            assert time.monotonic() < until, str(host.log)
            message = event_packet(
                width=rig.EVENT.width, height=rig.EVENT.height, seq=sent, encoding=encoding
            )
            message.header = rig.header(Modality.EVENT, rig.START_NS + sent * PERIOD_US * 1000)
            message.events = array.array("B", encode(sent))
            publisher.publish(message)
            sent += 1
            host.spin(PERIOD_US / 1e6)
        assert host.node._last_used == (Modality.EVENT,)
        assert sensor.log.rejected == 0 and len(received) == sensor.log.received
        # Which packet it was, its events say; best effort may have lost one before.
        data = received[-1]
        _, y, polarity, time_us = next(
            events for events in map(made_events, range(sent)) if (events[0] == data.x).all()
        )
        assert (data.y == y).all() and (data.polarity == polarity).all()
        offsets_us = (data.stamp_ns - data.stamp_ns[0]) // 1000
        assert (offsets_us == time_us - time_us[0]).all()
        driver.destroy_node()
        rclpy.shutdown(context=context)


def test_a_packet_of_another_encoding_is_refused_by_name(values, event_packet):
    with domain() as number, Host(number, **values) as host:
        publisher = host.node.create_publisher(
            event_packet, "/events/packets", qos_profile_sensor_data
        )
        assert host.node.trigger_configure() == SUCCESS, str(host.log)
        assert host.node.trigger_activate() == SUCCESS, str(host.log)
        log = host.node._inputs[Modality.EVENT].log
        message = event_packet(width=8, height=8, encoding="libcaer_cmp")
        message.header = rig.header(Modality.EVENT, rig.START_NS)
        assert stamp_ns(message.header.stamp) == rig.START_NS

        def refused() -> bool:
            publisher.publish(message)
            host.spin(0.05)
            return log.rejected > 0

        host.spin_until(refused, "refusal")
        assert "encoding" in log.last_error and "evt3 or mono" in log.last_error
        assert "republish of event_camera_legacy_tools" in log.last_error


def test_without_the_package_configure_says_what_to_install(values, monkeypatch):
    monkeypatch.setitem(sys.modules, "event_camera_msgs.msg", None)
    with domain() as number, Host(number, **values) as host:
        before = host.entities()
        assert host.node.trigger_configure() == FAILURE
        assert "ros-$ROS_DISTRO-event-camera-msgs" in str(host.log)
        assert host.entities() == before
        # The sensor switched off, nothing is missing.
        host.node.set_parameters([rclpy.Parameter("event.enabled", value=False)])
        assert host.node.trigger_configure() == SUCCESS, str(host.log)
