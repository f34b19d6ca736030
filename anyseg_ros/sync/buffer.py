"""The messages of one stream that may still become part of a set, in order of their stamps."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass
class BufferedMessage:
    """A message that waits for a set, or is kept for reuse. Times in nanoseconds."""

    stamp_ns: int
    receipt_ns: int
    message: Any
    used: bool = False


class MessageBuffer:
    """Bounded, sorted by stamp, stamps unique. Not locked: the caller serialises."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._stamps: list[int] = []
        self._entries: list[BufferedMessage] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[BufferedMessage]:
        return iter(self._entries)

    def __contains__(self, stamp_ns: int) -> bool:
        i = bisect_left(self._stamps, stamp_ns)
        return i < len(self._stamps) and self._stamps[i] == stamp_ns

    @property
    def newest(self) -> BufferedMessage | None:
        return self._entries[-1] if self._entries else None

    def get(self, stamp_ns: int) -> BufferedMessage | None:
        """The message with exactly this stamp."""
        i = bisect_left(self._stamps, stamp_ns)
        return self._entries[i] if stamp_ns in self else None

    def insert(self, entry: BufferedMessage) -> list[BufferedMessage]:
        """Add a message whose stamp is new; return the oldest ones that had to make room."""
        i = bisect_left(self._stamps, entry.stamp_ns)
        self._stamps.insert(i, entry.stamp_ns)
        self._entries.insert(i, entry)
        return self._cut(max(len(self) - self.capacity, 0))

    def prune(self, before_ns: int) -> list[BufferedMessage]:
        """Remove and return the messages stamped before ``before_ns``."""
        return self._cut(bisect_left(self._stamps, before_ns))

    def clear(self) -> list[BufferedMessage]:
        """Remove and return everything."""
        return self._cut(len(self))

    def _cut(self, count: int) -> list[BufferedMessage]:
        gone = self._entries[:count]
        del self._entries[:count]
        del self._stamps[:count]
        return gone

    def match(self, anchor_ns: int, tolerance_ns: int, max_age_ns: int) -> BufferedMessage | None:
        """The message for an anchor stamp.

        The nearest within the tolerance (the earlier of two equally near), else the newest that
        is older than the anchor; never one older than ``max_age_ns``.
        """
        after = bisect_left(self._stamps, anchor_ns)
        best: BufferedMessage | None = None
        if after > 0 and anchor_ns - self._stamps[after - 1] <= max_age_ns:
            best = self._entries[after - 1]
        if after < len(self._stamps):
            ahead = self._stamps[after] - anchor_ns
            behind = None if best is None else anchor_ns - best.stamp_ns
            if ahead <= tolerance_ns and (behind is None or ahead < behind):
                best = self._entries[after]
        return best

    def cover(
        self, anchor_ns: int, reach_ns: int, max_age_ns: int, window_ns: int
    ) -> tuple[int, list[BufferedMessage]] | None:
        """The packets that cover the time up to an anchor stamp.

        Packets are stamped with the end of their coverage. One that ends up to ``reach_ns`` after
        the anchor covers it; so does one that covered an earlier anchor. Returns (end of the
        coverage, at most the anchor's stamp; packets oldest first, back to ``window_ns`` before
        that end), or None if the coverage ends more than ``max_age_ns`` before the anchor.
        """
        last = bisect_left(self._stamps, anchor_ns)
        later = self._entries[last:]
        # Anchors only go forward: what is stamped later than this one and was used covered one before.
        if later and (later[0].stamp_ns - anchor_ns <= reach_ns or any(e.used for e in later)):
            end = anchor_ns
        elif last > 0 and anchor_ns - self._stamps[last - 1] <= max_age_ns:
            last -= 1
            end = self._stamps[last]
        else:
            return None
        first = min(bisect_right(self._stamps, end - window_ns), last)
        return end, self._entries[first : last + 1]
