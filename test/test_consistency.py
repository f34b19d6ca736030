"""Who departs from the others is named, after enough checks, and nobody else."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_pipeline import gray, matched, rig
from tiny_model import tiny_card, write_tiny_model

from anyseg_ros.consistency import (
    PROFILE_FILE,
    ConsistencyCheck,
    ConsistencyError,
    ConsistencyProfile,
    ConsistencySettings,
    Usual,
    disagreement,
    disagreements,
    load_profile,
    measure_profile,
)
from anyseg_ros.engine import EngineOutput, load_engine
from anyseg_ros.health import Suspect
from anyseg_ros.modalities import DEFAULT_ENCODINGS, DepthFrame, EncodingSpec
from anyseg_ros.modality import MODALITIES, Modality
from anyseg_ros.pipeline import Pipeline

CAMERA, DEPTH, EVENT, LIDAR = MODALITIES
FOUR = frozenset(MODALITIES)
CLEAN = dict.fromkeys(MODALITIES, 0.2)


def profile(mean=0.2, deviation=0.05):
    usual = dict.fromkeys(MODALITIES, Usual(mean, deviation))
    return ConsistencyProfile("0123456789abcdef", {FOUR: usual})


def output(labels, confidence=200):
    labels = np.asarray(labels, np.uint8).repeat(4, 0).repeat(4, 1)
    return EngineOutput(labels, np.broadcast_to(np.uint8(confidence), labels.shape))


def test_disagreement_is_a_share_and_weighs_by_confidence():
    assert disagreement(output([[1, 2]]), output([[1, 2]])) == 0
    assert disagreement(output([[1, 2]]), output([[2, 1]])) == 1
    assert disagreement(output([[1, 2]]), output([[1, 3]])) == pytest.approx(0.5)
    unsure = np.array([[255, 255, 255, 255, 1, 1, 1, 1]] * 4, np.uint8)
    assert disagreement(EngineOutput(output([[1, 2]]).labels, unsure), output([[1, 3]])) < 0.01


def test_the_border_outside_the_view_does_not_count():
    assert disagreement(output([[1, 255]]), output([[1, 3]])) == 0
    assert disagreement(output([[255, 255]]), output([[1, 3]])) == 0


def test_a_liar_is_named_after_three_checks_and_absolved_after_three():
    check = ConsistencyCheck(profile=profile())
    lying = CLEAN | {DEPTH: 0.7, LIDAR: 0.5}
    assert [set(check.judge(lying)) for _ in range(3)] == [set(), set(), {DEPTH}]
    rest = {m: 0.2 for m in MODALITIES if m is not DEPTH}
    assert "70%" in check.judge(rest, {DEPTH: 0.7})[DEPTH]
    assert [set(check.judge(rest, {DEPTH: 0.2})) for _ in range(3)] == [{DEPTH}, {DEPTH}, set()]


def test_one_at_a_time():
    check = ConsistencyCheck(profile=profile())
    for _ in range(10):
        named = check.judge({CAMERA: 0.9, DEPTH: 0.8, EVENT: 0.2, LIDAR: 0.7})
    assert set(named) == {CAMERA}


def test_without_a_profile_it_learns_what_is_usual_for_each():
    check = ConsistencyCheck()
    own = {CAMERA: 0.1, DEPTH: 0.3, EVENT: 0.6, LIDAR: 0.2}
    for i in range(12):
        assert not check.judge({m: v + 0.01 * (i % 3) for m, v in own.items()})
    for _ in range(3):
        named = check.judge(own | {CAMERA: 0.5})
    assert set(named) == {CAMERA}


def test_nobody_is_named_by_fewer_than_three():
    check = ConsistencyCheck()
    assert not any(check.judge({}) for _ in range(50))


@given(st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), max_size=60))
def test_at_most_one_is_named_and_only_after_three_departures_in_a_row(rows):
    check = ConsistencyCheck(profile=profile())
    above = []
    for row in rows:
        measured = dict(zip(MODALITIES, row, strict=True))
        before = set(check.judge({}))
        named = set(check.judge(measured))
        above.append({m for m in MODALITIES if measured[m] > 0.2 + 1e-6})
        new = named - before
        assert len(new) <= 1
        for modality in new:
            assert all(modality in seen for seen in above[-3:]) and len(above) >= 3


def test_a_profile_belongs_to_one_model(tmp_path):
    card = tiny_card()
    assert load_profile(tmp_path, card) is None
    profile().save(tmp_path / PROFILE_FILE)
    assert load_profile(tmp_path, card) == profile()
    assert load_profile(tmp_path, tiny_card(model_id="fedcba9876543210")) is None
    (tmp_path / PROFILE_FILE).write_text(json.dumps({"model_id": card.model_id, "usual": 3}))
    with pytest.raises(ConsistencyError, match=PROFILE_FILE):
        load_profile(tmp_path, card)


def test_a_profile_is_robust_against_a_few_wild_checks():
    samples = [{m: 0.2 + 0.01 * (i % 5) for m in MODALITIES} for i in range(40)]
    samples += [dict.fromkeys(MODALITIES, 0.95)] * 4
    usual = measure_profile("x", samples).usual[FOUR][CAMERA]
    assert usual.mean == pytest.approx(0.22, abs=0.011)
    assert usual.deviation < 0.05


# --- with a real engine and pipeline ---------------------------------------------------------------


@pytest.fixture
def pipeline(tmp_path):
    """A model whose three pictures here are all grey, so that each votes for its brightness."""
    grey = {DEPTH: EncodingSpec("inverse_log", {}), EVENT: EncodingSpec("polarity_counts", {})}
    card = tiny_card(encodings={**DEFAULT_ENCODINGS, **grey})
    engine = load_engine(write_tiny_model(tmp_path / "tiny", card))
    yield Pipeline(engine, rig(CAMERA, EVENT, LIDAR, DEPTH))
    engine.close()


def depth_of(value):
    """Depth near or far, so that its modality image is mostly bright or dark."""
    metres = 1.2 if value > 128 else 60.0
    return DepthFrame(np.full((64, 128), metres, np.float32))


def members(stamp, camera, event, depth):
    return matched(
        stamp,
        camera=(stamp, gray(camera)),
        event=(stamp, gray(event)),
        depth=(stamp, depth_of(depth)),
    )


def test_a_check_needs_no_encoding_and_comes_every_nth_set(pipeline):
    check = ConsistencyCheck(ConsistencySettings(every=3))
    done = []
    for stamp in range(1, 10):
        result = pipeline.segment(members(stamp, 250, 250, 250))
        encoded = pipeline.engine.encode
        verdict = check.after(pipeline, result, {})
        done.append(verdict is not None)
        assert pipeline.engine.encode == encoded
    assert done == [False, False, True] * 3
    off = ConsistencyCheck(ConsistencySettings(every=0))
    assert off.after(pipeline, result, {}) is None


def test_the_modality_that_shows_another_class_departs(pipeline):
    result = pipeline.segment(members(1, 0, 250, 250))
    measured = disagreements(pipeline.engine, pipeline.features_of(result))
    assert measured[CAMERA] == max(measured.values())
    assert measured[CAMERA] > 0.9
    pair = pipeline.segment(matched(2, camera=(2, gray(0)), event=(2, gray(255))))
    assert disagreements(pipeline.engine, pipeline.features_of(pair)) == {}


def test_a_suspect_is_watched_outside_the_sets(pipeline):
    settings = ConsistencySettings(every=1, threshold=3.0, bad_count=2, good_count=2)
    trio = dict.fromkeys((CAMERA, DEPTH, EVENT), Usual(0.1, 0.05))
    check = ConsistencyCheck(settings, ConsistencyProfile("", {frozenset(trio): trio}))
    for stamp in range(1, 12):
        result = pipeline.segment(members(stamp, 250, 250, 250))
        assert check.after(pipeline, result, {}) == {}
    for stamp in range(12, 14):
        result = pipeline.segment(members(stamp, 0, 250, 250))
        verdict = check.after(pipeline, result, {})
    assert set(verdict) == {CAMERA}
    verdicts = []
    for stamp, value in enumerate([0, 0, 250, 250], 14):
        rest = matched(stamp, event=(stamp, gray(250)), depth=(stamp, depth_of(250)))
        result = pipeline.segment(rest)
        suspect = {CAMERA: Suspect(stamp, gray(value))}
        verdicts.append(set(check.after(pipeline, result, suspect)))
    assert verdicts == [{CAMERA}, {CAMERA}, {CAMERA}, set()]


def test_an_accused_sensor_that_is_left_with_one_other_is_free(pipeline):
    check = ConsistencyCheck(ConsistencySettings(every=1, bad_count=1), profile())
    check.judge(CLEAN | {Modality.CAMERA: 0.9})
    result = pipeline.segment(matched(1, camera=(1, gray(0)), event=(1, gray(255))))
    assert check.after(pipeline, result, {}) == {}
