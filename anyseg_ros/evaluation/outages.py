"""Outage timetables: which sensor fails how, from when to when, in seconds of bag time.

One vocabulary for the bag player, the evaluation of bags and the fault matrix: :data:`KINDS`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import yaml

from anyseg_ros.modality import MODALITIES, Modality

_PICTURES = (Modality.CAMERA, Modality.DEPTH)
_RANGES = (Modality.DEPTH, Modality.LIDAR)


@dataclass(frozen=True)
class FaultKind:
    """One way in which a sensor fails."""

    about: str
    """What its receivers get."""
    sensors: tuple[Modality, ...] = MODALITIES
    """The sensors that can fail so."""
    harmless_to: tuple[Modality, ...] = ()
    """Sensors whose messages can be believed all the same, and should be used where they fit."""


KINDS: Mapping[str, FaultKind] = MappingProxyType(
    {
        # when messages arrive
        "silent": FaultKind("nothing"),
        "slow": FaultKind("every fourth message only", harmless_to=MODALITIES),
        "burst": FaultKind("messages held back and delivered all at once, once a second"),
        "reordered": FaultKind("every two messages in the wrong order", harmless_to=MODALITIES),
        "late": FaultKind("each message 300 ms later", harmless_to=MODALITIES),
        # what their stamps say
        "duplicate_stamps": FaultKind(
            "every second message with the stamp of the one before", harmless_to=MODALITIES
        ),
        "stuck_stamps": FaultKind("new messages with the last stamp before the fault"),
        "stamps_back": FaultKind("stamps 10 s in the past"),
        "stamps_future": FaultKind("stamps 10 s in the future"),
        # what they contain
        "frozen": FaultKind("the last data before the fault, with new stamps"),
        "black": FaultKind(
            "zeros: a black picture, no depth, no events, all points at the sensor",
            harmless_to=(Modality.EVENT,),
        ),
        "saturated": FaultKind(
            "a white picture, the largest depth, ten times the events, all over the sensor",
            (*_PICTURES, Modality.EVENT),
        ),
        "noise": FaultKind("random pixels, random points, events at random places"),
        "nan": FaultKind("98 % of the values invalid: NaN, or 0 in integer depth", _RANGES),
        "empty": FaultKind(
            "a picture without pixels, a cloud without points", harmless_to=(Modality.EVENT,)
        ),
        "wrong_encoding": FaultKind("an encoding, format or field type that is not the sensor's"),
        "truncated": FaultKind("half of the data, while the fields tell of all"),
    }
)
"""The kinds of fault a timetable can ask for. A quiet event camera is not a fault."""


class OutageError(ValueError):
    """A timetable that cannot be used; the message names the file, the entry and the field."""


@dataclass(frozen=True)
class Outage:
    """One sensor's fault over ``[from_s, to_s)``, seconds after the bag's first message."""

    sensor: Modality
    from_s: float
    to_s: float
    kind: str = "silent"

    def covers(self, time_s: float) -> bool:
        return self.from_s <= time_s < self.to_s

    @property
    def disables(self) -> bool:
        """Whether the sensor is better not used meanwhile."""
        return self.sensor not in KINDS[self.kind].harmless_to


@dataclass(frozen=True)
class Stretch:
    """A stretch of time over which the same sensors are alive."""

    from_s: float
    to_s: float
    alive: tuple[Modality, ...]


def outages_from_data(data: Any, where: str = "timetable") -> list[Outage]:
    """Read a list of ``{sensor, from_s, to_s, kind}`` mappings (``kind`` may be left out).

    Raises:
        OutageError: naming the entry and the field that is wrong.
    """
    if isinstance(data, Mapping) and set(data) == {"outages"}:
        data = data["outages"]
    if not isinstance(data, list):
        raise OutageError(f"{where}: expected a list of outages under the key 'outages'")
    outages = []
    for number, entry in enumerate(data, 1):
        spot = f"{where}: outage {number}"
        if not isinstance(entry, Mapping) or not {"sensor", "from_s", "to_s"} <= set(entry):
            raise OutageError(f"{spot} must have sensor, from_s and to_s")
        unknown = sorted(set(entry) - {"sensor", "from_s", "to_s", "kind"})
        if unknown:
            raise OutageError(f"{spot}: unknown {', '.join(map(str, unknown))}")
        try:
            outage = Outage(
                Modality.from_label(str(entry["sensor"])),
                float(entry["from_s"]),
                float(entry["to_s"]),
                str(entry.get("kind", "silent")),
            )
        except (TypeError, ValueError) as error:
            raise OutageError(f"{spot}: {error}") from None
        if not 0 <= outage.from_s < outage.to_s:
            raise OutageError(
                f"{spot}: from_s {outage.from_s} must be >= 0 and < to_s {outage.to_s}"
            )
        if outage.kind not in KINDS:
            raise OutageError(f"{spot}: unknown kind {outage.kind!r}; expected {', '.join(KINDS)}")
        if outage.sensor not in KINDS[outage.kind].sensors:
            possible = [name for name, kind in KINDS.items() if outage.sensor in kind.sensors]
            raise OutageError(
                f"{spot}: kind {outage.kind!r} does not apply to {outage.sensor.label}; expected "
                f"{', '.join(possible)}"
            )
        outages.append(outage)
    return outages


def load_outages(path: Path) -> list[Outage]:
    """Read a timetable from YAML.

    Raises:
        OutageError: if the file cannot be read, or an entry is wrong.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise OutageError(f"cannot read timetable {path}: {error}") from None
    return outages_from_data(data, str(path))


def random_outages(
    seed: int,
    duration_s: float,
    sensors: Sequence[Modality],
    per_minute: float = 4.0,
    mean_s: float = 2.0,
    kinds: Iterable[str] = ("silent",),
) -> list[Outage]:
    """Outages at random times: Poisson arrivals a sensor, exponential lengths; seeded.

    Args:
        per_minute: outages of each sensor per minute, on average.
        mean_s: mean length; none is shorter than 0.2 s.
        kinds: each that applies to a sensor is as likely.
    """
    found = []
    for sensor in sorted(sensors):
        possible = [kind for kind in kinds if sensor in KINDS[kind].sensors]
        # A stream of numbers for each sensor: what one suffers does not depend on which others there are.
        random = np.random.default_rng([seed, int(sensor)])
        time_s = random.exponential(60.0 / per_minute)
        while possible and time_s < duration_s:
            length_s = max(random.exponential(mean_s), 0.2)
            end_s = min(time_s + length_s, duration_s)
            kind = possible[int(random.integers(len(possible)))]
            found.append(Outage(sensor, round(time_s, 3), round(end_s, 3), kind))
            time_s = end_s + random.exponential(60.0 / per_minute)
    return [outage for outage in found if outage.to_s > outage.from_s]


def alive_at(
    outages: Iterable[Outage], time_s: float, sensors: Sequence[Modality] = MODALITIES
) -> tuple[Modality, ...]:
    """The sensors no outage disables at a time."""
    dead = {o.sensor for o in outages if o.disables and o.covers(time_s)}
    return tuple(s for s in sensors if s not in dead)


def stretches(
    outages: Sequence[Outage], duration_s: float, sensors: Sequence[Modality] = MODALITIES
) -> list[Stretch]:
    """Cut ``[0, duration_s)`` wherever a sensor goes or comes back."""
    marks = {0.0, duration_s}
    marks |= {t for o in outages for t in (o.from_s, o.to_s) if t < duration_s}
    cuts = sorted(marks)
    found: list[Stretch] = []
    for begin, end in itertools.pairwise(cuts):
        alive = alive_at(outages, begin, sensors)
        if found and found[-1].alive == alive:
            found[-1] = Stretch(found[-1].from_s, end, alive)
        else:
            found.append(Stretch(begin, end, alive))
    return found
