"""Whether node and bag evaluation agree on the shipped drive: ``docs/results/agreement.json``.

    python benchmarks/online_offline.py

The player sends the drive over DDS at the running node, which notes when each message came; a recorder
beside it keeps the messages and the node's masks. Then the evaluation of bags gets the same messages in
the node's order and with its times of receipt. Compared are the matched sets (stamp of the anchor, and of
each member that was used) and, where the sets are the same, the labels, pixel by pixel.

Once with a tiny network, so that every set is segmented, and once with the shipped one, where the node
skips sets that a newer one overtakes.

A set may still differ where the node woke up late: the evaluation gives out what has waited long enough
at that moment exactly, the node when its timer runs, and a message may arrive in between.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from sensor_msgs.msg import CompressedImage, PointCloud2
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "test"), str(ROOT / "test/ros")]

from ros_graph import Process, domain, listening  # noqa: E402
from tiny_model import write_tiny_model  # noqa: E402

from anyseg_ros.engine import load_engine  # noqa: E402
from anyseg_ros.evaluation.bag import Bag, known_types  # noqa: E402
from anyseg_ros.evaluation.evaluate import (  # noqa: E402
    EvaluationOptions,
    Listener,
    evaluate_recording,
)
from anyseg_ros.evaluation.replay import SetResult, load_settings  # noqa: E402
from anyseg_ros.evaluation.results import write_results  # noqa: E402
from anyseg_ros.health import HealthMonitor  # noqa: E402
from anyseg_ros.modalities import load_calibration  # noqa: E402
from anyseg_ros.modality import MODALITIES, Modality  # noqa: E402
from anyseg_ros.pipeline import Segmentation  # noqa: E402
from anyseg_ros.resources import find_model  # noqa: E402
from anyseg_ros.ros import node as node_module  # noqa: E402
from anyseg_ros.ros.recorder import Recorder  # noqa: E402
from anyseg_ros.ros.transport import configure_transport  # noqa: E402

DRIVE = ROOT / "demo/street_drive"
CALIBRATION = ROOT / "demo/calibration.yaml"
PARAMETERS = ROOT / "config/demo.yaml"
RESULTS = ROOT / "docs/results/agreement.json"
TOPICS: dict[Modality, tuple[str, Any]] = {
    Modality.CAMERA: ("/camera/image/compressed", CompressedImage),
    Modality.DEPTH: ("/depth/image/compressedDepth", CompressedImage),
    Modality.EVENT: ("/events/points", PointCloud2),
    Modality.LIDAR: ("/lidar/points", PointCloud2),
}
END_NS = 200_000_000
"""After the last message: longer than a set waits and is segmented, less than a sensor's timeout."""
Members = dict[str, int]
Arrivals = dict[Modality, list[int]]
"""When the node received each sensor's messages, nanoseconds of its steady clock."""


def run_node(notes: Path, arguments: list[str]) -> int:
    """The node, noting when it receives what; then the notes go to a file."""
    arrivals: Arrivals = {modality: [] for modality in MODALITIES}
    add, refuse = HealthMonitor.add, HealthMonitor.refuse

    def noted_add(
        self: HealthMonitor, modality: Modality, stamp_ns: int, data: Any, now_ns: int
    ) -> Any:
        arrivals[modality].append(now_ns)
        return add(self, modality, stamp_ns, data, now_ns)

    def noted_refuse(self: HealthMonitor, modality: Modality, reason: str, now_ns: int) -> Any:
        arrivals[modality].append(now_ns)
        return refuse(self, modality, reason, now_ns)

    HealthMonitor.add, HealthMonitor.refuse = noted_add, noted_refuse  # type: ignore[method-assign]
    status = node_module.main([sys.argv[0], *arguments])
    notes.write_text(json.dumps({m.label: times for m, times in arrivals.items()}))
    return status


class Keep(Listener):
    """Keeps each set's members and labels."""

    def __init__(self) -> None:
        self.sets: dict[int, tuple[Members, np.ndarray]] = {}

    def take(self, result: SetResult, output: Segmentation, truth: Any) -> None:
        members = {m.label: result.matched.members[m].stamp_ns for m in output.used}
        self.sets[output.stamp_ns] = (members, output.labels)


def run_online(model: Path, rate: float, folder: Path) -> tuple[Recorder, Arrivals]:
    """Play the drive at the node; returns what was sent and what came out, and the node's notes."""
    parameters = ["-p", f"model:={model}", "-p", f"calibration_file:={CALIBRATION}"]
    parameters += ["-p", "threads:=1", "-p", "autostart:=true", "-p", "output_reliable:=true"]
    for modality in MODALITIES:
        parameters += ["-p", f"{modality.label}.qos_reliable:=true"]
        parameters += ["-p", f"{modality.label}.qos_depth:=50"]
    with domain() as number, listening(number, lambda node: Recorder(node, TOPICS)) as heard:
        _, recorder = heard
        notes = folder / "arrivals.json"
        arguments = ["--ros-args", "--params-file", str(PARAMETERS), *parameters]
        log = folder / "node.log"
        with log.open("w") as output:
            child = subprocess.Popen(
                [sys.executable, __file__, "--node", str(notes), "--", *arguments],
                env={**os.environ, "ROS_DOMAIN_ID": str(number), "PYTHONUNBUFFERED": "1"},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        node = Process(child, log)
        player = None
        try:
            node.wait_for_text("model ")
            player = Process.start(
                "anyseg_ros.ros.bag_player",
                [str(DRIVE), "--wait", "20", "--qos", "reliable", "--rate", str(rate)],
                number,
                folder / "player.log",
            )
            with tqdm(total=200, unit=" images", desc="online", disable=None) as progress:
                while player.process.poll() is None:
                    time.sleep(0.2)
                    progress.update(len(recorder.inputs[Modality.CAMERA]) - progress.n)
            time.sleep(1.5)
            if player.process.returncode or node.stop():
                raise SystemExit(f"failed:\n{player.text()}\n{node.text()}")
        finally:
            for process in (node, player):
                if process is not None and process.process.poll() is None:
                    process.stop()
    noted = json.loads(notes.read_text())
    return recorder, {modality: noted[modality.label] for modality in MODALITIES}


def write_arrivals(recorder: Recorder, noted: Arrivals, path: Path) -> Path:
    """A bag of the messages in the order in which they arrived at the node."""
    store = known_types()
    for modality, receipts in recorder.inputs.items():
        if len(receipts) != len(noted[modality]):
            raise SystemExit(
                f"{modality.label}: the node received {len(noted[modality])} messages, the recorder "
                f"{len(receipts)}: nothing can be compared; run it again on a quieter machine"
            )
    arrivals = sorted(
        (received_ns, modality, receipt.serialized)
        for modality, receipts in recorder.inputs.items()
        for received_ns, receipt in zip(noted[modality], receipts, strict=True)
    )
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {
            modality: writer.add_connection(
                topic, f"sensor_msgs/msg/{kind.__name__}", typestore=store
            )
            for modality, (topic, kind) in TOPICS.items()
        }
        for received_ns, modality, data in arrivals:
            writer.write(connections[modality], received_ns, data)
    return path


def run_offline(bag: Path, model: Path) -> dict[int, tuple[Members, np.ndarray]]:
    """The same messages through the evaluation of bags."""
    engine = load_engine(model, threads=1)
    keep = Keep()
    options = EvaluationOptions(
        settings=load_settings(PARAMETERS), calibration=load_calibration(CALIBRATION), subsets=()
    )
    with Bag([bag]) as recording:
        evaluate_recording(recording, engine, options, [keep])
    engine.close()
    return keep.sets


def compare(
    recorder: Recorder, offline: dict[int, tuple[Members, np.ndarray]]
) -> dict[str, int | float]:
    masks = {output.stamp_ns: output.labels for output in recorder.outputs}
    row: dict[str, int | float] = {
        "messages": sum(len(found) for found in recorder.inputs.values()),
        "sets_offline": len(offline),
        "sets_online": len(recorder.modalities),
        "sets_after_the_end": 0,
        "sets_online_of_a_stamp_offline_lacks": 0,
        "sets_with_other_members": 0,
        "same_sets": 0,
        "labels_compared": 0,
        "labels_identical": 0,
    }
    last_ns = max(found[-1].received_ns for found in recorder.inputs.values())
    for receipt in recorder.modalities:
        if receipt.stamp_ns not in offline and receipt.received_ns > last_ns + END_NS:
            row["sets_after_the_end"] += 1
            continue
        if receipt.stamp_ns not in offline:
            row["sets_online_of_a_stamp_offline_lacks"] += 1
            continue
        expected, labels = offline[receipt.stamp_ns]
        members = {
            name: int(values["stamp_ns"])
            for name, values in receipt.sensors.items()
            if values["used"] == "true"
        }
        if members != expected:
            row["sets_with_other_members"] += 1
            continue
        row["same_sets"] += 1
        if receipt.stamp_ns in masks:
            row["labels_compared"] += 1
            row["labels_identical"] += int((masks[receipt.stamp_ns] == labels).all())
    during = row["sets_online"] - row["sets_after_the_end"]
    row["same_sets_share"] = round(row["same_sets"] / max(during, 1), 4)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="", help="model folder or name (default: the shipped)")
    parser.add_argument("--rate", type=float, default=1.0, help="speed of the drive")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--node", type=Path, help=argparse.SUPPRESS)
    given = sys.argv[1:]
    own = given.index("--") if "--" in given else len(given)
    options = parser.parse_args(given[:own])
    if options.node:
        return run_node(options.node, given[own + 1 :])
    configure_transport()
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory(prefix="anyseg-agreement-") as folder:
        models = [write_tiny_model(Path(folder) / "tiny"), find_model(options.model)]
        for model in models:
            recorder, noted = run_online(model, options.rate, Path(folder))
            arrivals = write_arrivals(recorder, noted, Path(folder) / f"arrivals_{model.name}")
            offline = run_offline(arrivals, model)
            rows.append({"model": model.name, "rate": options.rate, **compare(recorder, offline)})
            for key, value in rows[-1].items():
                print(f"{key:<40}{value}", flush=True)
    command = f"python benchmarks/online_offline.py --rate {options.rate:g}"
    if options.model:
        command += f" --model {options.model}"
    notes = (
        "The shipped drive over DDS at the node; the same messages with the node's times of receipt "
        "through the evaluation of bags. same_sets: anchor and every used member have the same stamps. "
        "Sets that the node skipped because a newer one was there are in sets_offline only. "
        "sets_after_the_end: the node's alone. When the drive ends, its sensors time out one after another, "
        "and those left open a last set; for the evaluation a recording ends for all of them at once."
    )
    write_results(options.out, rows, command, notes, ())
    agree = all(
        r["labels_compared"] and r["labels_identical"] == r["labels_compared"] for r in rows
    )
    return 0 if agree and all(r["same_sets_share"] > 0.9 for r in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
