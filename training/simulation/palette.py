"""The materials that the objects of one street share, drawn once from its random generator."""

from __future__ import annotations

import numpy as np

from training.simulation import textures
from training.simulation.scene_builder import Paint, SceneBuilder

FACADES = 5
SHOP_FRONTS = 2
LEAVES = 3


class Palette:
    """Named paints of a street. Reflectivities are typical for 905 nm LiDAR."""

    def __init__(self, builder: SceneBuilder) -> None:
        rng = builder.rng
        tex = builder.texture
        self.asphalt = builder.textured(tex("asphalt", textures.asphalt(rng)), 0.17)
        self.paving = builder.textured(tex("paving", textures.paving(rng)), 0.3)
        grass = np.array([88, 118, 56]) * rng.uniform(0.8, 1.15) + rng.uniform(-12, 12, 3)
        tex("grass", textures.mottled(rng, 256, grass, 60))
        self.grass = builder.textured("grass", 0.42)
        self.lawn = builder.textured("grass", 0.42, repeats_per_m=0.2)
        self.brick = builder.textured(tex("brick", textures.brick(rng)), 0.3, repeats_per_m=0.7)
        self.bark = builder.textured(
            tex("bark", textures.mottled(rng, 64, [92, 70, 50], 60, (4, 8, 16, 32))), 0.3
        )
        self.leaves: list[Paint] = []
        for k in range(LEAVES):
            green = np.array([60, 100, 40]) * rng.uniform(0.75, 1.25)
            if rng.random() < 0.15:
                green = np.array([150, 105, 40]) * rng.uniform(0.8, 1.1)
            tex(f"leaf{k}", textures.mottled(rng, 128, green, 105, (16, 32, 64, 128)))
            self.leaves.append(builder.textured(f"leaf{k}", 0.5, repeats_per_m=0.8))
        self.facades = [
            builder.textured(tex(f"facade{k}", textures.facade(rng)), 0.33) for k in range(FACADES)
        ]
        self.shop_fronts = [
            builder.textured(tex(f"shop{k}", textures.shop_front(rng)), 0.22)
            for k in range(SHOP_FRONTS)
        ]
        # Sign faces are retro-reflective: bright in the camera and far brighter to a LiDAR.
        self.signs = {
            kind: builder.textured(tex(f"sign_{kind}", textures.sign(kind)), 1.0, emission=0.12)
            for kind in textures.SIGN_KINDS
        }
        self.marking = builder.paint((0.86, 0.86, 0.83), 0.75)
        self.glass = builder.paint((0.10, 0.13, 0.17), 0.06, 0.9, 0.8)
        self.black = builder.paint((0.06, 0.06, 0.065), 0.08)
        self.rubber = builder.paint((0.05, 0.05, 0.05), 0.06)
        metal = rng.uniform(0.3, 0.55)
        self.metal = builder.paint((metal, metal, metal * 1.04), 0.4, 0.4, 0.4)
        self.hub = builder.paint((0.6, 0.6, 0.62), 0.4, 0.5)
        self.wood = builder.paint(np.array([0.5, 0.36, 0.22]) * rng.uniform(0.6, 1.2), 0.35)
        self.fence = builder.paint(
            ((0.85, 0.85, 0.82), (0.2, 0.23, 0.22), (0.45, 0.33, 0.2))[int(rng.integers(3))], 0.4
        )
        self.concrete = builder.paint(np.array([0.6, 0.59, 0.56]) * rng.uniform(0.7, 1.1), 0.3)
        self.roof = builder.paint(np.array([0.36, 0.22, 0.18]) * rng.uniform(0.6, 1.2), 0.25)
        self.white = builder.paint((0.88, 0.88, 0.85), 0.6)
        self.lamp_white = builder.paint((1, 1, 0.92), 0.3, emission=0.8)
        self.lamp_red = builder.paint((0.85, 0.05, 0.05), 0.5, emission=0.35)
        self.signal_red = builder.paint((1, 0.1, 0.08), 0.3, emission=1)
        self.signal_green = builder.paint((0.1, 1, 0.45), 0.3, emission=1)
        self.signal_amber = builder.paint((1, 0.7, 0.1), 0.3, emission=1)
        self.signal_off = builder.paint((0.06, 0.06, 0.05), 0.1)

    def skin(self, builder: SceneBuilder) -> Paint:
        """A random skin colour."""
        return builder.paint(np.array([0.85, 0.65, 0.52]) * builder.rng.uniform(0.35, 1.1), 0.4)

    def cloth(self, builder: SceneBuilder, dark: bool = False) -> Paint:
        """A random colour of clothing."""
        low, high = (0.05, 0.35) if dark else (0.08, 0.9)
        return builder.paint(builder.rng.uniform(low, high, 3), 0.4)


CAR_COLORS = (
    (0.68, 0.08, 0.08),
    (0.1, 0.2, 0.5),
    (0.85, 0.85, 0.86),
    (0.12, 0.12, 0.13),
    (0.5, 0.52, 0.55),
    (0.1, 0.33, 0.2),
    (0.75, 0.6, 0.1),
    (0.35, 0.2, 0.15),
    (0.3, 0.45, 0.6),
)


def car_paint(builder: SceneBuilder) -> Paint:
    """A car's lacquer."""
    color = np.array(CAR_COLORS[int(builder.rng.integers(len(CAR_COLORS)))])
    return builder.paint(color * builder.rng.uniform(0.85, 1.15), 0.35, 0.7, 0.6)
