"""Renders the street data set to disk, drive by drive, in parallel.

Layout, one folder a drive::

    <root>/dataset.yaml
    <root>/{train,val,test}/<drive>/calibration.yaml  drive.yaml  frames.jsonl
        camera/000000.jpg   RGB
        depth/000000.png    uint16 millimetres, 0 invalid
        event/000000.npz    x, y uint16, polarity uint8, stamp_ns int64; from 105 ms before the anchor
        lidar/000000.npz    points_m float32[N, 3], intensity float32[N]
        label/000000.png    uint8 train ids of the camera's picture at the anchor's stamp

The anchor's stamp is the camera's; each other sensor has a stamp, and a view, of its own.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import yaml
from tqdm import tqdm

from anyseg_ros.classes import CITYSCAPES_19
from anyseg_ros.modalities.calibration import save_calibration
from anyseg_ros.modality import MODALITIES, Modality
from training.simulation.drive import Drive
from training.simulation.failures import FAILURES
from training.simulation.rig import draw_rig
from training.simulation.street import StreetPlan
from training.simulation.weather import WEATHER_NAMES, draw_weather

FORMAT_VERSION = 1
"""Of the layout."""
RENDERING = 3
"""Counts up when the same command makes other data."""
SPLITS = ("train", "val", "test")
EPOCH_NS = 1_700_000_000_000_000_000
DRIVE_GAP_NS = 1_000_000_000_000
FIRST_FRAME_S = 0.5
FRAME_STEP_S = 0.75
FAILURE_SHARE = 0.35
EVENTS_BEFORE_S = 0.105
EVENT_SUBFRAMES = 6
JPEG_QUALITY = 93
OFFSETS_S = {
    Modality.DEPTH: (-0.020, 0.020),
    Modality.EVENT: (0.002, 0.012),
    Modality.LIDAR: (-0.050, 0.020),
}
"""Range of each sensor's stamp relative to the anchor's (for events: of the end of the packet)."""


@dataclass(frozen=True)
class DataSetPlan:
    """What to render."""

    seed: int
    drives: dict[str, int]
    """Number of drives of each split."""
    frames_per_drive: int


@dataclass(frozen=True)
class _Job:
    root: Path
    split: str
    index: int
    seed: int
    frames: int


class DataSetError(RuntimeError):
    """The data set cannot be written; the message says where and why."""


def save_arrays(path: Path, compress: bool, **arrays: npt.NDArray[Any]) -> None:
    """Write an .npz that ``numpy.load`` reads; the same arrays give the same bytes.

    Faster than ``numpy.savez_compressed``: sensor noise does not compress any better at a higher level.
    """
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as archive:
        for name, array in arrays.items():
            # A ZipInfo of its own has a fixed date.
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.compress_type = method
            with archive.open(entry, "w") as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array))


def _write_image(path: Path, image: npt.NDArray[Any], *options: int) -> None:
    if not cv2.imwrite(str(path), image, options):
        raise DataSetError(f"cannot write {path}")


def drive_key(seed: int, split: str, index: int) -> tuple[int, int, int]:
    """Random key of a drive; no two drives of any split share one."""
    return seed, SPLITS.index(split), index


def drive_plan(key: tuple[int, ...], index: int, frames: int) -> StreetPlan:
    """Plan of a data-set drive: its weather takes turns, the seed varies its strength."""
    rng = np.random.default_rng([*key, 99])
    weather = draw_weather(WEATHER_NAMES[index % len(WEATHER_NAMES)], rng)
    return StreetPlan(FIRST_FRAME_S + frames * FRAME_STEP_S, weather)


def _render_frame(
    drive: Drive, folder: Path, frame: int, epoch_ns: int, rng: np.random.Generator
) -> dict[str, Any]:
    failure = None
    if rng.random() < FAILURE_SHARE:
        failure = FAILURES[int(rng.integers(len(FAILURES)))]
    # Whole tenths of milliseconds name an instant exactly.
    anchor_s = round(FIRST_FRAME_S + frame * FRAME_STEP_S + float(rng.uniform(-0.02, 0.02)), 4)
    times = {Modality.CAMERA: anchor_s}
    for modality, (low, high) in OFFSETS_S.items():
        times[modality] = round(anchor_s + float(rng.uniform(low, high)), 4)
    stamps = {m: epoch_ns + round(t * 1e9) for m, t in times.items()}
    name = f"{frame:06d}"
    picture = drive.camera(anchor_s, failure)
    _write_image(
        folder / "camera" / f"{name}.jpg",
        picture[..., ::-1],
        cv2.IMWRITE_JPEG_QUALITY,
        JPEG_QUALITY,
    )
    _write_image(folder / "label" / f"{name}.png", drive.labels(anchor_s))
    _write_image(
        folder / "depth" / f"{name}.png",
        drive.depth(times[Modality.DEPTH]),
        cv2.IMWRITE_PNG_COMPRESSION,
        2,
    )
    moments = np.linspace(anchor_s - EVENTS_BEFORE_S, times[Modality.EVENT], EVENT_SUBFRAMES)
    events = drive.events(moments, epoch_ns, failure)
    save_arrays(
        folder / "event" / f"{name}.npz",
        compress=True,
        x=events.x,
        y=events.y,
        polarity=events.polarity,
        stamp_ns=events.stamp_ns,
    )
    scan = drive.lidar(times[Modality.LIDAR], failure)
    save_arrays(
        folder / "lidar" / f"{name}.npz",
        compress=False,
        points_m=scan.points_m,
        intensity=scan.intensity,
    )
    return {
        "index": frame,
        "anchor_stamp_ns": stamps[Modality.CAMERA],
        "stamps_ns": {m.label: stamps[m] for m in MODALITIES},
        "weather": drive.weather.name,
        "failure": failure,
    }


def _render_drive(job: _Job) -> int:
    """Render one drive; returns the number of frames."""
    cv2.setNumThreads(1)
    key = drive_key(job.seed, job.split, job.index)
    plan = drive_plan(key, job.index, job.frames)
    folder = job.root / job.split / f"{job.index:05d}"
    for name in (*(m.label for m in MODALITIES), "label"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    epoch_ns = EPOCH_NS + (SPLITS.index(job.split) * 100_000 + job.index) * DRIVE_GAP_NS
    rig = draw_rig(np.random.default_rng([*key, 97]))
    save_calibration(rig.calibration(), folder / "calibration.yaml")
    with Drive(key, plan, rig) as drive:
        records = [
            _render_frame(drive, folder, frame, epoch_ns, np.random.default_rng([*key, 98, frame]))
            for frame in range(job.frames)
        ]
        about = {
            "seed": list(key),
            "weather": plan.weather.name,
            "weather_constants": {
                k: list(v) if isinstance(v, tuple) else v for k, v in asdict(plan.weather).items()
            },
            "lidar": asdict(rig.lidar),
            "disparity_steps": rig.disparity_steps,
            "event_limit_hz": None if math.isinf(rig.event_limit_hz) else rig.event_limit_hz,
            "event_threshold": round(rig.event_threshold, 4),
            "failures": sorted({r["failure"] for r in records if r["failure"]}),
            "layout": drive.street.layout,
            "turn_rad": round(drive.street.turn_rad, 4),
            "crossing_m": drive.street.crossing_m,
            "travel_m": round(drive.street.ego.mover.profile.distance(plan.duration_s), 3),
        }
    (folder / "drive.yaml").write_text(yaml.safe_dump(about, sort_keys=False))
    (folder / "frames.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return job.frames


def render_data_set(root: Path, plan: DataSetPlan, workers: int) -> None:
    """Render a data set with a progress bar.

    Args:
        root: folder to create; it must be new or empty.
        plan: what to render. The same plan gives the same bytes, whatever ``workers`` is.
        workers: processes; one a core is best.

    Raises:
        DataSetError: if ``root`` already holds something, or a picture cannot be written.
        RenderingError: if there is no OpenGL.
    """
    if root.exists() and any(root.iterdir()):
        raise DataSetError(f"{root} is not empty; choose a new folder or remove it first")
    root.mkdir(parents=True, exist_ok=True)
    counts = " ".join(f"--{s}-drives {plan.drives[s]}" for s in SPLITS)
    about = {
        "format_version": FORMAT_VERSION,
        "rendering": RENDERING,
        "command": f"python -m training.simulation dataset --out OUT {counts} "
        f"--frames-per-drive {plan.frames_per_drive} --seed {plan.seed}",
        "seed": plan.seed,
        "drives": {s: plan.drives[s] for s in SPLITS},
        "frames_per_drive": plan.frames_per_drive,
        "classes": list(CITYSCAPES_19.names),
        "weathers": list(WEATHER_NAMES),
        "failures": list(FAILURES),
        "frame_step_s": FRAME_STEP_S,
        "events_before_anchor_s": EVENTS_BEFORE_S,
        "event_subframes": EVENT_SUBFRAMES,
        "stamp_offsets_s": {m.label: list(o) for m, o in OFFSETS_S.items()},
    }
    (root / "dataset.yaml").write_text(yaml.safe_dump(about, sort_keys=False))
    jobs = [
        _Job(root, split, index, plan.seed, plan.frames_per_drive)
        for split in SPLITS
        for index in range(plan.drives[split])
    ]
    with tqdm(total=len(jobs) * plan.frames_per_drive, unit="frame", smoothing=0.05) as progress:
        if workers <= 1:
            for job in jobs:
                progress.update(_render_drive(job))
            return
        # The software rasteriser would start a thread a core in every worker.
        os.environ.setdefault("LP_NUM_THREADS", "1")
        # A forked child would share its parent's OpenGL state.
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            for frames in pool.imap_unordered(_render_drive, jobs):
                progress.update(frames)
