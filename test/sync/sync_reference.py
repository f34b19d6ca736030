"""Arrival sequences, and a reference that checks every set against what really arrived.

The reference keeps its own book: what was delivered when, and what the synchronizer reported as
dropped. It shares no code with the synchronizer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from anyseg_ros.modality import Modality
from anyseg_ros.sync import (
    DropReason,
    Impairment,
    MatchedSet,
    Member,
    StreamConfig,
    StreamState,
    Synchronizer,
)

MS = 1_000_000
S = 1_000_000_000

REFUSED_ON_ARRIVAL = {
    DropReason.DUPLICATE_STAMP,
    DropReason.STAMP_JUMPED_BACK,
    DropReason.STAMP_IN_FUTURE,
    DropReason.STAMP_FAR_BEHIND,
    DropReason.QUARANTINED,
    DropReason.BAD_CONTENT,
    DropReason.TOO_OLD,
}


@dataclass(frozen=True)
class Arrival:
    receipt_ns: int
    key: Modality
    stamp_ns: int
    usable: bool = True


@dataclass(frozen=True)
class Sensor:
    """How a sensor delivers. Milliseconds."""

    period_ms: float = 100.0
    phase_ms: float = 0.0
    latency_ms: float = 10.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    duplicates: float = 0.0
    stragglers: float = 0.0
    """share of messages that arrive up to 150 ms late, so that others overtake them"""
    unusable: float = 0.0
    """share of messages that are withheld"""


RIG = {
    Modality.CAMERA: Sensor(100, 0, 15, 4),
    Modality.DEPTH: Sensor(100, 8, 20, 4),
    Modality.EVENT: Sensor(1000 / 30, 11, 3, 1),
    Modality.LIDAR: Sensor(100, 37, 12, 3),
}
"""Realistic: camera, depth and LiDAR at 10 Hz with offsets and latencies, event packets at 30 Hz."""


def rig_config(**changes: float) -> dict[Modality, StreamConfig]:
    values = {"timeout_s": 0.5, "tolerance_s": 0.05, "max_age_s": 0.3, **changes}
    return {m: StreamConfig(**values, windowed=m is Modality.EVENT) for m in Modality}


def make_arrivals(
    rig: Mapping[Modality, Sensor],
    duration_s: float,
    cuts: Mapping[Modality, Sequence[tuple[float, float]]] | None = None,
    seed: int = 0,
    origin_ns: int = 1_700_000_000 * S,
    clock_ns: int = 50 * S,
) -> list[Arrival]:
    """Deliver a rig's messages; stamps count from ``origin_ns``, receipt time from ``clock_ns``."""
    random = Random(seed)
    arrivals = []
    for key, sensor in rig.items():
        index = 0
        while (t_ms := sensor.phase_ms + index * sensor.period_ms) < duration_s * 1000:
            index += 1
            delay_ms = sensor.latency_ms + random.random() * sensor.jitter_ms
            if random.random() < sensor.stragglers:
                delay_ms += random.random() * 150
            lost = random.random() < sensor.loss
            twice = random.random() < sensor.duplicates
            if lost or any(a <= t_ms / 1000 < b for a, b in (cuts or {}).get(key, ())):
                continue
            stamp = origin_ns + round(t_ms * MS)
            receipt = clock_ns + round((t_ms + delay_ms) * MS)
            usable = not (sensor.unusable and random.random() < sensor.unusable)
            arrivals.append(Arrival(receipt, key, stamp, usable))
            if twice:
                arrivals.append(Arrival(receipt + 5 * MS, key, stamp, usable))
    return sorted(arrivals, key=lambda a: (a.receipt_ns, a.key))


def _middle(values: Sequence[int]) -> int:
    return sorted(values)[len(values) // 2]


@dataclass(frozen=True)
class Output:
    now_ns: int
    matched: MatchedSet[Modality]


@dataclass
class Player:
    """Plays arrivals into a synchronizer, polls on time, and checks every set."""

    configs: Mapping[Modality, StreamConfig]
    max_wait_s: float = 0.05
    priority: Sequence[Modality] = tuple(Modality)
    believable: bool = True
    """whether no arrival has a lying stamp; then the best match is checked too"""
    buffer_size: int = 256
    outputs: list[Output] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sync: Synchronizer[Modality] = Synchronizer(
            self.configs,
            self.priority,
            self.max_wait_s,
            on_drop=self._on_drop,
            buffer_size=self.buffer_size,
        )
        self.delivered: dict[tuple[Modality, int], int] = {}
        self.deliveries = dict.fromkeys(self.configs, 0)
        self.heard = dict.fromkeys(self.configs, 0)
        self.in_a_row = dict.fromkeys(self.configs, 0)
        """deliveries since the stream was last silent for its timeout"""
        self.dropped: list[tuple[Modality, int, DropReason]] = []
        self.in_buffer: dict[Modality, dict[int, object]] = {m: {} for m in self.configs}
        self.used: set[tuple[Modality, int, int, object]] = set()
        self.told: Mapping[Modality, Member] = {}
        """what the synchronizer said of the next set, but of the stream that has just sent"""
        self.covered: dict[tuple[Modality, int], int] = {}
        self._adding: Arrival | None = None
        self._refused: DropReason | None = None
        self.seen: set[tuple[Modality, int]] = set()
        self.believed: dict[Modality, int] = {}
        self.newest: dict[Modality, int] = {}
        self.withheld = dict.fromkeys(self.configs, False)
        """whether the last believable message was withheld"""
        self.intervals: dict[Modality, list[int]] = {m: [] for m in self.configs}

    def play(self, arrivals: Sequence[Arrival], until_ns: int | None = None) -> list[Output]:
        """Deliver in order; return everything given out so far."""
        for arrival in arrivals:
            self.poll_until(arrival.receipt_ns)
            self.add(arrival)
        if until_ns is not None:
            self.poll_until(until_ns)
        return self.outputs

    def poll_until(self, now_ns: int) -> None:
        polls = 0
        while (deadline := self.sync.next_deadline_ns()) is not None and deadline < now_ns:
            anchor = self.sync.anchor
            self._check(self.sync.poll(deadline), deadline, anchor)
            polls += 1
            assert polls < 1000, "polling at the deadline makes no progress"

    def add(self, arrival: Arrival) -> None:
        key, stamp = arrival.key, arrival.stamp_ns
        self.deliveries[key] += 1
        heard, self.heard[key] = self.heard[key], arrival.receipt_ns
        silent = arrival.receipt_ns - heard > round(self.configs[key].timeout_s * S)
        self.in_a_row[key] = 1 if silent else self.in_a_row[key] + 1
        anchor, epoch = self.sync.anchor, self.sync.epoch
        self._adding, self._refused = arrival, None
        message = (key, stamp, arrival.receipt_ns)
        before = dict(self.in_buffer[key])
        self.in_buffer[key][stamp] = message
        if arrival.usable:
            sets = self.sync.add(key, stamp, message, arrival.receipt_ns)
        else:
            sets = self.sync.withhold(key, stamp, arrival.receipt_ns)
        if self._refused:
            # An accepted twin keeps its place, a withheld one has none.
            if stamp in before:
                self.in_buffer[key][stamp] = before[stamp]
            else:
                self.in_buffer[key].pop(stamp, None)
        else:
            self.delivered[key, stamp] = arrival.receipt_ns
        if self.sync.epoch != epoch:
            assert self.sync.epoch == epoch + 1
            kept = {} if self._refused else {stamp: message}
            self.in_buffer = {m: {} for m in self.configs} | {key: kept}
            self.used.clear()
            self.seen.clear()
        self._adding = None
        self.told = {k: member for k, member in self.told.items() if k is not key}
        # One that comes too late to be used is a sign of life all the same, even as the twin of
        # another: neither is kept, so that a bounded memory cannot know. A lying stamp may repeat
        # one that was used as long ago.
        new = not self.believable or (key, stamp) not in self.seen
        read = self._refused in (DropReason.TOO_OLD, DropReason.BAD_CONTENT)
        if read or (self._refused is None and new):
            self.withheld[key] = self._refused is DropReason.BAD_CONTENT
            self.seen.add((key, stamp))
            self.believed[key] = arrival.receipt_ns
            newest = self.newest.get(key, stamp)
            if stamp > newest:
                self.intervals[key].append(stamp - newest)
            self.newest[key] = max(stamp, newest)
        self._check(sets, arrival.receipt_ns, anchor)

    def _on_drop(self, key: Modality, stamp_ns: int, reason: DropReason) -> None:
        self.dropped.append((key, stamp_ns, reason))
        if reason in REFUSED_ON_ARRIVAL:
            assert self._adding is not None
            assert (key, stamp_ns) == (self._adding.key, self._adding.stamp_ns)
            self._refused = reason
        if reason is not DropReason.DUPLICATE_STAMP:
            self.in_buffer[key].pop(stamp_ns, None)

    # --- the promises -------------------------------------------------------------------------

    def _check(
        self, sets: Sequence[MatchedSet[Modality]], now_ns: int, anchor_before: Modality | None
    ) -> None:
        told, self.told = self.told, self.sync.covered()
        for matched in sets[:1]:
            for key, member in told.items():
                if matched.stamp_ns == member.stamp_ns and self._is_live(key, now_ns):
                    assert matched.members[key].message == member.message
                    assert matched.members[key].stamp_ns == member.stamp_ns
        for matched in sets:
            self._check_order(matched)
            self._check_anchor(matched, now_ns, anchor_before)
            for key in matched.members:
                self._check_member(matched, key, now_ns)
            if self.believable:
                self._check_best(matched, now_ns)
            self.outputs.append(Output(now_ns, matched))
        assert all(size <= self.buffer_size for size in self.sync.buffered.values())

    def _check_order(self, matched: MatchedSet[Modality]) -> None:
        if self.outputs:
            last = self.outputs[-1].matched
            assert matched.epoch >= last.epoch
            assert matched.epoch > last.epoch or matched.stamp_ns > last.stamp_ns

    def _check_anchor(
        self, matched: MatchedSet[Modality], now_ns: int, anchor_before: Modality | None
    ) -> None:
        anchor = matched.members[matched.anchor]
        assert anchor.stamp_ns == matched.stamp_ns
        assert anchor.age_s == 0
        receipt = self.delivered[matched.anchor, matched.stamp_ns]
        # A new anchor's last word may be older than the wait; it is then given out at once.
        assert now_ns - receipt <= self.max_wait_s * S or anchor_before != matched.anchor
        if self.believable:
            # A stream far behind the output would stall it, so it need not take over; nor need one
            # that has become slow or late (test_pace.py) or that is overdue (test_overdue.py). What a
            # slow one gives way to is faster.
            last = self.outputs[-1].matched.stamp_ns if self.outputs else 0
            live = [
                m
                for m in self.priority
                if m is matched.anchor
                or (self._is_live(m, now_ns) and self.newest[m] >= last - S // 2)
            ]
            status = self.sync.status(now_ns)
            pace = self._recent_period_ns(live[0])
            hushed = [m for m in live if m is not matched.anchor and self._hushed(m, now_ns)]
            slow = status[live[0]].impairment is Impairment.SLOW
            able = [
                m
                for m in live
                if m is matched.anchor
                or (
                    status[m].impairment in (Impairment.NONE, Impairment.FAST)
                    and m not in hushed
                    and not (slow and not self._period_ns(m) < pace)
                )
            ]
            # A slow one that is hushed as well may give way for either.
            if live[0] in hushed and not (slow and matched.anchor is able[0]):
                self._check_stand_in(matched.anchor, live, now_ns)
            else:
                assert matched.anchor is able[0]

    def _period_ns(self, key: Modality) -> float:
        """What the stream's last stamps say, else what it is expected to do; infinite if unknown."""
        if len(self.intervals[key]) >= 3:
            return _middle(self.intervals[key][-32:])
        expected_hz = self.configs[key].expected_rate_hz
        return math.inf if expected_hz is None else S / expected_hz

    def _recent_period_ns(self, key: Modality) -> float:
        return _middle(self.intervals[key][-3:]) if len(self.intervals[key]) >= 3 else -math.inf

    def _check_stand_in(self, anchor: Modality, live: Sequence[Modality], now_ns: int) -> None:
        """Slow, late and irregular streams stand in only where no other is well."""
        status = self.sync.status(now_ns)
        well = [
            m
            for m in live
            if status[m].impairment in (Impairment.NONE, Impairment.FAST)
            and self.in_a_row[m] >= 4
            and len(self.intervals[m]) >= 3
            and not (self.configs[m].windowed and self.configs[m].expected_rate_hz is None)
        ]
        assert anchor in well or all(self._hushed(m, now_ns) for m in well)

    def _hushed(self, key: Modality, now_ns: int) -> bool:
        """Whether the stream may leave the lead: its last message was withheld, or it was silent for 2.5 of
        its periods, once it has some."""
        if self.withheld[key]:
            return True
        if len(self.intervals[key]) < 3:
            return False
        return now_ns - self.believed[key] >= 2.5 * self._period_ns(key) - 1

    def _is_live(self, key: Modality, now_ns: int) -> bool:
        timeout_ns = round(self.configs[key].timeout_s * S)
        return key in self.believed and now_ns - self.believed[key] <= timeout_ns

    def _check_member(self, matched: MatchedSet[Modality], key: Modality, now_ns: int) -> None:
        config, member = self.configs[key], matched.members[key]
        assert self._is_live(key, now_ns), "a member of a dropped stream"
        assert self.sync.status(now_ns)[key].state is StreamState.LIVE
        age_ns = matched.stamp_ns - member.stamp_ns
        assert member.age_s == age_ns / S
        assert age_ns <= round(config.max_age_s * S)
        packets = member.message if config.windowed else (member.message,)
        stamps = [stamp for _, stamp, _ in packets]
        assert all(owner is key for owner, _, _ in packets)
        assert all((key, stamp) in self.delivered for stamp in stamps)
        # Not by the stamp alone: a lying stamp may repeat one of another message.
        mark = (key, matched.epoch, member.stamp_ns, member.message)
        assert member.held == (mark in self.used) or key is matched.anchor
        self.used.add(mark)
        if config.windowed:
            assert member.stamp_ns >= self.covered.get((key, matched.epoch), member.stamp_ns)
            self.covered[key, matched.epoch] = member.stamp_ns
            assert stamps == sorted(set(stamps))
            assert member.stamp_ns == min(stamps[-1], matched.stamp_ns)
            assert all(s <= member.stamp_ns for s in stamps[:-1])
            assert all(s > member.stamp_ns - config.window_s * S for s in stamps[:-1])
        else:
            assert stamps == [member.stamp_ns]
            assert -age_ns <= round(config.tolerance_s * S)

    def _check_best(self, matched: MatchedSet[Modality], now_ns: int) -> None:
        """Of everything in hand, the nearest within the tolerance, else the least old."""
        for key, config in self.configs.items():
            if key is matched.anchor or config.windowed or not self._is_live(key, now_ns):
                continue
            distances = [stamp - matched.stamp_ns for stamp in self.in_buffer[key]]
            young = [d for d in distances if -d <= round(config.max_age_s * S)]
            near = [abs(d) for d in young if abs(d) <= round(config.tolerance_s * S)]
            past = [-d for d in young if d <= 0]
            best = min(near, default=min(past, default=None))
            member = matched.members.get(key)
            got = None if member is None else abs(member.stamp_ns - matched.stamp_ns)
            assert got == best

    def check_books(self) -> None:
        """Every message is accounted for: once, with one reason if it was never used."""
        for key, counters in self.sync.counters.items():
            assert counters.received == self.deliveries[key]
            mine = [reason for owner, _, reason in self.dropped if owner is key]
            assert counters.dropped == {r: mine.count(r) for r in DropReason}
            assert counters.rejected == sum(r in REFUSED_ON_ARRIVAL for r in mine)
            waiting = counters.received - counters.used - len(mine)
            assert 0 <= waiting <= self.sync.buffered[key]
