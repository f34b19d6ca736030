"""Calibration of a rig, as YAML: the segmentation grid and where each sensor sits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from anyseg_ros.modalities.geometry import CameraModel, RigidTransform
from anyseg_ros.modality import Modality


class CalibrationError(ValueError):
    """A calibration that cannot be used; the message names the file and the field."""


@dataclass(frozen=True)
class SensorCalibration:
    """Where one sensor sits, and its intrinsics if it makes images."""

    frame_id: str
    grid_from_sensor: RigidTransform = field(default_factory=RigidTransform.identity)
    """From the sensor's frame (optical for image sensors) to the grid's optical frame."""
    camera: CameraModel | None = None
    """Intrinsics; ``None`` for a LiDAR."""

    def is_like(self, other: SensorCalibration) -> bool:
        """Whether the two differ in nothing but the frame's name."""
        mine, theirs = self.grid_from_sensor, other.grid_from_sensor
        return (
            self.camera == other.camera
            and np.array_equal(mine.rotation, theirs.rotation)
            and np.array_equal(mine.translation, theirs.translation)
        )


@dataclass(frozen=True)
class CalibrationFile:
    """What a calibration file says of the segmentation grid and the sensors around it."""

    grid: CameraModel | None
    """``None`` if the file does not tell: the grid is then the camera's view, as CameraInfo has it."""
    grid_frame_id: str
    sensors: Mapping[Modality, SensorCalibration]
    unplaced: Mapping[Modality, CameraModel | None] = field(default_factory=dict)
    """Sensors that a file names without saying where they sit, with their intrinsics if it gives those.
    The place must come from elsewhere: identity would be a guess, and draw a LiDAR nowhere."""

    def camera_of(self, modality: Modality) -> CameraModel | None:
        """A sensor's intrinsics, whether its place is known or not; ``None`` if they are not given."""
        sensor = self.sensors.get(modality)
        return sensor.camera if sensor is not None else self.unplaced.get(modality)


@dataclass(frozen=True)
class RigCalibration(CalibrationFile):
    """The same, with a grid."""

    grid: CameraModel


_CAMERA_FIELDS = ("width", "height", "fx", "fy", "cx", "cy")


def _camera_to_dict(camera: CameraModel) -> dict[str, Any]:
    data: dict[str, Any] = {name: getattr(camera, name) for name in _CAMERA_FIELDS}
    if camera.distorted:
        data["distortion_model"] = camera.distortion_model
        data["distortion"] = list(camera.distortion)
    return data


def _camera_from_dict(data: Any, where: str) -> CameraModel:
    if not isinstance(data, Mapping):
        raise CalibrationError(f"{where} must be a mapping with {', '.join(_CAMERA_FIELDS)}")
    known = {*_CAMERA_FIELDS, "distortion_model", "distortion", "frame_id"}
    missing = [name for name in _CAMERA_FIELDS if name not in data]
    unknown = sorted(set(data) - known)
    if missing or unknown:
        raise CalibrationError(
            f"{where}: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}"
        )
    try:
        for side in ("width", "height"):
            if int(data[side]) != data[side]:
                raise ValueError(f"{side} is {data[side]}; expected a whole number of pixels")
        return CameraModel(
            width=int(data["width"]),
            height=int(data["height"]),
            fx=float(data["fx"]),
            fy=float(data["fy"]),
            cx=float(data["cx"]),
            cy=float(data["cy"]),
            distortion_model=str(data.get("distortion_model", "")),
            distortion=tuple(float(v) for v in data.get("distortion", ())),
        )
    except (TypeError, ValueError, OverflowError) as error:  # infinity is no whole number
        raise CalibrationError(f"{where}: {error}") from None


def _transform_from_dict(data: Any, where: str) -> RigidTransform:
    if not isinstance(data, Mapping) or set(data) != {"translation_m", "rotation_xyzw"}:
        raise CalibrationError(f"{where} must have exactly translation_m and rotation_xyzw")
    try:
        return RigidTransform.from_quaternion(data["rotation_xyzw"], data["translation_m"])
    except (TypeError, ValueError) as error:
        raise CalibrationError(f"{where}: {error}") from None


def calibration_to_dict(rig: RigCalibration) -> dict[str, Any]:
    """The YAML document of a rig, as plain Python data."""
    sensors: dict[str, Any] = {}
    for modality, sensor in sorted(rig.sensors.items()):
        entry: dict[str, Any] = {"frame_id": sensor.frame_id}
        if sensor.camera is not None:
            entry["intrinsics"] = _camera_to_dict(sensor.camera)
        entry["grid_from_sensor"] = {
            "translation_m": [float(v) for v in sensor.grid_from_sensor.translation],
            "rotation_xyzw": [float(v) for v in sensor.grid_from_sensor.quaternion_xyzw],
        }
        sensors[modality.label] = entry
    for modality, camera in sorted(rig.unplaced.items()):
        sensors[modality.label] = {"intrinsics": _camera_to_dict(camera)} if camera else {}
    return {
        "grid": {"frame_id": rig.grid_frame_id, **_camera_to_dict(rig.grid)},
        "sensors": sensors,
    }


def calibration_from_dict(data: Any, where: str = "calibration") -> CalibrationFile:
    """Invert :func:`calibration_to_dict`; without the section ``grid`` it is the camera's view.

    A sensor without ``grid_from_sensor`` is unplaced, except the camera: the grid is its own view.

    Returns:
        A :class:`RigCalibration` if there is a grid, or a camera with intrinsics, whose view it then is.

    Raises:
        CalibrationError: naming ``where`` and the field that is missing, unknown or malformed.
    """
    if not isinstance(data, Mapping) or "sensors" not in data or set(data) - {"grid", "sensors"}:
        found = ", ".join(map(repr, data)) if isinstance(data, Mapping) else type(data).__name__
        raise CalibrationError(
            f"{where}: expected the section 'sensors' and, unless the grid is the camera's view, 'grid'; "
            f"found {found or 'nothing'}"
        )
    grid = _camera_from_dict(data["grid"], f"{where}: grid") if "grid" in data else None
    sensors: dict[Modality, SensorCalibration] = {}
    unplaced: dict[Modality, CameraModel | None] = {}
    if not isinstance(data["sensors"], Mapping):
        raise CalibrationError(
            f"{where}: 'sensors' must be a mapping from sensor to its calibration"
        )
    for name, entry in data["sensors"].items():
        spot = f"{where}: sensors/{name}"
        try:
            modality = Modality.from_label(str(name))
        except ValueError as error:
            raise CalibrationError(f"{spot}: {error}") from None
        if not isinstance(entry, Mapping):
            raise CalibrationError(f"{spot} must be a mapping")
        unknown = sorted(set(entry) - {"frame_id", "intrinsics", "grid_from_sensor"})
        if unknown:
            raise CalibrationError(f"{spot}: unknown {unknown}")
        camera = None
        if "intrinsics" in entry:
            camera = _camera_from_dict(entry["intrinsics"], f"{spot}/intrinsics")
        if "grid_from_sensor" in entry:
            if modality is Modality.CAMERA and grid is None:
                raise CalibrationError(
                    f"{spot}/grid_from_sensor: without a section 'grid' the grid is the camera's view: give "
                    "the grid, or leave this out"
                )
            transform = _transform_from_dict(entry["grid_from_sensor"], f"{spot}/grid_from_sensor")
        elif modality is Modality.CAMERA:
            transform = RigidTransform.identity()
        else:
            unplaced[modality] = camera
            continue
        frame_id = str(entry.get("frame_id") or "")
        sensors[modality] = SensorCalibration(frame_id, transform, camera)
    if grid is not None:
        return RigCalibration(grid, str(data["grid"].get("frame_id") or ""), sensors, unplaced)
    view = sensors.get(Modality.CAMERA)
    if view is not None and view.camera is not None:
        return RigCalibration(view.camera.undistorted(), view.frame_id, sensors, unplaced)
    return CalibrationFile(None, "", sensors, unplaced)


def load_calibration_file(path: Path) -> CalibrationFile:
    """Read from YAML what is known of a rig; the grid may be left to CameraInfo.

    Raises:
        CalibrationError: if the file is missing, no YAML, or misses a field.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CalibrationError(f"cannot read calibration file {path}: {error}") from None
    return calibration_from_dict(data, str(path))


def load_calibration(path: Path) -> RigCalibration:
    """Read a rig's calibration with its grid from YAML.

    Raises:
        CalibrationError: if the file is missing, no YAML, or misses a field or the grid.
    """
    calibration = load_calibration_file(path)
    if not isinstance(calibration, RigCalibration):
        raise CalibrationError(
            f"{path}: the section 'grid' is missing, and so are the camera's intrinsics, whose view it would "
            "be: give one of them; only the node takes them from CameraInfo"
        )
    return calibration


def save_calibration(rig: RigCalibration, path: Path) -> None:
    """Write a rig's calibration as YAML."""
    path.write_text(yaml.safe_dump(calibration_to_dict(rig), sort_keys=False))
