"""The LiDAR: echoes with power, range noise, and what fog and rain take and add.

The echo of a surface at range ``r`` has the power ``P = rho cos(i) exp(-2 beta r) (R0 / r)^2`` with its
reflectivity ``rho`` and ``R0`` = :data:`REFERENCE_M`; it is detected when ``P`` exceeds
:data:`THRESHOLD` (with 20 % log-normal spread). A beam meets a droplet that echoes with probability
``1 - exp(-backscatter)``, at a range drawn from an exponential distribution of mean
:data:`DROPLET_MEAN_M`; the echo replaces the surface's if it lies nearer. A wet carriageway mirrors the
pulse away: its ``P`` is multiplied by ``1 - 0.75 wetness``. Range noise is Gaussian with
:data:`RANGE_SIGMA_M`. Reported is ``intensity = min(1, rho cos(i) exp(-2 beta r))``. A scan is taken at
one instant.
"""

from __future__ import annotations

import numpy as np

from anyseg_ros.classes import CITYSCAPES_19
from anyseg_ros.modalities.sensor_data import LidarScan
from training.simulation import failures
from training.simulation.renderer import Renderer
from training.simulation.weather import Weather

RANGE_M = 90.0
NEAREST_M = 0.8
REFERENCE_M = 60.0
THRESHOLD = 0.022
RANGE_SIGMA_M = 0.015
DROPLET_MEAN_M = 4.5
_ROAD = CITYSCAPES_19.index("road")


def scan(
    renderer: Renderer, weather: Weather, failure: str | None, rng: np.random.Generator
) -> LidarScan:
    """Scan the street as posed now. Points are in the sensor's frame, beam by beam."""
    directions, hits = renderer.lidar_hits(RANGE_M)
    distance = np.minimum(hits.distance_m, RANGE_M)
    loss = np.exp(-2 * weather.lidar_extinction_per_m * distance)
    brightness = hits.reflectivity * np.maximum(hits.cos_incidence, 0.02) * loss
    power = brightness * (REFERENCE_M / np.maximum(distance, 1.0)) ** 2
    power = np.where(hits.labels == _ROAD, power * (1 - 0.75 * weather.wetness), power)
    power *= np.exp(0.2 * rng.standard_normal(len(power)))
    seen = np.isfinite(hits.distance_m) & (power > THRESHOLD)
    ranges = distance + RANGE_SIGMA_M * rng.standard_normal(len(distance))
    droplet = NEAREST_M + rng.exponential(DROPLET_MEAN_M, len(distance))
    drop_brightness = rng.uniform(0.01, 0.08, len(distance))
    meets = rng.random(len(distance)) < 1 - np.exp(-weather.lidar_backscatter)
    meets &= droplet < np.minimum(distance, 25.0)
    ranges = np.where(meets, droplet, ranges)
    brightness = np.where(meets, drop_brightness, brightness)
    seen = (seen | meets) & (ranges > NEAREST_M)
    points = (directions[seen] * ranges[seen, None]).astype(np.float32)
    if failure == "lidar_jitter":
        points = failures.jitter_points(points, rng)
    return LidarScan(points, np.minimum(brightness[seen], 1.0).astype(np.float32))
