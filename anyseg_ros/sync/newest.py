"""The place between a synchronizer and a consumer that may be slower than the sensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic

from anyseg_ros.sync.synchronizer import K, MatchedSet


class NewestSet(Generic[K]):
    """Holds at most one set: the newest wins, the skipped are counted.

    Not locked: the caller serialises.
    """

    def __init__(self) -> None:
        self._set: MatchedSet[K] | None = None
        self.skipped = 0
        """sets that were replaced before they were taken"""

    def offer(self, sets: Iterable[MatchedSet[K]]) -> None:
        """Put in sets, oldest first, as the synchronizer gives them."""
        for matched in sets:
            self.skipped += self._set is not None
            self._set = matched

    def take(self) -> MatchedSet[K] | None:
        """Take the set out, None if there is none."""
        matched, self._set = self._set, None
        return matched

    def clear(self) -> None:
        """Forget the set without counting it as skipped."""
        self._set = None
