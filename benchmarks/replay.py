"""How near the bag evaluation comes to the engine's own bare rate: ``docs/results/replay.json``.

    python benchmarks/replay.py [--bag demo/street_drive] [--model anyseg_street_b0]

A recording is replayed (read, decompressed, decoded, synchronized, built into modality images, encoded,
fused) while every picture and every set of features that the engine is given is noted. Then the engine
alone does the same calls again. Both are timed in turn over short parts of the recording, in alternating
order, so that whatever else the machine does weighs on both. ``engine_share`` is the engine's time by
itself over the replay's time for the same sets: the replay's frame rate over the engine's bare one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anyseg_ros.engine import Engine, EngineOutput, Features, ModelCard, load_engine
from anyseg_ros.evaluation.bag import Bag, find_bags
from anyseg_ros.evaluation.labels import LabelIndex, TopicLabels
from anyseg_ros.evaluation.replay import BagArrivals, ReplaySettings, SetResult, Walk, replay
from anyseg_ros.evaluation.results import write_results
from anyseg_ros.evaluation.scoring import Scorer
from anyseg_ros.evaluation.sources import Rig, Sources, find_rig, find_sources
from anyseg_ros.resources import find_model, find_resource

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs/results/replay.json"


@dataclass
class Calls:
    """What the engine was asked over some sets."""

    encodes: list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]] = field(default_factory=list)
    fuses: list[int] = field(default_factory=list)
    """Members of each set that was fused."""


READ_AHEAD_FULL_S = 0.5
"""Longer than it takes to decode what the evaluation reads ahead."""


class NotingEngine:
    """Passes every call on and notes it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.calls = Calls()

    @property
    def card(self) -> ModelCard:
        return self._engine.card

    @property
    def description(self) -> str:
        return self._engine.description

    def encode(
        self, images: npt.NDArray[np.uint8], modality_ids: npt.NDArray[np.int64]
    ) -> list[Features]:
        self.calls.encodes.append((images, modality_ids))
        return self._engine.encode(images, modality_ids)

    def fuse(self, features: Sequence[Features]) -> EngineOutput:
        self.calls.fuses.append(len(features))
        return self._engine.fuse(features)

    def segment(
        self, images: npt.NDArray[np.uint8], modality_ids: npt.NDArray[np.int64]
    ) -> EngineOutput:
        return self.fuse(self.encode(images, modality_ids))

    def close(self) -> None:
        self._engine.close()


@dataclass(frozen=True)
class Spent:
    """Seconds of a clock on the wall, and of this process's CPU."""

    wall_s: float = 0.0
    cpu_s: float = 0.0

    @classmethod
    def now(cls) -> Spent:
        return cls(time.perf_counter(), time.process_time())

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.wall_s + other.wall_s, self.cpu_s + other.cpu_s)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.wall_s - other.wall_s, self.cpu_s - other.cpu_s)


def bare(engine: Engine, calls: Calls) -> Spent:
    """What the engine alone takes for the same calls."""
    kept: list[Features] = []
    began = Spent.now()
    encodes = iter(calls.encodes)
    for members in calls.fuses:
        found = next(encodes, None)
        if found is not None:
            kept = (engine.encode(*found) + kept)[: max(members, 4)]
        engine.fuse(kept[:members])
    return Spent.now() - began


def replayed(
    bag: Bag,
    sources: Sources,
    rig: Rig,
    noting: NotingEngine,
    labels: LabelIndex | None,
    sets: int,
) -> Iterator[tuple[Spent, int, Calls]]:
    """Replay in parts; gives what each part took, its sets and what the engine was asked."""
    settings = ReplaySettings()
    walk = Walk(noting, sources, rig, settings, bag.start_ns)
    scorer = Scorer(noting.card.classes, walk.sensors, (), bag.duration_s)
    letterbox = walk.pipeline.grid.letterbox
    arrivals = BagArrivals(bag, sources, rig, settings)
    results: Iterator[tuple[str, SetResult]] = replay(arrivals, {"": walk})
    ended = False
    while not ended:
        noting.calls = Calls()
        done = 0
        began = Spent.now()
        while done < sets:
            found = next(results, None)
            if found is None:
                ended = True
                break
            done += found[1].segmentation is not None
            if labels is not None and found[1].segmentation is not None:
                labels.advance(arrivals.log_time_ns)
                truth = labels.at(found[1].segmentation.stamp_ns, letterbox)
                scorer.add(found[1], {}, truth)
        yield Spent.now() - began, done, noting.calls


def measure(
    bag_path: Path, model: str, threads: int, scored: bool, rounds: int, parts: int, part_sets: int
) -> dict[str, object]:
    """One row: a recording and a model, with or without scoring against labels."""
    engine = load_engine(find_model(model), threads=threads)
    noting = NotingEngine(engine)
    replay_took, bare_took = Spent(), Spent()
    sets = 0
    shares = []
    for number in range(rounds):
        with Bag(find_bags(bag_path)[0]) as bag:
            sources = find_sources(bag)
            rig = find_rig(bag, sources)
            labels = None
            if scored and sources.labels:
                labels = TopicLabels(bag, sources.labels)
            for index, (took, done, calls) in enumerate(
                replayed(bag, sources, rig, noting, labels, part_sets)
            ):
                if index > parts:
                    break
                if done < part_sets or (index == 0 and number == 0):
                    continue  # the first part warms up, the last is short
                # Each part begins with as many messages decoded as the one before it left behind.
                time.sleep(READ_AHEAD_FULL_S)
                alone = bare(engine, calls)
                replay_took += took
                bare_took += alone
                sets += done
                shares.append(alone.wall_s / took.wall_s)
    card = engine.card
    row: dict[str, object] = {
        "recording": bag_path.name,
        "model": card.name,
        "engine": engine.description,
        "scored": scored,
        "sets": sets,
        "offline_fps": round(sets / replay_took.wall_s, 2),
        "bare_engine_fps": round(sets / bare_took.wall_s, 2),
        "engine_share": round(bare_took.wall_s / replay_took.wall_s, 4),
        "engine_share_cpu": round(bare_took.cpu_s / replay_took.cpu_s, 4),
        "engine_share_median_part": round(float(np.median(shares)), 4),
    }
    engine.close()
    return row


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--bag", type=Path)
    parser.add_argument("--model", default="")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", type=int, default=1000, help="parts of a round at most")
    parser.add_argument("--part-sets", type=int, default=20, help="sets a part")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    bag = options.bag or find_resource("demo/street_drive")
    rows = [
        measure(
            bag,
            options.model,
            options.threads,
            scored,
            options.rounds,
            options.parts,
            options.part_sets,
        )
        for scored in (False, True)
    ]
    for row in rows:
        print(
            f"{row['recording']}, {row['model']}{', scored' if row['scored'] else ''}: "
            f"{row['offline_fps']} sets/s offline, {row['bare_engine_fps']} bare, "
            f"engine_share {row['engine_share']} (of CPU time {row['engine_share_cpu']}, median part "
            f"{row['engine_share_median_part']})"
        )
    command = "python benchmarks/replay.py"
    for name in ("model", "threads", "rounds", "parts", "part_sets"):
        if getattr(options, name) != parser.get_default(name):
            value = getattr(options, name)
            command += (
                f" --{name.replace('_', '-')} {Path(value).name if name == 'model' else value}"
            )
    notes = (
        "engine_share: the engine's own time for the same calls over the replay's time (read, "
        "decompress, decode, synchronize, build, encode, fuse; scored: also labels and metrics), timed "
        f"in turn over parts of {options.part_sets} sets. The limit is 0.85. "
        "engine_share_cpu: the same of CPU seconds, which others on the machine do not change."
    )
    write_results(options.out, rows, command, notes, ())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
