"""Lengths of time for people: from milliseconds between two sensors to the decades between two clocks."""

from __future__ import annotations

_UNITS = (("years", 365.25 * 86_400.0), ("days", 86_400.0), ("hours", 3600.0))


def in_words(seconds: float) -> str:
    """Seconds in the largest unit of which there are at least two: ``53.6 years``, ``37.0 s``."""
    for name, length in _UNITS:
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {name}"
    return f"{seconds:.1f} s"
