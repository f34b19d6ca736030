"""One stream: is it alive, is it believable, how fast and how late is it.

Two times meet here and are never mixed. *Receipt time* is the clock that the caller hands in
(steady, or ``/clock`` under ``use_sim_time``); liveness is judged by it alone. *Stamps* are what
the sensors wrote; alignment uses them alone. Their difference, receipt minus stamp, is a stream's
*delay*. Its absolute value means nothing (the clocks may have different origins), but its changes
and the differences between streams do: they tell how late a stream is and whether its stamps lie.

All times are integer nanoseconds. Nothing here is locked: the caller serialises.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from math import inf

NS_PER_S = 1_000_000_000


def to_ns(seconds: float) -> int:
    """Seconds to integer nanoseconds, rounded."""
    return round(seconds * NS_PER_S)


BACK_LIMIT_NS = to_ns(0.5)
"""A stamp this far behind its own stream's newest is a jump back, not network reordering; and a
returning stream this far behind the last output does not take the anchor over."""
LEAD_LIMIT_NS = to_ns(0.25)
"""A delay this far under the least one learned means a stamp from the future."""
FAR_LIMIT_NS = to_ns(2.0)
"""Delays of two streams further apart than this are two different ideas of time."""
CONFIRMATIONS = 3
"""Messages that must agree before a change of a stream's time is believed, either way."""
MIN_SAMPLES = 4
"""Delays needed before they count as knowledge."""
LATENESS_SAMPLES = 16
"""Messages needed before a stream's usual lateness counts as known."""
WINDOW = 32
"""Delays and intervals remembered."""
PACE_FACTOR = 2.5
"""Times this much slower or faster than usual is far from usual: a rate of a quarter is, lost
messages are not."""
PACE_BACK = 1.8
"""Nearer to usual than this times: back to usual."""
PACE_SAMPLES = 3
"""Intervals or delays in a row that show a change of pace or lateness."""
PACE_LEARN = 16
"""Intervals or delays from which the usual ones are learned."""
FAST_IS_USUAL_NS = to_ns(30.0)
"""A stream that has been fast for so long had a slow start; only without an expected rate."""
LATE_LIMIT_NS = to_ns(0.2)
"""This much later than usual, against the other streams, is late."""
LATE_BACK_NS = to_ns(0.1)
UNMATCHED = 3
"""Sets in a row without any of this many new messages: a live stream that is of no use."""
RARE = 3
"""Messages in a row that each came after the timeout: a timeout that is too short for the stream."""
PAUSES = 8
"""Receipts from which the usual pause between two is told."""
RATE_HORIZON_NS = to_ns(5.0)
"""Receipts older than this do not count in the rate."""


class StreamState(Enum):
    """What a stream is at one moment of receipt time."""

    WAITING = "waiting"
    """never seen"""
    LIVE = "live"
    DROPPED = "dropped"
    """silent for longer than its timeout"""
    QUARANTINED = "quarantined"
    """arrives, but is not believable"""


class Impairment(Enum):
    """How a live stream is worse than usual. It is used, but not as the anchor if others are well."""

    NONE = ""
    SLOW = "slow"
    FAST = "fast"
    """no reason to leave the anchor to another"""
    LATE = "late"


class DropReason(Enum):
    """Why a message never became part of a set. The values are fit for diagnostics."""

    DUPLICATE_STAMP = "stamp seen before"
    STAMP_JUMPED_BACK = "stamp jumped back"
    STAMP_IN_FUTURE = "stamp from the future"
    STAMP_FAR_BEHIND = "stamp far behind receipt"
    QUARANTINED = "stream is quarantined"
    BAD_CONTENT = "content is not believable"
    TOO_OLD = "arrived older than any set can use"
    UNUSED = "no set needed it"
    BUFFER_FULL = "buffer full"
    EPOCH_ENDED = "time itself jumped back"


@dataclass(frozen=True)
class StreamConfig:
    """How one stream is treated. Times in seconds.

    Raises:
        ValueError: if a value cannot work; the message names it.
    """

    timeout_s: float
    """receipt-time silence after which the stream counts as dropped"""
    tolerance_s: float
    """a message this near the anchor's stamp, before or after, matches"""
    max_age_s: float
    """a message at most this much older than the anchor may be used when none matches"""
    expected_rate_hz: float | None = None
    """what slow and fast are measured by, and the rate until one is learned; None: unknown"""
    windowed: bool = False
    """messages are packets that cover time and are stamped with the END of their coverage"""
    window_s: float = 0.1
    """windowed streams: how far before the anchor's stamp packets are handed over"""

    def __post_init__(self) -> None:
        for name in ("timeout_s", "max_age_s", "window_s"):
            if not 0 < getattr(self, name) < inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if not 0 <= self.tolerance_s < inf:
            raise ValueError(f"tolerance_s must be finite and not negative, got {self.tolerance_s}")
        if self.expected_rate_hz is not None and not self.expected_rate_hz > 0:
            raise ValueError(f"expected_rate_hz must be positive, got {self.expected_rate_hz}")


@dataclass(frozen=True)
class StreamStatus:
    """A stream as diagnostics show it."""

    state: StreamState
    reason: str
    """why it is not live; empty if it is"""
    age_s: float | None
    """receipt time since the last believable message; None if there was none"""
    rate_hz: float | None
    """arrivals per second of receipt time, believable or not; None until two arrived"""
    received: int
    rejected: int
    last_stamp_ns: int | None
    """newest believable stamp"""
    impairment: Impairment = Impairment.NONE
    detail: str = ""
    """in words how a live stream is worse than usual, or that no set can use it"""
    clock_apart_s: float | None = None
    """how far its stamps lie behind the other streams', where that keeps it, or them, out of the sets;
    negative: ahead of them"""


@dataclass
class StreamCounters:
    """What became of a stream's messages. Each message that leaves unused has one reason."""

    received: int = 0
    rejected: int = 0
    """refused on arrival"""
    used: int = 0
    """messages that became part of at least one set"""
    held: int = 0
    """times a message was used again in a later set"""
    dropped: dict[DropReason, int] = field(default_factory=lambda: dict.fromkeys(DropReason, 0))


@dataclass(frozen=True)
class OthersDelay:
    """What the other live streams hold for a normal delay: medians over those streams."""

    least_ns: int
    """of the least recent delays"""
    latest_ns: int
    """of the latest delays; these follow a slow replay on a steady clock, the least lag behind"""
    streams: int = 1
    """how many there are: of two alone nobody knows which is right"""


@dataclass
class _Suspicion:
    """Consecutive messages that tell the same other time."""

    reason: DropReason
    stamp_ns: int
    delay_ns: int
    count: int = 1


class Stream:
    """Liveness, believability, rate and lateness of one stream. Holds no messages."""

    def __init__(self, config: StreamConfig) -> None:
        self.counters = StreamCounters()
        self.config = config
        self.configure(config)
        self.forget()

    def configure(self, config: StreamConfig) -> None:
        """Take other limits; what was learned of the stream stays."""
        expected_before, self.config = self.config.expected_rate_hz, config
        self.timeout_ns = to_ns(config.timeout_s)
        self.tolerance_ns = to_ns(config.tolerance_s)
        self.max_age_ns = to_ns(config.max_age_s)
        self.window_ns = to_ns(config.window_s) if config.windowed else 0
        if config.expected_rate_hz != expected_before:
            self._usual_period_ns = self._expected_period_ns()

    def forget(self) -> None:
        """Back to waiting; a quarantine by the caller ends too. Counters stay."""
        self.heard_ns: int | None = None
        self.accepted_ns: int | None = None
        self.quarantine_reason: str | None = None
        self.withheld = False
        """whether the last message must not be used, for its content or its stamp, or could not be read"""
        self._receipts: deque[int] = deque(maxlen=WINDOW)
        self._silence: tuple[int, int, int] | None = None
        self._silences: list[int] = []
        """lengths of the last silences over the timeout, while there is one before each message"""
        self._intervals: deque[int] = deque(maxlen=WINDOW)
        self._last_reject: DropReason | None = None
        self._pace = Impairment.NONE
        self._pace_since_ns = 0
        self._usual_period_ns = self._expected_period_ns()
        self.forget_time()

    def forget_time(self) -> None:
        """Forget what stamps meant so far; liveness and the caller's quarantine stay."""
        self.newest_ns: int | None = None
        self.suspicion: _Suspicion | None = None
        self._distrust: DropReason | None = None
        self._clock_apart_ns: int | None = None
        self._home_lateness_ns: int | None = None
        self._consistent = 0
        self._forget_delays()
        self.note_matched()

    def _forget_delays(self) -> None:
        self._delays: deque[int] = deque(maxlen=WINDOW)
        self._lateness: deque[int] = deque(maxlen=WINDOW)
        self._late_bound: tuple[int, int] | None = None
        self._behind: deque[int] = deque(maxlen=PACE_LEARN)
        self._usual_behind_ns: int | None = None
        self._usual_delay_ns = 0
        self._late = False
        self._was_away = False
        """silent for longer than the timeout since the delays were begun"""

    # --- liveness, on receipt time ------------------------------------------------------------

    def state(self, now_ns: int) -> StreamState:
        """The stream's state at ``now_ns``."""
        if self.heard_ns is None:
            return StreamState.WAITING
        if now_ns - self.heard_ns > self.timeout_ns:
            return StreamState.DROPPED
        if self.quarantine_reason is not None or self._distrust is not None:
            return StreamState.QUARANTINED
        if self.accepted_ns is None or now_ns - self.accepted_ns > self.timeout_ns:
            return StreamState.QUARANTINED
        return StreamState.LIVE

    def is_live(self, now_ns: int) -> bool:
        return self.state(now_ns) is StreamState.LIVE

    def votes(self, now_ns: int) -> bool:
        """Whether the stream arrives at all, so that it has a say in what time it is."""
        return (
            self.heard_ns is not None
            and now_ns - self.heard_ns <= self.timeout_ns
            and self.quarantine_reason is None
        )

    def expires_ns(self) -> int | None:
        """First instant at which a stream that is live now no longer is, if nothing arrives."""
        return None if self.accepted_ns is None else self.accepted_ns + self.timeout_ns + 1

    def hear(self, now_ns: int) -> None:
        """Note that a message arrived, whatever it says."""
        if self.heard_ns is not None and now_ns - self.heard_ns > self.timeout_ns:
            self._receipts.clear()  # the rate since the return, not across the outage
            self._was_away = True
            self._silences = [*self._silences[1 - RARE :], now_ns - self.heard_ns]
        else:
            self._silences = []
        self.heard_ns = now_ns
        self._receipts.append(now_ns)
        self._silence = None  # told anew after this message
        self.counters.received += 1

    def restart_receipts(self, now_ns: int) -> None:
        """The receipt clock itself jumped: what was alive is given its timeout from ``now_ns``."""
        self._receipts.clear()
        self._silences = []
        if self.heard_ns is not None:
            self.heard_ns = now_ns
        if self.accepted_ns is not None:
            self.accepted_ns = now_ns

    def rate_hz(self, now_ns: int) -> float | None:
        """Arrivals per second over the last seconds, falling while the stream is silent."""
        if (rare_ns := self._rare_period_ns(now_ns)) is not None:
            return NS_PER_S / rare_ns
        recent = [t for t in self._receipts if now_ns - t <= RATE_HORIZON_NS]
        if len(recent) < 2:
            return 0.0 if len(self._receipts) >= 2 else None
        span = recent[-1] - recent[0]
        count = len(recent) - 1
        span = max(span, now_ns - recent[0] - span // count)
        return count * NS_PER_S / span if span > 0 else None

    def status(self, now_ns: int) -> StreamStatus:
        """The stream as diagnostics show it."""
        state = self.state(now_ns)
        return StreamStatus(
            state=state,
            reason=self._reason(state, now_ns),
            age_s=None if self.accepted_ns is None else (now_ns - self.accepted_ns) / NS_PER_S,
            rate_hz=self.rate_hz(now_ns),
            received=self.counters.received,
            rejected=self.counters.rejected,
            last_stamp_ns=self.newest_ns,
            impairment=self.impairment,
            detail=self._detail(state, now_ns),
            clock_apart_s=None if (apart := self._apart_ns()) is None else apart / NS_PER_S,
        )

    def _reason(self, state: StreamState, now_ns: int) -> str:
        if state is StreamState.LIVE:
            return ""
        if self.heard_ns is None:
            return "nothing received yet"
        if state is StreamState.DROPPED:
            return f"silent for {(now_ns - self.heard_ns) / NS_PER_S:.1f} s"
        if self.quarantine_reason is not None:
            return self.quarantine_reason
        cause = self._distrust or self._last_reject
        if cause is None:
            return "nothing believable arrives"
        apart_ns = self._clock_apart_ns
        if self._distrust is None or apart_ns is None:
            return cause.value
        return (
            f"{cause.value}: {abs(apart_ns) / NS_PER_S:.1f} s "
            f"{'behind' if apart_ns > 0 else 'ahead of'} the others; "
            "if its clock is another, set the driver's timestamp mode to the host's time"
        )

    # --- pace and lateness, on stamps -----------------------------------------------------------

    @property
    def impairment(self) -> Impairment:
        """How the stream is worse than usual; slowness before lateness."""
        if self._pace is Impairment.SLOW or not self._late:
            return self._pace
        return Impairment.LATE

    def recent_period_ns(self) -> int | None:
        """Median of the last few distances between stamps; None until there are some."""
        recent = list(self._intervals)[-PACE_SAMPLES:]
        return self._typical(recent) if len(recent) == PACE_SAMPLES else None

    def _detail(self, state: StreamState, now_ns: int) -> str:
        if state is StreamState.DROPPED:
            return self._rarity_in_words(now_ns)
        if state is not StreamState.LIVE:
            return ""
        parts = self._rarity_in_words(now_ns), self._pace_in_words(), self._unmatched_in_words()
        return "; ".join(filter(None, parts))

    def _rare_period_ns(self, now_ns: int) -> int | None:
        """Between two messages of a stream that is silent for longer than its timeout before each."""
        if self.heard_ns is None or len(self._silences) < RARE:
            return None
        period = self._typical(self._silences)
        return period if now_ns - self.heard_ns < PACE_FACTOR * period else None

    def _rarity_in_words(self, now_ns: int) -> str:
        period = self._rare_period_ns(now_ns)
        if period is None:
            return ""
        return (
            f"a message every {period / NS_PER_S:.2f} s, rarer than its timeout of "
            f"{self.timeout_ns / NS_PER_S:.2f} s: raise that"
        )

    def _pace_in_words(self) -> str:
        if self.impairment is Impairment.LATE:
            assert self._usual_behind_ns is not None
            late_s = (self._behind[-1] - self._usual_behind_ns) / NS_PER_S
            return f"late: {late_s:.2f} s later than usual"
        recent = self.recent_period_ns()
        if self._pace is Impairment.NONE or recent is None or self._usual_period_ns is None:
            return ""
        kind = "expected" if self.config.expected_rate_hz is not None else "usually"
        return (
            f"{self._pace.value}: a message every {recent / NS_PER_S:.3f} s, "
            f"{kind} {self._usual_period_ns / NS_PER_S:.3f} s"
        )

    def _note_interval(self) -> None:
        """Judge the pace by the last distances between stamps."""
        if self.config.windowed and self.config.expected_rate_hz is None:
            return  # an event camera may send a packet when it is full: quiet is not slow
        usual = self._usual_period_ns
        if usual is None:
            if len(self._intervals) >= PACE_LEARN:
                self._usual_period_ns = self._typical(self._intervals)
            return
        recent = list(self._intervals)[-PACE_SAMPLES:]
        if len(recent) < PACE_SAMPLES:
            return
        if self._pace is Impairment.NONE:
            if min(recent) >= PACE_FACTOR * usual:
                self._pace = Impairment.SLOW
            elif max(recent) * PACE_FACTOR <= usual:
                self._pace, self._pace_since_ns = Impairment.FAST, self.newest_ns or 0
            return
        middle = self._typical(list(self._intervals)[-2 * PACE_SAMPLES + 1 :])
        if usual / PACE_BACK < middle < usual * PACE_BACK:
            self._pace = Impairment.NONE
        elif (
            self._pace is Impairment.FAST
            and self.config.expected_rate_hz is None
            and (self.newest_ns or 0) - self._pace_since_ns > FAST_IS_USUAL_NS
        ):
            self._usual_period_ns = self._typical(self._intervals)
            self._pace = Impairment.NONE

    def note_behind(self, behind_ns: int) -> None:
        """Judge the lateness by how far the stream's latest delay is over the others'."""
        self._behind.append(behind_ns)
        delay = self._typical(list(self._delays)[-PACE_SAMPLES:])
        if self._usual_behind_ns is None:
            if len(self._behind) >= PACE_LEARN:
                self._usual_behind_ns = self._typical(self._behind)
                self._usual_delay_ns = delay
            return
        over = [value - self._usual_behind_ns for value in list(self._behind)[-PACE_SAMPLES:]]
        if max(over) < LATE_BACK_NS:
            self._late = False
            self._usual_delay_ns = delay  # it follows clocks that drift or are set
        elif min(over) > LATE_LIMIT_NS:
            self._late = delay - self._usual_delay_ns > LATE_LIMIT_NS
            if not self._late:
                # Its own delay is what it was: the others have become punctual, and that is usual now.
                self._behind.clear()
                self._usual_behind_ns = None

    # --- use, on stamps -------------------------------------------------------------------------

    def note_matched(self) -> None:
        """Note that a set has a message of the stream."""
        self._sets_without = self._messages_since = self._gap_ns = 0

    def note_unmatched(self, anchor_ns: int) -> None:
        """Note that a set with this stamp has none of the stream, though it is live."""
        self._sets_without += 1
        self._gap_ns = anchor_ns - (self.newest_ns or 0)

    @property
    def is_unmatched(self) -> bool:
        """Whether messages keep arriving and being believed of which no set can use one."""
        return min(self._sets_without, self._messages_since) >= UNMATCHED

    @property
    def foreign_gap_ns(self) -> int | None:
        """How far from the sets its messages are for a reason that is not its own, but the anchor's."""
        own = self._late or not self.is_unmatched or self._apart_ns() is not None
        return None if own else self._gap_ns

    def _unmatched_in_words(self) -> str:
        if not self.is_unmatched:
            return ""
        return (
            f"in none of the last {self._sets_without} sets: its newest message was "
            f"{abs(self._gap_ns) / NS_PER_S:.2f} s {'older' if self._gap_ns > 0 else 'newer'} than the set"
        )

    def _apart_ns(self) -> int | None:
        """How far the stamps lie behind the others', if that is why no set can use the stream."""
        if self._distrust is not None:
            return self._clock_apart_ns
        if self._late or not self.is_unmatched:
            return None
        return self.explains(self._gap_ns)

    def explains(self, gap_ns: int) -> int | None:
        """How far the stamps lie behind the others', if that is what such a gap to a set comes from."""
        behind = self._typical(self._behind) if self._behind else 0
        return behind if 2 * abs(behind) >= abs(gap_ns) else None

    # --- believability, on stamps -------------------------------------------------------------

    def delays_ns(self) -> tuple[int, int] | None:
        """(least recent, latest) delay, once there are enough to know."""
        return (min(self._delays), self._delays[-1]) if self.knows_its_delay else None

    def judge(
        self, stamp_ns: int, now_ns: int, others: OthersDelay | None, last_output_ns: int | None
    ) -> DropReason | None:
        """Say what is wrong with a stamp, None if it is believable.

        Args:
            others: None if no other live stream knows its delay.
            last_output_ns: stamp of the last set of this epoch.
        """
        delay = now_ns - stamp_ns
        if self.newest_ns is not None and stamp_ns < self.newest_ns - BACK_LIMIT_NS:
            return DropReason.STAMP_JUMPED_BACK
        if last_output_ns is not None and stamp_ns < last_output_ns - FAR_LIMIT_NS:
            return DropReason.STAMP_FAR_BEHIND
        if others is not None and delay > others.latest_ns + FAR_LIMIT_NS:
            return DropReason.STAMP_FAR_BEHIND
        if self.knows_its_delay:
            own = min(self._delays)
            # A stream that was late and is punctual again leads its own past, not the others.
            least = own if others is None else min(own, others.least_ns)
            if delay < least - LEAD_LIMIT_NS:
                return DropReason.STAMP_IN_FUTURE
        if (
            others is not None
            and (others.streams > 1 or not self.knows_its_delay)
            and delay < others.least_ns - FAR_LIMIT_NS
        ):
            return DropReason.STAMP_IN_FUTURE
        if (
            self._distrust is not None
            and self._home_lateness_ns is not None
            and others is not None
            and abs(delay - others.latest_ns - self._home_lateness_ns) > BACK_LIMIT_NS
            # One that was late when its stamps jumped may come back punctual.
            and abs(delay - others.latest_ns) > BACK_LIMIT_NS
        ):
            return self._distrust
        return None

    def suspect(self, reason: DropReason, stamp_ns: int, now_ns: int) -> int:
        """Note an unbelievable stamp; return how many in a row have told this same other time."""
        delay = now_ns - stamp_ns
        last = self.suspicion
        if last is not None and abs(delay - last.delay_ns) <= BACK_LIMIT_NS:
            last.stamp_ns, last.delay_ns, last.count = stamp_ns, delay, last.count + 1
        else:
            last = self.suspicion = _Suspicion(reason, stamp_ns, delay)
        self._consistent = 0
        return last.count

    def distrust(self, others: OthersDelay | None) -> None:
        """Quarantine the stream for its stamps, until they fit its former lateness again."""
        if self.suspicion is None:
            return
        if self._distrust is None:
            self._distrust = self.suspicion.reason
        if others is None or (self._home_lateness_ns, self._clock_apart_ns) != (None, None):
            return  # where they are not known yet, a later message tells
        delay = self.suspicion.delay_ns
        if self.knows_its_delay and abs(delay - self._delays[-1]) > BACK_LIMIT_NS:
            self._home_lateness_ns = self._delays[-1] - others.latest_ns
        else:
            # Its stamps have not jumped, so they have no home to come back to: the clock is another.
            self._clock_apart_ns = delay - others.latest_ns

    @property
    def is_distrusted(self) -> bool:
        return self._distrust is not None

    @property
    def knows_its_delay(self) -> bool:
        return len(self._delays) >= MIN_SAMPLES

    def clear_suspicion(self) -> bool:
        """Note a believable stamp; return whether the stream is to be believed again."""
        self.suspicion = None
        if self._distrust is None:
            return True
        self._consistent += 1
        if self._consistent < CONFIRMATIONS:
            return False
        self._distrust = None
        self._clock_apart_ns = None
        self._home_lateness_ns = None
        self._forget_delays()
        return True

    def adopt_suspected_time(self) -> None:
        """Believe the time that the suspicious messages told."""
        suspicion = self.suspicion
        assert suspicion is not None
        self.forget_time()
        # Seeded, so that a straggler with the old time is recognised at once.
        self._delays.extend([suspicion.delay_ns] * MIN_SAMPLES)

    def accept(self, stamp_ns: int, now_ns: int) -> None:
        """Learn from a believable message."""
        if self._was_away:
            # After an outage the sensor, the network or the replay may be another.
            self._forget_delays()
        self.accepted_ns = now_ns
        self._messages_since += 1
        if self.newest_ns is None:
            self.newest_ns = stamp_ns
        elif stamp_ns > self.newest_ns:
            # Lateness counts from the stamp that was to be expected: a stamp that jitters later
            # than that must be awaited for just as long as a message that travels longer.
            interval, period = stamp_ns - self.newest_ns, self.period_ns()
            overrun = 0 if period is None else interval - max(round(interval / period), 1) * period
            self._lateness.append(now_ns - stamp_ns + overrun)
            self._late_bound = None
            self._intervals.append(interval)
            self.newest_ns = stamp_ns
            self._note_interval()
        self._delays.append(now_ns - stamp_ns)

    def reject(self, reason: DropReason) -> None:
        """Count a message that was refused on arrival."""
        self.counters.rejected += 1
        self._last_reject = reason

    # --- what to expect -----------------------------------------------------------------------

    @staticmethod
    def _typical(values: Sequence[int]) -> int:
        return sorted(values)[len(values) // 2]

    def period_ns(self) -> int | None:
        """Usual distance between two stamps: the median learned, else the expected rate's."""
        if len(self._intervals) >= MIN_SAMPLES - 1:
            return max(self._typical(self._intervals), 1)
        return self._expected_period_ns()

    def _expected_period_ns(self) -> int | None:
        """Of the expected rate; None if none is given."""
        rate_hz = self.config.expected_rate_hz
        return None if rate_hz is None else max(round(NS_PER_S / rate_hz), 1)

    def lateness_ns(self) -> tuple[int, int] | None:
        """(typical, bound) of receipt minus expected stamp: the median, and what nearly all keep.

        The bound is the greatest of the last 32 but one (a single straggler teaches nothing) plus
        twice its distance to the median, plus 2 ms: generous, since a wait ends with the
        arrival, so that the bound costs time only where a message is lost. None until enough is
        known.
        """
        if len(self._lateness) < LATENESS_SAMPLES:
            return None
        if self._late_bound is None:
            ordered = sorted(self._lateness)
            typical = ordered[len(ordered) // 2]
            high = ordered[-2] if len(ordered) == WINDOW else ordered[-1]
            self._late_bound = typical, high + 2 * (high - typical) + to_ns(0.002)
        return self._late_bound

    def overdue_ns(self, wait_ns: int) -> int | None:
        """Receipt time from which the next message is overdue, so that another may lead meanwhile.

        That is 2.5 periods after the last believable one, and ``wait_ns`` after all but the longest
        of its last pauses; later by as much as the stream is always behind the others, since the
        output would have to wait for its stamps by so much when it is back. None while the period is
        not known, or is none: packets of an event camera may be sent when they are full.
        """
        if self.accepted_ns is None or not self._has_period():
            return None
        if self._silence is None:
            pauses = [b - a for a, b in pairwise(self._receipts)]
            # Receipts are further apart than stamps where a recording plays slower than time.
            period = max(self._typical(self._intervals), self._typical(pauses))
            self._silence = (
                round(PACE_FACTOR * period),
                sorted(pauses[-PAUSES:])[-2],
                max(min(self._behind, default=0), 0),
            )
        periods, pause, behind = self._silence
        return self.accepted_ns + max(periods, pause + wait_ns) + behind

    def _has_period(self) -> bool:
        if self.config.windowed and self.config.expected_rate_hz is None:
            return False
        return len(self._intervals) >= MIN_SAMPLES - 1 and len(self._receipts) >= MIN_SAMPLES

    def worth_waiting_until_ns(self, anchor_ns: int, latest_ns: int) -> int | None:
        """Receipt time until which a better message for ``anchor_ns`` may be awaited.

        None: nothing better than what is in hand is to be expected by ``latest_ns``.
        """
        newest = self.newest_ns
        if newest is not None and newest >= anchor_ns:
            return None
        period = self.period_ns()
        if newest is None or period is None:
            return latest_ns
        ahead = anchor_ns - newest
        if self.config.windowed:
            steps = most = -(-ahead // period)  # to the packet that covers the anchor
        else:
            steps = most = (2 * ahead + period - 1) // (2 * period)  # to the nearest message
            if ahead > self.tolerance_ns:
                # Nothing in hand matches. If the nearest is lost, the last that could match is
                # still worth waiting for. A tenth of a period of slack: stamps jitter.
                most = (ahead + self.tolerance_ns + period // 10) // period
                steps = max(steps, 1)
        lateness = self.lateness_ns()
        if lateness is not None:
            # What is habitually later than the wait is used at its age, not awaited.
            most = min(most, (latest_ns - lateness[0] - newest) // period)
        if most < max(steps, 1):
            return None
        if lateness is None:
            return latest_ns
        return min(newest + most * period + lateness[1], latest_ns)
