"""The player offers what was recorded, and fails sensors by the timetable over DDS."""

from __future__ import annotations

import itertools

import pytest
from evaluation import made_bag
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_graph import Process, Watcher, domain, wait_until
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from sensor_msgs.msg import CompressedImage, PointCloud2

from anyseg_ros.modality import MODALITIES, Modality
from anyseg_ros.ros.bag_player import offered_qos

CAMERA, DEPTH, EVENT, LIDAR = MODALITIES
FOREVER = QosTime(9223372036, 854775807)
KINDS = {CAMERA: CompressedImage, DEPTH: CompressedImage, EVENT: PointCloud2, LIDAR: PointCloud2}


def recorded(reliable=True, latched=False, deadline=FOREVER):
    return Qos(
        QosHistory.KEEP_LAST,
        10,
        QosReliability.RELIABLE if reliable else QosReliability.BEST_EFFORT,
        QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline,
        FOREVER,
        QosLiveliness.AUTOMATIC,
        FOREVER,
        False,
    )


RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT
VOLATILE, LATCHED = DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL


@pytest.mark.parametrize(
    ("offers", "topic", "choice", "expected"),
    [
        ([], "/a", "recorded", (RELIABLE, VOLATILE)),
        ([], "/tf_static", "recorded", (RELIABLE, LATCHED)),
        ([recorded()], "/a", "recorded", (RELIABLE, VOLATILE)),
        ([recorded(reliable=False)], "/a", "recorded", (BEST_EFFORT, VOLATILE)),
        ([recorded(latched=True)], "/map", "recorded", (RELIABLE, LATCHED)),
        # Publishers that did not agree: what fits every subscriber.
        ([recorded(), recorded(reliable=False)], "/a", "recorded", (RELIABLE, VOLATILE)),
        ([recorded(reliable=False)], "/a", "reliable", (RELIABLE, VOLATILE)),
        ([recorded()], "/a", "best_effort", (BEST_EFFORT, VOLATILE)),
    ],
)
def test_the_offer_is_what_was_recorded_unless_asked_otherwise(offers, topic, choice, expected):
    qos = offered_qos(offers, topic, choice)
    assert (qos.reliability, qos.durability) == expected


def test_a_recorded_deadline_is_offered():
    assert offered_qos([recorded(deadline=QosTime(0, 200_000_000))], "/a").deadline.nanoseconds == (
        200_000_000
    )


def test_faults_go_over_dds_as_the_timetable_says(tmp_path):
    bag = made_bag.write_bag(tmp_path / "drive", 3.0)
    timetable = tmp_path / "outages.yaml"
    timetable.write_text(
        "outages:\n"
        "  - {sensor: camera, from_s: 1.0, to_s: 2.0, kind: stuck_stamps}\n"
        "  - {sensor: depth, from_s: 1.0, to_s: 2.0, kind: burst}\n"
        "  - {sensor: event, from_s: 1.0, to_s: 2.0}\n"
        "  - {sensor: lidar, from_s: 1.0, to_s: 2.0, kind: empty}\n"
    )
    inputs = {m: (KINDS[m], made_bag.TOPICS[m]) for m in MODALITIES}
    # Reliable and deep, as everything that is published is to be counted: the sensors' usual best effort
    # may lose some on a busy machine.
    qos = QoSProfile(depth=200, reliability=RELIABLE)
    with domain() as number, Watcher(number, inputs, qos) as watcher:
        player = Process.start(
            "anyseg_ros.ros.bag_player",
            [str(bag), "--outages", str(timetable), "--wait", "20"],
            number,
            tmp_path / "player.log",
        )
        assert player.process.wait(60) == 0, player.text()
        expected = {CAMERA: 30, DEPTH: 30, EVENT: 50, LIDAR: 30}
        wait_until(
            lambda: {m: len(heard) for m, heard in watcher.inputs.items()} == expected,
            f"as many messages as {expected}",
            10,
        )
    assert "withheld 25, changed 20" in player.text()
    stamps = {m: [stamp for _, stamp in watcher.inputs[m]] for m in MODALITIES}
    # Ten messages with the stamp of the one before them.
    assert len(set(stamps[CAMERA])) == 20
    assert len(set(stamps[LIDAR])) == 30
    arrivals = [t for t, _ in watcher.inputs[Modality.DEPTH]]
    pauses = [b - a for a, b in itertools.pairwise(arrivals)]
    assert max(pauses) > 0.8


def test_an_outage_that_meets_no_topic_is_told(tmp_path):
    bag = made_bag.write_bag(tmp_path / "drive", 0.5)
    timetable = tmp_path / "outages.yaml"
    timetable.write_text(
        "outages:\n"
        "  - {sensor: camera, from_s: 0.1, to_s: 0.2}\n"
        "  - {sensor: lidar, from_s: 0.1, to_s: 0.2}\n"
    )
    with domain() as number:
        player = Process.start(
            "anyseg_ros.ros.bag_player",
            [str(bag), "--outages", str(timetable), "--sensor-namespace", "camera=/front/"],
            number,
            tmp_path / "player.log",
        )
        assert player.process.wait(60) == 0, player.text()
    assert "no topic begins with /front/, so outages of camera do nothing" in player.text()
    assert "outages of lidar" not in player.text()
