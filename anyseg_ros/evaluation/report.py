"""One self-contained HTML page about a run with outages: pictures, timeline, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np

from anyseg_ros.classes import ClassSet
from anyseg_ros.evaluation.drawing import (
    SENSOR_COLORS,
    Picture,
    blank,
    data_url,
    depict,
    environment,
    overlay,
    svg_text,
)
from anyseg_ros.evaluation.metrics import ConfusionMatrix
from anyseg_ros.evaluation.outage_run import (
    OutageRun,
    Reaction,
    StretchScore,
    nearest_ground_truth,
)
from anyseg_ros.modality import Modality

matplotlib.use("Agg")
from matplotlib import pyplot as plt


@dataclass(frozen=True)
class Moment:
    """One row of the film strip."""

    time_s: float
    inputs: Mapping[Modality, Picture | None] = field(repr=False)
    """Modality images uint8[H, W, 3]; ``None`` where the sensor was silent."""
    used: tuple[Modality, ...]
    labels: Picture = field(repr=False)
    ground_truth: Picture | None = field(repr=False)


def film_strip(moments: Sequence[Moment], classes: ClassSet, width: int = 256) -> Picture:
    """The moments as one picture: a row each; inputs, output, ground truth as columns. RGB."""
    rows = []
    for moment in moments:
        height = width * moment.labels.shape[0] // moment.labels.shape[1]
        panels = [
            blank(width, height) if image is None else depict(modality, image)
            for modality, image in sorted(moment.inputs.items())
        ]
        panels.append(classes.colorize(moment.labels))
        truth = moment.ground_truth
        panels.append(blank(width, height) if truth is None else classes.colorize(truth))
        sized = [cv2.resize(p, (width, height), interpolation=cv2.INTER_AREA) for p in panels]
        rows.append(
            np.concatenate(
                [np.pad(p, ((2, 2), (2, 2), (0, 0)), constant_values=255) for p in sized], 1
            )
        )
    return np.concatenate(rows, 0)


def output_quality(run: OutageRun, classes: ClassSet) -> list[tuple[float, float]]:
    """(receipt time, mIoU in percent) of each output that has ground truth."""
    points = []
    for output in run.outputs:
        truth = nearest_ground_truth(run.ground_truth, output.stamp_s)
        if truth is not None and truth.shape == output.labels.shape:
            confusion = ConfusionMatrix(len(classes))
            confusion.add(output.labels, truth)
            points.append((output.received_s, confusion.miou()))
    return points


def draw_timeline(run: OutageRun, classes: ClassSet) -> Any:
    """Figure over bag time: sensors sent and used, mIoU, latency. The caller closes it."""
    figure, (sensors, quality, latency) = plt.subplots(
        3, 1, figsize=(11, 5.6), sharex=True, height_ratios=(2.2, 1.4, 1), layout="constrained"
    )
    order = list(run.sensors)
    for row, sensor in enumerate(order):
        color = SENSOR_COLORS[sensor]
        times = [0.0]
        for outage in sorted(
            (o for o in run.outages if o.sensor == sensor), key=lambda o: o.from_s
        ):
            sensors.barh(
                row, outage.from_s - times[-1], left=times[-1], height=0.62, color=color, alpha=0.22
            )
            times.append(outage.to_s)
        sensors.barh(
            row, run.duration_s - times[-1], left=times[-1], height=0.62, color=color, alpha=0.22
        )
        used = [o.received_s for o in run.outputs if sensor in o.used]
        unused = [o.received_s for o in run.outputs if sensor not in o.used]
        sensors.plot(used, [row] * len(used), "|", color=color, markersize=15, markeredgewidth=1.8)
        sensors.plot(unused, [row] * len(unused), ".", color="#9ca3af", markersize=2)
    sensors.set_yticks(range(len(order)), [s.label for s in order])
    sensors.invert_yaxis()
    sensors.set_title(
        "Bars: the sensor sends.  Ticks: an output used it.  Dots: an output did without it.",
        loc="left",
        fontsize=9,
        color="#4b5563",
    )
    points = output_quality(run, classes)
    quality.plot([t for t, _ in points], [q for _, q in points], color="#111827", linewidth=1.2)
    quality.set_ylim(0, 100)
    quality.set_ylabel("mIoU %\nof each output")
    timed = [(o.received_s, o.latency_s * 1e3) for o in run.outputs if o.latency_s is not None]
    latency.plot([t for t, _ in timed], [v for _, v in timed], ".", color="#111827", markersize=3)
    latency.set_ylim(bottom=0)
    latency.set_ylabel("latency ms")
    latency.set_xlabel("seconds of bag time")
    for axis in (sensors, quality, latency):
        axis.set_xlim(0, run.duration_s)
        axis.grid(axis="x", color="#e5e7eb")
        axis.spines[["top", "right"]].set_visible(False)
        for outage in run.outages:
            axis.axvline(outage.from_s, color="#dc2626", linewidth=0.7, alpha=0.6)
            axis.axvline(outage.to_s, color="#16a34a", linewidth=0.7, alpha=0.6)
    return figure


def write_outage_report(
    folder: Path,
    run: OutageRun,
    scores: Sequence[StretchScore],
    reactions: Sequence[Reaction],
    moments: Sequence[Moment],
    classes: ClassSet,
    facts: Mapping[str, str],
) -> Path:
    """Write ``index.html``, ``timeline.png`` and ``film_strip.png`` into ``folder``.

    Args:
        facts: what ran where, shown as a list at the end.

    Returns:
        Path of the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figure = draw_timeline(run, classes)
    figure.savefig(folder / "timeline.png", dpi=120)
    timeline = svg_text(figure)
    plt.close(figure)
    strip = film_strip(moments, classes)
    cv2.imwrite(str(folder / "film_strip.png"), cv2.cvtColor(strip, cv2.COLOR_RGB2BGR))

    source = files("anyseg_ros.evaluation").joinpath("outage_report.html.j2").read_text()
    seen = sorted({int(c) for m in moments for c in np.unique(m.labels) if c < len(classes)})
    page = (
        environment()
        .from_string(source)
        .render(
            run=run,
            scores=scores,
            reactions=reactions,
            worst_gap_s=max((s.longest_gap_s for s in scores), default=float("nan")),
            timeline=timeline,
            rows=[
                {
                    "time_s": m.time_s,
                    "used": m.used,
                    "inputs": [
                        {
                            "modality": modality,
                            "url": None if image is None else data_url(depict(modality, image)),
                        }
                        for modality, image in sorted(m.inputs.items())
                    ],
                    "output": data_url(overlay(m.labels, m.inputs.get(Modality.CAMERA), classes)),
                    "truth": None
                    if m.ground_truth is None
                    else data_url(classes.colorize(m.ground_truth)),
                }
                for m in moments
            ],
            legend=[(classes.names[c], "rgb({}, {}, {})".format(*classes.colors[c])) for c in seen],
            colors={m.label: color for m, color in SENSOR_COLORS.items()},
            facts=facts,
        )
    )
    path = folder / "index.html"
    path.write_text(page)
    return path
