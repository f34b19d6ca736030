"""Plays a rosbag over DDS as it was recorded, with sensors failing by a timetable.

Recorded log times set the pace. Messages go out as the bytes that were recorded, with the QoS they
were recorded with, so what a node receives is what the driver sent; only what a fault changes is
written anew.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import Connection

from anyseg_ros.evaluation.bag import known_types
from anyseg_ros.evaluation.faults import DATA_TYPES, Delivery, FaultInjector
from anyseg_ros.evaluation.outages import Outage, OutageError, load_outages
from anyseg_ros.evaluation.read_ahead import read_ahead
from anyseg_ros.modality import MODALITIES, Modality
from anyseg_ros.ros.transport import configure_transport

_NS = 1_000_000_000
_INFINITE_NS = 2**63 - 1
_CLOCK_PERIOD_NS = 10_000_000
_PREFETCH = 256
_LONGEST_SLEEP_S = 0.1
_SETTLED_S = 1.5
_DELIVERY_S = 2.0

DEFAULT_NAMESPACES: dict[Modality, str] = {
    Modality.CAMERA: "/camera/",
    Modality.DEPTH: "/depth/",
    Modality.EVENT: "/events/",
    Modality.LIDAR: "/lidar/",
}
"""Topics under these namespaces, CameraInfo included, fail with their sensor."""

QOS_CHOICES = ("recorded", "reliable", "best_effort")


class BagError(RuntimeError):
    """A bag that cannot be played; the message names it and says why."""


@dataclass(frozen=True)
class RecordedMessage:
    """One message of the bag."""

    topic: str
    type: str
    bag_time_ns: int
    """Log time, from the bag's first message."""
    log_time_ns: int
    data: bytes


@dataclass(frozen=True)
class PlayOptions:
    """How to play. Times in seconds of bag time."""

    rate: float = 1.0
    loop: bool = False
    start_offset_s: float = 0.0
    duration_s: float | None = None
    clock: bool = False
    wait_s: float = 0.0
    """How long to wait for the first subscriber before playing anyway."""
    topics: tuple[str, ...] = ()
    """Play only these; empty for all."""
    qos: str = "recorded"
    """Offer what was recorded, or make every topic ``reliable`` or ``best_effort``."""


def sensor_of(topic: str, namespaces: Mapping[Modality, str]) -> Modality | None:
    """The sensor that a topic belongs to, if any."""
    return next((m for m, prefix in namespaces.items() if topic.startswith(prefix)), None)


def offered_qos(recorded: Sequence[Any], topic: str, choice: str = "recorded") -> QoSProfile:
    """The QoS to offer on a topic.

    As rosbag2's player does it: reliability, durability, deadline and lifespan as recorded where all
    publishers of the topic agreed, with a queue of the player's own; reliable and volatile otherwise.

    Args:
        recorded: ``offered_qos_profiles`` of the bag's metadata, as ``rosbags`` reads them.
        choice: one of :data:`QOS_CHOICES`.
    """
    qos = QoSProfile(depth=50)
    # Latched topics stay latched, whatever else was recorded.
    if topic.endswith("tf_static") or any(
        profile.durability.name == "TRANSIENT_LOCAL" for profile in recorded
    ):
        qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
    kept = {
        (p.reliability.name, p.durability.name, _duration_ns(p.deadline), _duration_ns(p.lifespan))
        for p in recorded
    }
    if len(kept) == 1:
        ((reliability, _, deadline_ns, lifespan_ns),) = kept
        if reliability == "BEST_EFFORT":
            qos.reliability = ReliabilityPolicy.BEST_EFFORT
        if deadline_ns:
            qos.deadline = Duration(nanoseconds=deadline_ns)
        if lifespan_ns:
            qos.lifespan = Duration(nanoseconds=lifespan_ns)
    if choice != "recorded":
        qos.reliability = ReliabilityPolicy[choice.upper()]
    return qos


def _duration_ns(time: Any) -> int:
    """Nanoseconds of a recorded QoS time; 0 for none and for infinity."""
    nanoseconds = int(time.sec) * _NS + int(time.nsec)
    return 0 if nanoseconds >= _INFINITE_NS else nanoseconds


def import_message(type_name: str) -> type[Any] | None:
    """The message class of ``package/msg/Name``; ``None`` if its package is not installed."""
    package, _, name = type_name.partition("/msg/")
    try:
        found: type[Any] = getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError):
        return None
    return found


class BagPlayer:
    """Publishes a bag's messages at their recorded pace."""

    def __init__(
        self,
        node: Node,
        bag: Path,
        outages: Sequence[Outage] = (),
        namespaces: Mapping[Modality, str] = DEFAULT_NAMESPACES,
        options: PlayOptions | None = None,
    ) -> None:
        """Open the bag and create its publishers.

        Raises:
            BagError: if the bag cannot be read, or is of ROS 1.
        """
        self._node = node
        self._outages = tuple(outages)
        self._namespaces = namespaces
        self._options = options or PlayOptions()
        try:
            self._reader = AnyReader([bag], default_typestore=known_types())
            self._reader.open()
        except (AnyReaderError, OSError, ValueError) as error:
            raise BagError(f"cannot read bag {bag}: {error}") from None
        if not self._reader.is2:
            raise BagError(f"{bag} is a ROS 1 bag; convert it with rosbags-convert first")
        self._publishers: dict[str, Publisher[Any]] = {}
        self._connections: list[Connection] = []
        self._recorded_qos: dict[str, list[Any]] = {}
        for connection in self._reader.connections:
            recorded = getattr(connection.ext, "offered_qos_profiles", None) or ()
            self._recorded_qos.setdefault(connection.topic, []).extend(recorded)
        for connection in self._reader.connections:
            self._create_publisher(connection)
        if not self._connections:
            raise BagError(f"{bag} has no topic that can be played")
        self._clock: Any = None
        if self._options.clock:
            from rosgraph_msgs.msg import Clock

            self._clock_type = Clock
            self._clock = node.create_publisher(Clock, "/clock", 10)
        self.published: Counter[str] = Counter()
        self.withheld = 0
        """Messages that a fault kept back."""
        self.changed = 0
        """Messages that went out with another stamp or content."""
        self.worst_lag_s = 0.0
        """How late a message went out at worst."""

    @property
    def duration_s(self) -> float:
        """Length of the bag in seconds."""
        return (self._reader.end_time - self._reader.start_time) / _NS

    @property
    def topics(self) -> tuple[str, ...]:
        return tuple(self._publishers)

    def close(self) -> None:
        """Close the bag and take the publishers away."""
        for publisher in self._publishers.values():
            self._node.destroy_publisher(publisher)
        self._publishers = {}
        self._reader.close()

    def play(self) -> None:
        """Play once, or for ever with ``loop``; returns early when ROS is shut down."""
        self._wait_for_subscribers()
        while rclpy.ok():
            self._play_once()
            if not self._options.loop:
                break
        self._wait_for_delivery()

    def _create_publisher(self, connection: Connection) -> None:
        if self._options.topics and connection.topic not in self._options.topics:
            return
        message_class = import_message(connection.msgtype)
        if message_class is None:
            self._node.get_logger().warning(
                f"{connection.topic} is not played: {connection.msgtype} is not installed"
            )
            return
        self._connections.append(connection)
        if connection.topic in self._publishers:
            return
        topic = connection.topic
        qos = offered_qos(self._recorded_qos[topic], topic, self._options.qos)
        self._publishers[topic] = self._node.create_publisher(message_class, topic, qos)

    def _wait_for_subscribers(self) -> None:
        """Wait for a subscriber, then until discovery has brought no further one for a while."""
        began = changed = time.monotonic()
        before: tuple[int, ...] = ()
        while (now := time.monotonic()) < began + self._options.wait_s and rclpy.ok():
            counts = tuple(p.get_subscription_count() for p in self._publishers.values())
            if counts != before:
                before, changed = counts, now
            if any(counts) and now - changed > _SETTLED_S:
                return
            time.sleep(0.05)

    def _wait_for_delivery(self) -> None:
        """Wait until reliable subscribers have everything: what is still under way is lost on exit."""
        deadline = time.monotonic() + _DELIVERY_S
        for publisher in self._publishers.values():
            remaining = deadline - time.monotonic()
            if not rclpy.ok() or remaining <= 0:
                return
            publisher.wait_for_all_acked(Duration(seconds=remaining))

    def _messages(self) -> Iterator[RecordedMessage]:
        """Messages in order of log time."""
        origin = self._reader.start_time
        first = origin + int(self._options.start_offset_s * _NS)
        last = None
        if self._options.duration_s is not None:
            last = first + int(self._options.duration_s * _NS)
        try:
            for connection, log_time, data in self._reader.messages(
                self._connections, start=first, stop=last
            ):
                yield RecordedMessage(
                    connection.topic, connection.msgtype, log_time - origin, log_time, bytes(data)
                )
        except Exception as error:  # a damaged bag may break the reader in any way
            raise BagError(f"the bag is damaged: {error}") from error

    def _deliveries(self) -> Generator[Delivery[RecordedMessage], None, None]:
        """What is sent, in order of time, after the timetable's faults."""
        faults: FaultInjector[RecordedMessage] = FaultInjector(self._outages)
        withheld, changed = self.withheld, self.changed
        # Read ahead, so that no read delays a message.
        for message in read_ahead(self._messages(), _PREFETCH):
            yield from faults.feed(
                sensor_of(message.topic, self._namespaces),
                message.topic,
                message.bag_time_ns / _NS,
                message,
                partial(self._reader.deserialize, message.data, message.type),
                message.type in DATA_TYPES,
            )
            self.withheld, self.changed = withheld + faults.withheld, changed + faults.changed
        yield from faults.flush()

    def _play_once(self) -> None:
        begin_s = self._options.start_offset_s
        started = time.monotonic()
        next_clock_ns = 0
        with closing(self._deliveries()) as deliveries:
            for delivery in deliveries:
                message, data = delivery.item, delivery.item.data
                due = started + (delivery.time_s - begin_s) / self._options.rate
                if delivery.message is not None:
                    typestore = self._reader.typestore
                    data = bytes(typestore.serialize_cdr(delivery.message, message.type))
                if self._clock is not None:
                    log_time_ns = self._reader.start_time + round(delivery.time_s * _NS)
                    next_clock_ns = self._run_clock(log_time_ns, due, next_clock_ns)
                if not _sleep_until(due):
                    return
                self._publishers[message.topic].publish(data)
                self.published[message.topic] += 1
                self.worst_lag_s = max(self.worst_lag_s, time.monotonic() - due)

    def _run_clock(self, log_time_ns: int, due: float, next_clock_ns: int) -> int:
        """Publish ``/clock`` up to a message's log time, at the pace of the bag."""
        now_ns = max(next_clock_ns, log_time_ns - _NS)
        while now_ns < log_time_ns:
            if not _sleep_until(due - (log_time_ns - now_ns) / _NS / self._options.rate):
                return now_ns
            self._publish_clock(now_ns)
            now_ns += _CLOCK_PERIOD_NS
        _sleep_until(due)
        self._publish_clock(log_time_ns)
        return log_time_ns + _CLOCK_PERIOD_NS

    def _publish_clock(self, now_ns: int) -> None:
        clock = self._clock_type()
        clock.clock.sec, clock.clock.nanosec = divmod(now_ns, _NS)
        self._clock.publish(clock)


def _sleep_until(due: float) -> bool:
    """Sleep until a monotonic time; false if ROS was shut down meanwhile."""
    while (left := due - time.monotonic()) > 0:
        if not rclpy.ok():
            return False
        time.sleep(min(left, _LONGEST_SLEEP_S))
    return bool(rclpy.ok())


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="play_bag", description="Play a rosbag over DDS, with sensors failing by a timetable."
    )
    parser.add_argument("bag", type=Path, help="folder or file of the bag (sqlite3 or MCAP)")
    parser.add_argument("--outages", type=Path, help="YAML: list of {sensor, from_s, to_s, kind}")
    parser.add_argument("--rate", type=float, default=1.0, help="speed; 2 is twice as fast")
    parser.add_argument("--loop", action="store_true", help="start again at the end")
    parser.add_argument("--start-offset", type=float, default=0.0, metavar="S")
    parser.add_argument("--duration", type=float, metavar="S", help="play only so long")
    parser.add_argument("--clock", action="store_true", help="publish /clock from log times")
    parser.add_argument(
        "--wait", type=float, default=0.0, metavar="S", help="wait so long for a subscriber"
    )
    parser.add_argument(
        "--qos",
        choices=QOS_CHOICES,
        default="recorded",
        help="what the topics offer: as recorded, or reliability for all",
    )
    parser.add_argument("--topics", nargs="+", default=(), metavar="TOPIC", help="play only these")
    parser.add_argument(
        "--sensor-namespace",
        nargs="+",
        default=(),
        metavar="SENSOR=PREFIX",
        help="topics that fail with a sensor, e.g. event=/dvs/",
    )
    parsed = parser.parse_args(arguments)
    if not parsed.rate > 0:
        parser.error(f"--rate is {parsed.rate}; expected more than 0")
    if parsed.start_offset < 0:
        parser.error(f"--start-offset is {parsed.start_offset}; expected 0 or more")
    namespaces = dict(DEFAULT_NAMESPACES)
    for entry in parsed.sensor_namespace:
        label, separator, prefix = entry.partition("=")
        if not separator or label not in [m.label for m in MODALITIES]:
            parser.error(f"--sensor-namespace {entry!r}; expected e.g. event=/dvs/")
        namespaces[Modality.from_label(label)] = prefix
    parsed.namespaces = namespaces
    return parsed


def main(args: Sequence[str] | None = None) -> int:
    """Entry point ``play_bag``."""
    configure_transport()
    # Parsed first: --help and wrong options need no ROS graph.
    given = list(sys.argv[1:] if args is None else args)
    cut = given.index("--ros-args") if "--ros-args" in given else len(given)
    options = _parse(given[:cut])
    try:
        outages = load_outages(options.outages) if options.outages else []
    except OutageError as error:
        print(f"play_bag: {error}", file=sys.stderr)
        return 2
    rclpy.init(args=given[cut:])
    node = rclpy.create_node("bag_player")
    try:
        player = BagPlayer(
            node,
            options.bag,
            outages,
            options.namespaces,
            PlayOptions(
                rate=options.rate,
                loop=options.loop,
                start_offset_s=options.start_offset,
                duration_s=options.duration,
                clock=options.clock,
                wait_s=options.wait,
                topics=tuple(options.topics),
                qos=options.qos,
            ),
        )
        print(f"playing {len(player.topics)} topics, {player.duration_s:.1f} s", flush=True)
        played = {sensor_of(topic, options.namespaces) for topic in player.topics}
        for sensor in sorted({outage.sensor for outage in outages} - played):
            prefix = options.namespaces[sensor]
            print(
                f"play_bag: no topic begins with {prefix}, so outages of {sensor.label} do nothing; name its "
                f"topics with --sensor-namespace {sensor.label}=/...",
                file=sys.stderr,
                flush=True,
            )
        try:
            player.play()
            print(
                f"published {player.published.total()} messages, withheld {player.withheld}, changed "
                f"{player.changed}, at worst {player.worst_lag_s * 1e3:.1f} ms late",
                flush=True,
            )
        finally:
            player.close()
    except BagError as error:
        print(f"play_bag: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        if rclpy.ok():
            raise
        # Ended by a signal in the midst of a publish: not an error.
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
