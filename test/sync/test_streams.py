"""One stream: its state, its rate, its usual lateness."""

from __future__ import annotations

import pytest
from sync_reference import MS, S

from anyseg_ros.sync import DropReason, StreamConfig, StreamState
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


def test_a_stream_that_is_rarer_than_its_timeout_is_told_so():
    s = stream()
    feed(s, range(0, 2000, 400))
    feed(s, [3000, 3800])
    assert s.status(3900 * MS).detail == ""
    feed(s, range(4600, 10_000, 800))
    told = "a message every 0.80 s, rarer than its timeout of 0.50 s: raise that"
    for now, state in ((9500, StreamState.LIVE), (10_200, StreamState.DROPPED)):
        status = s.status(now * MS)
        assert (status.state, status.detail) == (state, told)
        assert status.rate_hz == pytest.approx(1.25)
    dead = s.status(12_000 * MS)
    assert (dead.state, dead.detail) == (StreamState.DROPPED, "")
    feed(s, [12_000, 12_400])
    assert s.status(12_500 * MS).detail == ""
    assert s.status(12_500 * MS).rate_hz == pytest.approx(2.5)


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


def test_a_rate_is_that_of_the_last_five_seconds():
    s = stream(timeout_s=2.0)
    feed(s, [*range(0, 20_000, 1000), *range(20_000, 25_250, 250)])
    assert s.rate_hz(25_010 * MS) == pytest.approx(4, rel=0.05)


def test_overdue_forgives_one_long_pause_and_follows_the_pace():
    s = stream(timeout_s=2.0)
    feed(s, [0, 100, 200, 550, 650, 750])
    assert s.overdue_ns(100 * MS) == (760 + 250) * MS
    feed(s, range(1150, 5000, 400))
    assert s.overdue_ns(100 * MS) == (4750 + 10 + 1000) * MS


def test_what_is_far_from_the_output_or_the_others_is_not_believed():
    s = stream()
    others = OthersDelay(least_ns=10 * MS, latest_ns=500 * MS)
    far_behind, future = DropReason.STAMP_FAR_BEHIND, DropReason.STAMP_IN_FUTURE
    assert s.judge(0, 10 * MS, None, 2 * S) is None
    assert s.judge(0, 10 * MS, None, 2 * S + 1) is far_behind
    assert s.judge(0, 2500 * MS, others, None) is None, "as late as the others are now, and 2 s"
    assert s.judge(0, 2500 * MS + 1, others, None) is far_behind
    assert s.judge(1990 * MS, 0, others, None) is None
    assert s.judge(1990 * MS + 1, 0, others, None) is future


def test_the_delays_told_to_others_are_the_least_and_the_latest():
    s = stream()
    for stamp, late in enumerate((30, 20, 90, 40)):
        assert s.delays_ns() is None
        feed(s, [100 * stamp], late)
    assert s.delays_ns() == (20 * MS, 40 * MS)


def test_three_stamps_in_a_row_must_fit_again():
    s = stream()
    feed(s, range(0, 1000, 100))
    others = OthersDelay(least_ns=10 * MS, latest_ns=10 * MS)

    def lie():
        s.suspect(DropReason.STAMP_JUMPED_BACK, -20 * S, 1010 * MS)
        s.distrust(others)

    lie()
    assert [s.clear_suspicion() for _ in range(2)] == [False, False]
    lie()
    assert [s.clear_suspicion() for _ in range(3)] == [False, False, True]
    assert not s.is_distrusted and s.clear_suspicion()


def test_who_is_quarantined_by_the_caller_has_no_say_in_what_time_it_is():
    s = stream()
    feed(s, [0])
    assert s.votes(400 * MS) and not s.votes(600 * MS)
    s.quarantine_reason = "frozen"
    assert not s.votes(400 * MS)


def test_only_stamps_that_tell_the_same_other_time_confirm_each_other():
    s = stream()
    reason = DropReason.STAMP_JUMPED_BACK
    assert [s.suspect(reason, 0, delay_s * S) for delay_s in (10, 11, 12)] == [1, 1, 1]
    assert [s.suspect(reason, 0, 12 * S + late * MS) for late in (400, 100)] == [2, 3]


def test_a_jump_after_a_clock_was_set_right_is_told_as_what_it_is():
    s = stream()
    others = OthersDelay(least_ns=10 * MS, latest_ns=10 * MS)

    def lie(reason, behind_s, now_ms):
        s.hear(now_ms * MS)
        s.suspect(reason, now_ms * MS - behind_s * S, now_ms * MS)
        s.distrust(others)
        return s.status(now_ms * MS).reason

    assert "3600.0 s behind the others" in lie(DropReason.STAMP_FAR_BEHIND, 3600, 10)
    for stamp in range(100, 1000, 100):
        if s.clear_suspicion():
            feed(s, [stamp])
    assert s.state(910 * MS) is StreamState.LIVE
    assert lie(DropReason.STAMP_JUMPED_BACK, 20, 1010) == "stamp jumped back"
