"""The demo: play a bag at the real node over DDS, fail sensors by a timetable, score and show it.

Node and player run as processes of their own, as on a robot; this process only listens.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from anyseg_ros.engine import ModelCard, load_engine
from anyseg_ros.evaluation.outage_run import (
    OutageRun,
    Output,
    Reaction,
    StretchScore,
    nearest_ground_truth,
    reactions,
    score_stretches,
)
from anyseg_ros.evaluation.outages import OutageError, load_outages, stretches
from anyseg_ros.modalities import (
    CalibrationError,
    ModalityError,
    RigCalibration,
    SegmentationGrid,
    join_packets,
    load_calibration,
    make_image_builder,
)
from anyseg_ros.modality import MODALITIES, Modality, subset_name
from anyseg_ros.resources import ResourceError, find_model, find_resource
from anyseg_ros.ros.transport import configure_transport

_READY_S = 60.0
_GRACE_S = 10.0


class DemoError(RuntimeError):
    """The demo cannot go on; the message says what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="demo",
        description=(
            "Play a bag at the segmentation node over DDS, switch sensors off by a timetable, and "
            "write a report."
        ),
    )
    parser.add_argument("--bag", type=Path, help="rosbag2 folder (default: the shipped drive)")
    parser.add_argument(
        "--calibration", type=Path, help="the rig's calibration; needed with another bag"
    )
    parser.add_argument("--outages", type=Path, help="timetable (default: the shipped one)")
    parser.add_argument("--params", type=Path, help="node parameters (default: config/demo.yaml)")
    parser.add_argument("--model", default="", help="model folder, or name of a shipped model")
    parser.add_argument("--rate", type=float, default=1.0, help="speed of the bag (default: 1)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/demo"),
        help="folder for the report (default: out/demo)",
    )
    options = parser.parse_args(arguments)
    try:
        return run_demo(options)
    except (DemoError, ResourceError, OutageError, CalibrationError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130


def run_demo(options: argparse.Namespace) -> int:
    """Play, record, score, report."""
    if options.bag and not options.calibration:
        raise DemoError(
            f"{options.bag} is another rig's than the shipped drive: give its --calibration"
        )
    bag = options.bag or find_resource("demo/street_drive")
    calibration_path = options.calibration or find_resource("demo/calibration.yaml")
    outages_path = options.outages or find_resource("config/demo_outages.yaml")
    params_path = options.params or find_resource("config/demo.yaml")
    model = find_model(options.model)
    outages = load_outages(outages_path)
    rig = load_calibration(calibration_path)
    engine = load_engine(model)
    card, engine_name = engine.card, engine.description
    engine.close()
    sensors = _sensor_parameters(params_path)

    environment = dict(os.environ)
    # A domain of its own: a robot on the same network is neither heard nor disturbed.
    environment.setdefault("ROS_DOMAIN_ID", str(random.SystemRandom().randint(1, 100)))
    environment["PYTHONUNBUFFERED"] = "1"
    os.environ["ROS_DOMAIN_ID"] = environment["ROS_DOMAIN_ID"]
    configure_transport(environment)
    configure_transport()
    options.out.mkdir(parents=True, exist_ok=True)

    print(f"model    {card.name} on {engine_name}")
    print(f"bag      {bag}")
    print(f"outages  {outages_path}", flush=True)
    node_command = [
        *(sys.executable, "-m", "anyseg_ros.ros.node", "--ros-args"),
        *("--params-file", str(params_path)),
        *("-p", f"model:={model}", "-p", f"calibration_file:={calibration_path}"),
        *("-p", "autostart:=true", "-p", "output_reliable:=true"),
    ]
    player_command = [
        *(sys.executable, "-m", "anyseg_ros.ros.bag_player", str(bag)),
        *("--outages", str(outages_path), "--rate", str(options.rate), "--wait", "20"),
    ]
    with (
        (options.out / "node.log").open("w") as node_log,
        (options.out / "player.log").open("w") as player_log,
    ):
        recorder, duration_s, begin_ns = _record(
            node_command,
            player_command,
            environment,
            node_log,
            player_log,
            sensors,
            bag,
            options.rate,
        )
    run = _outage_run(recorder, outages, sensors, duration_s, begin_ns, options.rate)
    if not run.outputs:
        raise DemoError(f"the node published nothing; see {options.out / 'node.log'}")

    scores, reacted = score_stretches(run, card.classes), reactions(run)
    print()
    print(format_table(scores))
    print()
    for line in format_reactions(reacted):
        print(line)
    results = {
        "model": card.name,
        "model_id": card.model_id,
        "engine": engine_name,
        "stretches": [asdict(s) for s in scores],
        "reactions": [asdict(r) for r in reacted],
    }
    text = json.dumps(_plain(results), indent=1)
    (options.out / "results.json").write_text(text + "\n")

    # Drawing needs matplotlib, which takes a second to load: not before it is wanted.
    from anyseg_ros.evaluation.report import write_outage_report

    moments = _moments(recorder, run, sensors, rig, card, begin_ns)
    page = write_outage_report(
        options.out, run, scores, reacted, moments, card.classes, _facts(card, engine_name, run)
    )
    print(f"\nreport   {page}")
    return 0


def _sensor_parameters(params_path: Path) -> dict[Modality, dict[str, Any]]:
    """The sensors' blocks of a node parameter file."""
    try:
        document = yaml.safe_load(params_path.read_text())
        (section,) = document.values()
        parameters = section["ros__parameters"]
        sensors = {m: dict(parameters[m.label]) for m in MODALITIES if m.label in parameters}
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DemoError(
            f"{params_path}: expected one node section with ros__parameters and a block a sensor "
            f"({error})"
        ) from None
    from anyseg_ros.ros.inputs import DECODERS
    from anyseg_ros.ros.parameters import SENSOR_TYPES

    for modality, block in sensors.items():
        block.setdefault("type", SENSOR_TYPES[modality][0])
        if (modality, block["type"]) not in DECODERS:
            kinds = ", ".join(kind for m, kind in DECODERS if m is modality)
            raise DemoError(
                f"{params_path}: {modality.label}.type is {block['type']!r}; the demo reads {kinds}"
            )
    return sensors


def _record(
    node_command: list[str],
    player_command: list[str],
    environment: Mapping[str, str],
    node_log: Any,
    player_log: Any,
    sensors: Mapping[Modality, Mapping[str, Any]],
    bag: Path,
    rate: float,
) -> tuple[Any, float, int]:
    """Run node and player, listen; returns the recorder, the bag's seconds and first log time."""
    import rclpy
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
    from rosbags.highlevel import AnyReader

    from anyseg_ros.ros.inputs import DECODERS
    from anyseg_ros.ros.recorder import Recorder

    try:
        with AnyReader([bag]) as reader:
            duration_s, begin_ns = reader.duration / 1e9, reader.start_time
    except Exception as error:  # rosbags has an error a storage format
        raise DemoError(f"cannot read the bag {bag}: {error}") from None

    topics = {m: (str(p["topic"]), DECODERS[m, p["type"]][0]) for m, p in sensors.items()}
    rclpy.init(args=[])
    listener = rclpy.create_node("demo_recorder")
    recorder = Recorder(listener, topics)
    executor = SingleThreadedExecutor()
    executor.add_node(listener)

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    # Sessions of their own, so that an interrupt reaches them from here, in order.
    node = subprocess.Popen(
        node_command, env=environment, stdout=node_log, stderr=node_log, start_new_session=True
    )
    player = None
    try:
        print("starting the node ...", flush=True)
        _wait_until(
            lambda: (
                listener.count_publishers("/anyseg/segmentation") > 0
                and all(listener.count_subscribers(topic) > 1 for topic, _ in topics.values())
            ),
            node,
            node_log.name,
        )
        player = subprocess.Popen(
            player_command,
            env=environment,
            stdout=player_log,
            stderr=player_log,
            start_new_session=True,
        )
        total = math.ceil(duration_s / rate)
        with tqdm(total=total, unit="s", desc="playing", disable=None) as progress:
            limit = time.monotonic() + _READY_S + 2 * total
            while player.poll() is None:
                if node.poll() is not None:
                    raise DemoError(f"the node ended by itself; see {node_log.name}")
                if time.monotonic() > limit:
                    raise DemoError(f"the player does not end; see {player_log.name}")
                newest = max((r[-1].stamp_ns for r in recorder.inputs.values() if r), default=0)
                done = (newest - begin_ns) / 1e9 / rate
                progress.update(max(0, min(total, int(done)) - progress.n))
                time.sleep(0.2)
            progress.update(total - progress.n)
        if player.returncode:
            raise DemoError(f"the player failed; see {player_log.name}")
        time.sleep(1.0)  # the last results are still on their way
    finally:
        for process in (player, node):
            _stop(process)
        executor.shutdown(timeout_sec=2.0)
        rclpy.try_shutdown()
        thread.join(timeout=5.0)
    return recorder, duration_s, begin_ns


def _wait_until(condition: Any, node: subprocess.Popen, log_name: str) -> None:
    limit = time.monotonic() + _READY_S
    while not condition():
        if node.poll() is not None:
            raise DemoError(f"the node ended by itself; see {log_name}")
        if time.monotonic() > limit:
            raise DemoError(f"the node was not ready within {_READY_S:.0f} s; see {log_name}")
        time.sleep(0.1)


def _stop(process: subprocess.Popen | None) -> None:
    if process is None or process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _outage_run(
    recorder: Any,
    outages: Sequence[Any],
    sensors: Mapping[Modality, Mapping[str, Any]],
    duration_s: float,
    begin_ns: int,
    rate: float,
) -> OutageRun:
    """Put what was recorded on one clock, seconds of bag time."""
    receipts = [r for found in recorder.inputs.values() for r in found]
    if not receipts:
        raise DemoError("nothing arrived from the bag player: no message was received over DDS")
    # Receipt runs on this machine's clock, the bag on its own: the quickest message ties the two.
    offset_ns = min(r.received_ns - (r.stamp_ns - begin_ns) / rate for r in receipts)

    def bag_time(received_ns: int) -> float:
        return float((received_ns - offset_ns) * rate / 1e9)

    received = {
        m: {r.stamp_ns: r.received_ns for r in found} for m, found in recorder.inputs.items()
    }
    explained = {m.stamp_ns: m for m in recorder.modalities}
    outputs = []
    for output in sorted(recorder.outputs, key=lambda o: o.received_ns):
        explanation = explained.get(output.stamp_ns)
        if explanation is None:
            continue
        used = tuple(
            m for m in MODALITIES if explanation.sensors.get(m.label, {}).get("used") == "true"
        )
        anchor = next(
            (m for m in MODALITIES if explanation.sensors.get(m.label, {}).get("anchor") == "true"),
            None,
        )
        latency_s = None
        if anchor is not None:
            came_ns = received[anchor].get(output.stamp_ns)
            if (
                came_ns is None
            ):  # events are stamped at their packet's end: the last one begun before
                earlier = [s for s in received[anchor] if s < output.stamp_ns]
                came_ns = received[anchor][max(earlier)] if earlier else None
            if came_ns is not None:
                latency_s = (output.received_ns - came_ns) / 1e9
        outputs.append(
            Output(
                (output.stamp_ns - begin_ns) / 1e9,
                bag_time(output.received_ns),
                output.labels,
                used,
                latency_s,
            )
        )
    return OutageRun(
        duration_s=duration_s,
        outages=outages,
        sensors=tuple(sorted(sensors)),
        outputs=outputs,
        ground_truth={(s - begin_ns) / 1e9: labels for s, labels in recorder.ground_truth.items()},
        timeouts_s={m: float(p.get("timeout", 0.5)) for m, p in sensors.items()},
    )


def _moments(
    recorder: Any,
    run: OutageRun,
    sensors: Mapping[Modality, Mapping[str, Any]],
    rig: RigCalibration,
    card: ModelCard,
    begin_ns: int,
) -> list[Any]:
    """One moment near the end of each stretch, as pictures."""
    from anyseg_ros.evaluation.report import Moment

    grid = SegmentationGrid.create(rig.grid, rig.grid_frame_id, card.input_width, card.input_height)
    builders = {
        m: make_image_builder(m, card.encodings[m], grid, rig.sensors[m])
        for m in run.sensors
        if m in rig.sensors
    }
    moments = []
    for stretch in stretches(run.outages, run.duration_s, run.sensors):
        settled = [
            o
            for o in run.outputs
            if stretch.from_s <= o.received_s < stretch.to_s and o.used == stretch.alive
        ]
        if not settled:
            continue
        output = settled[len(settled) * 3 // 4]
        stamp_ns = begin_ns + round(output.stamp_s * 1e9)
        pictures: dict[Modality, Any] = dict.fromkeys(run.sensors)
        # What the file does not place is left blank: where it sits only the node has learnt, from TF.
        for modality in [m for m in output.used if m in builders]:
            kind = sensors[modality]["type"]
            pictures[modality] = _picture(
                modality, kind, recorder.inputs[modality], builders[modality], stamp_ns
            )
        truth = nearest_ground_truth(run.ground_truth, output.stamp_s, 0.06)
        moments.append(Moment(output.stamp_s, pictures, output.used, output.labels, truth))
    return moments


def _picture(
    modality: Modality, kind: str, receipts: Sequence[Any], builder: Any, stamp_ns: int
) -> Any:
    """The modality image of what a sensor last sent before a stamp, as its type says."""
    from rclpy.serialization import deserialize_message

    from anyseg_ros.ros.inputs import DECODERS, WINDOWED_TYPES

    message_class, decoder = DECODERS[modality, kind]
    windowed = modality is Modality.EVENT and kind in WINDOWED_TYPES
    # A little after the stamp is as near as a little before.
    recent = [r for r in receipts if r.stamp_ns <= stamp_ns + 30_000_000]
    wanted = recent[-6:] if windowed else recent[-1:]
    try:
        data = [decoder(deserialize_message(r.serialized, message_class)) for r in wanted]
        if not data:
            return None
        return builder.build(
            join_packets(data) if windowed else data[0],  # type: ignore[arg-type]
            stamp_ns,
        )
    except (ModalityError, ValueError):
        return None


def format_table(scores: Sequence[StretchScore]) -> str:
    """The table of stretches as text."""
    lines = [
        f"{'seconds':>11}  {'alive':<24} {'node used':<24} {'exact':>5} {'mIoU':>6} "
        f"{'latency ms':>11} {'rate':>7} {'gap':>6}",
        f"{'':>11}  {'':<24} {'':<24} {'':>5} {'%':>6} {'median  p95':>11} {'Hz':>7} {'s':>6}",
    ]
    lines += [
        f"{s.from_s:5.1f}-{s.to_s:5.1f}  {s.alive:<24} {s.used:<24} {100 * s.used_share:4.0f}% "
        f"{s.miou:6.1f} {s.latency_median_ms:6.0f} {s.latency_p95_ms:4.0f} {s.rate_hz:7.1f} "
        f"{s.longest_gap_s:6.2f}"
        for s in scores
    ]
    return "\n".join(lines)


def format_reactions(found: Sequence[Reaction]) -> list[str]:
    """A line for each cut and return."""
    return [
        f"{r.sensor:<7} cut at {r.cut_s:5.1f} s, last used {r.last_used_after_cut_s:4.2f} s later "
        f"(timeout {r.timeout_s:.2f} s); back at {r.restored_s:5.1f} s, "
        + (
            "not used again"
            if math.isnan(r.used_again_s)
            else f"used again {r.used_again_s:4.2f} s later"
        )
        for r in found
    ]


def _facts(card: ModelCard, engine_name: str, run: OutageRun) -> dict[str, str]:
    source = card.provenance.get("data", "unknown")
    return {
        "model": f"{card.name} ({card.model_id}), input {card.input_width}x{card.input_height}",
        "trained on": f"{source}, synthetic only" if card.synthetic_only else str(source),
        "engine": engine_name,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "transport": os.environ.get("FASTDDS_BUILTIN_TRANSPORTS", "as configured by the user"),
        "outputs": f"{len(run.outputs)}, {len(run.ground_truth)} ground-truth frames, "
        f"sensors {subset_name(run.sensors)}",
    }


def _plain(value: Any) -> Any:
    """JSON has no NaN: null instead."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main())
