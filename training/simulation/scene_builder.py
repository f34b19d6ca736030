"""Builds a MuJoCo model geom by geom: each geom has a class and a LiDAR reflectivity.

The class id stands in the geom's first user field, the reflectivity (0..1 at 905 nm) in the second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mujoco
import numpy as np
import numpy.typing as npt

from anyseg_ros.classes import CITYSCAPES_19
from training.simulation import shapes
from training.simulation.shapes import Mesh, Vector


@dataclass(frozen=True)
class Paint:
    """A material of the model and how much of a LiDAR pulse it scatters back."""

    name: str
    reflectivity: float
    repeats_per_m: float = 1.0
    """Repeats of its texture on a primitive shape."""


@dataclass(frozen=True)
class Lamp:
    """A light source that glows at night."""

    body: str
    """Body that carries it; ``"world"`` for a fixed one."""
    position_m: tuple[float, float, float]
    """In the frame of the body."""
    facing: tuple[float, float, float]
    """Direction of the beam in the frame of the body; zero shines everywhere."""
    color: tuple[float, float, float]
    """Linear RGB radiance of the bulb."""
    radius_m: float
    lights_ground: bool = False
    """Whether it lights its surroundings (street lamps)."""


def yaw_quaternion(yaw_rad: float) -> list[float]:
    """Rotation about z as (w, x, y, z), the order MuJoCo uses."""
    return [math.cos(yaw_rad / 2), 0.0, 0.0, math.sin(yaw_rad / 2)]


class SceneBuilder:
    """Collects bodies, geoms, materials and lamps of one street; :meth:`compile` gives the model."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.lamps: list[Lamp] = []
        self.spec = mujoco.MjSpec()
        self.spec.nuser_geom = 2
        # A fixed extent keeps near and far planes in metres whatever the scene holds.
        self.spec.stat.extent = 1.0
        self.spec.stat.center = [0, 0, 0]
        self.spec.compiler.boundmass = 1e-3
        self.spec.compiler.boundinertia = 1e-6
        self.world = self.spec.worldbody
        self._count = 0
        self._bodies: dict[str, mujoco.MjsBody] = {}
        self._parts: dict[tuple[str, str, Paint], list[Mesh]] = {}

    def _name(self, stem: str) -> str:
        self._count += 1
        return f"{stem}{self._count}"

    # -- materials -----------------------------------------------------------------------------
    def texture(self, name: str, image: npt.NDArray[np.uint8], skybox: bool = False) -> str:
        """Add a texture from uint8[H, W, 3]; returns its name."""
        kind = mujoco.mjtTexture.mjTEXTURE_SKYBOX if skybox else mujoco.mjtTexture.mjTEXTURE_2D
        texture = self.spec.add_texture(
            name=name, type=kind, width=image.shape[1], height=image.shape[0], nchannel=3
        )
        texture.data = np.ascontiguousarray(image).tobytes()
        return name

    def textured(
        self,
        texture: str,
        reflectivity: float,
        repeats_per_m: float = 1.0,
        tint: tuple[float, float, float] = (1, 1, 1),
        emission: float = 0.0,
    ) -> Paint:
        """A material showing a texture."""
        name = self._name("textured")
        material = self.spec.add_material(
            name=name,
            rgba=[*tint, 1],
            specular=0.05,
            shininess=0.1,
            emission=emission,
        )
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = texture
        return Paint(name, reflectivity, repeats_per_m)

    def paint(
        self,
        rgb: Vector,
        reflectivity: float = 0.35,
        specular: float = 0.05,
        shininess: float = 0.1,
        emission: float = 0.0,
    ) -> Paint:
        """A plain colour, RGB 0..1."""
        name = self._name("paint")
        self.spec.add_material(
            name=name,
            rgba=[*np.clip(np.asarray(rgb, np.float64), 0, 1).tolist(), 1],
            specular=specular,
            shininess=shininess,
            emission=emission,
        )
        return Paint(name, reflectivity)

    # -- bodies --------------------------------------------------------------------------------
    def moving_body(self, name: str) -> mujoco.MjsBody:
        """A body that is posed from outside (a mocap body)."""
        return self.world.add_body(name=name, mocap=True)

    def fixed_body(self, x: float, y: float, z: float, yaw: float) -> mujoco.MjsBody:
        """A static body at a pose, so that what hangs on it can be described in its own frame."""
        return self.world.add_body(
            name=self._name("fixed"), pos=[x, y, z], quat=yaw_quaternion(yaw)
        )

    # -- geoms ---------------------------------------------------------------------------------
    def mesh(self, body: mujoco.MjsBody, label: str, mesh: Mesh, paint: Paint) -> None:
        """A mesh in the frame of a body, with its own texture coordinates."""
        self._bodies[body.name] = body
        self._parts.setdefault((body.name, label, paint), []).append(mesh)

    def _shape(self, body: mujoco.MjsBody, label: str, shape: Mesh, paint: Paint) -> None:
        texture = shape.texture * paint.repeats_per_m
        self.mesh(body, label, Mesh(shape.vertices, shape.faces, texture), paint)

    def box(
        self,
        body: mujoco.MjsBody,
        label: str,
        centre: Vector,
        half: Vector,
        paint: Paint,
        quat: Vector = (1, 0, 0, 0),
    ) -> None:
        """A box by its centre and half sizes in metres, turned by a quaternion (w, x, y, z)."""
        turned = shapes.box(half).moved(centre, shapes.quaternion_matrix(quat))
        self._shape(body, label, turned, paint)

    def capsule(
        self, body: mujoco.MjsBody, label: str, a: Vector, b: Vector, radius: float, paint: Paint
    ) -> None:
        """A capsule between two points."""
        self._shape(body, label, shapes.capsule(a, b, radius), paint)

    def cylinder(
        self, body: mujoco.MjsBody, label: str, a: Vector, b: Vector, radius: float, paint: Paint
    ) -> None:
        """A cylinder between two points."""
        self._shape(body, label, shapes.cylinder(a, b, radius), paint)

    def ellipsoid(
        self, body: mujoco.MjsBody, label: str, centre: Vector, radii: Vector, paint: Paint
    ) -> None:
        """An ellipsoid by its centre and radii."""
        self._shape(body, label, shapes.ellipsoid(centre, radii), paint)

    def rectangle(
        self, body: mujoco.MjsBody, label: str, centre: Vector, half: Vector, paint: Paint
    ) -> None:
        """A horizontal rectangle."""
        self._shape(body, label, shapes.rectangle(centre, half), paint)

    def _emit(self, body: mujoco.MjsBody, label: str, paint: Paint, mesh: Mesh) -> None:
        name = self._name("mesh")
        asset = self.spec.add_mesh(name=name)
        asset.uservert = mesh.vertices.ravel().tolist()
        asset.userface = mesh.faces.ravel().tolist()
        asset.usertexcoord = mesh.texture.ravel().tolist()
        asset.userfacetexcoord = mesh.faces.ravel().tolist()
        # Road strips enclose no volume; a shell has mass all the same.
        asset.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL
        body.add_geom(
            name=name,
            type=mujoco.mjtGeom.mjGEOM_MESH,
            meshname=name,
            material=paint.name,
            contype=0,
            conaffinity=0,
            mass=0,
            userdata=[CITYSCAPES_19.index(label), paint.reflectivity],
        )

    def compile(self) -> mujoco.MjModel:
        """The finished model.

        What has the same body, class and material becomes one geom: the time to draw or to cast a ray
        goes with the number of geoms.
        """
        for (body, label, paint), parts in self._parts.items():
            self._emit(self._bodies[body], label, paint, shapes.join_meshes(parts))
        return self.spec.compile()
