"""What each sensor contributes: exact Shapley values over all subsets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

from anyseg_ros.modality import Modality

Subset = tuple[Modality, ...]


def shapley_values(
    sensors: Sequence[Modality], value: Mapping[Subset, float]
) -> dict[Modality, float]:
    """Each sensor's mean gain over all orders in which sensors could join (Shapley 1953).

    Args:
        sensors: all sensors.
        value: what each non-empty subset (sorted) is worth; the empty one is worth 0. The results
            add up to what all sensors together are worth.

    Raises:
        KeyError: if a subset is missing.
    """
    count = len(sensors)
    result = {}
    for sensor in sensors:
        others = [s for s in sensors if s is not sensor]
        total = 0.0
        for size in range(count):
            weight = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
            for without in combinations(sorted(others), size):
                joined = tuple(sorted((*without, sensor)))
                total += weight * (value[joined] - (value[without] if without else 0.0))
        result[sensor] = total
    return result
