"""The modalities the project knows: their order, ids and names, in one place.

Ids are the ``modality_ids`` of the engine contract; names appear unchanged in parameters, model
cards, data-set configurations, metrics and diagnostics.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from itertools import combinations


class Modality(IntEnum):
    """A kind of sensor. The integer value is its id in the network's inputs."""

    CAMERA = 0
    DEPTH = 1
    EVENT = 2
    LIDAR = 3

    @property
    def label(self) -> str:
        """Lower-case name, as written in parameters and results (``"camera"``)."""
        return self.name.lower()

    @classmethod
    def from_label(cls, label: str) -> Modality:
        """Return the modality called ``label``.

        Raises:
            ValueError: if there is none; the message lists the valid names.
        """
        try:
            return cls[label.strip().upper()]
        except KeyError:
            valid = ", ".join(m.label for m in cls)
            raise ValueError(f"unknown modality {label!r}; expected one of {valid}") from None


MODALITIES: tuple[Modality, ...] = tuple(Modality)


def subset_name(modalities: Iterable[Modality]) -> str:
    """Name a set of modalities in canonical order, e.g. ``"camera+lidar"``; ``"none"`` if empty."""
    return "+".join(m.label for m in sorted(set(modalities))) or "none"


def parse_subset(name: str) -> tuple[Modality, ...]:
    """Invert :func:`subset_name`. Also accepts ``"all"`` and ``"none"``, in any order.

    Raises:
        ValueError: if a part of the name is no modality.
    """
    text = name.strip().lower()
    if text == "all":
        return MODALITIES
    if text in ("", "none"):
        return ()
    return tuple(sorted({Modality.from_label(part) for part in text.split("+")}))


def all_subsets(modalities: Iterable[Modality] = MODALITIES) -> list[tuple[Modality, ...]]:
    """All non-empty subsets, smallest first: 15 for four modalities."""
    members = sorted(set(modalities))
    return [s for size in range(1, len(members) + 1) for s in combinations(members, size)]
