"""Parameters: the table, what it refuses, and the YAML file that documents it."""

from pathlib import Path

import pytest
import yaml
from rclpy.parameter import Parameter

from anyseg_ros.health import HysteresisSettings
from anyseg_ros.modality import MODALITIES, Modality
from anyseg_ros.ros.parameters import PARAMETERS, NodeParameters, ParameterError, check_change

CONFIG = Path(__file__).parents[2] / "config" / "segment.yaml"
DEFAULTS = {spec.name: spec.default for spec in PARAMETERS}


def test_defaults_are_valid():
    parameters = NodeParameters.from_values({})
    assert parameters.priority == MODALITIES
    assert all(sensor.enabled for sensor in parameters.sensors.values())
    assert parameters.sensors[Modality.CAMERA].expected_rate_hz is None


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("camera.timeout", 0.0, "0.01 to 60"),
        ("camera.timeout", float("nan"), "finite"),
        ("camera.timeout", "fast", "a number"),
        ("camera.timeout", True, "a number"),
        ("depth.type", "compressed", "compressed_depth"),
        ("engine", "magic", "onnxruntime"),
        ("threads", 1.5, "an integer"),
        ("threads", -1, "0 to 1024"),
        ("lidar.enabled", "yes", "true or false"),
        ("priority", ["camera", "radar"], "lidar"),
        ("priority", ["camera", "camera"], "once"),
        ("priority", "camera", "a list"),
        ("event.extrinsics", [1.0, 2.0], "7 finite"),
        ("event.extrinsics", [0.0] * 7, "quaternion"),
        ("camera.topic", "", "camera.enabled"),
        ("depth.topic", "camera/image", "camera"),
        ("output_size", "huge", "model, camera"),
    ],
)
def test_a_wrong_value_is_refused_by_name(name, value, words):
    with pytest.raises(ParameterError, match=words) as caught:
        NodeParameters.from_values({name: value})
    assert str(caught.value).startswith(name)


def test_nothing_enabled_is_refused():
    with pytest.raises(ParameterError, match="enable one"):
        NodeParameters.from_values({f"{m.label}.enabled": False for m in MODALITIES})


def test_health_parameters_reach_what_they_are_named_for():
    values = {
        "health.bad_messages": 4,
        "health.bad_time": 1.5,
        "health.good_messages": 6,
        "health.good_time": 2.5,
        "consistency.every": 7,
    }
    parameters = NodeParameters.from_values(values)
    assert parameters.health.hysteresis == HysteresisSettings(4, 1.5, 6, 2.5)
    assert parameters.health.enabled and parameters.consistency.every == 7
    off = NodeParameters.from_values({**values, "health.enabled": False})
    assert not off.health.enabled and off.consistency.every == 0


def test_parameters_of_a_sensor_reach_it():
    values = {
        "depth.registered": True,
        "camera.rectified": True,
        "lidar.intensity_max": 255.0,
        "lidar.intensity_field": "reflectivity",
        "lidar.expected_rate": 20.0,
        "event.qos_depth": 7,
    }
    sensors = NodeParameters.from_values(values).sensors
    assert [sensors[m].registered for m in MODALITIES] == [False, True, False, False]
    assert [sensors[m].rectified for m in MODALITIES] == [True, False, False, False]
    lidar = sensors[Modality.LIDAR]
    assert (lidar.intensity_max, lidar.expected_rate_hz) == (255.0, 20.0)
    assert lidar.intensity_field == "reflectivity"
    assert sensors[Modality.EVENT].qos_depth == 7


def test_an_integer_serves_as_a_number_and_order_is_completed():
    parameters = NodeParameters.from_values({"camera.timeout": 1, "priority": ["lidar"]})
    assert parameters.sensors[Modality.CAMERA].timeout_s == 1.0
    assert parameters.priority == (
        Modality.LIDAR,
        Modality.CAMERA,
        Modality.DEPTH,
        Modality.EVENT,
    )


@pytest.mark.parametrize(
    ("topic", "kind", "info"),
    [
        ("camera/image", "image", "camera/camera_info"),
        ("/front/image_raw", "image", "/front/camera_info"),
        ("/front/image_raw/compressed", "compressed", "/front/camera_info"),
        ("image", "image", "camera_info"),
        ("/image", "image", "/camera_info"),
    ],
)
def test_camera_info_is_looked_for_beside_the_pictures(topic, kind, info):
    values = {"camera.topic": topic, "camera.type": kind}
    assert NodeParameters.from_values(values).sensors[Modality.CAMERA].camera_info_topic == info
    values["camera.camera_info_topic"] = "/elsewhere"
    sensors = NodeParameters.from_values(values).sensors
    assert sensors[Modality.CAMERA].camera_info_topic == "/elsewhere"
    assert sensors[Modality.LIDAR].camera_info_topic == ""


def test_an_empty_list_of_a_parameter_file_means_the_default():
    parameters = NodeParameters.from_values({"lidar.extrinsics": None, "priority": None})
    assert parameters.sensors[Modality.LIDAR].extrinsics == ()
    assert parameters.priority == MODALITIES
    # What rclpy holds then is no value, which is no change against the default.
    empty = Parameter("lidar.extrinsics", value=None)
    assert check_change(DEFAULTS, [empty], configured=True).successful
    held = {**DEFAULTS, "lidar.extrinsics": None}
    same = Parameter("lidar.extrinsics", value=[])
    assert check_change(held, [same], configured=True).successful


def test_the_configuration_file_has_every_parameter_at_its_default():
    text = CONFIG.read_text()
    tree = yaml.safe_load(text)["/**"]["ros__parameters"]
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": entry for name, entry in value.items()}
        else:
            flat[key] = value
    # Comments are: an empty list, which has no type in a ROS parameter file, and what the launch file
    # decides differently where no file says anything.
    commented = {name for name, value in DEFAULTS.items() if value == []} | {"autostart"}
    assert flat == {name: value for name, value in DEFAULTS.items() if name not in commented}
    assert text.count("# extrinsics: [") == len(MODALITIES)
    assert text.count("# autostart: false") == 1 and DEFAULTS["autostart"] is False


@pytest.mark.parametrize(
    ("change", "configured", "allowed"),
    [
        (Parameter("camera.timeout", value=0.3), True, True),
        (Parameter("camera.timeout", value=0.0), True, False),
        (Parameter("overlay_alpha", value=1), True, True),
        (Parameter("camera.topic", value="/x"), False, True),
        (Parameter("camera.topic", value="/x"), True, False),
        (Parameter("camera.topic", value="camera/image"), True, True),  # no change
        (Parameter("depth.topic", value="camera/image"), False, False),
        (Parameter("use_sim_time", value=True), True, True),
    ],
)
def test_what_may_change_while_the_node_runs(change, configured, allowed):
    result = check_change(DEFAULTS, [change], configured)
    assert result.successful is allowed
    if not allowed:
        assert change.name in result.reason
