"""Renders a street as it is at an instant: colours, exact depth, labels and LiDAR rays."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from importlib import import_module
from types import TracebackType
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt

from anyseg_ros.classes import CITYSCAPES_19
from anyseg_ros.modalities.geometry import CameraModel, RigidTransform
from anyseg_ros.modality import Modality
from training.simulation.people import JOINTS, gait
from training.simulation.rig import CAMERA_NAMES, FAR_M, NEAR_M, OPTICAL_FROM_MUJOCO, Rig
from training.simulation.street import EGO_BODY, SUN, Street

SKY = CITYSCAPES_19.index("sky")
SHADOW_SIZE = 768
SHADOW_HALF_M = 30.0
"""Half the side of the square around the ego vehicle's view in which things cast shadows."""
SMALLEST_PX = 0.4
"""Geoms whose bounding sphere is smaller than this in the RGB camera are left out."""
HIDDEN_GROUP = 5
"""Geom group of what is out of view; drawing and casting rays skip it."""


class RenderingError(RuntimeError):
    """No OpenGL context; the message says which packages to install."""


@dataclass(frozen=True)
class View:
    """From where a picture was taken."""

    camera: CameraModel
    world_from_optical: RigidTransform


@dataclass(frozen=True)
class RayHits:
    """What the rays of a LiDAR met; arrays of one entry a ray."""

    distance_m: npt.NDArray[np.float64]
    """inf where a ray met nothing."""
    cos_incidence: npt.NDArray[np.float64]
    reflectivity: npt.NDArray[np.float64]
    labels: npt.NDArray[np.uint8]


def _open_context(width: int, height: int) -> Any:
    try:
        # MuJoCo settles on a back end when it is first imported, maybe before this package set its own.
        module = "egl" if os.environ.get("MUJOCO_GL") in (None, "", "egl") else "gl_context"
        context = import_module(f"mujoco.{module}").GLContext(width, height)
        context.make_current()
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise RenderingError(
            f"no OpenGL context for rendering ({error}). On Debian or Ubuntu: "
            "apt-get install libegl1 libgl1-mesa-dri libopengl0; then run with MUJOCO_GL=egl"
        ) from error
    return context


class Renderer:
    """Owns an OpenGL context for one street. Use it as a context manager, or :meth:`close` it."""

    def __init__(self, street: Street, rig: Rig) -> None:
        """Open the context.

        Raises:
            RenderingError: if there is no OpenGL on this machine.
        """
        self.street, self.rig = street, rig
        model = self.model = street.model
        shadow = model.vis.quality
        shadow.shadowsize = SHADOW_SIZE
        shadow.offsamples = 0
        model.vis.map.shadowclip = SHADOW_HALF_M
        model.vis.map.shadowscale = 0.6
        self.data = mujoco.MjData(model)
        self._context = _open_context(model.vis.global_.offwidth, model.vis.global_.offheight)
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + 64)
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = 1
        self._option.geomgroup[HIDDEN_GROUP] = 0
        self._groups = np.array([1, 1, 1, 1, 1, 0], np.uint8)
        self._radius = model.geom_rbound.copy()
        self._gpu = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._gpu)
        self._gpu.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        self._cameras = {}
        for modality, name in CAMERA_NAMES.items():
            camera = mujoco.MjvCamera()
            camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
            camera.fixedcamid = model.camera(name).id
            self._cameras[modality] = camera
        self._mocap = {
            name: int(model.body(name).mocapid[0])
            for name in (
                EGO_BODY,
                *(m.body for m in street.movers),
                *(w.mover.body for w in street.walkers),
            )
        }
        self._joints = [
            [int(model.joint(w.person.joint(part)).qposadr[0]) for part in JOINTS]
            for w in street.walkers
        ]
        self._sun = int(model.light(SUN).id)
        self._classes = model.geom_user[:, 0].astype(np.uint8)
        self._reflectivity = model.geom_user[:, 1].copy()
        self._lidar_rays = rig.lidar.directions()
        self._updated_for: Modality | None = None
        self.pose(0.0)

    # -- resources -----------------------------------------------------------------------------
    def close(self) -> None:
        """Free the context. The renderer cannot be used afterwards."""
        self._gpu.free()
        self._context.free()

    def __enter__(self) -> Renderer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- motion --------------------------------------------------------------------------------
    def pose(self, t: float) -> None:
        """Move everything to where it is at time ``t`` (seconds of the drive)."""
        data = self.data
        for mover in self.street.movers:
            self._place(mover.body, mover.pose(t), mover.height_m)
        for walker, addresses in zip(self.street.walkers, self._joints, strict=True):
            mover = walker.mover
            self._place(mover.body, mover.pose(t), mover.height_m)
            angles = gait(mover.distance(t) + mover.start_m, walker.person.scale, mover.moving(t))
            for address, angle in zip(addresses, angles, strict=True):
                data.qpos[address] = angle
        ground, heave, pitch, roll = self.street.ego.pose(t)
        index = self._mocap[EGO_BODY]
        data.mocap_pos[index] = (ground.x, ground.y, heave)
        quat = np.zeros(4)
        mujoco.mju_euler2Quat(quat, np.array([ground.yaw, pitch, roll]), "zyx")
        data.mocap_quat[index] = quat
        mujoco.mj_kinematics(self.model, data)
        mujoco.mj_camlight(self.model, data)
        # The shadow map follows the view in steps: moved continuously, all edges would shimmer.
        ahead = 26.0
        focus = np.array(
            [
                round((ground.x + ahead * math.cos(ground.yaw)) / 4) * 4.0,
                round((ground.y + ahead * math.sin(ground.yaw)) / 4) * 4.0,
                0.0,
            ]
        )
        data.light_xpos[self._sun] = focus - 60.0 * np.array(self.street.sun_direction)
        self._updated_for = None

    def _place(self, body: str, pose: Any, height: float) -> None:
        index = self._mocap[body]
        self.data.mocap_pos[index] = (pose.x, pose.y, height)
        self.data.mocap_quat[index] = (math.cos(pose.yaw / 2), 0, 0, math.sin(pose.yaw / 2))

    def view(self, modality: Modality) -> View:
        """Pose and intrinsics of a camera as posed now."""
        index = self._cameras[modality].fixedcamid
        rotation = self.data.cam_xmat[index].reshape(3, 3) @ OPTICAL_FROM_MUJOCO
        return View(
            self.rig.cameras[modality], RigidTransform(rotation, self.data.cam_xpos[index].copy())
        )

    def lamp_positions(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """World positions and facing directions of the street's lamps, float64[N, 3] each."""
        positions, facings = [], []
        for lamp in self.street.lamps:
            body = self.data.body(lamp.body)
            rotation = body.xmat.reshape(3, 3)
            positions.append(body.xpos + rotation @ np.array(lamp.position_m))
            facings.append(rotation @ np.array(lamp.facing, np.float64))
        if not positions:
            return np.zeros((0, 3)), np.zeros((0, 3))
        return np.array(positions), np.array(facings)

    def _hide(
        self,
        position: npt.NDArray[np.float64],
        forward: npt.NDArray[np.float64],
        slope: float,
        reach_m: float,
        keep_casters: bool,
    ) -> None:
        """Move all geoms out of the drawn groups that a sensor cannot see: half the time is theirs.

        Args:
            position: of the sensor in the world.
            forward: its viewing direction, a unit vector.
            slope: tangent of the half angle of the cone that it sees.
            reach_m: how far it sees.
            keep_casters: keep what is near enough to throw a shadow into view.
        """
        offset = self.data.geom_xpos - position
        radius = self._radius
        along = offset @ forward
        distance = np.linalg.norm(offset, axis=1)
        aside = np.sqrt(np.maximum(distance**2 - along**2, 0.0))
        # Distance from the cone's mantle, outwards.
        outside = (aside - slope * along) / math.sqrt(1 + slope * slope)
        visible = (along > -radius) & (outside < radius)
        if keep_casters:
            visible |= distance < SHADOW_HALF_M
        visible &= distance - radius < reach_m
        focal = self.rig.cameras[Modality.CAMERA].fx
        visible &= 2 * radius * focal > SMALLEST_PX * distance
        self.model.geom_group[:] = np.where(visible, 0, HIDDEN_GROUP)

    # -- pictures ------------------------------------------------------------------------------
    def _render(
        self, modality: Modality, identity: bool, want_depth: bool
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32] | None]:
        camera = self.rig.cameras[modality]
        scene = self._scene
        if self._updated_for is not modality:
            view = self.view(modality)
            rotation = view.world_from_optical.rotation
            self._hide(
                view.world_from_optical.translation,
                rotation[:, 2],
                math.hypot(camera.width, camera.height) / 2 / camera.fx,
                FAR_M,
                self.street.shadows,
            )
            mujoco.mjv_updateScene(
                self.model,
                self.data,
                self._option,
                None,
                self._cameras[modality],
                mujoco.mjtCatBit.mjCAT_ALL,
                scene,
            )
            self._updated_for = modality
        # Another renderer of this process may have been at work in between.
        self._context.make_current()
        scene.flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = identity
        scene.flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = identity
        rect = mujoco.MjrRect(0, 0, camera.width, camera.height)
        rgb = np.empty((camera.height, camera.width, 3), np.uint8)
        buffer = np.empty((camera.height, camera.width), np.float32) if want_depth else None
        mujoco.mjr_render(rect, scene, self._gpu)
        mujoco.mjr_readPixels(rgb, buffer, rect, self._gpu)
        # OpenGL's rows start at the bottom.
        return np.ascontiguousarray(rgb[::-1]), None if buffer is None else buffer[::-1]

    @staticmethod
    def _metres(buffer: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """z-depth in metres from a reversed depth buffer; inf where nothing was drawn."""
        depth = np.full(buffer.shape, np.inf, np.float32)
        drawn = buffer > 0
        depth[drawn] = NEAR_M * FAR_M / (NEAR_M + buffer[drawn] * np.float32(FAR_M - NEAR_M))
        return depth

    def color_and_depth(
        self, modality: Modality
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """What a camera sees: sRGB uint8[H, W, 3] and z-depth float32[H, W] in metres, inf for sky."""
        rgb, buffer = self._render(modality, False, True)
        assert buffer is not None
        return rgb, self._metres(buffer)

    def labels_and_depth(
        self, modality: Modality
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Class ids uint8[H, W] and z-depth float32[H, W] in metres, inf for sky."""
        identity, buffer = self._render(modality, True, True)
        assert buffer is not None
        # The colour of a pixel is the index in the *scene's* list of geoms, plus one.
        index = identity.astype(np.int32)
        index = index[..., 0] | (index[..., 1] << 8) | (index[..., 2] << 16)
        table = np.full(self._scene.maxgeom + 2, SKY, np.uint8)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.segid >= 0 and geom.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                table[geom.segid + 1] = self._classes[geom.objid]
        return table[index], self._metres(buffer)

    # -- rays ----------------------------------------------------------------------------------
    def cast(
        self,
        origin: npt.NDArray[np.float64],
        directions: npt.NDArray[np.float64],
        cutoff_m: float,
    ) -> RayHits:
        """Cast world rays (unit ``directions`` float64[N, 3]) from a point; hidden geoms are missed."""
        count = len(directions)
        geoms = np.empty(count, np.int32)
        distance = np.empty(count)
        normals = np.zeros((count, 3))
        mujoco.mj_multiRay(
            self.model,
            self.data,
            origin,
            np.ascontiguousarray(directions).ravel(),
            self._groups,
            True,
            -1,
            geoms,
            distance,
            normals.reshape(-1),
            count,
            cutoff_m,
        )
        hit = (geoms >= 0) & (distance < cutoff_m)
        known = np.maximum(geoms, 0)
        return RayHits(
            np.where(hit, distance, np.inf),
            np.abs((directions * normals).sum(1)),
            self._reflectivity[known],
            np.where(hit, self._classes[known], SKY).astype(np.uint8),
        )

    def lidar_hits(self, cutoff_m: float) -> tuple[npt.NDArray[np.float64], RayHits]:
        """Cast the LiDAR's rays; returns their directions in the sensor's frame and what they met."""
        body = self.data.body(EGO_BODY)
        mount = self.rig.base_from_sensor[Modality.LIDAR]
        rotation = body.xmat.reshape(3, 3)
        origin = body.xpos + rotation @ mount.translation
        world = self._lidar_rays @ (rotation @ mount.rotation).T
        slope = math.tan(math.radians(self.rig.lidar.half_sector_deg + 2))
        self._hide(origin, (rotation @ mount.rotation)[:, 0], slope, cutoff_m, False)
        self._updated_for = None
        return self._lidar_rays, self.cast(origin, world, cutoff_m)
