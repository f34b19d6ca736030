"""Command line of the synthetic street."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from training.simulation.bag import BagError, write_bag
from training.simulation.dataset import SPLITS, DataSetError, DataSetPlan, render_data_set
from training.simulation.montage import draw_montage
from training.simulation.renderer import RenderingError
from training.simulation.weather import WEATHER_NAMES


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.simulation", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("dataset", help="render a data set")
    data.add_argument("--out", type=Path, required=True, help="folder to create")
    for split, drives in (("train", 280), ("val", 20), ("test", 40)):
        data.add_argument(f"--{split}-drives", type=int, default=drives)
    data.add_argument("--frames-per-drive", type=int, default=10)
    data.add_argument("--workers", type=int, default=2, help="processes, one a core is best")
    data.add_argument("--seed", type=int, default=0)
    bag = commands.add_parser("bag", help="render a rosbag2 recording (MCAP)")
    bag.add_argument("--out", type=Path, required=True, help="folder to create")
    bag.add_argument(
        "--calibration", type=Path, help="calibration to write; default: calibration.yaml beside it"
    )
    bag.add_argument("--seconds", type=float, default=20.0)
    bag.add_argument("--seed", type=int, default=101)
    bag.add_argument("--weather", choices=WEATHER_NAMES, default="clear")
    montage = commands.add_parser("montage", help="draw every weather and failure in one picture")
    montage.add_argument("--out", type=Path, required=True, help="PNG to write")
    montage.add_argument("--seed", type=int, default=3)
    return parser


def _run(options: argparse.Namespace) -> None:
    if options.command == "dataset":
        drives = {s: getattr(options, f"{s}_drives") for s in SPLITS}
        plan = DataSetPlan(options.seed, drives, options.frames_per_drive)
        render_data_set(options.out, plan, options.workers)
    elif options.command == "bag":
        calibration = options.calibration or options.out.parent / "calibration.yaml"
        report = write_bag(options.out, calibration, options.seed, options.seconds, options.weather)
        for topic, number in sorted(report.messages.items()):
            print(f"{topic:30s} {number:5d} messages {report.raw_bytes[topic] / 1e6:8.2f} MB")
        print(
            f"{options.out}: {report.file_bytes / 1e6:.2f} MB on disk (topics: before compression)"
        )
    else:
        draw_montage(options.out, options.seed)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except (BagError, DataSetError, RenderingError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0
