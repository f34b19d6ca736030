"""A player process and a node process over real DDS, sensors cut and restored while they run."""

from __future__ import annotations

import itertools

import pytest
import rig
import yaml
from lifecycle_msgs.msg import Transition
from ros_graph import INPUT_KINDS, Process, Watcher, domain, node_arguments, wait_until

from anyseg_ros.evaluation.outages import alive_at, load_outages
from anyseg_ros.modality import MODALITIES, Modality, subset_name

TIMEOUT_S = 0.3
OFF_S, ON_S = 1.2, 1.3
CUTS = [(m,) for m in MODALITIES] + list(itertools.combinations(MODALITIES, 2))
ENGINE_S = 0.05
"""One engine period of the tiny model, its way through DDS included, on an idle machine."""
SLOWEST_ENGINE_S = 0.5
"""On a machine that others keep busy, what is measured counts, up to this."""
INPUTS = {m: (INPUT_KINDS[m], rig.TOPICS[m]) for m in MODALITIES}


@pytest.fixture(scope="module")
def setting(tmp_path_factory, tiny_model):
    """Calibration and model for the node, and a bag that covers the timetable."""
    folder = tmp_path_factory.mktemp("dds")
    begin, outages = 2.0, []
    for cut in CUTS:
        outages += [
            {"sensor": m.label, "from_s": round(begin, 3), "to_s": round(begin + OFF_S, 3)}
            for m in cut
        ]
        begin += OFF_S + ON_S
    (folder / "outages.yaml").write_text(yaml.safe_dump({"outages": outages}))
    parameters = {
        "model": tiny_model,
        "calibration_file": rig.write_calibration(folder),
        "threads": 1,
        **{f"{m.label}.timeout": TIMEOUT_S for m in MODALITIES},
    }
    return folder, rig.write_bag(folder, begin + 0.5), parameters


def test_every_sensor_and_every_pair_cut_and_restored(setting, tmp_path):
    folder, bag, parameters = setting
    outages = load_outages(folder / "outages.yaml")
    with domain() as number, Watcher(number, INPUTS) as watcher:
        node = Process.start(
            "anyseg_ros.ros.node",
            node_arguments({**parameters, "autostart": True}),
            number,
            tmp_path / "node.log",
        )
        try:
            node.wait_for_text("model tiny")
            player = Process.start(
                "anyseg_ros.ros.bag_player",
                [str(bag), "--outages", str(folder / "outages.yaml"), "--wait", "20"],
                number,
                tmp_path / "player.log",
            )
            assert player.process.wait(120) == 0, player.text()
        finally:
            assert node.stop() == 0, node.text()

    assert len(watcher.masks) >= 0.99 * len(watcher.results)
    problems = []
    for cut in CUTS:
        mine = next(o for o in outages if o.sensor is cut[0] and covers_all(outages, o.from_s, cut))
        name = f"cut of {subset_name(cut)}"
        # Bag time and this process's clock are tied by what this process itself received.
        gone_s = max(last_before(watcher.inputs[m], m, mine.from_s) for m in cut)
        back = [first_after(watcher.inputs[m], m, mine.to_s) for m in cut]
        left = alive_at(outages, mine.from_s + 0.1)
        anchor = left[0]
        during = [r for r in watcher.results if gone_s - 0.2 <= r.received_s <= max(back)]
        # A stalled machine stalls player and node alike: the anchor's period is the one received,
        # the engine's the one seen from message to result.
        arrivals = [t for t, _ in watcher.inputs[anchor] if gone_s - 0.5 <= t <= max(back)]
        period = max([rig.PERIOD_S[anchor], *(b - a for a, b in itertools.pairwise(arrivals))])
        engine = min(max([ENGINE_S, *latencies(during, watcher.inputs)]), SLOWEST_ENGINE_S)
        gaps = [b.received_s - a.received_s for a, b in itertools.pairwise(during)]
        bound = TIMEOUT_S + 2 * period + engine
        if not gaps or max(gaps) > bound:
            problems.append(f"{name}: output gap {max(gaps, default=9.9):.2f} > {bound:.2f} s")
        settled = [r for r in during if gone_s + TIMEOUT_S + engine < r.received_s < min(back)]
        wrong = [subset_name(r.used) for r in settled if set(r.used) != set(left)]
        # A live sensor may miss a set on a busy machine; a dead one must be in none.
        dead_used = [r for r in settled if set(r.used) & set(cut)]
        if not settled or dead_used or len(wrong) > len(settled) / 3:
            problems.append(f"{name}: used {wrong} of {len(settled)}, expected {subset_name(left)}")
        after = [r for r in watcher.results if max(back) <= r.received_s <= max(back) + 1.0]
        if not any(set(cut) <= set(r.used) for r in after):
            problems.append(f"{name}: not used again within 1 s")
    assert not problems, "\n".join([*problems, node.text()])
    for earlier, later in itertools.pairwise(watcher.results):
        assert later.stamp_ns > earlier.stamp_ns


def covers_all(outages, time_s: float, cut) -> bool:
    """Whether exactly the sensors of ``cut`` are silent at a bag time."""
    return {o.sensor for o in outages if o.covers(time_s)} == set(cut)


def bag_time_s(modality: Modality, stamp_ns: int) -> float:
    """Bag time at which a message with this header stamp is sent; the first is the camera's."""
    full = rig.PERIOD_S[modality] if modality is Modality.EVENT else 0.0
    sent = (stamp_ns - rig.START_NS) / 1e9 + rig.DELAY_S[modality] + full
    return sent - rig.DELAY_S[Modality.CAMERA]


def last_before(received, modality: Modality, time_s: float) -> float:
    return max(t for t, stamp in received if bag_time_s(modality, stamp) < time_s - 1e-4)


def first_after(received, modality: Modality, time_s: float) -> float:
    return min(t for t, stamp in received if bag_time_s(modality, stamp) >= time_s - 1e-4)


def latencies(results, inputs) -> list[float]:
    """Seconds from the receipt of each result's anchor message to the result."""
    found = []
    for result in results:
        sent = [t for t, stamp in inputs[result.anchor] if stamp <= result.stamp_ns]
        found += [result.received_s - max(sent)] if sent else []
    return found


def test_only_one_sensor_ever_present(setting, tmp_path):
    """Each of the four alone, calibration from the file, the node reactivated in between."""
    _, bag, parameters = setting
    with domain() as number, Watcher(number) as watcher:
        node = Process.start(
            "anyseg_ros.ros.node", node_arguments(parameters), number, tmp_path / "node.log"
        )
        try:
            assert watcher.transition(Transition.TRANSITION_CONFIGURE), node.text()
            for modality in MODALITIES:
                assert watcher.transition(Transition.TRANSITION_ACTIVATE)
                watcher.results.clear()
                watcher.masks.clear()
                player = Process.start(
                    "anyseg_ros.ros.bag_player",
                    [str(bag), "--topics", rig.TOPICS[modality], "--wait", "20", "--loop"],
                    number,
                    tmp_path / f"player_{modality.label}.log",
                )
                wait_until(lambda: len(watcher.masks) >= 10, f"masks from {modality.label}")
                assert {r.used for r in watcher.results} == {(modality,)}
                assert player.stop() == 0, player.text()
                assert watcher.transition(Transition.TRANSITION_DEACTIVATE)
        finally:
            assert node.stop() == 0, node.text()
    assert "Traceback" not in node.text()
