"""Pedestrians with a walking gait, and riders. They face +x with their feet on z = 0."""

from __future__ import annotations

import math
from dataclasses import dataclass

import mujoco
import numpy as np
import numpy.typing as npt

from training.simulation.palette import Palette
from training.simulation.scene_builder import SceneBuilder

STRIDE_M = 1.45
"""Distance of a full gait cycle (two steps) of an adult."""
JOINTS = ("hip_l", "hip_r", "knee_l", "knee_r", "shoulder_l", "shoulder_r")


@dataclass(frozen=True)
class Pedestrian:
    """A walker: the names of the joints that its gait drives."""

    body: mujoco.MjsBody
    name: str
    scale: float

    def joint(self, part: str) -> str:
        """Name in the model of one of :data:`JOINTS`."""
        return f"{self.name}_{part}"


def gait(distance_m: float, scale: float, walking: bool) -> npt.NDArray[np.float64]:
    """Joint angles after walking ``distance_m``, in the order of :data:`JOINTS`, radians.

    Hips and shoulders swing as sines in opposite phase; a knee bends while its leg swings forward.
    """
    if not walking:
        return np.array([0.04, -0.04, 0.03, 0.03, 0.05, -0.05])
    phase = 2 * math.pi * distance_m / (STRIDE_M * scale)
    left, right = math.sin(phase), math.sin(phase + math.pi)
    # Positive rotation about +y moves a hanging leg backwards.
    hips = (-0.45 * left, -0.45 * right)
    knees = (
        0.12 + 0.75 * max(0.0, math.cos(phase)) ** 2,
        0.12 + 0.75 * max(0.0, -math.cos(phase)) ** 2,
    )
    return np.array([*hips, *knees, 0.5 * left, 0.5 * right])


def pedestrian(builder: SceneBuilder, palette: Palette, name: str) -> Pedestrian:
    """An adult or a child, some with a bag, an umbrella's canopy or a skirt."""
    rng = builder.rng
    scale = float(rng.uniform(0.92, 1.1)) if rng.random() < 0.85 else float(rng.uniform(0.6, 0.75))
    girth = float(rng.uniform(0.9, 1.25))
    body = builder.moving_body(name)
    top, leg = palette.cloth(builder), palette.cloth(builder, dark=True)
    skin, hair = palette.skin(builder), builder.paint(rng.uniform(0.03, 0.45) * np.ones(3), 0.3)
    shoe = palette.black
    label = "person"
    hip = 0.9 * scale

    def limb(parent: mujoco.MjsBody, part: str, at: tuple[float, float, float]) -> mujoco.MjsBody:
        child = parent.add_body(name=f"{name}_{part}_body", pos=list(at))
        child.add_joint(name=f"{name}_{part}", type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 1, 0])
        return child

    for side, letter in ((1, "l"), (-1, "r")):
        thigh = limb(body, f"hip_{letter}", (0, side * 0.1 * scale, hip))
        builder.capsule(thigh, label, (0, 0, 0), (0, 0, -0.42 * scale), 0.085 * scale * girth, leg)
        shin = limb(thigh, f"knee_{letter}", (0, 0, -0.42 * scale))
        builder.capsule(shin, label, (0, 0, 0), (0, 0, -0.4 * scale), 0.06 * scale * girth, leg)
        builder.ellipsoid(
            shin,
            label,
            (0.06 * scale, 0, -0.43 * scale),
            (0.14 * scale, 0.05 * scale, 0.045 * scale),
            shoe,
        )
        arm = limb(body, f"shoulder_{letter}", (0, side * 0.23 * scale * girth, hip + 0.5 * scale))
        builder.capsule(arm, label, (0, 0, 0), (0, side * 0.04, -0.28 * scale), 0.055 * scale, top)
        builder.capsule(
            arm,
            label,
            (0, side * 0.04, -0.3 * scale),
            (0.12 * scale, side * 0.03, -0.52 * scale),
            0.045 * scale,
            skin if rng.random() < 0.4 else top,
        )
    builder.ellipsoid(
        body,
        label,
        (0, 0, hip + 0.29 * scale),
        (0.15 * scale * girth, 0.215 * scale * girth, 0.36 * scale),
        top,
    )
    builder.ellipsoid(
        body,
        label,
        (0, 0, hip + 0.02),
        (0.14 * scale * girth, 0.18 * scale * girth, 0.15 * scale),
        leg,
    )
    if rng.random() < 0.2:
        builder.cylinder(
            body, label, (0, 0, hip - 0.42 * scale), (0, 0, hip + 0.1), 0.24 * scale, top
        )
    builder.capsule(
        body, label, (0, 0, hip + 0.58 * scale), (0.01, 0, hip + 0.7 * scale), 0.055 * scale, skin
    )
    head = hip + 0.79 * scale
    builder.ellipsoid(body, label, (0.015, 0, head), (0.1, 0.085, 0.125), skin)
    builder.ellipsoid(body, label, (-0.02, 0, head + 0.03), (0.1, 0.093, 0.115), hair)
    if rng.random() < 0.35:
        bag = palette.cloth(builder)
        builder.box(body, label, (-0.2 * girth, 0, hip + 0.3 * scale), (0.09, 0.15, 0.2), bag)
    return Pedestrian(body, name, scale)


def seated_person(
    builder: SceneBuilder,
    palette: Palette,
    body: mujoco.MjsBody,
    seat: tuple[float, float, float],
    hands: tuple[float, float, float],
    helmet: bool = False,
) -> None:
    """A rider on a two-wheeler.

    Args:
        builder: the scene.
        palette: its materials.
        body: the vehicle's body.
        seat: where the hips are.
        hands: where the left hand is (y > 0); the right one is mirrored.
        helmet: a full helmet instead of hair.
    """
    rng = builder.rng
    label = "rider"
    top, leg, skin = palette.cloth(builder), palette.cloth(builder, True), palette.skin(builder)
    x, _, z = seat
    shoulder = (x + 0.24, z + 0.5)
    for side, knee_drop in ((1, 0.28), (-1, 0.12)):
        knee = (x + 0.38, side * 0.13, z - knee_drop)
        foot = (x + (0.12 if side > 0 else 0.26), side * 0.12, max(0.12, z - knee_drop - 0.42))
        builder.capsule(body, label, (x, side * 0.1, z), knee, 0.08, leg)
        builder.capsule(body, label, knee, foot, 0.06, leg)
        elbow = (
            (shoulder[0] + hands[0]) / 2,
            side * (hands[1] + 0.08),
            (shoulder[1] + hands[2]) / 2 - 0.07,
        )
        builder.capsule(
            body, label, (shoulder[0], side * 0.2, shoulder[1] - 0.03), elbow, 0.05, top
        )
        builder.capsule(body, label, elbow, (hands[0], side * hands[1], hands[2]), 0.04, top)
    builder.capsule(
        body, label, (x, 0, z + 0.08), (shoulder[0] - 0.03, 0, shoulder[1] - 0.08), 0.17, top
    )
    head = (shoulder[0] + 0.08, 0.0, shoulder[1] + 0.24)
    builder.ellipsoid(body, label, head, (0.1, 0.09, 0.125), skin)
    cover = builder.paint(rng.uniform(0.05, 0.9, 3), 0.4, 0.5, 0.5)
    size = (0.145, 0.13, 0.15) if helmet else (0.115, 0.1, 0.1)
    builder.ellipsoid(body, label, (head[0] - 0.025, 0, head[2] + 0.045), size, cover)
