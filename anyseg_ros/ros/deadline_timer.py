"""A timer that wakes up when a synchronizer next has something to decide."""

from __future__ import annotations

from collections.abc import Callable

from rclpy.clock import Clock, JumpHandle, JumpThreshold, TimeJump
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.node import Node

_IDLE_POLL_NS = 100_000_000
_SHORTEST_POLL_NS = 500_000


class DeadlineTimer:
    """Calls back at a deadline that changes with every message, and every 0.1 s in any case.

    Args:
        node: whose executor calls.
        on_due: what is called.
        sim_time: deadlines are on ``/clock``. How fast that runs nobody knows, so it is asked at each of its
            messages instead of waiting; one that jumps back is due as well.
    """

    def __init__(self, node: Node, on_due: Callable[[], None], sim_time: bool = False) -> None:
        self._node = node
        self._clock: Clock | None = node.get_clock() if sim_time else None
        self._deadline_ns: int | None = None
        self._timer = node.create_timer(
            _IDLE_POLL_NS / 1e9, on_due, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._jumps: JumpHandle | None = None
        if self._clock is not None:
            # The clock is locked while it tells of a jump: the executor makes the call.
            self._due = node.create_guard_condition(on_due)
            self._jumps = self._clock.create_jump_callback(
                JumpThreshold(
                    min_forward=Duration(nanoseconds=1),
                    min_backward=Duration(nanoseconds=-1),
                    on_clock_change=False,
                ),
                post_callback=self._on_clock,
            )

    def arm(self, deadline_ns: int | None, now_ns: int) -> None:
        """Set when to call next.

        Args:
            deadline_ns: as ``Synchronizer.next_deadline_ns`` gives it.
            now_ns: the present on the same clock.
        """
        self._deadline_ns = deadline_ns
        if self._clock is not None:
            return
        if deadline_ns is None:
            wait = _IDLE_POLL_NS
        else:
            wait = min(max(deadline_ns - now_ns, _SHORTEST_POLL_NS), _IDLE_POLL_NS)
        self._timer.timer_period_ns = wait
        self._timer.reset()

    def close(self) -> None:
        """Remove the timer."""
        self._node.destroy_timer(self._timer)
        if self._jumps is not None:
            self._jumps.unregister()
            self._jumps = None
            self._node.destroy_guard_condition(self._due)

    def _on_clock(self, jump: TimeJump) -> None:
        assert self._clock is not None
        due = self._deadline_ns is not None and self._clock.now().nanoseconds >= self._deadline_ns
        if due or jump.delta.nanoseconds < 0:
            self._due.trigger()
