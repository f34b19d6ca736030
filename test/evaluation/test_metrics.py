"""Metrics against cases worked out by hand and against torchmetrics."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyseg_ros.evaluation.metrics import Calibration, ConfusionMatrix


def matrix(predicted, truth, classes=4):
    confusion = ConfusionMatrix(classes)
    confusion.add(np.array(predicted, np.uint8), np.array(truth, np.uint8))
    return confusion


def test_iou_by_hand():
    #                 hit  miss hit  hit  ignored
    confusion = matrix([0, 1, 1, 2, 3], [0, 0, 1, 2, 255])
    np.testing.assert_allclose(confusion.iou(), [1 / 2, 1 / 2, 1, np.nan])
    assert confusion.miou() == pytest.approx(100 * (0.5 + 0.5 + 1) / 3)
    assert confusion.miou_absent_zero() == pytest.approx(100 * 2 / 4)
    assert confusion.pixel_accuracy() == pytest.approx(75)
    assert confusion.pixels == 4


def test_a_class_predicted_but_never_labelled_counts_zero():
    confusion = matrix([0, 3], [0, 0])
    np.testing.assert_allclose(confusion.iou(), [1 / 2, np.nan, np.nan, 0])
    assert confusion.miou() == pytest.approx(25)


def test_nothing_counted_is_no_number():
    empty = ConfusionMatrix(3)
    assert math.isnan(empty.miou()) and math.isnan(empty.pixel_accuracy())
    assert empty.miou_absent_zero() == 0


def test_adding_matrices_is_adding_images():
    rng = np.random.default_rng(0)
    a, b, c, d = (rng.integers(0, 4, 50) for _ in range(4))
    total = matrix(a, b)
    total += matrix(c, d)
    np.testing.assert_array_equal(
        total.counts, matrix(np.concatenate([a, c]), np.concatenate([b, d])).counts
    )


def test_contradicting_images_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        matrix([0, 1], [0])
    with pytest.raises(ValueError, match="predicted class 7"):
        matrix([7], [0])


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_confusion_agrees_with_torchmetrics(seed):
    import torch
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    rng = np.random.default_rng(seed)
    predicted, truth = rng.integers(0, 4, (2, 3, 8, 9))
    truth[rng.random(truth.shape) < 0.2] = 255
    expected = multiclass_confusion_matrix(
        torch.from_numpy(predicted), torch.from_numpy(truth), num_classes=4, ignore_index=255
    )
    np.testing.assert_array_equal(matrix(predicted, truth).counts, expected.numpy())


def test_calibration_error_by_hand():
    calibration = Calibration(2)
    # Half the pixels at full confidence and right, half at 51/255 = 0.2 and wrong.
    calibration.add(
        np.array([1, 1, 0, 0], np.uint8),
        np.array([255, 255, 51, 51], np.uint8),
        np.array([1, 1, 1, 1], np.uint8),
    )
    assert calibration.ece() == pytest.approx(0.5 * 0.0 + 0.5 * 0.2)
    assert math.isnan(Calibration(2).ece())


def test_full_confidence_is_in_the_last_bin():
    calibration = Calibration(2)
    calibration.add(
        np.array([1, 1], np.uint8), np.array([255, 243], np.uint8), np.array([1, 0], np.uint8)
    )
    (last,) = calibration.bins(15)
    assert (last.pixels, last.accuracy) == (2, 0.5)
    assert last.confidence == pytest.approx((255 + 243) / 510)


def test_labels_that_are_no_class_count_for_nothing():
    calibration, confusion = Calibration(4), ConfusionMatrix(4)
    predicted, sure = np.ones(8, np.uint8), np.full(8, 255, np.uint8)
    truth = np.array([1, 1, 1, 1, 22, 22, 255, 4], np.uint8)
    calibration.add(predicted, sure, truth)
    confusion.add(predicted, truth)
    assert confusion.pixel_accuracy() == 100
    assert calibration.ece() == 0
    assert [b.pixels for b in calibration.bins()] == [4]
