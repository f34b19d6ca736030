"""Scores of one replay, gathered set by set in bounded memory: with labels where there are any."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from anyseg_ros.classes import IGNORE_ID, ClassSet
from anyseg_ros.evaluation.boundary import BoundaryScore
from anyseg_ros.evaluation.contributions import Subset, shapley_values
from anyseg_ros.evaluation.metrics import Calibration, ConfusionMatrix
from anyseg_ros.evaluation.replay import SetResult
from anyseg_ros.modality import Modality, all_subsets, subset_name
from anyseg_ros.pipeline import Segmentation

Image = npt.NDArray[np.uint8]

PICTURE_WIDTH = 320
"""Width at which pictures are kept for the report."""
_BUCKETS = 24


@dataclass(frozen=True)
class FrameScore:
    """One matched set."""

    bag_time_s: float
    stamp_ns: int
    epoch: int
    anchor: Modality
    used: Subset
    ages_s: Mapping[Modality, float]
    confidence: float
    """mean, 0..1"""
    changed: float
    """share of pixels of another class than in the set before; NaN for the first"""
    flicker: float
    """share of pixels that changed and are back now: A, B, A over three sets; NaN for the first two"""
    class_shares: npt.NDArray[np.float64] = field(repr=False)
    """share of the picture of each class"""
    miou: float
    """percent over the classes labelled or predicted; NaN without labels"""
    accuracy: float
    """percent; NaN without labels"""
    loss_without: Mapping[Modality, float]
    """What losing one sensor would have cost at this moment, in points: of pixels right where there
    are labels, else of pixels that stay as they are with all sensors. The two do not compare:
    :meth:`Scorer.losses` gives those of one kind."""

    @property
    def labelled(self) -> bool:
        """Whether a pixel of it has a label."""
        return not math.isnan(self.accuracy)


@dataclass(frozen=True)
class KeptMoment:
    """A moment worth a picture, scaled down for it."""

    bag_time_s: float
    badness: float
    used: Subset
    why: str
    inputs: Mapping[Modality, Image] = field(repr=False)
    labels: Image = field(repr=False)
    truth: Image | None = field(repr=False)
    other: Image | None = field(repr=False)
    """the output that this one is compared with, where there is one"""


class SubsetTally:
    """What one subset of the sensors achieved, over the sets that every sensor contributed to."""

    def __init__(self, classes: int) -> None:
        self.sets = 0
        self.labelled = 0
        self.confusion = ConfusionMatrix(classes)
        self.calibration = Calibration(classes)
        self.boundary = BoundaryScore(classes)
        self.against_full = ConfusionMatrix(classes)
        self._diagonal = np.einsum("ii->i", self.against_full.counts)
        self._confidence = 0.0

    def add(
        self, output: Segmentation, full: Segmentation, truth: Image | None, inside: Image
    ) -> None:
        """Count one set."""
        self.sets += 1
        # Outside the camera's view labels are 255 and so not counted.
        if output is full:
            counts = np.bincount(full.labels.ravel(), minlength=256)[: len(self._diagonal)]
            self._diagonal += counts
        else:
            self.against_full.add(np.where(inside, output.labels, 0).astype(np.uint8), full.labels)
        self._confidence += _mean_confidence(output, inside)
        if truth is not None:
            self.labelled += 1
            self.confusion.add(output.labels, truth)
            self.calibration.add(output.labels, output.confidence, truth)
            self.boundary.add(output.labels, truth)

    @property
    def confidence(self) -> float:
        return self._confidence / self.sets if self.sets else float("nan")

    @property
    def agreement(self) -> float:
        """Percent of pixels as with all sensors."""
        return self.against_full.pixel_accuracy()


Badness = Literal["miou", "loss", "confidence"]
"""What a moment is bad by: distance from the labels, a sensor that all hangs on, doubt. Best first."""


class Scorer:
    """Takes the sets of one undisturbed run and their subsets' outputs; gives scores."""

    def __init__(
        self,
        classes: ClassSet,
        sensors: Sequence[Modality],
        subsets: Sequence[Subset],
        duration_s: float,
    ) -> None:
        self.classes = classes
        self.sensors = tuple(sorted(sensors))
        self.frames: list[FrameScore] = []
        self.as_recorded = SubsetTally(len(classes))
        """Whatever each set held, over all sets."""
        self.subsets = {subset: SubsetTally(len(classes)) for subset in subsets}
        self.tags: dict[tuple[str, Subset], ConfusionMatrix] = {}
        self.unusable = 0
        self.foreign_ids: set[int] = set()
        """ids in the labels that are no class of the model"""
        self.void = 0
        """sets whose labels hold no class of the model; they count as unlabelled"""
        self._bucket_s = max(duration_s / _BUCKETS, 1e-3)
        self._worst: dict[Badness, dict[int, KeptMoment]] = {}
        self._before: list[Image] = []
        self._epoch: int | None = None

    @property
    def labelled(self) -> bool:
        return self.as_recorded.labelled > 0

    def add(
        self,
        result: SetResult,
        outputs: Mapping[Subset, Segmentation],
        truth: Image | None,
        tags: Sequence[str] = (),
    ) -> None:
        """Count one set.

        Args:
            outputs: of subsets of the set, the full one may be left out.
            truth: labels uint8[H, W] on the network's canvas.
            tags: what holds at this moment, e.g. the weather.
        """
        full = result.segmentation
        if full is None:
            self.unusable += 1
            return
        inside = full.labels != IGNORE_ID
        if truth is not None:
            ids = np.flatnonzero(np.bincount(truth.ravel(), minlength=256))
            self.foreign_ids |= {int(i) for i in ids if len(self.classes) <= i != IGNORE_ID}
            if ids[0] >= len(self.classes):
                self.void += 1
                truth = None
        self.as_recorded.add(full, full, truth, inside)
        outputs = {**outputs, full.used: full}
        if full.used == self.sensors:
            for subset, tally in self.subsets.items():
                if subset in outputs:
                    tally.add(outputs[subset], full, truth, inside)
        if truth is not None:
            for tag in tags:
                self._count_tag(tag, outputs, full.used, truth)
        frame = self._frame(result, full, outputs, truth, inside)
        self.frames.append(frame)
        self._keep_if_worst(frame, full, truth, outputs)

    def _count_tag(
        self, tag: str, outputs: Mapping[Subset, Segmentation], used: Subset, truth: Image
    ) -> None:
        for subset, output in outputs.items():
            if subset in self.subsets or subset == used:
                key = (tag, subset)
                if key not in self.tags:
                    self.tags[key] = ConfusionMatrix(len(self.classes))
                self.tags[key].add(output.labels, truth)

    def _frame(
        self,
        result: SetResult,
        full: Segmentation,
        outputs: Mapping[Subset, Segmentation],
        truth: Image | None,
        inside: Image,
    ) -> FrameScore:
        if self._epoch != result.matched.epoch:
            self._before, self._epoch = [], result.matched.epoch
        pixels = max(int(np.count_nonzero(inside)), 1)
        changed = flicker = float("nan")
        if self._before:
            moved = full.labels != self._before[-1]
            changed = np.count_nonzero(moved) / pixels
            if len(self._before) == 2:
                flicker = np.count_nonzero(moved & (full.labels == self._before[0])) / pixels
        self._before = [*self._before[-1:], full.labels]
        miou = accuracy = float("nan")
        if truth is not None:
            confusion = ConfusionMatrix(len(self.classes))
            confusion.add(full.labels, truth)
            miou, accuracy = confusion.miou(), confusion.pixel_accuracy()
        counts = np.bincount(full.labels[inside], minlength=256)[: len(self.classes)]
        return FrameScore(
            bag_time_s=result.bag_time_s,
            stamp_ns=full.stamp_ns,
            epoch=result.matched.epoch,
            anchor=result.matched.anchor,
            used=full.used,
            ages_s={m: member.age_s for m, member in result.matched.members.items()},
            confidence=_mean_confidence(full, inside),
            changed=changed,
            flicker=flicker,
            class_shares=counts / pixels,
            miou=miou,
            accuracy=accuracy,
            loss_without=_losses(full, outputs, truth, inside, len(self.classes)),
        )

    def _keep_if_worst(
        self,
        frame: FrameScore,
        full: Segmentation,
        truth: Image | None,
        outputs: Mapping[Subset, Segmentation],
    ) -> None:
        other = None
        kind: Badness = "confidence"
        if truth is not None:
            kind, badness, why = "miou", 100 - frame.miou, f"mIoU {frame.miou:.0f} %"
        elif frame.loss_without:
            kind = "loss"
            sensor = max(frame.loss_without, key=lambda m: frame.loss_without[m])
            badness = frame.loss_without[sensor]
            why = f"without {sensor.label} {badness:.0f} % of the pixels change"
            other = outputs[tuple(m for m in full.used if m is not sensor)].labels
        else:
            badness = 100 * (1 - frame.confidence)
            why = f"confidence {100 * frame.confidence:.0f} %"
        bucket = int(frame.bag_time_s / self._bucket_s)
        worst = self._worst.setdefault(kind, {})
        if bucket in worst and worst[bucket].badness >= badness:
            return
        shown = truth if kind == "miou" else None
        worst[bucket] = keep_moment(frame.bag_time_s, badness, why, full, shown, other)

    @property
    def worst_by(self) -> Badness:
        """What the worst moments are bad by: the best measure that there is of any set."""
        kinds: tuple[Badness, ...] = ("miou", "loss", "confidence")
        return next((k for k in kinds if k in self._worst), "confidence")

    def worst_moments(self, count: int = 6) -> list[KeptMoment]:
        """The worst moments by one measure, well apart, in order of time."""
        found = self._worst.get(self.worst_by, {})
        return pick_apart(list(found.values()), count, 2 * self._bucket_s)

    def losses(self, frame: FrameScore) -> Mapping[Modality, float]:
        """``loss_without`` of a set where it is in the unit of this recording, else nothing.

        Where there are any labels, sets without one are left out: pixels right and pixels that stay
        as they are cannot be averaged or ranked together.
        """
        return frame.loss_without if frame.labelled or not self.labelled else {}

    def worth(self, subset: Subset) -> float:
        """What counts for contributions: mIoU in percent, against the full output without labels."""
        tally = self.subsets.get(subset)
        if tally is None or not tally.sets:
            return float("nan")
        return tally.confusion.miou() if self.labelled else tally.against_full.miou()

    def contributions(self) -> dict[Modality, float] | None:
        """Shapley values in points of mIoU; ``None`` unless every subset was evaluated."""
        worth = {subset: self.worth(subset) for subset in all_subsets(self.sensors)}
        if any(math.isnan(v) for v in worth.values()):
            return None
        return shapley_values(self.sensors, worth)

    def fragile_stretches(self, length_s: float = 2.0, count: int = 10) -> list[dict[str, object]]:
        """Where losing a sensor would cost most, worst first.

        The run is cut into stretches of equal length; each is rated for each sensor by its mean
        :meth:`losses`.
        """
        sums: dict[tuple[Modality, int], list[float]] = {}
        for frame in self.frames:
            for sensor, loss in self.losses(frame).items():
                sums.setdefault((sensor, int(frame.bag_time_s / length_s)), []).append(loss)
        rated = [
            {
                "sensor": sensor.label,
                "from_s": index * length_s,
                "to_s": (index + 1) * length_s,
                "loss_points": float(np.mean(losses)),
                "sets": len(losses),
            }
            for (sensor, index), losses in sums.items()
        ]
        rated.sort(key=lambda r: (-float(r["loss_points"]), r["from_s"], r["sensor"]))  # type: ignore[arg-type]
        return rated[:count]  # type: ignore[return-value]


def pick_apart(moments: Sequence[KeptMoment], count: int, apart_s: float) -> list[KeptMoment]:
    """The worst moments of which none is nearer to another than ``apart_s``, in order of time."""
    picked: list[KeptMoment] = []
    for moment in sorted(moments, key=lambda m: (-m.badness, m.bag_time_s)):
        if len(picked) == count:
            break
        if all(abs(moment.bag_time_s - p.bag_time_s) >= apart_s for p in picked):
            picked.append(moment)
    return sorted(picked, key=lambda m: m.bag_time_s)


def keep_moment(
    bag_time_s: float,
    badness: float,
    why: str,
    output: Segmentation,
    truth: Image | None,
    other: Image | None,
) -> KeptMoment:
    """Scale what a moment's row of pictures needs down to the size it is shown at."""
    return KeptMoment(
        bag_time_s=bag_time_s,
        badness=badness,
        used=output.used,
        why=why,
        inputs={m: _small(image, cv2.INTER_AREA) for m, image in output.images.items()},
        labels=_small(output.labels, cv2.INTER_NEAREST_EXACT),
        truth=None if truth is None else _small(truth, cv2.INTER_NEAREST_EXACT),
        other=None if other is None else _small(other, cv2.INTER_NEAREST_EXACT),
    )


def _small(image: Image, interpolation: int) -> Image:
    height = max(round(PICTURE_WIDTH * image.shape[0] / image.shape[1]), 1)
    return np.asarray(
        cv2.resize(image, (PICTURE_WIDTH, height), interpolation=interpolation), np.uint8
    )


def _mean_confidence(output: Segmentation, inside: Image) -> float:
    return float(output.confidence[inside].mean() / 255) if inside.any() else float("nan")


def _losses(
    full: Segmentation,
    outputs: Mapping[Subset, Segmentation],
    truth: Image | None,
    inside: Image,
    classes: int,
) -> dict[Modality, float]:
    reference = full.labels if truth is None else truth
    valid = inside if truth is None else (truth < classes)
    if not valid.any():
        return {}
    kept = float(np.mean(full.labels[valid] == reference[valid]))
    losses = {}
    for sensor in full.used:
        rest = outputs.get(tuple(m for m in full.used if m is not sensor))
        if rest is not None:
            losses[sensor] = 100 * (kept - float(np.mean(rest.labels[valid] == reference[valid])))
    return losses


def subset_rows(scorer: Scorer) -> list[dict[str, object]]:
    """One flat row a subset, for JSON and CSV; percent, NaN where not known."""
    rows: list[dict[str, object]] = []
    tallies = [("as recorded", scorer.as_recorded)]
    tallies += [(subset_name(s), t) for s, t in scorer.subsets.items()]
    for name, tally in tallies:
        labelled = tally.labelled > 0
        rows.append(
            {
                "subset": name,
                "sets": tally.sets,
                "labelled_sets": tally.labelled,
                "miou": tally.confusion.miou(),
                "miou_absent_zero": tally.confusion.miou_absent_zero()
                if labelled
                else float("nan"),
                "pixel_accuracy": tally.confusion.pixel_accuracy(),
                "boundary_f1": tally.boundary.mean(),
                "calibration_error": tally.calibration.ece(),
                "agreement": tally.agreement,
                "agreement_miou": tally.against_full.miou(),
                "confidence": tally.confidence,
            }
        )
    return rows
