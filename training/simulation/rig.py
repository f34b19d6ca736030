"""The sensors' intrinsics, mounts and rates.

The vehicle's frame ``base_link`` lies on the ground below the rear axle: x forward, y left, z up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import mujoco
import numpy as np
import numpy.typing as npt

from anyseg_ros.modalities.calibration import RigCalibration, SensorCalibration
from anyseg_ros.modalities.geometry import CameraModel, RigidTransform
from anyseg_ros.modality import Modality

BASE_FRAME = "base_link"
FRAME_IDS = {
    Modality.CAMERA: "camera_optical_frame",
    Modality.DEPTH: "depth_optical_frame",
    Modality.EVENT: "event_optical_frame",
    Modality.LIDAR: "lidar_frame",
}
CAMERA_NAMES = {m: m.label for m in (Modality.CAMERA, Modality.DEPTH, Modality.EVENT)}

BASE_FROM_OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
"""Axes of a forward-looking optical frame in the vehicle's frame."""
OPTICAL_FROM_MUJOCO = np.diag([1.0, -1.0, -1.0])
"""MuJoCo cameras look along -z with y up."""

NEAR_M = 0.15
FAR_M = 260.0


def _mount(
    x: float,
    y: float,
    z: float,
    axes: npt.NDArray[np.float64],
    turn_deg: tuple[float, float, float],
) -> RigidTransform:
    """``base_from_sensor`` of a sensor turned a little about its own axes (mounts are never exact)."""
    turn = cv2.Rodrigues(np.deg2rad(np.array(turn_deg, np.float64)))[0]
    return RigidTransform(axes @ turn, np.array([x, y, z]))


@dataclass(frozen=True)
class LidarLayout:
    """Beams of the LiDAR, which reports the sector in front of it only."""

    beams: int = 36
    lowest_deg: float = -24.0
    highest_deg: float = 8.0
    half_sector_deg: float = 52.0
    azimuth_step_deg: float = 0.4

    def directions(self) -> npt.NDArray[np.float64]:
        """Unit vectors float64[beams * columns, 3] in the sensor's frame, beam by beam."""
        elevation = np.deg2rad(np.linspace(self.highest_deg, self.lowest_deg, self.beams))
        columns = round(2 * self.half_sector_deg / self.azimuth_step_deg) + 1
        azimuth = np.deg2rad(np.linspace(self.half_sector_deg, -self.half_sector_deg, columns))
        e, a = np.meshgrid(elevation, azimuth, indexing="ij")
        return np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], -1).reshape(
            -1, 3
        )


@dataclass(frozen=True)
class Rig:
    """Four sensors mounted apart on a vehicle."""

    cameras: dict[Modality, CameraModel]
    base_from_sensor: dict[Modality, RigidTransform]
    lidar: LidarLayout
    disparity_steps: int = 16
    """Steps a pixel in which the depth camera measures disparity."""
    event_limit_hz: float = math.inf
    """Rate above which the event camera drops events at random (event rate control)."""
    event_threshold: float = 0.24
    """Mean contrast threshold of the event camera, in log luminance."""

    def calibration(self) -> RigCalibration:
        """The calibration file of the rig; the RGB camera is the segmentation grid."""
        grid_from_base = self.base_from_sensor[Modality.CAMERA].inverse()
        sensors = {}
        for modality in Modality:
            transform = grid_from_base @ self.base_from_sensor[modality]
            if modality is Modality.CAMERA:
                transform = RigidTransform.identity()
            sensors[modality] = SensorCalibration(
                FRAME_IDS[modality], transform, self.cameras.get(modality)
            )
        return RigCalibration(self.cameras[Modality.CAMERA], FRAME_IDS[Modality.CAMERA], sensors)

    def mount(self, spec: mujoco.MjSpec, body: mujoco.MjsBody) -> None:
        """Put the sensors on a body of a scene, and size its frame buffer for them."""
        view = spec.visual
        view.global_.offwidth = max(c.width for c in self.cameras.values())
        view.global_.offheight = max(c.height for c in self.cameras.values())
        view.map.znear, view.map.zfar = NEAR_M, FAR_M
        for modality, camera in self.cameras.items():
            pose = self.base_from_sensor[modality]
            quat = np.zeros(4)
            mujoco.mju_mat2Quat(quat, (pose.rotation @ OPTICAL_FROM_MUJOCO).ravel())
            body.add_camera(
                name=CAMERA_NAMES[modality],
                pos=pose.translation.tolist(),
                quat=quat.tolist(),
                fovy=math.degrees(2 * math.atan(camera.height / 2 / camera.fy)),
            )


def draw_rig(rng: np.random.Generator) -> Rig:
    """The rig with sensors of varied quality: no two fleets buy the same LiDAR."""
    lidar = LidarLayout(
        beams=int(rng.choice((24, 32, 36))), azimuth_step_deg=float(rng.choice((0.4, 0.6, 0.8)))
    )
    # Of sensors on the market: contrast thresholds of about 0.12 to 0.25 in log luminance, and rates far
    # above what a street makes; the lower limits stand for a driver that thins events to save bandwidth.
    limit = math.inf if rng.random() < 0.4 else float(np.exp(rng.uniform(np.log(1e5), np.log(4e6))))
    return replace(
        street_rig(),
        lidar=lidar,
        disparity_steps=int(rng.choice((4, 8, 16))),
        event_limit_hz=limit,
        event_threshold=float(rng.uniform(0.12, 0.25)),
    )


def street_rig() -> Rig:
    """The rig of the synthetic street with its best sensors."""
    return Rig(
        cameras={
            Modality.CAMERA: CameraModel.from_fov(512, 256, 86.0),
            Modality.DEPTH: CameraModel.from_fov(320, 160, 88.0),
            Modality.EVENT: CameraModel.from_fov(384, 192, 89.0),
        },
        base_from_sensor={
            Modality.CAMERA: _mount(1.55, 0.0, 1.5, BASE_FROM_OPTICAL, (0, 0, 0)),
            Modality.DEPTH: _mount(1.55, -0.12, 1.48, BASE_FROM_OPTICAL, (-0.5, 0.6, 0)),
            Modality.EVENT: _mount(1.55, 0.06, 1.5, BASE_FROM_OPTICAL, (0.2, -0.4, 0.3)),
            Modality.LIDAR: _mount(0.9, 0.0, 1.95, np.eye(3), (0, 0.5, 0)),
        },
        lidar=LidarLayout(),
    )
