"""The rig's calibration as it becomes known: from the file, CameraInfo, parameters and TF."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from anyseg_ros.modalities import (
    CalibrationError,
    CalibrationFile,
    CameraModel,
    RigCalibration,
    RigidTransform,
    SensorCalibration,
)
from anyseg_ros.modality import Modality
from anyseg_ros.ros.parameters import SensorParameters


class CalibrationSource:
    """Collects what is known of grid, intrinsics and extrinsics, and says what is missing.

    The calibration file comes first, then CameraInfo. Extrinsics: parameter, file, identity in the grid's own
    frame, TF.
    """

    tf_problem: str = ""
    """Why TF cannot be asked; empty if it can."""

    def __init__(
        self,
        sensors: Mapping[Modality, SensorParameters],
        modalities: Iterable[Modality],
        from_file: CalibrationFile | None = None,
        resolve_topic: Callable[[str], str] = str,
    ) -> None:
        """Know nothing but the file.

        Args:
            sensors: the parameters of every sensor.
            modalities: the sensors in use.
            from_file: the calibration file.
            resolve_topic: gives a topic the name that it has for others, for sentences.

        Raises:
            CalibrationError: if the file has distortion for pictures that are said to have none.
        """
        self._sensors = sensors
        self._parameters = {m: sensors[m] for m in modalities}
        self._file = from_file
        self._resolve_topic = resolve_topic
        self._refused: dict[Modality, str] = {}
        self._infos: dict[Modality, tuple[CameraModel, str]] = {}
        self._frames: dict[Modality, str] = {}
        self._transforms: dict[Modality, tuple[tuple[str, str], RigidTransform]] = {}
        for modality in self._parameters:
            camera = self._camera(modality) if from_file is not None else None
            if camera is not None and camera.distorted and sensors[modality].rectified:
                raise CalibrationError(
                    f"{modality.label}.rectified is true, but calibration_file gives {modality.label} a "
                    "distortion, which would be removed twice: give the intrinsics of the rectified "
                    "pictures there (P of CameraInfo), or set the parameter to false"
                )

    @property
    def grid_frame_id(self) -> str:
        """Frame of the grid; empty while it is unknown."""
        grid = self._grid()
        return grid[1] if grid else ""

    def needs_camera_info(self, modality: Modality) -> bool:
        """Whether this sensor's CameraInfo would tell anything that the file does not."""
        if modality is Modality.CAMERA and (self._file is None or self._file.grid is None):
            return True
        if modality is Modality.LIDAR or self._is_registered(modality):
            return False
        used = {Modality.CAMERA if self._is_registered(m) else m for m in self._parameters}
        return modality in used and (self._file is None or self._file.camera_of(modality) is None)

    def set_camera_info(self, modality: Modality, camera: CameraModel, frame_id: str) -> bool:
        """Note a CameraInfo; returns whether it says anything new."""
        self._refused.pop(modality, None)
        if self._infos.get(modality) == (camera, frame_id):
            return False
        self._infos[modality] = (camera, frame_id)
        return True

    def refuse_camera_info(self, modality: Modality, reason: str) -> None:
        """Note that a CameraInfo has come and cannot be used."""
        self._refused[modality] = reason

    def set_frame(self, modality: Modality, frame_id: str) -> bool:
        """Note the frame that a sensor's messages carry; returns whether it is another than before."""
        if self._frames.get(modality) == frame_id:
            return False
        self._frames[modality] = frame_id
        return True

    def frame_in_file(self, modality: Modality) -> str:
        """The frame that the calibration file places a sensor in; empty if it does not, or is overruled."""
        if self._sensors[modality].extrinsics:
            return ""
        sensor = self._file.sensors.get(modality) if self._file is not None else None
        return sensor.frame_id if sensor is not None else ""

    @property
    def lacks_extrinsics(self) -> bool:
        """Whether TF would be of use."""
        return any(self._extrinsics(modality) is None for modality in self._parameters)

    def missing_transforms(self) -> dict[Modality, str]:
        """Sensors whose extrinsics must come from TF, with their frames where known."""
        return {
            modality: self._frames[modality]
            for modality in self._parameters
            if self._extrinsics(modality) is None and self._frames.get(modality)
        }

    def set_transform(self, modality: Modality, grid_from_sensor: RigidTransform) -> None:
        """Note a transform from TF, between the frames that sensor and grid have now."""
        self._transforms[modality] = (self._ends(modality), grid_from_sensor)

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
            frame = self._frames.get(modality) or self.frame_in_file(modality)
            sensors[modality] = SensorCalibration(frame, transform, self._camera(modality))
        return RigCalibration(grid[0], grid[1], sensors)

    def missing(self, modality: Modality) -> str:
        """What this sensor waits for, as a sentence with the remedy; empty if nothing."""
        grid = self._grid()
        if grid is None:
            remedy = (
                "set calibration_file" if self._file is None else "give a grid in calibration_file"
            )
            return f"no segmentation grid: {self._no_camera_info(Modality.CAMERA)} {remedy}"
        if modality is not Modality.LIDAR and self._camera(modality) is None:
            return (
                f"no intrinsics: {self._no_camera_info(modality)} give {modality.label} intrinsics in "
                "calibration_file"
            )
        if self._extrinsics(modality) is None:
            frame = self._frames.get(modality, "")
            if not grid[1]:
                return (
                    "no extrinsics: neither the camera's CameraInfo nor its pictures name a frame "
                    "(header.frame_id), so TF cannot be asked; name it there, set "
                    f"{modality.label}.extrinsics, or give them in calibration_file"
                )
            lacking = f"no extrinsics from frame {frame!r} to {grid[1]!r}"
            if self.tf_problem:
                return (
                    f"{lacking}, and TF is not heard, as {self.tf_problem}: give them in calibration_file, "
                    f"set {modality.label}.extrinsics, or install ros-$ROS_DISTRO-tf2-ros-py"
                )
            return (
                f"{lacking}: publish them on TF, set {modality.label}.extrinsics, or give them in "
                "calibration_file"
            )
        return ""

    def _no_camera_info(self, modality: Modality) -> str:
        """Why there is none, and the first half of the remedy."""
        topic = self._resolve_topic(self._sensors[modality].camera_info_topic)
        parameter = f"{modality.label}.camera_info_topic"
        if modality in self._refused:
            return (
                f"CameraInfo comes on {topic} but is refused: {self._refused[modality]}; calibrate the "
                f"sensor, name another topic in {parameter}, or"
            )
        return f"no CameraInfo on {topic} yet; publish it there, name its topic in {parameter}, or"

    def _grid(self) -> tuple[CameraModel, str] | None:
        if self._file is not None and self._file.grid is not None:
            return self._file.grid, self._file.grid_frame_id
        info = self._infos.get(Modality.CAMERA)
        if info is None:
            return None
        return info[0].undistorted(), info[1] or self._frames.get(Modality.CAMERA, "")

    def _camera(self, modality: Modality) -> CameraModel | None:
        if modality is Modality.LIDAR:
            return None
        if self._is_registered(modality):
            # The camera's pixels, distortion included, whether its own pictures are used or not.
            modality = Modality.CAMERA
        in_file = self._file.camera_of(modality) if self._file else None
        if in_file is not None:
            return in_file
        info = self._infos.get(modality)
        if info is not None:
            return info[0]
        # A file that describes the camera only by the grid means the grid's own camera.
        if modality is Modality.CAMERA and self._file is not None:
            return self._file.grid
        return None

    def _extrinsics(self, modality: Modality) -> RigidTransform | None:
        values = self._sensors[modality].extrinsics
        if values:
            return RigidTransform.from_quaternion(values[3:], values[:3])
        if self._is_registered(modality):
            return self._extrinsics(Modality.CAMERA)
        if self._file is not None and modality in self._file.sensors:
            return self._file.sensors[modality].grid_from_sensor
        grid_frame, frame = self._ends(modality)
        # Aligned depth carries the camera's frame: TF need not know that to tell where it is.
        if modality is Modality.CAMERA or (frame and frame == grid_frame):
            return RigidTransform.identity()
        ends, found = self._transforms.get(modality, (None, None))
        return found if ends == (grid_frame, frame) else None

    def _is_registered(self, modality: Modality) -> bool:
        """Whether it is depth that lies in the camera's picture."""
        return (
            modality is Modality.DEPTH
            and modality in self._parameters
            and self._parameters[modality].registered
        )

    def _ends(self, modality: Modality) -> tuple[str, str]:
        """The frames that a transform from TF joins: a transform between others says nothing."""
        return self.grid_frame_id, self._frames.get(modality, "")
