"""The node's health on ``/diagnostics``: overall, and one status a sensor with the remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy

from anyseg_ros.durations import in_words
from anyseg_ros.load import LoadShedder
from anyseg_ros.modality import Modality, subset_name
from anyseg_ros.ros.parameters import LARGEST_OFFSET_S, SensorParameters
from anyseg_ros.ros.publishers import key_values
from anyseg_ros.ros.stage_times import StageTimes
from anyseg_ros.ros.transport import large_message_remedy
from anyseg_ros.sync import StreamState, StreamStatus
from anyseg_ros.sync.streams import FAR_LIMIT_NS, LEAD_LIMIT_NS, NS_PER_S
from anyseg_ros.unread_types import UNREAD_TYPES

LARGE_MESSAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/PointCloud2")


@dataclass
class SensorLog:
    """What one subscription has seen since activation."""

    received: int = 0
    rejected: int = 0
    last_error: str = ""
    info_rejected: int = 0
    """CameraInfo messages that were refused; they count neither as received nor as rejected."""
    info_error: str = ""
    waiting_for: str = ""
    """Calibration that is missing; empty if none."""
    qos_mismatch: str = ""
    """A publisher that does not offer the QoS asked for, as a sentence; empty if none was there."""
    unused: str = ""
    """Why the last result that had the sensor's data could not use it; empty if it could."""
    frame_ids: set[str] = field(default_factory=set)
    behind_clock_s: float | None = None
    """How far the last message's stamp was behind the node's clock; None if there was none."""


@dataclass(frozen=True)
class Publication:
    """A publisher on a sensor's topic, as discovery shows it."""

    node: str
    type: str
    reliable: bool


def diagnostic_name(node: Node) -> str:
    """What a node's statuses begin with: namespace and name, as all robots share ``/diagnostics``."""
    return node.get_fully_qualified_name().lstrip("/")


def find_publications(node: Node, topic: str) -> list[Publication]:
    """Who publishes on a topic."""
    return [
        Publication(
            f"{info.node_namespace.rstrip('/')}/{info.node_name}",
            info.topic_type,
            info.qos_profile.reliability == ReliabilityPolicy.RELIABLE,
        )
        for info in node.get_publishers_info_by_topic(topic)
    ]


def explain_silence(
    topic: str,
    message_type: str,
    readable_types: Mapping[str, str],
    wants_reliable: bool,
    publications: Sequence[Publication],
    parameter: str,
    seen_before: bool,
    middleware: str,
) -> str:
    """Why nothing arrives on a topic, and what to do about it.

    Args:
        message_type: what is subscribed to.
        readable_types: message types that the sensor may send, with the value of its parameter ``type``.
        parameter: the sensor's parameter prefix, e.g. ``camera``.
        seen_before: messages have arrived earlier.
        middleware: what carries the messages, as rclpy names it.
    """
    if not publications:
        return f"nobody publishes on {topic}; check the driver and the parameter {parameter}.topic"
    fitting = [p for p in publications if p.type == message_type]
    if not fitting:
        other = publications[0]
        found = f"{other.node} publishes {other.type} on {topic}"
        if other.type in readable_types:
            return (
                f"{found}, but {parameter}.type asks for {message_type}; set {parameter}.type to "
                f"{readable_types[other.type]!r}, or change {parameter}.topic"
            )
        if other.type in UNREAD_TYPES:
            return f"{found}, which is not read: {UNREAD_TYPES[other.type]}"
        return (
            f"{found}, which is not read; name a topic of {' or '.join(readable_types)} in "
            f"{parameter}.topic"
        )
    if wants_reliable and not any(p.reliable for p in fitting):
        return (
            f"QoS mismatch on {topic}: {fitting[0].node} publishes best effort, but "
            f"{parameter}.qos_reliable asks for reliable; set {parameter}.qos_reliable to false"
        )
    if seen_before:
        return f"{fitting[0].node} is there but has stopped sending on {topic}"
    if message_type in LARGE_MESSAGE_TYPES:
        return (
            f"{fitting[0].node} publishes on {topic} but nothing arrives. If it does send, large "
            f"messages are lost on the way: {large_message_remedy(middleware)}"
        )
    return f"{fitting[0].node} publishes on {topic} but nothing arrives; does it send?"


def sensor_status(
    modality: Modality,
    parameters: SensorParameters,
    topic: str,
    status: StreamStatus,
    log: SensorLog,
    silence: str,
    node: str,
    middleware: str,
) -> DiagnosticStatus:
    """One sensor's status: OK live, WARN slow or rejecting, ERROR gone or not believed.

    Args:
        topic: resolved name.
        silence: result of :func:`explain_silence` if the stream is not live, else empty.
        node: the node's name in diagnostics, see :func:`diagnostic_name`.
        middleware: what carries the messages, as rclpy names it.
    """
    level, text = DiagnosticStatus.OK, "live"
    if status.state is StreamState.QUARANTINED:
        level, text = DiagnosticStatus.ERROR, f"quarantined: {status.reason}"
    elif log.waiting_for and log.received:
        level, text = DiagnosticStatus.ERROR, log.waiting_for
    elif status.state is not StreamState.LIVE:
        level = DiagnosticStatus.ERROR
        only_bad = log.received > 0 and log.rejected == log.received
        text = f"every message is refused: {log.last_error}" if only_bad else silence
        if status.state is StreamState.DROPPED:
            text = f"dropped: {status.detail or text or status.reason}"
    elif (
        parameters.expected_rate_hz
        and status.rate_hz is not None
        and status.rate_hz < 0.8 * parameters.expected_rate_hz
    ):
        level = DiagnosticStatus.WARN
        text = (
            f"{status.rate_hz:.1f} Hz on {topic}, expected {parameters.expected_rate_hz:g}; if the "
            f"driver sends them all, {large_message_remedy(middleware)}"
        )
    if status.state is StreamState.LIVE and log.unused and level == DiagnosticStatus.OK:
        level, text = DiagnosticStatus.WARN, f"not used: {log.unused}"
    if status.state is StreamState.LIVE and status.detail:
        level = DiagnosticStatus.WARN
        text = f"{status.detail}; {text}" if text != "live" else status.detail
    if status.clock_apart_s is not None:
        text += _clock_remedy(modality.label, parameters.stamp_offset_s, status)
    values: dict[str, object] = {
        "state": status.state.name.lower(),
        "topic": topic,
        "rate_hz": float(status.rate_hz or 0.0),
        "received": log.received,
        "rejected": log.rejected,
        "last_error": log.last_error,
    }
    if log.info_rejected:
        values |= {
            "camera_info_rejected": log.info_rejected,
            "camera_info_last_error": log.info_error,
        }
    if log.qos_mismatch:
        values["qos_mismatch"] = log.qos_mismatch
    if log.behind_clock_s is not None:
        values["stamp_behind_clock_s"] = log.behind_clock_s
    if status.age_s is not None:
        values["age_s"] = float(status.age_s)
    return DiagnosticStatus(
        level=level,
        name=f"{node}: {modality.label}",
        message=text or status.reason,
        hardware_id=",".join(sorted(log.frame_ids)),
        values=key_values(values),
    )


def _clock_remedy(label: str, offset_s: float, status: StreamStatus) -> str:
    """What to do about stamps that are apart from the others'."""
    assert status.clock_apart_s is not None
    offset_s += status.clock_apart_s
    # What counts from a sensor's own start is another number after the next.
    steady = abs(offset_s) <= LARGEST_OFFSET_S
    if status.state is not StreamState.LIVE:  # the reason has the rest
        return f", or {label}.stamp_offset to {offset_s:.2f}" if steady else ""
    remedies = []
    if steady:
        remedies.append(f"if its clock is off set that, or {label}.stamp_offset to {offset_s:.2f}")
    if status.clock_apart_s > 0:
        remedies.append(f"if it is that late raise {label}.max_age")
    return "".join(f"; {remedy}" for remedy in remedies)


def foreign_stamps(logs: Mapping[Modality, SensorLog]) -> str:
    """Which sensors' stamps are of another time than the node's clock, and the remedies; empty if none.

    Beside each other the synchronizer tells two times apart. Of one sensor, or of all alike, only the clock
    tells, and it may be the clock that is wrong: such messages are used.
    """
    apart = {m: log.behind_clock_s or 0.0 for m, log in sorted(logs.items())}
    foreign = [m for m, behind in apart.items() if abs(behind) > FAR_LIMIT_NS / NS_PER_S]
    if not foreign:
        return "; ".join(
            f"stamps of {m.label} are {-behind:.2f} s ahead of the node's clock, which no delay explains: "
            f"what is matched by them is that much apart; set that clock, or lower {m.label}.stamp_offset "
            "by as much"
            for m, behind in apart.items()
            if behind < -LEAD_LIMIT_NS / NS_PER_S
        )
    behind = apart[foreign[0]]
    return (
        f"stamps of {', '.join(m.label for m in foreign)} are {in_words(abs(behind))} "
        f"{'behind' if behind > 0 else 'ahead of'} the node's clock, as will be those of the masks; TF of "
        "now does not fit them. A driver should stamp with the host's time; for a recording or a "
        "simulation set use_sim_time, with its /clock"
    )


def load_values(load: LoadShedder) -> dict[str, object]:
    """What the latency budget leaves out now, and in how many sets it left out which sensor."""
    if load.budget_s <= 0:
        return {}
    counts = {f"shed_{m.label}": n for m, n in load.shed_counts.items() if n}
    return {"latency_budget_s": load.budget_s, "shed": subset_name(load.shed), **counts}


def stage_status(times: StageTimes, node: str) -> DiagnosticStatus:
    """The profile: median and 95th percentile of each stage's last 100 durations, milliseconds.

    Args:
        node: the node's name in diagnostics, see :func:`diagnostic_name`.
    """
    return DiagnosticStatus(
        level=DiagnosticStatus.OK,
        name=f"{node}: stages",
        message="median and 95th percentile of the last 100, in milliseconds",
        values=key_values(times.values()),
    )
