"""The RGB camera: lens blur, automatic exposure, photon and read noise, gamma.

``v = 255 clip(s + n)^(1/2.2)`` with the signal ``s = g L``; the noise ``n`` is Gaussian with variance
``SHOT g s + (READ g)^2``, so that the gain that makes night visible also makes it grainy.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from training.simulation.atmosphere import Radiance, luminance

SHOT = 2.5e-4
READ = 2.0e-3
LENS_SIGMA_PX = 0.55
TARGET_MEAN = 0.21
GAIN_RANGE = (0.7, 9.0)

_ENCODE = (255 * (np.arange(4097) / 4096) ** (1 / 2.2) + 0.5).astype(np.uint8)


def automatic_gain(light: Radiance) -> float:
    """Gain that brings the mean luminance, highlights clipped, to :data:`TARGET_MEAN`."""
    mean = float(np.minimum(luminance(light), 1.0).mean())
    return float(np.clip(TARGET_MEAN / max(mean, 1e-6), *GAIN_RANGE))


def expose(light: Radiance, failure_gain: float, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Take a picture.

    Args:
        light: linear RGB at the lens, float32[H, W, 3].
        failure_gain: factor of an exposure failure, 1 if there is none.
        rng: source of the noise.

    Returns:
        uint8[H, W, 3], gamma-encoded RGB.
    """
    light = np.asarray(cv2.GaussianBlur(light, (3, 3), LENS_SIGMA_PX), np.float32)
    gain = automatic_gain(light)
    # A wrong exposure time changes the photons collected, not the gain that amplifies the noise.
    signal = light * np.float32(gain * failure_gain)
    variance = SHOT * gain * np.minimum(signal, 1.0) + (READ * gain) ** 2
    noise = rng.standard_normal(signal.shape, dtype=np.float32) * np.sqrt(variance)
    value = np.clip(signal + noise, 0, 1)
    encoded: npt.NDArray[np.uint8] = _ENCODE[(value * 4096 + 0.5).astype(np.int32)]
    return encoded
