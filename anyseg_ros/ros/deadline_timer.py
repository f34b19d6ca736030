"""A timer that wakes up when a synchronizer next has something to decide."""

from __future__ import annotations

from collections.abc import Callable

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node

_SIM_TIME_POLL_NS = 10_000_000
_IDLE_POLL_NS = 100_000_000
_SHORTEST_POLL_NS = 500_000


class DeadlineTimer:
    """Calls back at a deadline that changes with every message, and every 0.1 s without one."""

    def __init__(self, node: Node, on_due: Callable[[], None]) -> None:
        self._node = node
        self._timer = node.create_timer(
            _IDLE_POLL_NS / 1e9, on_due, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def arm(self, deadline_ns: int | None, now_ns: int, sim_time: bool) -> None:
        """Set when to call next.

        Args:
            deadline_ns: as ``Synchronizer.next_deadline_ns`` gives it.
            now_ns: the present on the same clock.
            sim_time: that clock is ``/clock``, and how fast it will run nobody knows.
        """
        if sim_time:
            wait = _SIM_TIME_POLL_NS
        elif deadline_ns is None:
            wait = _IDLE_POLL_NS
        else:
            wait = min(max(deadline_ns - now_ns, _SHORTEST_POLL_NS), _IDLE_POLL_NS)
        self._timer.timer_period_ns = wait
        self._timer.reset()

    def close(self) -> None:
        """Remove the timer."""
        self._node.destroy_timer(self._timer)
