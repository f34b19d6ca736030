"""The five sensor failures of DeLiVER, with a formula each. A failure degrades its own sensor only.

=====================  ==============================================================================
motion_blur            camera: mean of the linear pictures at :data:`BLUR_PICTURES` instants over
                       a :data:`BLUR_EXPOSURE_S` exposure centred on the stamp
over_exposure          camera: sensor signal multiplied by 2^u, u in :data:`OVER_STOPS`, then clipped
under_exposure         camera: sensor signal multiplied by 2^-u, u in :data:`UNDER_STOPS`, noise kept
lidar_jitter           LiDAR: p' = R(a, b, c) p + t with each angle within
                       +-:data:`JITTER_DEG` and each shift within +-:data:`JITTER_M`, anew each scan
event_low_resolution   event camera: log luminance averaged over blocks of :data:`EVENT_BLOCK`²
                       pixels, one event a block, reported at the block's centre
=====================  ==============================================================================
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

FAILURES = (
    "motion_blur",
    "over_exposure",
    "under_exposure",
    "lidar_jitter",
    "event_low_resolution",
)

BLUR_EXPOSURE_S = 0.08
BLUR_PICTURES = 7
OVER_STOPS = (1.8, 2.8)
UNDER_STOPS = (3.0, 4.5)
JITTER_DEG = 1.0
JITTER_M = 0.01
EVENT_BLOCK = 4


def check_failure(failure: str | None) -> None:
    """Raise ``ValueError`` if this is neither ``None`` nor one of :data:`FAILURES`."""
    if failure is not None and failure not in FAILURES:
        raise ValueError(f"unknown failure {failure!r}; expected one of {', '.join(FAILURES)}")


def exposure_gain(failure: str | None, rng: np.random.Generator) -> float:
    """Factor on the camera's signal: 1 unless the exposure fails."""
    if failure == "over_exposure":
        return float(2 ** rng.uniform(*OVER_STOPS))
    if failure == "under_exposure":
        return float(2 ** -rng.uniform(*UNDER_STOPS))
    return 1.0


def blur_times(stamp_s: float) -> npt.NDArray[np.float64]:
    """Instants whose pictures a motion-blurred one averages, seconds."""
    return stamp_s + BLUR_EXPOSURE_S * (np.arange(BLUR_PICTURES) / (BLUR_PICTURES - 1) - 0.5)


def jitter_points(
    points_m: npt.NDArray[np.float32], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Points float32[N, 3] of a LiDAR whose mount shakes."""
    limit = np.deg2rad(JITTER_DEG)
    rotation = cv2.Rodrigues(rng.uniform(-limit, limit, 3))[0]
    shift = rng.uniform(-JITTER_M, JITTER_M, 3)
    return (points_m @ rotation.T + shift).astype(np.float32)


def bin_pixels(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Mean over the blocks of a low-resolution event camera; float32[H, W] to [H/4, W/4]."""
    height, width = values.shape[0] // EVENT_BLOCK, values.shape[1] // EVENT_BLOCK
    binned = cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(binned, np.float32)
