"""A drive through one street: what each sensor delivers at each instant.

Everything random comes from generators keyed by (seed, drive, purpose, instant), so that a result does
not depend on what was captured before it or by which process.
"""

from __future__ import annotations

from types import TracebackType

import numpy as np
import numpy.typing as npt

from anyseg_ros.modalities.sensor_data import EventPacket, LidarScan
from anyseg_ros.modality import Modality
from training.simulation import camera_sensor, depth_sensor, failures, lidar_sensor
from training.simulation.atmosphere import Atmosphere, Radiance
from training.simulation.event_sensor import EventSensor, join_packets
from training.simulation.renderer import Renderer
from training.simulation.rig import Rig
from training.simulation.street import StreetPlan, build_street

SCENE, PIXELS, RAIN, NOISE = range(4)
"""Purposes of random generators; sensors add their id to the last two."""


class Drive:
    """A street, the rig in it, and their sensors. Use it as a context manager, or :meth:`close` it."""

    def __init__(self, key: tuple[int, ...], plan: StreetPlan, rig: Rig) -> None:
        """Build the street.

        Args:
            key: integers that name the drive; the same key and plan give the same bytes.
            plan: length, weather and wishes.
            rig: the sensors.
        """
        self.key, self.plan, self.rig = key, plan, rig
        self.weather = plan.weather
        self.street = build_street(np.random.default_rng([*key, SCENE]), plan, rig.mount)
        self.renderer = Renderer(self.street, rig)
        self._atmospheres = {m: Atmosphere(self.weather, c) for m, c in rig.cameras.items()}

    def close(self) -> None:
        """Free the renderer."""
        self.renderer.close()

    def __enter__(self) -> Drive:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _rng(self, purpose: int, modality: Modality, t: float) -> np.random.Generator:
        # Tenths of a millisecond, moved above zero, tell instants apart.
        return np.random.default_rng([*self.key, purpose, int(modality), round((t + 1000.0) * 1e4)])

    def _light(self, modality: Modality, t: float) -> Radiance:
        renderer = self.renderer
        renderer.pose(t)
        rgb, depth_m = renderer.color_and_depth(modality)
        positions, facings = renderer.lamp_positions()
        return self._atmospheres[modality].radiance(
            rgb,
            depth_m,
            renderer.view(modality),
            self.street.lamps,
            positions,
            facings,
            self._rng(RAIN, modality, t),
        )

    def camera(self, t: float, failure: str | None = None) -> npt.NDArray[np.uint8]:
        """Picture of the RGB camera at ``t`` seconds, uint8[H, W, 3]."""
        failures.check_failure(failure)
        rng = self._rng(NOISE, Modality.CAMERA, t)
        if failure == "motion_blur":
            times = failures.blur_times(t)
            pictures = [self._light(Modality.CAMERA, float(s)) for s in times]
            light: Radiance = np.asarray(np.mean(pictures, 0, np.float32))
        else:
            light = self._light(Modality.CAMERA, t)
        return camera_sensor.expose(light, failures.exposure_gain(failure, rng), rng)

    def labels(self, t: float) -> npt.NDArray[np.uint8]:
        """True class ids in the segmentation grid at ``t``, uint8[H, W]."""
        self.renderer.pose(t)
        return self.renderer.labels_and_depth(Modality.CAMERA)[0]

    def depth(self, t: float) -> npt.NDArray[np.uint16]:
        """Picture of the depth camera at ``t``, uint16[H, W] in millimetres, 0 invalid."""
        self.renderer.pose(t)
        _, exact = self.renderer.labels_and_depth(Modality.DEPTH)
        rng = self._rng(NOISE, Modality.DEPTH, t)
        return depth_sensor.measure(exact, self.weather, self.rig.disparity_steps, rng)

    def lidar(self, t: float, failure: str | None = None) -> LidarScan:
        """Scan at ``t``."""
        failures.check_failure(failure)
        self.renderer.pose(t)
        rng = self._rng(NOISE, Modality.LIDAR, t)
        return lidar_sensor.scan(self.renderer, self.weather, failure, rng)

    def event_sensor(self, failure: str | None = None) -> EventSensor:
        """An event camera of this drive, switched on anew."""
        failures.check_failure(failure)
        camera = self.rig.cameras[Modality.EVENT]
        pixels = np.random.default_rng([*self.key, PIXELS])
        return EventSensor(
            camera.width,
            camera.height,
            self.weather,
            failure,
            pixels,
            self.rig.event_threshold,
            self.rig.event_limit_hz,
        )

    def watch(self, sensor: EventSensor, t: float, stamp_ns: int) -> EventPacket:
        """Show an event camera the street at ``t``; returns the events since it last looked."""
        light = self._light(Modality.EVENT, t)
        return sensor.see(stamp_ns, light, self._rng(NOISE, Modality.EVENT, t))

    def events(
        self, times: npt.NDArray[np.float64], epoch_ns: int, failure: str | None = None
    ) -> EventPacket:
        """Events between the first and the last of some sub-frame times (seconds of the drive).

        Args:
            times: float64[N], ascending.
            epoch_ns: stamp of second 0 of the drive.
            failure: see :mod:`failures`.
        """
        sensor = self.event_sensor(failure)
        return join_packets(
            [self.watch(sensor, float(t), epoch_ns + round(float(t) * 1e9)) for t in times]
        )
