"""Puts a street together from a seed: roads, frontage, furniture, traffic and the ego vehicle."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import mujoco
import numpy as np

from training.simulation import roadside, textures, vehicles
from training.simulation.palette import Palette
from training.simulation.people import pedestrian
from training.simulation.road import (
    LAYOUTS,
    CrossSection,
    Pose2D,
    RoadPath,
    dashes,
    random_path,
    straight_path,
    strip,
)
from training.simulation.scene_builder import Lamp, SceneBuilder
from training.simulation.shapes import Mesh, join_meshes
from training.simulation.traffic import EgoMotion, Mover, SpeedProfile, Walker, constant_speed
from training.simulation.weather import Weather

EGO_BODY = "ego"
SUN = "sun"
SIDEWALK_Z = 0.14
ARM_M = 62.0
"""Length of the arms of a crossing street."""
VIEW_M = 130.0
"""Road laid beyond the place where the drive ends."""


@dataclass(frozen=True)
class StreetPlan:
    """What the caller decides about a street; the seed decides the rest."""

    duration_s: float
    weather: Weather
    layout: str | None = None
    """One of :data:`road.LAYOUTS`; ``None`` draws it."""
    crossing: bool | None = None
    ego_speed: tuple[tuple[float, float], ...] | None = None
    """Knots (s, m/s) of the ego vehicle's speed; ``None`` draws it."""
    business: float = 1.0
    """Factor on how many vehicles, cyclists and pedestrians there are; long drives need more."""


@dataclass(frozen=True)
class Street:
    """A compiled street and how its parts move."""

    model: mujoco.MjModel
    ego: EgoMotion
    movers: tuple[Mover, ...]
    walkers: tuple[Walker, ...]
    lamps: tuple[Lamp, ...]
    layout: str
    crossing_m: float | None
    """Arc length of the crossing along the ego vehicle's road, if there is one."""
    turn_rad: float
    sun_direction: tuple[float, float, float]
    """Unit vector from the sun to the ground."""
    shadows: bool


def draw_ego_speed(rng: np.random.Generator, duration_s: float) -> tuple[tuple[float, float], ...]:
    """A speed profile: cruising, slow, braking to a stop, starting, or standing throughout."""
    kind = rng.random()
    if kind < 0.12:
        return ((0.0, 0.0),)
    fast = float(rng.uniform(5.0, 11.0))
    if kind < 0.22:
        return ((duration_s * 0.25, fast), (duration_s * 0.7, 0.0))
    if kind < 0.3:
        return ((duration_s * 0.3, 0.0), (duration_s * 0.8, fast))
    if kind < 0.42:
        return ((0.0, float(rng.uniform(2.0, 5.0))),)
    return ((0.0, fast), (duration_s, fast * float(rng.uniform(0.8, 1.2))))


class _StreetMaker:
    """State of one street while it is put together."""

    def __init__(self, rng: np.random.Generator, plan: StreetPlan) -> None:
        self.rng = rng
        self.plan = plan
        self.builder = SceneBuilder(rng)
        self.palette = Palette(self.builder)
        self.two_wheelers = vehicles.TwoWheelers(self.builder, self.palette)
        self.movers: list[Mover] = []
        self.walkers: list[Walker] = []
        self._bodies = 0
        self.urban = bool(rng.random() < 0.6)
        self.section = CrossSection(
            lane_m=float(rng.uniform(3.0, 3.5)),
            outer_m=float(rng.uniform(2.1, 2.5)) if rng.random() < 0.85 else 0.6,
            verge_m=float(rng.uniform(1.0, 2.0))
            if rng.random() < (0.3 if self.urban else 0.6)
            else 0,
            sidewalk_m=float(rng.uniform(2.2, 4.0)),
        )
        self.cross_section = CrossSection(
            lane_m=float(rng.uniform(2.8, 3.4)),
            outer_m=float(rng.choice((0.4, 2.0))),
            verge_m=0.0,
            sidewalk_m=float(rng.uniform(1.8, 3.0)),
        )
        knots = plan.ego_speed or draw_ego_speed(rng, plan.duration_s)
        self.ego_profile = SpeedProfile(knots)
        self.travel_m = self.ego_profile.distance(plan.duration_s)
        self.layout = plan.layout or str(rng.choice(LAYOUTS, p=(0.25, 0.3, 0.25, 0.2)))
        self.path = random_path(
            rng, self.layout, -24.0, self.travel_m + VIEW_M, rng.uniform(-8, 12)
        )
        has_crossing = plan.crossing if plan.crossing is not None else bool(rng.random() < 0.6)
        self.crossing_m: float | None = None
        self.cross_path: RoadPath | None = None
        if has_crossing:
            self.crossing_m = float(rng.uniform(18, max(30.0, self.travel_m + 45)))
            at = self.path.pose(self.crossing_m)
            yaw = at.yaw + math.pi / 2 + float(rng.uniform(-0.14, 0.14))
            self.cross_path = straight_path(Pose2D(at.x, at.y, yaw), -ARM_M - 6, ARM_M + 6)
        self.crosswalks = self._draw_crosswalks()

    # -- helpers -------------------------------------------------------------------------------
    def _next(self, stem: str) -> str:
        self._bodies += 1
        return f"{stem}_{self._bodies}"

    def _gap(self, margin_m: float) -> tuple[float, float] | None:
        """Arc-length interval of the main road that the crossing takes, widened by a margin."""
        if self.crossing_m is None:
            return None
        half = self.cross_section.half_road_m + margin_m
        return self.crossing_m - half, self.crossing_m + half

    def _free(self, s0: float, s1: float, margin_m: float) -> bool:
        gap = self._gap(margin_m)
        return gap is None or s1 < gap[0] or s0 > gap[1]

    def _spans(self, margin_m: float) -> list[tuple[float, float]]:
        """The main road without the crossing."""
        gap = self._gap(margin_m)
        first, last = self.path.first_m, self.path.last_m
        if gap is None:
            return [(first, last)]
        return [(a, b) for a, b in ((first, gap[0]), (gap[1], last)) if b - a > 2]

    def _frame(self, path: RoadPath, s: float, offset: float, z: float = 0.0) -> mujoco.MjsBody:
        """A body at an offset of a road: x along the road, +y away from it."""
        pose = path.pose(s, offset)
        yaw = pose.yaw if offset > 0 else pose.yaw + math.pi
        return self.builder.fixed_body(pose.x, pose.y, z, yaw)

    def _draw_crosswalks(self) -> list[float]:
        """Arc lengths of the zebra crossings (their middle)."""
        walks = []
        if self.crossing_m is not None:
            half = self.cross_section.half_road_m + 2.6
            walks.append(self.crossing_m - half)
            if self.rng.random() < 0.7:
                walks.append(self.crossing_m + half)
        if self.rng.random() < 0.5:
            s = float(self.rng.uniform(12, self.travel_m + 50))
            if self._free(s - 10, s + 10, 4):
                walks.append(s)
        return walks

    # -- ground --------------------------------------------------------------------------------
    def lay_ground(self) -> None:
        """Terrain, carriageways, verges, sidewalks and markings."""
        builder, palette, world = self.builder, self.palette, self.builder.world
        path, section = self.path, self.section
        middle = path.pose((path.first_m + path.last_m) / 2)
        builder.rectangle(world, "terrain", (middle.x, middle.y, -0.05), (320, 320), palette.lawn)
        half = section.half_road_m
        road = strip(path, path.first_m, path.last_m, -half, half, 0.0, 8.0)
        builder.mesh(world, "road", road, palette.asphalt)
        walks: list[Mesh] = []
        verges: list[Mesh] = []
        for s0, s1 in self._spans(0.0):
            for side in (-1, 1):
                a, b = section.sidewalk_inner_m, section.sidewalk_outer_m
                low, high = (a, b) if side > 0 else (-b, -a)
                walks.append(strip(path, s0, s1, low, high, SIDEWALK_Z, 2.0, skirt_m=0.2))
                if section.verge_m > 0:
                    low, high = (half, a) if side > 0 else (-a, -half)
                    verges.append(strip(path, s0, s1, low, high, SIDEWALK_Z - 0.01, 5.0, 0.2))
        if self.cross_path is not None:
            cross, cs = self.cross_path, self.cross_section
            branch = strip(
                cross, -ARM_M - 6, ARM_M + 6, -cs.half_road_m, cs.half_road_m, -0.004, 8.0
            )
            builder.mesh(world, "road", branch, palette.asphalt)
            for begin, end in self._arms(section.sidewalk_outer_m - 0.4):
                for low in (cs.half_road_m, -cs.half_road_m - cs.sidewalk_m):
                    high = low + cs.sidewalk_m
                    walks.append(strip(cross, begin, end, low, high, SIDEWALK_Z - 0.003, 2.0, 0.2))
        builder.mesh(world, "sidewalk", join_meshes(walks), palette.paving)
        if verges:
            builder.mesh(world, "terrain", join_meshes(verges), palette.grass)
        builder.mesh(world, "road", join_meshes(self._markings()), palette.marking)

    def _arms(self, inner_m: float) -> list[tuple[float, float]]:
        """Both arms of the crossing street, from the main road outwards."""
        return [(inner_m, ARM_M), (-ARM_M, -inner_m)]

    def _markings(self) -> list[Mesh]:
        path, section = self.path, self.section
        gap = self._gap(4.5)
        gaps = [gap] if gap else []
        gaps += [(s - 2.4, s + 2.4) for s in self.crosswalks]
        first, last = path.first_m, path.last_m
        dash, hole = ((3.0, 4.5), (1.5, 2.0), (6.0, 0.0))[int(self.rng.integers(3))]
        meshes = dashes(path, first, last, 0.0, 0.14, dash, hole, gaps)
        if section.outer_m > 1:
            for side in (-1, 1):
                offset = side * section.lane_m
                meshes += dashes(path, first, last, offset, 0.11, 1.2, 0.8, gaps)
        else:
            for side in (-1, 1):
                meshes += dashes(
                    path, first, last, side * (section.half_road_m - 0.25), 0.12, 4.0, 0.0, gaps
                )
        for s in self.crosswalks:
            for offset in np.arange(-section.half_road_m + 0.5, section.half_road_m - 0.3, 1.0):
                meshes.append(
                    strip(path, s - 1.5, s + 1.5, offset, offset + 0.5, 0.006, 1.0, step_m=1.5)
                )
        if self.crossing_m is not None:
            stop = self.crossing_m - self.cross_section.half_road_m - 4.8
            meshes.append(
                strip(path, stop - 0.35, stop, -section.half_road_m + 0.2, -0.15, 0.006, 1.0)
            )
        for _ in range(2):
            s = float(self.rng.uniform(8, self.travel_m + 40))
            if self._free(s - 4, s + 4, 6) and all(abs(s - c) > 6 for c in self.crosswalks):
                meshes.append(self._arrow(s))
        if self.cross_path is not None:
            for begin, end in self._arms(self.section.half_road_m + 4):
                meshes += dashes(self.cross_path, begin, end, 0.0, 0.12, 2.0, 2.0, [])
        return meshes

    def _arrow(self, s: float) -> Mesh:
        """A straight-on arrow on the ego lane."""
        offset = -self.section.lane_m / 2
        shaft = strip(self.path, s, s + 2.4, offset - 0.09, offset + 0.09, 0.006, 1.0)
        tip, left, right = (
            self.path.pose(s + 3.6, offset),
            self.path.pose(s + 2.4, offset + 0.4),
            self.path.pose(s + 2.4, offset - 0.4),
        )
        corners = np.array([[p.x, p.y, 0.006] for p in (right, tip, left)])
        return join_meshes([shaft, Mesh(corners, np.array([[0, 1, 2]]), corners[:, :2])])

    # -- frontage ------------------------------------------------------------------------------
    def line_with_plots(self) -> None:
        """Houses, walls, fences and gardens along all streets."""
        outer = self.section.sidewalk_outer_m
        margin = self.cross_section.sidewalk_m + 1.0
        for s0, s1 in self._spans(margin):
            for side in (-1, 1):
                self._plots(self.path, s0, s1, side, outer)
        if self.cross_path is not None:
            edge = self.cross_section.sidewalk_outer_m
            # The corner plots of the main street reach this far back.
            for begin, end in self._arms(outer + 17.0):
                for side in (-1, 1):
                    self._plots(self.cross_path, begin, end, side, edge)
            for s in (-ARM_M - 1, ARM_M + 1):
                self._end_block(self.cross_path, s)
        self._end_block(self.path, self.path.last_m - 6)

    def _end_block(self, path: RoadPath, s: float) -> None:
        """A house across the end of a street, so that no view ends in nothing."""
        pose = path.pose(s)
        yaw = pose.yaw - math.pi / 2 if s > 0 else pose.yaw + math.pi / 2
        body = self.builder.fixed_body(pose.x, pose.y, 0, yaw)
        if self.rng.random() < 0.6:
            roadside.building(self.builder, self.palette, body, 44.0, 10.0, 0.0)
        else:
            for x in np.arange(-20, 21, 4.0):
                roadside.tree(self.builder, self.palette, body, x, self.rng.uniform(0, 3), 1.5)

    def _plots(self, path: RoadPath, s0: float, s1: float, side: int, outer_m: float) -> None:
        rng, builder, palette = self.rng, self.builder, self.palette
        s = s0
        while s1 - s > 7:
            length = float(min(rng.uniform(9, 20), s1 - s))
            middle = s + length / 2
            bend = path.curvature(middle)
            # A straight front on the inside of a bend would cut into the sidewalk.
            sagitta = length**2 * abs(bend) / 8 if bend * side > 0 else 0.0
            setback = 0.05 if self.urban else float(rng.uniform(0.5, 5.0))
            frame = self._frame(path, middle, side * (outer_m + sagitta))
            width = length * (1 - max(0.0, bend * side) * 14 * 0.5)
            kind = rng.random()
            house = 0.68 if self.urban else 0.42
            if kind < house:
                roadside.building(
                    builder, palette, frame, width - 0.3, float(rng.uniform(9, 14)), setback
                )
                if setback > 2.5:
                    if rng.random() < 0.6:
                        roadside.fence(builder, palette, frame, width - 2.5, 0.15)
                    else:
                        roadside.hedge(builder, palette, frame, 0.0, 0.5, width - 2.5)
                    roadside.bush(builder, palette, frame, rng.uniform(-0.3, 0.3) * width, 1.6)
            elif kind < house + 0.13:
                roadside.garden_wall(builder, palette, frame, width - 0.2, 0.2)
                for _ in range(2):
                    x = rng.uniform(-0.4, 0.4) * width
                    roadside.tree(builder, palette, frame, x, rng.uniform(2.5, 5), 1.3)
            elif kind < house + 0.28:
                roadside.fence(builder, palette, frame, width - 0.2, 0.15)
                for _ in range(2):
                    x = rng.uniform(-0.4, 0.4) * width
                    roadside.tree(builder, palette, frame, x, rng.uniform(2.5, 7), 1.3)
                roadside.bush(builder, palette, frame, rng.uniform(-0.4, 0.4) * width, 1.2)
                if rng.random() < 0.5:
                    roadside.building(builder, palette, frame, width * 0.8, 9.0, 10.0)
            else:  # open ground
                for _ in range(int(rng.integers(2, 5))):
                    x, y = rng.uniform(-0.45, 0.45) * width, rng.uniform(1.5, 9)
                    roadside.tree(builder, palette, frame, x, y, rng.uniform(0.9, 1.5))
                for _ in range(3):
                    x = rng.uniform(-0.45, 0.45) * width
                    roadside.bush(builder, palette, frame, x, rng.uniform(0.8, 4))
                if rng.random() < 0.4:
                    roadside.hedge(builder, palette, frame, 0.0, 0.6, width * 0.8)
            s += length + float(rng.choice((0.0, 0.0, 1.5, 3.5)))

    # -- furniture -----------------------------------------------------------------------------
    def furnish(self) -> None:
        """Street trees, lamps, signs, signals, bollards, cycle racks."""
        rng, builder, palette, path = self.rng, self.builder, self.palette, self.path
        kerb = self.section.half_road_m + 0.55
        z = SIDEWALK_Z - 0.02
        end = self.travel_m + 85
        for side in (-1, 1):
            lamp_side = side > 0 or rng.random() < 0.5
            spacing = float(rng.uniform(20, 30))
            s = float(rng.uniform(0, spacing)) - 5
            while lamp_side and s < end:
                if self._free(s, s, 1.0):
                    roadside.street_lamp(
                        builder,
                        palette,
                        self._frame(path, s, side * kerb, z),
                        rng.uniform(1.2, 2.4),
                    )
                s += spacing
            if rng.random() < 0.65:
                spacing = float(rng.uniform(8, 15))
                s = float(rng.uniform(3, spacing + 3))
                while s < end:
                    if self._free(s, s, 7.0) and all(abs(s - c) > 4 for c in self.crosswalks):
                        frame = self._frame(path, s, side * (kerb + 0.2), z)
                        roadside.tree(builder, palette, frame, 0, 0, rng.uniform(0.8, 1.1))
                    s += spacing * rng.uniform(0.8, 1.2)
            for _ in range(int(rng.integers(3, 6))):
                s = float(rng.uniform(6, self.travel_m + 45))
                if self._free(s, s, 1.0):
                    pose = path.pose(s, side * (kerb - 0.1))
                    yaw = pose.yaw if side < 0 or rng.random() < 0.5 else pose.yaw + math.pi
                    body = builder.fixed_body(pose.x, pose.y, z, yaw)
                    roadside.traffic_sign(builder, palette, body)
            if rng.random() < 0.35:
                start = float(rng.uniform(5, self.travel_m + 25))
                for k in range(int(rng.integers(4, 10))):
                    s = start + 1.6 * k
                    if self._free(s, s, 0.5):
                        frame = self._frame(path, s, side * (kerb - 0.2), z)
                        roadside.bollard(builder, palette, frame, 0, 0)
            if not self.urban and rng.random() < 0.5:
                for s in np.arange(rng.uniform(0, 20), end, 32.0):
                    if self._free(s, s, 1.0):
                        frame = self._frame(path, float(s), side * (kerb + 0.4), z)
                        roadside.utility_pole(builder, palette, frame)
        self._signals(kerb, z)

    def _signals(self, kerb: float, z: float) -> None:
        rng, builder, palette, path = self.rng, self.builder, self.palette, self.path
        places: list[float] = []
        if self.crossing_m is not None and rng.random() < 0.85:
            places.append(self.crossing_m)
        places += [s for s in self.crosswalks if rng.random() < 0.35 and self._free(s, s, 8)]
        for place in places:
            state = "red" if self.ego_profile.speed(1.0) < 0.5 else "green"
            if rng.random() < 0.3:
                state = "red"
            half = self.cross_section.half_road_m + 1.0 if place == self.crossing_m else 2.2
            for s, side in ((place - half, -1), (place + half, -1), (place - half, 1)):
                pose = path.pose(s, side * kerb)
                reach = -side * rng.uniform(1.8, 3.2) if rng.random() < 0.6 else 0.0
                body = builder.fixed_body(pose.x, pose.y, z, pose.yaw)
                roadside.traffic_signal(builder, palette, body, reach, state)
            pose = path.pose(place + half, kerb)
            body = builder.fixed_body(pose.x, pose.y, z, pose.yaw + math.pi)
            roadside.traffic_signal(builder, palette, body, 0.0, state)

    # -- traffic -------------------------------------------------------------------------------
    def _vehicle(self, kinds: dict[str, float]) -> tuple[str, float]:
        """Build a vehicle of a random kind; returns its body's name and its length."""
        names = list(kinds)
        weights = np.array([kinds[n] for n in names])
        kind = str(self.rng.choice(names, p=weights / weights.sum()))
        name = self._next(kind)
        make: dict[str, Callable[[], object]] = {
            "car": lambda: vehicles.car(self.builder, self.palette, name),
            "bus": lambda: vehicles.bus(self.builder, self.palette, name),
            "truck": lambda: vehicles.truck(self.builder, self.palette, name),
            "motorcycle": lambda: self.two_wheelers.motorcycle(name, True),
        }
        make[kind]()
        return name, {"car": 4.6, "bus": 11.6, "truck": 8.7, "motorcycle": 2.2}[kind]

    def add_traffic(self) -> None:
        """Vehicles ahead, oncoming, crossing, parked; cyclists; pedestrians."""
        self._vehicles_ahead()
        self._oncoming()
        for side in (-1, 1):
            if self.section.outer_m > 1 and self.rng.random() < 0.6:
                self._parked(side)
            else:
                self._cyclists(side)
        self._crossing_traffic()
        self._cycle_racks()
        self._pedestrians()

    def _vehicles_ahead(self) -> None:
        rng = self.rng
        s = float(rng.uniform(11, 32))
        for chance in (0.6, 0.5, 0.5):
            if rng.random() > chance:
                break
            name, length = self._vehicle(
                {"car": 0.5, "truck": 0.2, "bus": 0.15, "motorcycle": 0.15}
            )
            s += length / 2
            offset = -self.section.lane_m / 2 + float(rng.uniform(-0.2, 0.2))
            self.movers.append(Mover(name, self.path, s, offset, self.ego_profile))
            s += length / 2 + float(rng.uniform(7, 22))

    def _oncoming(self) -> None:
        rng = self.rng
        profile = constant_speed(float(rng.uniform(4, 11)) if rng.random() < 0.85 else 0.0)
        s = float(rng.uniform(8, 30))
        reach = min(
            self.path.last_m - 15, 60 + self.travel_m + profile.distance(self.plan.duration_s)
        )
        density = float(rng.uniform(9, 34))
        for _ in range(round(9 * self.plan.business)):
            if s > reach:
                break
            name, length = self._vehicle(
                {"car": 0.55, "truck": 0.15, "bus": 0.15, "motorcycle": 0.15}
            )
            offset = self.section.lane_m / 2 + float(rng.uniform(-0.2, 0.2))
            self.movers.append(Mover(name, self.path, s + length / 2, offset, profile, -1))
            s += length + float(rng.uniform(0.5, 1.5)) * density

    def _parked(self, side: int) -> None:
        rng = self.rng
        still = constant_speed(0.0)
        s = float(rng.uniform(4, 12))
        fill = rng.uniform(0.3, 0.8)
        built = 0
        while s < self.travel_m + 60 and built < 10 * self.plan.business:
            clear = self._free(s, s + 9, 5) and all(abs(s + 3 - c) > 7.5 for c in self.crosswalks)
            if clear and rng.random() < fill:
                name, length = "", 2.2
                if rng.random() < 0.2:
                    name = self._next("motorcycle")
                    self.two_wheelers.motorcycle(name, False)
                else:
                    name, length = self._vehicle({"car": 0.88, "truck": 0.12})
                offset = side * (self.section.lane_m + self.section.outer_m / 2 + 0.05)
                self.movers.append(
                    Mover(name, self.path, s + length / 2, offset, still, -1 if side > 0 else 1)
                )
                s += length
                built += 1
            s += float(rng.uniform(0.9, 5.0))

    def _cyclists(self, side: int) -> None:
        rng = self.rng
        direction = -1 if side > 0 else 1
        count = round(int(rng.integers(1, 5)) * self.plan.business)
        slow = min(1.0, max(0.3, self.ego_profile.speed(1.0) / 8))
        for _ in range(count):
            motor = rng.random() < 0.3
            name = self._next("rider")
            if motor:
                self.two_wheelers.motorcycle(name, True)
            else:
                self.two_wheelers.bicycle(name, True)
            speed = float(rng.uniform(3, 6)) * (slow if direction > 0 else 1.0)
            far = self.plan.business
            start = float(rng.uniform(7, 45 * far) if direction > 0 else rng.uniform(12, 80 * far))
            offset = side * (
                self.section.lane_m + float(rng.uniform(0.6, max(0.7, self.section.outer_m - 0.7)))
                if self.section.outer_m > 1
                else self.section.half_road_m - 0.45
            )
            self.movers.append(
                Mover(name, self.path, start, offset, constant_speed(speed), direction)
            )

    def _crossing_traffic(self) -> None:
        if self.cross_path is None:
            return
        rng = self.rng
        standing = self.ego_profile.distance(self.plan.duration_s) < 2.0
        for direction in (-1, 1):
            if rng.random() < 0.35:
                continue
            offset = -direction * self.cross_section.lane_m / 2
            stop = self.section.sidewalk_outer_m + 1.0
            s = -direction * (stop if not standing else stop + rng.uniform(0, 40))
            # They wait for the ego vehicle's road, and drive only while the ego vehicle waits.
            profile = constant_speed(float(rng.uniform(4, 8)) if standing else 0.0)
            for _ in range(int(rng.integers(1, 4))):
                name, length = self._vehicle(
                    {"car": 0.7, "bus": 0.1, "truck": 0.1, "motorcycle": 0.1}
                )
                self.movers.append(
                    Mover(
                        name,
                        self.cross_path,
                        s - direction * length / 2,
                        offset,
                        profile,
                        direction,
                        range_m=(-ARM_M + 6, ARM_M - 6),
                    )
                )
                s -= direction * (length + float(rng.uniform(1.5, 5)))

    def _cycle_racks(self) -> None:
        rng = self.rng
        still = constant_speed(0.0)
        for _ in range(round(int(rng.integers(1, 4)) * self.plan.business)):
            side = int(rng.choice((-1, 1)))
            start = float(rng.uniform(6, self.travel_m + 25))
            motor = rng.random() < 0.3
            for k in range(int(rng.integers(2, 5))):
                s = start + (1.1 if motor else 0.75) * k
                if not self._free(s, s, 0.8):
                    continue
                name = self._next("rack")
                if motor:
                    self.two_wheelers.motorcycle(name, False)
                else:
                    self.two_wheelers.bicycle(name, False)
                self.movers.append(
                    Mover(
                        name,
                        self.path,
                        s,
                        side * (self.section.sidewalk_inner_m + 1.0),
                        still,
                        height_m=SIDEWALK_Z,
                        yaw_extra=math.pi / 2 + float(rng.uniform(-0.5, 0.1)),
                    )
                )

    def _pedestrians(self) -> None:
        rng = self.rng
        section = self.section
        for _ in range(round(int(rng.integers(7, 14)) * self.plan.business)):
            person = pedestrian(self.builder, self.palette, self._next("pedestrian"))
            side = int(rng.choice((-1, 1)))
            offset = side * float(
                rng.uniform(section.sidewalk_inner_m + 0.4, section.sidewalk_outer_m - 0.35)
            )
            direction = int(rng.choice((-1, 1)))
            speed = float(rng.uniform(0.8, 1.7)) if rng.random() < 0.75 else 0.0
            start = float(rng.uniform(5, self.travel_m + 32))
            low, high = -math.inf, math.inf
            gap = self._gap(0.6)
            if gap is not None:
                if gap[0] < start < gap[1]:
                    start = gap[0] - 1
                # They wait at the kerb of the crossing street.
                low, high = (low, gap[0]) if start < gap[0] else (gap[1], high)
            self.walkers.append(
                Walker(
                    person,
                    Mover(
                        person.body.name,
                        self.path,
                        start,
                        offset,
                        constant_speed(speed),
                        direction,
                        SIDEWALK_Z,
                        float(rng.uniform(-1.5, 1.5)) if speed == 0 else 0.0,
                        (low, high),
                    ),
                )
            )
        for s in self.crosswalks:
            # Only where the ego vehicle does not arrive during the drive.
            if s < self.travel_m + 6 or rng.random() < 0.3:
                continue
            at = self.path.pose(s)
            way = straight_path(Pose2D(at.x, at.y, at.yaw + math.pi / 2), -12, 12)
            for _ in range(int(rng.integers(1, 4))):
                person = pedestrian(self.builder, self.palette, self._next("crossing"))
                direction = int(rng.choice((-1, 1)))
                reach = section.half_road_m - 0.2
                self.walkers.append(
                    Walker(
                        person,
                        Mover(
                            person.body.name,
                            way,
                            -direction * float(rng.uniform(-0.2, 1)) * reach,
                            float(rng.uniform(-1.2, 1.2)),
                            constant_speed(float(rng.uniform(0.9, 1.6))),
                            direction,
                            0.0,
                            0.0,
                            (-reach, reach),
                        ),
                    )
                )

    # -- light ---------------------------------------------------------------------------------
    def light(self) -> tuple[float, float, float]:
        """Sky, sun and ambient light; returns the sun's direction."""
        rng, builder, weather = self.rng, self.builder, self.plan.weather
        elevation = float(rng.uniform(0.3, 1.15))
        azimuth = float(rng.uniform(-math.pi, math.pi))
        warmth = float(np.clip((0.7 - elevation) / 0.45, 0, 1)) if not weather.overcast else 0.0
        if weather.overcast:
            elevation = 1.3
        direction = (
            -math.cos(azimuth) * math.cos(elevation),
            -math.sin(azimuth) * math.cos(elevation),
            -math.sin(elevation),
        )
        builder.texture("sky", textures.sky(rng, weather.overcast, warmth), skybox=True)
        visual = builder.spec.visual
        visual.headlight.ambient = [weather.ambient] * 3
        visual.headlight.diffuse = [0.06] * 3
        visual.headlight.specular = [0.0] * 3
        sun = np.array([0.74, 0.71, 0.66]) * (1 - warmth) + np.array([0.82, 0.58, 0.38]) * warmth
        builder.world.add_light(
            name=SUN,
            type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
            dir=list(direction),
            pos=[0, 0, 60],
            diffuse=(sun * weather.sun).tolist(),
            specular=[0.3 * weather.sun] * 3,
            ambient=[0.0] * 3,
            castshadow=weather.shadows,
        )
        return direction

    def ego_body(self) -> mujoco.MjsBody:
        """The body that carries the sensors. It has no geometry: the rig never sees itself."""
        return self.builder.moving_body(EGO_BODY)


def build_street(
    rng: np.random.Generator,
    plan: StreetPlan,
    add_sensors: Callable[[mujoco.MjSpec, mujoco.MjsBody], None],
) -> Street:
    """Make a street from a random generator.

    Args:
        rng: source of everything that the plan leaves open.
        plan: length of the drive, weather and wishes.
        add_sensors: mounts the rig's cameras on the ego body and sets the frame buffer's size.
    """
    maker = _StreetMaker(rng, plan)
    maker.lay_ground()
    maker.line_with_plots()
    maker.furnish()
    maker.add_traffic()
    sun_direction = maker.light()
    add_sensors(maker.builder.spec, maker.ego_body())
    mover = Mover(EGO_BODY, maker.path, 0.0, -maker.section.lane_m / 2, maker.ego_profile)
    return Street(
        model=maker.builder.compile(),
        ego=EgoMotion(mover, float(rng.uniform(0, 6.28))),
        movers=tuple(maker.movers),
        walkers=tuple(maker.walkers),
        lamps=tuple(maker.builder.lamps),
        layout=maker.layout,
        crossing_m=maker.crossing_m,
        turn_rad=maker.path.turn_rad,
        sun_direction=sun_direction,
        shadows=plan.weather.shadows,
    )
