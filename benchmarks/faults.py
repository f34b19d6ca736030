"""What the node makes of sensors that stall and lie, over real DDS: ``docs/results/faults.json``.

    python benchmarks/faults.py                       # all rows, some 8 minutes
    python benchmarks/faults.py --only camera         # one sensor's; the other rows stay as they are

The shipped drive is played, again and again, by the project's player in one process at the node in
another, as on a robot, while a third listens. A timetable brings about one fault after the other in one
life of the node: each lasts ``FAULT_S``, then all is well for ``PAUSE_S``. The network is a tiny one of
the same interface (what is measured lies before it), all other parameters are the node's defaults.

A machine that others use too delays player and node: ``chrt -r 5 python benchmarks/faults.py``.

The expected state of each row and the time until which it must be reached stand in :data:`EXPECTED`
beforehand. What the outputs used is what ``~/modalities`` says of each; whether a message was bad is known
because this program works out itself what the player sends.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import sys
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from sensor_msgs.msg import CompressedImage
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "test"), str(ROOT / "test/ros")]

from ros_graph import Process, domain, listening  # noqa: E402
from tiny_model import write_tiny_model  # noqa: E402

from anyseg_ros.decoding import data_stamp_ns, decode_event_cloud, stamp_ns  # noqa: E402
from anyseg_ros.evaluation.bag import known_types  # noqa: E402
from anyseg_ros.evaluation.faults import FaultInjector  # noqa: E402
from anyseg_ros.evaluation.outages import KINDS, Outage  # noqa: E402
from anyseg_ros.evaluation.results import write_results  # noqa: E402
from anyseg_ros.modality import MODALITIES, Modality, subset_name  # noqa: E402
from anyseg_ros.ros.transport import configure_transport  # noqa: E402

DRIVE = ROOT / "demo/street_drive"
RESULTS = ROOT / "docs/results/faults.json"
PAGE = ROOT / "docs/faults.md"
TOPICS = {
    Modality.CAMERA: "/camera/image/compressed",
    Modality.DEPTH: "/depth/image/compressedDepth",
    Modality.EVENT: "/events/points",
    Modality.LIDAR: "/lidar/points",
}
TYPES = {
    Modality.CAMERA: "compressed",
    Modality.DEPTH: "compressed_depth",
    Modality.EVENT: "points",
    Modality.LIDAR: "points",
}
CLOCK_TOPIC = "/ground_truth/labels"
"""No fault concerns it: it ties bag time to the listener's clock."""
BEGIN_S = 4.0
FAULT_S = 3.0
PAUSE_S = 3.0
MAX_AGE_S = 0.25
"""The node's default: no output may use a message older than this against its anchor."""

LATELY_S = 2.0
"""What was sent longer ago than this is in no output any more."""

LIVE, DROPPED, QUARANTINED = "live", "dropped", "quarantined"

EXPECTED: dict[str, tuple[str, float]] = {
    # kind: state, and seconds after the first bad message until which it must be reached.
    # Silence: the timeout of 0.5 s, one period of the next anchor, one set.
    "silent": (DROPPED, 0.8),
    "burst": (DROPPED, 0.8),
    # Believed, as far as what arrives is true.
    "slow": (LIVE, 0.0),
    "reordered": (LIVE, 0.0),
    "late": (LIVE, 0.0),
    "duplicate_stamps": (LIVE, 0.0),
    # Nothing believable for the timeout of 0.5 s, or three lies in a row.
    "stuck_stamps": (QUARANTINED, 0.8),
    "stamps_back": (QUARANTINED, 0.8),
    "stamps_future": (QUARANTINED, 0.8),
    # Three bad messages in a row, at 10 Hz, and a set.
    "frozen": (QUARANTINED, 0.8),
    "black": (QUARANTINED, 0.8),
    "saturated": (QUARANTINED, 0.8),
    "noise": (QUARANTINED, 0.8),
    "nan": (QUARANTINED, 0.8),
    "empty": (QUARANTINED, 0.8),
    "wrong_encoding": (QUARANTINED, 0.8),
    "truncated": (QUARANTINED, 0.8),
}
QUIET = ("black", "empty")
"""Of an event camera: no events. Not a fault; it must stay live."""


@dataclass(frozen=True)
class Row:
    """One row of the matrix: faults that begin and end together."""

    faults: tuple[tuple[Modality, str], ...]
    begin_s: float = 0.0

    @property
    def sensor(self) -> str:
        return "+".join(m.label for m, _ in self.faults)

    @property
    def fault(self) -> str:
        kinds = list(dict.fromkeys(kind for _, kind in self.faults))
        if len(self.faults) == 1 and self.faults[0][0] is Modality.EVENT and kinds[0] in QUIET:
            return f"{kinds[0]} (quiet)"
        return "+".join(kinds)

    @property
    def end_s(self) -> float:
        return self.begin_s + FAULT_S

    def expected(self, modality: Modality, kind: str) -> tuple[str, float]:
        if modality is Modality.EVENT and kind in QUIET:
            return LIVE, 0.0
        return EXPECTED[kind]


def matrix(only: str) -> dict[str, list[Row]]:
    """The rows of each run, in order."""
    found = {
        m.label: [Row(((m, kind),)) for kind, about in KINDS.items() if m in about.sensors]
        for m in MODALITIES
    }
    camera, depth, event, lidar = MODALITIES
    found["combinations"] = [
        Row(((camera, "silent"), (depth, "silent"))),
        Row(((camera, "frozen"), (lidar, "silent"))),
        Row(((camera, "black"), (depth, "nan"))),
        Row(((depth, "stamps_back"), (lidar, "truncated"))),
        Row(((camera, "late"), (lidar, "slow"))),
        Row(((camera, "silent"), (depth, "silent"), (lidar, "silent"))),
        Row(((camera, "silent"), (depth, "silent"), (event, "silent"))),
        Row(((depth, "silent"), (event, "silent"), (lidar, "silent"))),
        Row(((camera, "saturated"), (depth, "frozen"), (event, "silent"))),
        Row(((camera, "silent"), (event, "silent"), (lidar, "silent"))),
    ]
    if only:
        found = {name: rows for name, rows in found.items() if name in only.split(",")}
    return {
        name: [
            Row(row.faults, BEGIN_S + number * (FAULT_S + PAUSE_S))
            for number, row in enumerate(rows)
        ]
        for name, rows in found.items()
    }


# --- what is sent -----------------------------------------------------------------------------


def write_long_bag(path: Path, duration_s: float) -> Path:
    """The drive again and again, with stamps and log times that run on."""
    store = known_types()
    with (
        AnyReader([DRIVE], default_typestore=store) as reader,
        Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer,
    ):
        wanted = [c for c in reader.connections if c.topic in (*TOPICS.values(), CLOCK_TOPIC)]
        outs = {c.topic: writer.add_connection(c.topic, c.msgtype, typestore=store) for c in wanted}
        recorded = []
        for connection, log_time, data in reader.messages(wanted):
            message = store.deserialize_cdr(bytes(data), connection.msgtype)
            recorded.append((connection, log_time, stamp_ns(message.header.stamp), message))
        start = reader.start_time
        # Whole periods of the camera, so that a lap follows the other without a pause.
        pictures = [stamp for c, _, stamp, _ in recorded if c.topic == TOPICS[Modality.CAMERA]]
        period_ns = round(statistics.median(b - a for a, b in pairwise(pictures)) / 1e6) * 1_000_000
        length_ns = len(pictures) * period_ns
        first: dict[str, int] = {}
        for lap in range(math.ceil(duration_s * 1e9 / length_ns)):
            shift = lap * length_ns
            for connection, log_time, stamp, message in recorded:
                if log_time - start + shift > duration_s * 1e9:
                    break
                if stamp >= first.setdefault(connection.topic, stamp) + length_ns:
                    continue  # the next lap has these: stamps must not jump back
                one = message.header.stamp
                one.sec, one.nanosec = divmod(stamp + shift, 10**9)
                out = bytes(store.serialize_cdr(message, connection.msgtype))
                writer.write(outs[connection.topic], log_time + shift, out)
    return path


@dataclass(frozen=True)
class Sent:
    """One message that the player sends."""

    time_s: float
    stamp_ns: int
    bad: bool


def plan(
    bag: Path, outages: Sequence[Outage]
) -> tuple[dict[Modality, list[Sent]], dict[int, float]]:
    """What the player sends of each sensor, and the bag time of each message of the clock topic."""
    by_topic = {topic: modality for modality, topic in TOPICS.items()}
    sent: dict[Modality, list[Sent]] = {m: [] for m in MODALITIES}
    clock: dict[int, float] = {}
    faults: FaultInjector[Any] = FaultInjector(outages)
    with AnyReader([bag], default_typestore=known_types()) as reader:

        def deliveries() -> Iterator[Any]:
            for connection, log_time, data in reader.messages():
                time_s = (log_time - reader.start_time) / 1e9

                def parse(data: bytes = data, kind: str = connection.msgtype) -> Any:
                    return reader.deserialize(data, kind)

                if connection.topic == CLOCK_TOPIC:
                    clock[stamp_ns(parse().header.stamp)] = time_s
                    continue
                sensor = by_topic[connection.topic]
                yield from faults.feed(sensor, connection.topic, time_s, (sensor, parse), parse)
            yield from faults.flush()

        for delivery in deliveries():
            sensor, parse = delivery.item
            changed = delivery.message is not None
            message = delivery.message if changed else parse()
            stamp = stamp_ns(message.header.stamp)
            if sensor is Modality.EVENT:
                with contextlib.suppress(ValueError):
                    stamp = data_stamp_ns(message, decode_event_cloud(message))
            kinds = {o.kind for o in outages if o.sensor is sensor and o.covers(delivery.time_s)}
            lies = changed and any(Outage(sensor, 0, 1, kind).disables for kind in kinds)
            sent[sensor].append(Sent(delivery.time_s, stamp, lies))
    return sent, clock


# --- what is received -------------------------------------------------------------------------


@dataclass(frozen=True)
class Output:
    """One ``~/modalities`` message."""

    received_s: float
    stamp_ns: int
    sensors: dict[str, dict[str, str]]
    reasons: dict[str, str]


@dataclass
class Listener:
    """Notes outputs, the node's own account of its sensors, and the clock topic."""

    outputs: list[Output] = field(default_factory=list)
    clock: list[tuple[int, float]] = field(default_factory=list)
    diagnostics: list[tuple[float, dict[str, tuple[str, str]]]] = field(default_factory=list)
    failed_sets: int = 0

    def on_modalities(self, message: DiagnosticArray) -> None:
        values = {s.name: {v.key: v.value for v in s.values} for s in message.status}
        reasons = {s.name: s.message for s in message.status}
        self.outputs.append(
            Output(time.monotonic(), stamp_ns(message.header.stamp), values, reasons)
        )

    def on_clock(self, message: CompressedImage) -> None:
        self.clock.append((stamp_ns(message.header.stamp), time.monotonic()))

    def on_diagnostics(self, message: DiagnosticArray) -> None:
        found = {}
        for status in message.status:
            values = {v.key: v.value for v in status.values}
            found[status.name.removeprefix("anyseg: ")] = (values.get("state", ""), status.message)
            self.failed_sets = int(values.get("failed_sets", self.failed_sets))
        self.diagnostics.append((time.monotonic(), found))


@dataclass
class Run:
    """One life of the node, on bag time."""

    sent: dict[Modality, list[Sent]]
    outputs: list[Output]
    diagnostics: list[tuple[float, dict[str, tuple[str, str]]]]
    crashes: int


def play(rows: Sequence[Row], folder: Path, name: str) -> Run:
    """Play one timetable at the node and listen."""
    outages = [
        Outage(modality, row.begin_s, row.end_s, kind)
        for row in rows
        for modality, kind in row.faults
    ]
    timetable = folder / f"{name}.yaml"
    timetable.write_text(
        yaml.safe_dump(
            {
                "outages": [
                    {"sensor": o.sensor.label, "from_s": o.from_s, "to_s": o.to_s, "kind": o.kind}
                    for o in outages
                ]
            }
        )
    )
    duration_s = rows[-1].end_s + PAUSE_S
    bag = write_long_bag(folder / f"{name}_bag", duration_s)
    sent, clock = plan(bag, outages)
    parameters = []
    for modality, topic in TOPICS.items():
        parameters += ["-p", f"{modality.label}.topic:={topic}"]
        parameters += ["-p", f"{modality.label}.type:={TYPES[modality]}"]
    listener = Listener()

    def subscribe(node: Node) -> None:
        node.create_subscription(DiagnosticArray, "/anyseg/modalities", listener.on_modalities, 100)
        node.create_subscription(DiagnosticArray, "/diagnostics", listener.on_diagnostics, 10)
        node.create_subscription(CompressedImage, CLOCK_TOPIC, listener.on_clock, 10)

    with domain() as number, listening(number, subscribe):
        node = Process.start(
            "anyseg_ros.ros.node",
            [
                *("--ros-args", *parameters, "-p", f"model:={folder / 'tiny'}"),
                *("-p", f"calibration_file:={ROOT / 'demo/calibration.yaml'}"),
                *("-p", "threads:=1", "-p", "autostart:=true"),
            ],
            number,
            folder / f"{name}_node.log",
        )
        player = None
        try:
            node.wait_for_text("model tiny")
            player = Process.start(
                "anyseg_ros.ros.bag_player",
                [str(bag), "--outages", str(timetable), "--wait", "20"],
                number,
                folder / f"{name}_player.log",
            )
            limit = time.monotonic() + duration_s + 60
            with tqdm(total=round(duration_s), unit="s", desc=name, disable=None) as progress:
                while player.process.poll() is None and time.monotonic() < limit:
                    time.sleep(0.5)
                    if listener.clock:
                        done = clock.get(listener.clock[-1][0], 0.0)
                        progress.update(round(done) - progress.n)
            time.sleep(1.0)
            crashes = int(node.process.poll() is not None)
            status = node.stop()
            crashes += int(not crashes and status != 0)
            crashes += node.text().count("Traceback") + listener.failed_sets
            if player.process.poll() != 0:
                raise SystemExit(f"the player failed:\n{player.text()}")
            print(player.text().splitlines()[-1], flush=True)
        finally:
            for process in (node, player):
                if process is not None and process.process.poll() is None:
                    process.stop()
    # The quickest message ties the listener's clock to bag time.
    offset = min(received - clock[stamp] for stamp, received in listener.clock if stamp in clock)
    outputs = [
        Output(o.received_s - offset, o.stamp_ns, o.sensors, o.reasons) for o in listener.outputs
    ]
    diagnostics = [(t - offset, found) for t, found in listener.diagnostics]
    return Run(sent, outputs, diagnostics, crashes)


# --- the verdict ------------------------------------------------------------------------------


class Messages:
    """Looks up whether what an output used was bad."""

    def __init__(self, sent: dict[Modality, list[Sent]]) -> None:
        self._sent = sent
        self._times = {m: [s.time_s for s in messages] for m, messages in sent.items()}

    def used_bad(self, modality: Modality, output: Output) -> bool:
        """Whether an output used a bad message of a sensor, or one too old."""
        values = output.sensors[modality.label]
        if values.get("used") != "true":
            return False
        stamp = int(values["stamp_ns"])
        if float(values.get("age_s", 0.0)) > MAX_AGE_S + 0.001:
            return True
        # Stamps that jump may hit true ones: only what was sent of late can have been used.
        times = self._times[modality]
        first = bisect_left(times, output.received_s - LATELY_S)
        last = bisect_left(times, output.received_s + 0.1)
        lately = self._sent[modality][first:last]
        if modality is Modality.EVENT:
            # Packets are known by their end: the one that covers the stamp is the first that ends then.
            covering = min(
                (s for s in lately if s.stamp_ns >= stamp - 1000),
                key=lambda s: s.stamp_ns,
                default=None,
            )
            return covering is None or covering.bad
        # A stamp that was told truly first: the lie that repeats it is refused as a duplicate.
        return all(s.bad for s in lately if s.stamp_ns == stamp)


def judge(run: Run, row: Row) -> dict[str, Any]:
    """The measures of one row."""
    messages = Messages(run.sent)
    begin_s, end_s = row.begin_s, row.end_s
    faulty = [m for m, _ in row.faults]
    worst_deadline = max(row.expected(m, kind)[1] for m, kind in row.faults)
    during = [o for o in run.outputs if begin_s <= o.received_s < end_s]
    after = [o for o in run.outputs if end_s <= o.received_s < end_s + PAUSE_S]
    around = [o for o in run.outputs if begin_s - 0.5 <= o.received_s < end_s + 1.0]
    marks = [o.received_s for o in around]
    gap_s = max((b - a for a, b in pairwise(marks)), default=math.inf)
    bad = [
        o.received_s for o in (*during, *after) if any(messages.used_bad(m, o) for m in MODALITIES)
    ]
    detections: list[float] = []
    found: list[str] = []
    expected: list[str] = []
    recoveries: list[float] = []
    as_expected = True
    for modality, kind in row.faults:
        state, deadline_s = row.expected(modality, kind)
        expected.append(state)
        label = modality.label
        states = [(o.received_s, o.sensors[label]["state"], o.reasons[label]) for o in during]
        # While no sensor is believed there are no outputs; then diagnostics speak, once a second.
        states += [
            (t, *entry[label])
            for t, entry in run.diagnostics
            if begin_s <= t < end_s and label in entry
        ]
        states.sort()
        unwell = [(t, s, why) for t, s, why in states if s != LIVE]
        settled = [s for t, s, _ in states if t > begin_s + deadline_s]
        if unwell:
            detections.append(unwell[0][0] - begin_s)
            common = Counter(s for _, s, _ in unwell if s != LIVE).most_common(1)[0][0]
            why = next(w for _, s, w in reversed(unwell) if s == common)
            found.append(f"{common}: {shorten(why)}")
        else:
            found.append(LIVE)
        if state == LIVE:
            as_expected &= not unwell
        else:
            reached = [t - begin_s for t, s, _ in unwell if s == state]
            as_expected &= bool(reached) and reached[0] <= deadline_s and bool(settled)
            if kind != "burst":  # between its bursts such a sensor is live indeed
                as_expected &= all(s != LIVE for s in settled)
        again = [
            o.received_s - end_s
            for o in after
            if o.sensors[label].get("used") == "true"
            and not messages.used_bad(modality, o)
            and is_new(run, modality, int(o.sensors[label]["stamp_ns"]), end_s)
        ]
        recoveries.append(min(again, default=math.inf))
    late_bad = [t for t in bad if t > begin_s + worst_deadline] if worst_deadline else bad
    others = subset_name(m for m in MODALITIES if m not in faulty)
    return {
        "sensor": row.sensor,
        "fault": row.fault,
        "expected": "+".join(dict.fromkeys(expected)),
        "deadline_s": worst_deadline or None,
        "detected_as": "; ".join(found),
        "detection_s": round(max(detections), 2) if detections else None,
        "output_gap_s": round(gap_s, 2) if math.isfinite(gap_s) else None,
        "outputs": len(during),
        "outputs_with_sensor": sum(
            any(o.sensors[m.label].get("used") == "true" for m in faulty) for o in during
        ),
        "bad_uses_from_onset": len(bad),
        "bad_uses": len(late_bad),
        "crashes": run.crashes,
        "recovery_s": round(max(recoveries), 2) if math.isfinite(max(recoveries)) else None,
        "others": others,
        "as_expected": bool(as_expected and not late_bad and not run.crashes)
        and math.isfinite(max(recoveries)),
    }


def is_new(run: Run, modality: Modality, stamp: int, end_s: float) -> bool:
    """Whether a message was sent after the fault."""
    later = [s.stamp_ns for s in run.sent[modality] if s.time_s >= end_s and not s.bad]
    return bool(later) and stamp >= min(later) - (40_000_000 if modality is Modality.EVENT else 0)


def shorten(reason: str) -> str:
    """A reason fit for a table."""
    reason = (
        reason.removeprefix("not used: ").removeprefix("quarantined: ").removeprefix("dropped: ")
    )
    return reason if len(reason) <= 90 else reason[:87] + "..."


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    for line in table(rows):
        print(line)


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The rows as Markdown."""
    head = (
        "sensor",
        "fault",
        "expected",
        "until, s",
        "detected as",
        "after, s",
        "output gap, s",
        "bad uses from onset",
        "after the deadline",
        "recovery, s",
    )
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        values = (
            row["sensor"],
            row["fault"],
            row["expected"],
            row["deadline_s"],
            row["detected_as"].replace("|", "/"),
            row["detection_s"],
            row["output_gap_s"],
            row["bad_uses_from_onset"],
            row["bad_uses"],
            row["recovery_s"],
        )
        mark = "" if row["as_expected"] else " **not as expected**"
        cells = ["-" if v is None else str(v) for v in values]
        cells[4] += mark
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="camera, depth, event, lidar, combinations")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE, help="the table goes between its marks")
    parser.add_argument("--keep", type=Path, help="empty folder for logs (default: none)")
    options = parser.parse_args()
    if options.keep and options.keep.is_dir() and any(options.keep.iterdir()):
        parser.error(f"--keep: {options.keep} is not empty")
    configure_transport()
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory(prefix="anyseg-faults-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        write_tiny_model(folder / "tiny")
        for name, wanted in matrix(options.only).items():
            run = play(wanted, folder, name)
            rows += [judge(run, row) for row in wanted]
    print_rows(rows)
    rows = save(options, rows)
    wrong = [f"{r['sensor']} {r['fault']}" for r in rows if not r["as_expected"]]
    print(f"{len(rows) - len(wrong)} of {len(rows)} rows as expected")
    print("\n".join(f"not as expected: {name}" for name in wrong))
    return 1 if wrong else 0


def save(options: argparse.Namespace, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write the results, keeping rows that were not run; returns all rows."""
    order = [(r.sensor, r.fault) for found in matrix("").values() for r in found]
    kept = {}
    if options.only and options.out.exists():
        kept = {(r["sensor"], r["fault"]): r for r in json.loads(options.out.read_text())["rows"]}
    kept |= {(r["sensor"], r["fault"]): r for r in rows}
    rows = [kept[key] for key in order if key in kept]
    command = "python benchmarks/faults.py"
    notes = (
        f"The shipped drive over DDS, a tiny network, the node's default parameters; each fault "
        f"lasts {FAULT_S:g} s. detection_s: first output or diagnostic that no longer calls the sensor live; "
        "output_gap_s: longest time between two outputs, from half a second before to a second after; "
        "bad_uses_from_onset and bad_uses (after the deadline; where none is set: from the onset): outputs "
        "that used a bad message, or one older than the longest age allowed; crashes: of the node over the "
        "whole run, tracebacks and failed sets included; recovery_s: from the end of the fault to an output "
        "that uses a message sent since."
    )
    write_results(options.out, rows, command, notes, ())
    if options.page.exists():
        text = options.page.read_text()
        begin, end = "<!-- table -->\n", "<!-- end of table -->"
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        if tail:
            options.page.write_text(head + begin + "\n".join(table(rows)) + "\n" + end + tail)
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
