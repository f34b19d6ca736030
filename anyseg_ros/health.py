"""Which streams are believed: content checks with hysteresis between decoders and synchronizer.

A message whose own content is wrong is withheld at once: it never becomes part of a set. A stream
that sends such messages in a row is quarantined, so that another can be the anchor, and released
when good ones have arrived in a row. Node and replay feed their synchronizer through the same
:class:`HealthMonitor`, so what is evaluated is what runs on the robot.

No ROS, no clock, no lock: receipt time is handed in, and the caller serialises.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from anyseg_ros.modalities import EventPacket, SensorData
from anyseg_ros.modalities.quality import (
    DEFAULT_LIMITS,
    Finding,
    QualityChecker,
    QualityLimits,
)
from anyseg_ros.modality import Modality
from anyseg_ros.sync import MatchedSet, StreamState, Synchronizer

_NS = 1_000_000_000
_STAMPS = 8
"""Stamps remembered to tell a message delivered twice from a sensor that repeats itself."""

_SUSPECT_PACKETS_NS = 200_000_000
"""Packets of events kept of a stream that is watched."""

CONTENT = "content"
"""Source of a quarantine: what a stream's own messages show."""
CONSISTENCY = "consistency"
"""Source of a quarantine: what the other streams show."""


@dataclass(frozen=True)
class Suspect:
    """What a stream that the others accuse sent last, so that it can be watched."""

    stamp_ns: int
    message: SensorData | tuple[EventPacket, ...]


@dataclass(frozen=True)
class HysteresisSettings:
    """When a stream is quarantined and when it is released.

    Raises:
        ValueError: if a value cannot work; the message names it.
    """

    bad_count: int = 3
    """bad messages in a row that quarantine"""
    bad_time_s: float = 0.5
    """or bad messages in a row, two at least, over this time: for slow sensors"""
    good_count: int = 5
    """good messages in a row that release"""
    good_time_s: float = 0.9
    """or good messages in a row, two at least, over this time"""

    def __post_init__(self) -> None:
        for name in ("bad_count", "good_count"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("bad_time_s", "good_time_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


class Hysteresis:
    """A yes or no that changes only when enough in a row say so."""

    def __init__(self, settings: HysteresisSettings) -> None:
        self.settings = settings
        self.bad = False
        self._against = 0
        self._since_ns = 0

    def note(self, bad: bool, now_ns: int) -> bool:
        """Take in one observation; gives the state after it."""
        if bad == self.bad:
            self._against = 0
            return self.bad
        if self._against == 0 or now_ns < self._since_ns:
            self._since_ns = now_ns
        self._against += 1
        settings = self.settings
        count = settings.good_count if self.bad else settings.bad_count
        time_s = settings.good_time_s if self.bad else settings.bad_time_s
        long_enough = self._against >= 2 and now_ns - self._since_ns >= time_s * _NS
        if self._against >= count or long_enough:
            self.bad = bad
            self._against = 0
        return self.bad


@dataclass(frozen=True)
class HealthSettings:
    """How messages are checked; the defaults are the node's."""

    enabled: bool = True
    hysteresis: HysteresisSettings = field(default_factory=HysteresisSettings)
    limits: Mapping[Modality, QualityLimits] = field(default_factory=lambda: DEFAULT_LIMITS)


@dataclass
class StreamHealth:
    """What the checks have seen of one stream."""

    withheld: int = 0
    """messages that were not used for their content"""
    quarantines: int = 0
    last_finding: str = ""
    """what was last wrong; empty if nothing ever was"""


class _Watched:
    def __init__(self, modality: Modality, settings: HealthSettings) -> None:
        self.checker = QualityChecker(modality, settings.limits[modality])
        self.hysteresis = Hysteresis(settings.hysteresis)
        self.reasons: dict[str, str] = {}
        self.suspect: Suspect | None = None
        self.withheld: dict[int, bool] = {}
        """the last stamps, and whether their messages were withheld"""
        self.health = StreamHealth()


class HealthMonitor:
    """Stands in front of a synchronizer: checks each message, and quarantines and releases streams."""

    def __init__(
        self,
        synchronizer: Synchronizer[Modality],
        modalities: Iterable[Modality],
        settings: HealthSettings | None = None,
    ) -> None:
        self._settings = settings or HealthSettings()
        self._watched = {m: _Watched(m, self._settings) for m in modalities}
        self._synchronizer = synchronizer

    @property
    def health(self) -> Mapping[Modality, StreamHealth]:
        """What the checks have seen of each stream."""
        return {modality: watched.health for modality, watched in self._watched.items()}

    def configure(self, settings: HealthSettings) -> None:
        """Take other limits; what was learned and who is quarantined stays."""
        self._settings = settings
        for modality, watched in self._watched.items():
            watched.checker.limits = settings.limits[modality]
            watched.hysteresis.settings = settings.hysteresis
            if not settings.enabled:
                watched.hysteresis = Hysteresis(settings.hysteresis)
                self.absolve(modality, CONTENT)

    def reset(self) -> None:
        """Forget what the streams have shown, quarantines too: time has jumped back."""
        for modality, watched in self._watched.items():
            watched.checker.reset()
            watched.hysteresis = Hysteresis(self._settings.hysteresis)
            watched.reasons.clear()
            watched.withheld.clear()
            watched.suspect = None
            self._apply(modality, watched)

    # --- messages -------------------------------------------------------------------------------

    def add(
        self, modality: Modality, stamp_ns: int, data: SensorData, now_ns: int
    ) -> list[MatchedSet[Modality]]:
        """Check a message and hand it on; gives the sets that are complete by then.

        Raises:
            KeyError: if there is no such stream.
        """
        watched = self._watched[modality]
        bad = watched.withheld.get(stamp_ns) if self._settings.enabled else False
        # The same message delivered twice says nothing new about the sensor; its stamp gives it away.
        if bad is None:
            finding = watched.checker.check(data)
            self._note(modality, watched, finding, now_ns)
            bad = watched.withheld[stamp_ns] = finding is not None
            if len(watched.withheld) > _STAMPS:
                del watched.withheld[next(iter(watched.withheld))]
        if bad:
            watched.health.withheld += 1
            return self._synchronizer.withhold(modality, stamp_ns, now_ns)
        if CONSISTENCY in watched.reasons:
            self._watch(modality, watched, stamp_ns, data, now_ns)
        return self._synchronizer.add(modality, stamp_ns, data, now_ns)

    def refuse(self, modality: Modality, reason: str, now_ns: int) -> list[MatchedSet[Modality]]:
        """Note a message that could not be decoded; gives the sets that are complete by then.

        Raises:
            KeyError: if there is no such stream.
        """
        watched = self._watched[modality]
        if self._settings.enabled:
            self._note(modality, watched, f"refused: {reason}", now_ns)
        return self._synchronizer.refuse(modality, now_ns)

    def _watch(
        self, modality: Modality, watched: _Watched, stamp_ns: int, data: SensorData, now_ns: int
    ) -> None:
        """Keep what an accused stream sends; without two others nobody can accuse it any longer."""
        others = [
            status
            for other, status in self._synchronizer.status(now_ns).items()
            if other is not modality and status.state is StreamState.LIVE
        ]
        if len(others) < 2:
            self.absolve(modality, CONSISTENCY)
            return
        message: SensorData | tuple[EventPacket, ...] = data
        if isinstance(data, EventPacket):
            before = watched.suspect.message if watched.suspect is not None else ()
            kept = before if isinstance(before, tuple) else ()
            recent = [
                packet
                for packet in kept
                if len(packet.stamp_ns) and packet.stamp_ns[-1] > stamp_ns - _SUSPECT_PACKETS_NS
            ]
            message = (*recent, data)
        watched.suspect = Suspect(stamp_ns, message)

    def _note(
        self, modality: Modality, watched: _Watched, finding: Finding | str | None, now_ns: int
    ) -> None:
        if finding is not None:
            watched.health.last_finding = str(finding)
        was_bad = watched.hysteresis.bad
        if watched.hysteresis.note(finding is not None, now_ns):
            # While it recovers, the reason remains what was last wrong.
            self.accuse(modality, CONTENT, watched.health.last_finding)
        elif was_bad:
            self.absolve(modality, CONTENT)

    # --- verdicts -------------------------------------------------------------------------------

    def accuse(self, modality: Modality, source: str, reason: str) -> None:
        """Quarantine a stream for one source's reason, until that source absolves it."""
        watched = self._watched[modality]
        if watched.reasons.get(source) == reason:
            return
        watched.health.quarantines += not watched.reasons
        watched.reasons[source] = reason
        self._apply(modality, watched)

    def absolve(self, modality: Modality, source: str) -> None:
        """Take one source's reason back; the stream is released when none is left."""
        watched = self._watched[modality]
        if source == CONSISTENCY:
            watched.suspect = None
        if watched.reasons.pop(source, None) is not None:
            self._apply(modality, watched)

    def accuse_only(self, accused: Mapping[Modality, str]) -> None:
        """Take over the verdict of a consistency check: these modalities depart, no others."""
        for modality in self._watched:
            if modality in accused:
                self.accuse(modality, CONSISTENCY, accused[modality])
            else:
                self.absolve(modality, CONSISTENCY)

    def suspects(self) -> dict[Modality, Suspect]:
        """What the accused streams sent last. May be called from another thread."""
        return {
            modality: suspect
            for modality, watched in self._watched.items()
            if (suspect := watched.suspect) is not None
        }

    def _apply(self, modality: Modality, watched: _Watched) -> None:
        if watched.reasons:
            self._synchronizer.quarantine(modality, "; ".join(watched.reasons.values()))
        else:
            self._synchronizer.release(modality)
