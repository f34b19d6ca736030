"""A recording through the node's own synchronizer and pipeline, in bag time. Same bag, same results."""

from __future__ import annotations

import hashlib
import math
import time
from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import yaml

from anyseg_ros.consistency import ConsistencyCheck, ConsistencyProfile, ConsistencySettings
from anyseg_ros.decoding import (
    INTENSITY_FIELD,
    MessageError,
    check_against_calibration,
    on_host_clock,
    stamp_ns,
)
from anyseg_ros.engine import Engine, EngineOutput, Features, ModelCard
from anyseg_ros.evaluation.bag import NS_PER_S, Bag
from anyseg_ros.evaluation.faults import Delivery, FaultInjector
from anyseg_ros.evaluation.outages import Outage
from anyseg_ros.evaluation.read_ahead import read_ahead
from anyseg_ros.evaluation.sources import WINDOWED_KINDS, Decoder, Rig, SourceError, Sources
from anyseg_ros.health import HealthMonitor, HealthSettings
from anyseg_ros.health_parameters import consistency_settings, health_settings, parameter_values
from anyseg_ros.modalities import SensorData, window_s
from anyseg_ros.modality import MODALITIES, Modality
from anyseg_ros.pipeline import NoUsableInputError, Pipeline, Segmentation
from anyseg_ros.sync import MatchedSet, StreamConfig, Synchronizer
from anyseg_ros.sync.streams import to_ns

Clock = Literal["log", "stamps"]
READ_AHEAD = 16
"""messages that are decoded before they are asked for"""


@dataclass(frozen=True)
class SensorSettings:
    """How one stream is treated; defaults are the node's. Times in seconds."""

    timeout_s: float = 0.5
    tolerance_s: float = 0.06
    max_age_s: float = 0.25
    expected_rate_hz: float | None = None
    stamp_offset_s: float = 0.0
    intensity_max: float = 0.0
    intensity_field: str = INTENSITY_FIELD

    def decoder(self, kind: str) -> Decoder:
        """What decodes messages of this kind so."""
        return Decoder(kind, self.intensity_max, self.intensity_field)


@dataclass(frozen=True)
class ReplaySettings:
    """How a recording is replayed; defaults are the node's."""

    sensors: Mapping[Modality, SensorSettings] = field(
        default_factory=lambda: {m: SensorSettings() for m in MODALITIES}
    )
    priority: tuple[Modality, ...] = MODALITIES
    max_wait_s: float = 0.1
    clock: Clock = "log"
    """Receipt time: when messages were recorded, or, where that tells nothing, their stamps."""
    health: HealthSettings = field(default_factory=HealthSettings)
    consistency: ConsistencySettings = field(default_factory=ConsistencySettings)
    profile: ConsistencyProfile | None = None
    """the model's usual disagreements"""

    @property
    def offsets_ns(self) -> dict[Modality, int]:
        """What is added to each sensor's stamps."""
        return {m: to_ns(sensor.stamp_offset_s) for m, sensor in self.sensors.items()}


_OPTIONS_OF_SENSORS = {
    "topic": "--topic",
    "camera_info_topic": "--camera-info",
    "extrinsics": "--extrinsics",
    "rectified": "--rectified",
    "registered": "--depth-registered",
}
_OPTIONS = {
    "model": "--model",
    "engine": "--engine",
    "threads": "--threads",
    "calibration_file": "--calibration",
    "latency_budget": "",
}
"""What the evaluation takes from its own options, or, where there is none, does not have."""


def _read_parameters(path: Path) -> dict[str, Any]:
    """All parameters of a file, those of ``camera.timeout`` in the section ``camera``."""
    found: dict[str, Any] = {}
    try:
        document = yaml.safe_load(path.read_text())
        for node in document.values():
            for name, value in node["ros__parameters"].items():
                section, dot, key = str(name).partition(".")
                if dot:
                    value = {key: value}
                if isinstance(value, dict) and isinstance(found.get(section), dict):
                    found[section] |= value
                else:
                    found[section] = value
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError, KeyError, TypeError) as e:
        raise SourceError(f"{path}: expected a node section with ros__parameters ({e})") from None
    return found


def unread_parameters(path: Path) -> str | None:
    """What a node's parameter file says that the evaluation does not take from it, in words.

    Raises:
        SourceError: as :func:`load_settings`.
    """
    parameters = _read_parameters(path)
    unread = [(name, option) for name, option in _OPTIONS.items() if parameters.get(name)]
    for modality in MODALITIES:
        block = parameters.get(modality.label)
        if isinstance(block, dict):
            label = modality.label
            unread += [(f"{label}.{k}", o) for k, o in _OPTIONS_OF_SENSORS.items() if block.get(k)]
            if block.get("enabled") is False:
                unread.append((f"{label}.enabled", "--sensors"))
    if not unread:
        return None
    options = ", ".join(dict.fromkeys(option for _, option in unread if option))
    return (
        f"{path.name}: {', '.join(name for name, _ in unread)} not read, only what concerns timing, "
        f"health and priority" + (f"; say it with {options}" if options else "")
    )


def load_settings(path: Path) -> ReplaySettings:
    """The timing and health parameters of a node's parameter file, nested or dotted.

    Raises:
        SourceError: if the file cannot be read, or has no ``ros__parameters``.
    """
    parameters = _read_parameters(path)
    names = {
        "timeout": "timeout_s",
        "tolerance": "tolerance_s",
        "max_age": "max_age_s",
        "expected_rate": "expected_rate_hz",
        "stamp_offset": "stamp_offset_s",
        "intensity_max": "intensity_max",
    }
    settings = ReplaySettings()
    try:
        sensors = {}
        for modality in MODALITIES:
            block = parameters.get(modality.label, {})
            values: dict[str, Any] = {names[k]: float(v) for k, v in block.items() if k in names}
            values["expected_rate_hz"] = values.get("expected_rate_hz") or None
            if "intensity_field" in block:
                values["intensity_field"] = str(block["intensity_field"])
            sensors[modality] = replace(settings.sensors[modality], **values)
        order = [Modality.from_label(str(label)) for label in parameters.get("priority", ())]
        order += [m for m in MODALITIES if m not in order]
        health = parameter_values(parameters)
        return ReplaySettings(
            sensors,
            tuple(order),
            float(parameters.get("max_wait_s", settings.max_wait_s)),
            health=health_settings(health),
            consistency=consistency_settings(health),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise SourceError(f"{path}: {error}") from None


@dataclass(frozen=True)
class Arrival:
    """One sensor message, decoded, or why it could not be."""

    modality: Modality
    stamp_ns: int
    """0 if it could not be decoded"""
    data: SensorData | None
    now_ns: int
    """receipt time"""
    bag_time_s: float
    """receipt time since the recording's first message"""
    topic: str = ""
    decode: Callable[[], Any] = lambda: None
    """gives the message that the data come from"""
    error: str = ""
    """why there are no data"""
    log_time_ns: int = 0
    """when it was recorded, whatever the clock"""


@dataclass
class InputLog:
    """What arrived from one sensor and what was wrong with it."""

    received: int = 0
    refused: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    first_stamp_ns: int | None = None
    last_stamp_ns: int | None = None
    first_log_ns: int | None = None
    last_log_ns: int | None = None
    jumps_back: int = 0
    """stamps more than half a second before the one in front of them"""
    delays_s: array[float] = field(default_factory=lambda: array("d"))
    """log time minus stamp of each message that could be read"""

    def note(self, stamp_ns: int, log_ns: int) -> None:
        self.delays_s.append((log_ns - stamp_ns) / NS_PER_S)
        if self.first_stamp_ns is None:
            self.first_stamp_ns, self.first_log_ns = stamp_ns, log_ns
        if self.last_stamp_ns is not None and stamp_ns < self.last_stamp_ns - NS_PER_S // 2:
            self.jumps_back += 1
        self.last_stamp_ns, self.last_log_ns = stamp_ns, log_ns

    @property
    def delay_s(self) -> float | None:
        """Usual log time minus stamp, the median; ``None`` where nothing could be read."""
        return float(np.median(self.delays_s)) if self.delays_s else None

    @property
    def speed(self) -> float | None:
        """How fast stamps ran against log time; ``None`` where that is not known."""
        if self.first_log_ns is None or self.last_log_ns is None or self.jumps_back:
            return None
        assert self.first_stamp_ns is not None and self.last_stamp_ns is not None
        span = self.last_log_ns - self.first_log_ns
        return (self.last_stamp_ns - self.first_stamp_ns) / span if span > 0 else None


class _ReceiptTimes:
    """When messages count as received: when they were recorded, or as their stamps tell."""

    def __init__(self, clock: Clock, start_ns: int) -> None:
        self._clock = clock
        self._start_ns = start_ns
        self._now_ns = start_ns
        self._first_stamp_ns: int | None = None

    def at(self, log_time_ns: int, stamp_ns: int | None) -> int:
        """Receipt time of the next message; ``None`` is the stamp of one that cannot be read."""
        if self._clock == "log":
            return log_time_ns
        if stamp_ns is not None:
            if self._first_stamp_ns is None:
                self._first_stamp_ns = stamp_ns
            self._now_ns = max(self._now_ns, self._start_ns + stamp_ns - self._first_stamp_ns)
        return self._now_ns


class BagArrivals:
    """The decoded sensor messages of a recording, in order of log time. A bad one costs itself."""

    def __init__(
        self,
        bag: Bag,
        sources: Sources,
        rig: Rig,
        settings: ReplaySettings,
        until_s: float | None = None,
    ) -> None:
        self._bag = bag
        self._rig = rig
        self._settings = settings
        self._until_s = until_s
        self.offsets_ns = settings.offsets_ns
        """what is added to each sensor's stamps"""
        self.clock = settings.clock
        usable = {m: s for m, s in sources.sensors.items() if m not in rig.missing}
        self._by_topic = {source.topic: modality for modality, source in usable.items()}
        self._decoders = {m: settings.sensors[m].decoder(s.kind) for m, s in usable.items()}
        self.logs = {modality: InputLog() for modality in usable}
        self.decode_s = 0.0
        """spent on decoding, beside the network"""
        self.waited_s = 0.0
        """for which the network had to wait for a message"""
        self.bag_time_s = 0.0
        """of the last message given out"""
        self.log_time_ns = bag.start_ns
        """of the last message given out"""

    def duration_s(self) -> float:
        """Bag time at which the replay ends. By the clock of the stamps, this reads all of them."""
        end_s = math.inf if self._until_s is None else self._until_s
        if self._settings.clock == "log":
            return min(self._bag.duration_s, end_s)
        start = self._bag.start_ns
        times = _ReceiptTimes(self._settings.clock, start)
        reached_s = 0.0
        for recorded in self._bag.messages(self._by_topic):
            try:
                stamp = stamp_ns(recorded.decode().header.stamp)
                stamp += self.offsets_ns[self._by_topic[recorded.topic]]
            except Exception:  # a damaged message costs itself
                continue
            reached_s = (times.at(recorded.log_time_ns, stamp) - start) / NS_PER_S
            if reached_s >= end_s:
                return end_s
        return reached_s

    def __iter__(self) -> Generator[Arrival, None, None]:
        # Decoded while the network runs.
        with closing(read_ahead(self._read(), READ_AHEAD)) as arrivals:
            while True:
                began = time.perf_counter()
                arrival = next(arrivals, None)
                self.waited_s += time.perf_counter() - began
                if arrival is None:
                    return
                self.bag_time_s, self.log_time_ns = arrival.bag_time_s, arrival.log_time_ns
                yield arrival

    def _read(self) -> Iterator[Arrival]:
        start = self._bag.start_ns
        times = _ReceiptTimes(self._settings.clock, start)
        for recorded in self._bag.messages(self._by_topic):
            began = time.perf_counter()
            modality = self._by_topic[recorded.topic]
            stamp, data, reason = 0, None, ""
            try:
                message = recorded.decode()
                data = self._decoders[modality](message)
                stamp, data = on_host_clock(message, data, self.offsets_ns[modality])
                sensor = self._rig.calibration.sensors[modality]
                check_against_calibration(modality, data, sensor.camera)
            except MessageError as error:
                reason = str(error)
            except Exception as error:  # a damaged message may break the deserialiser in any way
                reason = f"cannot be read: {type(error).__name__}: {error}"[:200]
            self.decode_s += time.perf_counter() - began
            now = times.at(recorded.log_time_ns, None if reason else stamp)
            bag_time_s = (now - start) / NS_PER_S
            if self._until_s is not None and bag_time_s > self._until_s:
                return
            log = self.logs[modality]
            log.received += 1
            if reason:
                stamp, data = 0, None
                log.refused += 1
                log.reasons[reason] += 1
            else:
                log.note(stamp, recorded.log_time_ns)
            yield Arrival(
                modality,
                stamp,
                data,
                now,
                bag_time_s,
                recorded.topic,
                recorded.decode,
                reason,
                recorded.log_time_ns,
            )


@dataclass(frozen=True)
class SetResult:
    """What became of one matched set."""

    matched: MatchedSet[Modality]
    released_ns: int
    """receipt time at which the set was complete"""
    bag_time_s: float
    """the same since the recording's first message"""
    segmentation: Segmentation | None
    error: str
    """why there is no segmentation"""


class Walk:
    """One run over a recording: a synchronizer and a pipeline of its own, and faults by a timetable."""

    def __init__(
        self,
        engine: Engine,
        sources: Sources,
        rig: Rig,
        settings: ReplaySettings,
        start_ns: int,
        outages: Sequence[Outage] = (),
    ) -> None:
        card = engine.card
        used = [m for m in settings.priority if m in sources.sensors and m in card.modalities]
        used = [m for m in used if m in rig.calibration.sensors]
        if not used:
            raise SourceError(
                f"no usable sensor is known to the model {card.name}, which takes "
                + ", ".join(m.label for m in card.modalities)
            )
        self.sensors = tuple(sorted(used))
        self.pipeline = Pipeline(engine, rig.calibration)
        self.synchronizer: Synchronizer[Modality] = Synchronizer(
            {m: self._config(card, sources, settings, m) for m in used},
            priority=used,
            max_wait_s=settings.max_wait_s,
        )
        self.health = HealthMonitor(self.synchronizer, used, settings.health)
        self.consistency = ConsistencyCheck(settings.consistency, settings.profile)
        self._start_ns = start_ns
        self._now_ns = start_ns
        self._max_wait_ns = round(settings.max_wait_s * NS_PER_S)
        self._faults: FaultInjector[Arrival] = FaultInjector(outages)
        self._rig = rig
        self._offsets_ns = settings.offsets_ns
        # A decoder that carries state must see every message as this run receives it.
        self._decoders = {m: settings.sensors[m].decoder(sources.sensors[m].kind) for m in used}
        self._always_decode = {m for m in used if outages and sources.sensors[m].kind == "packets"}
        self.refused: Counter[str] = Counter()
        """messages that a fault has made undecodable, by reason"""
        self._epoch: int | None = None

    @staticmethod
    def _config(
        card: ModelCard, sources: Sources, settings: ReplaySettings, modality: Modality
    ) -> StreamConfig:
        sensor = settings.sensors[modality]
        return StreamConfig(
            timeout_s=sensor.timeout_s,
            tolerance_s=sensor.tolerance_s,
            max_age_s=sensor.max_age_s,
            expected_rate_hz=sensor.expected_rate_hz,
            windowed=sources.sensors[modality].kind in WINDOWED_KINDS,
            window_s=window_s(modality, card.encodings[modality]),
        )

    def feed(self, arrival: Arrival) -> Iterator[SetResult]:
        """Take a message; gives the sets that are complete by then."""
        for delivery in self._faults.feed(
            arrival.modality, arrival.topic, arrival.bag_time_s, arrival, arrival.decode
        ):
            yield from self._receive(delivery)

    def finish(self) -> Iterator[SetResult]:
        """Complete the sets that still wait."""
        for delivery in self._faults.flush():
            yield from self._receive(delivery)
        yield from self._poll_until(self._now_ns + self._max_wait_ns + 1)

    def _receive(self, delivery: Delivery[Arrival]) -> Iterator[SetResult]:
        arrival, modality = delivery.item, delivery.item.modality
        delay_ns = round((delivery.time_s - arrival.bag_time_s) * NS_PER_S)
        now_ns = max(arrival.now_ns + delay_ns, self._now_ns)
        yield from self._poll_until(now_ns)
        self._now_ns = now_ns
        if modality not in self.sensors:
            return
        stamp_ns, data = arrival.stamp_ns, arrival.data
        if data is None and delivery.message is None:
            yield from self._segment(self.health.refuse(modality, arrival.error, now_ns), now_ns)
            return
        if delivery.message is not None or modality in self._always_decode:
            message = arrival.decode() if delivery.message is None else delivery.message
            try:
                data = self._decoders[modality](message)
                stamp_ns, data = on_host_clock(message, data, self._offsets_ns[modality])
                sensor = self._rig.calibration.sensors[modality]
                check_against_calibration(modality, data, sensor.camera)
            except MessageError as error:
                self.refused[f"{modality.label}: {error}"] += 1
                sets = self.health.refuse(modality, str(error), now_ns)
                yield from self._segment(sets, now_ns)
                return
        assert data is not None
        sets = self.health.add(modality, stamp_ns, data, now_ns)
        yield from self._segment(sets, now_ns)

    def _poll_until(self, end_ns: int) -> Iterator[SetResult]:
        last = -1
        while (due := self.synchronizer.next_deadline_ns()) is not None and due < end_ns:
            # A deadline that stays is one that a poll cannot serve.
            now = max(due, self._now_ns, last + 1)
            if now >= end_ns:
                return
            last = now
            yield from self._segment(self.synchronizer.poll(now), now)

    def _segment(self, sets: Sequence[MatchedSet[Modality]], now_ns: int) -> Iterator[SetResult]:
        for matched in sets:
            if self._epoch is not None and matched.epoch != self._epoch:
                self.pipeline.reset()
            self._epoch = matched.epoch
            bag_time_s = (now_ns - self._start_ns) / NS_PER_S
            try:
                done = self.pipeline.segment(matched)
            except NoUsableInputError as error:
                yield SetResult(matched, now_ns, bag_time_s, None, str(error))
            else:
                verdict = self.consistency.after(self.pipeline, done, self.health.suspects())
                if verdict is not None:
                    self.health.accuse_only(verdict)
                yield SetResult(matched, now_ns, bag_time_s, done, "")

    def segment_subset(
        self, matched: MatchedSet[Modality], subset: Sequence[Modality]
    ) -> Segmentation | None:
        """Segment the set just given out from some of its members; their features are at hand.

        ``None`` if the set lacks one of them.
        """
        if not set(subset) <= set(matched.members):
            return None
        members = {m: matched.members[m] for m in subset}
        try:
            done = self.pipeline.segment(replace(matched, members=members))
        except NoUsableInputError:
            return None
        return done if done.used == tuple(sorted(subset)) else None


class SharedEncoder:
    """An engine that encodes a picture once for several runs over the same recording."""

    def __init__(self, engine: Engine, capacity: int = 32) -> None:
        self._engine = engine
        self._capacity = capacity
        self._kept: OrderedDict[bytes, Features] = OrderedDict()
        self.encoded = 0
        """pictures that went through the network"""

    @property
    def card(self) -> ModelCard:
        return self._engine.card

    @property
    def description(self) -> str:
        return self._engine.description

    def encode(
        self, images: npt.NDArray[np.uint8], modality_ids: npt.NDArray[np.int64]
    ) -> list[Features]:
        """As the engine's, but only what is not kept is computed."""
        keys = [
            bytes([int(modality)]) + hashlib.blake2b(image, digest_size=16).digest()
            for image, modality in zip(images, modality_ids, strict=True)
        ]
        new = [i for i, key in enumerate(keys) if key not in self._kept]
        if new:
            self.encoded += len(new)
            fresh = self._engine.encode(images[new], modality_ids[new])
            found = {keys[i]: features for i, features in zip(new, fresh, strict=True)}
        else:
            found = {}
        result = []
        for key in keys:
            if key in self._kept:
                self._kept.move_to_end(key)
            else:
                self._kept[key] = found[key]
            result.append(self._kept[key])
        while len(self._kept) > self._capacity:
            self._kept.popitem(last=False)
        return result

    def fuse(self, features: Sequence[Features]) -> EngineOutput:
        """As the engine's."""
        return self._engine.fuse(features)

    def segment(
        self, images: npt.NDArray[np.uint8], modality_ids: npt.NDArray[np.int64]
    ) -> EngineOutput:
        """As the engine's."""
        return self.fuse(self.encode(images, modality_ids))

    def close(self) -> None:
        """Release the model."""
        self._kept.clear()
        self._engine.close()


def replay(
    arrivals: BagArrivals, walks: Mapping[str, Walk]
) -> Generator[tuple[str, SetResult], None, None]:
    """Lead a recording through several runs side by side. Close it to stop reading early."""
    with closing(iter(arrivals)) as read:
        for arrival in read:
            for name, walk in walks.items():
                for result in walk.feed(arrival):
                    yield name, result
    for name, walk in walks.items():
        for result in walk.finish():
            yield name, result
