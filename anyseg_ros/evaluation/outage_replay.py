"""Score of a replay with outages beside the undisturbed one over the same recording."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

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
_REMEMBERED = 64
_BUCKETS = 24


@dataclass(frozen=True)
class DisturbedFrame:
    """One output of the run with outages."""

    bag_time_s: float
    stamp_ns: int
    used: tuple[Modality, ...]
    miou: float
    agreement: float
    """percent of pixels as in the undisturbed run at the same stamp; NaN if that has none"""


@dataclass
class _StretchTally:
    confusion: ConfusionMatrix
    labelled: int = 0
    agreement: list[float] = field(default_factory=list)


class OutageReplay:
    """Takes both runs' sets as they come; keeps no label images but the last few."""

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
        self._undisturbed: dict[int, Image] = {}
        self._stretches = stretches(self.outages, duration_s, self._sensors)
        self._tallies = [_StretchTally(ConfusionMatrix(len(classes))) for _ in self._stretches]
        self._outputs: list[Output] = []
        self._worst: dict[int, KeptMoment] = {}

    def note_undisturbed(self, output: Segmentation) -> None:
        """Remember an output of the undisturbed run for comparison."""
        self._undisturbed[output.stamp_ns] = output.labels
        while len(self._undisturbed) > _REMEMBERED:
            self._undisturbed.pop(next(iter(self._undisturbed)))

    def add(self, result: SetResult, truth: Image | None) -> None:
        """Count one set of the run with outages."""
        output = result.segmentation
        if output is None:
            self.unusable += 1
            return
        base = self._undisturbed.get(output.stamp_ns)
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
            Output(output.stamp_ns / 1e9, result.bag_time_s, output.labels[:0], output.used, None)
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
        if truth is not None:
            badness, why = 100 - miou, f"mIoU {miou:.0f} %"
        elif base is not None:
            badness, why = 100 - agreement, f"{agreement:.0f} % as undisturbed"
        else:
            return
        if math.isnan(badness):
            return
        bucket = int(time_s / max(self._duration_s / _BUCKETS, 1e-3))
        kept = self._worst.get(bucket)
        if kept is None or kept.badness < badness:
            self._worst[bucket] = keep_moment(time_s, badness, why, output, truth, base)

    def worst_moments(self, count: int = 6) -> list[KeptMoment]:
        """The worst moments, well apart, in order of time."""
        return pick_apart(list(self._worst.values()), count, 2 * self._duration_s / _BUCKETS)

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
