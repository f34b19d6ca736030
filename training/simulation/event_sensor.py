"""The event camera: a pixel reports when its log luminance has moved by a threshold.

``l = log(Y + EPSILON)`` of the luminance ``Y`` is known at the sub-frames and taken as linear between
them; whenever it crosses ``ref + k theta`` (or ``ref - k theta``), an event is stamped at the crossing
and ``ref`` moves there. ``theta`` varies by :data:`THRESHOLD_SPREAD` from pixel to pixel and stays with
the sensor. In the dark the photoreceptor is slow: ``l`` passes a first-order low-pass with the weather's
cut-off. Noise events of random polarity come at the weather's rate. A pixel gives at most
:data:`MOST_A_STEP` events between two sub-frames (refractory limit). Event rate control: of ``n`` events
between two sub-frames a sensor with a limited rate keeps a random share ``min(1, limit dt / n)``.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from anyseg_ros.modalities.sensor_data import EventPacket
from training.simulation import failures
from training.simulation.atmosphere import Radiance, luminance
from training.simulation.weather import Weather

THRESHOLD_SPREAD = 0.04
EPSILON = 0.02
LENS_SIGMA_PX = 0.7
MOST_A_STEP = 5

Floats = npt.NDArray[np.floating[Any]]


class EventSensor:
    """State of an event camera between sub-frames."""

    def __init__(
        self,
        width: int,
        height: int,
        weather: Weather,
        failure: str | None,
        pixel_rng: np.random.Generator,
        threshold: float,
        limit_hz: float = math.inf,
    ) -> None:
        """A sensor that has seen nothing yet.

        Args:
            width: pixels.
            height: pixels.
            weather: sets noise and bandwidth.
            failure: only ``"event_low_resolution"`` matters here.
            pixel_rng: draws the pixels' thresholds, the same for the same sensor.
            threshold: mean contrast threshold in log luminance.
            limit_hz: rate above which it drops events.
        """
        self._block = failures.EVENT_BLOCK if failure == "event_low_resolution" else 1
        self._weather = weather
        self._limit_hz = limit_hz
        self._shape = (height // self._block, width // self._block)
        deviation = 1 + THRESHOLD_SPREAD * pixel_rng.standard_normal((height, width))
        spread = deviation.astype(np.float32)[: self._shape[0], : self._shape[1]]
        self._threshold = np.float32(threshold) * np.clip(spread, 0.5, 1.5)
        self._reference: Floats | None = None
        self._last: Floats | None = None
        self._last_ns = 0

    def _log(self, light: Radiance) -> Floats:
        value = np.asarray(cv2.GaussianBlur(luminance(light), (5, 5), LENS_SIGMA_PX), np.float32)
        value = np.log(value + np.float32(EPSILON))
        return value if self._block == 1 else failures.bin_pixels(value.astype(np.float32))

    def see(self, stamp_ns: int, light: Radiance, rng: np.random.Generator) -> EventPacket:
        """Take the next sub-frame; returns the events since the one before, in order of time.

        Args:
            stamp_ns: its time, later than the one before.
            light: linear RGB at the lens, float32[H, W, 3].
            rng: source of noise events.
        """
        value = self._log(light)
        if self._last is None or self._reference is None:
            # Where within its threshold a pixel stands is unknown when it is switched on.
            phase = rng.uniform(-0.5, 0.5, self._shape).astype(np.float32)
            self._reference = value + phase * self._threshold
            self._last, self._last_ns = value, stamp_ns
            return _packet([], [], [], [])
        step_ns = stamp_ns - self._last_ns
        if self._weather.event_cutoff_hz > 0:
            blend = 1 - math.exp(-2 * math.pi * self._weather.event_cutoff_hz * step_ns * 1e-9)
            value = self._last + np.float32(blend) * (value - self._last)
        moved = (value - self._reference) / self._threshold
        counts = np.clip(np.trunc(moved), -MOST_A_STEP, MOST_A_STEP).astype(np.int32)
        rows, columns = np.nonzero(counts)
        number = counts[rows, columns]
        repeats = np.abs(number)
        index = np.repeat(np.arange(len(rows)), repeats)
        # 1, 2, ... within each pixel
        order = np.arange(len(index)) - np.repeat(np.cumsum(repeats) - repeats, repeats) + 1
        sign = np.sign(number)[index]
        r, c = rows[index], columns[index]
        level = self._reference[r, c] + sign * order * self._threshold[r, c]
        start, change = self._last[r, c], (value - self._last)[r, c]
        fraction = np.clip((level - start) / np.where(change == 0, 1, change), 0, 1)
        reference = self._reference + counts * self._threshold
        # What the refractory limit swallowed is lost, not saved up.
        saturated = np.abs(moved) >= MOST_A_STEP + 1
        self._reference = np.where(saturated, value, reference)
        noise = rng.poisson(
            self._weather.event_noise_hz * step_ns * 1e-9 * self._shape[0] * self._shape[1]
        )
        r = np.concatenate([r, rng.integers(0, self._shape[0], noise)])
        c = np.concatenate([c, rng.integers(0, self._shape[1], noise)])
        sign = np.concatenate([sign, rng.choice((-1, 1), noise)])
        fraction = np.concatenate([fraction, rng.random(noise)])
        stamps = self._last_ns + np.rint(fraction * step_ns).astype(np.int64)
        self._last, self._last_ns = value, stamp_ns
        by_time = np.argsort(stamps, kind="stable")
        most = self._limit_hz * step_ns * 1e-9
        if len(by_time) > most:
            by_time = by_time[rng.random(len(by_time)) < most / len(by_time)]
        centre = self._block // 2
        return _packet(
            (c * self._block + centre)[by_time],
            (r * self._block + centre)[by_time],
            (sign > 0)[by_time],
            stamps[by_time],
        )


def _packet(
    x: npt.ArrayLike, y: npt.ArrayLike, polarity: npt.ArrayLike, stamp_ns: npt.ArrayLike
) -> EventPacket:
    return EventPacket(
        np.asarray(x).astype(np.uint16),
        np.asarray(y).astype(np.uint16),
        np.asarray(polarity).astype(np.uint8),
        np.asarray(stamp_ns).astype(np.int64),
    )


def join_packets(packets: list[EventPacket]) -> EventPacket:
    """Consecutive packets as one."""
    if not packets:
        return _packet([], [], [], [])
    return EventPacket(
        np.concatenate([p.x for p in packets]),
        np.concatenate([p.y for p in packets]),
        np.concatenate([p.polarity for p in packets]),
        np.concatenate([p.stamp_ns for p in packets]),
    )
