"""Matched sets from streams that come and go.

Alignment uses stamps; liveness uses receipt time on the clock that the caller hands in. The
highest-priority live stream that keeps its pace is the *anchor*: each of its messages opens a set, to
which every other live stream contributes the message that fits best. See ``docs/synchronizer.md``.

Nothing here is locked and nothing runs by itself: the caller serialises its calls, and polls when
:meth:`Synchronizer.next_deadline_ns` says so. The same calls give the same sets.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from anyseg_ros.sync.buffer import BufferedMessage, MessageBuffer
from anyseg_ros.sync.streams import (
    BACK_LIMIT_NS,
    CONFIRMATIONS,
    FAR_LIMIT_NS,
    NS_PER_S,
    DropReason,
    Impairment,
    OthersDelay,
    Stream,
    StreamConfig,
    StreamCounters,
    StreamStatus,
    to_ns,
)

K = TypeVar("K", bound=Hashable)

CLOCK_BACK_LIMIT_NS = to_ns(0.1)
"""The receipt clock may step back this far (threads that read it in another order than they call)
before it counts as having jumped."""
_DRAGGING = (Impairment.SLOW, Impairment.LATE)
MAX_PENDING = 32
"""Sets that may wait at once; the oldest is completed as it stands when there is one more."""


@dataclass(frozen=True)
class Member:
    """What one stream contributes to a set."""

    stamp_ns: int
    """stamp of the message; of a windowed stream: where its coverage ends, at most the set's
    stamp. Cut the window there."""
    message: Any
    """the message; of a windowed stream: a tuple of packets, oldest first"""
    age_s: float
    """how much older than the set's stamp; negative if newer"""
    held: bool
    """whether the same message (windowed: the same coverage) was in an earlier set"""


@dataclass(frozen=True)
class MatchedSet(Generic[K]):
    """Messages that belong together. The anchor is among the members, in order of priority."""

    anchor: K
    stamp_ns: int
    """the anchor's stamp; strictly increasing within an epoch"""
    epoch: int
    """grows when time itself jumped back, and with a reset"""
    members: Mapping[K, Member]


@dataclass(frozen=True, order=True)
class _Pending:
    """A set that is open: stamp of the anchor's message, receipt time at which waiting ends."""

    stamp_ns: int
    latest_ns: int


def _leads_alone(status: StreamStatus, apart_ns: int) -> StreamStatus:
    """The anchor's status, where its stamps are so far from the others' that sets cannot use those."""
    apart_s = apart_ns / NS_PER_S
    words = (
        f"leads alone: its stamps are {abs(apart_s):.2f} s "
        f"{'behind' if apart_s > 0 else 'ahead of'} the others'"
    )
    detail = f"{status.detail}; {words}" if status.detail else words
    return replace(status, detail=detail, clock_apart_s=apart_s)


def _check_wait(max_wait_s: float) -> None:
    if not 0 <= max_wait_s < inf:
        raise ValueError(f"max_wait_s must be finite and not negative, got {max_wait_s}")


class Synchronizer(Generic[K]):
    """Matched sets of whichever streams are live. Not locked: the caller serialises.

    Keys are any hashable (:class:`~anyseg_ros.modality.Modality` in this project). Messages are
    never looked into.
    """

    def __init__(
        self,
        configs: Mapping[K, StreamConfig],
        priority: Sequence[K],
        max_wait_s: float,
        *,
        on_drop: Callable[[K, int, DropReason], None] | None = None,
        buffer_size: int = 256,
    ) -> None:
        """Set up with every stream waiting.

        Args:
            configs: one configuration a stream.
            priority: all streams, the preferred anchor first.
            max_wait_s: receipt time that an anchor message waits for others at most, seconds.
            on_drop: see :meth:`add_drop_callback`.
            buffer_size: messages kept a stream at most.

        Raises:
            ValueError: if there is no stream, the priority is not a permutation of the streams,
                or a number is out of range.
        """
        if not configs:
            raise ValueError("configs is empty: nothing to synchronize")
        if len(priority) != len(configs) or set(priority) != set(configs):
            raise ValueError(
                f"priority must list every stream once: got {list(priority)}, "
                f"streams are {list(configs)}"
            )
        _check_wait(max_wait_s)
        if buffer_size < 1:
            raise ValueError(f"buffer_size must be at least 1, got {buffer_size}")
        self._priority = tuple(priority)
        self._max_wait_ns = to_ns(max_wait_s)
        self._streams = {key: Stream(configs[key]) for key in priority}
        self._buffers: dict[K, MessageBuffer] = {k: MessageBuffer(buffer_size) for k in priority}
        self._drop_callbacks = [] if on_drop is None else [on_drop]
        self._now_ns: int | None = None
        self._anchor: K | None = None
        self._pending: list[_Pending] = []
        self._last_output_ns: int | None = None
        self._last_coverage: dict[K, Member] = {}
        self._changed = False
        self.epoch = 0
        """epoch of the next set"""
        self.sets = 0
        """sets given out"""
        self.complete_sets = 0
        """sets to which every configured stream contributed"""
        self.abandoned_sets = 0
        """sets opened and not given out, because their anchor dropped or was superseded"""

    # --- what the caller calls ----------------------------------------------------------------

    def add(self, key: K, stamp_ns: int, message: Any, now_ns: int) -> list[MatchedSet[K]]:
        """Take in a message and return the sets that are complete now, oldest first.

        Args:
            stamp_ns: the message's stamp; of a windowed stream the end of its coverage.
            now_ns: receipt time.

        Raises:
            KeyError: if there is no such stream.
        """
        stream = self._stream(key)
        now_ns = self._tick(now_ns)
        stream.hear(now_ns)
        self._admit(key, stream, int(stamp_ns), message, now_ns)
        return self._advance(now_ns)

    def withhold(self, key: K, stamp_ns: int, now_ns: int) -> list[MatchedSet[K]]:
        """Take in a message that must not be used, for what the caller has seen in it.

        Its stream stays what it is, and its stamp counts in what the stream's stamps tell; an anchor
        leaves the lead to another until a message of it can be used. Returns the sets that are
        complete now, oldest first.

        Raises:
            KeyError: if there is no such stream.
        """
        stream = self._stream(key)
        now_ns = self._tick(now_ns)
        stream.hear(now_ns)
        self._admit(key, stream, int(stamp_ns), None, now_ns, usable=False)
        return self._advance(now_ns)

    def refuse(self, key: K, now_ns: int) -> list[MatchedSet[K]]:
        """Note that a message arrived which could not be read and has no stamp.

        A stream of which nothing else arrives is quarantined, not dropped; an anchor leaves the lead
        as in :meth:`withhold`. Returns the sets that are complete now, oldest first.

        Raises:
            KeyError: if there is no such stream.
        """
        stream = self._stream(key)
        now_ns = self._tick(now_ns)
        stream.hear(now_ns)
        stream.reject(DropReason.BAD_CONTENT)
        stream.withheld = True
        return self._advance(now_ns)

    def poll(self, now_ns: int) -> list[MatchedSet[K]]:
        """Return the sets that time alone has completed, oldest first."""
        return self._advance(self._tick(now_ns))

    def next_deadline_ns(self) -> int | None:
        """Receipt time at which :meth:`poll` must be called if nothing arrives before.

        None: nothing will happen without a message. A time in the past means now.
        """
        now = self._now_ns
        if now is None:
            return None
        if self._changed:
            return now
        deadlines = [
            expiry
            for stream in self._streams.values()
            if stream.is_live(now) and (expiry := stream.expires_ns()) is not None
        ]
        if self._pending:
            deadlines.append(self._ready_ns(self._pending[0], now))
        if self._anchor is not None:
            overdue = self._streams[self._anchor].overdue_ns(self._max_wait_ns)
            if overdue is not None and overdue > now:
                deadlines.append(overdue)
        return min(deadlines, default=None)

    def is_unused(self, key: K, stamp_ns: int, message: Any) -> bool:
        """Whether this message is in hand and no set has had it so far; never of a windowed stream.

        Raises:
            KeyError: if there is no such stream.
        """
        if self._stream(key).config.windowed:
            return False
        entry = self._buffers[key].get(stamp_ns)
        return entry is not None and entry.message is message and not entry.used

    def covered(self) -> dict[K, Member]:
        """What windowed streams will contribute to the set that is next, as far as that is certain.

        That is so where packets cover all time up to the set's stamp; only a packet that arrives out
        of order can still change it.
        """
        now_ns = self._now_ns
        if now_ns is None or not self._pending:
            return {}
        anchor_ns = self._pending[0].stamp_ns
        found: dict[K, Member] = {}
        for key, stream in self._streams.items():
            if stream.config.windowed and key != self._anchor and stream.is_live(now_ns):
                end, entries = self._cover(key, stream, anchor_ns) or (0, [])
                if entries and end == anchor_ns:
                    found[key] = Member(end, tuple(e.message for e in entries), 0.0, False)
        return found

    def quarantine(self, key: K, reason: str) -> None:
        """Leave a stream out of all sets until :meth:`release`, for what its messages show.

        Its arrivals are still watched. Takes effect with the next :meth:`add` or :meth:`poll`,
        which :meth:`next_deadline_ns` calls for at once.

        Raises:
            KeyError: if there is no such stream.
            ValueError: if the reason is empty.
        """
        stream = self._stream(key)
        if not reason:
            raise ValueError("a quarantine needs a reason")
        stream.quarantine_reason = reason
        self._discard(key, self._buffers[key].clear(), DropReason.QUARANTINED)
        self._changed = True

    def release(self, key: K) -> None:
        """End a :meth:`quarantine`; no effect if there is none, or on one for bad stamps.

        Raises:
            KeyError: if there is no such stream.
        """
        self._stream(key).quarantine_reason = None
        self._changed = True

    def status(self, now_ns: int) -> dict[K, StreamStatus]:
        """Every stream's state at ``now_ns``, in order of priority."""
        now_ns = now_ns if self._now_ns is None else max(now_ns, self._now_ns)
        statuses = {key: stream.status(now_ns) for key, stream in self._streams.items()}
        anchor = self._anchor
        gaps = [
            gap
            for key, stream in self._streams.items()
            if key != anchor
            and stream.is_live(now_ns)
            and (gap := stream.foreign_gap_ns) is not None
        ]
        if anchor is not None and gaps:
            apart_ns = self._streams[anchor].explains(max(gaps, key=abs))
            if apart_ns is not None:
                statuses[anchor] = _leads_alone(statuses[anchor], apart_ns)
        return statuses

    def configure(self, configs: Mapping[K, StreamConfig], max_wait_s: float) -> None:
        """Take other limits; messages, what was learned, quarantines and the order of stamps stay.

        Raises:
            ValueError: if the streams are not those there are, or a number is out of range.
        """
        if set(configs) != set(self._streams):
            raise ValueError(f"streams are {list(self._streams)}, got configs of {list(configs)}")
        _check_wait(max_wait_s)
        self._max_wait_ns = to_ns(max_wait_s)
        for key, config in configs.items():
            self._streams[key].configure(config)
        self._changed = True

    def reset(self) -> None:
        """Forget everything but the counters; the next set starts a new epoch."""
        self._start_epoch()
        for stream in self._streams.values():
            stream.forget()
        self._now_ns = None
        self._anchor = None
        self._changed = False

    def add_drop_callback(self, callback: Callable[[K, int, DropReason], None]) -> None:
        """Call ``callback(key, stamp_ns, reason)`` for each message that never was in a set.

        It must not call back into the synchronizer.
        """
        self._drop_callbacks.append(callback)

    @property
    def anchor(self) -> K | None:
        """The stream that opens sets at present; None while none is live."""
        return self._anchor

    @property
    def counters(self) -> Mapping[K, StreamCounters]:
        """What became of each stream's messages."""
        return MappingProxyType({k: stream.counters for k, stream in self._streams.items()})

    @property
    def buffered(self) -> Mapping[K, int]:
        """Messages kept a stream."""
        return MappingProxyType({k: len(buffer) for k, buffer in self._buffers.items()})

    # --- time ---------------------------------------------------------------------------------

    def _tick(self, now_ns: int) -> int:
        """Take over the caller's time; small steps back are levelled, a jump ends the epoch."""
        now_ns = int(now_ns)
        if self._now_ns is not None and now_ns < self._now_ns:
            if self._now_ns - now_ns <= CLOCK_BACK_LIMIT_NS:
                return self._now_ns
            self._start_epoch()
            for stream in self._streams.values():
                stream.restart_receipts(now_ns)
        self._now_ns = now_ns
        return now_ns

    def _start_epoch(self) -> None:
        self.epoch += 1
        self._last_output_ns = None
        self._last_coverage.clear()
        self._abandon_pending()
        for key, stream in self._streams.items():
            self._discard(key, self._buffers[key].clear(), DropReason.EPOCH_ENDED)
            stream.forget_time()

    def _others_delay(self, key: K, now_ns: int) -> OthersDelay | None:
        """What the other live streams hold for a normal delay. One liar cannot shift a median."""
        known = [
            delays
            for other, stream in self._streams.items()
            if other != key
            and stream.is_live(now_ns)
            and (delays := stream.delays_ns()) is not None
        ]
        if not known:
            return None
        least = sorted(delays[0] for delays in known)
        latest = sorted(delays[1] for delays in known)
        return OthersDelay(least[(len(least) - 1) // 2], latest[len(latest) // 2], len(known))

    def _time_jumped(self, stream: Stream, now_ns: int) -> bool:
        """Whether time itself is what ``stream``'s suspicious message says; if so, follow it.

        That takes a majority of the streams that arrive at all. Where two halves contradict each
        other, the half whose stamps are near receipt time is right, if the other's are not.
        """
        suspicion = stream.suspicion
        assert suspicion is not None
        if not stream.votes(now_ns):
            return False
        voters = [s for s in self._streams.values() if s.votes(now_ns)]
        agreeing = [
            s
            for s in voters
            if s.suspicion is not None
            and abs(s.suspicion.delay_ns - suspicion.delay_ns) <= FAR_LIMIT_NS
        ]
        if sum(s.suspicion.count for s in agreeing if s.suspicion) < CONFIRMATIONS:
            return False
        others = [s for s in voters if s not in agreeing]
        if len(agreeing) < len(others):
            return False
        if len(agreeing) == len(others):
            delays = [d for s in others if (d := s.delays_ns()) is not None]
            if abs(suspicion.delay_ns) > FAR_LIMIT_NS or any(
                abs(latest) <= FAR_LIMIT_NS for _, latest in delays
            ):
                return False
        suspicions = [(s, s.suspicion) for s in agreeing if s.suspicion is not None]
        went_back = any(
            s.newest_ns is not None and told.stamp_ns <= s.newest_ns for s, told in suspicions
        ) or (self._last_output_ns is not None and suspicion.stamp_ns <= self._last_output_ns)
        if went_back:
            self._start_epoch()
            for s, told in suspicions:
                s.suspicion = told
        for s in agreeing:
            s.adopt_suspected_time()
        return True

    # --- messages in --------------------------------------------------------------------------

    def _stream(self, key: K) -> Stream:
        try:
            return self._streams[key]
        except KeyError:
            raise KeyError(f"no stream {key!r}; there are {list(self._streams)}") from None

    def _admit(
        self,
        key: K,
        stream: Stream,
        stamp_ns: int,
        message: Any,
        now_ns: int,
        usable: bool = True,
    ) -> None:
        buffer = self._buffers[key]
        if stamp_ns == stream.newest_ns or stamp_ns in buffer:
            self._reject(key, stamp_ns, DropReason.DUPLICATE_STAMP)
            return
        others = self._others_delay(key, now_ns)
        reason = stream.judge(stamp_ns, now_ns, others, self._last_output_ns)
        if reason is not None:
            count = stream.suspect(reason, stamp_ns, now_ns)
            if not self._time_jumped(stream, now_ns) and not (
                count >= CONFIRMATIONS and self._found_its_time(key, stream, others)
            ):
                stream.withheld = True
                self._reject(key, stamp_ns, reason)
                return
        elif not stream.clear_suspicion():
            self._reject(key, stamp_ns, DropReason.QUARANTINED)
            return
        stream.accept(stamp_ns, now_ns)
        stream.withheld = not usable
        if others is not None:
            stream.note_behind(now_ns - stamp_ns - others.latest_ns)
        if stream.quarantine_reason is not None:
            self._reject(key, stamp_ns, DropReason.QUARANTINED)
        elif not usable:
            self._reject(key, stamp_ns, DropReason.BAD_CONTENT)
        elif stamp_ns < self._oldest_useful_ns(stream):
            self._reject(key, stamp_ns, DropReason.TOO_OLD)
        else:
            entry = BufferedMessage(stamp_ns, now_ns, message)
            self._discard(key, buffer.insert(entry), DropReason.BUFFER_FULL)
            if key == self._anchor:
                self._open(stamp_ns, now_ns + self._max_wait_ns)

    def _found_its_time(self, key: K, stream: Stream, others: OthersDelay | None) -> bool:
        """A stream alone tells another time: quarantine it, unless its past was the lie.

        That is so if its first stamps were wild and it now agrees with the others.
        """
        told = stream.suspicion
        assert told is not None
        if (
            not stream.knows_its_delay
            and not stream.is_distrusted
            and others is not None
            and abs(told.delay_ns - others.latest_ns) <= FAR_LIMIT_NS
        ):
            stream.adopt_suspected_time()
            self._discard(key, self._buffers[key].clear(), DropReason.EPOCH_ENDED)
            return True
        stream.distrust(others)
        return False

    def _reject(self, key: K, stamp_ns: int, reason: DropReason) -> None:
        self._streams[key].reject(reason)
        self._drop(key, stamp_ns, reason)

    def _discard(self, key: K, entries: Iterable[BufferedMessage], reason: DropReason) -> None:
        for entry in entries:
            if not entry.used:
                self._drop(key, entry.stamp_ns, reason)

    def _drop(self, key: K, stamp_ns: int, reason: DropReason) -> None:
        self._streams[key].counters.dropped[reason] += 1
        for callback in self._drop_callbacks:
            callback(key, stamp_ns, reason)

    def _oldest_useful_ns(self, stream: Stream) -> int:
        """Stamp before which a message can be in no set to come."""
        # Packets that end max_age before the anchor are handed over with a whole window before that.
        keep = stream.max_age_ns + stream.window_ns
        oldest = -(1 << 63)
        if self._last_output_ns is not None:
            oldest = self._last_output_ns - keep
        if stream.newest_ns is not None:
            # Bounds memory by time while nothing is given out.
            oldest = max(oldest, stream.newest_ns - keep - self._max_wait_ns - FAR_LIMIT_NS)
        return oldest

    # --- sets out -----------------------------------------------------------------------------

    def _advance(self, now_ns: int) -> list[MatchedSet[K]]:
        self._changed = False
        self._choose_anchor(now_ns)
        done: list[MatchedSet[K]] = []
        while self._pending and (
            len(self._pending) > MAX_PENDING or self._ready_ns(self._pending[0], now_ns) <= now_ns
        ):
            matched = self._complete(self._pending.pop(0), now_ns)
            if matched is not None:
                done.append(matched)
        for key, stream in self._streams.items():
            gone = self._buffers[key].prune(self._oldest_useful_ns(stream))
            self._discard(key, gone, DropReason.UNUSED)
        return done

    def _choose_anchor(self, now_ns: int) -> None:
        live = [key for key in self._priority if self._streams[key].is_live(now_ns)]
        anchor = self._preferred(live, now_ns)
        if anchor == self._anchor:
            return
        self._anchor = anchor
        self._abandon_pending()
        if anchor is None:
            return
        # What the new anchor said meanwhile would be late by now: only its newest opens a set, and
        # that waits for nobody, unless it has just arrived.
        newest = self._buffers[anchor].newest
        if newest is not None and not newest.used:
            fresh = newest.receipt_ns == now_ns
            self._open(newest.stamp_ns, now_ns + (self._max_wait_ns if fresh else 0))

    def _preferred(self, live: Sequence[K], now_ns: int) -> K | None:
        """The anchor among the live streams: the first by priority, unless it drags the output.

        One that has become slow gives way to the next that is well and faster, one that has become
        late to the next that is well; so does, until it says something of use again, one that is
        hushed.
        """
        able = [key for key in live if self._may_anchor(key)] or live
        if not able:
            return None
        first = self._streams[able[0]]
        if first.impairment in _DRAGGING:
            for key in able[1:]:
                stream = self._streams[key]
                if stream.impairment in _DRAGGING or self._is_hushed(key, now_ns):
                    continue
                theirs, own = stream.period_ns(), first.recent_period_ns()
                if first.impairment is Impairment.LATE or (
                    theirs is not None and own is not None and theirs < own
                ):
                    return key
        return self._stand_in(able, now_ns) if self._is_hushed(able[0], now_ns) else able[0]

    def _stand_in(self, able: Sequence[K], now_ns: int) -> K:
        """Who leads while the first stream is hushed: itself, if nobody has anything to say.

        Best the one that does already, else the next that is well. One without a period might have
        died unnoticed together with the first, and one that is slow or late drags the output: these
        two only where nobody is well.
        """
        heard = [k for k in able[1:] if not self._is_hushed(k, now_ns)]
        well = [k for k in heard if self._streams[k].impairment not in _DRAGGING]
        steady = [k for k in well if self._streams[k].overdue_ns(self._max_wait_ns) is not None]
        if self._anchor in steady:
            return self._anchor
        for key in steady or [*well, *heard]:
            if key == self._anchor or self._has_news(key):
                return key
        return able[0]

    def _has_news(self, key: K) -> bool:
        """Whether the stream has a message for a set to come: one that has died as well has none."""
        newest = self._buffers[key].newest
        if newest is None or newest.used:
            return False
        return self._last_output_ns is None or newest.stamp_ns > self._last_output_ns

    def _is_hushed(self, key: K, now_ns: int) -> bool:
        """Whether a live stream says nothing of use: its last message was bad, or the next is overdue.

        Nothing else tells of a dead sensor before its timeout, or of a blind one before its quarantine.
        """
        stream = self._streams[key]
        if stream.withheld:
            # What it said before that is of use: those sets are still completed.
            return not (key == self._anchor and self._pending)
        overdue = stream.overdue_ns(self._max_wait_ns)
        return overdue is not None and overdue <= now_ns

    def _may_anchor(self, key: K) -> bool:
        """Whether a live stream may take over: not if its stamps would stall the output."""
        newest = self._streams[key].newest_ns
        return (
            key == self._anchor
            or newest is None
            or self._last_output_ns is None
            or newest >= self._last_output_ns - BACK_LIMIT_NS
        )

    def _abandon_pending(self) -> None:
        self.abandoned_sets += len(self._pending)
        self._pending.clear()

    def _open(self, stamp_ns: int, latest_ns: int) -> None:
        if self._last_output_ns is None or stamp_ns > self._last_output_ns:
            insort(self._pending, _Pending(stamp_ns, latest_ns))

    def _ready_ns(self, pending: _Pending, now_ns: int) -> int:
        """Receipt time at which a set need not wait any longer."""
        ready = now_ns
        # Sets leave in order, so none may hold up one behind it for longer than that may wait.
        latest = min(waiting.latest_ns for waiting in self._pending)
        for key, stream in self._streams.items():
            if key != self._anchor and stream.is_live(now_ns):
                until = stream.worth_waiting_until_ns(pending.stamp_ns, latest)
                if until is not None:
                    ready = max(ready, until)
        return ready

    def _complete(self, pending: _Pending, now_ns: int) -> MatchedSet[K] | None:
        anchor = self._anchor
        if anchor is None or self._buffers[anchor].get(pending.stamp_ns) is None:
            self.abandoned_sets += 1
            return None
        members: dict[K, Member] = {}
        for key, stream in self._streams.items():
            if stream.is_live(now_ns):
                member = self._member(key, stream, pending.stamp_ns, key == anchor)
                if member is None:
                    stream.note_unmatched(pending.stamp_ns)
                else:
                    stream.note_matched()
                    members[key] = member
        self._last_output_ns = pending.stamp_ns
        self.sets += 1
        self.complete_sets += len(members) == len(self._streams)
        return MatchedSet(anchor, pending.stamp_ns, self.epoch, MappingProxyType(members))

    def _member(self, key: K, stream: Stream, anchor_ns: int, is_anchor: bool) -> Member | None:
        buffer = self._buffers[key]
        if not stream.config.windowed:
            entry = (
                buffer.get(anchor_ns)
                if is_anchor
                else buffer.match(anchor_ns, stream.tolerance_ns, stream.max_age_ns)
            )
            if entry is None:
                return None
            held = entry.used
            self._use(stream, [entry])
            age_s = (anchor_ns - entry.stamp_ns) / NS_PER_S
            return self._count_held(stream, Member(entry.stamp_ns, entry.message, age_s, held))
        covered = self._cover(key, stream, anchor_ns)
        if covered is None:
            return None
        end, entries = covered
        age_s = (anchor_ns - end) / NS_PER_S
        last = self._last_coverage.get(key)
        if last is not None and last.stamp_ns == end:
            return self._count_held(stream, replace(last, age_s=age_s, held=True))
        self._use(stream, entries)
        member = Member(end, tuple(entry.message for entry in entries), age_s, False)
        self._last_coverage[key] = member
        return member

    def _cover(
        self, key: K, stream: Stream, anchor_ns: int
    ) -> tuple[int, list[BufferedMessage]] | None:
        reach = max(stream.tolerance_ns, 2 * (stream.period_ns() or 0))
        return self._buffers[key].cover(anchor_ns, reach, stream.max_age_ns, stream.window_ns)

    @staticmethod
    def _use(stream: Stream, entries: Iterable[BufferedMessage]) -> None:
        for entry in entries:
            stream.counters.used += not entry.used
            entry.used = True

    @staticmethod
    def _count_held(stream: Stream, member: Member) -> Member:
        stream.counters.held += member.held
        return member
