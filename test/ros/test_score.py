"""Outputs of a running node meet their labels, however long the run and whatever the order."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_model import CLASSES

from anyseg_ros.ros.score import ScoreKeeper

SECOND = 1_000_000_000
PERIOD = SECOND // 30
START = 1_700_000_000 * SECOND
SENSORS = {"camera": {"used": "true", "stamp_ns": "1"}, "lidar": {"used": "false"}}


def labels(stamp: int) -> np.ndarray:
    """Class ids uint8[8, 16] that differ from one stamp to the next."""
    return np.full((8, 16), stamp // PERIOD % len(CLASSES), np.uint8)


def add_output(keeper: ScoreKeeper, stamp: int, confidence: bool = True) -> None:
    keeper.add_output(stamp, labels(stamp))
    if confidence:
        keeper.add_confidence(stamp, np.full((8, 16), 255, np.uint8))
    keeper.add_sensors(stamp, SENSORS)


def play(keeper: ScoreKeeper, frames: int, labels_late: int = 0, **parts: bool) -> None:
    """Outputs come three frames after their stamp, labels so many frames after theirs."""
    for index in range(frames + max(3, labels_late)):
        if 0 <= index - labels_late < frames:
            stamp = START + (index - labels_late) * PERIOD
            keeper.add_truth(stamp, labels(stamp))
        if 0 <= index - 3 < frames:
            add_output(keeper, START + (index - 3) * PERIOD, **parts)


@pytest.mark.parametrize("labels_late", [0, 10])
@pytest.mark.parametrize("confidence", [True, False])
def test_every_output_of_a_long_run_is_scored_as_it_goes(labels_late, confidence):
    keeper = ScoreKeeper(CLASSES)
    play(keeper, 1200, labels_late, confidence=confidence)
    # What has all its parts is scored at once, so little is left for the end.
    assert len(keeper.rows) >= (1200 if confidence else 1200 - 6 * 30)
    keeper.finish()
    results = keeper.results()
    assert results["outputs"] == results["scored"] == 1200
    assert [row["subset"] for row in results["subsets"]] == ["all outputs", "camera"]
    assert all(row["miou"] == 100 for row in results["subsets"])


def test_labels_at_another_rate_serve_the_outputs_near_them():
    keeper = ScoreKeeper(CLASSES)
    for index in range(300):
        stamp = START + index * PERIOD
        if index % 30 == 0:
            keeper.add_truth(stamp + 5_000_000, labels(stamp))
        add_output(keeper, stamp)
    keeper.finish()
    assert [r["stamp_ns"] for r in keeper.rows if r["miou"] == 100] == [
        START + second * SECOND // PERIOD * PERIOD for second in range(10)
    ]
    assert keeper.results()["outputs"] == 300


def test_a_player_that_loops_is_scored_each_time():
    keeper = ScoreKeeper(CLASSES)
    for _ in range(3):
        play(keeper, 300)
    keeper.finish()
    assert keeper.results()["outputs"] == 900
    assert keeper.results()["scored"] == 900


def test_a_stamp_of_another_clock_costs_only_what_is_near_it():
    keeper = ScoreKeeper(CLASSES)
    play(keeper, 60)
    keeper.add_truth(START + 3600 * SECOND, labels(0))
    add_output(keeper, START + 7200 * SECOND)
    for index in range(60, 120):
        stamp = START + index * PERIOD
        keeper.add_truth(stamp, labels(stamp))
        add_output(keeper, stamp)
    keeper.finish()
    assert keeper.results()["outputs"] == 121
    assert keeper.results()["scored"] >= 118
