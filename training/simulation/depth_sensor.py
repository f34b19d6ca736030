"""The depth camera: a stereo pair that measures disparity.

``d = F / z`` with ``F`` = :data:`FOCAL_BASELINE` in pixel-metres; measured as ``d' = d + n``
rounded to a step of the rig (1/16 pixel or more), with smooth noise ``n`` of ``s`` =
:data:`DISPARITY_SIGMA` pixels. Weather multiplies ``s`` by its factor and by ``1 / T``, with the
transmission ``T = exp(-beta z)``: contrast, which the match lives on, falls with it. Invalid (0)
are: what lies beyond :data:`RANGE_M` or reads more than :data:`LARGEST_M`; what the second lens
cannot see; where ``T`` is under :data:`LEAST_CONTRAST`; the share that drops and darkness take. At
night, only what lamps light can be matched: the lost share grows as ``z`` / 110 m.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from training.simulation.weather import Weather

FOCAL_BASELINE = 200.0
BASELINE_SHIFT = 20.0
"""Pixel-metres of the shift between both lenses at the resolution of the depth picture."""
DISPARITY_SIGMA = 0.08
RANGE_M = 70.0
LARGEST_M = 65.5
"""Farther readings have no place in 16 bits of millimetres, and would come back as near ones."""
LEAST_CONTRAST = 0.09


def _smooth_noise(
    rng: np.random.Generator, shape: tuple[int, int], cell: int
) -> npt.NDArray[np.float32]:
    """Unit Gaussian noise with features of about ``cell`` pixels."""
    small = rng.standard_normal((shape[0] // cell + 2, shape[1] // cell + 2), dtype=np.float32)
    grown = cv2.resize(small, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    # Linear interpolation averages the variance down to 4/9.
    return np.asarray(grown * np.float32(1.5), np.float32)


def measure(
    depth_m: npt.NDArray[np.float32], weather: Weather, steps: int, rng: np.random.Generator
) -> npt.NDArray[np.uint16]:
    """Measured depth.

    Args:
        depth_m: exact z-depth float32[H, W], inf for sky.
        weather: what is in the air.
        steps: disparity steps a pixel.
        rng: source of the noise.

    Returns:
        uint16[H, W], millimetres, 0 invalid (REP 118).
    """
    shape = (depth_m.shape[0], depth_m.shape[1])
    valid = depth_m < RANGE_M
    depth = np.where(valid, depth_m, np.float32(RANGE_M))
    transmission = np.exp(-weather.extinction_per_m * depth)
    sigma = DISPARITY_SIGMA * weather.stereo_noise / np.maximum(transmission, LEAST_CONTRAST)
    disparity = FOCAL_BASELINE / depth + sigma * _smooth_noise(rng, shape, 3)
    disparity = np.rint(disparity * steps) / steps
    # A pixel is hidden from the second lens when a nearer one to its right lands left of it there.
    landing = np.arange(shape[1], dtype=np.float32) - BASELINE_SHIFT / depth
    nearest = np.minimum.accumulate(landing[:, ::-1], axis=1)[:, ::-1]
    valid &= landing <= nearest + 1.0
    lost = np.full(shape, weather.stereo_dropout, np.float32)
    if weather.dark:
        lost += depth / 110.0
    chance = _smooth_noise(rng, shape, 2)
    valid &= _upper_tail(lost) > chance
    valid &= transmission > LEAST_CONTRAST * (1 + 0.15 * chance)
    valid &= disparity > FOCAL_BASELINE / (1.05 * RANGE_M)
    measured = FOCAL_BASELINE / np.maximum(disparity, 1e-3)
    valid &= measured < LARGEST_M
    return np.where(valid, np.rint(measured * 1000), 0).astype(np.uint16)


def _upper_tail(share: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Value that a unit normal exceeds with probability ``share`` (logistic approximation)."""
    share = np.clip(share, 1e-6, 1 - 1e-6)
    return np.where(share <= 1e-6, 10.0, -np.log(share / (1 - share)) / 1.702).astype(np.float32)
