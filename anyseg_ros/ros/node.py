"""The lifecycle node ``anyseg``: wires sensors, synchronizer, pipeline and topics; nothing else."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.utilities import get_rmw_implementation_identifier

from anyseg_ros.consistency import (
    ConsistencyCheck,
    ConsistencyError,
    ConsistencyProfile,
    load_profile,
)
from anyseg_ros.decoding import check_against_calibration
from anyseg_ros.engine import Engine, EngineError, ModelError, load_engine
from anyseg_ros.health import HealthMonitor
from anyseg_ros.modalities import (
    CalibrationError,
    CameraModel,
    ModalityError,
    SensorData,
    load_calibration_file,
    window_s,
)
from anyseg_ros.modality import Modality, subset_name
from anyseg_ros.pipeline import Pipeline, Segmentation
from anyseg_ros.resources import ResourceError, find_model
from anyseg_ros.ros.calibration_source import CalibrationSource
from anyseg_ros.ros.deadline_timer import DeadlineTimer
from anyseg_ros.ros.diagnostics import (
    diagnostic_name,
    explain_silence,
    find_publications,
    foreign_stamps,
    load_values,
    sensor_status,
    stage_status,
)
from anyseg_ros.ros.inputs import (
    WINDOWED_TYPES,
    SensorInput,
    check_message_packages,
    readable_types,
)
from anyseg_ros.ros.parameters import (
    PARAMETERS,
    NodeParameters,
    ParameterError,
    check_change,
    declare_parameters,
    read_parameters,
)
from anyseg_ros.ros.publishers import ResultPublishers, key_values
from anyseg_ros.ros.stage_times import StageTimes
from anyseg_ros.ros.throttled_log import ThrottledLog
from anyseg_ros.ros.transforms import TransformSource
from anyseg_ros.ros.transport import configure_transport
from anyseg_ros.ros.worker import SegmentationWorker, Statuses
from anyseg_ros.sync import (
    MatchedSet,
    StreamConfig,
    StreamState,
    StreamStatus,
    Synchronizer,
    steady_clock,
)

NODE_NAME = "anyseg"

_NS = 1_000_000_000
_CLOCK_JUMP_BACK_NS = 50_000_000
_START_GRACE_S = 5.0
_FOREIGN_STAMPS_AGAIN_S = 60.0
_NO_OUTPUT_S = 2.0


class SegmentationNode(LifecycleNode):
    """Segments from whichever sensors are live. Callbacks run on one executor thread."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(NODE_NAME, **kwargs)
        self._parameter_problems = declare_parameters(self)
        self._configured = False
        self._active = False
        self.add_on_set_parameters_callback(self._check_parameter_change)
        self.add_post_set_parameters_callback(self._apply_parameter_change)

        self._settings: NodeParameters | None = None
        self._engine: Engine | None = None
        self._calibration: CalibrationSource | None = None
        self._results: ResultPublishers | None = None
        self._transforms: TransformSource | None = None
        self._pipeline: Pipeline | None = None
        self._worker: SegmentationWorker | None = None
        self._synchronizer: Synchronizer | None = None
        self._health: HealthMonitor | None = None
        self._profile: ConsistencyProfile | None = None
        self._consistency: ConsistencyCheck | None = None
        self._verdict: dict[Modality, str] | None = None
        self._inputs: dict[Modality, SensorInput] = {}
        self._deadline_timer: DeadlineTimer | None = None

        self._log = ThrottledLog(self.get_logger())
        self._times = StageTimes()
        self._activated_at = 0.0
        self._last_published_at = 0.0
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._use_sim_time = False
        self._receipt_clock = steady_clock()
        self._last_now_ns = 0
        self._epoch: int | None = None
        self._last_used: tuple[Modality, ...] | None = None
        self._last_result = ""
        self._published = 0
        self._published_before = 0

        # Not managed: an operator looks here first when the node is not active.
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._diagnostics_timer = self.create_timer(
            1.0, self._publish_diagnostics, clock=self._steady
        )

    @property
    def parameters(self) -> NodeParameters:
        """The checked parameters; only while configured."""
        assert self._settings is not None
        return self._settings

    # --- lifecycle ----------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read parameters, load calibration and model, create the result topics."""
        try:
            if self._parameter_problems:
                raise ParameterError("; ".join(self._parameter_problems.values()))
            self._settings = parameters = read_parameters(self)
            from_file = None
            if parameters.calibration_file:
                from_file = load_calibration_file(Path(parameters.calibration_file).expanduser())
                if from_file.grid is not None and not from_file.grid_frame_id:
                    raise CalibrationError(
                        f"{parameters.calibration_file}: grid: frame_id is missing (without a grid: that of "
                        "sensors/camera); the segmentation is published in it"
                    )
            self._engine = load_engine(
                find_model(parameters.model),
                parameters.engine,
                parameters.threads,
                self.get_logger().info,
            )
            self._say_what_the_model_is(self._engine)
            self._profile = load_profile(find_model(parameters.model), self._engine.card)
            modalities = [m for m in self._engine.card.modalities if parameters.sensors[m].enabled]
            if not modalities:
                raise ParameterError(
                    f"no enabled sensor is known to the model {self._engine.card.name}, which takes "
                    + subset_name(self._engine.card.modalities)
                )
            check_message_packages(parameters.sensors, modalities)
            self._calibration = CalibrationSource(
                parameters.sensors, modalities, from_file, self.resolve_topic_name
            )
            self._results = ResultPublishers(
                self, self._engine.card.classes, parameters.output_reliable, self._log
            )
            self._configured = True
            return super().on_configure(state)
        except (
            ParameterError,
            CalibrationError,
            ConsistencyError,
            ModelError,
            EngineError,
            ModalityError,
            ResourceError,
        ) as error:
            return self._refuse("configure", str(error))
        except Exception as error:  # rclpy would swallow it without a word
            return self._refuse("configure", repr(error))

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start."""
        try:
            self._start()
            done = super().on_activate(state)
            if self._results is not None:
                self._results.announce()
            return done
        except Exception as error:
            self._stop()
            return self._refuse("activate", repr(error), undo=False)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and stop; model and calibration stay."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release model, calibration and topics."""
        self.release()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything, from any state."""
        self.release()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured with everything released."""
        self.release()
        return TransitionCallbackReturn.SUCCESS

    def _refuse(self, transition: str, reason: str, undo: bool = True) -> TransitionCallbackReturn:
        self.get_logger().error(f"cannot {transition}: {reason}")
        self._last_result = f"cannot {transition}: {reason}"
        if undo:
            self.release(keep_message=True)
        return TransitionCallbackReturn.FAILURE

    def release(self, keep_message: bool = False) -> None:
        """Undo configure and activate as far as they went. Does no harm twice."""
        self._stop()
        self._configured = False
        if self._results is not None:
            self._results.destroy()
        engine, self._engine, self._results = self._engine, None, None
        if engine is not None:
            try:
                engine.close()
            except Exception as error:  # of a GPU that is gone, say: the node lives on without
                self.get_logger().error(f"the engine cannot be released: {error!r}")
        self._calibration = None
        if not keep_message:
            self._last_result = ""

    def _say_what_the_model_is(self, engine: Engine) -> None:
        card = engine.card
        logger = self.get_logger()
        logger.info(
            f"model {card.name} ({card.model_id}): {len(card.classes)} classes, "
            f"{card.input_width}x{card.input_height}, {subset_name(card.modalities)}; "
            f"{engine.description}"
        )
        if card.synthetic_only:
            logger.warning(
                f"model {card.name} was trained on synthetic data only; expect errors in the real "
                "world until it is trained on real data (docs/training.md)"
            )

    def _start(self) -> None:
        parameters, calibration = self.parameters, self._calibration
        assert calibration is not None and self._engine is not None
        self._activated_at = self._last_published_at = time.monotonic()
        self._log.forget()
        self._times.clear()
        self._use_sim_time = bool(self.get_parameter("use_sim_time").value)
        self._receipt_clock = steady_clock()
        self._last_now_ns = 0
        self._last_used = None
        self._published = self._published_before = 0
        self._last_result = "waiting for sensors"
        self._make_synchronizer()
        self._active = True
        known = self._engine.card.modalities
        # The camera's CameraInfo gives the grid, even to a rig or a model that does not use its camera.
        for modality in sorted({Modality.CAMERA, *known}):
            sensor = parameters.sensors[modality]
            if modality not in known:
                sensor = replace(sensor, enabled=False)
            wants_info = calibration.needs_camera_info(modality)
            if sensor.enabled or wants_info:
                self._inputs[modality] = SensorInput(
                    self,
                    modality,
                    sensor,
                    self._on_data,
                    self._on_camera_info if wants_info else None,
                    self._on_refused,
                    calibration.refuse_camera_info,
                    self._log,
                    self._times,
                )
        self._update_rig()
        self._deadline_timer = DeadlineTimer(self, self._poll, self._use_sim_time)

    def _stop(self) -> None:
        self._active = False
        if self._deadline_timer is not None:
            self._deadline_timer.close()
        for sensor in self._inputs.values():
            sensor.close()
        if self._worker is not None:
            self._worker.close()
        self._stop_listening_to_tf()
        self._deadline_timer = None
        self._inputs = {}
        self._worker = None
        self._pipeline = None
        self._synchronizer = None
        self._health = None
        self._consistency = None
        self._verdict = None

    def _stream_configs(self) -> dict[Modality, StreamConfig]:
        parameters = self.parameters
        assert self._engine is not None
        card = self._engine.card
        enabled = [m for m in card.modalities if parameters.sensors[m].enabled]
        configs = {}
        for modality in enabled:
            sensor = parameters.sensors[modality]
            windowed = modality is Modality.EVENT and sensor.type in WINDOWED_TYPES
            configs[modality] = StreamConfig(
                timeout_s=sensor.timeout_s,
                tolerance_s=sensor.tolerance_s,
                max_age_s=sensor.max_age_s,
                expected_rate_hz=sensor.expected_rate_hz,
                windowed=windowed,
                window_s=window_s(modality, card.encodings[modality]),
            )
        return configs

    def _make_synchronizer(self) -> None:
        parameters, configs = self.parameters, self._stream_configs()
        self._synchronizer = Synchronizer(
            configs,
            priority=[m for m in parameters.priority if m in configs],
            max_wait_s=parameters.max_wait_s,
        )
        self._health = HealthMonitor(self._synchronizer, configs, parameters.health)
        self._epoch = None

    # --- data ---------------------------------------------------------------------------------

    def _now_ns(self) -> int:
        if not self._use_sim_time:
            return self._receipt_clock()
        now = int(self.get_clock().now().nanoseconds)
        if now < self._last_now_ns - _CLOCK_JUMP_BACK_NS and self._synchronizer is not None:
            self.get_logger().info("/clock jumped back: starting a new epoch")
            self._synchronizer.reset()
            if self._health is not None:
                self._health.reset()
            self._start_consistency()
            if self._worker is not None:
                self._worker.reset()
        self._last_now_ns = now
        return now

    def _on_data(self, modality: Modality, stamp: int, data: SensorData, frame_id: str) -> None:
        calibration, health = self._calibration, self._health
        if not self._active or calibration is None or health is None:
            return
        log = self._inputs[modality].log
        if clock := int(self.get_clock().now().nanoseconds):  # 0 until /clock is heard
            log.behind_clock_s = (clock - stamp) / 1e9
        if len(log.frame_ids) < 4:
            log.frame_ids.add(frame_id)
        if calibration.set_frame(modality, frame_id):
            named = calibration.frame_in_file(modality)
            if frame_id and named and frame_id != named:
                self._log.warning(
                    f"{modality.label} file frame",
                    f"{modality.label}'s messages are of frame {frame_id!r}, its place in calibration_file "
                    f"is that of {named!r} and is used all the same",
                    30.0,
                )
            if len(log.frame_ids) > 1:
                self._log.warning(
                    f"{modality.label} frame",
                    f"{modality.label} changes its frame ({', '.join(sorted(log.frame_ids))}), now it is "
                    f"{frame_id!r}; is there more than one publisher on {self._inputs[modality].topic}?",
                    30.0,
                )
            self._update_rig()
        log.waiting_for = calibration.missing(modality)
        if log.waiting_for or self._pipeline is None:
            self._log.warning(
                f"{modality.label} waits", f"{modality.label} waits: {log.waiting_for}", 10.0
            )
            return
        sensor = self._pipeline.rig.sensors.get(modality)
        check_against_calibration(modality, data, sensor.camera if sensor else None)
        self._apply_verdict()
        now = self._now_ns()
        self._emit(health.add(modality, stamp, data, now), now)
        if self.parameters.encode_early:
            self._prepare(modality, stamp, data)

    def _on_refused(self, modality: Modality, reason: str) -> None:
        if self._active and self._health is not None:
            now = self._now_ns()
            self._emit(self._health.refuse(modality, reason, now), now)

    def _on_camera_info(self, modality: Modality, camera: CameraModel, frame_id: str) -> None:
        calibration = self._calibration
        if (
            self._active
            and calibration is not None
            and calibration.set_camera_info(modality, camera, frame_id)
        ):
            self._update_rig()

    def _look_up_transforms(self) -> bool:
        """Take extrinsics that are missing from TF; whether there were any.

        TF is listened to only while some are missing: a robot's joints keep one busy for nothing.
        """
        assert self._calibration is not None
        changed = False
        if not self._calibration.lacks_extrinsics:
            self._stop_listening_to_tf()
        elif self._transforms is None:
            self._transforms = TransformSource(self)
            self._calibration.tf_problem = self._transforms.problem
        if self._transforms is not None and self._transforms.available:
            grid_frame = self._calibration.grid_frame_id
            for modality, frame in self._calibration.missing_transforms().items():
                found = self._transforms.lookup(grid_frame, frame) if grid_frame else None
                if found is not None:
                    self._calibration.set_transform(modality, found)
                    changed = True
        return changed

    def _stop_listening_to_tf(self) -> None:
        if self._transforms is not None:
            self._transforms.close()
        self._transforms = None

    def _update_rig(self) -> None:
        """Give pipeline and worker what is now known of the rig."""
        assert self._calibration is not None and self._engine is not None
        self._look_up_transforms()
        rig = self._calibration.rig()
        if rig is None:
            return
        if self._pipeline is None:
            parameters = self.parameters
            self._pipeline = Pipeline(
                self._engine, rig, parameters.output_size, parameters.latency_budget_s
            )
            self._start_consistency()
            self._worker = SegmentationWorker(self._pipeline, self._on_result, self._on_failure)
        elif self._worker is not None:
            self._worker.recalibrate(rig)

    def _emit(self, sets: list[MatchedSet], now: int) -> None:
        if self._worker is not None and sets:
            assert self._synchronizer is not None
            newest = sets[-1]
            if newest.epoch != self._epoch:
                if self._epoch is not None:
                    self._worker.reset()
                self._epoch = newest.epoch
            # The synchronizer gets nothing of a sensor that waits for its calibration, and does not know why.
            statuses = {
                m: replace(status, reason=self._inputs[m].log.waiting_for or status.reason)
                for m, status in self._synchronizer.status(now).items()
            }
            for matched in sets:
                self._worker.submit(matched, statuses)
        self._arm_deadline(now)

    def _prepare(self, modality: Modality, stamp: int, data: SensorData) -> None:
        """Have encoded what the next set will presumably contain, so that less is left to do then."""
        worker, synchronizer = self._worker, self._synchronizer
        if worker is None or synchronizer is None:
            return
        epoch = synchronizer.epoch
        if synchronizer.is_unused(modality, stamp, data):
            worker.prepare(modality, data, stamp, epoch)
        for key, member in synchronizer.covered().items():
            worker.prepare(key, member.message, member.stamp_ns, epoch)

    def _poll(self) -> None:
        if self._active and self._synchronizer is not None:
            self._apply_verdict()
            now = self._now_ns()
            self._emit(self._synchronizer.poll(now), now)

    def _start_consistency(self) -> None:
        self._consistency = ConsistencyCheck(self.parameters.consistency, self._profile)
        self._verdict = None

    def _apply_verdict(self) -> None:
        """Take over what the worker's thread has found out about the sensors."""
        verdict, self._verdict = self._verdict, None
        # One that was under way when the check was switched off has nobody to take it back.
        if verdict is not None and self._health is not None and self.parameters.consistency.every:
            self._health.accuse_only(verdict)

    def _arm_deadline(self, now: int) -> None:
        """Wake up when the synchronizer next has something to decide."""
        timer, synchronizer = self._deadline_timer, self._synchronizer
        if timer is not None and synchronizer is not None:
            timer.arm(synchronizer.next_deadline_ns(), now)

    # --- results (worker's thread) ------------------------------------------------------------

    def _on_result(self, matched: MatchedSet, result: Segmentation, statuses: Statuses) -> None:
        publishers, pipeline = self._results, self._pipeline
        if publishers is None or pipeline is None or not self._active:
            return
        with self._times.measure("publish"):
            publishers.publish(matched, result, statuses, pipeline, self.parameters.overlay_alpha)
        timings = result.timings
        self._times.add("image", timings.build_s)
        self._times.add("encode", timings.encode_s)
        self._times.add("fuse", timings.fuse_s)
        if timings.early_s:
            self._times.add("early", timings.early_s)
        self._published += 1
        self._last_published_at = time.monotonic()
        self._last_result = f"segmenting from {subset_name(result.used)}"
        if result.used != self._last_used:
            self._last_used = result.used
            self.get_logger().info(f"segmenting from {subset_name(result.used)}")
        for modality, reason in result.skipped.items():
            self._log.warning(f"{modality.label} skipped", f"{modality.label} not used: {reason}")
        # The budget is a choice, and the overall status tells of it.
        for modality, sensor in self._inputs.items():
            if modality in matched.members and modality not in result.shed:
                sensor.log.unused = result.skipped.get(modality, "")
        consistency, health = self._consistency, self._health
        if consistency is not None and health is not None:
            verdict = consistency.after(pipeline, result, health.suspects())
            if verdict is not None:
                self._verdict = verdict

    def _on_failure(self, matched: MatchedSet, error: Exception) -> None:
        if not self.context.ok():
            return  # shut down while a result was on its way out
        self._last_result = f"no result: {error}"
        self._log.warning("no result", f"set at {matched.stamp_ns} ns gave no result: {error}")

    # --- parameters ---------------------------------------------------------------------------

    def _check_parameter_change(self, changes: list[Parameter[Any]]) -> SetParametersResult:
        current = {spec.name: self.get_parameter(spec.name).value for spec in PARAMETERS}
        return check_change(current, changes, self._configured)

    def _apply_parameter_change(self, changes: list[Parameter[Any]]) -> None:
        for change in changes:
            self._parameter_problems.pop(change.name, None)
        if not self._configured:
            return
        before = self.parameters
        self._settings = read_parameters(self)
        times_changed = (before.sensors, before.max_wait_s) != (
            self._settings.sensors,
            self._settings.max_wait_s,
        )
        if self._health is not None and before.health != self._settings.health:
            self._health.configure(self._settings.health)
        if self._consistency is not None:
            self._consistency.settings = self._settings.consistency
            if before.consistency.every and not self._settings.consistency.every:
                self._start_consistency()  # nobody is left who could absolve the accused
                if self._health is not None:
                    self._health.accuse_only({})
        if self._pipeline is not None:
            self._pipeline.load.budget_s = self._settings.latency_budget_s
        if self._synchronizer is not None and times_changed:
            self._synchronizer.configure(self._stream_configs(), self._settings.max_wait_s)

    # --- diagnostics --------------------------------------------------------------------------

    def _publish_diagnostics(self) -> None:
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        message.status.append(self._overall_status())
        if self._active and self._synchronizer is not None:
            self._update_waiting()
            statuses = self._synchronizer.status(self._now_ns())
            for modality, status in sorted(statuses.items()):
                message.status.append(self._sensor_status(modality, status))
            message.status.append(stage_status(self._times, diagnostic_name(self)))
        self._diagnostics.publish(message)

    def _update_waiting(self) -> None:
        """Look again for extrinsics that were not on TF so far."""
        if self._look_up_transforms():
            self._update_rig()

    def _sensor_status(self, modality: Modality, status: StreamStatus) -> DiagnosticStatus:
        sensor = self._inputs[modality]
        middleware = get_rmw_implementation_identifier()
        silence = ""
        if status.state in (StreamState.WAITING, StreamState.DROPPED):
            silence = explain_silence(
                sensor.topic,
                sensor.message_type,
                readable_types(modality),
                self.parameters.sensors[modality].qos_reliable,
                find_publications(self, sensor.topic),
                modality.label,
                seen_before=sensor.log.received > 0,
                middleware=middleware,
            )
        report = sensor_status(
            modality,
            self.parameters.sensors[modality],
            sensor.topic,
            status,
            sensor.log,
            silence,
            diagnostic_name(self),
            middleware,
        )
        # Discovery takes some seconds: a silence just after the start says nothing yet.
        settled = time.monotonic() - self._activated_at > _START_GRACE_S
        if report.level != DiagnosticStatus.OK and settled:
            self._log.warning(
                f"{modality.label} status", f"{modality.label}: {report.message}", 10.0
            )
        return report

    def _overall_status(self) -> DiagnosticStatus:
        rate = self._published - self._published_before
        self._published_before = self._published
        values: dict[str, object] = {"lifecycle": self._state_machine.current_state[1]}
        level = DiagnosticStatus.OK
        text = self._last_result or "not configured"
        if self._engine is not None:
            card = self._engine.card
            values |= {
                "model": card.name,
                "engine": self._engine.description,
                "trained_on": str(card.provenance.get("data", "unknown")),
                "synthetic_only": card.synthetic_only,
            }
            if card.synthetic_only:
                text += "; the model was trained on synthetic data only"
                level = DiagnosticStatus.WARN
        if self._active:
            if elsewhen := foreign_stamps({m: sensor.log for m, sensor in self._inputs.items()}):
                level = DiagnosticStatus.WARN
                text += f"; {elsewhen}"
                self._log.warning("stamps", elsewhen, _FOREIGN_STAMPS_AGAIN_S)
            values |= {"output_rate_hz": rate, "published": self._published}
            if self._worker is not None:
                counters = self._worker.counters
                values |= {
                    "overtaken_sets": counters.overtaken,
                    "unusable_sets": counters.unusable,
                    "failed_sets": counters.failed,
                    "prepared_messages": counters.prepared,
                }
            if self._pipeline is not None:
                values |= load_values(self._pipeline.load)
            silent_s = time.monotonic() - self._last_published_at
            if silent_s > _NO_OUTPUT_S:
                level = DiagnosticStatus.ERROR
                text = f"no output for {silent_s:.0f} s; before: {text}"
        elif text.startswith("cannot "):
            level = DiagnosticStatus.ERROR
        return DiagnosticStatus(
            level=level,
            name=f"{diagnostic_name(self)}: segmentation",
            message=text,
            values=key_values(values),
        )


def spin(node: SegmentationNode, on_start: Callable[[], None] | None = None) -> None:
    """Run the node until SIGINT, SIGTERM or shutdown, then release what it holds."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        if on_start is not None:
            on_start()
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        if node.context.ok():
            raise
        # Ended by a signal in the midst of a callback that uses ROS: not an error.
    finally:
        # Ctrl-C reaches a launched node twice, from the terminal and from launch: end in order.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        node.release()
        executor.shutdown()
        node.destroy_node()


def autostart(node: SegmentationNode) -> None:
    """Configure and activate without a lifecycle manager; a node that refuses stays unconfigured."""
    if node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
        node.trigger_activate()


def main(args: list[str] | None = None) -> int:
    """Entry point ``segment``: ``ros2 run anyseg_ros segment --ros-args -p autostart:=true``."""
    configure_transport()
    rclpy.init(args=args)
    node = SegmentationNode()
    starts_itself = node.get_parameter("autostart").value is True
    try:
        spin(node, (lambda: autostart(node)) if starts_itself else None)
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
