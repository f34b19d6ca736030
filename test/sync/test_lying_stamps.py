"""Stamps that jump, lie or repeat: who is believed, and that the output goes on."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import pytest
from sync_reference import RIG, Arrival, Player, S, make_arrivals, rig_config

from anyseg_ros.modality import MODALITIES
from anyseg_ros.sync import DropReason, StreamState, steady_clock

CAMERA, DEPTH, EVENT, LIDAR = MODALITIES


def shift(arrivals, keys, from_s, to_s, by_s):
    """Add ``by_s`` to the stamps of some streams that arrive in a stretch of receipt time."""
    return [
        Arrival(a.receipt_ns, a.key, a.stamp_ns + round(by_s * S))
        if a.key in keys and from_s <= a.receipt_ns / S - 50 < to_s
        else a
        for a in arrivals
    ]


def longest_gap_s(outputs, after_s=1.0):
    times = [o.now_ns / S for o in outputs if o.now_ns / S - 50 > after_s]
    return max(b - a for a, b in itertools.pairwise(times))


@pytest.mark.parametrize("by_s", [-1e9, -30.0, -0.6, 0.3, 5.0, 1e9])
@pytest.mark.parametrize("key", MODALITIES, ids=lambda m: m.label)
def test_one_wild_stamp_costs_one_message(key, by_s):
    arrivals = make_arrivals(RIG, 6.0)
    wild = next(i for i, a in enumerate(arrivals) if a.key is key and a.receipt_ns > 53 * S)
    a = arrivals[wild]
    arrivals[wild] = Arrival(a.receipt_ns, key, a.stamp_ns + round(by_s * S))
    player = Player(rig_config(), believable=False)
    outputs = player.play(arrivals)
    refused = [d for d in player.dropped if d[1] == arrivals[wild].stamp_ns]
    assert [d[0] for d in refused] == [key]
    assert {o.matched.epoch for o in outputs} == {0}
    assert longest_gap_s(outputs) < 0.25
    assert player.sync.counters[key].rejected == 1
    player.check_books()


@pytest.mark.parametrize("by_s", [-30.0, 30.0])
def test_one_wild_stamp_of_the_only_stream_is_not_time_itself(by_s):
    arrivals = make_arrivals({LIDAR: RIG[LIDAR]}, 6.0)
    a = arrivals[30]
    arrivals[30] = Arrival(a.receipt_ns, LIDAR, a.stamp_ns + round(by_s * S))
    player = Player(rig_config(), believable=False)
    outputs = player.play(arrivals)
    assert len(outputs) == len(arrivals) - 1
    assert {o.matched.epoch for o in outputs} == {0}


@pytest.mark.parametrize("by_s", [-20.0, -1.0, 0.5, 20.0])
@pytest.mark.parametrize("key", MODALITIES, ids=lambda m: m.label)
def test_a_lone_stream_that_jumps_is_quarantined_and_released(key, by_s):
    arrivals = shift(make_arrivals(RIG, 9.0), {key}, 3.0, 6.0, by_s)
    player = Player(rig_config(), believable=False)
    player.play([a for a in arrivals if a.receipt_ns < 54 * S])
    status = player.sync.status(54 * S)
    assert status[key].state is StreamState.QUARANTINED
    expected = DropReason.STAMP_JUMPED_BACK if by_s < 0 else DropReason.STAMP_IN_FUTURE
    assert status[key].reason == expected.value
    assert all(status[m].state is StreamState.LIVE for m in MODALITIES if m is not key)
    outputs = player.play([a for a in arrivals if a.receipt_ns >= 54 * S])
    for o in outputs:
        if 53.4 < o.now_ns / S < 56:
            assert set(o.matched.members) == set(MODALITIES) - {key}
        if o.now_ns / S > 57:
            assert set(o.matched.members) == set(MODALITIES)
            assert o.matched.anchor is CAMERA
    assert {o.matched.epoch for o in outputs} == {0}
    assert longest_gap_s(outputs) < 0.75


@pytest.mark.parametrize("alive", [(CAMERA,), (EVENT,), (CAMERA, LIDAR), MODALITIES])
def test_a_looping_bag_on_a_steady_clock_starts_an_epoch(alive):
    """All stamps jump back while receipt time runs on."""
    rig = {m: RIG[m] for m in alive}
    loop = make_arrivals(rig, 4.0)
    again = [Arrival(a.receipt_ns + 4 * S, a.key, a.stamp_ns) for a in loop]
    player = Player(rig_config(), believable=False)
    outputs = player.play(loop + again)
    assert {o.matched.epoch for o in outputs} == {0, 1}
    assert longest_gap_s(outputs) < 0.7
    assert set(outputs[-1].matched.members) == set(alive)
    player.check_books()


def test_a_looping_bag_under_sim_time_starts_an_epoch():
    """The receipt clock jumps back together with the stamps."""
    loop = make_arrivals(RIG, 4.0)
    player = Player(rig_config(), believable=False)
    first = len(player.play(loop))
    for a in loop:
        player.add(a)
    second = player.outputs[first:]
    assert {o.matched.epoch for o in second} == {1}
    assert second[0].now_ns / S < 50.2
    assert set(second[-1].matched.members) == set(MODALITIES)


def test_the_receipt_clock_jumping_back_is_a_new_epoch_at_once():
    loop = make_arrivals(RIG, 4.0)
    player = Player(rig_config(), believable=False)
    player.play(loop)
    player.add(next(a for a in loop if a.key is CAMERA))
    assert player.sync.epoch == 1
    assert player.sync.buffered == {CAMERA: 1, DEPTH: 0, EVENT: 0, LIDAR: 0}
    # What was alive before has its timeout, counted on the new clock, to come back.
    assert player.sync.status(50_300 * 10**6)[LIDAR].state is StreamState.LIVE
    assert player.sync.status(50_600 * 10**6)[LIDAR].state is StreamState.DROPPED


@pytest.mark.parametrize("by_s", [-3600, 3600])
def test_an_established_liar_yields_to_a_majority(by_s):
    """The camera's clock is wrong, and it was there first."""
    arrivals = shift(make_arrivals(RIG, 7.0), {CAMERA}, 0, 99, by_s)
    arrivals = [a for a in arrivals if a.key is CAMERA or a.receipt_ns > 52 * S]
    player = Player(rig_config(), believable=False)
    outputs = player.play(arrivals)
    assert player.sync.status(57 * S)[CAMERA].state is StreamState.QUARANTINED
    assert set(outputs[-1].matched.members) == {DEPTH, EVENT, LIDAR}
    assert outputs[-1].now_ns > 56.8 * S
    assert longest_gap_s(outputs) < 0.5


def test_a_majority_decides_what_time_it_is():
    """Three of four jump back: the fourth is the one that is wrong."""
    arrivals = shift(make_arrivals(RIG, 7.0), {CAMERA, EVENT, LIDAR}, 3.0, 99, -10)
    player = Player(rig_config(), believable=False)
    outputs = player.play(arrivals)
    assert {o.matched.epoch for o in outputs} == {0, 1}
    assert player.sync.status(57 * S)[DEPTH].state is StreamState.QUARANTINED
    assert set(outputs[-1].matched.members) == {CAMERA, EVENT, LIDAR}
    assert longest_gap_s(outputs) < 0.5


def late(arrivals, key, from_s, to_s, by_s):
    """Delay what a stream sends in a stretch of time."""
    moved = [
        Arrival(a.receipt_ns + round(by_s * S), a.key, a.stamp_ns)
        if a.key is key and from_s <= a.receipt_ns / S - 50 < to_s
        else a
        for a in arrivals
    ]
    return sorted(moved, key=lambda a: a.receipt_ns)


@pytest.mark.parametrize("keys", [(CAMERA, LIDAR), MODALITIES], ids=len)
def test_who_was_late_when_its_stamps_jumped_may_come_back_punctual(keys):
    """An overloaded LiDAR restarts, and tells atomic time until its clock is set."""
    arrivals = make_arrivals({key: RIG[key] for key in keys}, 30.0)
    arrivals = shift(arrivals, {LIDAR}, 10, 13, -37)
    player = Player(rig_config(), believable=False)
    outputs = player.play(late(arrivals, LIDAR, 5, 13, 0.7))
    assert player.sync.status(80 * S)[LIDAR].state is StreamState.LIVE
    last = [o for o in outputs if o.now_ns > 75 * S]
    assert sum(LIDAR in o.matched.members for o in last) > 0.9 * len(last)


@pytest.mark.parametrize("keys", [(CAMERA, LIDAR), MODALITIES], ids=len)
def test_a_host_clock_that_is_wrong_for_a_moment_costs_no_stream(keys):
    arrivals = make_arrivals({key: RIG[key] for key in keys}, 20.0)
    player = Player(rig_config(), believable=False)
    outputs = player.play(shift(arrivals, set(keys), 10, 10.3, 0.6))
    last = [o for o in outputs if o.now_ns > 65 * S]
    assert all(CAMERA in o.matched.members for o in last) and len(last) > 40


def test_half_is_no_majority():
    arrivals = shift(make_arrivals(RIG, 7.0), {CAMERA, DEPTH}, 3.0, 99, -10)
    player = Player(rig_config(), believable=False)
    outputs = player.play(arrivals)
    assert {o.matched.epoch for o in outputs} == {0}
    assert set(outputs[-1].matched.members) == {EVENT, LIDAR}


def test_time_stepping_forward_needs_no_epoch():
    arrivals = shift(make_arrivals(RIG, 7.0), set(MODALITIES), 3.0, 99, 100)
    player = Player(rig_config(), believable=False)
    outputs = player.play(arrivals)
    assert {o.matched.epoch for o in outputs} == {0}
    assert set(outputs[-1].matched.members) == set(MODALITIES)
    assert longest_gap_s(outputs) < 0.5


def test_a_stream_whose_clock_is_wrong_from_the_start_is_quarantined():
    for by_s in (-3600, 3600):
        arrivals = shift(make_arrivals(RIG, 5.0), {CAMERA}, 0, 99, by_s)
        player = Player(rig_config(), believable=False)
        outputs = player.play(arrivals)
        status = player.sync.status(55 * S)[CAMERA]
        assert status.state is StreamState.QUARANTINED
        side = "behind" if by_s < 0 else "ahead of"
        assert f"3600.0 s {side} the others" in status.reason
        assert "timestamp mode" in status.reason
        assert set(outputs[-1].matched.members) == {DEPTH, EVENT, LIDAR}
        assert outputs[-1].now_ns > 54.8 * S


@pytest.mark.parametrize("wrong", [CAMERA, LIDAR])
@pytest.mark.parametrize("by_s", [-3600, 3600])
def test_of_two_that_contradict_the_one_near_receipt_time_is_right(wrong, by_s):
    rig = {CAMERA: RIG[CAMERA], LIDAR: RIG[LIDAR]}
    arrivals = make_arrivals(rig, 5.0, origin_ns=50 * S)  # one clock for stamps and receipt
    player = Player(rig_config(), believable=False)
    outputs = player.play(shift(arrivals, {wrong}, 0, 99, by_s))
    (right,) = {CAMERA, LIDAR} - {wrong}
    assert set(outputs[-1].matched.members) == {right}
    assert player.sync.status(55 * S)[wrong].state is StreamState.QUARANTINED


@pytest.mark.parametrize("wrong", [CAMERA, LIDAR])
@pytest.mark.parametrize("right_hz", [4, 5, 10, 30])
@pytest.mark.parametrize("by_s", [-1_000_000, 37])
def test_a_slow_sensor_is_believed_against_a_fast_one_with_another_clock(wrong, right_hz, by_s):
    """Whoever begins, and however its messages fall: a LiDAR on atomic time, or on its uptime."""
    (right,) = {CAMERA, LIDAR} - {wrong}
    for late_ms in range(-1000, 1001, 100):
        now = steady_clock()()
        rig = {
            wrong: replace(RIG[wrong], latency_ms=80, phase_ms=max(late_ms, 0)),
            right: replace(RIG[right], period_ms=1000 / right_hz, phase_ms=max(-late_ms, 0)),
        }
        arrivals = make_arrivals(rig, 12.0, seed=late_ms, origin_ns=now, clock_ns=now)
        told = [
            Arrival(a.receipt_ns, a.key, a.stamp_ns + (by_s * S if a.key is wrong else 0))
            for a in arrivals
        ]
        player = Player(rig_config(), believable=False)
        outputs = player.play(told)
        late = [o.matched for o in outputs if o.now_ns > now + 6 * S]
        assert late and {m.anchor for m in late} == {right}, late_ms
        assert player.sync.epoch <= 1, late_ms
        status = player.sync.status(now + 12 * S)[wrong]
        assert status.state is StreamState.QUARANTINED, late_ms
        side = "behind" if by_s < 0 else "ahead of"
        assert f"{side} the others" in status.reason and "timestamp mode" in status.reason, late_ms


def test_a_sensor_with_its_own_clock_that_was_there_first_yields_to_the_right_one():
    rig = {CAMERA: RIG[CAMERA], LIDAR: RIG[LIDAR]}
    now = steady_clock()()
    arrivals = make_arrivals(rig, 5.0, origin_ns=now, clock_ns=now)
    lidar_alone = [a for a in arrivals if a.key is LIDAR or a.receipt_ns > now + 2 * S]
    since_boot = [
        Arrival(a.receipt_ns, a.key, a.stamp_ns - (now - 100 * S)) if a.key is LIDAR else a
        for a in lidar_alone
    ]
    player = Player(rig_config(), believable=False)
    outputs = player.play(since_boot)
    assert set(outputs[0].matched.members) == {LIDAR}
    assert set(outputs[-1].matched.members) == {CAMERA}
    status = player.sync.status(now + 5 * S)
    assert status[CAMERA].state is StreamState.LIVE
    assert status[LIDAR].state is StreamState.QUARANTINED
    assert "timestamp mode" in status[LIDAR].reason
    # The driver is told to use the host's time.
    remedied = [Arrival(a.receipt_ns + 5 * S, a.key, a.stamp_ns + 5 * S) for a in arrivals]
    player.play(remedied)
    assert player.sync.status(now + 10 * S)[LIDAR].state is StreamState.LIVE
    assert set(outputs[-1].matched.members) == {CAMERA, LIDAR}


def test_the_steady_clock_goes_on_when_the_systems_time_is_set(monkeypatch):
    clock = steady_clock()
    before = clock()
    assert abs(before - time.time_ns()) < 10 * S
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    assert 0 <= clock() - before < 10 * S


def test_a_wild_first_stamp_does_not_stall_the_stream():
    for key in MODALITIES:
        arrivals = make_arrivals(RIG, 5.0)
        first = next(i for i, a in enumerate(arrivals) if a.key is key)
        arrivals[first] = Arrival(
            arrivals[first].receipt_ns, key, arrivals[first].stamp_ns + 100 * S
        )
        player = Player(rig_config(), believable=False)
        outputs = player.play(arrivals)
        complete = [o for o in outputs if set(o.matched.members) == set(MODALITIES)]
        assert complete[0].now_ns < 51.5 * S, key
        assert complete[-1].now_ns > 54.8 * S


def test_a_frozen_stamp_is_no_life():
    frozen = next(a for a in make_arrivals(RIG, 5.0) if a.key is CAMERA and a.receipt_ns > 52 * S)
    arrivals = [
        Arrival(a.receipt_ns, a.key, frozen.stamp_ns)
        if a.key is CAMERA and a.receipt_ns > 52 * S
        else a
        for a in make_arrivals(RIG, 5.0)
    ]
    player = Player(rig_config(), believable=False)
    outputs = player.play(arrivals)
    status = player.sync.status(55 * S)[CAMERA]
    assert (status.state, status.reason) == (StreamState.QUARANTINED, "stamp seen before")
    assert outputs[-1].matched.anchor is DEPTH
    assert longest_gap_s(outputs) < 0.75


def test_a_paused_replay_on_a_steady_clock_goes_on():
    """Stamps stand still while receipt time runs: all dropped, then used again at once."""
    arrivals = [
        Arrival(a.receipt_ns + (60 * S if a.receipt_ns > 56 * S else 0), a.key, a.stamp_ns)
        for a in make_arrivals(RIG, 9.0)
    ]
    outputs = Player(rig_config(), believable=False).play(arrivals)
    again = [o for o in outputs if o.now_ns > 110 * S]
    assert again[0].now_ns < 116.2 * S
    # What was usual before the pause says nothing now: scans 37 ms younger are awaited at once.
    assert all(o.matched.members[LIDAR].age_s < 0 for o in again[1:])
    assert set(again[-1].matched.members) == set(MODALITIES)
    assert {o.matched.epoch for o in outputs} == {0}


@pytest.mark.parametrize("speed", [0.25, 3.0])
def test_replay_at_another_speed_on_a_steady_clock(speed):
    base = 50 * S
    arrivals = [
        Arrival(base + round((a.receipt_ns - base) / speed), a.key, a.stamp_ns)
        for a in make_arrivals(RIG, 8.0)
    ]
    player = Player(rig_config(timeout_s=1.0), believable=False)
    outputs = player.play(arrivals)
    assert len(outputs) > 70
    assert all(c.rejected == 0 for c in player.sync.counters.values())


@pytest.mark.parametrize("by_s", [-0.4, -1.5])
@pytest.mark.parametrize("key", MODALITIES[1:], ids=lambda m: m.label)
def test_a_live_stream_that_no_set_can_use_is_told(key, by_s):
    player = Player(rig_config(), believable=False)
    arrivals = shift(make_arrivals(RIG, 8.0), [key], 0, 99, by_s)
    outputs = player.play([a for a in arrivals if a.receipt_ns <= 56 * S])
    assert not any(key in o.matched.members for o in outputs if o.now_ns > 51 * S)
    statuses = player.sync.status(56 * S)
    assert statuses[key].state is StreamState.LIVE
    assert statuses[key].detail.startswith("in none of the last ")
    assert statuses[key].detail.endswith(" s older than the set")
    assert statuses[key].clock_apart_s == pytest.approx(-by_s, abs=0.1)
    assert {(s.detail, s.clock_apart_s) for k, s in statuses.items() if k is not key} == {
        ("", None)
    }

    player.configs = rig_config(max_age_s=2.0)
    player.sync.configure(player.configs, player.max_wait_s)
    player.play([a for a in arrivals if a.receipt_ns > 56 * S])
    status = player.sync.status(57 * S)[key]
    assert (status.detail, status.clock_apart_s) == ("", None)


@pytest.mark.parametrize("by_s", [0.4, 1.5])
def test_an_anchor_whose_clock_is_ahead_is_told_to_lead_alone(by_s):
    player = Player(rig_config(), believable=False)
    player.play(shift(make_arrivals(RIG, 6.0), [CAMERA], 0, 99, by_s))
    statuses = player.sync.status(56 * S)
    assert statuses[CAMERA].detail.startswith("leads alone: its stamps are ")
    assert statuses[CAMERA].detail.endswith(" s ahead of the others'")
    assert statuses[CAMERA].clock_apart_s == pytest.approx(-by_s, abs=0.1)
    for key in (DEPTH, EVENT, LIDAR):
        assert statuses[key].detail.startswith("in none of the last ")
        assert statuses[key].clock_apart_s is None


@pytest.mark.parametrize("key", MODALITIES, ids=lambda m: m.label)
def test_a_clock_ahead_of_all_others_is_no_better_for_having_been_there_first(key):
    late = [a for a in make_arrivals(RIG, 6.0) if a.key is key or a.receipt_ns > 51 * S]
    player = Player(rig_config(), believable=False)
    outputs = player.play(shift(late, [key], 0, 99, 3.0))
    status = player.sync.status(56 * S)[key]
    assert status.state is StreamState.QUARANTINED
    assert "ahead of the others" in status.reason
    assert status.clock_apart_s == pytest.approx(-3.0, abs=0.1)
    for output in outputs:
        if output.now_ns > 53 * S:
            assert set(output.matched.members) == set(MODALITIES) - {key}
