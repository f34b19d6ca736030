"""What the content checks measure on healthy sensors, and what they cost: ``docs/results/health.json``.

    python benchmarks/health.py [--street data/street] [--recording demo/street_drive ...]

Every message of the rendered street (validation and test drives) and of the recordings goes through the
node's own checks. The rows tell, for each limit, how far healthy data stays away from it, and every finding
is counted: healthy sensors in any weather must give none. Frames of a simulated failure are listed apart.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from anyseg_ros.decoding import MessageError
from anyseg_ros.evaluation.bag import Bag, find_bags
from anyseg_ros.evaluation.results import write_results
from anyseg_ros.evaluation.sources import Decoder, find_sources
from anyseg_ros.modalities import CameraFrame, DepthFrame, EventPacket, LidarScan, SensorData
from anyseg_ros.modalities.quality import DEFAULT_LIMITS, QualityChecker
from anyseg_ros.modality import MODALITIES, Modality
from training.data.street import list_frames, read_raw

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs/results/health.json"
Row = dict[str, object]

# What a failure of the simulation does, it does to this sensor.
FAILING = {
    "motion_blur": Modality.CAMERA,
    "over_exposure": Modality.CAMERA,
    "under_exposure": Modality.CAMERA,
    "lidar_jitter": Modality.LIDAR,
    "event_low_resolution": Modality.EVENT,
}


@dataclass
class Seen:
    """What one group of messages showed."""

    messages: int = 0
    findings: list[str] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, checker: QualityChecker, data: SensorData) -> None:
        finding = checker.check(data)
        self.messages += 1
        if finding is not None:
            self.findings.append(str(finding))
        for name, value in checker.measured.items():
            self.values.setdefault(name, []).append(float(value))


def street(root: Path, split: str) -> Iterator[tuple[str, str, Modality, SensorData]]:
    """(stream, condition, modality, data) of every frame of a split."""
    for frame in list_frames(root, split):
        for modality in MODALITIES:
            fails = frame.failure is not None and FAILING[frame.failure] is modality
            condition = str(frame.failure) if fails else "healthy"
            yield frame.drive.name, condition, modality, read_raw(frame, modality)


def recording(path: Path) -> Iterator[tuple[str, str, Modality, SensorData]]:
    """(stream, condition, modality, data) of every message of a recording."""
    with Bag(find_bags(path)[0]) as bag:
        sources = find_sources(bag).sensors
        decoders = {source.topic: (m, Decoder(source.kind)) for m, source in sources.items()}
        for message in bag.messages(decoders):
            modality, decode = decoders[message.topic]
            try:
                yield "", "healthy", modality, decode(message.decode())
            except MessageError as error:
                print(f"{path}, {modality.label}: {error}")


def distribution(
    source: str, messages: Iterator[tuple[str, str, Modality, SensorData]]
) -> list[Row]:
    """Rows of one source: a line for each condition, modality and limit."""
    groups: dict[tuple[str, Modality], Seen] = {}
    checkers: dict[Modality, QualityChecker] = {}
    stream_of: dict[Modality, str] = {}
    for stream, condition, modality, data in messages:
        if stream_of.get(modality) != stream:
            stream_of[modality], checkers[modality] = stream, QualityChecker(modality)
        groups.setdefault((condition, modality), Seen()).add(checkers[modality], data)
    rows: list[Row] = []
    for (condition, modality), seen in sorted(groups.items()):
        for name, values in sorted(seen.values.items()):
            low, first, median, last, high = np.quantile(values, [0, 0.01, 0.5, 0.99, 1])
            rows.append(
                {
                    "source": source,
                    "condition": condition,
                    "sensor": modality.label,
                    "limit_name": name,
                    "limit": getattr(DEFAULT_LIMITS[modality], name),
                    "messages": seen.messages,
                    "measured": len(values),
                    "least": round(float(low), 4),
                    "p01": round(float(first), 4),
                    "median": round(float(median), 4),
                    "p99": round(float(last), 4),
                    "greatest": round(float(high), 4),
                    "findings": len(seen.findings),
                    "first_finding": seen.findings[0] if seen.findings else "",
                }
            )
    return rows


def costs() -> list[Row]:
    """Time of one check of data of usual size that is new each time."""
    random = np.random.default_rng(0)
    smooth = cv2.resize(random.random((12, 16)).astype(np.float32), (640, 480))
    noisy = smooth[..., None] * 200 + random.normal(0, 3, (480, 640, 3))
    pictures = [
        CameraFrame(np.clip(np.roll(noisy, i, 1), 0, 255).astype(np.uint8)) for i in range(8)
    ]
    depths = [
        DepthFrame((np.roll(noisy, i, 1)[..., 0] / 10 + 1).astype(np.float32)) for i in range(8)
    ]
    azimuth = np.linspace(-np.pi, np.pi, 100_000)
    circle = np.stack([np.cos(azimuth), np.sin(azimuth), 0 * azimuth], -1)
    shape, no_intensity = (8, 100_000, 1), np.zeros(100_000, np.float32)
    walls = 10 + 4 * np.sin(3 * azimuth[:, None]) + random.normal(0, 0.02, shape)
    clouds, rough = (
        [LidarScan((circle * ranges).astype(np.float32), no_intensity) for ranges in scans]
        for scans in (walls, random.uniform(1, 50, shape))
    )
    count = 50_000
    packets = [
        EventPacket(
            random.integers(0, 640, count).astype(np.uint16),
            random.integers(0, 480, count).astype(np.uint16),
            np.zeros(count, np.uint8),
            np.linspace(i * 10**7, (i + 1) * 10**7 - 1, count).astype(np.int64),
        )
        for i in range(8)
    ]
    rows: list[Row] = []
    for modality, what, data in (
        (Modality.CAMERA, "640x480 picture", pictures),
        (Modality.DEPTH, "640x480 depth", depths),
        (Modality.EVENT, "50,000 events", packets),
        (Modality.LIDAR, "100,000 points", clouds),
        (Modality.LIDAR, "100,000 points, rough and scattered", rough),
    ):
        checker, took = QualityChecker(modality), []
        for i in range(80):
            began = time.perf_counter()
            checker.check(data[i % 8])  # type: ignore[index]
            took.append(time.perf_counter() - began)
        rows.append(
            {
                "source": "cost",
                "sensor": modality.label,
                "data": what,
                "median_ms": round(1e3 * float(np.median(took)), 3),
                "p95_ms": round(1e3 * float(np.quantile(took, 0.95)), 3),
            }
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--street", type=Path, default=ROOT / "data/street")
    parser.add_argument("--recording", type=Path, action="append", default=[])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    recordings = options.recording or [ROOT / "demo/street_drive"]
    rows: list[Row] = []
    if options.street.is_dir():
        for split in ("val", "test"):
            rows += distribution(f"street {split}", street(options.street, split))
    for path in recordings:
        rows += distribution(path.name, recording(path))
    for row in rows:
        print(
            f"{row['source']!s:20} {row['condition']!s:20} {row['sensor']!s:7}"
            f"{row['limit_name']!s:16} limit {row['limit']:<7} {row['least']:>10} "
            f"{row['median']:>10} {row['greatest']:>12}  {row['findings']} of {row['messages']}"
        )
    found = {
        (row["source"], row["condition"], row["sensor"]): (row["findings"], row["messages"])
        for row in rows
    }
    healthy = [counts for key, counts in found.items() if key[1] == "healthy"]
    print(
        f"findings in healthy data: {sum(int(str(n)) for n, _ in healthy)} "
        f"of {sum(int(str(n)) for _, n in healthy)} messages"
    )
    for row in (timed := costs()):
        print(f"{row['data']}: {row['median_ms']} ms (95 %: {row['p95_ms']} ms)")
    command = "python benchmarks/health.py" + "".join(
        f" --recording {path.name}" for path in options.recording
    )
    notes = (
        "Rows tell how far data stays from each limit of the content checks (docs/health.md), over "
        "the rendered street and recordings of sensors that work; findings counts messages that a "
        "check would withhold. event_camera_evt3 is a real recording (640x480, 2.1 s) of the public "
        "repository ros-event-camera/event_camera_py. cost: one check, one thread."
    )
    write_results(options.out, rows + timed, command, notes, ())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
