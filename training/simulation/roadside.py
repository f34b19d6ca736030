"""What stands beside the road: trees, hedges, buildings, walls, fences, lamp posts, signs, signals.

Every function takes a body; coordinates are in its frame, x along the road, +y away from the road's
left side, unless said otherwise.
"""

from __future__ import annotations

import math

import mujoco
import numpy as np

from training.simulation.palette import Palette
from training.simulation.scene_builder import Lamp, SceneBuilder
from training.simulation.shapes import Mesh

SODIUM = (1.0, 0.72, 0.4)
LED = (0.85, 0.92, 1.0)


def tree(
    builder: SceneBuilder, palette: Palette, body: mujoco.MjsBody, x: float, y: float, scale: float
) -> None:
    """A broad-leaved tree, poplar or conifer with a trunk, boughs and several lobes of leaves."""
    rng = builder.rng
    label = "vegetation"
    leaves = palette.leaves[int(rng.integers(len(palette.leaves)))]
    kind = rng.random()
    if kind < 0.18:  # conifer: shrinking tiers
        height = rng.uniform(4.5, 8) * scale
        builder.cylinder(body, label, (x, y, 0), (x, y, height * 0.3), 0.15 * scale, palette.bark)
        for k in range(5):
            z = height * (0.25 + 0.17 * k)
            r = (1.0 - 0.18 * k) * 0.24 * height
            builder.ellipsoid(body, label, (x, y, z), (r, r, height * 0.13), leaves)
        return
    if kind < 0.32:  # poplar: a column
        height = rng.uniform(6, 10) * scale
        builder.cylinder(body, label, (x, y, 0), (x, y, height * 0.4), 0.17 * scale, palette.bark)
        for k in range(4):
            z = height * (0.32 + 0.18 * k)
            r = (0.95 - 0.16 * abs(k - 1)) * scale
            dx, dy = rng.uniform(-0.15, 0.15, 2)
            builder.ellipsoid(body, label, (x + dx, y + dy, z), (r, r, height * 0.16), leaves)
        return
    trunk = rng.uniform(2.0, 2.9) * scale
    lean = rng.uniform(-0.15, 0.15, 2)
    fork = np.array([x + lean[0], y + lean[1], trunk])
    builder.capsule(body, label, (x, y, 0), fork, rng.uniform(0.12, 0.2) * scale, palette.bark)
    lobes = int(rng.integers(6, 10))
    crown = rng.uniform(1.1, 1.6) * scale
    for k in range(lobes):
        angle = 2 * math.pi * (k / lobes + rng.uniform(0, 0.1))
        out = crown * rng.uniform(0.35, 0.8) * (0.25 if k == 0 else 1.0)
        centre = fork + np.array(
            [out * math.cos(angle), out * math.sin(angle), crown * rng.uniform(0.35, 1.35)]
        )
        radii = crown * rng.uniform(0.45, 0.72, 3)
        builder.ellipsoid(body, label, centre, radii, leaves)
        if k < 3:
            builder.capsule(body, label, fork, centre, 0.06 * scale, palette.bark)


def bush(builder: SceneBuilder, palette: Palette, body: mujoco.MjsBody, x: float, y: float) -> None:
    """A low shrub of three lobes."""
    rng = builder.rng
    leaves = palette.leaves[int(rng.integers(len(palette.leaves)))]
    for _ in range(3):
        dx, dy = rng.uniform(-0.45, 0.45, 2)
        r = rng.uniform(0.35, 0.7)
        builder.ellipsoid(
            body, "vegetation", (x + dx, y + dy, r * 0.7), (r, r * rng.uniform(0.8, 1.2), r), leaves
        )


def hedge(
    builder: SceneBuilder, palette: Palette, body: mujoco.MjsBody, x: float, y: float, length: float
) -> None:
    """A clipped hedge along x."""
    rng = builder.rng
    leaves = palette.leaves[int(rng.integers(len(palette.leaves)))]
    height = rng.uniform(0.5, 0.9)
    builder.box(body, "vegetation", (x, y, height), (length / 2, 0.4, height), leaves)
    for k in range(int(length / 1.6)):
        builder.ellipsoid(
            body,
            "vegetation",
            (x - length / 2 + 0.8 + 1.6 * k, y, 2 * height - 0.1),
            (1.0, 0.45, rng.uniform(0.15, 0.3)),
            leaves,
        )


def _block(half_x: float, half_y: float, z0: float, z1: float, tile_m: float) -> Mesh:
    """Four walls and a lid; the texture is metric on the walls."""
    corners = [(-half_x, -half_y), (half_x, -half_y), (half_x, half_y), (-half_x, half_y)]
    vertices: list[list[float]] = []
    faces: list[list[int]] = []
    texture: list[list[float]] = []
    height = z1 - z0
    rows = max(1, round(height / tile_m))
    for i in range(4):
        a, b = corners[i], corners[(i + 1) % 4]
        columns = max(1, round(math.dist(a, b) / tile_m))
        base = len(vertices)
        vertices += [[*a, z0], [*b, z0], [*b, z1], [*a, z1]]
        texture += [[0, rows], [columns, rows], [columns, 0], [0, 0]]
        faces += [[base, base + 1, base + 2], [base, base + 2, base + 3]]
    base = len(vertices)
    vertices += [[*c, z1] for c in corners]
    texture += [[0.02, 0.02]] * 4
    faces += [[base, base + 1, base + 2], [base, base + 2, base + 3]]
    return Mesh(np.array(vertices, np.float64), np.array(faces), np.array(texture, np.float64))


def _gable(half_x: float, half_y: float, z: float, rise: float) -> Mesh:
    """A pitched roof with its ridge along x."""
    e = 0.3
    a, b = half_x + e, half_y + e
    quads = [
        [(-a, -b, z), (a, -b, z), (a, 0, z + rise), (-a, 0, z + rise)],
        [(a, b, z), (-a, b, z), (-a, 0, z + rise), (a, 0, z + rise)],
    ]
    vertices: list[tuple[float, float, float]] = []
    faces: list[list[int]] = []
    for quad in quads:
        base = len(vertices)
        vertices += quad
        faces += [[base, base + 1, base + 2], [base, base + 2, base + 3]]
    for ends in (
        [(-half_x, half_y, z), (-half_x, -half_y, z), (-half_x, 0, z + rise)],
        [(half_x, -half_y, z), (half_x, half_y, z), (half_x, 0, z + rise)],
    ):
        base = len(vertices)
        vertices += ends
        faces.append([base, base + 1, base + 2])
    points = np.array(vertices, np.float64)
    return Mesh(points, np.array(faces), points[:, :2] / 3)


def building(
    builder: SceneBuilder,
    palette: Palette,
    body: mujoco.MjsBody,
    length: float,
    depth: float,
    front: float,
) -> None:
    """A house whose front face lies at y = ``front`` and looks towards -y.

    Args:
        builder: the scene.
        palette: its materials.
        body: frame of the plot.
        length: metres along x, centred.
        depth: metres away from the road.
        front: y of the front face.
    """
    rng = builder.rng
    label = "building"
    facade = palette.facades[int(rng.integers(len(palette.facades)))]
    floors = int(rng.choice((1, 2, 3, 3, 4, 5, 6, 8)))
    floor_m = 3.0
    ground_m = 3.6
    half_x, half_y = length / 2, depth / 2
    centre_y = front + half_y
    shop = floors > 1 and rng.random() < 0.5
    base = ground_m if shop else 0.0
    top = ground_m + (floors - 1) * floor_m
    tile = 6.0 if rng.random() < 0.6 else 4.5
    where = (0, centre_y, 0)
    if shop:
        front_paint = palette.shop_fronts[int(rng.integers(len(palette.shop_fronts)))]
        ground = _block(half_x, half_y, 0, base, base)
        builder.mesh(body, label, ground.moved(where), front_paint)
        if rng.random() < 0.6:
            awning = builder.paint(rng.uniform(0.15, 0.85, 3), 0.4)
            builder.box(
                body,
                label,
                (rng.uniform(-0.2, 0.2) * length, front - 0.5, 2.75),
                (length * 0.22, 0.5, 0.05),
                awning,
                quat=(math.cos(0.15), math.sin(0.15), 0, 0),
            )
    builder.mesh(body, label, _block(half_x, half_y, base, top, tile).moved(where), facade)
    if floors <= 3 and rng.random() < 0.6:
        roof = _gable(half_x, half_y, top, rng.uniform(1.6, 3.2))
        builder.mesh(body, label, roof.moved(where), palette.roof)
        builder.box(
            body, label, (half_x * 0.5, centre_y, top + 2.4), (0.35, 0.35, 1.0), palette.brick
        )
    else:
        builder.box(
            body,
            label,
            (0, centre_y, top + 0.2),
            (half_x + 0.2, half_y + 0.2, 0.25),
            palette.concrete,
        )
    if not shop:
        door = rng.uniform(-0.3, 0.3) * length
        builder.box(body, label, (door, front - 0.03, 1.1), (0.55, 0.05, 1.1), palette.wood)
        builder.box(body, label, (door, front - 0.35, 2.4), (0.9, 0.35, 0.06), palette.concrete)
    if floors > 2 and rng.random() < 0.4:
        for floor in range(1, floors):
            z = ground_m + (floor - 1) * floor_m + 0.1
            for x in (-0.25 * length, 0.25 * length):
                builder.box(body, label, (x, front - 0.5, z), (1.3, 0.5, 0.08), palette.concrete)
                builder.box(
                    body, label, (x, front - 0.98, z + 0.5), (1.3, 0.03, 0.45), palette.metal
                )


def garden_wall(
    builder: SceneBuilder, palette: Palette, body: mujoco.MjsBody, length: float, y: float
) -> None:
    """A wall along x with a coping."""
    rng = builder.rng
    height = rng.uniform(1.1, 2.4)
    paint = palette.brick if rng.random() < 0.6 else palette.concrete
    builder.box(body, "wall", (0, y, height / 2), (length / 2, 0.14, height / 2), paint)
    builder.box(body, "wall", (0, y, height), (length / 2, 0.2, 0.06), palette.concrete)
    for x in (-length / 2, length / 2):
        builder.box(
            body, "wall", (x, y, height / 2 + 0.1), (0.22, 0.22, height / 2 + 0.1), palette.brick
        )


def fence(
    builder: SceneBuilder, palette: Palette, body: mujoco.MjsBody, length: float, y: float
) -> None:
    """Rails with posts, boards or bars, along x."""
    rng = builder.rng
    kind = rng.random()
    height = rng.uniform(1.0, 1.5)
    label = "fence"
    for z in (0.25, 0.6, 0.95):
        builder.box(body, label, (0, y, z * height), (length / 2, 0.025, 0.05), palette.fence)
    for x in np.arange(-length / 2, length / 2 + 0.01, length / max(2, round(length / 2.5))):
        builder.box(body, label, (x, y, height / 2), (0.06, 0.06, height / 2), palette.fence)
    if kind < 0.75:
        spacing = 0.3 if kind < 0.45 else 0.2
        half = 0.08 if kind < 0.45 else 0.02
        for x in np.arange(-length / 2 + spacing, length / 2, spacing):
            size = (half, 0.015, height / 2 - 0.04)
            builder.box(body, label, (x, y - 0.03, height / 2), size, palette.fence)


def street_lamp(
    builder: SceneBuilder, palette: Palette, body: mujoco.MjsBody, reach_m: float
) -> None:
    """A lamp post at the origin whose arm reaches towards -y."""
    rng = builder.rng
    height = rng.uniform(5.5, 7.5)
    color = SODIUM if rng.random() < 0.6 else LED
    builder.cylinder(body, "pole", (0, 0, 0), (0, 0, height), 0.075, palette.metal)
    builder.cylinder(body, "pole", (0, 0, 0), (0, 0, 1.0), 0.12, palette.metal)
    builder.cylinder(
        body, "pole", (0, 0, height - 0.1), (0, -reach_m, height + 0.25), 0.045, palette.metal
    )
    head = (0.0, -reach_m, height + 0.2)
    builder.box(body, "pole", head, (0.14, 0.36, 0.06), palette.lamp_white)
    x, y, z = (float(v) for v in body.pos)
    # A fixed body's frame is needed again when the lamps are lit, and only world lamps are static.
    yaw = 2 * math.atan2(float(body.quat[3]), float(body.quat[0]))
    builder.lamps.append(
        Lamp(
            "world",
            (
                x - math.sin(yaw) * -reach_m,
                y + math.cos(yaw) * -reach_m,
                z + height + 0.1,
            ),
            (0, 0, 0),
            color,
            0.16,
            lights_ground=True,
        )
    )


def bollard(
    builder: SceneBuilder, palette: Palette, body: mujoco.MjsBody, x: float, y: float
) -> None:
    """A knee-high post."""
    builder.cylinder(body, "pole", (x, y, 0), (x, y, 0.85), 0.08, palette.metal)
    builder.cylinder(body, "pole", (x, y, 0.68), (x, y, 0.76), 0.085, palette.white)


def utility_pole(builder: SceneBuilder, palette: Palette, body: mujoco.MjsBody) -> None:
    """A wooden mast with a cross-arm."""
    builder.cylinder(body, "pole", (0, 0, 0), (0, 0, 8.5), 0.13, palette.wood)
    builder.box(body, "pole", (0, 0, 7.9), (0.06, 0.9, 0.06), palette.wood)


def traffic_sign(builder: SceneBuilder, palette: Palette, body: mujoco.MjsBody) -> None:
    """A post at the origin with one or two faces that look towards -x."""
    rng = builder.rng
    kinds = list(palette.signs)
    height = rng.uniform(2.3, 2.8)
    builder.cylinder(body, "pole", (0, 0, 0), (0, 0, height + 0.4), 0.04, palette.metal)
    # Turn the face's normal from +z to -x, with the texture upright.
    upright = np.array([[0.0, 0, -1], [-1, 0, 0], [0, 1, 0]])
    for k in range(2 if rng.random() < 0.35 else 1):
        kind = kinds[int(rng.integers(len(kinds)))]
        size = rng.uniform(0.34, 0.46)
        z = height - 0.9 * k
        label = "traffic sign"
        if kind in ("prohibition", "no_entry", "speed"):
            builder.cylinder(body, label, (-0.05, 0, z), (-0.04, 0, z), size, palette.metal)
            face = _disc(size)
        else:
            builder.box(body, label, (-0.045, 0, z), (0.01, size, size), palette.metal)
            face = _square(size)
        builder.mesh(body, label, face.moved((-0.062, 0, z), upright), palette.signs[kind])


def _square(half: float) -> Mesh:
    corners = np.array([(-half, -half, 0), (half, -half, 0), (half, half, 0), (-half, half, 0.0)])
    texture = np.array([(0, 1), (1, 1), (1, 0), (0, 0.0)])
    return Mesh(corners, np.array([[0, 1, 2], [0, 2, 3]]), texture)


def _disc(radius: float, sides: int = 20) -> Mesh:
    angle = 2 * np.pi * np.arange(sides) / sides
    rim = np.stack([np.cos(angle), np.sin(angle)], 1)
    vertices = np.zeros((sides + 1, 3))
    vertices[1:, :2] = radius * rim
    texture = np.full((sides + 1, 2), 0.5)
    texture[1:] += rim * np.array([0.5, -0.5])
    k = np.arange(sides)
    faces = np.stack([np.zeros(sides, int), 1 + k, 1 + (k + 1) % sides], 1)
    return Mesh(vertices, faces, texture)


def traffic_signal(
    builder: SceneBuilder,
    palette: Palette,
    body: mujoco.MjsBody,
    reach_m: float,
    state: str,
) -> None:
    """A signal post at the origin, heads looking towards -x, one of them on an arm over the road.

    Args:
        builder: the scene.
        palette: its materials.
        body: frame of the post.
        reach_m: y of the arm's end; 0 for a post without an arm.
        state: ``"red"`` or ``"green"``.
    """
    builder.cylinder(body, "pole", (0, 0, 0), (0, 0, 5.3 if reach_m else 3.2), 0.08, palette.metal)
    heads = [(0.0, 2.75)]
    if reach_m:
        builder.cylinder(body, "pole", (0, 0, 5.2), (0, reach_m, 5.3), 0.05, palette.metal)
        heads.append((reach_m, 5.0))
    for y, z in heads:
        builder.box(body, "traffic light", (-0.13, y, z), (0.13, 0.19, 0.52), palette.black)
        for k, (name, lit) in enumerate(
            (
                ("red", palette.signal_red),
                ("amber", palette.signal_amber),
                ("green", palette.signal_green),
            )
        ):
            paint = lit if name == state else palette.signal_off
            at = (-0.25, y, z + 0.32 - 0.32 * k)
            builder.ellipsoid(body, "traffic light", at, (0.05, 0.115, 0.115), paint)
            if name == state:
                yaw = 2 * math.atan2(float(body.quat[3]), float(body.quat[0]))
                x0, y0, z0 = (float(v) for v in body.pos)
                builder.lamps.append(
                    Lamp(
                        "world",
                        (
                            x0 + math.cos(yaw) * -0.32 - math.sin(yaw) * at[1],
                            y0 + math.sin(yaw) * -0.32 + math.cos(yaw) * at[1],
                            z0 + at[2],
                        ),
                        (-math.cos(yaw), -math.sin(yaw), 0.0),
                        (0.9, 0.05, 0.03) if state == "red" else (0.05, 0.8, 0.35),
                        0.1,
                    )
                )
