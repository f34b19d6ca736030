"""One stream: its state, its rate, its usual lateness."""

from __future__ import annotations

import pytest
from sync_reference import MS, S

from anyseg_ros.sync import StreamConfig, StreamState
from anyseg_ros.sync.streams import OthersDelay, Stream


def stream(**changes):
    return Stream(
        StreamConfig(**{"timeout_s": 0.5, "tolerance_s": 0.05, "max_age_s": 0.3, **changes})
    )


def feed(s, stamps_ms, late_ms=10):
    for stamp in stamps_ms:
        now = (stamp + late_ms) * MS
        s.hear(now)
        s.accept(stamp * MS, now)


def test_states_follow_receipt_time():
    s = stream()
    assert s.state(0) is StreamState.WAITING
    feed(s, [0])
    assert s.state(510 * MS) is StreamState.LIVE
    assert s.state(510 * MS + 1) is StreamState.DROPPED
    assert s.expires_ns() == 510 * MS + 1
    assert s.status(1010 * MS).reason == "silent for 1.0 s"


def test_arriving_without_being_believable_is_quarantine():
    s = stream()
    feed(s, [0])
    s.hear(400 * MS)
    assert s.state(600 * MS) is StreamState.QUARANTINED


def test_rate_falls_in_silence_and_ignores_the_outage_after_it():
    s = stream()
    feed(s, range(0, 2000, 100))
    assert s.rate_hz(1910 * MS) == pytest.approx(10)
    assert s.rate_hz(2000 * MS) == pytest.approx(10)
    assert 5 < s.rate_hz(2910 * MS) < 9
    assert s.rate_hz(60 * S) == 0
    feed(s, range(60_000, 60_500, 50))
    assert s.rate_hz(60_460 * MS) == pytest.approx(20)


def test_lateness_bound_covers_the_usual_not_the_single_straggler():
    s = stream()
    feed(s, range(0, 4000, 100), late_ms=20)
    feed(s, [4000], late_ms=400)
    feed(s, [4100], late_ms=24)
    typical, bound = s.lateness_ns()
    assert typical == 20 * MS
    assert 24 * MS <= bound <= 34 * MS


def test_lateness_counts_from_the_expected_stamp():
    """Stamps that jitter by 8 ms are awaited 8 ms longer, a lost message is no lateness."""
    s = stream()
    feed(s, [*range(0, 1000, 100), *range(1108, 1900, 100)], late_ms=20)
    feed(s, [2200, 2308, 2400, 2508], late_ms=20)
    typical, bound = s.lateness_ns()
    assert typical == 20 * MS
    assert 28 * MS <= bound <= 46 * MS


def test_period_is_the_median_and_before_that_the_expected_one():
    s = stream(expected_rate_hz=20)
    assert s.period_ns() == 50 * MS
    feed(s, [0, 100, 200, 500, 600, 700])
    assert s.period_ns() == 100 * MS
    assert stream().period_ns() is None


def test_a_stream_punctual_again_is_not_from_the_future():
    s = stream()
    feed(s, range(0, 4000, 100), late_ms=400)
    others = OthersDelay(least_ns=10 * MS, latest_ns=15 * MS)
    assert s.judge(4500 * MS, 4510 * MS, others, None) is None
    assert s.judge(4500 * MS, 4510 * MS, None, None) is not None
