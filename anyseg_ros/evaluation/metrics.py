"""Segmentation metrics in numpy, shared by training and runtime: mIoU by two rules, calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


class ConfusionMatrix:
    """Counts of (true class, predicted class) over all pixels that are not ignored."""

    def __init__(self, classes: int) -> None:
        self.counts: npt.NDArray[np.int64] = np.zeros((classes, classes), np.int64)
        """int64[classes, classes]; rows are true classes, columns predicted ones"""

    def add(self, predicted: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8]) -> None:
        """Count the pixels of one or more images.

        Args:
            predicted: class ids, uint8 of any shape; each below the number of classes.
            truth: class ids of the same shape; ids outside the class set (255) are ignored.

        Raises:
            ValueError: if the shapes differ, or a predicted id is no class.
        """
        if predicted.shape != truth.shape:
            raise ValueError(
                f"prediction {predicted.shape} and truth {truth.shape} differ in shape"
            )
        classes = len(self.counts)
        valid = truth < classes
        kept = predicted[valid].astype(np.int64)
        if kept.size and int(kept.max()) >= classes:
            raise ValueError(f"predicted class {int(kept.max())}, but there are only {classes}")
        pairs = truth[valid].astype(np.int64) * classes + kept
        self.counts += np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)

    def __iadd__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        self.counts += other.counts
        return self

    @property
    def pixels(self) -> int:
        """Number of pixels counted."""
        return int(self.counts.sum())

    def iou(self) -> FloatArray:
        """Intersection over union of each class, 0..1; NaN for a class neither labelled nor predicted.

        A class that is predicted but not labelled counts 0.
        """
        hits = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(axis=1) + self.counts.sum(axis=0) - hits
        result = np.full(len(hits), np.nan)
        np.divide(hits, union, out=result, where=union > 0)
        return result

    def miou(self) -> float:
        """Mean IoU in percent over the classes labelled or predicted somewhere; NaN if there is none."""
        values = self.iou()
        present = ~np.isnan(values)
        return float(100.0 * values[present].mean()) if present.any() else float("nan")

    def miou_absent_zero(self) -> float:
        """Mean IoU in percent over all classes, absent ones counting 0, as DeLiVER's and AnySeg's code do."""
        return float(100.0 * np.nan_to_num(self.iou()).mean())

    def pixel_accuracy(self) -> float:
        """Share of counted pixels that are right, in percent; NaN if none was counted."""
        return float(100.0 * np.trace(self.counts) / self.pixels) if self.pixels else float("nan")


@dataclass(frozen=True)
class ReliabilityBin:
    """One bin of confidences."""

    pixels: int
    confidence: float
    """mean, 0..1"""
    accuracy: float
    """share of right pixels, 0..1"""


class Calibration:
    """Expected calibration error of byte confidences (Guo et al. 2017, arXiv 1706.04599)."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._pixels = np.zeros(256, np.int64)
        self._hits = np.zeros(256, np.int64)

    def add(
        self,
        predicted: npt.NDArray[np.uint8],
        confidence: npt.NDArray[np.uint8],
        truth: npt.NDArray[np.uint8],
    ) -> None:
        """Count pixels: class ids, confidences (255 is 1) and true ids, uint8 of one shape.

        True ids outside the class set (255) are ignored.
        """
        if not predicted.shape == confidence.shape == truth.shape:
            raise ValueError(
                f"prediction {predicted.shape}, confidence {confidence.shape} and truth "
                f"{truth.shape} differ in shape"
            )
        valid = truth < self._classes
        levels = confidence[valid]
        self._pixels += np.bincount(levels, minlength=256)
        self._hits += np.bincount(levels[predicted[valid] == truth[valid]], minlength=256)

    def bins(self, count: int = 15) -> list[ReliabilityBin]:
        """Equal-width bins over 0..1, lowest first; empty bins are left out."""
        value = np.arange(256) / 255.0
        index = np.minimum((value * count).astype(int), count - 1)
        pixels = np.bincount(index, self._pixels, count)
        hits = np.bincount(index, self._hits, count)
        total = np.bincount(index, self._pixels * value, count)
        return [
            ReliabilityBin(int(n), float(t / n), float(h / n))
            for n, h, t in zip(pixels, hits, total, strict=True)
            if n
        ]

    def ece(self, count: int = 15) -> float:
        """Mean gap between confidence and accuracy over bins, weighted by pixels, 0..1; NaN if empty."""
        bins = self.bins(count)
        pixels = sum(b.pixels for b in bins)
        if not pixels:
            return float("nan")
        return sum(b.pixels * abs(b.confidence - b.accuracy) for b in bins) / pixels
