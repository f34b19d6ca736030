"""The synchronizer as a ``message_filters`` filter that goes on when a topic stops."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rclpy.node import Node

from anyseg_ros.ros.deadline_timer import DeadlineTimer
from anyseg_ros.ros.messages import MessageError, stamp_ns
from anyseg_ros.ros.stand_ins import SimpleFilter
from anyseg_ros.sync import (
    DropReason,
    MatchedSet,
    StreamConfig,
    StreamCounters,
    StreamStatus,
    Synchronizer,
    steady_clock,
)


@dataclass(frozen=True)
class InputStatistics:
    """One input at one moment."""

    status: StreamStatus
    """state, reason, age, rate"""
    counters: StreamCounters
    """what became of its messages"""


class LiveTimeSynchronizer(SimpleFilter):  # type: ignore[misc, unused-ignore]
    """Matches messages of several filters by their stamps, from whichever of them are live.

    Used like ``message_filters.ApproximateTimeSynchronizer``::

        camera = message_filters.Subscriber(node, Image, "camera/image")
        lidar = message_filters.Subscriber(node, PointCloud2, "lidar/points")
        sync = LiveTimeSynchronizer([camera, lidar], queue_size=30, slop=0.05)
        sync.registerCallback(on_set)  # on_set(image, cloud), None for what is not there

    The inputs stand in order of preference: the first that is live and keeps its pace sets that of
    the output, a set for each of its messages. Where an input is silent, or has no message that fits,
    the callback gets ``None`` in its place. ``docs/synchronizer.md`` says what is always true.

    Callbacks of sets are called one at a time and in order, on the thread whose message or timer completed
    the set. If they are slower than the inputs, the oldest waiting set makes room (``skipped_sets``).
    """

    def __init__(
        self,
        fs: Sequence[Any],
        queue_size: int,
        slop: float,
        allow_headerless: bool = False,
        *,
        timeout: float = 0.5,
        max_age: float | None = None,
        max_wait: float = 0.1,
        configs: Sequence[StreamConfig] | None = None,
        node: Node | None = None,
        now_ns: Callable[[], int] | None = None,
    ) -> None:
        """Connect the inputs.

        Args:
            fs: filters, that is anything with ``registerCallback``; the preferred anchor first.
            queue_size: messages kept an input, and sets kept for callbacks that are slow.
            slop: seconds that a message may differ from the anchor's.
            allow_headerless: messages without header are stamped on receipt; else they are an error.
            timeout: seconds of silence after which an input counts as dropped.
            max_age: seconds that an input's last message may be held when none matches; None: slop.
            max_wait: seconds that a set waits for an input that is usually late.
            configs: one an input, instead of slop, timeout and max_age.
            node: whose timer completes sets when nothing arrives; None: that of the first
                ``Subscriber`` among the inputs. Without any, call :meth:`poll` now and then.
            now_ns: clock of receipt, nanoseconds; None: :func:`~anyseg_ros.sync.steady_clock`, or
                ``/clock`` if the node uses it.

        Raises:
            ValueError: if there is no input, or a number is out of range.
        """
        super().__init__()
        if configs is None:
            age = slop if max_age is None else max_age
            configs = [StreamConfig(timeout, slop, max(age, 1e-3))] * len(fs)
        if len(configs) != len(fs):
            raise ValueError(f"{len(fs)} inputs but {len(configs)} configs")
        self.names = _names(fs)
        """The inputs' topics, or "input 0" and so on."""
        self._synchronizer: Synchronizer[str] = Synchronizer(
            dict(zip(self.names, configs, strict=True)),
            priority=self.names,
            max_wait_s=max_wait,
            on_drop=self._on_drop,
            buffer_size=queue_size,
        )
        self._lock = threading.RLock()
        self._allow_headerless = allow_headerless
        self._drop_callbacks: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self._set_callbacks: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self._outgoing: deque[MatchedSet[str]] = deque(maxlen=queue_size)
        self._delivering = False
        self.skipped_sets = 0
        """Sets that made room for newer ones because callbacks were slow."""
        if node is None:
            node = next((f.node for f in fs if isinstance(getattr(f, "node", None), Node)), None)
        self._node = node
        sim_time = False
        if now_ns is None:
            now_ns = steady_clock()
            if node is not None and node.get_parameter("use_sim_time").value:
                sim_time = True
                clock = node.get_clock()

                def now_ns() -> int:
                    return int(clock.now().nanoseconds)

        self._now_ns = now_ns
        self._timer = None if node is None else DeadlineTimer(node, self.poll, sim_time)
        self.input_connections = [
            f.registerCallback(self.add, name) for f, name in zip(fs, self.names, strict=True)
        ]

    # --- output -------------------------------------------------------------------------------

    def registerSetCallback(self, cb: Callable[..., Any], *args: Any) -> None:  # noqa: N802
        """Call ``cb(matched, *args)`` with each set as a whole: ages, held messages, the anchor."""
        self._set_callbacks.append((cb, args))

    def registerDropCallback(self, cb: Callable[..., Any], *args: Any) -> None:  # noqa: N802
        """Call ``cb(name, stamp_ns, reason, *args)`` for each message that ends in no set.

        ``reason`` is a :class:`~anyseg_ros.sync.DropReason`. The callback must not add messages.
        """
        self._drop_callbacks.append((cb, args))

    def statistics(self) -> dict[str, InputStatistics]:
        """State, age, rate and the fate of the messages, an entry an input."""
        with self._lock:
            statuses = self._synchronizer.status(self._now_ns())
            counters = self._synchronizer.counters
            return {
                name: InputStatistics(
                    statuses[name], replace(counters[name], dropped=dict(counters[name].dropped))
                )
                for name in self.names
            }

    @property
    def sets(self) -> int:
        """Sets given out."""
        return self._synchronizer.sets

    @property
    def complete_sets(self) -> int:
        """Sets to which every input contributed."""
        return self._synchronizer.complete_sets

    # --- control ------------------------------------------------------------------------------

    def quarantine(self, name: str, reason: str) -> None:
        """Leave an input out, though it arrives, until :meth:`release`."""
        with self._lock:
            self._synchronizer.quarantine(name, reason)

    def release(self, name: str) -> None:
        """Use a quarantined input again."""
        with self._lock:
            self._synchronizer.release(name)

    def close(self) -> None:
        """Stop the timer. The inputs stay connected, as ``message_filters`` knows no other way."""
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    # --- input --------------------------------------------------------------------------------

    def add(self, message: Any, name: str) -> None:
        """Take in a message of an input; what the inputs call.

        Raises:
            ValueError: if it has no header and ``allow_headerless`` is not set.
        """
        with self._lock:
            now = self._now_ns()
            header = getattr(message, "header", None)
            if header is None and not self._allow_headerless:
                raise ValueError(
                    f"a message of {name} has no header, so no stamp to match; set allow_headerless "
                    "to stamp it on receipt"
                )
            try:
                stamp = now if header is None else stamp_ns(header.stamp)
            except MessageError:  # a driver that does not stamp: counted, and no reason to stop
                sets = self._synchronizer.refuse(name, now)
            else:
                sets = self._synchronizer.add(name, stamp, message, now)
            self._enqueue(sets, now)
        self._deliver()

    def poll(self) -> None:
        """Give out what time alone has completed."""
        with self._lock:
            now = self._now_ns()
            self._enqueue(self._synchronizer.poll(now), now)
        self._deliver()

    def _enqueue(self, sets: Sequence[MatchedSet[str]], now: int) -> None:
        for matched in sets:
            self.skipped_sets += len(self._outgoing) == self._outgoing.maxlen
            self._outgoing.append(matched)
        if self._timer is not None:
            self._timer.arm(self._synchronizer.next_deadline_ns(), now)

    def _deliver(self) -> None:
        """Call back without holding the lock; a call from within, or of another thread, only queues."""
        with self._lock:
            if self._delivering:
                return
            self._delivering = True
        try:
            while True:
                with self._lock:
                    if not self._outgoing:
                        self._delivering = False
                        return
                    matched = self._outgoing.popleft()
                for callback, args in self._set_callbacks:
                    callback(matched, *args)
                self.signalMessage(*_in_order(matched.members, self.names))
        except BaseException:
            self._delivering = False
            raise

    def _on_drop(self, name: str, stamp: int, reason: DropReason) -> None:
        for callback, args in self._drop_callbacks:
            callback(name, stamp, reason, *args)


def _names(fs: Sequence[Any]) -> list[str]:
    names: list[str] = []
    for index, one in enumerate(fs):
        name = one.getTopic() if hasattr(one, "getTopic") else f"input {index}"
        names.append(f"{name} ({index})" if name in names else name)
    return names


def _in_order(members: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    return [members[name].message if name in members else None for name in names]
