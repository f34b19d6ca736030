"""One self-contained HTML page about a replayed recording: what holds, what breaks, and where."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import numpy.typing as npt

from anyseg_ros.classes import IGNORE_ID, ClassSet
from anyseg_ros.evaluation.contributions import Subset
from anyseg_ros.evaluation.drawing import (
    SENSOR_COLORS,
    Picture,
    data_url,
    depict,
    environment,
    overlay,
    svg_text,
)
from anyseg_ros.evaluation.evaluate import FRAGILE_STRETCH_S, Evaluation
from anyseg_ros.evaluation.outages import Outage
from anyseg_ros.evaluation.scoring import KeptMoment
from anyseg_ros.modality import Modality, subset_name

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_MOST_POINTS = 400
"""A figure shows no more points a curve: long recordings are averaged down to it."""
_GAP_STEPS = 2.5
_SHORTEST_GAP_S = 0.25
_MUTED = "#4b5563"
_INK = "#111827"
# Pale to dark blue, from ColorBrewer's "Blues"; readable text on each end.
_HEAT = ("#f7fbff", "#deebf7", "#c6dbef", "#9ecae1", "#6baed6", "#4292c6", "#2171b5", "#084594")


def write_replay_report(folder: Path, evaluation: Evaluation) -> Path:
    """Write ``index.html`` into a folder; returns its path."""
    results, scorer = evaluation.results, evaluation.scorer
    classes = scorer.classes
    with matplotlib.rc_context({"font.size": 9, "axes.edgecolor": "#9ca3af"}):
        timeline = _figure(_draw_timeline(evaluation))
        reliability = _figure(_draw_reliability(results["reliability"])) if scorer.labelled else ""
    moments = scorer.worst_moments()
    disturbed = evaluation.outage_replay
    under_outages = disturbed.worst_moments() if disturbed is not None else []
    seen = sorted(
        {int(c) for m in (*moments, *under_outages) for c in np.unique(m.labels) if c != IGNORE_ID}
    )
    source = files("anyseg_ros.evaluation").joinpath("replay_report.html.j2").read_text()
    page = (
        environment()
        .from_string(source)
        .render(
            results=results,
            timing=evaluation.timing,
            labelled=scorer.labelled,
            sensors=[m.label for m in scorer.sensors],
            headline=headline(evaluation),
            cards=_cards(evaluation),
            subset_table=_subset_table(evaluation),
            class_table=_class_table(evaluation),
            tag_table=_tag_table(results["tags"]),
            timeline=timeline,
            reliability=reliability,
            worst_by=scorer.worst_by,
            outages_against=disturbed.worst_against if disturbed is not None else "",
            film=[_film_row(m, scorer.sensors, classes) for m in moments],
            outage_film=[_film_row(m, scorer.sensors, classes) for m in under_outages],
            largest_contribution=max(
                (
                    abs(v)
                    for c in results["contributions"]
                    for v in (c["shapley_points"], c["loss_without_points"], c["alone_points"])
                    if not math.isnan(v)
                ),
                default=1.0,
            ),
            stretch_s=FRAGILE_STRETCH_S,
            legend=[(classes.names[c], "rgb({}, {}, {})".format(*classes.colors[c])) for c in seen],
            colors={m.label: color for m, color in SENSOR_COLORS.items()},
            stages=_stages(evaluation.timing),
        )
    )
    path = folder / "index.html"
    path.write_text(page)
    return path


def _figure(figure: Any) -> str:
    text = svg_text(figure)
    plt.close(figure)
    return text


# --- words and numbers ------------------------------------------------------------------------


def headline(evaluation: Evaluation) -> str:
    """What the page says, in one or two sentences."""
    results, scorer = evaluation.results, evaluation.scorer
    if not scorer.frames:
        return "Not one matched set could be segmented, so there is nothing to score."
    full = subset_name(scorer.sensors)
    rows = {row["subset"]: row for row in results["subsets"]}
    measure = "miou" if scorer.labelled else "agreement"
    without = {
        sensor: rows[name][measure]
        for sensor in scorer.sensors
        if (name := subset_name(m for m in scorer.sensors if m is not sensor)) in rows
        and not math.isnan(rows[name][measure])
    }
    if scorer.labelled:
        first = f"With everything that was there, mIoU is {rows['as recorded']['miou']:.1f} %."
        if not without:
            return first
        worst = min(without, key=lambda m: without[m])
        safest = max(without, key=lambda m: without[m])
        return (
            f"With all sensors mIoU is {rows[full]['miou']:.1f} %. Losing one sensor costs most if it "
            f"is the {worst.label} ({without[worst]:.1f} % remain) and least if it is the "
            f"{safest.label} ({without[safest]:.1f} %)."
        )
    if not without:
        alone = "One sensor" if len(scorer.sensors) == 1 else "No combination of fewer sensors"
        return (
            f"{alone} and no ground truth: what can be told is how sure and how steady the output "
            f"is. Mean confidence is {100 * results['run']['confidence']:.0f} %, and "
            f"{100 * results['run']['flicker']:.1f} % of the pixels flicker."
        )
    worst = min(without, key=lambda m: without[m])
    safest = max(without, key=lambda m: without[m])
    return (
        f"Without ground truth the output of all sensors is the reference. It changes most when the "
        f"{worst.label} is lost ({without[worst]:.1f} % of the pixels stay) and least without the "
        f"{safest.label} ({without[safest]:.1f} %)."
    )


def _cards(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """(value, name, explanation) of the figures on top."""
    results, timing, scorer = evaluation.results, evaluation.timing, evaluation.scorer
    run = results["run"]
    recorded = results["subsets"][0]
    cards = []
    if scorer.labelled:
        counted = f"as recorded; {run['labelled']} of {run['segmented']} sets have labels"
        cards.append((_percent(recorded["miou"]), "mIoU", counted))
        cards.append((_percent(recorded["boundary_f1"]), "boundary F1", "outlines that agree"))
        cards.append(
            (
                _percent(100 * recorded["calibration_error"]),
                "calibration error",
                "confidence against accuracy",
            )
        )
    cards += [
        (_percent(100 * run["confidence"]), "confidence", "mean over all pixels"),
        (_percent(100 * run["flicker"], 2), "flicker", "pixels that change and change back"),
        (f"{run['segmented']}", "sets segmented", f"{run['complete']} with all sensors"),
    ]
    if timing["by_live_sensors_ms"]:
        live, spent = list(timing["by_live_sensors_ms"].items())[-1]
        sensors = f"{live} sensor{'' if live == '1' else 's'}"
        about = f"one set of {sensors}, median"
        cards.append((f"{spent['median']:.3g} ms", "to segment", about))
    return cards


def _percent(value: float, digits: int = 1) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f} %"


def heat(value: float, low: float, high: float) -> str:
    """CSS of a heat map's cell."""
    if math.isnan(value):
        return "background:#f3f4f6;color:#9ca3af"
    share = 0.0 if high <= low else min(max((value - low) / (high - low), 0.0), 1.0)
    level = min(int(share * len(_HEAT)), len(_HEAT) - 1)
    return f"background:{_HEAT[level]};color:{'#fff' if level >= 5 else _INK}"


_SUBSET_COLUMNS = (
    ("miou", "mIoU", "over the classes labelled or predicted", 1.0, True),
    ("miou_absent_zero", "mIoU, absent 0", "over all classes, absent ones counting 0", 1.0, True),
    ("pixel_accuracy", "pixels right", "share of labelled pixels", 1.0, True),
    ("boundary_f1", "boundary F1", "outlines within 0.75 % of the diagonal", 1.0, True),
    ("calibration_error", "calibration error", "lower is better", 100.0, True),
    (
        "agreement",
        "as all sensors",
        "pixels of the class that all sensors together give",
        1.0,
        False,
    ),
    ("agreement_miou", "mIoU to all", "with the output of all sensors as the truth", 1.0, False),
    ("confidence", "confidence", "mean over all pixels", 100.0, False),
)


def _subset_table(evaluation: Evaluation) -> dict[str, Any]:
    scorer = evaluation.scorer
    columns = [c for c in _SUBSET_COLUMNS if scorer.labelled or not c[4]]
    tallied = [row for row in evaluation.results["subsets"][1:] if row["sets"]]
    if len(tallied) < 2:
        return {"columns": [], "rows": []}
    limits = {}
    for key, _, _, scale, _ in columns:
        values = [scale * row[key] for row in tallied if not math.isnan(row[key])]
        limits[key] = (min(values, default=0.0), max(values, default=1.0))
    rows = []
    for row in tallied:
        cells = []
        for key, _, _, scale, _ in columns:
            value = scale * row[key]
            style = heat(value, *limits[key])
            if key == "calibration_error":
                style = heat(-value, -limits[key][1], -limits[key][0])
            cells.append({"text": "-" if math.isnan(value) else f"{value:.1f}", "style": style})
        parts = row["subset"].split("+")
        rows.append(
            {
                "has": [m.label in parts for m in scorer.sensors],
                "name": row["subset"],
                "cells": cells,
            }
        )
    return {"columns": [(name, about) for _, name, about, _, _ in columns], "rows": rows}


def _class_table(evaluation: Evaluation) -> dict[str, Any] | None:
    scorer = evaluation.scorer
    tallies = {s: t for s, t in scorer.subsets.items() if t.labelled}
    if not tallies:
        return None
    ious = {s: 100 * t.confusion.iou() for s, t in tallies.items()}
    full = ious.get(scorer.sensors, next(iter(ious.values())))
    present = [c for c in range(len(scorer.classes)) if not math.isnan(full[c])]
    return {
        "columns": [
            {
                "name": scorer.classes.names[c],
                "color": "rgb({}, {}, {})".format(*scorer.classes.colors[c]),
            }
            for c in present
        ],
        "rows": [
            {
                "has": [m in subset for m in scorer.sensors],
                "name": subset_name(subset),
                "cells": [
                    {
                        "text": "-" if math.isnan(values[c]) else f"{values[c]:.0f}",
                        "style": heat(float(values[c]), 0.0, 100.0),
                    }
                    for c in present
                ],
            }
            for subset, values in ious.items()
        ],
    }


def _tag_table(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Tags as columns, subsets as rows."""
    tags = sorted({row["tag"] for row in rows})
    if not tags:
        return None
    subsets = list(dict.fromkeys(row["subset"] for row in rows))
    subsets.sort(key=lambda name: (name.count("+"), name))
    values = {(row["tag"], row["subset"]): row["miou"] for row in rows}
    return {
        "tags": tags,
        "rows": [
            {
                "name": subset,
                "cells": [
                    {
                        "text": _percent(values.get((tag, subset), float("nan"))),
                        "style": heat(values.get((tag, subset), float("nan")), 0.0, 100.0),
                    }
                    for tag in tags
                ],
            }
            for subset in subsets
        ],
    }


def _stages(timing: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where the time went: (name, seconds, share of the wall time)."""
    names = (
        ("waited_s", "wait for messages (decoded meanwhile)", "#94a3b8"),
        ("build_s", "build images", "#38bdf8"),
        ("encode_s", "encode", "#2563eb"),
        ("fuse_s", "fuse", "#4f46e5"),
        ("subsets_s", "the other subsets", "#a78bfa"),
        ("scoring_s", "score", "#f59e0b"),
    )
    wall = max(timing["wall_s"], 1e-9)
    rows = [
        {"name": n, "seconds": timing[k], "share": timing[k] / wall, "color": c}
        for k, n, c in names
    ]
    rest = wall - sum(timing[k] for k, _, _ in names)
    rows.append(
        {
            "name": "the rest",
            "seconds": max(rest, 0.0),
            "share": max(rest, 0.0) / wall,
            "color": "#e5e7eb",
        }
    )
    return rows


# --- pictures ---------------------------------------------------------------------------------


def _film_row(moment: KeptMoment, sensors: Subset, classes: ClassSet) -> dict[str, Any]:
    camera = moment.inputs.get(Modality.CAMERA)
    background = camera
    if background is None and moment.inputs:
        shown = depict(min(moment.inputs), moment.inputs[min(moment.inputs)])
        grey = cv2.cvtColor(np.asarray(shown, np.uint8), cv2.COLOR_RGB2GRAY)
        background = np.repeat(np.asarray(grey, np.uint8)[..., None], 3, -1)
    reference = moment.truth if moment.truth is not None else moment.other
    return {
        "time_s": moment.bag_time_s,
        "why": moment.why,
        "used": [m.label for m in moment.used],
        "inputs": [
            {
                "label": m.label,
                "url": data_url(depict(m, moment.inputs[m])) if m in moment.inputs else None,
            }
            for m in sensors
        ],
        "output": data_url(overlay(moment.labels, background, classes)),
        "reference": None if reference is None else data_url(classes.colorize(reference)),
        "difference": None if reference is None else data_url(difference(moment.labels, reference)),
    }


def difference(labels: Picture, reference: Picture) -> npt.NDArray[np.uint8]:
    """Red where two label images differ, pale where they agree, white where nothing is known."""
    shown = np.full((*labels.shape, 3), (226, 232, 240), np.uint8)
    shown[labels != reference] = (220, 38, 38)
    shown[(reference == IGNORE_ID) | (labels == IGNORE_ID)] = 255
    return shown


def _step_s(times: Sequence[float]) -> float:
    """The usual time between two moments."""
    return float(np.median(np.diff(times))) if len(times) > 1 else 0.1


def _gap_s(times: Sequence[float]) -> float:
    """Time between two moments from which on nothing is known of what lies between them."""
    return max(_GAP_STEPS * _step_s(times), _SHORTEST_GAP_S)


def curve(times: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Points of a curve that breaks, with a NaN, where nothing is known for a while.

    Of more points than can be seen, the means over equal parts. A point alone becomes a short dash.
    """
    known = np.array(
        [(t, v) for t, v in zip(times, values, strict=True) if not math.isnan(v)], float
    ).reshape(-1, 2)
    step_s = _step_s(times)
    cuts = np.flatnonzero(np.diff(known[:, 0]) > _gap_s(known[:, 0].tolist())) + 1
    points: list[tuple[float, float]] = []
    for run in np.split(known, cuts) if len(known) else []:
        if len(run) == 1:
            run = run + np.array([[-step_s / 2, 0], [step_s / 2, 0]])
        elif len(known) > _MOST_POINTS:
            parts = max(round(_MOST_POINTS * len(run) / len(known)), 2)
            run = np.array([part.mean(0) for part in np.array_split(run, min(parts, len(run)))])
        if points:
            points.append((float(run[0, 0]), float("nan")))
        points += [(float(t), float(v)) for t, v in run]
    return [t for t, _ in points], [v for _, v in points]


def spans(times: Sequence[float], has: Sequence[bool]) -> list[tuple[float, float]]:
    """(begin, length) of the stretches over which a sensor was used without a break.

    An output counts until the next one; where that is long in coming, for the usual time between two.
    """
    step_s, gap_s = _step_s(times), _gap_s(times)
    found: list[tuple[float, float]] = []
    begin: float | None = None
    for index, (time_s, used) in enumerate(zip(times, has, strict=True)):
        if not used:
            continue
        if begin is None:
            begin = time_s
        following = times[index + 1] if index + 1 < len(times) else math.inf
        ends_s = following if following - time_s <= gap_s else time_s + step_s
        if ends_s < following or not has[index + 1]:
            found.append((begin, ends_s - begin))
            begin = None
    return found


def _draw_timeline(evaluation: Evaluation) -> Any:
    """Figure over bag time. The caller closes it."""
    scorer, disturbed = evaluation.scorer, evaluation.outage_replay
    frames = scorer.frames
    times = [f.bag_time_s for f in frames]
    end_s = max(evaluation.results["bag"]["evaluated_s"], 0.1)
    losses = any(scorer.losses(f) for f in frames)
    panels: list[tuple[str, float]] = [("used", 0.35 * len(scorer.sensors) + 0.25)]
    if disturbed is not None:
        panels.append(("outages", 0.35 * len(scorer.sensors) + 0.25))
    panels.append(("quality", 1.5))
    if losses:
        panels.append(("losses", 1.5))
    panels.append(("classes", 1.4))
    figure, axes = plt.subplots(
        len(panels),
        1,
        figsize=(11, 0.9 + sum(h for _, h in panels)),
        sharex=True,
        height_ratios=[h for _, h in panels],
        layout="constrained",
        squeeze=False,
    )
    for (panel, _), axis in zip(panels, axes[:, 0], strict=True):
        if panel == "used":
            _draw_used(axis, scorer.sensors, times, [f.used for f in frames])
            _title(axis, "Which sensors each output used")
        elif panel == "outages" and disturbed is not None:
            rows = disturbed.frames
            _draw_used(axis, scorer.sensors, [f.bag_time_s for f in rows], [f.used for f in rows])
            _draw_outages(axis, scorer.sensors, disturbed.outages)
            _title(axis, "The same with the timetable of outages (hatched)")
        elif panel == "quality":
            _draw_quality(axis, evaluation, times)
        elif panel == "losses":
            for sensor in scorer.sensors:
                values = [scorer.losses(f).get(sensor, float("nan")) for f in frames]
                axis.plot(
                    *curve(times, values),
                    color=SENSOR_COLORS[sensor],
                    linewidth=1.3,
                    label=sensor.label,
                )
            axis.axhline(0, color="#9ca3af", linewidth=0.8)
            axis.set_ylabel("% of pixels")
            _legend_above(axis, 4)
            of = "pixels right" if scorer.labelled else "pixels that stay as they are"
            _title(axis, f"What losing one sensor would have cost at each moment ({of})")
        elif panel == "classes" and frames:
            _draw_classes(axis, scorer.classes, times, np.array([f.class_shares for f in frames]))
        axis.set_xlim(0, end_s)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="x", color="#eef2f7")
        axis.set_axisbelow(True)
    axes[-1, 0].set_xlabel("seconds since the recording began")
    return figure


def _title(axis: Any, text: str) -> None:
    axis.set_title(text, loc="left", fontsize=9, color=_MUTED)


def _legend_above(axis: Any, columns: int) -> None:
    """A legend beside the title, where no curve can run through it."""
    axis.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 0.98),
        ncols=columns,
        fontsize=8,
        frameon=False,
        borderaxespad=0.2,
    )


def _draw_used(axis: Any, sensors: Subset, times: Sequence[float], used: Sequence[Subset]) -> None:
    for row, sensor in enumerate(sensors):
        axis.broken_barh(
            spans(times, [sensor in u for u in used]),
            (row - 0.32, 0.64),
            facecolors=SENSOR_COLORS[sensor],
        )
    axis.set_yticks(range(len(sensors)), [s.label for s in sensors])
    axis.set_ylim(len(sensors) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)


def _draw_outages(axis: Any, sensors: Subset, outages: Sequence[Outage]) -> None:
    for outage in outages:
        if outage.sensor in sensors:
            axis.broken_barh(
                [(outage.from_s, outage.to_s - outage.from_s)],
                (sensors.index(outage.sensor) - 0.45, 0.9),
                facecolors="none",
                edgecolors="#dc2626",
                hatch="////",
                linewidth=0.8,
            )


def _draw_quality(axis: Any, evaluation: Evaluation, times: Sequence[float]) -> None:
    scorer, disturbed = evaluation.scorer, evaluation.outage_replay
    frames = scorer.frames
    if scorer.labelled:
        axis.plot(
            *curve(times, [f.miou for f in frames]), color=_INK, linewidth=1.2, label="as recorded"
        )
    axis.plot(
        *curve(times, [100 * f.confidence for f in frames]),
        color="#0d9488",
        linewidth=1.2,
        linestyle="--",
        label="confidence",
    )
    if disturbed is not None:
        rows = disturbed.frames
        values = [f.miou if scorer.labelled else f.agreement for f in rows]
        name = "with outages" if scorer.labelled else "with outages, pixels as without"
        axis.plot(
            *curve([f.bag_time_s for f in rows], values), color="#dc2626", linewidth=1.2, label=name
        )
    axis.set_ylim(0, 103)
    axis.set_ylabel("%")
    _legend_above(axis, 3)
    _title(
        axis,
        "mIoU of each output, and its confidence"
        if scorer.labelled
        else "Confidence of each output",
    )


def _draw_classes(
    axis: Any, classes: ClassSet, times: Sequence[float], shares: npt.NDArray[np.float64]
) -> None:
    order = np.argsort(-shares.mean(0))
    shown = [int(c) for c in order if shares[:, c].mean() > 0.002]
    if len(times) > _MOST_POINTS:
        parts = np.array_split(np.arange(len(times)), _MOST_POINTS)
        times = [float(np.mean([times[i] for i in part])) for part in parts]
        shares = np.array([shares[part].mean(0) for part in parts])
    moments = np.array(times)
    gaps = np.flatnonzero(np.diff(moments) > _gap_s(times)) + 1
    moments = np.insert(moments, gaps, (moments[gaps - 1] + moments[gaps]) / 2)
    shares = np.insert(shares, gaps, np.nan, axis=0)
    axis.stackplot(
        moments,
        *(100 * shares[:, c] for c in shown),
        colors=[np.array(classes.colors[c]) / 255 for c in shown],
        labels=[classes.names[c] for c in shown],
        linewidth=0,
    )
    axis.set_ylim(0, 100)
    axis.set_ylabel("% of picture")
    axis.legend(
        loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7, frameon=False, handlelength=1.0
    )
    _title(axis, "What the picture is made of")


def _draw_reliability(bins: Sequence[Mapping[str, Any]]) -> Any:
    """Confidence against accuracy. The caller closes it."""
    figure, axis = plt.subplots(figsize=(3.6, 3.2), layout="constrained")
    axis.plot([0, 100], [0, 100], color="#9ca3af", linewidth=1, linestyle="--")
    most = max((b["pixels"] for b in bins), default=1)
    axis.scatter(
        [100 * b["confidence"] for b in bins],
        [100 * b["accuracy"] for b in bins],
        s=[12 + 130 * b["pixels"] / most for b in bins],
        color="#2563eb",
        alpha=0.75,
        linewidths=0,
    )
    axis.plot(
        [100 * b["confidence"] for b in bins],
        [100 * b["accuracy"] for b in bins],
        color="#2563eb",
        linewidth=1,
    )
    axis.set_xlim(0, 102)
    axis.set_ylim(0, 102)
    axis.set_xlabel("confidence %")
    axis.set_ylabel("pixels right %")
    axis.spines[["top", "right"]].set_visible(False)
    return figure
