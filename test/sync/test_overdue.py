"""An anchor that says nothing when it should: another leads meanwhile, and only then."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise

import pytest
from sync_reference import MS, RIG, Player, S, Sensor, make_arrivals, rig_config

from anyseg_ros.modality import MODALITIES, Modality, subset_name

CAMERA = Modality.CAMERA
CUTS = [c for size in (1, 2, 3) for c in combinations(MODALITIES, size)]


def played(rig=RIG, cuts=None, change=None, **config):
    arrivals = make_arrivals(rig, 10.0, cuts, seed=3)
    if change:
        arrivals = [change(a) for a in arrivals]
        arrivals.sort(key=lambda a: (a.receipt_ns, a.key))
    player = Player(rig_config(**config), max_wait_s=0.1)
    outputs = [o for o in player.play(arrivals) if 52 < o.now_ns / S < 59.8]
    player.check_books()
    return outputs


def longest_gap_s(outputs):
    return max(b.now_ns - a.now_ns for a, b in pairwise(outputs)) / S


@pytest.mark.parametrize("cut", CUTS, ids=subset_name)
def test_a_cut_costs_half_the_timeout_of_output(cut):
    outputs = played(cuts={key: [(4.0, 7.0)] for key in cut}, timeout_s=0.5)
    assert longest_gap_s(outputs) < (0.28 if CAMERA in cut else 0.14)


def test_a_cut_costs_no_more_with_a_long_timeout():
    outputs = played(cuts={CAMERA: [(4.0, 7.0)]}, timeout_s=2.0)
    assert longest_gap_s(outputs) < 0.26
    silent = [o for o in outputs if 54.3 < o.now_ns / S < 57]
    assert {o.matched.anchor for o in silent} == {Modality.DEPTH}
    assert all(CAMERA not in o.matched.members for o in silent), "its last image is too old"


@pytest.mark.parametrize(
    "camera",
    [
        Sensor(100, 0, 15, 80),
        Sensor(1000 / 30, 0, 15, 60),
        Sensor(400, 0, 15, 4),
        Sensor(100, 0, 300, 20, loss=0.1),
    ],
    ids=["jitter", "fast, jitter", "slow", "habitually late, some lost"],
)
def test_a_stream_as_it_usually_is_keeps_the_lead(camera):
    outputs = played({**RIG, CAMERA: camera})
    assert {o.matched.anchor for o in outputs} == {CAMERA}


def test_a_lost_message_is_not_missed():
    lost = {CAMERA: [(t - 0.05, t + 0.05) for t in range(2, 10)]}
    outputs = played(cuts=lost)
    assert {o.matched.anchor for o in outputs} == {CAMERA}
    assert longest_gap_s(outputs) == pytest.approx(0.2, abs=0.01)


def test_messages_held_up_and_then_delivered_at_once_cost_no_gap():
    def held_up(arrival):
        late = arrival.key is CAMERA and 54 <= arrival.receipt_ns / S < 54.4
        return replace(arrival, receipt_ns=round(54.4 * S)) if late else arrival

    outputs = played(change=held_up)
    assert longest_gap_s(outputs) < 0.26
    assert {o.matched.anchor for o in outputs if not 54 < o.now_ns / S < 54.6} == {CAMERA}


def test_a_replay_slower_than_time_keeps_its_anchor():
    start = 50 * S

    def slower(arrival):
        return replace(arrival, receipt_ns=start + 4 * (arrival.receipt_ns - start))

    player = Player(rig_config(timeout_s=2.0))
    outputs = player.play([slower(a) for a in make_arrivals(RIG, 5.0)])
    # The first intervals of the receipts decide, not the stamps'.
    settled = [o for o in outputs if o.now_ns > start + 4 * S]
    assert {o.matched.anchor for o in settled} == {CAMERA}
    assert max(b.now_ns - a.now_ns for a, b in pairwise(settled)) < 450 * MS


def test_packets_of_no_period_are_never_overdue():
    """An event camera that leads may be quiet: nobody is asked to stand in for it."""
    cuts = {Modality.EVENT: [(4.0, 4.45), (6.0, 6.45)]}
    arrivals = make_arrivals(RIG, 10.0, cuts, seed=3)
    priority = (Modality.EVENT, CAMERA, Modality.DEPTH, Modality.LIDAR)
    player = Player(rig_config(), max_wait_s=0.1, priority=priority)
    outputs = [o for o in player.play(arrivals) if 52 < o.now_ns / S < 59.8]
    assert {o.matched.anchor for o in outputs} == {Modality.EVENT}
