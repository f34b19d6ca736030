"""Parameters of the health checks: what is believed of each sensor, and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anyseg_ros.consistency import ConsistencySettings
from anyseg_ros.health import HealthSettings, HysteresisSettings
from anyseg_ros.modalities.quality import DEFAULT_LIMITS, QualityLimits
from anyseg_ros.modality import MODALITIES, Modality

_HYSTERESIS = HysteresisSettings()
_CONSISTENCY = ConsistencySettings()

SWITCHES: tuple[tuple[str, Any, str, float | None, float | None], ...] = (
    (
        "health.enabled",
        True,
        "Check what the sensors send; a stream that sends nonsense is left out until it recovers.",
        None,
        None,
    ),
    (
        "health.bad_messages",
        _HYSTERESIS.bad_count,
        "Bad messages in a row that quarantine a stream.",
        1,
        1000,
    ),
    (
        "health.bad_time",
        _HYSTERESIS.bad_time_s,
        "Or bad messages in a row, two at least, for so many seconds.",
        0.01,
        60.0,
    ),
    (
        "health.good_messages",
        _HYSTERESIS.good_count,
        "Good messages in a row that release a stream.",
        1,
        1000,
    ),
    (
        "health.good_time",
        _HYSTERESIS.good_time_s,
        "Or good messages in a row, two at least, for so many seconds.",
        0.01,
        60.0,
    ),
    (
        "consistency.every",
        _CONSISTENCY.every,
        "Every so many sets each sensor's own prediction is held against that of the others; 0: never.",
        0,
        100000,
    ),
    (
        "consistency.threshold",
        _CONSISTENCY.threshold,
        "Deviations over its usual disagreement from which on a sensor departs from the others.",
        0.0,
        1000.0,
    ),
)
"""name, default, description, minimum, maximum of each parameter that holds for all sensors"""


@dataclass(frozen=True)
class _Limit:
    field: str
    description: str
    maximum: float
    modalities: tuple[Modality, ...]


_CAMERA, _DEPTH, _EVENT, _LIDAR = MODALITIES
_LIMITS = (
    _Limit(
        "frozen_share",
        "A message that differs from a recent one in less than this share repeats it. 0: never; set "
        "this in a simulation without sensor noise.",
        1.0,
        MODALITIES,
    ),
    _Limit(
        "black_level",
        "Brightness below which 99 % of the pixels lie in a black picture. 0: never.",
        255.0,
        (_CAMERA,),
    ),
    _Limit(
        "saturated_share",
        "Share of pixels at 250 or more beyond which a picture is blinded. 1: never.",
        1.0,
        (_CAMERA,),
    ),
    _Limit(
        "flat_contrast",
        "Standard deviation of brightness (0 to 255) below which a picture is empty. 0: never.",
        255.0,
        (_CAMERA,),
    ),
    _Limit(
        "flat_contrast",
        "Standard deviation of depth over its mean below which a picture is empty. 0: never.",
        1.0,
        (_DEPTH,),
    ),
    _Limit(
        "noise_roughness",
        "How little neighbours may have in common (0 smooth, 1 noise). 2: no check.",
        2.0,
        (_CAMERA, _DEPTH, _LIDAR),
    ),
    _Limit("min_valid_share", "Least share of valid depth pixels. 0: no check.", 1.0, (_DEPTH,)),
    _Limit("min_points", "Least number of points with an echo.", 1e6, (_LIDAR,)),
    _Limit(
        "min_usual_share",
        "Least number of points against the sensor's usual number. 0: no check.",
        1.0,
        (_LIDAR,),
    ),
    _Limit(
        "missing_sectors",
        "Share of the usually filled sectors of 10 degrees that may be without echo. 1: no check.",
        1.0,
        (_LIDAR,),
    ),
    _Limit(
        "burst_factor",
        "Rate of events without structure, against the sensor's usual rate, that is a burst of noise.",
        1e6,
        (_EVENT,),
    ),
    _Limit(
        "burst_clumping",
        "Spatial structure (0: none) below which a packet of events has none. 0: no check.",
        10.0,
        (_EVENT,),
    ),
)


def parameter_values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Values of all health parameters, the defaults where a parameter file's sections say nothing.

    Raises:
        TypeError, ValueError: if a value is of another type.
    """
    specs = [*SWITCHES, *(limit for modality in MODALITIES for limit in limits_of(modality))]
    values = {}
    for name, default, *_ in specs:
        section, key = name.split(".")
        given = parameters.get(section, {}).get(key, default)
        values[name] = type(default)(given)
    return values


def limits_of(modality: Modality) -> list[tuple[str, Any, str, float, float]]:
    """Name, default, description, minimum and maximum of each limit of one sensor."""
    return [
        (
            f"{modality.label}.{limit.field}",
            getattr(DEFAULT_LIMITS[modality], limit.field),
            limit.description,
            0.0,
            limit.maximum,
        )
        for limit in _LIMITS
        if modality in limit.modalities
    ]


def health_settings(values: Mapping[str, Any]) -> HealthSettings:
    """Settings from checked parameter values."""
    limits = {}
    for modality in MODALITIES:
        own = {
            limit.field: values[f"{modality.label}.{limit.field}"]
            for limit in _LIMITS
            if modality in limit.modalities
        }
        limits[modality] = QualityLimits(**own)
    return HealthSettings(
        enabled=values["health.enabled"],
        hysteresis=HysteresisSettings(
            values["health.bad_messages"],
            values["health.bad_time"],
            values["health.good_messages"],
            values["health.good_time"],
        ),
        limits=limits,
    )


def consistency_settings(values: Mapping[str, Any]) -> ConsistencySettings:
    """Settings from checked parameter values; switched off with the other checks."""
    return ConsistencySettings(
        every=values["consistency.every"] if values["health.enabled"] else 0,
        threshold=values["consistency.threshold"],
    )
