"""Warnings that repeat: each kind is logged at most once in a while.

rclpy throttles by line of code, so that one sensor's warning would hide another's.
"""

from __future__ import annotations

import time
from typing import Any


class ThrottledLog:
    """Warnings with a key each; a key is quiet for a while after it was logged."""

    def __init__(self, logger: Any, quiet_s: float = 5.0) -> None:
        self._logger = logger
        self._quiet_s = quiet_s
        self._logged: dict[str, float] = {}
        self._unlogged: dict[str, int] = {}

    def warning(self, key: str, text: str, quiet_s: float | None = None) -> None:
        """Log ``text`` as a warning, unless ``key`` was logged a moment ago."""
        now = time.monotonic()
        quiet = self._quiet_s if quiet_s is None else quiet_s
        if now - self._logged.get(key, -quiet) < quiet:
            self._unlogged[key] = self._unlogged.get(key, 0) + 1
            return
        unlogged = self._unlogged.pop(key, 0)
        self._logged[key] = now
        self._logger.warning(text + (f" (and {unlogged} more like it)" if unlogged else ""))

    def forget(self) -> None:
        """Log everything anew."""
        self._logged.clear()
        self._unlogged.clear()
