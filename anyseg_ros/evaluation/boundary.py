"""Boundary F1: how well the outlines of the classes agree (Csurka et al., BMVC 2013)."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

LabelImage = npt.NDArray[np.uint8]
_MAX_CLASSES = 64


class BoundaryScore:
    """Counts outline pixels of each class that have the other image's outline of that class near.

    Counts are summed over images before precision and recall are taken.
    """

    def __init__(self, classes: int, tolerance: float = 0.0075) -> None:
        """Set up.

        Args:
            classes: number of classes, at most 64.
            tolerance: how near, as a share of the image's diagonal.
        """
        if classes > _MAX_CLASSES:
            raise ValueError(f"{classes} classes; at most {_MAX_CLASSES} fit into a pixel's bits")
        self._classes = classes
        self._tolerance = tolerance
        self._predicted = np.zeros(classes, np.int64)
        self._predicted_near = np.zeros(classes, np.int64)
        self._true = np.zeros(classes, np.int64)
        self._true_near = np.zeros(classes, np.int64)

    def add(self, predicted: LabelImage, truth: LabelImage) -> None:
        """Count one pair of label images uint8[H, W]; pixels without truth (255) count on no side."""
        valid = truth < self._classes
        # What lies under unlabelled pixels is unknown: it makes no outline.
        predicted = np.where(valid, predicted, 255).astype(np.uint8)
        reach = max(1, round(self._tolerance * math.hypot(*truth.shape)))
        for image, other, outline, near in (
            (predicted, truth, self._predicted, self._predicted_near),
            (truth, predicted, self._true, self._true_near),
        ):
            mine, others = self._outline_bits(image), self._outline_bits(other)
            met = (mine & _spread(others, reach)) != 0
            on_outline = mine != 0
            outline += np.bincount(image[on_outline], minlength=256)[: self._classes]
            near += np.bincount(image[met], minlength=256)[: self._classes]

    def f1(self) -> npt.NDArray[np.float64]:
        """F1 of each class, 0..1; NaN for a class without a true outline."""
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = self._predicted_near / np.maximum(self._predicted, 1)
            recall = self._true_near / np.maximum(self._true, 1)
            score = np.nan_to_num(2 * precision * recall / (precision + recall))
        score[self._true == 0] = np.nan
        return score

    def mean(self) -> float:
        """Mean F1 in percent over classes with a true outline; NaN if there is none."""
        values = self.f1()
        known = ~np.isnan(values)
        return float(100 * values[known].mean()) if known.any() else float("nan")

    def _outline_bits(self, labels: LabelImage) -> npt.NDArray[np.uint64]:
        """One bit a class, set where a pixel of that class touches a pixel of another."""
        edge = np.zeros(labels.shape, bool)
        down = labels[1:] != labels[:-1]
        right = labels[:, 1:] != labels[:, :-1]
        edge[1:] |= down
        edge[:-1] |= down
        edge[:, 1:] |= right
        edge[:, :-1] |= right
        known = labels < self._classes
        bits = np.left_shift(np.uint64(1), np.minimum(labels, 63).astype(np.uint64))
        return np.where(edge & known, bits, np.uint64(0))


def _spread(bits: npt.NDArray[np.uint64], reach: int) -> npt.NDArray[np.uint64]:
    """Bits of all pixels within a square of ``2 * reach + 1`` pixels."""
    for axis in (0, 1):
        done = 0
        wide = bits.copy()
        while done < reach:
            # Doubling: after steps 1, 2, 4, ... every offset up to their sum is covered.
            step = min(done + 1, reach - done)
            forward, back = np.zeros_like(wide), np.zeros_like(wide)
            if axis == 0:
                forward[step:], back[:-step] = wide[:-step], wide[step:]
            else:
                forward[:, step:], back[:, :-step] = wide[:, :-step], wide[:, step:]
            wide = wide | forward | back
            done += step
        bits = wide
    return bits
