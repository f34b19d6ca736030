"""Cars, vans, trucks, buses, motorcycles and bicycles. They point along +x with their wheels on z = 0."""

from __future__ import annotations

import math

import mujoco
import numpy as np

from training.simulation.palette import Palette, car_paint
from training.simulation.people import seated_person
from training.simulation.scene_builder import Lamp, SceneBuilder
from training.simulation.shapes import Mesh

Profile = list[tuple[float, float]]

HEADLIGHT = (1.0, 0.95, 0.85)
TAIL_LIGHT = (0.7, 0.03, 0.02)


def _extrude(profile: Profile, half_width: float) -> Mesh:
    """A star-shaped outline in x-z, counted anticlockwise seen from -y, extruded over y."""
    outline = np.array(profile, np.float64)
    count = len(outline)
    centre = outline.mean(0)
    vertices: list[list[float]] = []
    faces: list[list[int]] = []
    for side in (-1.0, 1.0):
        base = len(vertices)
        vertices += [[x, side * half_width, z] for x, z in outline]
        vertices.append([centre[0], side * half_width, centre[1]])
        for i in range(count):
            j = (i + 1) % count
            pair = [base + i, base + j] if side < 0 else [base + j, base + i]
            faces.append([*pair, base + count])
    # The rim has vertices of its own, so that normals keep the edges sharp.
    for i in range(count):
        j = (i + 1) % count
        base = len(vertices)
        for k in (i, j):
            vertices += [
                [outline[k][0], side_y, outline[k][1]] for side_y in (-half_width, half_width)
            ]
        faces += [[base, base + 1, base + 2], [base + 1, base + 3, base + 2]]
    points = np.array(vertices)
    return Mesh(points, np.array(faces), points[:, [0, 2]].copy())


def _wheel(
    builder: SceneBuilder,
    palette: Palette,
    body: mujoco.MjsBody,
    label: str,
    x: float,
    y: float,
    radius: float,
    half_width: float = 0.11,
) -> None:
    builder.cylinder(
        body,
        label,
        (x, y - half_width, radius),
        (x, y + half_width, radius),
        radius,
        palette.rubber,
    )
    out = math.copysign(1.0, y)
    builder.cylinder(
        body,
        label,
        (x, y + out * (half_width - 0.01), radius),
        (x, y + out * (half_width + 0.015), radius),
        radius * 0.55,
        palette.hub,
    )


def _lamps(
    builder: SceneBuilder,
    palette: Palette,
    body: mujoco.MjsBody,
    label: str,
    front: float,
    back: float,
    y: float,
    z: float,
) -> None:
    for side in (-y, y):
        builder.box(body, label, (front, side, z), (0.02, 0.16, 0.07), palette.lamp_white)
        builder.box(body, label, (back, side, z + 0.12), (0.02, 0.14, 0.08), palette.lamp_red)
        builder.lamps.append(Lamp(body.name, (front + 0.03, side, z), (1, 0, 0), HEADLIGHT, 0.09))
        builder.lamps.append(
            Lamp(body.name, (back - 0.03, side, z + 0.12), (-1, 0, 0), TAIL_LIGHT, 0.08)
        )


def car(builder: SceneBuilder, palette: Palette, name: str) -> mujoco.MjsBody:
    """A saloon, hatchback, estate or van, about 4 to 5 m long."""
    rng = builder.rng
    body = builder.moving_body(name)
    paint = car_paint(builder)
    kind = int(rng.integers(4))
    length = (2.2, 1.95, 2.3, 2.35)[kind]
    width = (0.88, 0.86, 0.9, 0.96)[kind]
    bonnet = (0.9, 0.88, 0.92, 1.05)[kind]
    hull: Profile = [
        (-length, 0.3),
        (length, 0.3),
        (length, 0.66),
        (length - 0.25, 0.8),
        (length - 0.95, bonnet),
        (-length + 0.1, bonnet + 0.06),
        (-length, 0.8),
    ]
    cabins: list[Profile] = [
        [(-1.55, 0.93), (1.2, 0.88), (0.45, 1.42), (-0.9, 1.42)],
        [(-1.85, 0.9), (1.05, 0.86), (0.35, 1.48), (-1.5, 1.48)],
        [(-2.2, 0.94), (1.2, 0.9), (0.6, 1.6), (-2.05, 1.6)],
        [(-2.3, 1.0), (1.55, 1.0), (1.0, 1.95), (-2.25, 1.95)],
    ]
    cabin = cabins[kind]
    builder.mesh(body, "car", _extrude(hull, width), paint)
    builder.mesh(body, "car", _extrude(cabin, width * 0.9), paint if kind == 3 else palette.glass)
    top = cabin[2][1]
    roof_x = [x for x, z in cabin if z > 1.3]
    middle = (max(roof_x) + min(roof_x)) / 2
    builder.box(
        body,
        "car",
        (middle, 0, top + 0.01),
        ((max(roof_x) - min(roof_x)) / 2, width * 0.88, 0.025),
        paint,
    )
    if kind == 3:
        builder.box(body, "car", (1.3, 0, 1.5), (0.06, width * 0.8, 0.3), palette.glass)
        for side in (-1, 1):
            builder.box(
                body, "car", (0.6, side * width * 0.9, 1.5), (0.4, 0.012, 0.25), palette.glass
            )
    else:
        for x in (min(roof_x) + 0.1, 0.0):
            for side in (-1, 1):
                builder.box(
                    body,
                    "car",
                    (x, side * width * 0.885, (top + 0.95) / 2),
                    (0.05, 0.02, (top - 0.95) / 2),
                    paint,
                )
    for side in (-1, 1):
        builder.box(body, "car", (0.95, side * (width + 0.09), 1.0), (0.08, 0.1, 0.07), paint)
        for x in (-length * 0.62, length * 0.62):
            _wheel(builder, palette, body, "car", x, side * (width - 0.06), 0.33)
    builder.box(body, "car", (length + 0.01, 0, 0.45), (0.02, 0.6, 0.1), palette.black)
    builder.box(body, "car", (-length - 0.01, 0, 0.6), (0.012, 0.26, 0.06), palette.white)
    _lamps(builder, palette, body, "car", length, -length, 0.62, 0.64)
    return body


def bus(builder: SceneBuilder, palette: Palette, name: str) -> mujoco.MjsBody:
    """A city bus, 11.5 m long."""
    rng = builder.rng
    body = builder.moving_body(name)
    paint = builder.paint(
        np.array(((0.75, 0.12, 0.1), (0.9, 0.75, 0.15), (0.15, 0.45, 0.3), (0.2, 0.35, 0.7)))[
            int(rng.integers(4))
        ]
        * rng.uniform(0.8, 1.1),
        0.35,
        0.4,
        0.4,
    )
    outline: Profile = [
        (-5.75, 0.35),
        (5.75, 0.35),
        (5.75, 1.4),
        (5.55, 2.95),
        (5.3, 3.05),
        (-5.6, 3.05),
        (-5.75, 2.9),
    ]
    builder.mesh(body, "bus", _extrude(outline, 1.25), paint)
    for side in (-1.26, 1.26):
        builder.box(body, "bus", (0, side, 2.0), (5.3, 0.012, 0.5), palette.glass)
        for x in (-3.5, -1.7, 0.1, 1.9, 3.7):
            builder.box(body, "bus", (x, side, 2.0), (0.06, 0.02, 0.5), palette.black)
        builder.box(body, "bus", (0, side, 0.55), (5.6, 0.012, 0.16), palette.white)
    builder.box(body, "bus", (5.72, 0, 1.85), (0.02, 1.1, 0.62), palette.glass)
    builder.box(body, "bus", (5.6, 0, 2.72), (0.07, 0.8, 0.16), palette.signal_amber)
    builder.box(body, "bus", (-5.77, 0, 2.2), (0.02, 1.0, 0.45), palette.glass)
    for x in (-3.4, 3.3):
        for y in (-1.08, 1.08):
            _wheel(builder, palette, body, "bus", x, y, 0.48, 0.16)
    _lamps(builder, palette, body, "bus", 5.77, -5.78, 0.95, 0.8)
    return body


def truck(builder: SceneBuilder, palette: Palette, name: str) -> mujoco.MjsBody:
    """A box or flat-bed truck, 8.5 m long."""
    rng = builder.rng
    body = builder.moving_body(name)
    cab = car_paint(builder)
    load = builder.paint(rng.uniform(0.35, 0.92, 3), 0.4, 0.2, 0.2)
    if rng.random() < 0.75:
        builder.box(body, "truck", (-1.2, 0, 2.05), (3.2, 1.22, 1.3), load)
        stripe = builder.paint(rng.uniform(0.1, 0.9, 3), 0.4)
        for side in (-1.23, 1.23):
            builder.box(body, "truck", (-1.2, side, 2.2), (2.4, 0.012, 0.35), stripe)
    else:
        builder.box(body, "truck", (-1.2, 0, 0.95), (3.2, 1.2, 0.12), load)
        for k in range(3):
            builder.box(
                body,
                "truck",
                (-3.2 + 2.0 * k, 0, 1.5),
                (0.8, 0.9, rng.uniform(0.3, 0.6)),
                palette.wood,
            )
    outline: Profile = [(2.15, 0.45), (4.15, 0.45), (4.15, 1.5), (3.85, 2.55), (2.15, 2.6)]
    builder.mesh(body, "truck", _extrude(outline, 1.15), cab)
    # The windscreen leans as the cab does.
    lean = math.atan2(0.3, 1.05)
    builder.box(
        body,
        "truck",
        (4.03, 0, 1.98),
        (0.015, 1.02, 0.42),
        palette.glass,
        quat=(math.cos(-lean / 2), 0, math.sin(-lean / 2), 0),
    )
    for side in (-1.16, 1.16):
        builder.box(body, "truck", (3.3, side, 1.95), (0.45, 0.012, 0.32), palette.glass)
    builder.box(body, "truck", (0.2, 0, 0.62), (3.9, 0.8, 0.14), palette.black)
    builder.box(body, "truck", (-4.42, 0, 0.62), (0.03, 1.1, 0.09), palette.signal_off)
    for x in (-2.6, -1.5, 2.95):
        for y in (-1.04, 1.04):
            _wheel(builder, palette, body, "truck", x, y, 0.48, 0.16)
    _lamps(builder, palette, body, "truck", 4.17, -4.44, 0.9, 0.78)
    return body


def _ring(radius: float, tube: float, around: int = 18, across: int = 5) -> Mesh:
    """A torus in the x-z plane."""
    vertices = []
    faces = []
    for a in range(around):
        for k in range(across):
            turn, roll = 2 * math.pi * a / around, 2 * math.pi * k / across
            r = radius + tube * math.cos(roll)
            vertices.append([r * math.cos(turn), tube * math.sin(roll), r * math.sin(turn)])
            here, there = a * across, ((a + 1) % around) * across
            k2 = (k + 1) % across
            faces += [[here + k, there + k, here + k2], [here + k2, there + k, there + k2]]
    points = np.array(vertices)
    return Mesh(points, np.array(faces), points[:, [0, 2]].copy())


class TwoWheelers:
    """Bicycles and motorcycles of one street; they share the mesh of the tyre."""

    def __init__(self, builder: SceneBuilder, palette: Palette) -> None:
        self.builder = builder
        self.palette = palette
        self._tyre = _ring(0.33, 0.028)

    def bicycle(self, name: str, ridden: bool) -> mujoco.MjsBody:
        """A bicycle, with its rider if ``ridden``."""
        builder, palette = self.builder, self.palette
        body = builder.moving_body(name)
        paint = builder.paint(builder.rng.uniform(0.08, 0.85, 3), 0.3, 0.4)
        for x in (-0.53, 0.53):
            tyre = self._tyre.moved((x, 0, 0.355))
            builder.mesh(body, "bicycle", tyre, palette.rubber)
            builder.cylinder(
                body, "bicycle", (x, -0.04, 0.355), (x, 0.04, 0.355), 0.05, palette.hub
            )
            for k in range(3):
                angle = math.pi * k / 3
                dx, dz = 0.31 * math.cos(angle), 0.31 * math.sin(angle)
                builder.capsule(
                    body,
                    "bicycle",
                    (x - dx, 0, 0.355 - dz),
                    (x + dx, 0, 0.355 + dz),
                    0.007,
                    palette.hub,
                )
        tubes = [
            ((-0.53, 0, 0.355), (-0.05, 0, 0.34)),
            ((-0.05, 0, 0.34), (-0.2, 0, 0.92)),
            ((-0.05, 0, 0.34), (0.38, 0, 0.82)),
            ((-0.18, 0, 0.82), (0.38, 0, 0.84)),
            ((-0.53, 0, 0.355), (-0.18, 0, 0.82)),
            ((0.53, 0, 0.355), (0.36, 0, 1.02)),
        ]
        for a, b in tubes:
            builder.capsule(body, "bicycle", a, b, 0.027, paint)
        builder.capsule(
            body, "bicycle", (0.34, -0.26, 1.04), (0.34, 0.26, 1.04), 0.02, palette.black
        )
        builder.ellipsoid(body, "bicycle", (-0.21, 0, 0.95), (0.14, 0.07, 0.04), palette.black)
        if ridden:
            seated_person(builder, palette, body, seat=(-0.2, 0.0, 0.98), hands=(0.32, 0.24, 1.06))
            builder.lamps.append(
                Lamp(body.name, (0.42, 0, 0.95), (1, 0, 0), (0.6, 0.6, 0.55), 0.03)
            )
            builder.lamps.append(
                Lamp(body.name, (-0.6, 0, 0.7), (-1, 0, 0), (0.35, 0.02, 0.01), 0.03)
            )
        return body

    def motorcycle(self, name: str, ridden: bool) -> mujoco.MjsBody:
        """A motorcycle or scooter, with its rider if ``ridden``."""
        builder, palette = self.builder, self.palette
        body = builder.moving_body(name)
        paint = car_paint(builder)
        label = "motorcycle"
        for x in (-0.68, 0.7):
            builder.cylinder(body, label, (x, -0.07, 0.31), (x, 0.07, 0.31), 0.31, palette.rubber)
            builder.cylinder(body, label, (x, -0.075, 0.31), (x, 0.075, 0.31), 0.17, palette.hub)
        builder.box(body, label, (0.0, 0, 0.45), (0.32, 0.15, 0.2), palette.metal)
        builder.ellipsoid(body, label, (0.18, 0, 0.85), (0.33, 0.18, 0.17), paint)
        builder.ellipsoid(body, label, (-0.38, 0, 0.83), (0.4, 0.15, 0.09), palette.black)
        builder.ellipsoid(body, label, (-0.75, 0, 0.78), (0.25, 0.12, 0.13), paint)
        builder.ellipsoid(body, label, (0.55, 0, 0.9), (0.2, 0.2, 0.25), paint)
        for side in (-0.1, 0.1):
            builder.capsule(
                body, label, (0.7, side, 0.31), (0.48, side, 0.95), 0.035, palette.metal
            )
            builder.capsule(
                body, label, (-0.75, side * 1.6, 0.34), (-0.1, side * 1.6, 0.3), 0.05, palette.hub
            )
        builder.capsule(body, label, (0.42, -0.36, 1.08), (0.42, 0.36, 1.08), 0.025, palette.black)
        builder.box(body, label, (0.74, 0, 0.9), (0.03, 0.1, 0.08), palette.lamp_white)
        builder.box(body, label, (-0.99, 0, 0.8), (0.02, 0.09, 0.05), palette.lamp_red)
        if ridden:
            seated_person(
                builder,
                palette,
                body,
                seat=(-0.3, 0.0, 0.95),
                hands=(0.4, 0.33, 1.1),
                helmet=True,
            )
            builder.lamps.append(Lamp(body.name, (0.78, 0, 0.9), (1, 0, 0), HEADLIGHT, 0.08))
            builder.lamps.append(Lamp(body.name, (-1.02, 0, 0.8), (-1, 0, 0), TAIL_LIGHT, 0.06))
        return body
