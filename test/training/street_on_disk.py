"""A tiny data set in the street's layout: boxes of a few classes, seen alike by all four sensors."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from anyseg_ros.modalities.calibration import (
    RigCalibration,
    SensorCalibration,
    save_calibration,
)
from anyseg_ros.modalities.geometry import CameraModel, RigidTransform
from anyseg_ros.modality import Modality

HEIGHT, WIDTH = 64, 128
CAMERA = CameraModel.from_fov(WIDTH, HEIGHT, 90.0)
# x forward, y left, z up to x right, y down, z forward
OPTICAL_FROM_LIDAR = RigidTransform(
    np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]]), np.zeros(3)
)
RIG = RigCalibration(
    CAMERA,
    "camera_optical_frame",
    {
        Modality.CAMERA: SensorCalibration("camera_optical_frame", camera=CAMERA),
        Modality.DEPTH: SensorCalibration("depth_optical_frame", camera=CAMERA),
        Modality.EVENT: SensorCalibration("event_optical_frame", camera=CAMERA),
        Modality.LIDAR: SensorCalibration("lidar", OPTICAL_FROM_LIDAR),
    },
)
WEATHERS = ("clear", "fog")
FAILURES = (None, "motion_blur")


def write_street(root: Path, frames: int = 4) -> Path:
    """Write the splits train, val and test with one drive each; returns ``root``."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        drive = root / split / "drive_0000"
        for name in ("camera", "depth", "event", "lidar", "label"):
            (drive / name).mkdir(parents=True)
        save_calibration(RIG, drive / "calibration.yaml")
        (drive / "drive.yaml").write_text("seed: 0\n")
        lines = [_write_frame(drive, index, rng) for index in range(frames)]
        (drive / "frames.jsonl").write_text("".join(line + "\n" for line in lines))
    (root / "dataset.yaml").write_text("command: python -m training.simulation dataset\n")
    return root


def _write_frame(drive: Path, index: int, rng: np.random.Generator) -> str:
    stamp_ns = 1_000_000_000 * (index + 1)
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    label[: HEIGHT // 3] = 10
    for class_id in (2, 8, 13):
        x, y = rng.integers(0, WIDTH - 20), rng.integers(HEIGHT // 4, HEIGHT - 16)
        label[y : y + 16, x : x + 20] = class_id
    depth_m = 3.0 + 2.0 * label
    image = np.stack([label * 13, 255 - label * 12, label * 7], -1)
    cv2.imwrite(str(drive / f"camera/{index:06d}.png"), image)
    cv2.imwrite(str(drive / f"depth/{index:06d}.png"), (depth_m * 1000).astype(np.uint16))
    cv2.imwrite(str(drive / f"label/{index:06d}.png"), label)
    y, x = np.nonzero(cv2.Laplacian(label, cv2.CV_16S))
    np.savez(
        drive / f"event/{index:06d}.npz",
        x=x.astype(np.uint16),
        y=y.astype(np.uint16),
        polarity=(label[y, x] > 5).astype(np.uint8),
        stamp_ns=np.sort(stamp_ns - rng.integers(0, 40_000_000, len(x))).astype(np.int64),
    )
    rays = CAMERA.rays().reshape(-1, 3)
    points = (rays * depth_m.reshape(-1, 1)) @ OPTICAL_FROM_LIDAR.rotation
    np.savez(
        drive / f"lidar/{index:06d}.npz",
        points_m=points.astype(np.float32),
        intensity=(label.ravel() / 19).astype(np.float32),
    )
    return json.dumps(
        {
            "index": index,
            "anchor_stamp_ns": stamp_ns,
            "stamps_ns": {m.label: stamp_ns for m in Modality},
            "weather": WEATHERS[index % 2],
            "failure": FAILURES[index % 2],
        }
    )
