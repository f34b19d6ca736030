"""What is kept of each set of a replay: figures that can be worked out by hand, pictures of the worst."""

import math

import numpy as np
import pytest

from anyseg_ros.classes import CITYSCAPES_19
from anyseg_ros.evaluation.replay import SetResult
from anyseg_ros.evaluation.scoring import Scorer, keep_moment, pick_apart
from anyseg_ros.modality import Modality
from anyseg_ros.pipeline import Segmentation, Timings
from anyseg_ros.sync import MatchedSet, Member

CAMERA, LIDAR = Modality.CAMERA, Modality.LIDAR
BOTH = (CAMERA, LIDAR)


def output(rows, used=BOTH, confidence=255):
    """Labels of a picture of 4 x 8 whose last two columns are outside the camera's view."""
    labels = np.repeat(np.array(rows, np.uint8)[:, None], 8, 1)
    labels[:, 6:] = 255
    sure = np.full(labels.shape, confidence, np.uint8)
    sure[:, 6:] = 0
    return Segmentation(0, labels, sure, used, {}, {}, Timings(0, 0, 0))


def scorer(duration_s=24.0):
    return Scorer(CITYSCAPES_19, BOTH, ((CAMERA,), (LIDAR,), BOTH), duration_s)


def add(scorer, full, at_s=0.0, epoch=0, truth=None, **rest):
    members = {m: Member(0, None, 0.0, False) for m in full.used}
    matched = MatchedSet(CAMERA, 0, epoch, members)
    outputs = {(Modality.from_label(label),): other for label, other in rest.items()}
    scorer.add(SetResult(matched, 0, at_s, full, ""), outputs, truth)
    return scorer.frames[-1]


def test_what_changes_from_set_to_set_and_flickers():
    found = scorer()
    a, b = output([0, 0, 0, 0]), output([1, 0, 0, 0])
    frames = [add(found, full) for full in (a, b, a, output([2, 2, 0, 0]))]
    assert math.isnan(frames[0].changed) and math.isnan(frames[1].flicker)
    assert [f.changed for f in frames[1:]] == [0.25, 0.25, 0.5]
    assert [f.flicker for f in frames[2:]] == [0.25, 0.0]
    assert frames[1].class_shares[:2].tolist() == [0.75, 0.25]
    # Another epoch is another time: nothing before it counts.
    again = add(found, b, epoch=1)
    assert math.isnan(again.changed) and math.isnan(again.flicker)


def test_only_the_cameras_view_counts():
    found = scorer()
    frame = add(found, output([0, 0, 0, 0]), camera=output([1, 0, 0, 0], confidence=51))
    assert frame.confidence == 1.0
    tally = found.subsets[CAMERA,]
    assert tally.agreement == 75 and tally.against_full.pixels == 24
    assert tally.confidence == pytest.approx(0.2)
    assert found.subsets[BOTH].agreement == 100


def test_what_losing_a_sensor_costs_with_labels_and_without():
    full, camera, lidar = output([0, 1, 2, 3]), output([0, 1, 1, 1]), output([0, 1, 2, 2])
    found = scorer()
    frame = add(found, full, camera=camera, lidar=lidar)
    assert frame.loss_without == {CAMERA: 25.0, LIDAR: 50.0}
    (moment,) = found.worst_moments()
    assert moment.why == "without lidar 50 % of the pixels change" and moment.badness == 50
    # The labels say that the LiDAR was wrong: without it more is right.
    truth = output([0, 1, 1, 1]).labels
    frame = add(found, full, 1.0, truth=truth, camera=camera, lidar=lidar)
    assert frame.accuracy == 50 and frame.loss_without == {CAMERA: 0.0, LIDAR: -50.0}


def test_the_worst_moments_are_kept_and_lie_apart():
    found = scorer(24.0)  # a moment a second
    for at_s, confidence in ((0.1, 200), (0.5, 100), (0.9, 150), (9.0, 50)):
        add(found, output([0, 0, 0, 0], confidence=confidence), at_s)
    assert [m.bag_time_s for m in found.worst_moments()] == [0.5, 9.0]
    moments = [
        keep_moment(at_s, badness, "", output([0, 0, 0, 0]), None, None)
        for at_s, badness in ((0.0, 5), (1.0, 9), (2.5, 7), (4.0, 8), (9.0, 1))
    ]
    assert [m.bag_time_s for m in pick_apart(moments, 3, 2.0)] == [1.0, 4.0, 9.0]
    assert [m.bag_time_s for m in pick_apart(moments, 1, 2.0)] == [1.0]


def test_fragile_stretches_are_rated_by_their_mean_loss():
    found = scorer()
    full, worse = output([0, 1, 2, 3]), output([0, 0, 0, 0])
    for at_s, camera in ((0.0, worse), (1.0, full), (3.0, worse)):
        add(found, full, at_s, camera=camera)
    assert found.fragile_stretches(length_s=2.0) == [
        {"sensor": "lidar", "from_s": 2.0, "to_s": 4.0, "loss_points": 75.0, "sets": 1},
        {"sensor": "lidar", "from_s": 0.0, "to_s": 2.0, "loss_points": 37.5, "sets": 2},
    ]
