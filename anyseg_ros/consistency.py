"""A sensor that lies is told by the others: does one modality's own prediction depart from theirs?

The student segments from each modality alone, so each modality has a say of its own. Every n-th set
each live modality's own prediction is held against that of all others together (leave one out), and
the share of confident pixels in which they disagree is compared with what is usual for that modality.
Features are at hand from the set itself, so that a check costs two fusions a modality and no encoding.

With fewer than three live modalities nobody is named: two that disagree do not say who is wrong.

No ROS, no clock, no lock.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anyseg_ros.classes import IGNORE_ID
from anyseg_ros.engine import Engine, EngineOutput, Features, ModelCard
from anyseg_ros.health import Hysteresis, HysteresisSettings, Suspect
from anyseg_ros.modalities import ModalityError
from anyseg_ros.modality import MODALITIES, Modality
from anyseg_ros.pipeline import Pipeline, Segmentation

PROFILE_FILE = "consistency.json"
"""Beside a model's graphs: its usual disagreements."""
_STRIDE = 4
"""Every so many rows and columns are compared: predictions are smooth."""
_LEARN = 8
"""Checks from which the usual disagreement of a rig is learned where no profile knows it."""
_FOLLOW = 1 / 64
_SILENT_NS = 500_000_000
"""What an accused stream sent longer ago than this says nothing about it any more."""
_LEAST_DEVIATION = 0.02
"""However alike the checks seen so far, no smaller deviation is believed."""


def disagreement(first: EngineOutput, second: EngineOutput) -> float:
    """Share of pixels with another label, each weighted by both confidences; 0..1.

    Pixels that either side is unsure of hardly count, so that a modality that cannot see a class is not
    taken for one that lies about it.
    """
    one, two = first.labels[::_STRIDE, ::_STRIDE], second.labels[::_STRIDE, ::_STRIDE]
    weight = first.confidence[::_STRIDE, ::_STRIDE].astype(np.float32)
    weight = weight * second.confidence[::_STRIDE, ::_STRIDE]
    weight = np.where((one == IGNORE_ID) | (two == IGNORE_ID), np.float32(0), weight)
    total = float(weight.sum())
    return float(weight[one != two].sum()) / total if total > 0 else 0.0


def disagreements(engine: Engine, features: Mapping[Modality, Features]) -> dict[Modality, float]:
    """Each modality's own prediction against that of all others together.

    Two fusions a modality. Empty for fewer than three.
    """
    if len(features) < 3:
        return {}
    result = {}
    for modality, own in features.items():
        others = [maps for other, maps in features.items() if other is not modality]
        result[modality] = disagreement(engine.fuse([own]), engine.fuse(others))
    return result


@dataclass(frozen=True)
class Usual:
    """What is usual for one modality among certain others."""

    mean: float
    deviation: float


class ConsistencyError(ValueError):
    """A profile that cannot be read; the message names the file."""


@dataclass(frozen=True)
class ConsistencyProfile:
    """A model's usual disagreements, measured on data where no sensor lies."""

    model_id: str
    usual: Mapping[frozenset[Modality], Mapping[Modality, Usual]]
    """by the set of live modalities"""

    def save(self, path: Path) -> None:
        """Write ``consistency.json``."""
        usual = {
            "+".join(m.label for m in sorted(subset)): {
                m.label: {"mean": round(u.mean, 5), "deviation": round(u.deviation, 5)}
                for m, u in sorted(entries.items())
            }
            for subset, entries in self.usual.items()
        }
        path.write_text(json.dumps({"model_id": self.model_id, "usual": usual}, indent=1) + "\n")


def load_profile(model_dir: Path, card: ModelCard) -> ConsistencyProfile | None:
    """The profile beside a model's graphs; ``None`` if there is none, or another model's.

    Raises:
        ConsistencyError: if the file is damaged.
    """
    path = model_dir / PROFILE_FILE
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text())
        if data["model_id"] != card.model_id:
            return None
        usual = {
            frozenset(Modality.from_label(label) for label in subset.split("+")): {
                Modality.from_label(label): Usual(float(v["mean"]), float(v["deviation"]))
                for label, v in entries.items()
            }
            for subset, entries in data["usual"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConsistencyError(f"{path}: {error!r}") from None
    return ConsistencyProfile(card.model_id, usual)


@dataclass(frozen=True)
class ConsistencySettings:
    """How often is checked, and from where on a modality departs; the defaults are the node's."""

    every: int = 0
    """a check every so many sets; 0: never"""
    threshold: float = 3.0
    """deviations over the usual disagreement from which on a modality departs"""
    bad_count: int = 3
    """checks in a row that accuse"""
    good_count: int = 3
    """checks in a row that absolve"""

    @property
    def hysteresis(self) -> HysteresisSettings:
        never = 1e9  # counted in checks alone
        return HysteresisSettings(self.bad_count, never, self.good_count, never)


class _Learned:
    """Mean and deviation of one modality's disagreement, learned from what this rig shows."""

    def __init__(self, known: Usual | None) -> None:
        self.usual = known
        self._first: list[float] = []

    def learn(self, value: float) -> None:
        if self.usual is None:
            self._first.append(value)
            if len(self._first) >= _LEARN:
                middle = float(np.median(self._first))
                spread = 1.4826 * float(np.median(np.abs(np.array(self._first) - middle)))
                self.usual = Usual(middle, max(spread, _LEAST_DEVIATION))
            return
        # The scene changes what is usual; the deviation is the model's and stays.
        mean = self.usual.mean + _FOLLOW * (value - self.usual.mean)
        self.usual = replace(self.usual, mean=mean)

    def score(self, value: float) -> float | None:
        if self.usual is None:
            return None
        return (value - self.usual.mean) / max(self.usual.deviation, _LEAST_DEVIATION)


class ConsistencyCheck:
    """Names the modality that departs from the others, check by check. Not locked."""

    def __init__(
        self,
        settings: ConsistencySettings | None = None,
        profile: ConsistencyProfile | None = None,
    ) -> None:
        self.settings = settings or ConsistencySettings()
        self._profile = profile
        self.reset()

    def reset(self) -> None:
        """Forget what was learned and who was accused."""
        self._sets = 0
        self._learned: dict[tuple[frozenset[Modality], Modality], _Learned] = {}
        self._hysteresis: dict[Modality, Hysteresis] = {}
        self._accused: dict[Modality, str] = {}

    def due(self) -> bool:
        """Count a set; whether it is to be checked."""
        self._sets += 1
        return self.settings.every > 0 and self._sets % self.settings.every == 0

    def after(
        self, pipeline: Pipeline, result: Segmentation, suspects: Mapping[Modality, Suspect]
    ) -> dict[Modality, str] | None:
        """Check the set that the pipeline segmented last, if it is its turn.

        Args:
            suspects: what the accused streams sent last; they are in no set.

        Returns:
            The modalities that are accused now, each with the reason in words; ``None``: no check.
        """
        if not self.due():
            return None
        engine, features = pipeline.engine, pipeline.features_of(result)
        if len(features) < 3:
            # Without two others nobody was in a position to accuse these: they are free again.
            for modality in features:
                self._accused.pop(modality, None)
                self._hysteresis.pop(modality, None)
        held_against: dict[Modality, float] = {}
        if len(features) >= 2:
            for modality, suspect in suspects.items():
                silent = result.stamp_ns - suspect.stamp_ns > _SILENT_NS
                if modality in features or silent:
                    continue
                try:
                    own = pipeline.encode_alone(modality, suspect.message, suspect.stamp_ns)
                except ModalityError:
                    continue
                others = engine.fuse(list(features.values()))
                held_against[modality] = disagreement(engine.fuse([own]), others)
        return self.judge(disagreements(engine, features), held_against, frozenset(features))

    def judge(
        self,
        measured: Mapping[Modality, float],
        suspects: Mapping[Modality, float] | None = None,
        live: frozenset[Modality] | None = None,
    ) -> dict[Modality, str]:
        """Take in one check's disagreements.

        Args:
            measured: of the set's modalities, each against the rest; empty for fewer than three.
            suspects: of accused modalities, each against the whole set.
            live: the set's modalities; ``None``: those measured.

        Returns:
            The modalities that are accused now, each with the reason in words.
        """
        suspects = suspects or {}
        live = frozenset(measured) if live is None else live
        entries = [(m, value, self._of(live, m)) for m, value in measured.items()]
        # A liar makes the others depart too, from a majority that it is part of: only the worst is
        # named, and only one at a time. The worst has most pixels more than usual, not most
        # deviations: those of a modality that always agrees are small, and it would pay for the liar.
        excess = {m: value - of.usual.mean for m, value, of in entries if of.usual is not None}
        worst = None if suspects else max(excess, key=lambda m: excess[m], default=None)
        entries += [(m, value, self._of(live | {m}, m)) for m, value in suspects.items()]
        for modality, value, of in entries:
            state = self._hysteresis.setdefault(modality, Hysteresis(self.settings.hysteresis))
            state.settings = self.settings.hysteresis
            score = of.score(value)
            departs = score is not None and score > self.settings.threshold
            departs = departs and (modality is worst or modality in suspects)
            if not departs and not state.bad:
                of.learn(value)
            if state.note(departs, 0) and of.usual is not None:
                self._accused[modality] = (
                    f"departs from the other sensors: {value:.0%} of its confident pixels disagree, "
                    f"usually {of.usual.mean:.0%} (deviation {of.usual.deviation:.0%})"
                )
            else:
                self._accused.pop(modality, None)
        return dict(self._accused)

    def _of(self, live: frozenset[Modality], modality: Modality) -> _Learned:
        key = (live, modality)
        if key not in self._learned:
            known = self._profile.usual.get(live, {}).get(modality) if self._profile else None
            self._learned[key] = _Learned(known)
        return self._learned[key]


def measure_profile(
    model_id: str, samples: Sequence[Mapping[Modality, float]]
) -> ConsistencyProfile:
    """Usual disagreements from checks of sets in which no sensor lies; robust against single ones."""
    grouped: dict[frozenset[Modality], dict[Modality, list[float]]] = {}
    for sample in samples:
        group = grouped.setdefault(frozenset(sample), {m: [] for m in MODALITIES if m in sample})
        for modality, value in sample.items():
            group[modality].append(value)
    usual = {}
    for subset, values in grouped.items():
        entries = {}
        for modality, seen in values.items():
            array: npt.NDArray[np.float64] = np.array(seen)
            middle = float(np.median(array))
            # One-sided: agreeing more than usual is no departure.
            above = array[array >= middle] - middle
            spread = 1.4826 * float(np.median(above)) if len(above) else 0.0
            entries[modality] = Usual(middle, max(spread, _LEAST_DEVIATION))
        usual[subset] = entries
    return ConsistencyProfile(model_id, usual)
