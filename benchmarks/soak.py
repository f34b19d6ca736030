"""The node under sensors that come and go for half an hour: ``docs/results/soak.json``.

    python benchmarks/soak.py --minutes 30

The messages of the demo drive go out over DDS again and again with the present time as their stamps:
camera 20 Hz, depth 10 Hz, events 30 Hz, LiDAR 10 Hz. Each sensor flaps on its own: it runs for 1 to 3 s
(a fifth of these times it loses every second message), and is silent for 0.5 to 2 s, which is beyond
its timeout of 0.3 s. The node is the real one in a process of its own, with a network that costs next to
nothing, so that everything around the network does as much work as it can.

A machine that others use too starves the node: ``chrt -r 5 python benchmarks/soak.py``.

Measured every two seconds from /proc: resident memory, threads, open files of the node's process; its
subscriptions as the graph shows them; the slope of the memory by least squares after a warm-up. Every
return of a sensor must be followed by an output that uses a message sent after the return.
"""

from __future__ import annotations

import argparse
import math
import re
import struct
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rosbags.highlevel import AnyReader
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "test"), str(ROOT / "test/ros")]

from ros_graph import Process, domain, listening, wait_until  # noqa: E402
from tiny_model import write_tiny_model  # noqa: E402

from anyseg_ros.evaluation.results import write_results  # noqa: E402
from anyseg_ros.modality import MODALITIES, Modality  # noqa: E402
from anyseg_ros.ros.bag_player import import_message  # noqa: E402
from anyseg_ros.ros.transport import configure_transport  # noqa: E402

RESULTS = ROOT / "docs/results/soak.json"
TOPICS = {
    Modality.CAMERA: "/camera/image/compressed",
    Modality.DEPTH: "/depth/image/compressedDepth",
    Modality.EVENT: "/events/points",
    Modality.LIDAR: "/lidar/points",
}
RATE_HZ = {Modality.CAMERA: 20.0, Modality.DEPTH: 10.0, Modality.EVENT: 30.0, Modality.LIDAR: 10.0}
ON_S, OFF_S = (1.0, 3.0), (0.5, 2.0)
EVENT_SPAN_S = 0.04
"""The drive's event packets are stamped with their begin and sent when they are full."""
WARM_UP_SHARE = 0.2
MAX_SLOPE_KB_PER_MIN = 100.0
"""At 70 messages a second this is less than 25 bytes a message."""
SAMPLE_S = 2.0


@dataclass
class Return:
    """A sensor that begins to send again."""

    sensor: Modality
    stamp_ns: int
    """of its first message"""
    sent_s: float
    ended_s: float | None = None
    """when it fell silent again"""
    used_s: float | None = None
    """when an output was received that uses a message since"""
    excuse: str = ""
    """why the last output before did not use the sensor"""


@dataclass
class Flapper:
    """Publishes one sensor, on and off."""

    sensor: Modality
    publisher: Any
    messages: list[bytes]
    random: np.random.Generator
    returns: list[Return]
    next_s: float = 0.0
    on: bool = False
    lossy: bool = False
    until_s: float = 0.0
    sent: int = 0
    count: int = 0

    def step(self, now_s: float) -> None:
        """Send what is due, switch when it is time."""
        if now_s >= self.until_s:
            if self.on and self.returns and self.returns[-1].ended_s is None:
                self.returns[-1].ended_s = now_s
            self.on = not self.on
            self.lossy = bool(self.on and self.random.random() < 0.2)
            self.until_s = now_s + self.random.uniform(*(ON_S if self.on else OFF_S))
            if self.on:
                self.returns.append(Return(self.sensor, 0, now_s))
        if now_s < self.next_s:
            return
        self.next_s = max(self.next_s + 1 / RATE_HZ[self.sensor], now_s)
        self.count += 1
        if not self.on or (self.lossy and self.count % 2):
            return
        stamp = time.time_ns()
        if self.sensor is Modality.EVENT:
            stamp -= round(EVENT_SPAN_S * 1e9)
        data = bytearray(self.messages[self.count % len(self.messages)])
        struct.pack_into("<iI", data, 4, *divmod(stamp, 10**9))
        if self.returns[-1].stamp_ns == 0:
            self.returns[-1].stamp_ns = stamp
        self.publisher.publish(bytes(data))
        self.sent += 1


@dataclass
class Listener:
    """Notes the outputs and which returns they answer."""

    open: dict[Modality, list[Return]] = field(default_factory=lambda: {m: [] for m in MODALITIES})
    outputs: int = 0
    last_s: float = 0.0
    longest_gap_s: float = 0.0
    alive_since_s: float | None = None
    """since when at least one sensor has been sending"""
    sets: dict[str, int] = field(default_factory=dict)

    def take(self, message: DiagnosticArray) -> None:
        now_s = time.monotonic()
        self.outputs += 1
        if self.alive_since_s is not None:
            began = max(self.last_s, self.alive_since_s)
            self.longest_gap_s = max(self.longest_gap_s, now_s - began)
        self.last_s = now_s
        used = []
        for status in message.status:
            values = {entry.key: entry.value for entry in status.values}
            if values.get("used") != "true":
                for one in self.open[Modality.from_label(status.name)][-1:]:
                    one.excuse = status.message
                continue
            used.append(status.name)
            stamp = int(values["stamp_ns"])
            for one in self.open[Modality.from_label(status.name)]:
                if one.used_s is None and one.stamp_ns and stamp >= one.stamp_ns:
                    one.used_s = now_s
        name = "+".join(used)
        self.sets[name] = self.sets.get(name, 0) + 1


def read_messages() -> dict[Modality, tuple[str, list[bytes]]]:
    """Type and serialised messages of each sensor in the demo drive."""
    by_topic = {topic: modality for modality, topic in TOPICS.items()}
    found: dict[Modality, tuple[str, list[bytes]]] = {}
    with AnyReader([ROOT / "demo/street_drive"]) as reader:
        connections = [c for c in reader.connections if c.topic in by_topic]
        for connection, _, data in reader.messages(connections):
            entry = found.setdefault(by_topic[connection.topic], (connection.msgtype, []))
            entry[1].append(bytes(data))
    return found


@dataclass(frozen=True)
class Sample:
    time_s: float
    rss_kb: int
    threads: int
    files: int
    subscriptions: int


def sample(pid: int, node: Any, began_s: float) -> Sample:
    status = Path(f"/proc/{pid}/status").read_text()
    values = dict(re.findall(r"^(VmRSS|Threads):\s+(\d+)", status, re.MULTILINE))
    subscribed = node.get_subscriber_names_and_types_by_node("anyseg", "/")
    return Sample(
        time.monotonic() - began_s,
        int(values["VmRSS"]),
        int(values["Threads"]),
        sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
        len(subscribed),
    )


def soak(minutes: float, seed: int, folder: Path) -> dict[str, Any]:
    """Run for some minutes; returns the row."""
    messages = read_messages()
    model = write_tiny_model(folder / "tiny")
    returns: list[Return] = []
    listener = Listener()
    samples: list[Sample] = []

    def subscribe(node: Node) -> None:
        node.create_subscription(DiagnosticArray, "/anyseg/modalities", listener.take, 50)

    with domain() as number, listening(number, subscribe) as (node, _):
        process = Process.start(
            "anyseg_ros.ros.node",
            [
                *("--ros-args", "--params-file", str(ROOT / "config/demo.yaml")),
                *("-p", f"model:={model}", "-p", "threads:=1", "-p", "autostart:=true"),
                *("-p", f"calibration_file:={ROOT / 'demo/calibration.yaml'}"),
            ],
            number,
            folder / "node.log",
        )
        try:
            process.wait_for_text("model tiny")
            flappers = [
                Flapper(
                    modality,
                    node.create_publisher(
                        import_message(kind), TOPICS[modality], qos_profile_sensor_data
                    ),
                    data,
                    np.random.default_rng([seed, int(modality)]),
                    listener.open[modality],
                )
                for modality, (kind, data) in messages.items()
            ]
            wait_until(
                lambda: (
                    ("anyseg", "/") in node.get_node_names_and_namespaces()
                    and all(f.publisher.get_subscription_count() for f in flappers)
                ),
                "the node and its subscriptions",
            )
            began_s = time.monotonic()
            end_s, next_sample_s = began_s + 60 * minutes, began_s
            with tqdm(total=round(60 * minutes), unit="s", disable=None) as progress:
                while (now_s := time.monotonic()) < end_s and process.process.poll() is None:
                    for flapper in flappers:
                        flapper.step(now_s)
                    if not any(f.on for f in flappers):
                        listener.alive_since_s = None
                    elif listener.alive_since_s is None:
                        listener.alive_since_s = now_s
                    if now_s >= next_sample_s:
                        next_sample_s = now_s + SAMPLE_S
                        samples.append(sample(process.process.pid, node, began_s))
                        progress.update(round(now_s - began_s) - progress.n)
                        progress.set_postfix(rss_mb=samples[-1].rss_kb // 1024)
                    time.sleep(max(0.0, min(f.next_s for f in flappers) - time.monotonic()))
            time.sleep(1.0)
            crashed = process.process.poll() is not None
            ended = -1 if crashed else process.stop()
        finally:
            if process.process.poll() is None:
                process.stop()
    returns = [one for found in listener.open.values() for one in found]
    # One that has not been on for long when the run ends, or sent nothing yet, need not be used yet.
    counted = [one for one in returns if one.ended_s is not None and one.stamp_ns]
    missed = [one for one in counted if one.used_s is None or one.used_s > one.ended_s + 0.5]
    for one in sorted(missed, key=lambda one: one.sent_s):
        print(
            f"missed: {one.sensor.label} on for {one.ended_s - one.sent_s:.2f} s, used after "
            f"{(one.used_s or math.inf) - one.sent_s:.2f} s: {one.excuse}"
        )
    took = sorted(one.used_s - one.sent_s for one in counted if one.used_s is not None)
    settled = samples[int(len(samples) * WARM_UP_SHARE) :]
    times = np.array([s.time_s for s in settled]) / 60
    rss = np.array([s.rss_kb for s in settled], float)
    (slope, _), covariance = np.polyfit(times, rss, 1, cov=True)
    return {
        "minutes": minutes,
        "messages_sent": sum(f.sent for f in flappers),
        "outputs": listener.outputs,
        "different_subsets_used": len(listener.sets),
        "outages": len(returns),
        "recoveries": len(counted) - len(missed),
        "missed_recoveries": len(missed),
        "recovery_median_s": round(took[len(took) // 2], 3),
        "recovery_p99_s": round(took[int(len(took) * 0.99)], 3),
        "recovery_max_s": round(took[-1], 3),
        "longest_output_gap_s": round(listener.longest_gap_s, 3),
        "rss_start_mb": round(rss[0] / 1024, 2),
        "rss_end_mb": round(rss[-1] / 1024, 2),
        "rss_slope_kb_per_min": round(float(slope), 2),
        "rss_slope_standard_error_kb_per_min": round(float(np.sqrt(covariance[0, 0])), 2),
        "rss_slope_bound_kb_per_min": MAX_SLOPE_KB_PER_MIN,
        "threads_min": min(s.threads for s in settled),
        "threads_max": max(s.threads for s in settled),
        "subscriptions_min": min(s.subscriptions for s in settled),
        "subscriptions_max": max(s.subscriptions for s in settled),
        "open_files_min": min(s.files for s in settled),
        "open_files_max": max(s.files for s in settled),
        "crashed": crashed,
        "exit_status": ended,
        "tracebacks": process.text().count("Traceback"),
    }


def problems(row: dict[str, Any]) -> list[str]:
    """What breaks the promise."""
    found = []
    if row["missed_recoveries"] or not row["recoveries"]:
        found.append(f"{row['missed_recoveries']} returns of a sensor went unnoticed")
    if row["rss_slope_kb_per_min"] > row["rss_slope_bound_kb_per_min"]:
        found.append(f"memory grows by {row['rss_slope_kb_per_min']} KB a minute")
    found += [
        f"{name}: {row[f'{name}_min']} to {row[f'{name}_max']}"
        for name in ("threads", "subscriptions")
        if row[f"{name}_min"] != row[f"{name}_max"]
    ]
    if row["crashed"] or row["exit_status"] or row["tracebacks"]:
        found.append("the node crashed or said a traceback")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    configure_transport()
    with TemporaryDirectory(prefix="anyseg-soak-") as folder:
        row = soak(options.minutes, options.seed, Path(folder))
    for key, value in row.items():
        print(f"{key:<40}{value}")
    command = f"python benchmarks/soak.py --minutes {options.minutes:g} --seed {options.seed}"
    notes = (
        f"Sensors at 10 to 30 Hz, each on for {ON_S[0]:g} to {ON_S[1]:g} s and silent for "
        f"{OFF_S[0]:g} to {OFF_S[1]:g} s by turns, over DDS; a network that costs next to nothing. Memory "
        f"after the first {WARM_UP_SHARE:.0%} of the time. A recovery is an output that uses a message "
        "sent after the sensor's return; one is missed if there is none while the sensor is on."
    )
    write_results(options.out, [row], command, notes, ())
    found = problems(row)
    print("\n".join(found) or "kept what it promises")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
