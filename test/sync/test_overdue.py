"""An anchor that says nothing when it should, or nothing of use: another leads meanwhile, and only then."""

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
    # Events wait until all that have a period are known to be silent.
    alone = set(MODALITIES) - set(cut) == {Modality.EVENT}
    assert longest_gap_s(outputs) < (0.36 if alone else 0.28 if CAMERA in cut else 0.14)


def test_a_cut_of_a_fast_camera_costs_less():
    rig = {**RIG, CAMERA: Sensor(1000 / 30, 0, 15, 4)}
    outputs = played(rig, {CAMERA: [(4.0, 7.0)]}, timeout_s=2.0)
    assert longest_gap_s(outputs) < 0.16
    assert {o.matched.anchor for o in outputs if o.now_ns / S < 54.05} == {CAMERA}


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


def test_a_second_of_messages_delivered_at_once_and_again():
    def in_bursts(arrival):
        if arrival.key is not CAMERA or arrival.receipt_ns < 54 * S:
            return arrival
        return replace(arrival, receipt_ns=-(-arrival.receipt_ns // S) * S)

    # What a burst says last may be older than the output: then the pause lasts until it is overdue again.
    assert longest_gap_s(played(change=in_bursts)) < 0.42


@pytest.mark.parametrize("speed", [0.25, 0.5, 2.0, 4.0])
def test_replays_slower_and_faster_than_time(speed):
    start = 50 * S

    def at_speed(arrival):
        return replace(arrival, receipt_ns=start + round((arrival.receipt_ns - start) / speed))

    arrivals = [at_speed(a) for a in make_arrivals(RIG, 10.0, {CAMERA: [(4.0, 7.0)]}, 3)]
    player = Player(rig_config(timeout_s=2.5), max_wait_s=0.05)
    outputs = [o for o in player.play(arrivals) if 2 / speed < o.now_ns / S - 50 < 9.8 / speed]
    silent = [o for o in outputs if 4.1 / speed < o.now_ns / S - 50 < 7 / speed]
    assert {o.matched.anchor for o in outputs if o not in silent} == {CAMERA}
    assert {o.matched.anchor for o in silent} == {Modality.DEPTH}
    # While receipts grow denser the stamps' period counts.
    assert longest_gap_s(outputs) < max(0.3, 0.3 / speed)


def at_rates(arrivals, key, at_s, every):
    """From ``at_s`` on only each ``every``-th message of a stream arrives."""
    seen = 0
    for arrival in arrivals:
        if arrival.key is key and arrival.receipt_ns / S - 50 > at_s:
            seen += 1
            if seen % every:
                continue
        yield arrival


def test_who_stands_in_for_a_slow_anchor_is_faster_and_stays():
    rig = {
        CAMERA: Sensor(1000 / 30, 0, 15, 4),
        Modality.DEPTH: Sensor(200, 8, 20, 4),
        Modality.LIDAR: Sensor(100, 37, 12, 3),
    }
    config = {m: c for m, c in rig_config(timeout_s=0.5).items() if m in rig}
    arrivals = at_rates(make_arrivals(rig, 10.0, seed=3), CAMERA, 5.0, 6)
    player = Player(config, max_wait_s=0.1, priority=tuple(rig))
    outputs = [o for o in player.play(list(arrivals)) if 55.8 < o.now_ns / S < 59]
    assert {o.matched.anchor for o in outputs} == {Modality.LIDAR}
    assert len(outputs) == pytest.approx(32, abs=1)
    assert player.sync.abandoned_sets < 4


def test_a_stand_in_for_a_late_anchor_is_overdue_itself():
    def late(arrival):
        if arrival.key is not CAMERA or arrival.receipt_ns < 53 * S:
            return arrival
        return replace(arrival, receipt_ns=arrival.receipt_ns + 350 * MS)

    cuts = {Modality.DEPTH: [(6.0, 8.0)]}
    outputs = [o for o in played(cuts=cuts, change=late, timeout_s=2.0) if o.now_ns / S > 54]
    assert {o.matched.anchor for o in outputs} == {Modality.DEPTH, Modality.EVENT}
    assert longest_gap_s(outputs) < 0.28


def test_a_slow_stream_is_better_than_none():
    rig = {CAMERA: RIG[CAMERA], Modality.DEPTH: RIG[Modality.DEPTH]}
    config = {m: c for m, c in rig_config(timeout_s=2.0).items() if m in rig}
    cut = make_arrivals(rig, 10.0, {CAMERA: [(6.0, 9.0)]}, 3)
    player = Player(config, max_wait_s=0.1, priority=tuple(rig))
    outputs = player.play(list(at_rates(cut, Modality.DEPTH, 4.0, 3)))
    assert longest_gap_s([o for o in outputs if 55 < o.now_ns / S < 58.8]) < 0.45


def test_events_do_not_lead_because_a_later_stream_has_not_spoken_yet():
    rig = {
        CAMERA: Sensor(1000 / 30, 0, 15, 4),
        Modality.DEPTH: Sensor(100, 8, 200, 4),
        Modality.EVENT: Sensor(2, 0, 2),
    }
    config = {m: c for m, c in rig_config().items() if m in rig}
    cuts = {CAMERA: [(t, t + 0.45) for t in (3.0, 4.5, 6.0)]}
    player = Player(config, max_wait_s=0.1, priority=tuple(rig))
    outputs = player.play(make_arrivals(rig, 8.0, cuts, 3))
    assert not [
        o for o in outputs if o.matched.anchor is Modality.EVENT and 51 < o.now_ns / S < 57.9
    ]


def test_packets_of_no_period_are_never_overdue():
    """An event camera that leads may be quiet: nobody is asked to stand in for it."""
    cuts = {Modality.EVENT: [(4.0, 4.45), (6.0, 6.45)]}
    arrivals = make_arrivals(RIG, 10.0, cuts, seed=3)
    priority = (Modality.EVENT, CAMERA, Modality.DEPTH, Modality.LIDAR)
    player = Player(rig_config(), max_wait_s=0.1, priority=priority)
    outputs = [o for o in player.play(arrivals) if 52 < o.now_ns / S < 59.8]
    assert {o.matched.anchor for o in outputs} == {Modality.EVENT}


def withheld(keys, start_s, end_s, every=1):
    """Messages of some streams show that they must not be used, all or some of them."""
    seen = dict.fromkeys(keys, 0)

    def change(arrival):
        if arrival.key not in seen or not start_s <= arrival.receipt_ns / S - 50 < end_s:
            return arrival
        seen[arrival.key] += 1
        return replace(arrival, usable=seen[arrival.key] % every != 0)

    return change


@pytest.mark.parametrize("bad", CUTS, ids=subset_name)
def test_messages_that_must_not_be_used_cost_no_output(bad):
    outputs = played(change=withheld(bad, 4.0, 7.0), timeout_s=2.0)
    assert longest_gap_s(outputs) < 0.18
    meanwhile = [o for o in outputs if 54.2 < o.now_ns / S < 57]
    assert all(o.matched.anchor not in bad for o in meanwhile)
    if CAMERA in bad:
        assert {o.matched.anchor for o in outputs if o not in meanwhile} >= {CAMERA}
        assert outputs[-1].matched.anchor is CAMERA


@pytest.mark.parametrize("every", [2, 3])
def test_where_only_some_must_not_be_used_others_lead_in_their_place(every):
    outputs = played(change=withheld([CAMERA], 4.0, 7.0, every))
    assert longest_gap_s(outputs) < 0.15
    meanwhile = [o.matched.anchor for o in outputs if 54 < o.now_ns / S < 57]
    assert len(meanwhile) == 30
    assert meanwhile.count(CAMERA) == 30 - 30 // every
    assert set(meanwhile) == {CAMERA, Modality.DEPTH}


@pytest.mark.parametrize("by_s", [-3.0, 3.0])
def test_stamps_that_lie_cost_no_output(by_s):
    def lying(arrival):
        if arrival.key is not CAMERA or not 54 <= arrival.receipt_ns / S < 57:
            return arrival
        return replace(arrival, stamp_ns=arrival.stamp_ns + round(by_s * S))

    player = Player(rig_config(), max_wait_s=0.1, believable=False)
    outputs = player.play([lying(a) for a in make_arrivals(RIG, 10.0, seed=3)])
    player.check_books()
    assert longest_gap_s([o for o in outputs if 52 < o.now_ns / S < 59.8]) < 0.15


def test_what_the_anchor_said_before_is_still_given_out():
    """A set of it that waits for a late stream is not lost by what its next message is."""
    rig = {CAMERA: Sensor(50, 0, 1), Modality.DEPTH: Sensor(50, 0, 70)}
    config = {m: c for m, c in rig_config().items() if m in rig}
    arrivals = make_arrivals(rig, 6.0)
    bad = [
        replace(a, usable=not (a.key is CAMERA and 54 < a.receipt_ns / S < 55)) for a in arrivals
    ]
    player = Player(config, max_wait_s=0.1, priority=tuple(rig))
    outputs = player.play(bad)
    good = {
        a.stamp_ns for a in bad if a.key is CAMERA and a.usable and 52 < a.receipt_ns / S < 55.8
    }
    assert good <= {o.matched.stamp_ns for o in outputs if o.matched.anchor is CAMERA}


@pytest.mark.parametrize(
    ("max_wait_s", "median_ms", "most_ms", "scan_age_ms"),
    [(0.1, 93, 130, 30), (0.0, 32, 34, 130)],
)
def test_what_a_scan_stamped_at_its_start_costs(max_wait_s, median_ms, most_ms, scan_age_ms):
    """The figures of docs/node.md: a camera of 30 Hz, and a LiDAR whose message comes 115 to 130 ms late."""
    rig = {CAMERA: Sensor(1000 / 30, 0, 30, 4), Modality.LIDAR: Sensor(100, 3, 115, 15)}
    config = {m: rig_config(tolerance_s=0.06, max_age_s=0.25)[m] for m in rig}
    player = Player(config, max_wait_s=max_wait_s, priority=tuple(rig))
    origin_ns = 50 * S  # one clock for stamps and receipt
    outputs = player.play(make_arrivals(rig, 20.0, seed=1, origin_ns=origin_ns))
    settled = [o for o in outputs if o.now_ns > 55 * S]
    assert all(set(o.matched.members) == set(rig) for o in settled)
    waits = sorted((o.now_ns - o.matched.stamp_ns) / MS for o in settled)
    ages = sorted(o.matched.members[Modality.LIDAR].age_s * 1000 for o in settled)
    assert waits[len(waits) // 2] == pytest.approx(median_ms, abs=1)
    assert waits[len(waits) * 95 // 100] == pytest.approx(most_ms, abs=1)
    assert ages[len(ages) // 2] == pytest.approx(scan_age_ms, abs=1)
