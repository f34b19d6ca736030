"""The five weathers: the light they let through and what each does to each sensor.

The constants stand here, the formulas where they act: ``atmosphere`` (everything optical, applied to
the camera's and to each of the event camera's sub-frames), ``depth_sensor``, ``lidar_sensor``,
``event_sensor`` and ``camera_sensor``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

WEATHER_NAMES = ("clear", "cloud", "fog", "night", "rain")


@dataclass(frozen=True)
class Weather:
    """Constants of a weather. Radiances are linear, 1 = white in the midday sun."""

    name: str
    overcast: bool = False
    """A closed grey sky."""
    ambient: float = 0.40
    """Brightness from all sides."""
    sun: float = 1.0
    """Brightness of the directional light."""
    shadows: bool = False
    extinction_per_m: float = 0.0
    """Extinction of visible light; 3 / extinction is the meteorological optical range."""
    airlight: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Radiance that the air itself scatters into a long line of sight."""
    dark: bool = False
    """Lit by head lamps and street lamps only."""
    wetness: float = 0.0
    """0 dry .. 1 mirror-like carriageway."""
    streaks: float = 0.0
    """Rain streaks in a picture, per 1000 pixels."""
    lidar_extinction_per_m: float = 0.0
    """One way, at 905 nm."""
    lidar_backscatter: float = 0.0
    """Mean number of droplets a beam meets near the sensor that return an echo."""
    stereo_noise: float = 1.0
    """Factor on the disparity noise."""
    stereo_dropout: float = 0.0
    """Share of disparities lost to drops, streaks or darkness, on top of extinction."""
    event_noise_hz: float = 0.1
    """Background activity of an event pixel."""
    event_cutoff_hz: float = 0.0
    """Bandwidth of the photoreceptor; 0 for none, it is narrow where there is little light."""
    glow: float = 0.0
    """Strength of the halo around lamps."""


WEATHERS = {
    "clear": Weather("clear", shadows=True),
    "cloud": Weather("cloud", overcast=True, ambient=0.62, sun=0.24, event_noise_hz=0.2),
    "fog": Weather(
        "fog",
        overcast=True,
        ambient=0.62,
        sun=0.1,
        extinction_per_m=0.045,
        airlight=(0.46, 0.48, 0.50),
        lidar_extinction_per_m=0.045,
        lidar_backscatter=0.16,
        stereo_noise=1.3,
        event_noise_hz=0.6,
        glow=0.3,
    ),
    "night": Weather(
        "night",
        overcast=True,
        ambient=0.8,
        sun=0.1,
        dark=True,
        stereo_noise=2.0,
        stereo_dropout=0.03,
        event_noise_hz=1.2,
        event_cutoff_hz=40.0,
        glow=1.0,
    ),
    "rain": Weather(
        "rain",
        overcast=True,
        ambient=0.52,
        sun=0.08,
        extinction_per_m=0.009,
        airlight=(0.30, 0.32, 0.34),
        wetness=0.7,
        streaks=1.1,
        lidar_extinction_per_m=0.006,
        lidar_backscatter=0.05,
        stereo_noise=1.5,
        stereo_dropout=0.04,
        event_noise_hz=0.6,
        glow=0.25,
    ),
}


def draw_weather(name: str, rng: np.random.Generator) -> Weather:
    """A weather of one kind with its strength varied from drive to drive.

    Raises:
        ValueError: if ``name`` is none of :data:`WEATHER_NAMES`.
    """
    if name not in WEATHERS:
        raise ValueError(f"unknown weather {name!r}; expected one of {', '.join(WEATHER_NAMES)}")
    weather = WEATHERS[name]
    strength = float(rng.uniform(0.6, 1.5))
    light = float(rng.uniform(0.9, 1.1))
    tint = tuple(float(v) for v in np.array(weather.airlight) * rng.uniform(0.8, 1.2))
    return replace(
        weather,
        ambient=weather.ambient * light,
        extinction_per_m=weather.extinction_per_m * strength,
        lidar_extinction_per_m=weather.lidar_extinction_per_m * strength,
        lidar_backscatter=weather.lidar_backscatter * strength,
        airlight=(tint[0], tint[1], tint[2]),
        wetness=min(1.0, weather.wetness * strength),
        streaks=weather.streaks * strength,
    )
