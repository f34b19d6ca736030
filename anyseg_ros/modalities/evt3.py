"""Prophesee's EVT 3.0 event stream, decoded with array operations.

Format: https://docs.prophesee.ai/stable/data/encoding_formats/evt3.html. A stream is a sequence of
16-bit words. The upper four bits are the type; each word changes the state (row, column base,
time) or gives events at the present state, so state is carried from one packet to the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_ADDR_Y, _ADDR_X, _BASE_X, _VECT_12, _VECT_8 = 0x0, 0x2, 0x3, 0x4, 0x5
_TIME_LOW, _TIME_HIGH = 0x6, 0x8
_ADDRESS_MASK = 0x7FF
_VALUE_MASK = 0xFFF
_TIME_HIGH_PERIOD = 1 << 12
_UNKNOWN = -(1 << 40)


@dataclass(frozen=True)
class Evt3Events:
    """Events in the order of the stream."""

    x: npt.NDArray[np.uint16]
    y: npt.NDArray[np.uint16]
    polarity: npt.NDArray[np.uint8]
    """uint8[N], 1 = brighter"""
    time_us: npt.NDArray[np.int64]
    """int64[N], the sensor's clock, unwrapped since the decoder's first word"""


class Evt3Decoder:
    """Decodes one sensor's stream, packet after packet."""

    def __init__(self) -> None:
        self.undated = 0
        """Events left out because no row or no time was known yet: the stream was joined midway."""
        self.reset()

    def reset(self) -> None:
        """Forget the state; the next words start a stream."""
        self._y = _UNKNOWN
        self._base_word = 0  # the last VECT_BASE_X: polarity and column
        self._moved = 0  # columns that vectors have covered since
        self._low = 0
        self._high = _UNKNOWN  # unwrapped: counts on over 16.8 s

    def decode(self, words: npt.NDArray[np.uint16]) -> Evt3Events:
        """Decode the next words of the stream, uint16[N]."""
        kind = words >> 12
        is_single = kind == _ADDR_X
        is_8 = kind == _VECT_8
        is_vector = is_8 | (kind == _VECT_12)
        emits = np.flatnonzero(is_single | is_vector)
        emitting = words[emits]
        single = is_single[emits]

        y, self._y = _held(kind == _ADDR_Y, words & _ADDRESS_MASK, self._y, emits)
        low, self._low = _held(kind == _TIME_LOW, words & _VALUE_MASK, self._low, emits)
        is_high = kind == _TIME_HIGH
        high, self._high = _held(is_high, self._unwrapped(words[is_high]), self._high, emits)
        time_us = (high << 12) | low

        first = (emitting & _ADDRESS_MASK).astype(np.int64)
        polarity = (emitting >> 11) & 1
        bits = np.ones(len(emits), np.uint16)
        if is_vector.any():
            base, moved = self._bases(kind == _BASE_X, words, is_vector, is_8)
            vector = ~single
            first[vector] = (base & _ADDRESS_MASK)[vector_at := emits[vector]] + moved[vector_at]
            polarity[vector] = (base[vector_at] >> 11) & 1
            mask = np.where(is_8[vector_at], 0xFF, _VALUE_MASK)
            bits[vector] = emitting[vector] & mask
            word, column = np.nonzero((bits[:, None] >> np.arange(12, dtype=np.uint16)) & 1)
            first = first[word] + column
            y, time_us, polarity, high = y[word], time_us[word], polarity[word], high[word]
        elif len(bases := words[kind == _BASE_X]):
            self._base_word, self._moved = int(bases[-1]), 0

        known = (y != _UNKNOWN) & (high != _UNKNOWN)
        if not known.all():
            self.undated += int(len(known) - np.count_nonzero(known))
            first, y, polarity, time_us = first[known], y[known], polarity[known], time_us[known]
        # Vectors without a new base run out of the sensor; they must not come in again at its left.
        first = np.minimum(first, 0xFFFF)
        return Evt3Events(
            first.astype(np.uint16), y.astype(np.uint16), polarity.astype(np.uint8), time_us
        )

    def _bases(
        self,
        is_base: npt.NDArray[np.bool_],
        words: npt.NDArray[np.uint16],
        is_vector: npt.NDArray[np.bool_],
        is_8: npt.NDArray[np.bool_],
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """At each word: the last VECT_BASE_X, and how far vectors since have moved the column."""
        width = np.where(is_8, 8, 12) * is_vector
        done = np.cumsum(width)
        before = done - width
        everywhere = np.arange(len(words))
        base, self._base_word = _held(is_base, words, self._base_word, everywhere)
        # Columns moved since the base: in all, less those moved when the base was set.
        at_base, last = _held(is_base, before, -self._moved, everywhere)
        self._moved = int(done[-1]) - last
        return base, before - at_base

    def _unwrapped(self, words: npt.NDArray[np.uint16]) -> npt.NDArray[np.int64]:
        """Upper parts of the time, counted on where the sensor's 12 bits wrap."""
        raw = (words & _VALUE_MASK).astype(np.int64)
        if not len(raw):
            return raw
        before = raw[0] if self._high == _UNKNOWN else self._high % _TIME_HIGH_PERIOD
        turns = 0 if self._high == _UNKNOWN else self._high // _TIME_HIGH_PERIOD
        step = np.diff(raw, prepend=before)
        # Back by more than half the range is a wrap; a little back is the sensor's own disorder.
        half = _TIME_HIGH_PERIOD // 2
        turned = turns + np.cumsum((step < -half).astype(np.int64) - (step > half))
        return raw + turned * _TIME_HIGH_PERIOD


def _held(
    changes: npt.NDArray[np.bool_], values: npt.NDArray, before: int, at: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.int64], int]:
    """A state at some words, and at the end.

    Args:
        changes: bool[N], which words set the state.
        values: what each word sets it to, [N], or only those of the words that set it.
        before: the state before the first word.
        at: the words asked for.
    """
    if len(values) == len(changes):
        values = values[changes]
    states = np.concatenate([np.array([before], np.int64), values.astype(np.int64)])
    return states[np.cumsum(changes)[at]], int(states[-1])
