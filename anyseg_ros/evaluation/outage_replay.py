"""Score of a replay with outages beside the undisturbed one over the same recording."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from anyseg_ros.classes import IGNORE_ID, ClassSet
from anyseg_ros.evaluation.metrics import ConfusionMatrix
from anyseg_ros.evaluation.outage_run import OutageRun, Output, reactions, score_stretches
from anyseg_ros.evaluation.outages import Outage, stretches
from anyseg_ros.evaluation.replay import ReplaySettings, SetResult
from anyseg_ros.evaluation.scoring import KeptMoment, keep_moment, pick_apart
from anyseg_ros.modality import Modality, subset_name
from anyseg_ros.pipeline import Segmentation

Image = npt.NDArray[np.uint8]

RECOVERED = 99.0
"""Percent of pixels as in the undisturbed run from which a run counts as recovered."""
_NO_LABELS: Image = np.empty((0, 0), np.uint8)
_REMEMBERED = 64
_WAITING = 16
"""Outputs that wait for the undisturbed run to reach their stamp."""
_NEAR_PERIODS = 0.55
"""How far the undisturbed output may lie that one is compared with: half a period, and some jitter."""
_BUCKETS = 24


Reference = Literal["labels", "undisturbed"]


@dataclass(frozen=True)
class DisturbedFrame:
    """One output of the run with outages."""

    bag_time_s: float
    stamp_ns: int
    used: tuple[Modality, ...]
    miou: float
    agreement: float
    """percent of pixels as in the undisturbed run's output nearest in stamp; NaN if none is within
    half a period of that run"""


@dataclass
class _StretchTally:
    confusion: ConfusionMatrix
    labelled: int = 0
    agreement: list[float] = field(default_factory=list)


class OutageReplay:
    """Takes both runs' sets as they come; keeps no label images but the last few.

    Without the sensor that leads, another sets the pace: its stamps are not those of the undisturbed
    run, so each output is compared with the undisturbed one nearest in stamp.
    """

    def __init__(
        self,
        classes: ClassSet,
        sensors: Sequence[Modality],
        outages: Sequence[Outage],
        duration_s: float,
        settings: ReplaySettings,
    ) -> None:
        self.outages = tuple(outages)
        self.frames: list[DisturbedFrame] = []
        self.unusable = 0
        self._classes = classes
        self._sensors = tuple(sorted(sensors))
        self._duration_s = duration_s
        self._settings = settings
        self._undisturbed: OrderedDict[int, Image] = OrderedDict()
        self._waiting: deque[tuple[SetResult, Segmentation, Image | None]] = deque()
        self._stretches = stretches(self.outages, duration_s, self._sensors)
        self._tallies = [_StretchTally(ConfusionMatrix(len(classes))) for _ in self._stretches]
        self._outputs: list[Output] = []
        self._worst: dict[Reference, dict[int, KeptMoment]] = {}

    def note_undisturbed(self, output: Segmentation) -> None:
        """Remember an output of the undisturbed run for comparison."""
        newest = next(reversed(self._undisturbed), None)
        if newest is not None and output.stamp_ns < newest:
            # Time jumped back: what lay there before is another moment.
            self.finish()
            self._undisturbed.clear()
        self._undisturbed[output.stamp_ns] = output.labels
        while len(self._undisturbed) > _REMEMBERED:
            self._undisturbed.popitem(last=False)
        self._settle(output.stamp_ns)

    def add(self, result: SetResult, truth: Image | None) -> None:
        """Count one set of the run with outages."""
        output = result.segmentation
        if output is None:
            self.unusable += 1
            return
        self._waiting.append((result, output, truth))
        self._settle(next(reversed(self._undisturbed), None))

    def finish(self) -> None:
        """Count what still waits for an output to be compared with; none will come."""
        while self._waiting:
            self._count(*self._waiting.popleft())

    def _settle(self, reached_ns: int | None) -> None:
        """Count what is as old as the undisturbed run: nothing nearer in stamp will come."""
        while self._waiting and (
            len(self._waiting) > _WAITING
            or (reached_ns is not None and self._waiting[0][1].stamp_ns <= reached_ns)
        ):
            self._count(*self._waiting.popleft())

    def _undisturbed_at(self, stamp_ns: int) -> Image | None:
        """The undisturbed labels nearest to a stamp, if within half a period of that run."""
        if stamp_ns in self._undisturbed or len(self._undisturbed) < 2:
            return self._undisturbed.get(stamp_ns)
        stamps = np.array(sorted(self._undisturbed))
        best = int(stamps[np.argmin(np.abs(stamps - stamp_ns))])
        near_ns = _NEAR_PERIODS * float(np.median(np.diff(stamps)))
        return self._undisturbed[best] if abs(best - stamp_ns) <= near_ns else None

    def _count(self, result: SetResult, output: Segmentation, truth: Image | None) -> None:
        base = self._undisturbed_at(output.stamp_ns)
        agreement = miou = float("nan")
        if base is not None:
            inside = base != IGNORE_ID
            agreement = 100 * float(np.mean(output.labels[inside] == base[inside]))
        tally = self._tally_at(result.bag_time_s)
        if truth is not None:
            confusion = ConfusionMatrix(len(self._classes))
            confusion.add(output.labels, truth)
            miou = confusion.miou()
            tally.confusion += confusion
            tally.labelled += 1
        if not math.isnan(agreement):
            tally.agreement.append(agreement)
        self.frames.append(
            DisturbedFrame(result.bag_time_s, output.stamp_ns, output.used, miou, agreement)
        )
        self._outputs.append(
            # Not a slice of the labels: a view would keep all of them.
            Output(output.stamp_ns / 1e9, result.bag_time_s, _NO_LABELS, output.used, None)
        )
        self._keep_if_worst(result.bag_time_s, output, truth, base, miou, agreement)

    def _tally_at(self, time_s: float) -> _StretchTally:
        for stretch, tally in zip(self._stretches, self._tallies, strict=True):
            if time_s < stretch.to_s:
                return tally
        return self._tallies[-1]

    def _keep_if_worst(
        self,
        time_s: float,
        output: Segmentation,
        truth: Image | None,
        base: Image | None,
        miou: float,
        agreement: float,
    ) -> None:
        reference: Reference
        if not math.isnan(miou):
            reference, badness, why = "labels", 100 - miou, f"mIoU {miou:.0f} %"
        elif not math.isnan(agreement):
            reference, badness, why = (
                "undisturbed",
                100 - agreement,
                f"{agreement:.0f} % as undisturbed",
            )
        else:
            return
        bucket = int(time_s / max(self._duration_s / _BUCKETS, 1e-3))
        worst = self._worst.setdefault(reference, {})
        kept = worst.get(bucket)
        if kept is None or kept.badness < badness:
            shown = truth if reference == "labels" else None
            worst[bucket] = keep_moment(time_s, badness, why, output, shown, base)

    @property
    def worst_against(self) -> Reference:
        """What the worst moments are compared with: the labels where any output has some."""
        return "labels" if "labels" in self._worst else "undisturbed"

    def worst_moments(self, count: int = 6) -> list[KeptMoment]:
        """The worst moments by one measure, well apart, in order of time."""
        found = self._worst.get(self.worst_against, {})
        return pick_apart(list(found.values()), count, 2 * self._duration_s / _BUCKETS)

    @property
    def run(self) -> OutageRun:
        """The run as the demo's report knows it, without label images."""
        return OutageRun(
            duration_s=self._duration_s,
            outages=self.outages,
            sensors=self._sensors,
            outputs=self._outputs,
            ground_truth={},
            timeouts_s={m: self._settings.sensors[m].timeout_s for m in self._sensors},
        )

    def stretch_rows(self) -> list[dict[str, object]]:
        """One flat row a stretch of the timetable."""
        rows: list[dict[str, object]] = []
        for score, tally in zip(
            score_stretches(self.run, self._classes), self._tallies, strict=True
        ):
            score = replace(score, miou=tally.confusion.miou(), scored=tally.labelled)
            row = asdict(score)
            # Receipt times are the recording's; there is no node whose latency could be measured.
            del row["latency_median_ms"], row["latency_p95_ms"]
            row["agreement"] = float(np.mean(tally.agreement)) if tally.agreement else float("nan")
            rows.append(row)
        return rows

    def reaction_rows(self) -> list[dict[str, object]]:
        """One flat row an outage: how long the sensor was still used, and when all was well again."""
        rows: list[dict[str, object]] = []
        ordered = sorted(self.outages, key=lambda o: (o.from_s, o.sensor))
        for outage, reaction in zip(ordered, reactions(self.run), strict=True):
            row = asdict(reaction)
            row["kind"] = outage.kind
            row["disables"] = outage.disables
            row["recovered_s"] = self._recovered_s(outage)
            during = [
                f.agreement
                for f in self.frames
                if outage.covers(f.bag_time_s) and not math.isnan(f.agreement)
            ]
            row["agreement_during"] = float(np.mean(during)) if during else float("nan")
            rows.append(row)
        return rows

    def _recovered_s(self, outage: Outage) -> float:
        """From the end of an outage to the first output that is as in the undisturbed run.

        NaN if another outage begins before, or the recording ends.
        """
        for frame in self.frames:
            if frame.bag_time_s < outage.to_s:
                continue
            if any(o.covers(frame.bag_time_s) for o in self.outages):
                return float("nan")
            if frame.agreement >= RECOVERED:
                return frame.bag_time_s - outage.to_s
        return float("nan")

    def frame_rows(self) -> list[dict[str, object]]:
        """One flat row an output."""
        return [
            {
                "bag_time_s": f.bag_time_s,
                "stamp_ns": f.stamp_ns,
                "used": subset_name(f.used),
                "miou": f.miou,
                "agreement": f.agreement,
            }
            for f in self.frames
        ]
