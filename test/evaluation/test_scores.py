"""Boundary F1, Shapley values, faults and random outages against plain readings of their definitions."""

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyseg_ros.evaluation.boundary import BoundaryScore
from anyseg_ros.evaluation.contributions import shapley_values
from anyseg_ros.evaluation.outages import (
    KINDS,
    random_outages,
)
from anyseg_ros.modality import MODALITIES, all_subsets

CAMERA, DEPTH, EVENT, LIDAR = MODALITIES


# --- boundary F1 ------------------------------------------------------------------------------


def outline(labels, known, c):
    """Known pixels of a class with a known neighbour of another class, by the definition."""
    height, width = labels.shape
    found = set()
    for y, x in zip(*np.nonzero((labels == c) & known), strict=True):
        around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        if any(
            0 <= v < height and 0 <= u < width and known[v, u] and labels[v, u] != labels[y, x]
            for v, u in around
        ):
            found.add((int(y), int(x)))
    return found


def slow_f1(predicted, truth, classes, reach):
    known = truth < classes
    result = []
    for c in range(classes):
        mine, real = outline(predicted, known, c), outline(truth, known, c)

        def near(pixel, others):
            return any(max(abs(pixel[0] - y), abs(pixel[1] - x)) <= reach for y, x in others)

        if not real:
            result.append(float("nan"))
            continue
        precision = sum(near(p, real) for p in mine) / max(len(mine), 1)
        recall = sum(near(p, mine) for p in real) / len(real)
        total = precision + recall
        result.append(2 * precision * recall / total if total else 0.0)
    return result


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 0.06, 0.13, 0.2]))
def test_boundary_f1_follows_its_definition(seed, tolerance):
    random = np.random.default_rng(seed)
    truth = np.kron(random.integers(0, 4, (4, 6)), np.ones((5, 4))).astype(np.uint8)
    truth[random.random(truth.shape) < 0.02] = 255
    predicted = np.roll(truth, random.integers(0, 3), 1)
    predicted[predicted == 255] = 1
    score = BoundaryScore(4, tolerance)
    score.add(predicted, truth)
    reach = max(1, round(tolerance * math.hypot(*truth.shape)))
    np.testing.assert_allclose(score.f1(), slow_f1(predicted, truth, 4, reach))


def test_boundary_f1_of_the_truth_is_perfect_and_of_nothing_unknown():
    truth = np.repeat([[0, 1]], 8, 0).repeat(6, 1).astype(np.uint8)
    score = BoundaryScore(3)
    assert math.isnan(score.mean())
    score.add(truth, truth)
    assert score.mean() == 100
    assert math.isnan(score.f1()[2])


def test_the_border_of_what_is_not_labelled_is_no_outline():
    truth = np.zeros((40, 80), np.uint8)
    truth[15:25, 30:50] = 1
    truth[:, :10] = truth[:, -10:] = 255  # the bars beside a grid that is not 2:1
    missed = np.zeros_like(truth)
    score = BoundaryScore(2)
    score.add(missed, truth)
    assert score.mean() == 0


def test_outlines_of_more_classes_than_fit_into_32_bits():
    truth = np.full((40, 80), 2, np.uint8)
    truth[15:25, 30:50] = 34
    score = BoundaryScore(64)
    score.add(np.full_like(truth, 2), truth)
    assert score.f1()[34] == 0
    score.add(truth, truth)
    assert score.f1()[34] > 0.5 and math.isnan(score.f1()[0])


# --- contributions ----------------------------------------------------------------------------


@given(st.lists(st.floats(0, 100), min_size=15, max_size=15))
def test_shapley_values_are_the_mean_gain_over_all_orders(worth):
    value = dict(zip(all_subsets(), worth, strict=True))
    gains = dict.fromkeys(MODALITIES, 0.0)
    orders = list(permutations(MODALITIES))
    for order in orders:
        before = 0.0
        for count, sensor in enumerate(order, 1):
            after = value[tuple(sorted(order[:count]))]
            gains[sensor] += (after - before) / len(orders)
            before = after
    found = shapley_values(MODALITIES, value)
    for sensor in MODALITIES:
        assert found[sensor] == pytest.approx(gains[sensor], abs=1e-9)
    assert sum(found.values()) == pytest.approx(value[MODALITIES], abs=1e-9)


# --- random outages ---------------------------------------------------------------------------


def test_random_outages_are_seeded_and_as_many_as_asked():
    found = random_outages(7, 6000.0, MODALITIES, per_minute=3.0, mean_s=2.0, kinds=KINDS)
    assert found == random_outages(7, 6000.0, MODALITIES, per_minute=3.0, mean_s=2.0, kinds=KINDS)
    assert found != random_outages(8, 6000.0, MODALITIES, per_minute=3.0, mean_s=2.0, kinds=KINDS)
    # One sensor's faults do not depend on which others there are.
    alone = random_outages(7, 6000.0, (LIDAR,), per_minute=3.0, mean_s=2.0, kinds=KINDS)
    assert alone == [o for o in found if o.sensor is LIDAR]
    lengths = [o.to_s - o.from_s for o in found]
    # 20 s of waiting and 2 s of outage by turns, in 100 minutes for each of four sensors.
    assert len(found) == pytest.approx(4 * 6000 / 22, rel=0.15)
    assert np.mean(lengths) == pytest.approx(2.0, rel=0.15) and min(lengths) > 0.19
    assert {o.kind for o in found} == set(KINDS)
    assert all(0 <= o.from_s < o.to_s <= 6000 for o in found)
