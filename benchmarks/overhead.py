"""What the node costs around the network, over DDS: ``docs/results/overhead.json``.

    python benchmarks/overhead.py [--model NAME] [--engine auto] [--seconds 20]

A driver process publishes a camera and a depth image of 640x480, 20 000 events and a scan of 64 000 points;
the real node runs in a process of its own and is watched from inside it:

- ``latency``: sets of all four sensors at a rate that the engine can follow, once with all messages at the
  same time and once 50 ms apart. From the moment at which the callback of a set's last message begins to
  the moment at which its labels are published, less the time spent in the engine's calls for that set,
  those ahead of that moment included (``overhead_ms``, and as a share of the engine's): negative where
  encoding on arrival saves more than everything around the engine costs.
- ``cpu``: at 10 Hz with an engine that computes nothing, the processor time of the node's process a second,
  against that of a bare rclpy node which receives the same messages and publishes them again.
- ``sustained``: 30/30/30/10 Hz with an engine of 200 ms: latency in periods of the engine.

Clocks are this machine's; nothing is compared between processes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "test"))
sys.path.insert(2, str(Path(__file__).resolve().parents[1] / "test/ros"))

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from ros_graph import domain
from sensor_msgs.msg import Image, PointCloud2

from anyseg_ros.engine import Engine, EngineOutput, Features, ModelCard, load_engine
from anyseg_ros.evaluation.results import write_results
from anyseg_ros.modalities import (
    CameraModel,
    RigCalibration,
    RigidTransform,
    SensorCalibration,
    save_calibration,
)
from anyseg_ros.modality import MODALITIES, Modality
from anyseg_ros.resources import find_model
from anyseg_ros.ros import inputs
from anyseg_ros.ros import node as node_module
from anyseg_ros.ros import worker as worker_module
from anyseg_ros.ros.messages import encode_image
from anyseg_ros.ros.publishers import ResultPublishers
from anyseg_ros.ros.transport import configure_transport
from anyseg_ros.sync import MatchedSet

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs/results/overhead.json"
CAMERA = CameraModel.from_fov(640, 480, 90.0)
FRAMES = {m: f"{m.label}_frame" for m in MODALITIES}
TOPICS = {
    Modality.CAMERA: "/camera/image",
    Modality.DEPTH: "/depth/image",
    Modality.EVENT: "/events/points",
    Modality.LIDAR: "/lidar/points",
}
TYPES = {
    Modality.CAMERA: Image,
    Modality.DEPTH: Image,
    Modality.EVENT: PointCloud2,
    Modality.LIDAR: PointCloud2,
}
LIDAR_POINTS = 64_000
EVENTS = 20_000
SLOW_ENGINE_S = 0.2
APART_S = 0.05
"""Between two sensors' messages of one set, in the second measurement."""
OPTICAL_FROM_BODY = (0.5, -0.5, 0.5, 0.5)


# --- the node's process -----------------------------------------------------------------------------


class WatchedEngine:
    """Passes calls on, or answers them at once or after a while, and adds up what they take."""

    def __init__(self, engine: Engine, kind: str) -> None:
        self._engine = engine
        self._kind = kind
        self.spent_s = 0.0
        card = engine.card
        blank = np.zeros((card.input_height, card.input_width), np.uint8)
        self._blank = EngineOutput(blank, blank)

    @property
    def card(self) -> ModelCard:
        return self._engine.card

    @property
    def description(self) -> str:
        return self._engine.description

    def encode(self, images: Any, modality_ids: Any) -> list[Features]:
        started = time.perf_counter()
        if self._kind == "real":
            features = self._engine.encode(images, modality_ids)
        else:
            features = [(np.zeros(1),) for _ in images]
        self.spent_s += time.perf_counter() - started
        return features

    def fuse(self, features: Sequence[Features]) -> EngineOutput:
        started = time.perf_counter()
        if self._kind == "real":
            output = self._engine.fuse(features)
        else:
            if self._kind == "slow":
                time.sleep(SLOW_ENGINE_S)
            output = self._blank
        self.spent_s += time.perf_counter() - started
        return output

    def segment(self, images: Any, modality_ids: Any) -> EngineOutput:
        return self.fuse(self.encode(images, modality_ids))

    def close(self) -> None:
        self._engine.close()


@dataclass
class Watch:
    """What happened in the node: one entry a published result."""

    path: Path
    latency_s: list[float] = field(default_factory=list)
    engine_s: list[float] = field(default_factory=list)
    used: list[int] = field(default_factory=list)
    cpu: list[tuple[float, float]] = field(default_factory=list)
    """wall and processor time, seconds"""
    last_receipt: float = 0.0
    submitted: dict[int, float] = field(default_factory=dict)

    def note_cpu(self) -> None:
        use = resource.getrusage(resource.RUSAGE_SELF)
        self.cpu.append((time.perf_counter(), use.ru_utime + use.ru_stime))

    def save(self) -> None:
        kept = ("latency_s", "engine_s", "used", "cpu")
        self.path.write_text(json.dumps({name: getattr(self, name) for name in kept}))


def watch_node(watch: Watch, kind: str) -> None:
    """Note when messages come in, when sets go to the worker, and when results are out."""
    receive = inputs.SensorInput._on_message
    submit = worker_module.SegmentationWorker.submit
    publish = ResultPublishers.publish
    engines: list[WatchedEngine] = []

    def watched_receive(self: inputs.SensorInput, message: Any) -> None:
        watch.last_receipt = time.perf_counter()
        receive(self, message)

    def watched_submit(self: Any, matched: MatchedSet, *arguments: Any) -> None:
        watch.submitted[matched.stamp_ns] = watch.last_receipt
        submit(self, matched, *arguments)

    def watched_publish(
        self: ResultPublishers, matched: MatchedSet, result: Any, *arguments: Any
    ) -> None:
        publish(self, matched, result, *arguments)
        finished = time.perf_counter()
        engine = engines[-1]
        watch.latency_s.append(finished - watch.submitted.pop(matched.stamp_ns))
        watch.engine_s.append(engine.spent_s)
        watch.used.append(len(result.used))
        engine.spent_s = 0.0
        for stamp in [stamp for stamp in watch.submitted if stamp < matched.stamp_ns]:
            del watch.submitted[stamp]
        watch.note_cpu()

    def watched_load(*arguments: Any, **options: Any) -> Engine:
        engines.append(WatchedEngine(load_engine(*arguments, **options), kind))
        return engines[-1]

    inputs.SensorInput._on_message = watched_receive
    worker_module.SegmentationWorker.submit = watched_submit
    ResultPublishers.publish = watched_publish
    node_module.load_engine = watched_load


class Relay(Node):
    """Receives the four sensors and publishes what it received."""

    def __init__(self, watch: Watch) -> None:
        super().__init__("relay")
        self._watch = watch
        for modality, topic in TOPICS.items():
            out = self.create_publisher(TYPES[modality], f"/relay{topic}", qos_profile_sensor_data)
            self.create_subscription(
                TYPES[modality], topic, self._passing(out), qos_profile_sensor_data
            )

    def _passing(self, publisher: Any) -> Any:
        def receive(message: Any) -> None:
            publisher.publish(message)
            self._watch.note_cpu()

        return receive


def run_child(role: str, result: Path, ros_arguments: list[str]) -> None:
    """The node or the relay, until SIGINT; then what was noted goes to ``result``."""
    watch = Watch(result)
    configure_transport()
    if role == "relay":
        rclpy.init()
        relay = Relay(watch)
        print("ready", flush=True)
        with suppress(KeyboardInterrupt, ExternalShutdownException):
            rclpy.spin(relay)
    else:
        watch_node(watch, role)
        node_module.main([sys.argv[0], *ros_arguments])
    watch.save()


# --- the driver -------------------------------------------------------------------------------------


def write_calibration(folder: Path) -> Path:
    """Three cameras side by side and a LiDAR above them."""
    body = RigidTransform.from_quaternion(OPTICAL_FROM_BODY, (0.0, -0.3, 0.1))

    def beside(metres: float) -> RigidTransform:
        return RigidTransform.from_quaternion((0, 0, 0, 1), (metres, 0, 0))

    sensors = {
        m: SensorCalibration(FRAMES[m], beside(metres), CAMERA)
        for m, metres in ((Modality.CAMERA, 0.0), (Modality.DEPTH, 0.05), (Modality.EVENT, -0.05))
    }
    sensors[Modality.LIDAR] = SensorCalibration(FRAMES[Modality.LIDAR], body)
    path = folder / "calibration.yaml"
    save_calibration(RigCalibration(CAMERA, FRAMES[Modality.CAMERA], sensors), path)
    return path


def make_messages() -> dict[Modality, Any]:
    """One message a sensor, of the size of a real one; only the stamps change later."""
    from rig import EVENT_DTYPE, EVENT_FIELDS, LIDAR_FIELDS, cloud

    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (480, 640, 3)).astype(np.uint8)
    rows = np.linspace(40_000, 2_000, 480).astype(np.uint16)
    depth = np.repeat(rows[:, None], 640, 1) + rng.integers(0, 50, (480, 640)).astype(np.uint16)
    angle = rng.uniform(-np.pi, np.pi, LIDAR_POINTS)
    distance = 12 + 4 * np.sin(3 * angle)
    points = np.zeros(LIDAR_POINTS, [(n, "<f4") for n in ("x", "y", "z", "intensity")])
    points["x"], points["y"] = distance * np.cos(angle), distance * np.sin(angle)
    points["z"] = rng.uniform(-2, 2, LIDAR_POINTS)
    points["intensity"] = rng.uniform(0, 1, LIDAR_POINTS)
    events = np.zeros(EVENTS, EVENT_DTYPE)
    events["x"], events["y"] = rng.integers(0, 640, EVENTS), rng.integers(0, 480, EVENTS)
    events["p"] = rng.integers(0, 2, EVENTS)
    return {
        Modality.CAMERA: encode_image(picture, "rgb8", 1, FRAMES[Modality.CAMERA]),
        Modality.DEPTH: encode_image(depth, "16UC1", 1, FRAMES[Modality.DEPTH]),
        Modality.EVENT: cloud(Modality.EVENT, 1, events, EVENT_FIELDS),
        Modality.LIDAR: cloud(Modality.LIDAR, 1, points, LIDAR_FIELDS),
    }


class Driver:
    """Publishes the four sensors, each at its rate; listens to what comes out, as a user would."""

    def __init__(self, number: int) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=number)
        self._node = rclpy.create_node("driver", context=self._context)
        self._messages = make_messages()
        self._publishers = {
            m: self._node.create_publisher(TYPES[m], topic, qos_profile_sensor_data)
            for m, topic in TOPICS.items()
        }
        heard = [("/anyseg/segmentation", Image)]
        heard += [(f"/relay{topic}", TYPES[m]) for m, topic in TOPICS.items()]
        for topic, kind in heard:
            self._node.create_subscription(
                kind, topic, lambda message: None, qos_profile_sensor_data
            )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        threading.Thread(target=self._spin, daemon=True).start()

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()

    def run(self, rates_hz: Mapping[Modality, float], seconds: float, apart_s: float) -> None:
        """Publish for so long, the first messages ``apart_s`` after one another."""
        begin = time.monotonic()
        due = {modality: begin + i * apart_s for i, modality in enumerate(rates_hz)}
        while time.monotonic() < begin + seconds:
            modality = min(due, key=lambda m: due[m])
            time.sleep(max(0.0, due[modality] - time.monotonic()))
            stamp = self._node.get_clock().now().to_msg()
            self._messages[modality].header.stamp = stamp
            self._publishers[modality].publish(self._messages[modality])
            due[modality] += 1.0 / rates_hz[modality]

    def wait_for_readers(self, timeout_s: float = 40.0) -> None:
        """Until every sensor topic has a subscriber."""
        deadline = time.monotonic() + timeout_s
        while not all(p.get_subscription_count() for p in self._publishers.values()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"nobody subscribed within {timeout_s} s")
            time.sleep(0.05)

    def close(self) -> None:
        self._executor.shutdown()
        rclpy.shutdown(context=self._context)


def run_case(
    role: str,
    rates_hz: Mapping[Modality, float],
    options: argparse.Namespace,
    apart_s: float = 0.0,
) -> dict[str, Any]:
    """One child process under these rates; what it noted."""
    with tempfile.TemporaryDirectory() as folder, domain() as number:
        result = Path(folder) / "result.json"
        command = [sys.executable, __file__, "--child", role, "--result", str(result)]
        if role != "relay":
            parameters = {
                "model": find_model(options.model),
                "engine": options.engine,
                "calibration_file": write_calibration(Path(folder)),
                "autostart": "true",
                "health.enabled": "false",  # the same message again and again is no sensor
                **{f"{m.label}.topic": topic for m, topic in TOPICS.items()},
                "max_wait_s": 0.3,  # sensors apart: the set waits for the last of them
                **{f"{m.label}.timeout": 3.0 for m in MODALITIES},
                **{f"{m.label}.tolerance": 0.2 for m in MODALITIES},
            }
            command += ["--", "--ros-args"]
            for name, value in parameters.items():
                command += ["-p", f"{name}:={value}"]
        child = subprocess.Popen(command, env={**os.environ, "ROS_DOMAIN_ID": str(number)})
        driver = Driver(number)
        try:
            driver.wait_for_readers()
            driver.run(rates_hz, options.seconds, apart_s)
        finally:
            driver.close()
            child.send_signal(signal.SIGINT)
            try:
                child.wait(30)
            except (
                subprocess.TimeoutExpired
            ):  # it would load the machine during the next measurement
                child.kill()
                raise
        return dict(json.loads(result.read_text()))


def cpu_share(noted: Mapping[str, Any]) -> float:
    """Processor seconds a second, between the first and the last note, without the first tenth."""
    notes = noted["cpu"][len(noted["cpu"]) // 10 :]
    (begin, used_before), (end, used_after) = notes[0], notes[-1]
    return float((used_after - used_before) / (end - begin))


def all_at(rate_hz: float) -> dict[Modality, float]:
    """Every sensor at one rate."""
    return dict.fromkeys(MODALITIES, rate_hz)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of the result file."""
    rows: list[dict[str, Any]] = []
    for name, apart_s in (("latency", 0.0), ("latency, sensors apart", APART_S)):
        noted = run_case("real", all_at(options.rate), options, apart_s)
        full = [i for i, used in enumerate(noted["used"]) if used == len(MODALITIES)]
        # The first tenth warms up: what is of use is encoded ahead once ten messages have shown it.
        full = full[max(len(full) // 10, 12) :]
        engine = statistics.median(noted["engine_s"][i] for i in full)
        latency = statistics.median(noted["latency_s"][i] for i in full)
        overhead = statistics.median(noted["latency_s"][i] - noted["engine_s"][i] for i in full)
        rows.append(
            {
                "name": name,
                "engine": options.engine,
                "live_sensors": len(MODALITIES),
                "rate_hz": options.rate,
                "apart_ms": round(1e3 * apart_s),
                "sets": len(full),
                "latency_ms": round(1e3 * latency, 2),
                "engine_ms": round(1e3 * engine, 2),
                "overhead_ms": round(1e3 * overhead, 2),
                "overhead_share": round(overhead / engine, 4),
                "limit": "8 ms and 0.15",
            }
        )
    relay = cpu_share(run_case("relay", all_at(10.0), options))
    null = run_case("null", all_at(10.0), options)
    rows.append(
        {
            "name": "cpu",
            "engine": "null",
            "live_sensors": len(MODALITIES),
            "rate_hz": 10.0,
            "sets": len(null["used"]),
            "cpu_share": round(cpu_share(null), 4),
            "relay_cpu_share": round(relay, 4),
            "ratio": round(cpu_share(null) / relay, 3),
            "against": "bare rclpy relay of the same topics",
            "limit": "2",
        }
    )
    rates = {**all_at(30.0), Modality.LIDAR: 10.0}
    slow = run_case("slow", rates, options)
    latencies = sorted(slow["latency_s"][1:])
    rows.append(
        {
            "name": "sustained",
            "engine": f"{SLOW_ENGINE_S * 1e3:.0f} ms",
            "live_sensors": len(MODALITIES),
            "rate_hz": "30/30/30/10",
            "sets": len(latencies),
            "latency_ms": round(1e3 * statistics.median(latencies), 2),
            "latency_max_ms": round(1e3 * latencies[-1], 2),
            "engine_periods_max": round(latencies[-1] / SLOW_ENGINE_S, 3),
            "limit": "2 engine periods",
        }
    )
    return rows


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="", help="model folder or name; default: the shipped one"
    )
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--rate", type=float, default=2.0, help="Hz of the latency measurement")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each of the four runs")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("ros", nargs="*", help=argparse.SUPPRESS)
    given = sys.argv[1:]
    ros = given[given.index("--") + 1 :] if "--" in given else []
    options = parser.parse_args(given[: given.index("--")] if "--" in given else given)
    if options.child:
        run_child(options.child, options.result, ros)
        return
    configure_transport()
    rows = measure(options)
    for row in rows:
        print(json.dumps(row))
    command = " ".join(["python benchmarks/overhead.py", *given])
    notes = (
        "Medians; camera and depth 640x480, 20 000 events, 64 000 points, over DDS. "
        "latency: from the callback of a set's last message to its labels published; overhead: that less "
        "the engine's calls. Health checks off, max_wait_s 0.3, tolerance 0.2."
    )
    write_results(options.output, rows, command, notes, ())


if __name__ == "__main__":
    main()
