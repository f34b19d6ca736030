"""Boundary F1: how well the outlines of the classes agree (Csurka et al., BMVC 2013)."""

from __future__ import annotations

import math
from typing import Any

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
        self._bits: np.dtype[np.unsignedinteger] = np.dtype("u4" if classes <= 32 else "u8")
        self._predicted = np.zeros(classes, np.int64)
        self._predicted_near = np.zeros(classes, np.int64)
        self._true = np.zeros(classes, np.int64)
        self._true_near = np.zeros(classes, np.int64)

    def add(self, predicted: LabelImage, truth: LabelImage) -> None:
        """Count one pair of label images uint8[H, W]; pixels without truth (255) count on no side."""
        valid = truth < self._classes
        reach = max(1, round(self._tolerance * math.hypot(*truth.shape)))
        bits_of: list[npt.NDArray[Any]] = [
            self._outline_bits(predicted, valid),
            self._outline_bits(truth, valid),
        ]
        for image, mine, others, outline, near in (
            (predicted, *bits_of, self._predicted, self._predicted_near),
            (truth, *reversed(bits_of), self._true, self._true_near),
        ):
            met = (mine & _spread(others, reach)) != 0
            on_outline = mine != 0
            outline += np.bincount(image[on_outline], minlength=256)[: self._classes]
            near += np.bincount(image[met], minlength=256)[: self._classes]

    def __iadd__(self, other: BoundaryScore) -> BoundaryScore:
        self._predicted += other._predicted
        self._predicted_near += other._predicted_near
        self._true += other._true
        self._true_near += other._true_near
        return self

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

    def _outline_bits(self, labels: LabelImage, valid: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
        """One bit a class, set where a pixel of that class touches a pixel of another."""
        edge = np.zeros(labels.shape, bool)
        # What lies under unlabelled pixels is unknown: their border is the outline of nothing.
        down = (labels[1:] != labels[:-1]) & valid[1:] & valid[:-1]
        right = (labels[:, 1:] != labels[:, :-1]) & valid[:, 1:] & valid[:, :-1]
        edge[1:] |= down
        edge[:-1] |= down
        edge[:, 1:] |= right
        edge[:, :-1] |= right
        table = np.zeros(256, self._bits)
        table[: self._classes] = [1 << c for c in range(self._classes)]
        bits: npt.NDArray[Any] = np.where(edge, table[labels], self._bits.type(0))
        return bits


def _spread(bits: npt.NDArray[Any], reach: int) -> npt.NDArray[Any]:
    """Bits of all pixels within a square of ``2 * reach + 1`` pixels."""
    for axis in (0, 1):
        done = 0
        while done < reach:
            # Doubling: after steps 1, 2, 4, ... every offset up to their sum is covered.
            step = min(done + 1, reach - done)
            wide = bits.copy()
            if axis == 0:
                wide[step:] |= bits[:-step]
                wide[:-step] |= bits[step:]
            else:
                wide[:, step:] |= bits[:, :-step]
                wide[:, :-step] |= bits[:, step:]
            bits = wide
            done += step
    return bits
