"""Silence on a topic is explained with its remedy."""

import time
from types import SimpleNamespace

import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from anyseg_ros.modality import MODALITIES, Modality
from anyseg_ros.ros.diagnostics import (
    Publication,
    SensorLog,
    explain_silence,
    foreign_stamps,
    sensor_status,
)
from anyseg_ros.ros.inputs import readable_types
from anyseg_ros.ros.parameters import SENSOR_TYPES, NodeParameters
from anyseg_ros.ros.stage_times import StageTimes
from anyseg_ros.ros.throttled_log import ThrottledLog
from anyseg_ros.sync import StreamState, StreamStatus
from anyseg_ros.unread_types import UNREAD_TYPES

IMAGE = "sensor_msgs/msg/Image"
READABLE = {IMAGE: "image", "sensor_msgs/msg/CompressedImage": "compressed"}
FAST_DDS = "rmw_fastrtps_cpp"


@pytest.mark.parametrize(
    ("publications", "reliable", "seen", "words"),
    [
        ([], False, False, "nobody publishes"),
        (
            [Publication("/driver", "sensor_msgs/msg/CompressedImage", True)],
            False,
            False,
            "'compressed'",
        ),
        ([Publication("/driver", IMAGE, False)], True, False, "camera.qos_reliable"),
        ([Publication("/driver", IMAGE, True)], True, False, "FASTDDS_BUILTIN_TRANSPORTS"),
        ([Publication("/driver", IMAGE, False)], False, False, "FASTDDS_BUILTIN_TRANSPORTS"),
        ([Publication("/driver", IMAGE, False)], False, True, "has stopped sending"),
    ],
)
def test_silence_is_explained(publications, reliable, seen, words):
    text = explain_silence(
        "/image", IMAGE, READABLE, reliable, publications, "camera", seen, FAST_DDS
    )
    assert words in text
    assert "/image" in text


@pytest.mark.parametrize(
    ("sent", "parameter", "words"),
    [
        ("livox_ros_driver2/msg/CustomMsg", "lidar", ("xfer_format 0", "PointCloud2")),
        (
            "dvs_msgs/msg/EventArray",
            "event",
            ("event_camera_msgs/msg/EventPacket", "legacy_to_bag"),
        ),
        ("sensor_msgs/msg/LaserScan", "lidar", ("lidar.topic", "sensor_msgs/msg/PointCloud2")),
    ],
)
def test_a_type_that_no_setting_reads_is_not_blamed_on_the_setting(sent, parameter, words):
    readable = readable_types(Modality.from_label(parameter))
    driver = [Publication("/driver", sent, True)]
    wanted = "sensor_msgs/msg/PointCloud2"
    text = explain_silence("/t", wanted, readable, False, driver, parameter, False, FAST_DDS)
    assert f"/driver publishes {sent} on /t, which is not read" in text
    assert "lidar.type" not in text
    for word in words:
        assert word in text


def test_every_message_type_is_read_by_one_value_of_the_parameter():
    for modality in MODALITIES:
        readable = readable_types(modality)
        assert sorted(readable.values()) == sorted(SENSOR_TYPES[modality])
        assert not set(readable) & set(UNREAD_TYPES)


def test_the_remedy_is_that_of_the_middleware_in_use():
    driver = [Publication("/driver", IMAGE, False)]
    texts = [
        explain_silence(
            "/image", IMAGE, READABLE, False, driver, "camera", False, "rmw_cyclonedds_cpp"
        ),
        status(rate=3.0, expected=10.0, middleware="rmw_cyclonedds_cpp").message,
    ]
    for text in texts:
        assert "rmw_cyclonedds_cpp" in text and "FASTDDS" not in text


def status(
    state=StreamState.LIVE,
    rate=10.0,
    log=None,
    expected=0.0,
    middleware=FAST_DDS,
    detail="",
    apart_s=None,
    offset_s=0.0,
):
    parameters = NodeParameters.from_values(
        {"camera.expected_rate": expected, "camera.stamp_offset": offset_s}
    )
    stream = StreamStatus(
        state, "because", 0.05, rate, 7, 0, 1, detail=detail, clock_apart_s=apart_s
    )
    return sensor_status(
        Modality.CAMERA,
        parameters.sensors[Modality.CAMERA],
        "/image",
        stream,
        log or SensorLog(received=7),
        "nobody publishes" if state is not StreamState.LIVE else "",
        "robot1/anyseg",
        middleware,
    )


def test_levels():
    assert status().level == DiagnosticStatus.OK
    slow = status(rate=3.0, expected=10.0)
    assert slow.level == DiagnosticStatus.WARN and "FASTDDS" in slow.message
    assert status(rate=9.0, expected=10.0).level == DiagnosticStatus.OK
    assert status(StreamState.DROPPED).level == DiagnosticStatus.ERROR
    assert "because" in status(StreamState.QUARANTINED).message
    refused = status(StreamState.WAITING, log=SensorLog(received=3, rejected=3, last_error="bad"))
    assert "every message is refused: bad" in refused.message
    waiting = status(StreamState.WAITING, log=SensorLog(received=3, waiting_for="no grid"))
    assert waiting.message == "no grid"
    unseen = status(log=SensorLog(received=3, unused="out of view"))
    assert unseen.level == DiagnosticStatus.WARN and unseen.message == "not used: out of view"


def test_a_rate_below_80_percent_is_a_warning():
    assert status(rate=7.9, expected=10.0).level == DiagnosticStatus.WARN
    assert status(rate=8.1, expected=10.0).level == DiagnosticStatus.OK


def test_what_is_worse_than_usual_is_a_warning_in_words():
    slow = status(detail="slow: a message every 0.400 s")
    assert (slow.level, slow.message) == (DiagnosticStatus.WARN, "slow: a message every 0.400 s")
    both = status(detail="late: 0.30 s", log=SensorLog(received=3, unused="out of view"))
    assert both.message == "late: 0.30 s; not used: out of view"


def test_one_refused_message_does_not_explain_a_silence():
    dropped = status(StreamState.DROPPED, log=SensorLog(received=7, rejected=1, last_error="bad"))
    assert dropped.message == "dropped: nobody publishes"


def test_one_fitting_publisher_among_others_is_enough():
    driver, other = Publication("/driver", IMAGE, True), Publication("/other", IMAGE, False)
    text = explain_silence(
        "/image", IMAGE, READABLE, True, [other, driver], "camera", False, FAST_DDS
    )
    assert "qos_reliable" not in text
    foreign = Publication("/bridge", "sensor_msgs/msg/CompressedImage", True)
    text = explain_silence(
        "/image", IMAGE, READABLE, False, [foreign, driver], "camera", True, FAST_DDS
    )
    assert text == "/driver is there but has stopped sending on /image"


def test_a_qos_mismatch_is_among_the_values():
    log = SensorLog(received=7, qos_mismatch="a publisher does not offer RELIABILITY")
    values = {v.key: v.value for v in status(log=log).values}
    assert values["qos_mismatch"] == log.qos_mismatch and values["age_s"] == "0.050"
    assert "qos_mismatch" not in {v.key for v in status().values}


def test_a_repeated_warning_is_logged_once_in_a_while_and_counted(monkeypatch):
    now, lines = [100.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    log = ThrottledLog(SimpleNamespace(warning=lines.append), quiet_s=5.0)
    for second in range(12):
        now[0] = 100.0 + second
        log.warning("camera", f"camera {second}")
    log.warning("lidar", "lidar")
    assert lines == [
        "camera 0",
        "camera 5 (and 4 more like it)",
        "camera 10 (and 4 more like it)",
        "lidar",
    ]
    log.warning("lidar", "lidar again", quiet_s=0.0)
    log.forget()
    log.warning("camera", "anew")
    assert lines[4:] == ["lidar again", "anew"]


def test_stage_times_are_of_the_last_hundred_in_milliseconds():
    times = StageTimes()
    times.add("fuse", 0.004)
    assert times.values() == {"fuse_median_ms": 4.0, "fuse_p95_ms": 4.0}
    for i in range(200):
        times.add("encode", 10.0 if i < 100 else (i - 99) / 1000)
    values = times.values()
    assert values["encode_median_ms"] == pytest.approx(50.5)
    assert values["encode_p95_ms"] == pytest.approx(95.05)
    with pytest.raises(ZeroDivisionError), times.measure("image"):
        1 / 0  # noqa: B018
    assert "image_p95_ms" not in times.values()
    times.clear()
    assert times.values() == {}


def test_a_sensor_that_is_rarer_than_its_timeout_is_not_said_to_have_stopped():
    rare = status(state=StreamState.DROPPED, detail="a message every 0.80 s, rarer than").message
    assert rare == "dropped: a message every 0.80 s, rarer than"


def test_a_clock_that_is_apart_is_told_with_the_offset_that_mends_it():
    behind = status(detail="in none of the last 9 sets", apart_s=0.41)
    assert behind.level == DiagnosticStatus.WARN
    assert behind.message == (
        "in none of the last 9 sets; if its clock is off set that, or camera.stamp_offset to 0.41; "
        "if it is that late raise camera.max_age"
    )
    ahead = status(detail="leads alone", apart_s=-0.4, offset_s=0.1).message
    assert ahead == "leads alone; if its clock is off set that, or camera.stamp_offset to -0.30"
    tai = status(state=StreamState.QUARANTINED, apart_s=-37.0).message
    assert tai == "quarantined: because, or camera.stamp_offset to -37.00"
    uptime = status(state=StreamState.QUARANTINED, apart_s=1.69e9).message
    assert uptime == "quarantined: because"


def test_a_status_begins_with_the_name_of_its_node():
    assert status().name == "robot1/anyseg: camera"


def test_refused_camera_infos_are_counted_apart():
    assert not any(v.key.startswith("camera_info") for v in status().values)
    log = SensorLog(received=7, info_rejected=2, info_error="uncalibrated")
    values = {v.key: v.value for v in status(log=log).values}
    assert values["camera_info_rejected"] == "2" and values["rejected"] == "0"
    assert values["camera_info_last_error"] == "uncalibrated"


def test_stamps_of_another_time_than_the_clocks_are_told():
    def logs(**behind):
        return {Modality.from_label(m): SensorLog(behind_clock_s=s) for m, s in behind.items()}

    assert foreign_stamps(logs(camera=0.03, depth=-0.2, event=1.9, lidar=None)) == ""
    assert foreign_stamps(logs(camera=0.03, depth=-0.4)) == (
        "stamps of depth are 0.40 s ahead of the node's clock, which no delay explains: what is matched by "
        "them is that much apart; set that clock, or lower depth.stamp_offset by as much"
    )
    ahead = foreign_stamps(logs(camera=0.03, lidar=-37.0))
    assert ahead.startswith("stamps of lidar are 37.0 s ahead of the node's clock")
    uptime = foreign_stamps(logs(lidar=20_000 * 86_400.0))
    assert "lidar are 54.8 years behind" in uptime and "use_sim_time" in uptime
    assert "of camera, lidar are 3.0 hours behind" in foreign_stamps(
        logs(camera=10_800.0, lidar=1e5)
    )
    values = {v.key: v.value for v in status(log=SensorLog(behind_clock_s=0.25)).values}
    assert values["stamp_behind_clock_s"] == "0.250"
