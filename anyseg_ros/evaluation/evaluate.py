"""Evaluate one recording: replay it, score it, write JSON, CSV and whatever else is asked for."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from anyseg_ros.durations import in_words
from anyseg_ros.engine import Engine
from anyseg_ros.evaluation.bag import NS_PER_S, Bag
from anyseg_ros.evaluation.contributions import Subset
from anyseg_ros.evaluation.labels import (
    LABEL_TOLERANCE_S,
    LABELS_NEAR_S,
    LabelIndex,
    TopicLabels,
    labels_of_folder,
)
from anyseg_ros.evaluation.outage_replay import OutageReplay
from anyseg_ros.evaluation.outages import Outage, load_outages, random_outages
from anyseg_ros.evaluation.replay import (
    BagArrivals,
    ReplaySettings,
    SetResult,
    SharedEncoder,
    Walk,
    replay,
)
from anyseg_ros.evaluation.results import machine
from anyseg_ros.evaluation.scoring import Scorer, subset_rows
from anyseg_ros.evaluation.sources import (
    Overrides,
    Rig,
    Sources,
    find_rig,
    find_sources,
    restrict,
)
from anyseg_ros.modalities import RigCalibration
from anyseg_ros.modality import MODALITIES, Modality, all_subsets, subset_name
from anyseg_ros.pipeline import Segmentation
from anyseg_ros.sync import DropReason

_SPEED_LIMITS = (0.8, 1.25)
_APART_LIMIT_S = 0.25
"""Stamps of two sensors this far apart are told of one that is not matched: the default ``max_age``."""
FRAGILE_STRETCH_S = 2.0
WRITTEN = (
    "index.html", "results.json", "timing.json", "frames.csv", "subsets.csv", "classes.csv",
    "outages.csv", "outage_frames.csv",
)  # fmt: skip
"""All files of a report; which of them a run writes depends on its options."""


@dataclass(frozen=True)
class RandomOutages:
    """What ``--random-outages`` asks for."""

    seed: int
    per_minute: float = 4.0
    mean_s: float = 2.0


@dataclass(frozen=True)
class EvaluationOptions:
    """What to do with a recording."""

    settings: ReplaySettings = field(default_factory=ReplaySettings)
    calibration: RigCalibration | None = None
    overrides: Overrides = field(default_factory=Overrides)
    sensors: tuple[Modality, ...] = MODALITIES
    """Only these, where the recording has them."""
    subsets: tuple[Subset, ...] | Literal["all", "leave-one-out"] = "all"
    """Which to evaluate, of the recording's sensors."""
    every: int = 1
    """Evaluate the subsets on each n-th set."""
    outages: Path | None = None
    random: RandomOutages | None = None
    labels: Path | None = None
    """Folder of labels; without it a label topic is looked for."""
    tags: tuple[str, ...] = ()
    timed_tags: tuple[tuple[float, float, str], ...] = ()
    """(from, to, tag) in seconds of bag time."""
    until_s: float | None = None
    notes: tuple[str, ...] = ()
    """What else the reader of the results should know about these options."""


@dataclass(frozen=True)
class Evaluation:
    """What came out; everything that a report shows."""

    results: dict[str, Any]
    """Plain data, the same bytes for the same recording, model and options."""
    timing: dict[str, Any]
    """Plain data; differs from run to run."""
    scorer: Scorer
    outage_replay: OutageReplay | None
    sources: Sources
    rig: Rig

    @property
    def partial(self) -> bool:
        """Whether the recording could only be read in part."""
        return bool(self.results["bag"]["damage"])


class Listener:
    """Takes each segmented set of the undisturbed run; subclasses write bags and data sets."""

    def begin(self, bag: Bag, walk: Walk, rig: Rig) -> None:
        """Called before the first set."""

    def take(
        self, result: SetResult, output: Segmentation, truth: npt.NDArray[np.uint8] | None
    ) -> None:
        """Called for each set that has an output."""

    def end(self) -> None:
        """Called after the last set, also when the replay failed after ``begin``."""


def evaluate_recording(
    bag: Bag,
    engine: Engine,
    options: EvaluationOptions,
    listeners: Sequence[Listener] = (),
    progress: Callable[[float], None] = lambda _: None,
    describe: Callable[[Sources, Rig], None] = lambda _sources, _rig: None,
) -> Evaluation:
    """Replay a recording and score it.

    Args:
        progress: called with the seconds of the recording that are read.
        describe: called with what was found before the replay starts.

    Raises:
        SourceError: if something that is needed cannot be found in the recording.
        OutageError: if the timetable cannot be used.
    """
    began = time.perf_counter()
    sources = restrict(find_sources(bag, options.overrides), options.sensors)
    rig = find_rig(bag, sources, options.calibration, options.overrides)
    describe(sources, rig)
    arrivals = BagArrivals(bag, sources, rig, options.settings, options.until_s)
    duration_s = arrivals.duration_s()
    shared = SharedEncoder(engine)
    walks = {"base": Walk(shared, sources, rig, options.settings, bag.start_ns)}
    base = walks["base"]
    outages, left_out = _timetable(options, duration_s, base.sensors)
    disturbed: OutageReplay | None = None
    if outages:
        walks["outages"] = Walk(shared, sources, rig, options.settings, bag.start_ns, outages)
        disturbed = OutageReplay(
            engine.card.classes, base.sensors, outages, duration_s, options.settings
        )
    subsets = all_subsets(base.sensors)
    if options.subsets == "leave-one-out":
        subsets = [s for s in subsets if len(s) >= len(base.sensors) - 1]
    elif options.subsets != "all":
        # All sensors together cost nothing more, and are what the others are compared with.
        subsets = [s for s in subsets if s in options.subsets or s == base.sensors]
    scorer = Scorer(engine.card.classes, base.sensors, subsets, duration_s)
    labels = _labels(bag, sources, options)
    letterbox = base.pipeline.grid.letterbox

    stages: dict[str, list[float]] = {"build": [], "encode": [], "fuse": []}
    by_live: dict[int, list[float]] = {}
    sweep_s = scoring_s = 0.0
    begun: list[Listener] = []
    set_up_s = time.perf_counter() - began
    epochs = set()
    # Counted apart, so that few labels among many sets are not missed.
    numbers = {True: 0, False: 0}
    replayed = replay(arrivals, walks)
    try:
        for listener in listeners:
            listener.begin(bag, base, rig)
            begun.append(listener)
        for name, result in replayed:
            progress((arrivals.log_time_ns - bag.start_ns) / NS_PER_S)
            output = result.segmentation
            truth = None
            if labels is not None and output is not None:
                labels.advance(arrivals.log_time_ns)
                truth = labels.at(output.stamp_ns, letterbox)
            if name == "outages":
                assert disturbed is not None
                disturbed.add(result, truth)
                continue
            epochs.add(result.matched.epoch)
            outputs: dict[Subset, Segmentation] = {}
            if output is not None:
                stages["build"].append(output.timings.build_s)
                stages["encode"].append(output.timings.encode_s)
                stages["fuse"].append(output.timings.fuse_s)
                by_live.setdefault(len(output.used), []).append(output.timings.total_s)
                if disturbed is not None:
                    disturbed.note_undisturbed(output)
                start = time.perf_counter()
                labelled = truth is not None
                if numbers[labelled] % options.every == 0:
                    outputs = _sweep(base, result, output, subsets)
                sweep_s += time.perf_counter() - start
                numbers[labelled] += 1
            start = time.perf_counter()
            scorer.add(result, outputs, truth, _tags_at(bag, options, result.bag_time_s))
            if output is not None:
                for listener in listeners:
                    listener.take(result, output, truth)
            scoring_s += time.perf_counter() - start
        if disturbed is not None:
            disturbed.finish()
    finally:
        replayed.close()
        for listener in begun:
            listener.end()
    wall_s = time.perf_counter() - began
    results = _results(
        bag, engine, options, sources, rig, base, scorer, disturbed, arrivals, labels, len(epochs)
    )
    results["remarks"] += left_out
    timing = {
        "machine": machine(),
        "engine": engine.description,
        "wall_s": wall_s,
        "set_up_s": set_up_s,
        "decode_s": arrivals.decode_s,
        "waited_s": arrivals.waited_s,
        "build_s": sum(stages["build"]),
        "encode_s": sum(stages["encode"]),
        "fuse_s": sum(stages["fuse"]),
        "subsets_s": sweep_s,
        "scoring_s": scoring_s,
        "sets_per_s": len(scorer.frames) / wall_s if wall_s else float("nan"),
        "speed": arrivals.bag_time_s / wall_s if wall_s else float("nan"),
        "stages_ms": {name: _spread(values) for name, values in stages.items()},
        "by_live_sensors_ms": {str(n): _spread(v) for n, v in sorted(by_live.items())},
    }
    return Evaluation(results, timing, scorer, disturbed, sources, rig)


def _sweep(
    base: Walk, result: SetResult, output: Segmentation, subsets: Sequence[Subset]
) -> dict[Subset, Segmentation]:
    outputs = {}
    for subset in subsets:
        if subset != output.used and set(subset) <= set(output.used):
            done = base.segment_subset(result.matched, subset)
            if done is not None:
                outputs[subset] = done
    return outputs


def _timetable(
    options: EvaluationOptions, duration_s: float, sensors: Sequence[Modality]
) -> tuple[list[Outage], list[str]]:
    """The outages that can be brought about, and a line on each kind of those that cannot."""
    outages = load_outages(options.outages) if options.outages else []
    if options.random is not None:
        asked = options.random
        outages += random_outages(asked.seed, duration_s, sensors, asked.per_minute, asked.mean_s)
    kept, late, absent = [], [], []
    for outage in outages:
        if outage.sensor not in sensors:
            absent.append(outage)
        elif outage.from_s >= duration_s:
            late.append(outage)
        else:
            kept.append(outage)
    lines = []
    if absent:
        names = subset_name({o.sensor for o in absent})
        lines.append(f"{_outages(len(absent))} left out: {names} takes no part in this replay")
    if late:
        first = min(o.from_s for o in late)
        lines.append(
            f"{_outages(len(late))} left out: from {first:.1f} s on, after the replay's end at "
            f"{duration_s:.1f} s"
        )
    return kept, lines


def _outages(count: int) -> str:
    return f"{count} outage{'' if count == 1 else 's'} of the timetable"


def _labels(bag: Bag, sources: Sources, options: EvaluationOptions) -> LabelIndex | None:
    if options.labels is not None:
        return labels_of_folder(options.labels)
    if sources.labels is not None:
        return TopicLabels(bag, sources.labels)
    return None


def label_source(sources: Sources, options: EvaluationOptions) -> str | None:
    """Where the ground truth comes from, in words; ``None`` without any."""
    if options.labels is not None:
        return f"folder {options.labels}"
    return None if sources.labels is None else f"topic {sources.labels}"


def _tags_at(bag: Bag, options: EvaluationOptions, time_s: float) -> list[str]:
    tags = [*options.tags]
    if "weather" in bag.tags:
        tags.append(bag.tags["weather"])
    tags += [tag for begin, end, tag in options.timed_tags if begin <= time_s < end]
    return list(dict.fromkeys(tags))


def _results(
    bag: Bag,
    engine: Engine,
    options: EvaluationOptions,
    sources: Sources,
    rig: Rig,
    base: Walk,
    scorer: Scorer,
    disturbed: OutageReplay | None,
    arrivals: BagArrivals,
    labels: LabelIndex | None,
    epochs: int,
) -> dict[str, Any]:
    card = engine.card
    classes = card.classes
    contributions = scorer.contributions()
    everything = scorer.worth(scorer.sensors)
    frames = scorer.frames
    return {
        "bag": {
            "name": bag.name,
            "duration_s": bag.duration_s,
            "evaluated_s": arrivals.bag_time_s,
            "damage": list(bag.damage),
            "tags": dict(bag.tags),
        },
        "model": {
            "name": card.name,
            "model_id": card.model_id,
            "synthetic_only": card.synthetic_only,
            "data": str(card.provenance.get("data", "unknown")),
            "input": f"{card.input_width}x{card.input_height}",
            "classes": list(classes.names),
        },
        "remarks": remarks(bag, arrivals, base, scorer, sources, labels, epochs),
        "sensors": _sensor_rows(sources, rig, base, arrivals),
        "labels": label_source(sources, options),
        "notes": [*sources.notes, *options.notes],
        "run": {
            "sets": len(frames) + scorer.unusable,
            "segmented": len(frames),
            "complete": sum(f.used == scorer.sensors for f in frames),
            "epochs": epochs,
            "labelled": scorer.as_recorded.labelled,
            "confidence": _mean(f.confidence for f in frames),
            "flicker": _mean(f.flicker for f in frames),
            "changed": _mean(f.changed for f in frames),
        },
        "subsets": subset_rows(scorer),
        "classes": [
            {"subset": name, "class": classes.names[c], "iou": 100 * iou, "boundary_f1": 100 * edge}
            for name, tally in (
                ("as recorded", scorer.as_recorded),
                *((subset_name(s), t) for s, t in scorer.subsets.items()),
            )
            if tally.labelled
            for c, (iou, edge) in enumerate(
                zip(tally.confusion.iou(), tally.boundary.f1(), strict=True)
            )
            if not math.isnan(iou)
        ],
        "reliability": [
            {"confidence": b.confidence, "accuracy": b.accuracy, "pixels": b.pixels}
            for b in scorer.as_recorded.calibration.bins(10)
        ],
        "contributions": [
            {
                "sensor": sensor.label,
                "shapley_points": float("nan") if contributions is None else contributions[sensor],
                "alone_points": scorer.worth((sensor,)),
                "loss_without_points": everything
                - scorer.worth(tuple(m for m in scorer.sensors if m is not sensor)),
                "of": "miou" if scorer.labelled else "agreement_miou",
            }
            for sensor in scorer.sensors
        ],
        "tags": [
            {
                "tag": tag,
                "subset": subset_name(subset),
                "miou": confusion.miou(),
                "miou_absent_zero": confusion.miou_absent_zero(),
            }
            for (tag, subset), confusion in sorted(scorer.tags.items())
        ],
        "class_shares": [
            {"class": name, "percent": 100 * float(share)}
            for name, share in zip(
                classes.names,
                np.mean([f.class_shares for f in frames], axis=0)
                if frames
                else np.zeros(len(classes)),
                strict=True,
            )
        ],
        "fragile_stretches": scorer.fragile_stretches(FRAGILE_STRETCH_S),
        "outages": None
        if disturbed is None
        else {
            "timetable": [
                {"sensor": o.sensor.label, "from_s": o.from_s, "to_s": o.to_s, "kind": o.kind}
                for o in disturbed.outages
            ],
            "outputs": len(disturbed.frames),
            "stretches": disturbed.stretch_rows(),
            "reactions": disturbed.reaction_rows(),
        },
    }


def _sensor_rows(
    sources: Sources, rig: Rig, base: Walk, arrivals: BagArrivals
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    counters = base.synchronizer.counters
    for modality, source in sorted(sources.sensors.items()):
        log = arrivals.logs.get(modality)
        count = counters.get(modality)
        rows.append(
            {
                "sensor": modality.label,
                "topic": source.topic,
                "kind": source.kind,
                "frame_id": source.frame_id,
                "calibration": rig.origin.get(modality, rig.missing.get(modality, "")),
                "used_by_model": modality in base.sensors,
                "received": log.received if log else source.messages,
                "refused": log.refused if log else 0,
                "reasons": dict(log.reasons.most_common(3)) if log else {},
                "matched": count.used if count else 0,
                "not_matched": {r.value: n for r, n in count.dropped.items() if n} if count else {},
            }
        )
    return rows


def remarks(
    bag: Bag,
    arrivals: BagArrivals,
    base: Walk,
    scorer: Scorer,
    sources: Sources,
    labels: LabelIndex | None,
    epochs: int,
) -> list[str]:
    """What a reader must know before he believes a number, a line each."""
    lines = [f"{bag.name}: {line}" for line in bag.damage]
    for modality, log in arrivals.logs.items():
        topic = sources.sensors[modality].topic
        if log.refused:
            reason, _ = log.reasons.most_common(1)[0]
            lines.append(
                f"{modality.label}: {log.refused} of {log.received} messages on {topic} refused; "
                f"most often: {reason}"
            )
        if log.jumps_back:
            lines.append(
                f"{modality.label}: stamps on {topic} jump back {log.jumps_back} "
                f"time{'s' if log.jumps_back > 1 else ''}"
            )
        speed = log.speed if arrivals.clock == "log" else None
        if speed is not None and not _SPEED_LIMITS[0] <= speed <= _SPEED_LIMITS[1]:
            lines.append(
                f"{modality.label}: stamps on {topic} run {speed:.1f} times as fast as the recording; "
                "it was recorded from a replay: use --clock stamps"
            )
        if (line := _unmatched(modality, arrivals, base, topic)) is not None:
            lines.append(line)
    if epochs > 1:
        lines.append(f"time jumped back: {epochs} epochs, each scored on its own")
    if scorer.unusable:
        lines.append(f"{scorer.unusable} sets could not be segmented")
    if not scorer.frames:
        lines.append("not one set was segmented: there is nothing to score")
    elif not any(f.used == scorer.sensors for f in scorer.frames):
        lines.append(
            f"no set holds all of {subset_name(scorer.sensors)}: subsets cannot be compared"
        )
    if scorer.foreign_ids:
        lines.append(
            f"the labels hold ids that are no class of the model ({_few(scorer.foreign_ids)}); those "
            "pixels are not scored"
        )
    if labels is not None:
        if labels.refused:
            reason, _ = labels.reasons.most_common(1)[0]
            lines.append(
                f"labels: {labels.refused} of {labels.found} refused; most often: {reason}"
            )
        if scorer.void:
            lines.append(f"the labels of {scorer.void} sets hold no class of the model")
        if scorer.frames and not (scorer.labelled or scorer.void or labels.refused):
            lines.append(
                f"none of {labels.found} labels lies within {LABEL_TOLERANCE_S} s of a set"
                + (
                    f" and was recorded within {LABELS_NEAR_S:.0f} s of it"
                    if isinstance(labels, TopicLabels)
                    else ""
                )
            )
    return lines


def _unmatched(modality: Modality, arrivals: BagArrivals, base: Walk, topic: str) -> str | None:
    """What to say of a sensor most of whose messages never were in a set; ``None`` of any other."""
    log, count = arrivals.logs[modality], base.synchronizer.counters.get(modality)
    readable = log.received - log.refused
    if count is None or not readable:
        return None
    lost = {**count.dropped}
    lost[DropReason.BAD_CONTENT] -= log.refused  # these have a line of their own
    reason = max(lost, key=lambda r: lost[r])
    # That few are needed of a sensor that is faster than the leading one is as it should be.
    mostly = lost[reason] > readable / 2 and reason is not DropReason.UNUSED
    if not mostly and (count.used or not any(lost.values())):
        return None
    why = reason.value
    if reason in (DropReason.BAD_CONTENT, DropReason.QUARANTINED):
        why += f" ({base.health.health[modality].last_finding or 'the others contradict it'})"
    others = [m for m in base.sensors if m is not modality]
    remedy = f"leave it out with --sensors {subset_name(others)}" if others else ""
    apart_s = _clock_apart_s(modality, arrivals, others)
    if apart_s is not None and abs(apart_s) > _APART_LIMIT_S:
        way = "behind" if apart_s > 0 else "ahead of"
        why += f"; its stamps are {in_words(abs(apart_s))} {way} the other sensors'"
        offset_s = arrivals.offsets_ns[modality] / NS_PER_S + apart_s
        remedy = (
            f"if its clock is another, say {modality.label}.stamp_offset: {offset_s:.2f} in a file for "
            "--params, and record with the driver's timestamp mode set to the host's time, or "
            + remedy
        )
    return (
        f"{modality.label}: {readable - count.used} of {readable} messages on {topic} not matched, most "
        f"often: {why}" + (f"; {remedy}" if remedy else "")
    )


def _clock_apart_s(
    modality: Modality, arrivals: BagArrivals, others: Sequence[Modality]
) -> float | None:
    """How much more a sensor's stamps lie behind the log times than those of the others."""
    own = arrivals.logs[modality].delay_s
    delays = [d for m in others if (d := arrivals.logs[m].delay_s) is not None]
    if own is None or not delays:
        return None
    # Of two that contradict each other the one near the log times is right.
    return own - sorted(delays, key=abs)[(len(delays) - 1) // 2]


def _few(numbers: Iterable[int]) -> str:
    ordered = sorted(numbers)
    text = ", ".join(map(str, ordered[:6]))
    return text if len(ordered) <= 6 else f"{text} and {len(ordered) - 6} more"


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    if not seconds:
        return {"median": float("nan"), "p95": float("nan"), "count": 0}
    values = np.array(seconds) * 1e3
    return {
        "median": float(np.median(values)),
        "p95": float(np.percentile(values, 95)),
        "count": len(values),
    }


def _mean(values: Iterable[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return float(np.mean(known)) if known else float("nan")


def plain(value: Any) -> Any:
    """The same data for JSON: NaN becomes null, numbers are rounded to what they mean."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return None if not math.isfinite(value) else round(float(value), 6)
    if isinstance(value, np.integer):
        return int(value)
    return value


def write_json(path: Path, data: Any) -> None:
    """Write plain data, stable byte for byte."""
    path.write_text(json.dumps(plain(data), indent=1, ensure_ascii=False) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write flat rows; an empty cell is a value that is not known."""
    with path.open("w", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]) if rows else [])
        writer.writeheader()
        for row in rows:
            writer.writerow({k: "" if v is None else v for k, v in plain(dict(row)).items()})


def frame_rows(scorer: Scorer) -> list[dict[str, Any]]:
    """One flat row a set."""
    rows = []
    for frame in scorer.frames:
        row: dict[str, Any] = {
            "bag_time_s": frame.bag_time_s,
            "stamp_ns": frame.stamp_ns,
            "epoch": frame.epoch,
            "anchor": frame.anchor.label,
            "used": subset_name(frame.used),
            "confidence": frame.confidence,
            "changed": frame.changed,
            "flicker": frame.flicker,
            "miou": frame.miou,
            "pixel_accuracy": frame.accuracy,
        }
        for sensor in scorer.sensors:
            row[f"{sensor.label}_age_s"] = frame.ages_s.get(sensor, float("nan"))
        for sensor in scorer.sensors:
            row[f"loss_without_{sensor.label}"] = scorer.losses(frame).get(sensor, float("nan"))
        for name, share in zip(scorer.classes.names, frame.class_shares, strict=True):
            row[f"share_{name}"] = float(share)
        rows.append(row)
    return rows


def write_tables(folder: Path, evaluation: Evaluation) -> None:
    """Write ``results.json``, ``timing.json`` and the CSV tables."""
    folder.mkdir(parents=True, exist_ok=True)
    results = evaluation.results
    write_json(folder / "results.json", results)
    write_json(folder / "timing.json", evaluation.timing)
    write_csv(folder / "frames.csv", frame_rows(evaluation.scorer))
    write_csv(folder / "subsets.csv", results["subsets"])
    if results["classes"]:
        write_csv(folder / "classes.csv", results["classes"])
    if evaluation.outage_replay is not None:
        write_csv(folder / "outages.csv", results["outages"]["stretches"])
        write_csv(folder / "outage_frames.csv", evaluation.outage_replay.frame_rows())
