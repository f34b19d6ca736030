"""From a rendered picture to the light that reaches a lens: night, wet roads, airlight, glow, rain.

Applied alike to the camera's picture and to every sub-frame of the event camera, before events are
computed. Formulas:

* decoding: ``L = (v / 255) ** 2.2`` of the rendered sRGB value;
* night: ``L = albedo * E``, with ``E`` the sum of a moon term, of street lamps ``I cos / d^2`` and of
  the head lamps ``I(azimuth, elevation) cos / d^2``; surface normals come from the depth picture;
* wet road: ``L = (1 - 0.5 w) (1 - w F) L + w F R`` with the mirrored picture ``R`` and Schlick's Fresnel
  term ``F = 0.04 + 0.96 (1 - cos)^5`` on the carriageway; ``w`` is the wetness times a pattern of puddles;
* extinction (Koschmieder): ``L = L T + A (1 - T)``, ``T = exp(-beta d)`` with the distance ``d``;
* glow: lamps in view add a disc and a halo;
* rain streaks: ``L = L (1 - m / 4) + (0.22 + A / 2) m / 4`` along short bright lines ``m``.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from anyseg_ros.modalities.geometry import CameraModel
from training.simulation.renderer import View
from training.simulation.scene_builder import Lamp
from training.simulation.weather import Weather

Radiance = npt.NDArray[np.float32]
Floats = npt.NDArray[np.floating[Any]]

_DECODE = ((np.arange(256) / 255.0) ** 2.2).astype(np.float32)
SKY_DISTANCE_M = 2000.0
NIGHT_SKY = np.array([0.006, 0.007, 0.012], np.float32)
MOON = np.array([0.012, 0.013, 0.017], np.float32)
HEAD_LAMP = np.array([1.0, 0.96, 0.86], np.float32) * 60.0
STREET_LAMP_POWER = 14.0
LAMP_REACH_M = 45.0
LIT_LAMPS = 6
LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)


def luminance(light: Radiance) -> npt.NDArray[np.float32]:
    """Relative luminance float32[H, W] of linear RGB."""
    return np.asarray(cv2.transform(light, LUMA[None]), np.float32)


class Atmosphere:
    """The weather between one camera and the street."""

    def __init__(self, weather: Weather, camera: CameraModel) -> None:
        self.weather = weather
        self._rays = camera.rays()
        self._ray_length = np.linalg.norm(self._rays, axis=-1).astype(np.float32)

    @property
    def needs_depth(self) -> bool:
        """Whether this weather changes a picture at all beyond decoding."""
        weather = self.weather
        return weather.dark or weather.wetness > 0 or weather.extinction_per_m > 0

    def radiance(
        self,
        rgb: npt.NDArray[np.uint8],
        depth_m: npt.NDArray[np.float32],
        view: View,
        lamps: tuple[Lamp, ...],
        lamp_positions: npt.NDArray[np.float64],
        lamp_facings: npt.NDArray[np.float64],
        rng: np.random.Generator,
    ) -> Radiance:
        """Linear RGB at the lens, float32[H, W, 3].

        Args:
            rgb: rendered picture, sRGB.
            depth_m: z-depth, inf for sky.
            view: from where.
            lamps: lamps of the street.
            lamp_positions: where they are in the world.
            lamp_facings: where they shine.
            rng: places the rain streaks.
        """
        light = _DECODE[rgb]
        weather = self.weather
        if not self.needs_depth:
            return light
        sky = ~np.isfinite(depth_m)
        depth = np.where(sky, np.float32(FAR_DEPTH_M), depth_m)
        if weather.dark or weather.wetness > 0:
            points = self._rays * depth[..., None]
            rotation = view.world_from_optical.rotation.astype(np.float32)
            world = points @ rotation.T + view.world_from_optical.translation.astype(np.float32)
        if weather.dark:
            # Light varies slowly over a surface: half the resolution saves three quarters of the time.
            half = np.s_[::2, ::2]
            light *= cv2.resize(
                self._illumination(points[half], world[half], view, lamps, lamp_positions),
                (depth.shape[1], depth.shape[0]),
                interpolation=cv2.INTER_LINEAR,
            )
            light[sky] = NIGHT_SKY
        if weather.wetness > 0:
            light = self._wet_road(light, world, sky, view)
        if weather.extinction_per_m > 0:
            distance = np.where(sky, np.float32(SKY_DISTANCE_M), depth * self._ray_length)
            transmission = np.exp(-weather.extinction_per_m * distance)[..., None]
            air = np.array(weather.airlight, np.float32)
            light = light * transmission + air * (1 - transmission)
        if weather.glow > 0:
            self._add_glow(light, depth, view, lamps, lamp_positions, lamp_facings)
        if weather.streaks > 0:
            light = self._rain(light, rng)
        return light

    # -- night ---------------------------------------------------------------------------------
    def _illumination(
        self,
        points: Floats,
        world: Floats,
        view: View,
        lamps: tuple[Lamp, ...],
        lamp_positions: npt.NDArray[np.float64],
    ) -> Radiance:
        """Irradiance on the visible surfaces at some points, float32[H, W, 3]."""
        across = np.empty_like(points)
        across[:, 1:-1] = points[:, 2:] - points[:, :-2]
        across[:, 0], across[:, -1] = across[:, 1], across[:, -2]
        down = np.empty_like(points)
        down[1:-1] = points[2:] - points[:-2]
        down[0], down[-1] = down[1], down[-2]
        normal = np.cross(down, across)
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-9
        # Head lamps sit below the camera and in front of it.
        offset = points - np.array([0.0, 0.85, 0.45], np.float32)
        squared = (offset * offset).sum(-1)
        distance = np.sqrt(squared)
        facing = np.abs((normal * offset).sum(-1)) / (distance + 1e-6)
        azimuth = offset[..., 0] / np.maximum(offset[..., 2], 0.3)
        elevation = offset[..., 1] / np.maximum(offset[..., 2], 0.3)
        beam = np.exp(-((azimuth / 0.42) ** 2)) * np.exp(
            -(((elevation - 0.02) / np.where(elevation < 0.02, 0.05, 0.16)) ** 2)
        )
        beam += 0.05 * np.exp(-((azimuth / 0.9) ** 2) - (elevation / 0.5) ** 2)
        # A fifth of the incidence is taken as diffuse inter-reflection, so that nothing is black.
        head = beam * (0.2 + 0.8 * facing) / (squared + 12.0)
        total = MOON + head[..., None] * HEAD_LAMP
        world_normal = normal @ view.world_from_optical.rotation.astype(np.float32).T
        eye = view.world_from_optical.translation
        street = [
            (float(np.linalg.norm(p - eye)), k)
            for k, (lamp, p) in enumerate(zip(lamps, lamp_positions, strict=True))
            if lamp.lights_ground
        ]
        for far, k in sorted(street)[:LIT_LAMPS]:
            if far > LAMP_REACH_M + 25:
                continue
            to_lamp = lamp_positions[k].astype(np.float32) - world
            squared = (to_lamp * to_lamp).sum(-1)
            cosine = np.abs((world_normal * to_lamp).sum(-1)) / np.sqrt(squared + 1e-6)
            power = STREET_LAMP_POWER * (0.15 + 0.85 * cosine) / (squared + 4.0)
            # The shade of a street lamp lets no light upwards.
            power *= np.clip(to_lamp[..., 2] * 0.7, 0, 1)
            total = total + power[..., None] * np.array(lamps[k].color, np.float32)
        return total.astype(np.float32)

    # -- rain ----------------------------------------------------------------------------------
    def _wet_road(
        self,
        light: Radiance,
        world: Floats,
        sky: npt.NDArray[np.bool_],
        view: View,
    ) -> Radiance:
        """Mirror what stands above the carriageway in it."""
        height, width = sky.shape
        ground = (np.abs(world[..., 2]) < 0.05) & ~sky
        if not ground.any():
            return light
        # Half resolution: a wet road blurs what it mirrors anyway.
        small = np.s_[::2, ::2]
        upright = (~sky[small]) & (world[small][..., 2] > 0.05)
        mirrored = world[small][upright] * np.array([1, 1, -1], np.float32)
        camera = view.camera
        local = view.world_from_optical.inverse().apply(mirrored)
        column = np.rint(camera.cx + camera.fx * local[:, 0] / local[:, 2]).astype(int) // 2
        row = np.rint(camera.cy + camera.fy * local[:, 1] / local[:, 2]).astype(int) // 2
        half_height, half_width = sky[small].shape
        inside = (column >= 0) & (column < half_width) & (row >= 0) & (row < half_height)
        column, row = column[inside], row[inside]
        order = np.argsort(-local[inside, 2], kind="stable")
        picture: Floats = np.zeros((half_height, half_width, 4), np.float32)
        picture[row[order], column[order], :3] = light[small][upright][inside][order]
        picture[row[order], column[order], 3] = 1.0
        picture = np.asarray(cv2.blur(picture, (3, 9)), np.float32)
        weight = np.minimum(picture[..., 3:], 1.0)
        open_sky = np.array(self.weather.airlight, np.float32) * 1.15
        mirror = picture[..., :3] + (1 - weight) * open_sky
        mirror = cv2.resize(mirror, (width, height), interpolation=cv2.INTER_LINEAR)
        to_eye = view.world_from_optical.translation[2] - world[..., 2]
        offset = world - view.world_from_optical.translation.astype(np.float32)
        slant = np.clip(to_eye / (np.linalg.norm(offset, axis=-1) + 1e-6), 0, 1)
        fresnel = 0.04 + 0.96 * (1 - slant) ** 5
        x, y = world[..., 0], world[..., 1]
        puddles = 0.5 + 0.25 * (
            np.sin(0.9 * x + 1.7 * np.sin(0.31 * y)) + np.sin(1.1 * y + 1.3 * np.sin(0.37 * x))
        )
        wet = self.weather.wetness * (0.35 + 0.65 * puddles)
        strength = (wet * fresnel * ground).astype(np.float32)[..., None]
        dark = (0.5 * wet * ground).astype(np.float32)[..., None]
        wet_light = light * (1 - dark) * (1 - strength) + strength * mirror
        return np.asarray(wet_light, np.float32)

    def _rain(self, light: Radiance, rng: np.random.Generator) -> Radiance:
        height, width = light.shape[:2]
        count = int(self.weather.streaks * height * width / 1000)
        mask = np.zeros((height, width), np.uint8)
        x = rng.uniform(0, width, count)
        y = rng.uniform(-10, height, count)
        length = rng.uniform(0.02, 0.075, count) * height
        slant = rng.normal(0.05, 0.03, count) + 0.12 * (x / width - 0.5)
        strength = rng.integers(60, 200, count)
        for k in range(count):
            start = (round(x[k] * 8), round(y[k] * 8))
            end = (round((x[k] + slant[k] * length[k]) * 8), round((y[k] + length[k]) * 8))
            cv2.line(mask, start, end, int(strength[k]), 1, cv2.LINE_AA, 3)
        streak = (mask.astype(np.float32) / 255)[..., None]
        bright = 0.22 + 0.5 * np.array(self.weather.airlight, np.float32)
        return np.asarray(light * (1 - 0.25 * streak) + 0.25 * streak * bright, np.float32)

    # -- lamps ---------------------------------------------------------------------------------
    def _add_glow(
        self,
        light: Radiance,
        depth: npt.NDArray[np.float32],
        view: View,
        lamps: tuple[Lamp, ...],
        positions: npt.NDArray[np.float64],
        facings: npt.NDArray[np.float64],
    ) -> None:
        """Add discs and halos of the lamps in view, in place."""
        camera, weather = view.camera, self.weather
        if not lamps:
            return
        local = view.world_from_optical.inverse().apply(positions)
        eye = view.world_from_optical.translation
        height, width = depth.shape
        for lamp, at, position, facing in zip(lamps, local, positions, facings, strict=True):
            z = float(at[2])
            if z < 1.0 or z > 120:
                continue
            u = camera.cx + camera.fx * at[0] / z
            v = camera.cy + camera.fy * at[1] / z
            column, row = round(u), round(v)
            if not (0 <= column < width and 0 <= row < height):
                continue
            if depth[row, column] < z - 0.35:
                continue
            strength = 1.0
            if np.any(facing):
                to_eye = eye - position
                strength = float(facing @ to_eye / np.linalg.norm(to_eye))
                if strength <= 0:
                    continue
            strength *= float(np.exp(-weather.extinction_per_m * z))
            disc = max(camera.fx * lamp.radius_m / z, 0.7)
            reach = int(min(disc * 6 + 2, 48))
            x0, x1 = max(0, column - reach), min(width, column + reach + 1)
            y0, y1 = max(0, row - reach), min(height, row + reach + 1)
            dx = np.arange(x0, x1, dtype=np.float32) - np.float32(u)
            dy = np.arange(y0, y1, dtype=np.float32) - np.float32(v)
            squared = dx[None] ** 2 + dy[:, None] ** 2
            core = np.exp(-squared / np.float32(2 * (0.6 * disc) ** 2))
            halo = np.exp(-np.sqrt(squared) / np.float32(1.3 * disc))
            shape = (1.6 * core + 0.22 * halo) * np.float32(strength * weather.glow)
            light[y0:y1, x0:x1] += shape[..., None] * np.array(lamp.color, np.float32)


FAR_DEPTH_M = 250.0
