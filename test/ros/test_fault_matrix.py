"""The fault matrix covers the vocabulary, and its verdicts tell good uses from bad ones."""

from __future__ import annotations

import itertools
import json

import pytest

from anyseg_ros.evaluation.outages import KINDS
from anyseg_ros.modality import MODALITIES, Modality
from benchmarks.faults import (
    BEGIN_S,
    EXPECTED,
    FAULT_S,
    LIVE,
    PAGE,
    QUARANTINED,
    RESULTS,
    Output,
    Row,
    Run,
    Sent,
    judge,
    matrix,
    table,
)

CAMERA, DEPTH, EVENT, LIDAR = MODALITIES
FRAME_NS = 100_000_000


def test_every_kind_of_every_sensor_is_a_row_with_an_expectation():
    assert set(EXPECTED) == set(KINDS)
    rows = matrix("")
    for modality in MODALITIES:
        kinds = {kind for row in rows[modality.label] for _, kind in row.faults}
        assert kinds == {k for k, about in KINDS.items() if modality in about.sensors}
    assert {len(row.faults) for row in rows["combinations"]} == {2, 3}
    for found in rows.values():
        assert all(b.begin_s >= a.end_s for a, b in itertools.pairwise(found))


def test_the_page_shows_the_results():
    rows = json.loads(RESULTS.read_text())["rows"]
    assert "\n".join(table(rows)) in PAGE.read_text()
    assert {(r["sensor"], r["fault"]) for r in rows} == {
        (r.sensor, r.fault) for found in matrix("").values() for r in found
    }


def a_run(detect_s: float | None, good_again_s: float, crashes: int = 0) -> Run:
    """10 Hz of four sensors with a black camera from ``BEGIN_S``; noticed after ``detect_s``."""
    sent = {m: [] for m in MODALITIES}
    outputs = []
    for index in range(100):
        time_s, stamp = index / 10, 1 + index * FRAME_NS
        during = BEGIN_S <= time_s < BEGIN_S + FAULT_S
        for m in MODALITIES:
            sent[m].append(Sent(time_s, stamp, m is CAMERA and during))
        well = not during or detect_s is None or time_s < BEGIN_S + detect_s
        if BEGIN_S + FAULT_S <= time_s < BEGIN_S + FAULT_S + good_again_s:
            well = False
        values = {"used": "true", "state": LIVE, "stamp_ns": str(stamp), "age_s": "0.0"}
        sensors = {m.label: dict(values) for m in MODALITIES}
        if not well:
            sensors["camera"] = {"used": "false", "state": QUARANTINED}
        reasons = {m.label: "used" if well else "not used: black" for m in MODALITIES}
        outputs.append(Output(time_s + 0.01, stamp, sensors, reasons))
    return Run(sent, outputs, [], crashes)


ROW = Row(((CAMERA, "black"),), BEGIN_S)


def test_a_fault_noticed_in_time_is_as_expected():
    found = judge(a_run(0.2, 0.5), ROW)
    assert found["as_expected"] and found["detected_as"] == "quarantined: black"
    assert found["bad_uses_from_onset"] == 2 and found["bad_uses"] == 0
    assert found["detection_s"] == pytest.approx(0.21) and found["recovery_s"] == 0.51
    assert found["output_gap_s"] == 0.1 and found["outputs"] == 30


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (a_run(None, 0.0), {"bad_uses": 22, "detected_as": LIVE}),  # never noticed
        (a_run(1.5, 0.5), {"bad_uses": 7}),  # too late
        (a_run(0.2, 9.0), {"recovery_s": None}),  # never used again
        (a_run(0.2, 0.5, crashes=1), {"crashes": 1}),
    ],
)
def test_what_breaks_the_promise_is_told(run, said):
    found = judge(run, ROW)
    assert not found["as_expected"]
    assert {key: found[key] for key in said} == said


def test_a_message_too_old_is_a_bad_use_of_any_sensor():
    run = a_run(0.2, 0.5)
    run.outputs[45].sensors[Modality.LIDAR.label]["age_s"] = "0.3"
    assert judge(run, ROW)["bad_uses_from_onset"] == 3
