"""Score of a run with scripted outages: per stretch, what was alive, what was used, how well, how fast."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from anyseg_ros.classes import ClassSet
from anyseg_ros.evaluation.metrics import ConfusionMatrix
from anyseg_ros.evaluation.outages import Outage, Stretch, stretches
from anyseg_ros.modality import Modality, subset_name

LabelImage = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Output:
    """One segmentation as a subscriber saw it. Times are seconds of bag time."""

    stamp_s: float
    """The anchor's stamp."""
    received_s: float
    """When the subscriber had it."""
    labels: LabelImage = field(repr=False)
    used: tuple[Modality, ...]
    latency_s: float | None
    """From the receipt of the anchor's message, by the same subscriber, to that of the labels."""


@dataclass(frozen=True)
class OutageRun:
    """Everything recorded over one run."""

    duration_s: float
    outages: Sequence[Outage]
    sensors: tuple[Modality, ...]
    outputs: Sequence[Output]
    ground_truth: Mapping[float, LabelImage] = field(repr=False)
    """Labels by stamp, seconds of bag time."""
    timeouts_s: Mapping[Modality, float]


@dataclass(frozen=True)
class StretchScore:
    """One row of the table."""

    from_s: float
    to_s: float
    alive: str
    used: str
    """The set most outputs of the stretch used."""
    used_share: float
    """Share of the outputs that used exactly the sensors alive."""
    outputs: int
    scored: int
    miou: float
    """Percent, classes absent from both labels and output left out; NaN without ground truth."""
    latency_median_ms: float
    latency_p95_ms: float
    rate_hz: float
    longest_gap_s: float
    """Longest time without an output, from the last one before the stretch on."""


@dataclass(frozen=True)
class Reaction:
    """How the node took one sensor's cut and return, seconds."""

    sensor: str
    cut_s: float
    restored_s: float
    timeout_s: float
    last_used_after_cut_s: float
    """From the cut to the last output that still used the sensor (0 if none did)."""
    used_again_s: float
    """From the return to the first output that used it again; NaN if none did."""


def nearest_ground_truth(
    ground_truth: Mapping[float, LabelImage], stamp_s: float, tolerance_s: float = 0.05
) -> LabelImage | None:
    """Labels whose stamp is nearest to ``stamp_s``, if within the tolerance."""
    if not ground_truth:
        return None
    best = min(ground_truth, key=lambda s: abs(s - stamp_s))
    return ground_truth[best] if abs(best - stamp_s) <= tolerance_s else None


def score_stretches(run: OutageRun, classes: ClassSet) -> list[StretchScore]:
    """Score each stretch of the timetable.

    An output belongs to the stretch its receipt falls in, so the time the node needs to notice a cut
    counts against it.
    """
    return [
        _score(run, stretch, classes)
        for stretch in stretches(run.outages, run.duration_s, run.sensors)
    ]


def _score(run: OutageRun, stretch: Stretch, classes: ClassSet) -> StretchScore:
    outputs = [o for o in run.outputs if stretch.from_s <= o.received_s < stretch.to_s]
    confusion = ConfusionMatrix(len(classes))
    scored = 0
    for output in outputs:
        truth = nearest_ground_truth(run.ground_truth, output.stamp_s)
        if truth is not None and truth.shape == output.labels.shape:
            confusion.add(output.labels, truth)
            scored += 1
    used = Counter(o.used for o in outputs).most_common(1)
    latency = np.array([o.latency_s for o in outputs if o.latency_s is not None]) * 1e3
    before = [o.received_s for o in run.outputs if o.received_s < stretch.from_s]
    marks = [before[-1] if before else stretch.from_s, *(o.received_s for o in outputs)]
    marks.append(stretch.to_s)
    return StretchScore(
        from_s=stretch.from_s,
        to_s=stretch.to_s,
        alive=subset_name(stretch.alive),
        used=subset_name(used[0][0]) if used else "none",
        used_share=sum(o.used == stretch.alive for o in outputs) / max(len(outputs), 1),
        outputs=len(outputs),
        scored=scored,
        miou=confusion.miou() if scored else float("nan"),
        latency_median_ms=float(np.median(latency)) if latency.size else float("nan"),
        latency_p95_ms=float(np.percentile(latency, 95)) if latency.size else float("nan"),
        rate_hz=len(outputs) / (stretch.to_s - stretch.from_s),
        longest_gap_s=float(np.diff(marks).max()),
    )


def reactions(run: OutageRun) -> list[Reaction]:
    """How each cut and return of the timetable was taken."""
    found = []
    for outage in sorted(run.outages, key=lambda o: (o.from_s, o.sensor)):
        during = [
            o.received_s - outage.from_s
            for o in run.outputs
            if outage.covers(o.received_s) and outage.sensor in o.used
        ]
        later = [o.from_s for o in run.outages if o.sensor == outage.sensor]
        until = min((t for t in later if t >= outage.to_s), default=run.duration_s)
        again = [
            o.received_s - outage.to_s
            for o in run.outputs
            if outage.to_s <= o.received_s < until and outage.sensor in o.used
        ]
        found.append(
            Reaction(
                sensor=outage.sensor.label,
                cut_s=outage.from_s,
                restored_s=outage.to_s,
                timeout_s=run.timeouts_s[outage.sensor],
                last_used_after_cut_s=max(during, default=0.0),
                used_again_s=min(again, default=float("nan")),
            )
        )
    return found
