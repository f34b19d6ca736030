"""On the shipped recording: no false alarm, and what a failing sensor sends is never used."""

from pathlib import Path

import pytest

from anyseg_ros.engine import load_engine
from anyseg_ros.evaluation.bag import Bag, find_bags
from anyseg_ros.evaluation.outages import KINDS, Outage
from anyseg_ros.evaluation.replay import BagArrivals, ReplaySettings, Walk, replay
from anyseg_ros.evaluation.sources import find_rig, find_sources
from anyseg_ros.modality import MODALITIES, Modality
from anyseg_ros.sync import DropReason, Impairment

DEMO = Path(__file__).parents[1] / "demo/street_drive"
ONSETS = {Modality.CAMERA: 3.0, Modality.DEPTH: 7.0, Modality.EVENT: 11.0, Modality.LIDAR: 15.0}
"""The sensors fail one after the other, 2 s each."""
LAST_S = 2.0


@pytest.fixture(scope="module")
def engine(tiny_model):
    engine = load_engine(tiny_model)
    yield engine
    engine.close()


def walk_through(engine, outages, note=lambda walk, now_ns: None):
    """Replay the recording; gives the walk, the sets and the time the recording starts."""
    with Bag(find_bags(DEMO)[0]) as bag:
        sources = find_sources(bag)
        rig = find_rig(bag, sources)
        settings = ReplaySettings()
        walk = Walk(engine, sources, rig, settings, bag.start_ns, outages)
        results = []
        for _, result in replay(BagArrivals(bag, sources, rig, settings), {"": walk}):
            note(walk, result.released_ns)
            results.append(result)
        return walk, results, bag.start_ns


def test_sensors_that_work_raise_no_alarm(engine):
    impaired = []

    def note(walk, now_ns):
        statuses = walk.synchronizer.status(now_ns)
        impaired.extend(m for m, s in statuses.items() if s.impairment is not Impairment.NONE)

    walk, results, _ = walk_through(engine, (), note)
    assert len(results) > 190
    assert impaired == []
    for modality in MODALITIES:
        health = walk.health.health[modality]
        assert (health.withheld, health.quarantines, health.last_finding) == (0, 0, "")


@pytest.mark.parametrize(
    "kind", ["frozen", "black", "saturated", "noise", "nan", "empty", "wrong_encoding", "truncated"]
)
def test_bad_content_is_never_used_and_named_in_time(engine, kind):
    sensors = [m for m in KINDS[kind].sensors if m in ONSETS and m not in KINDS[kind].harmless_to]
    outages = [Outage(m, ONSETS[m], ONSETS[m] + LAST_S, kind) for m in sensors]
    seen = {m: [] for m in sensors}

    def note(walk, now_ns):
        statuses = walk.synchronizer.status(now_ns)
        for modality in sensors:
            seen[modality].append((now_ns, statuses[modality].state.value))

    walk, results, start_ns = walk_through(engine, outages, note)
    for modality in sensors:
        onset, end = (start_ns + round(1e9 * (ONSETS[modality] + t)) for t in (0, LAST_S))
        # A message is judged when it arrives: one stamped before the onset may be a late good one.
        bad_uses = [
            r
            for r in results
            if modality in r.matched.members
            and onset + 20_000_000 <= r.matched.members[modality].stamp_ns < end - 20_000_000
        ]
        assert bad_uses == [], f"{modality.label}: {kind} used {len(bad_uses)} times"
        states = seen[modality]
        assert all(s == "quarantined" for t, s in states if onset + 7e8 < t < end - 1e8)
        assert all(s == "live" for t, s in states if end + 1e9 < t)
        assert walk.health.health[modality].quarantines == 1
    others = set(MODALITIES) - set(sensors)
    assert all(walk.health.health[m].withheld == 0 for m in others)
    drops = walk.synchronizer.counters
    if kind not in ("empty", "wrong_encoding", "truncated"):
        assert all(drops[m].dropped[DropReason.BAD_CONTENT] > 0 for m in sensors)
