"""The clock to take receipt times from where there is no simulated time."""

from __future__ import annotations

import time
from collections.abc import Callable


def steady_clock() -> Callable[[], int]:
    """A clock in nanoseconds since 1970 that runs evenly, even if the system's time is set meanwhile.

    It shows the system's time at the moment of this call, since that is what stamps are to be near: of
    two streams that contradict each other, the one near receipt time is right.
    """
    offset_ns = time.time_ns() - time.monotonic_ns()
    return lambda: time.monotonic_ns() + offset_ns
