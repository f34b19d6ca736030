"""One picture of what every sensor sees in every weather, and of the five failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from anyseg_ros.classes import CITYSCAPES_19
from anyseg_ros.modalities.sensor_data import EventPacket, LidarScan
from anyseg_ros.modality import Modality
from training.simulation.drive import Drive
from training.simulation.failures import FAILURES
from training.simulation.rig import Rig, street_rig
from training.simulation.street import StreetPlan
from training.simulation.weather import WEATHER_NAMES, draw_weather

Picture = npt.NDArray[np.uint8]

TILE = (200, 100)
WINDOW_S = 0.05
DURATION_S = 8.0
MOMENT_S = 3.0
COLOR_STEP = 16


def depth_picture(depth_mm: npt.NDArray[np.uint16]) -> Picture:
    """Depth on a logarithmic colour scale, near is red, invalid black."""
    near = np.log(np.maximum(depth_mm, 1500) / 1500.0) / np.log(70 / 1.5)
    colors = cv2.applyColorMap(
        (255 * (1 - np.clip(near, 0, 1))).astype(np.uint8), cv2.COLORMAP_TURBO
    )
    picture: Picture = colors[..., ::-1].copy()
    picture[depth_mm == 0] = 0
    return picture


def event_picture(events: EventPacket, width: int, height: int) -> Picture:
    """Brighter red, darker blue, on white."""
    picture = np.full((height, width, 3), 255, np.uint8)
    brighter = events.polarity[:, None] > 0
    picture[events.y, events.x] = np.where(brighter, [215, 40, 40], [40, 70, 215])
    return picture


def lidar_picture(scan: LidarScan, rig: Rig, behind: Picture) -> Picture:
    """Points in the camera's picture, coloured by intensity, over a dimmed background."""
    calibration = rig.calibration()
    points = calibration.sensors[Modality.LIDAR].grid_from_sensor.apply(scan.points_m)
    picture = behind // 4
    ahead = points[:, 2] > 0.5
    pixels = np.rint(calibration.grid.project(points[ahead])).astype(int)
    level = (255 * np.clip(scan.intensity[ahead] * 1.6, 0, 1)).astype(np.uint8)
    colors = cv2.applyColorMap(level[:, None], cv2.COLORMAP_TURBO)[:, 0, ::-1]
    height, width = picture.shape[:2]
    inside = ((pixels >= 0) & (pixels < (width - 1, height - 1))).all(1)
    x, y = pixels[inside].T
    for dy in (0, 1):
        for dx in (0, 1):
            picture[y + dy, x + dx] = colors[inside]
    return picture


def _tile(picture: Picture, title: str) -> Picture:
    tile: Picture = np.asarray(cv2.resize(picture, TILE, interpolation=cv2.INTER_AREA), np.uint8)
    for color, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(
            tile, title, (4, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.36, color, thickness, cv2.LINE_AA
        )
    return tile


def _window(t: float) -> npt.NDArray[np.float64]:
    return np.linspace(t - WINDOW_S, t, 5)


def _tiles(drive: Drive, t: float, failure: str | None) -> dict[str, Picture]:
    rig = drive.rig
    eye = rig.cameras[Modality.EVENT]
    picture = drive.camera(t, failure)
    tiles: dict[str, Any] = {
        "camera": picture,
        "depth": depth_picture(drive.depth(t)),
        "events": event_picture(drive.events(_window(t), 0, failure), eye.width, eye.height),
        "lidar": lidar_picture(drive.lidar(t, failure), rig, picture),
        "labels": CITYSCAPES_19.colorize(drive.labels(t)),
    }
    return tiles


def draw_montage(path: Path, seed: int) -> None:
    """Write the montage as PNG: a row a weather, then a row with the five failures."""
    rig = street_rig()
    rows: list[Picture] = []
    failed: list[Picture] = []
    shown = {"lidar_jitter": "lidar", "event_low_resolution": "events"}
    for k, name in enumerate(WEATHER_NAMES):
        rng = np.random.default_rng([seed, k])
        layout = ("s_bend", "straight", "bend", "sweep", "bend")[k]
        speed = ((0.0, 7.0),)
        plan = StreetPlan(DURATION_S, draw_weather(name, rng), layout, k != 2, speed)
        with Drive((seed, 90, k), plan, rig) as drive:
            tiles = _tiles(drive, MOMENT_S, None)
            rows.append(np.hstack([_tile(p, f"{name}: {s}") for s, p in tiles.items()]))
            if name == "cloud":
                for failure in FAILURES:
                    picture = _tiles(drive, MOMENT_S, failure)[shown.get(failure, "camera")]
                    failed.append(_tile(picture, failure))
    sheet = np.vstack([*rows, np.hstack(failed)])
    path.parent.mkdir(parents=True, exist_ok=True)
    # Few levels a channel keep the picture small enough for a repository.
    levels = np.minimum(np.arange(256) // COLOR_STEP * COLOR_STEP + COLOR_STEP // 2, 255)
    sheet = levels.astype(np.uint8)[sheet]
    if not cv2.imwrite(str(path), sheet[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9]):
        raise OSError(f"cannot write {path}")
