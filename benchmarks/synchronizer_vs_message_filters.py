"""The synchronizer against ``message_filters.ApproximateTimeSynchronizer`` on the same traces.

    python benchmarks/synchronizer_vs_message_filters.py

A rig of camera, depth, LiDAR (10 Hz) and events (30 Hz) runs for 30 s; from 10 s to 20 s the
camera is silent. Both synchronizers get the same arrivals and the same slop. Counted in each
stretch: sets a second; *complete* sets a second, to which all four streams contributed a message
within the slop; and of these the ones with *new* messages only. (This project's sets take the message
nearest to the camera's, which may be the one nearest to two images; message_filters uses each
message once.) *Added delay* is the time between the
arrival of a set's last message and the set, for complete sets before the outage: what the
synchronizer itself adds. ``wait`` is the same from the arrival of the camera's message.

Needs ``message_filters`` (with rclpy) for the comparison: install it with ROS 2, or put its source
(https://github.com/ros2/message_filters, folder ``src``) on PYTHONPATH. Without it only this
project's figures are printed, and nothing is written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from types import SimpleNamespace

from anyseg_ros.evaluation.results import write_results
from anyseg_ros.modality import MODALITIES, Modality
from anyseg_ros.sync import StreamConfig, Synchronizer

MS = 1_000_000
S = 1_000_000_000
ORIGIN_NS = 1_700_000_000 * S
STRETCHES = {"before": (1.0, 10.0), "during": (10.0, 20.0), "after": (20.0, 30.0)}
"""seconds; the first second is start-up and not counted"""
RESULTS = Path(__file__).parents[1] / "docs/results/synchronizer.json"


@dataclass(frozen=True)
class Sensor:
    """How a sensor delivers, in milliseconds."""

    period_ms: float
    phase_ms: float
    latency_ms: float
    jitter_ms: float
    loss: float = 0.0


@dataclass(frozen=True)
class Arrival:
    receipt_ns: int
    key: Modality
    stamp_ns: int


@dataclass(frozen=True)
class Emitted:
    """A set: when it came out, its messages, and whether all of them are used the first time."""

    now_ns: int
    members: Mapping[Modality, Arrival]
    all_new: bool = True


def make_rig(random: Random, scenario: str) -> dict[Modality, Sensor]:
    """Draw phases and latencies; the scenario says what else is wrong."""
    periods = {Modality.CAMERA: 100.0, Modality.DEPTH: 100.0, Modality.EVENT: 1000 / 30}
    periods[Modality.LIDAR] = 200.0 if scenario == "slow lidar" else 100.0
    jitter_ms = {"regular": 0.0}.get(scenario, 5.0)
    loss = 0.05 if scenario == "5 % loss" else 0.0
    return {
        m: Sensor(periods[m], random.uniform(0, periods[m]), random.uniform(2, 30), jitter_ms, loss)
        for m in MODALITIES
    }


def make_arrivals(rig: Mapping[Modality, Sensor], random: Random) -> list[Arrival]:
    """30 s of arrivals in order of receipt, the camera silent from 10 s to 20 s."""
    arrivals = []
    for key, sensor in rig.items():
        t_ms = sensor.phase_ms
        while t_ms < 30_000:
            stamp = ORIGIN_NS + round((t_ms + random.uniform(0, sensor.jitter_ms)) * MS)
            delay_ms = sensor.latency_ms + random.uniform(0, sensor.jitter_ms)
            cut = key is Modality.CAMERA and 10_000 <= t_ms < 20_000
            if not cut and random.random() >= sensor.loss:
                arrivals.append(Arrival(stamp - ORIGIN_NS + round(delay_ms * MS), key, stamp))
            t_ms += sensor.period_ms
    return sorted(arrivals, key=lambda a: (a.receipt_ns, a.key))


def run_ours(arrivals: list[Arrival], slop_s: float, max_wait_s: float) -> list[Emitted]:
    """Play the arrivals into this project's synchronizer, polling on time."""
    config = StreamConfig(timeout_s=0.5, tolerance_s=slop_s, max_age_s=0.3)
    sync = Synchronizer(dict.fromkeys(MODALITIES, config), MODALITIES, max_wait_s)
    emitted = []

    def note(now_ns: int, sets: list) -> None:
        for matched in sets:
            members = {k: m.message for k, m in matched.members.items()}
            all_new = not any(m.held for m in matched.members.values())
            emitted.append(Emitted(now_ns, members, all_new))

    for arrival in arrivals:
        while (due := sync.next_deadline_ns()) is not None and due < arrival.receipt_ns:
            note(due, sync.poll(due))
        sets = sync.add(arrival.key, arrival.stamp_ns, arrival, arrival.receipt_ns)
        note(arrival.receipt_ns, sets)
    return emitted


def run_message_filters(arrivals: list[Arrival], slop_s: float, queue_size: int) -> list[Emitted]:
    """Play the arrivals into ApproximateTimeSynchronizer.

    Raises:
        ImportError: if message_filters is not installed.
    """
    from message_filters import ApproximateTimeSynchronizer, SimpleFilter
    from rclpy.time import Time

    inputs = {m: SimpleFilter() for m in MODALITIES}
    emitted = []
    now_ns = 0

    def note(*messages: SimpleNamespace) -> None:
        emitted.append(Emitted(now_ns, {m.arrival.key: m.arrival for m in messages}))

    synchronizer = ApproximateTimeSynchronizer(list(inputs.values()), queue_size, slop_s)
    synchronizer.registerCallback(note)
    for arrival in arrivals:
        now_ns = arrival.receipt_ns
        header = SimpleNamespace(stamp=Time(nanoseconds=arrival.stamp_ns))
        inputs[arrival.key].signalMessage(SimpleNamespace(header=header, arrival=arrival))
    return emitted


def is_complete(emitted: Emitted, slop_s: float) -> bool:
    """All four streams, each with a message within the slop of the camera's."""
    if len(emitted.members) < len(MODALITIES):
        return False
    camera = emitted.members[Modality.CAMERA].stamp_ns
    return all(abs(a.stamp_ns - camera) <= slop_s * S for a in emitted.members.values())


def is_before(emitted: Emitted) -> bool:
    """Whether a complete set is of the time before the outage, by its camera stamp.

    By time of emission a set at the boundary would count for the faster synchronizer only.
    """
    start, end = STRETCHES["before"]
    return start <= (emitted.members[Modality.CAMERA].stamp_ns - ORIGIN_NS) / S < end


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)] if values else 0.0


def measure(runs: list[list[Emitted]], slop_s: float) -> dict[str, float]:
    """Rates in each stretch and the delays before the outage, over all rigs of a scenario."""
    row: dict[str, float] = {}
    for name, (start, end) in STRETCHES.items():
        sets = [e for run in runs for e in run if start <= e.now_ns / S < end]
        seconds = (end - start) * len(runs)
        row[f"sets_per_s_{name}"] = round(len(sets) / seconds, 3)
        complete = [e for e in sets if is_complete(e, slop_s)]
        row[f"complete_sets_per_s_{name}"] = round(len(complete) / seconds, 3)
        new = sum(e.all_new for e in complete)
        row[f"complete_sets_of_new_messages_per_s_{name}"] = round(new / seconds, 3)
    healthy = [e for run in runs for e in run if 1 <= e.now_ns / S < 10 and is_complete(e, slop_s)]
    added = [(e.now_ns - max(a.receipt_ns for a in e.members.values())) / MS for e in healthy]
    wait = [(e.now_ns - e.members[Modality.CAMERA].receipt_ns) / MS for e in healthy]
    row["added_delay_median_ms"] = round(median(added), 2) if added else 0.0
    row["added_delay_p95_ms"] = round(percentile(added, 0.95), 2)
    row["wait_median_ms"] = round(median(wait), 2) if wait else 0.0
    row["wait_p95_ms"] = round(percentile(wait, 0.95), 2)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slop", type=float, default=0.05, help="seconds")
    parser.add_argument("--max-wait", type=float, default=0.1, help="ours, seconds")
    parser.add_argument("--queue-size", type=int, default=20, help="message_filters'")
    parser.add_argument("--rigs", type=int, default=25, help="random rigs a scenario")
    arguments = parser.parse_args()

    runners: dict[str, Callable[[list[Arrival]], list[Emitted]]] = {
        "anyseg_ros": lambda a: run_ours(a, arguments.slop, arguments.max_wait)
    }
    try:
        run_message_filters([], arguments.slop, 1)
        runners["message_filters"] = lambda a: run_message_filters(
            a, arguments.slop, arguments.queue_size
        )
    except ImportError as error:
        print(f"without comparison: {error} (see --help)", file=sys.stderr)

    rows: list[dict[str, object]] = []
    fewer = 0
    for scenario in ("regular", "jitter", "5 % loss", "slow lidar"):
        traces = []
        for seed in range(arguments.rigs):
            random = Random(f"{scenario} {seed}")
            traces.append(make_arrivals(make_rig(random, scenario), random))
        results = {name: [run(trace) for trace in traces] for name, run in runners.items()}
        for name, runs in results.items():
            rows.append({"scenario": scenario, "name": name, **measure(runs, arguments.slop)})
        counts = [
            [sum(is_complete(e, arguments.slop) and is_before(e) for e in run) for run in runs]
            for runs in results.values()
        ]
        if len(counts) == 2:
            worse = sum(ours < theirs for ours, theirs in zip(*counts, strict=True))
            rows[-2]["rigs"] = arguments.rigs
            rows[-2]["rigs_with_fewer_complete_sets_before"] = worse
            fewer += worse
    print_table(rows)
    if "message_filters" in runners:
        save(rows, arguments)
    return 1 if fewer else 0


def print_table(rows: list[dict[str, object]]) -> None:
    """Print the rows; sets a second with complete ones in brackets."""
    head = ("scenario", "name", "before", "during", "after", "added ms (p95)", "wait ms (p95)")
    print("sets/s (complete, of new messages only)".rjust(80))
    print("{:<12}{:<17}{:>20}{:>20}{:>20}{:>17}{:>17}".format(*head))
    for row in rows:
        rates = [
            f"{row[f'sets_per_s_{s}']:.2f} ({row[f'complete_sets_per_s_{s}']:.2f}, "
            f"{row[f'complete_sets_of_new_messages_per_s_{s}']:.2f})"
            for s in STRETCHES
        ]
        delays = [
            f"{row[f'{d}_median_ms']} ({row[f'{d}_p95_ms']})" for d in ("added_delay", "wait")
        ]
        print(
            "{:<12}{:<17}{:>20}{:>20}{:>20}{:>17}{:>17}".format(
                row["scenario"], row["name"], *rates, *delays
            )
        )
    for row in rows:
        if "rigs" in row:
            print(
                f"{row['scenario']}: fewer complete sets than message_filters before the outage on "
                f"{row['rigs_with_fewer_complete_sets_before']} of {row['rigs']} rigs"
            )


def save(rows: list[dict[str, object]], arguments: argparse.Namespace) -> None:
    """Write docs/results/synchronizer.json."""
    command = (
        "python benchmarks/synchronizer_vs_message_filters.py "
        f"--slop {arguments.slop} --max-wait {arguments.max_wait} "
        f"--queue-size {arguments.queue_size} --rigs {arguments.rigs}"
    )
    notes = (
        "Generated traces of 30 s, the camera silent from 10 s to 20 s; rates in sets per "
        "second; complete: all four streams, within the slop of the camera's stamp; of new "
        "messages: none of them in an earlier set; added delay: from the arrival of a complete "
        "set's last message to the set; wait: from the camera message's arrival."
    )
    write_results(RESULTS, rows, command, notes, ())


if __name__ == "__main__":
    raise SystemExit(main())
