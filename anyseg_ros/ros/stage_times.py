"""How long each stage takes, from message to result, as ``/diagnostics`` shows it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import quantiles
from time import perf_counter

_REMEMBERED = 100


class StageTimes:
    """The last 100 durations of each stage. Written by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stages: dict[str, deque[float]] = {}

    def add(self, stage: str, seconds: float) -> None:
        """Note a duration."""
        with self._lock:
            self._stages.setdefault(stage, deque(maxlen=_REMEMBERED)).append(seconds)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Note how long the block takes, if it does not raise."""
        started = perf_counter()
        yield
        self.add(stage, perf_counter() - started)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._stages.clear()

    def values(self) -> dict[str, object]:
        """``<stage>_median_ms`` and ``<stage>_p95_ms``, in the order in which stages were first seen."""
        with self._lock:
            recent = {stage: list(times) for stage, times in self._stages.items()}
        found: dict[str, object] = {}
        for stage, times in recent.items():
            cuts = quantiles(times, n=20, method="inclusive") if len(times) > 1 else times * 19
            found[f"{stage}_median_ms"] = cuts[9] * 1e3
            found[f"{stage}_p95_ms"] = cuts[18] * 1e3
        return found
