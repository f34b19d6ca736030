"""The rig's calibration as it becomes known: from the file, CameraInfo, parameters and TF."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from anyseg_ros.modalities import CameraModel, RigCalibration, RigidTransform, SensorCalibration
from anyseg_ros.modality import Modality
from anyseg_ros.ros.parameters import SensorParameters


class CalibrationSource:
    """Collects what is known of grid, intrinsics and extrinsics, and says what is missing.

    The calibration file comes first, then CameraInfo. Extrinsics: parameter, file, TF.
    """

    def __init__(
        self,
        sensors: Mapping[Modality, SensorParameters],
        modalities: Iterable[Modality],
        from_file: RigCalibration | None = None,
    ) -> None:
        self._parameters = {m: sensors[m] for m in modalities}
        self._grid_topic = sensors[Modality.CAMERA].camera_info_topic
        self._file = from_file
        self._infos: dict[Modality, tuple[CameraModel, str]] = {}
        self._frames: dict[Modality, str] = {}
        self._transforms: dict[Modality, RigidTransform] = {}

    @property
    def grid_frame_id(self) -> str:
        """Frame of the grid; empty while it is unknown."""
        grid = self._grid()
        return grid[1] if grid else ""

    def needs_camera_info(self, modality: Modality) -> bool:
        """Whether this sensor's CameraInfo would tell anything that the file does not."""
        if modality is Modality.CAMERA and self._file is None:
            return True
        if modality is Modality.LIDAR or modality not in self._parameters:
            return False
        in_file = self._file.sensors.get(modality) if self._file else None
        if modality is Modality.DEPTH and self._parameters[modality].registered:
            return False
        return in_file is None or in_file.camera is None

    def set_camera_info(self, modality: Modality, camera: CameraModel, frame_id: str) -> bool:
        """Note a CameraInfo; returns whether it says anything new."""
        if self._infos.get(modality) == (camera, frame_id):
            return False
        self._infos[modality] = (camera, frame_id)
        return True

    def set_frame(self, modality: Modality, frame_id: str) -> None:
        """Note the frame that a sensor's messages carry."""
        self._frames[modality] = frame_id

    def missing_transforms(self) -> dict[Modality, str]:
        """Sensors whose extrinsics must come from TF, with their frames where known."""
        return {
            modality: self._frames[modality]
            for modality in self._parameters
            if self._extrinsics(modality) is None and self._frames.get(modality)
        }

    def set_transform(self, modality: Modality, grid_from_sensor: RigidTransform) -> None:
        """Note a transform from TF."""
        self._transforms[modality] = grid_from_sensor

    def rig(self) -> RigCalibration | None:
        """The grid with every sensor that is fully calibrated; ``None`` without a grid."""
        grid = self._grid()
        if grid is None:
            return None
        sensors = {}
        for modality in self._parameters:
            if self.missing(modality):
                continue
            transform = self._extrinsics(modality)
            assert transform is not None
            frame = self._frames.get(modality) or grid[1]
            sensors[modality] = SensorCalibration(frame, transform, self._camera(modality))
        return RigCalibration(grid[0], grid[1], sensors)

    def missing(self, modality: Modality) -> str:
        """What this sensor waits for, as a sentence with the remedy; empty if nothing."""
        grid = self._grid()
        if grid is None:
            return (
                f"no segmentation grid: no CameraInfo on {self._grid_topic or 'the camera'} yet; "
                "publish it or set calibration_file"
            )
        if modality is not Modality.LIDAR and self._camera(modality) is None:
            topic = self._parameters[modality].camera_info_topic
            return (
                f"no intrinsics: no CameraInfo on {topic or '(no topic)'} yet; "
                f"publish it or give {modality.label} intrinsics in calibration_file"
            )
        if self._extrinsics(modality) is None:
            frame = self._frames.get(modality, "")
            return (
                f"no extrinsics from frame {frame!r} to {grid[1]!r}: publish them on TF, set "
                f"{modality.label}.extrinsics, or give them in calibration_file"
            )
        return ""

    def _grid(self) -> tuple[CameraModel, str] | None:
        if self._file is not None:
            return self._file.grid, self._file.grid_frame_id
        info = self._infos.get(Modality.CAMERA)
        return (info[0].undistorted(), info[1]) if info else None

    def _camera(self, modality: Modality) -> CameraModel | None:
        if modality is Modality.LIDAR:
            return None
        if modality is Modality.DEPTH and self._parameters[modality].registered:
            if Modality.CAMERA in self._parameters:
                return self._camera(Modality.CAMERA)
            grid = self._grid()
            return grid[0] if grid else None
        in_file = self._file.sensors.get(modality) if self._file else None
        if in_file is not None and in_file.camera is not None:
            return in_file.camera
        info = self._infos.get(modality)
        if info is not None:
            return info[0]
        # A file that describes the camera only by the grid means the grid's own camera.
        if modality is Modality.CAMERA and self._file is not None:
            return self._file.grid
        return None

    def _extrinsics(self, modality: Modality) -> RigidTransform | None:
        parameters = self._parameters[modality]
        if parameters.extrinsics:
            values = parameters.extrinsics
            return RigidTransform.from_quaternion(values[3:], values[:3])
        registered = modality is Modality.DEPTH and parameters.registered
        if registered and Modality.CAMERA in self._parameters:
            return self._extrinsics(Modality.CAMERA)
        if self._file is not None and modality in self._file.sensors:
            return self._file.sensors[modality].grid_from_sensor
        if modality is Modality.CAMERA or registered:
            return RigidTransform.identity()
        return self._transforms.get(modality)
