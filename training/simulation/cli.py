"""Command line of the synthetic street."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from training.simulation.dataset import SPLITS, DataSetError, DataSetPlan, render_data_set
from training.simulation.renderer import RenderingUnavailable


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
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        drives = {s: getattr(options, f"{s}_drives") for s in SPLITS}
        plan = DataSetPlan(options.seed, drives, options.frames_per_drive)
        render_data_set(options.out, plan, options.workers)
    except (DataSetError, RenderingUnavailable) as error:
        print(error, file=sys.stderr)
        return 1
    return 0
