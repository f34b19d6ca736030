"""Sensors cut and restored, each and in pairs, at realistic rates: gaps, used sets, returns."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from sync_reference import MS, RIG, Player, S, Sensor, make_arrivals, rig_config

from anyseg_ros.modality import MODALITIES, Modality, subset_name
from anyseg_ros.sync import StreamState

CUT_S, BACK_S, END_S = 3.0, 5.5, 8.0
CLOCK_S = 50
TIMEOUT_S = 0.5

CUTS = [c for size in (1, 2, 3) for c in combinations(MODALITIES, size)]


def play_cut(cut, seed=1):
    arrivals = make_arrivals(RIG, END_S, {key: [(CUT_S, BACK_S)] for key in cut}, seed)
    player = Player(rig_config())
    player.play(arrivals)
    return player, [((o.now_ns / S) - CLOCK_S, o.matched) for o in player.outputs]


@pytest.mark.parametrize("cut", CUTS, ids=subset_name)
def test_output_goes_on_after_a_cut(cut):
    player, outputs = play_cut(cut)
    remaining = min(m for m in MODALITIES if m not in cut)
    period_s = RIG[remaining].period_ms / 1000
    times = [t for t, _ in outputs if t > 1]
    worst = max(b - a for a, b in pairwise(times))
    assert worst <= TIMEOUT_S + 2 * period_s
    assert times[-1] > END_S - 0.2
    player.check_books()


@pytest.mark.parametrize("cut", CUTS, ids=subset_name)
def test_used_set_is_right_within_the_timeout(cut):
    _, outputs = play_cut(cut)
    settled = [m for t, m in outputs if CUT_S + TIMEOUT_S + 0.03 < t < BACK_S]
    assert settled
    for matched in settled:
        assert set(matched.members) == set(MODALITIES) - set(cut)
        assert matched.anchor is min(m for m in MODALITIES if m not in cut)
    for matched in (m for t, m in outputs if 1 < t < CUT_S):
        assert set(matched.members) == set(MODALITIES)


@pytest.mark.parametrize("cut", CUTS, ids=subset_name)
def test_returning_streams_are_used_again_within_a_second(cut):
    _, outputs = play_cut(cut)
    for t, matched in outputs:
        if t > BACK_S + 1:
            assert set(matched.members) == set(MODALITIES)
            assert matched.anchor is Modality.CAMERA
    stamps = [m.stamp_ns for _, m in outputs]
    assert stamps == sorted(set(stamps))
    assert {m.epoch for _, m in outputs} == {0}


@pytest.mark.parametrize("only", MODALITIES, ids=lambda m: m.label)
def test_one_sensor_alone_gives_a_set_a_message(only):
    arrivals = make_arrivals({only: RIG[only]}, 5.0)
    player = Player(rig_config())
    outputs = player.play(arrivals)
    assert [o.matched.stamp_ns for o in outputs] == [a.stamp_ns for a in arrivals]
    # Nothing is awaited from sensors that never spoke.
    assert [o.now_ns for o in outputs] == [a.receipt_ns for a in arrivals]


@pytest.mark.parametrize("key", MODALITIES, ids=lambda m: m.label)
def test_flapping_misses_no_recovery(key):
    cuts = {key: [(t, t + 0.8) for t in range(1, 20, 2)]}
    outputs = Player(rig_config()).play(make_arrivals(RIG, 21.0, cuts))
    for start in range(1, 20, 2):
        again = [
            o.now_ns / S - CLOCK_S - start - 0.8
            for o in outputs
            if key in o.matched.members and o.now_ns / S - CLOCK_S > start + 0.8
        ]
        assert min(again) < 0.3


def test_all_cut_then_back():
    cuts = {key: [(2.0, 4.0)] for key in MODALITIES}
    player = Player(rig_config())
    outputs = player.play(make_arrivals(RIG, 6.0, cuts))
    assert player.sync.anchor is Modality.CAMERA
    during = [o for o in outputs if 52.6 < o.now_ns / S < 54]
    assert not during
    assert set(outputs[-1].matched.members) == set(MODALITIES)
    assert outputs[-1].matched.epoch == 0


def test_a_cut_stream_is_awaited_no_longer_than_it_is_usually_late():
    """Between the cut and its timeout the others are not held up to max_wait."""
    arrivals = make_arrivals(RIG, 6.0, {Modality.DEPTH: [(3.0, 6.0)]})
    player = Player(rig_config(timeout_s=2.0), max_wait_s=0.2)
    outputs = player.play(arrivals)
    waits = [
        o.now_ns - player.delivered[Modality.CAMERA, o.matched.stamp_ns]
        for o in outputs
        if 53.0 < o.now_ns / S < 55.0
    ]
    assert len(waits) >= 19
    assert max(waits) < 60 * MS


def test_a_habitually_late_stream_is_used_at_its_age_not_awaited():
    rig = {**RIG, Modality.LIDAR: Sensor(100, 37, 250, 5)}
    player = Player(rig_config(max_age_s=0.4), max_wait_s=0.1)
    outputs = player.play(make_arrivals(rig, 5.0))
    late = [o for o in outputs if 52 < o.now_ns / S < 55]
    assert all(0.2 < o.matched.members[Modality.LIDAR].age_s <= 0.4 for o in late)
    waits = [o.now_ns - player.delivered[Modality.CAMERA, o.matched.stamp_ns] for o in late]
    assert max(waits) < 40 * MS


def test_a_slow_stream_is_held():
    rig = {**RIG, Modality.LIDAR: Sensor(500, 37, 12, 3)}
    player = Player(rig_config(max_age_s=0.6, timeout_s=1.5))
    outputs = [o for o in player.play(make_arrivals(rig, 6.0)) if o.now_ns / S > 52]
    members = [o.matched.members[Modality.LIDAR] for o in outputs]
    assert sum(m.held for m in members) == pytest.approx(0.8 * len(members), abs=2)
    assert all(m.age_s <= 0.6 for m in members)
    assert player.sync.counters[Modality.LIDAR].held > 20


def test_lateness_of_all_returns_to_normal():
    """Everything 300 ms late for a while, then punctual again: nothing is lost for good."""
    early = make_arrivals(RIG, 3.0)
    late_rig = {
        m: Sensor(s.period_ms, s.phase_ms + 3000, s.latency_ms + 300) for m, s in RIG.items()
    }
    late = make_arrivals(late_rig, 6.0)
    good_rig = {m: Sensor(s.period_ms, s.phase_ms + 6000, s.latency_ms) for m, s in RIG.items()}
    arrivals = sorted(
        early + late + make_arrivals(good_rig, 9.0), key=lambda a: (a.receipt_ns, a.key)
    )
    player = Player(rig_config())
    outputs = player.play(arrivals)
    times = [o.now_ns / S for o in outputs if o.now_ns / S > 51]
    assert max(b - a for a, b in pairwise(times)) < 0.8
    assert set(outputs[-1].matched.members) == set(MODALITIES)
    assert all(s.state is StreamState.LIVE for s in player.sync.status(59 * S).values())
