"""The node's parameters: one table with types, defaults, ranges and meaning; read into dataclasses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from anyseg_ros import health_parameters
from anyseg_ros.consistency import ConsistencySettings
from anyseg_ros.decoding import INTENSITY_FIELD
from anyseg_ros.engine import ENGINES
from anyseg_ros.health import HealthSettings
from anyseg_ros.modality import MODALITIES, Modality
from anyseg_ros.pipeline import OutputSize

SENSOR_TYPES: dict[Modality, tuple[str, ...]] = {
    Modality.CAMERA: ("image", "compressed"),
    Modality.DEPTH: ("image", "compressed_depth"),
    Modality.EVENT: ("points", "packets", "image"),
    Modality.LIDAR: ("points",),
}

LARGEST_OFFSET_S = 86400.0
"""Beyond a day a clock counts from something else, most often from its own start."""


class ParameterError(ValueError):
    """A parameter that cannot be used; the message starts with its name."""


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter as users see it."""

    name: str
    default: Any
    description: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False
    """May be changed while the node runs; others take effect at the next configure."""

    def check(self, value: Any) -> Any:
        """The value in the parameter's type (an integer is accepted for a double).

        Raises:
            ParameterError: if type, range or choice is wrong.
        """
        if isinstance(self.default, list):
            # An empty list has no type in a parameter file: ROS hands it on as no value.
            return list(self.default) if value is None else self._check_list(value)
        expected: type[Any] = type(self.default)
        if expected is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not expected:
            raise ParameterError(
                f"{self.name} is {value!r} ({type(value).__name__}); expected {_TYPE_NAMES[expected]}"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise ParameterError(f"{self.name} is {value}; expected a finite number")
        if self.minimum is not None and self.maximum is not None:
            number = float(value)
            if not self.minimum <= number <= self.maximum:
                raise ParameterError(
                    f"{self.name} is {value}; expected {self.minimum:g} to {self.maximum:g}"
                )
        if self.choices and value not in self.choices:
            raise ParameterError(
                f"{self.name} is {value!r}; expected one of {', '.join(self.choices)}"
            )
        return value

    def _check_list(self, value: Any) -> list[Any]:
        if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
            raise ParameterError(f"{self.name} is {value!r}; expected a list")
        items = list(value)
        if self.name.endswith("extrinsics"):
            numbers = [float(v) for v in items if isinstance(v, (int, float)) and math.isfinite(v)]
            if len(numbers) != len(items) or len(items) not in (0, 7):
                raise ParameterError(
                    f"{self.name} has {len(items)} entries; expected 7 finite numbers: "
                    "x y z in metres and a quaternion qx qy qz qw"
                )
            if items and math.hypot(*numbers[3:]) < 1e-6:
                raise ParameterError(f"{self.name} has a quaternion of length 0")
            return numbers
        wrong = [item for item in items if item not in self.choices]
        if wrong or len(set(items)) != len(items) or not items:
            raise ParameterError(
                f"{self.name} is {items}; expected some of {', '.join(self.choices)}, each once"
            )
        return items

    def descriptor(self) -> ParameterDescriptor:
        """What ``ros2 param describe`` shows."""
        descriptor = ParameterDescriptor(
            name=self.name,
            description=self.description,
            additional_constraints=self._constraints(),
            # rclpy would refuse "timeout: 1" for a double; check() accepts it.
            dynamic_typing=isinstance(self.default, (float, list)),
        )
        if self.minimum is not None and self.maximum is not None:
            if isinstance(self.default, float):
                descriptor.floating_point_range = [
                    FloatingPointRange(from_value=float(self.minimum), to_value=float(self.maximum))
                ]
            else:
                descriptor.integer_range = [
                    IntegerRange(from_value=int(self.minimum), to_value=int(self.maximum), step=1)
                ]
        return descriptor

    def _constraints(self) -> str:
        parts = [f"one of: {', '.join(self.choices)}"] if self.choices else []
        parts.append("may change at run time" if self.live else "takes effect at configure")
        return "; ".join(parts)


_TYPE_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
}

_TOPICS = {
    Modality.CAMERA: "camera/image",
    Modality.DEPTH: "depth/image",
    Modality.EVENT: "events/points",
    Modality.LIDAR: "lidar/points",
}
_TRANSPORTS = ("compressed", "compressedDepth")
"""What image_transport hangs behind a picture's topic."""
_QOS_DEPTH = {Modality.CAMERA: 5, Modality.DEPTH: 5, Modality.EVENT: 30, Modality.LIDAR: 5}


def _sensor_specs(modality: Modality) -> list[ParameterSpec]:
    label = modality.label
    types = SENSOR_TYPES[modality]
    specs = [
        ParameterSpec(f"{label}.enabled", True, f"Use the {label} sensor."),
        ParameterSpec(f"{label}.topic", _TOPICS[modality], f"Topic of the {label} data."),
        ParameterSpec(f"{label}.type", types[0], "Kind of message on the topic.", choices=types),
        ParameterSpec(
            f"{label}.timeout",
            0.5,
            "Seconds of silence after which the stream counts as dropped.",
            0.01,
            60.0,
            live=True,
        ),
        ParameterSpec(
            f"{label}.tolerance",
            0.06,
            "Largest difference between a message's stamp and the anchor's, seconds.",
            0.0,
            10.0,
            live=True,
        ),
        ParameterSpec(
            f"{label}.max_age",
            0.25,
            "How long a slower stream's last message may be held, seconds of stamp time.",
            0.001,
            60.0,
            live=True,
        ),
        ParameterSpec(
            f"{label}.expected_rate",
            0.0,
            "Usual rate in Hz; below 80 % is a warning, and an anchor far below gives way. 0: learned.",
            0.0,
            10000.0,
            live=True,
        ),
        ParameterSpec(
            f"{label}.stamp_offset",
            0.0,
            "Seconds added to its stamps, for a clock that is known to be off; masks have the stamps "
            "that come of it.",
            -LARGEST_OFFSET_S,
            LARGEST_OFFSET_S,
        ),
        ParameterSpec(
            f"{label}.qos_reliable",
            False,
            "Subscribe reliable instead of best effort; the publisher must be reliable too.",
        ),
        ParameterSpec(
            f"{label}.qos_depth", _QOS_DEPTH[modality], "Depth of the input queue.", 1, 1000
        ),
        ParameterSpec(
            f"{label}.extrinsics",
            [],
            "Pose of the sensor in the grid's optical frame: x y z (metres) qx qy qz qw. Empty: from "
            "the calibration file, else from TF.",
        ),
    ]
    if modality is not Modality.LIDAR:
        specs += [
            ParameterSpec(
                f"{label}.camera_info_topic",
                "",
                "Topic of its CameraInfo; empty: camera_info beside the topic, so /front/camera_info for "
                "/front/image_raw.",
            ),
            ParameterSpec(
                f"{label}.rectified",
                False,
                "The images are rectified: use P of CameraInfo, without distortion.",
            ),
        ]
    if modality is Modality.DEPTH:
        specs.append(
            ParameterSpec(
                "depth.registered", False, "The depth image is already registered to the camera."
            )
        )
    if modality is Modality.LIDAR:
        specs += [
            ParameterSpec(
                "lidar.intensity_max",
                0.0,
                "What counts as full intensity; 0: 255 for uint8, 65535 for uint16, 1 for float.",
                0.0,
                1e9,
            ),
            ParameterSpec(
                "lidar.intensity_field",
                INTENSITY_FIELD,
                "Field of the cloud that is read as intensity, reflectivity for example.",
            ),
        ]
    specs += [ParameterSpec(*limit, live=True) for limit in health_parameters.limits_of(modality)]
    return specs


PARAMETERS: tuple[ParameterSpec, ...] = (
    ParameterSpec(
        "model", "", "Folder of the model, or its name under models/; empty: the default."
    ),
    ParameterSpec("engine", "auto", "What runs the model.", choices=("auto", *sorted(ENGINES))),
    ParameterSpec("threads", 0, "CPU threads of the engine; 0 for all.", 0, 1024),
    ParameterSpec(
        "calibration_file",
        "",
        "YAML with grid, intrinsics and extrinsics. <sensor>.extrinsics win over it; what neither says comes "
        "from CameraInfo and TF.",
    ),
    ParameterSpec(
        "priority",
        [m.label for m in MODALITIES],
        "Which live stream sets the pace: the first of these, unless it is slow, late or overdue.",
        choices=tuple(m.label for m in MODALITIES),
    ),
    ParameterSpec(
        "max_wait_s",
        0.1,
        "Longest time a set waits for a live stream that is usually late, seconds. Also how long after "
        "its usual pauses the stream that sets the pace counts as overdue.",
        0.0,
        10.0,
        live=True,
    ),
    ParameterSpec(
        "latency_budget",
        0.0,
        "Seconds that building, encoding and fusing a set may take. Sensors that would exceed it are left "
        "out, the last of priority first; 0 for no limit.",
        0.0,
        60.0,
        live=True,
    ),
    ParameterSpec(
        "encode_early",
        True,
        "Encode a sensor's message when it arrives, if its last ones were used, instead of when the set is "
        "complete.",
        live=True,
    ),
    ParameterSpec(
        "output_size",
        "model",
        "Masks at the model's input size, or at the grid camera's size (nearest).",
        choices=("model", "camera"),
    ),
    ParameterSpec("output_reliable", False, "Publish results reliable instead of best effort."),
    ParameterSpec(
        "overlay_alpha", 0.5, "How much of the class colour the overlay shows.", 0.0, 1.0, live=True
    ),
    ParameterSpec(
        "autostart",
        False,
        "Configure and activate by itself at start, without a lifecycle manager.",
    ),
    *(ParameterSpec(*switch, live=True) for switch in health_parameters.SWITCHES),
    *(spec for modality in MODALITIES for spec in _sensor_specs(modality)),
)
_BY_NAME = {spec.name: spec for spec in PARAMETERS}


@dataclass(frozen=True)
class SensorParameters:
    """Parameters of one sensor; times in seconds."""

    enabled: bool
    topic: str
    type: str
    timeout_s: float
    tolerance_s: float
    max_age_s: float
    expected_rate_hz: float | None
    stamp_offset_s: float
    qos_reliable: bool
    qos_depth: int
    camera_info_topic: str
    rectified: bool
    registered: bool
    intensity_max: float
    intensity_field: str
    extrinsics: tuple[float, ...]


@dataclass(frozen=True)
class NodeParameters:
    """All parameters, checked."""

    model: str
    engine: str
    threads: int
    calibration_file: str
    priority: tuple[Modality, ...]
    max_wait_s: float
    latency_budget_s: float
    encode_early: bool
    output_size: OutputSize
    output_reliable: bool
    overlay_alpha: float
    autostart: bool
    health: HealthSettings
    consistency: ConsistencySettings
    sensors: Mapping[Modality, SensorParameters]

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> NodeParameters:
        """Check raw values; what is missing takes its default.

        Raises:
            ParameterError: naming the first parameter that is wrong.
        """
        checked = {
            spec.name: spec.check(values.get(spec.name, spec.default)) for spec in PARAMETERS
        }
        sensors = {m: _sensor_parameters(m, checked) for m in MODALITIES}
        if not any(sensor.enabled for sensor in sensors.values()):
            raise ParameterError("camera.enabled and all others are false; enable one sensor")
        topics: dict[str, Modality] = {}
        for modality, sensor in sensors.items():
            if not sensor.enabled:
                continue
            if not sensor.topic:
                raise ParameterError(
                    f"{modality.label}.topic is empty; name a topic or set {modality.label}.enabled "
                    "to false"
                )
            if sensor.topic in topics:
                raise ParameterError(
                    f"{modality.label}.topic is {sensor.topic!r}, which is the topic of "
                    f"{topics[sensor.topic].label} too"
                )
            topics[sensor.topic] = modality
        order = [Modality.from_label(label) for label in checked["priority"]]
        order += [m for m in MODALITIES if m not in order]
        return cls(
            model=checked["model"],
            engine=checked["engine"],
            threads=checked["threads"],
            calibration_file=checked["calibration_file"],
            priority=tuple(order),
            max_wait_s=checked["max_wait_s"],
            latency_budget_s=checked["latency_budget"],
            encode_early=checked["encode_early"],
            output_size=checked["output_size"],
            output_reliable=checked["output_reliable"],
            overlay_alpha=checked["overlay_alpha"],
            autostart=checked["autostart"],
            health=health_parameters.health_settings(checked),
            consistency=health_parameters.consistency_settings(checked),
            sensors=sensors,
        )


def camera_info_beside(topic: str) -> str:
    """Where a driver that keeps to image_transport's convention publishes the CameraInfo of a topic."""
    base, _, last = topic.rpartition("/")
    picture = base if last in _TRANSPORTS else topic
    return picture[: picture.rfind("/") + 1] + "camera_info"


def _sensor_parameters(modality: Modality, values: Mapping[str, Any]) -> SensorParameters:
    def get(name: str, default: Any = None) -> Any:
        return values.get(f"{modality.label}.{name}", default)

    return SensorParameters(
        enabled=get("enabled"),
        topic=get("topic"),
        type=get("type"),
        timeout_s=get("timeout"),
        tolerance_s=get("tolerance"),
        max_age_s=get("max_age"),
        expected_rate_hz=get("expected_rate") or None,
        stamp_offset_s=get("stamp_offset"),
        qos_reliable=get("qos_reliable"),
        qos_depth=get("qos_depth"),
        camera_info_topic=(
            ""
            if modality is Modality.LIDAR
            else get("camera_info_topic") or camera_info_beside(get("topic"))
        ),
        rectified=get("rectified", False),
        registered=get("registered", False),
        intensity_max=get("intensity_max", 0.0),
        intensity_field=get("intensity_field", INTENSITY_FIELD),
        extrinsics=tuple(get("extrinsics")),
    )


def declare_parameters(node: Node) -> dict[str, str]:
    """Declare every parameter; wrong overrides fall back to the default and are returned.

    A node that dies on a wrong parameter says nothing that an operator can query; this one stays
    and refuses to configure until they have been set.

    Returns:
        What is wrong, as a sentence, by the parameter's name.
    """
    problems = {}
    for spec in PARAMETERS:
        try:
            parameter = node.declare_parameter(spec.name, spec.default, spec.descriptor())
            spec.check(parameter.value)
        except ParameterError as error:
            problems[spec.name] = str(error)
            node.set_parameters([Parameter(spec.name, value=spec.default)])
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            problems[spec.name] = f"{spec.name}: {error}"
            node.declare_parameter(spec.name, spec.default, spec.descriptor(), ignore_override=True)
    return problems


def read_parameters(node: Node) -> NodeParameters:
    """The node's parameters, checked.

    Raises:
        ParameterError: naming the first parameter that is wrong.
    """
    return NodeParameters.from_values(
        {spec.name: node.get_parameter(spec.name).value for spec in PARAMETERS}
    )


def check_change(
    current: Mapping[str, Any], changes: list[Parameter[Any]], configured: bool
) -> SetParametersResult:
    """Whether a run-time change may be made; the reason says why not.

    Args:
        current: the values of all parameters.
        configured: the node is inactive or active, so that only live parameters may change.
    """
    values = dict(current)
    for change in changes:
        spec = _BY_NAME.get(change.name)
        if spec is None:
            continue
        try:
            values[change.name] = spec.check(change.value)
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        before = spec.check(current.get(change.name, spec.default))
        if configured and not spec.live and values[change.name] != before:
            return SetParametersResult(
                successful=False,
                reason=f"{change.name} takes effect at configure: clean the node up first "
                "(ros2 lifecycle set <node> cleanup), then set it and configure again",
            )
    try:
        NodeParameters.from_values(values)
    except ParameterError as error:
        return SetParametersResult(successful=False, reason=str(error))
    return SetParametersResult(successful=True)
