"""The node's results as topics: mask, confidence, overlay, clouds, labels, and what each came from."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.event_handler import PublisherEventCallbacks, QoSOfferedIncompatibleQoSInfo
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
)
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from anyseg_ros.classes import ClassSet
from anyseg_ros.modalities import CameraModel, DepthFrame, LidarScan, ModalityError
from anyseg_ros.modality import Modality
from anyseg_ros.overlay import draw_overlay
from anyseg_ros.pipeline import Pipeline, Segmentation
from anyseg_ros.ros.messages import (
    encode_camera_info,
    encode_image,
    encode_label_info,
    encode_pixel_points,
    encode_semantic_points,
    header,
)
from anyseg_ros.ros.throttled_log import ThrottledLog
from anyseg_ros.semantic_points import depth_of_pixels, label_points, points_of_pixels
from anyseg_ros.sync import MatchedSet, StreamStatus


def key_values(values: Mapping[str, object]) -> list[KeyValue]:
    """``diagnostic_msgs/KeyValue`` list; floats with three decimals, truth values in lower case."""

    def text(value: object) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    return [KeyValue(key=key, value=text(value)) for key, value in values.items()]


def modalities_message(
    matched: MatchedSet,
    result: Segmentation,
    statuses: Mapping[Modality, StreamStatus],
    frame_id: str,
) -> DiagnosticArray:
    """One status a sensor: whether this result used it, its state, and the age of its data."""
    message = DiagnosticArray(header=header(result.stamp_ns, frame_id))
    for modality, status in sorted(statuses.items()):
        used = modality in result.used
        member = matched.members.get(modality)
        values: dict[str, object] = {
            "used": used,
            "state": status.state.name.lower(),
            "anchor": modality is matched.anchor,
        }
        if member is not None:
            values["age_s"] = float(member.age_s)
            values["held"] = member.held
            values["stamp_ns"] = member.stamp_ns
        reason = result.skipped.get(modality) or status.reason or status.detail
        message.status.append(
            DiagnosticStatus(
                level=DiagnosticStatus.OK if used else DiagnosticStatus.WARN,
                name=modality.label,
                message="used" if used else f"not used: {reason or 'no message near the anchor'}",
                values=key_values(values),
            )
        )
    return message


class ResultPublishers:
    """Creates the result topics at configure, fills them, and takes them away again."""

    def __init__(
        self, node: LifecycleNode, classes: ClassSet, reliable: bool, warnings: ThrottledLog
    ) -> None:
        """Create the topics.

        Args:
            reliable: publish pictures and clouds reliable instead of best effort.
            warnings: where subscribers whose QoS does not fit are named.
        """
        self._node = node
        self._classes = classes
        self._warnings = warnings
        self._info: tuple[CameraModel, CameraInfo] | None = None
        reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        pictures = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=5,
            reliability=reliability,
            durability=DurabilityPolicy.VOLATILE,
        )
        # Small, and of use to loggers that subscribe reliable: serves both kinds of subscriber.
        small = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10)
        self._all: list[Any] = []
        self.mismatches: dict[str, str] = {}
        """Topics that a subscriber asked for in vain, with the reason."""
        self._segmentation = self._create(Image, "~/segmentation", pictures)
        self._confidence = self._create(Image, "~/confidence", pictures)
        self._overlay = self._create(Image, "~/overlay", pictures)
        self._semantic_points = self._create(PointCloud2, "~/semantic_points", pictures)
        self._pixel_points = self._create(PointCloud2, "~/pixel_points", pictures)
        self._camera_info = self._create(CameraInfo, "~/camera_info", small)
        self._modalities = self._create(DiagnosticArray, "~/modalities", small)
        self._label_info: Any = None
        try:
            label_info_class = import_module("vision_msgs.msg").LabelInfo
        except (ImportError, AttributeError):
            node.get_logger().debug("no ~/label_info: vision_msgs (4.1 or newer) is not installed")
        else:
            latched = QoSProfile(
                history=HistoryPolicy.KEEP_LAST,
                depth=1,
                durability=DurabilityPolicy.TRANSIENT_LOCAL,
            )
            self._label_info = self._create(label_info_class, "~/label_info", latched)

    def _create(self, message_class: type[Any], topic: str, qos: QoSProfile) -> Any:
        events = PublisherEventCallbacks(
            incompatible_qos=lambda event: self._on_mismatch(publisher, event)
        )
        publisher = self._node.create_lifecycle_publisher(
            message_class, topic, qos, event_callbacks=events
        )
        self._all.append(publisher)
        return publisher

    def _on_mismatch(self, publisher: Any, event: QoSOfferedIncompatibleQoSInfo) -> None:
        topic, policy = publisher.topic_name, qos_policy_name_from_kind(event.last_policy_kind)
        remedy = "let it ask for what is offered"
        if policy == "RELIABILITY":
            remedy = "set output_reliable to true, or let it subscribe best effort"
        reason = f"QoS mismatch: a subscriber of {topic} asks for another {policy}; {remedy}"
        self.mismatches[topic] = reason
        self._warnings.warning(f"{topic} qos", reason, 30.0)

    def announce(self) -> None:
        """Publish what does not change while the node is active: the classes, latched."""
        if self._label_info is not None:
            now = int(self._node.get_clock().now().nanoseconds)
            self._label_info.publish(encode_label_info(self._classes, now, ""))

    def publish(
        self,
        matched: MatchedSet,
        result: Segmentation,
        statuses: Mapping[Modality, StreamStatus],
        pipeline: Pipeline,
        overlay_alpha: float,
    ) -> None:
        """Publish one result; what nobody wants is not made, except the mask.

        Args:
            pipeline: what made the result, for the grid and the calibration it was made with.
        """
        grid, camera = pipeline.grid, pipeline.output_camera
        stamp, frame = result.stamp_ns, grid.frame_id
        # What explains the mask comes first, so that whoever gets the mask can look it up.
        self._modalities.publish(modalities_message(matched, result, statuses, frame))
        if self._info is None or self._info[0] != camera:
            self._info = (camera, encode_camera_info(camera, stamp, frame))
        info = self._info[1]
        info.header = header(stamp, frame)
        self._camera_info.publish(info)
        self._segmentation.publish(encode_image(result.labels, "mono8", stamp, frame))
        if self._confidence.get_subscription_count():
            self._confidence.publish(encode_image(result.confidence, "mono8", stamp, frame))
        if self._overlay.get_subscription_count():
            picture = draw_overlay(result, grid, self._classes, overlay_alpha)
            self._overlay.publish(encode_image(picture, "bgr8", stamp, frame))
        if self._semantic_points.get_subscription_count():
            self._publish_semantic_points(matched, result, pipeline)
        if self._pixel_points.get_subscription_count():
            self._publish_pixel_points(matched, result, pipeline)

    def _publish_semantic_points(
        self, matched: MatchedSet, result: Segmentation, pipeline: Pipeline
    ) -> None:
        """The scan of the set, in its own frame and at its own time: there and then it was measured."""
        scan = _used_data(matched, result, Modality.LIDAR)
        sensor = pipeline.rig.sensors.get(Modality.LIDAR)
        if not isinstance(scan, LidarScan) or sensor is None:
            return
        if not sensor.frame_id:
            self._warnings.warning(
                "semantic points",
                "no ~/semantic_points: the scans name no frame (header.frame_id), nor does the "
                "calibration file",
                30.0,
            )
            return
        points = label_points(
            scan,
            sensor.grid_from_sensor,
            result.labels,
            result.confidence,
            pipeline.output_camera,
        )
        stamp = matched.members[Modality.LIDAR].stamp_ns
        self._semantic_points.publish(
            encode_semantic_points(points, self._classes, stamp, sensor.frame_id)
        )

    def _publish_pixel_points(
        self, matched: MatchedSet, result: Segmentation, pipeline: Pipeline
    ) -> None:
        """The mask's pixels in space, stamped and framed as the mask is."""
        camera, rig = pipeline.output_camera, pipeline.rig
        frame = _used_data(matched, result, Modality.DEPTH)
        scan = _used_data(matched, result, Modality.LIDAR)
        depth = lidar = None
        if isinstance(frame, DepthFrame) and (sensor := rig.sensors.get(Modality.DEPTH)):
            depth = (frame, sensor.camera or rig.grid, sensor.grid_from_sensor)
        if isinstance(scan, LidarScan) and (sensor := rig.sensors.get(Modality.LIDAR)):
            lidar = (scan, sensor.grid_from_sensor)
        if depth is None and lidar is None:
            return
        try:
            z = depth_of_pixels(camera, depth, lidar)
        except ModalityError as error:
            self._warnings.warning("pixel points", f"no ~/pixel_points: {error}")
            return
        self._pixel_points.publish(
            encode_pixel_points(
                points_of_pixels(z, camera), result.stamp_ns, pipeline.grid.frame_id
            )
        )

    def destroy(self) -> None:
        """Remove the topics."""
        for publisher in self._all:
            self._node.destroy_lifecycle_publisher(publisher)
        self._all = []


def _used_data(matched: MatchedSet, result: Segmentation, modality: Modality) -> Any:
    """A sensor's data, if the result was made from it."""
    return matched.members[modality].message if modality in result.used else None
