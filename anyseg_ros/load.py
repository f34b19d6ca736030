"""Which sensors a set can afford: the last of the priority list are shed before frames are.

What a set costs is predicted from what recent sets cost: building each modality's image, encoding an
image, fusing. No clock, no ROS.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median

from anyseg_ros.modality import Modality

RETURN_SHARE = 0.8
"""A modality that was shed returns when the set with it is predicted to take this share of the budget."""
_REMEMBERED = 9
"""Measurements that a prediction is the median of: one outlier changes nothing."""
_TRY_AGAIN = 100
"""Sets that a modality is shed from before its image's cost is forgotten: nobody measures it meanwhile."""


class _Cost:
    """Running median of a duration in seconds; 0 until something was measured."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_REMEMBERED)

    def add(self, seconds: float) -> None:
        self._recent.append(seconds)

    def forget(self) -> None:
        self._recent.clear()

    @property
    def seconds(self) -> float:
        return median(self._recent) if self._recent else 0.0


class LoadShedder:
    """Keeps the time of a set within a budget by leaving out modalities, with hysteresis.

    The anchor is never shed: a set of one modality that takes longer than the budget costs frames.
    """

    def __init__(self, budget_s: float = 0.0) -> None:
        self.budget_s = budget_s
        """seconds a set may take; 0: no limit. May be changed at any time."""
        self.shed_counts: dict[Modality, int] = dict.fromkeys(Modality, 0)
        """sets that a modality was left out of"""
        self._build = {m: _Cost() for m in Modality}
        self._encode = _Cost()
        self._fuse = _Cost()
        self._shed: set[Modality] = set()
        self._absent = dict.fromkeys(Modality, 0)
        self._built: set[Modality] = set()
        self.shed: tuple[Modality, ...] = ()
        """modalities that the last set was segmented without"""

    def choose(
        self, anchor: Modality, new: Sequence[Modality], cached: Sequence[Modality] = ()
    ) -> list[Modality]:
        """Which of the new members of a set to leave out.

        Args:
            anchor: stays in.
            new: members that must be built and encoded, in order of priority, the anchor among them
                unless its features are known.
            cached: members whose features are known; they cost nothing and stay in.

        Returns:
            The modalities to leave out, in order of priority.
        """
        if self.budget_s <= 0:
            self._shed.clear()
            self.shed = ()
            return []
        total = self._fuse.seconds
        left_out: list[Modality] = []
        for modality in sorted(new, key=lambda m: m is not anchor):
            cost = self._build[modality].seconds + self._encode.seconds
            limit = self.budget_s * (RETURN_SHARE if modality in self._shed else 1.0)
            # One that did not fit ends the list: the ones after it matter less.
            if modality is not anchor and (left_out or total + cost > limit):
                left_out.append(modality)
                self._shed.add(modality)
                self.shed_counts[modality] += 1
                self._absent[modality] += 1
                if self._absent[modality] % _TRY_AGAIN == 0:
                    self._build[modality].forget()
            else:
                total += cost
                self._shed.discard(modality)
                self._absent[modality] = 0
        self._shed.difference_update(cached)
        self.shed = tuple(left_out)
        return left_out

    def take_back(self, modality: Modality) -> None:
        """One that was to be left out is not: nothing else could be used."""
        self.shed = tuple(m for m in self.shed if m is not modality)
        self.shed_counts[modality] -= 1

    def measure(self, build_s: Mapping[Modality, float], encode_s: float, fuse_s: float) -> None:
        """Learn from a set.

        Args:
            build_s: seconds for the image of each new modality.
            encode_s: seconds for encoding all of them.
            fuse_s: seconds for fusing.
        """
        for modality, seconds in build_s.items():
            if modality in self._built:  # the first image pays for tables that are kept
                self._build[modality].add(seconds)
            self._built.add(modality)
        if build_s:
            self._encode.add(encode_s / len(build_s))
        self._fuse.add(fuse_s)
