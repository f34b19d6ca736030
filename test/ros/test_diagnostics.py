"""Silence on a topic is explained with its remedy."""

import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from anyseg_ros.modality import Modality
from anyseg_ros.ros.diagnostics import Publication, SensorLog, explain_silence, sensor_status
from anyseg_ros.ros.parameters import NodeParameters
from anyseg_ros.sync import StreamState, StreamStatus

IMAGE = "sensor_msgs/msg/Image"
FAST_DDS = "rmw_fastrtps_cpp"


@pytest.mark.parametrize(
    ("publications", "reliable", "seen", "words"),
    [
        ([], False, False, "nobody publishes"),
        ([Publication("/driver", "sensor_msgs/msg/CompressedImage", True)], False, False, "type"),
        ([Publication("/driver", IMAGE, False)], True, False, "camera.qos_reliable"),
        ([Publication("/driver", IMAGE, True)], True, False, "FASTDDS_BUILTIN_TRANSPORTS"),
        ([Publication("/driver", IMAGE, False)], False, False, "FASTDDS_BUILTIN_TRANSPORTS"),
        ([Publication("/driver", IMAGE, False)], False, True, "has stopped sending"),
    ],
)
def test_silence_is_explained(publications, reliable, seen, words):
    text = explain_silence("/image", IMAGE, reliable, publications, "camera", seen, FAST_DDS)
    assert words in text
    assert "/image" in text


def test_the_remedy_is_that_of_the_middleware_in_use():
    driver = [Publication("/driver", IMAGE, False)]
    texts = [
        explain_silence("/image", IMAGE, False, driver, "camera", False, "rmw_cyclonedds_cpp"),
        status(rate=3.0, expected=10.0, middleware="rmw_cyclonedds_cpp").message,
    ]
    for text in texts:
        assert "rmw_cyclonedds_cpp" in text and "FASTDDS" not in text


def status(state=StreamState.LIVE, rate=10.0, log=None, expected=0.0, middleware=FAST_DDS):
    parameters = NodeParameters.from_values({"camera.expected_rate": expected})
    stream = StreamStatus(state, "because", 0.05, rate, 7, 0, 1)
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


def test_a_status_begins_with_the_name_of_its_node():
    assert status().name == "robot1/anyseg: camera"


def test_refused_camera_infos_are_counted_apart():
    assert not any(v.key.startswith("camera_info") for v in status().values)
    log = SensorLog(received=7, info_rejected=2, info_error="uncalibrated")
    values = {v.key: v.value for v in status(log=log).values}
    assert values["camera_info_rejected"] == "2" and values["rejected"] == "0"
    assert values["camera_info_last_error"] == "uncalibrated"
