"""Scores a running node against a ground-truth topic: entry point ``score``.

Listens to the node's masks, to what each was made from, and to label images, whoever plays them; writes
``results.json`` and ``outputs.csv`` when it is interrupted, or when nothing has arrived for a while.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from anyseg_ros.classes import ClassSet
from anyseg_ros.decoding import MessageError, decode_labels, stamp_ns
from anyseg_ros.engine import EngineError, ModelError, load_engine
from anyseg_ros.evaluation.boundary import BoundaryScore
from anyseg_ros.evaluation.evaluate import write_csv, write_json
from anyseg_ros.evaluation.metrics import Calibration, ConfusionMatrix
from anyseg_ros.modality import Modality, subset_name
from anyseg_ros.resources import ResourceError, find_model
from anyseg_ros.ros.transport import configure_transport

LabelImage = npt.NDArray[np.uint8]

_PATIENCE_NS = 5_000_000_000
"""Nanoseconds of stamps for which an output waits for what belongs to it, and labels for their output."""
_LABELS_AHEAD_NS = 30_000_000_000
"""Nanoseconds of labels that are kept at most, however far the outputs are behind them."""
_NO_SUBSET = "unknown"


@dataclass
class _Pending:
    """What has arrived of one output."""

    labels: LabelImage | None = None
    confidence: LabelImage | None = None
    sensors: Mapping[str, Mapping[str, str]] | None = None

    def is_whole(self) -> bool:
        return all(p is not None for p in (self.labels, self.confidence, self.sensors))


class ScoreKeeper:
    """Puts masks, their sensors and labels together by stamp, in whatever order they arrive.

    An output is scored once all of it and its labels are there, or once newer outputs are well past it,
    so a run of any length is scored as it goes.
    """

    def __init__(self, classes: ClassSet, tolerance_s: float = 0.03) -> None:
        self._classes = classes
        self._tolerance_ns = round(tolerance_s * 1e9)
        self._waiting: OrderedDict[int, _Pending] = OrderedDict()
        self._truth: OrderedDict[int, LabelImage] = OrderedDict()
        self._newest_output: int | None = None
        self._newest_truth: int | None = None
        self._confusion: dict[str, ConfusionMatrix] = {}
        self._calibration: dict[str, Calibration] = {}
        self._boundary: dict[str, BoundaryScore] = {}
        self._outputs: dict[str, int] = {}
        self.rows: list[dict[str, Any]] = []
        self.misfits = 0
        """outputs whose labels are of another aspect ratio"""

    def add_output(self, stamp: int, labels: LabelImage) -> None:
        """Take a mask uint8[H, W]."""
        self._part(stamp).labels = labels
        self._settle_ripe()

    def add_confidence(self, stamp: int, confidence: LabelImage) -> None:
        """Take a confidence image uint8[H, W]."""
        self._part(stamp).confidence = confidence
        self._settle_ripe()

    def add_sensors(self, stamp: int, sensors: Mapping[str, Mapping[str, str]]) -> None:
        """Take what a mask was made from: each sensor's key values."""
        self._part(stamp).sensors = sensors
        self._settle_ripe()

    def add_truth(self, stamp: int, labels: LabelImage) -> None:
        """Take labels uint8[H, W]."""
        if self._newest_truth is not None and stamp < self._newest_truth - _PATIENCE_NS:
            self._start_over()
        self._newest_truth = max(stamp, self._newest_truth or stamp)
        self._truth[stamp] = labels
        self._settle_ripe()

    def _part(self, stamp: int) -> _Pending:
        if self._newest_output is not None and stamp < self._newest_output - _PATIENCE_NS:
            self._start_over()
        self._newest_output = max(stamp, self._newest_output or stamp)
        return self._waiting.setdefault(stamp, _Pending())

    def _start_over(self) -> None:
        """Time jumped back, as where a player loops: what is past has nothing to wait for."""
        self.finish()
        self._truth.clear()
        self._newest_output = self._newest_truth = None

    def _settle_ripe(self) -> None:
        """Score what is whole or has waited long enough, forget labels that no output can need."""
        for stamp in [s for s, part in self._waiting.items() if self._is_ripe(s, part)]:
            self._settle(stamp, self._waiting.pop(stamp))
        oldest = []
        if self._newest_output is not None:
            oldest.append(self._newest_output - _PATIENCE_NS - self._tolerance_ns)
        if self._newest_truth is not None:
            oldest.append(self._newest_truth - _LABELS_AHEAD_NS)
        while self._truth and next(iter(self._truth)) < max(oldest):
            self._truth.popitem(last=False)

    def _is_ripe(self, stamp: int, part: _Pending) -> bool:
        if self._newest_output is not None and stamp < self._newest_output - _PATIENCE_NS:
            return True
        # Labels come in order: those of another stamp may still be followed by nearer ones.
        newest = self._newest_truth
        labelled = stamp in self._truth or (
            newest is not None and newest >= stamp + self._tolerance_ns
        )
        return labelled and part.is_whole()

    def finish(self) -> None:
        """Score what still waits for a missing part."""
        while self._waiting:
            self._settle(*self._waiting.popitem(last=False))

    def _settle(self, stamp: int, part: _Pending) -> None:
        if part.labels is None:
            return
        sensors = part.sensors or {}
        used = [name for name, values in sensors.items() if values.get("used") == "true"]
        subset = subset_name(map(Modality.from_label, used)) if used else _NO_SUBSET
        self._outputs[subset] = self._outputs.get(subset, 0) + 1
        row: dict[str, Any] = {"stamp_ns": stamp, "used": subset, "miou": float("nan")}
        row |= {f"{m.label}_stamp_ns": None for m in Modality}
        row |= {f"{n}_stamp_ns": sensors[n].get("stamp_ns") for n in used}
        truth = self._truth_at(stamp, part.labels.shape)
        if truth is not None:
            one = ConfusionMatrix(len(self._classes))
            one.add(np.where(truth < 255, part.labels, 0).astype(np.uint8), truth)
            row["miou"] = one.miou()
            # Outlines cost most by far, so they are compared once.
            outlines = BoundaryScore(len(self._classes))
            outlines.add(part.labels, truth)
            for name in (subset, "all outputs"):
                self._confusion.setdefault(name, ConfusionMatrix(len(self._classes))).__iadd__(one)
                self._boundary.setdefault(name, BoundaryScore(len(self._classes))).__iadd__(
                    outlines
                )
                if part.confidence is not None and part.confidence.shape == truth.shape:
                    calibration = self._calibration.setdefault(
                        name, Calibration(len(self._classes))
                    )
                    calibration.add(part.labels, part.confidence, truth)
        self.rows.append(row)

    def _truth_at(self, stamp: int, shape: tuple[int, ...]) -> LabelImage | None:
        best = min(self._truth, key=lambda s: abs(s - stamp), default=None)
        if best is None or abs(best - stamp) > self._tolerance_ns:
            return None
        truth = self._truth[best]
        if truth.shape == shape:
            return truth
        height, width = shape
        if abs(truth.shape[1] * height - truth.shape[0] * width) > max(truth.shape):
            self.misfits += 1
            return None
        scaled = cv2.resize(truth, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        return np.asarray(scaled, np.uint8)

    def results(self) -> dict[str, Any]:
        """Scores of all outputs, and of those from each set of sensors."""
        total = sum(self._outputs.values())
        names = ["all outputs", *sorted(self._outputs, key=lambda n: (n.count("+"), n))]
        return {
            "outputs": total,
            "scored": sum(1 for row in self.rows if not np.isnan(row["miou"])),
            "misfits": self.misfits,
            "subsets": [
                {
                    "subset": name,
                    "outputs": total if name == "all outputs" else self._outputs[name],
                    "miou": c.miou() if (c := self._confusion.get(name)) else float("nan"),
                    "miou_absent_zero": c.miou_absent_zero() if c else float("nan"),
                    "pixel_accuracy": c.pixel_accuracy() if c else float("nan"),
                    "boundary_f1": b.mean() if (b := self._boundary.get(name)) else float("nan"),
                    "calibration_error": k.ece()
                    if (k := self._calibration.get(name))
                    else float("nan"),
                }
                for name in names
            ],
        }


class ScoreNode(Node):
    """Subscribes to a segmentation node and to labels."""

    def __init__(
        self, keeper: ScoreKeeper, segmentation_node: str, labels_topic: str, raw_labels: bool
    ) -> None:
        super().__init__("score")
        self.keeper = keeper
        self.last_arrival_s: float | None = None
        many = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
        subscribe = self.create_subscription
        subscribe(Image, f"{segmentation_node}/segmentation", self._on_mask, many)
        subscribe(Image, f"{segmentation_node}/confidence", self._on_confidence, many)
        subscribe(DiagnosticArray, f"{segmentation_node}/modalities", self._on_modalities, many)
        kind = Image if raw_labels else CompressedImage
        subscribe(kind, labels_topic, self._on_labels, many)

    def _picture(self, message: Any) -> tuple[int, LabelImage] | None:
        self.last_arrival_s = time.monotonic()
        try:
            return stamp_ns(message.header.stamp), decode_labels(message)
        except MessageError as error:
            self.get_logger().warning(f"refused a picture: {error}", throttle_duration_sec=5.0)
            return None

    def _on_mask(self, message: Image) -> None:
        if (found := self._picture(message)) is not None:
            self.keeper.add_output(*found)

    def _on_confidence(self, message: Image) -> None:
        if (found := self._picture(message)) is not None:
            self.keeper.add_confidence(*found)

    def _on_labels(self, message: Any) -> None:
        if (found := self._picture(message)) is not None:
            self.keeper.add_truth(*found)

    def _on_modalities(self, message: DiagnosticArray) -> None:
        sensors = {s.name: {e.key: e.value for e in s.values} for s in message.status}
        try:
            self.keeper.add_sensors(stamp_ns(message.header.stamp), sensors)
        except MessageError as error:
            self.get_logger().warning(f"refused ~/modalities: {error}", throttle_duration_sec=5.0)


def format_results(results: Mapping[str, Any]) -> str:
    """The scores as a table for a terminal."""
    lines = [f"{results['scored']} of {results['outputs']} outputs have ground truth"]
    lines += [
        f"  {row['subset']:28} {row['outputs']:5d} outputs  mIoU {row['miou']:5.1f} %  "
        f"boundary F1 {row['boundary_f1']:5.1f} %"
        for row in results["subsets"]
    ]
    return "\n".join(lines)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="score", description="Score a running segmentation node against a ground-truth topic."
    )
    parser.add_argument("--model", default="", help="the node's model: its class names")
    parser.add_argument("--node", default="/anyseg", help="the node (default: %(default)s)")
    parser.add_argument(
        "--ground-truth",
        default="/ground_truth/labels",
        metavar="TOPIC",
        help="label images, class ids (default: %(default)s)",
    )
    parser.add_argument(
        "--raw", action="store_true", help="labels are Image mono8, not CompressedImage PNG"
    )
    parser.add_argument("--out", type=Path, default=Path("out/score"), metavar="DIR")
    parser.add_argument(
        "--idle", type=float, default=0.0, metavar="S", help="end after so long without a message"
    )
    return parser.parse_args(arguments)


def main(args: Sequence[str] | None = None) -> int:
    """Entry point ``score``; returns 1 if no output came, 2 for wrong use."""
    configure_transport()
    given = list(sys.argv[1:] if args is None else args)
    cut = given.index("--ros-args") if "--ros-args" in given else len(given)
    options = _parse(given[:cut])
    try:
        engine = load_engine(find_model(options.model), threads=1)
    except (ModelError, EngineError, ResourceError) as error:
        print(f"score: {error}", file=sys.stderr)
        return 2
    keeper = ScoreKeeper(engine.card.classes)
    engine.close()
    rclpy.init(args=given[cut:])
    node = ScoreNode(keeper, options.node, options.ground_truth, options.raw)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    print("listening", flush=True)
    try:
        while rclpy.ok():
            executor.spin_once(timeout_sec=0.1)
            last = node.last_arrival_s
            if options.idle and last is not None and time.monotonic() - last > options.idle:
                break
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    keeper.finish()
    results = keeper.results()
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "results.json", results)
    write_csv(options.out / "outputs.csv", keeper.rows)
    print(format_results(results))
    print(f"results  {options.out / 'results.json'}", flush=True)
    return 0 if results["outputs"] else 1


if __name__ == "__main__":
    sys.exit(main())
