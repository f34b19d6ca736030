"""The node's results as topics: mask, confidence, overlay, camera info, and what each came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

from anyseg_ros.classes import ClassSet
from anyseg_ros.modalities import CameraModel, SegmentationGrid
from anyseg_ros.modality import Modality
from anyseg_ros.overlay import draw_overlay
from anyseg_ros.pipeline import Segmentation
from anyseg_ros.ros.messages import encode_camera_info, encode_image, header
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
        reason = result.skipped.get(modality) or status.reason
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

    def __init__(self, node: LifecycleNode, classes: ClassSet, reliable: bool) -> None:
        self._node = node
        self._classes = classes
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
        self._segmentation = node.create_lifecycle_publisher(Image, "~/segmentation", pictures)
        self._confidence = node.create_lifecycle_publisher(Image, "~/confidence", pictures)
        self._overlay = node.create_lifecycle_publisher(Image, "~/overlay", pictures)
        self._camera_info = node.create_lifecycle_publisher(CameraInfo, "~/camera_info", small)
        self._modalities = node.create_lifecycle_publisher(DiagnosticArray, "~/modalities", small)

    @property
    def _all(self) -> tuple[Any, ...]:
        return (
            self._segmentation,
            self._confidence,
            self._overlay,
            self._camera_info,
            self._modalities,
        )

    def publish(
        self,
        matched: MatchedSet,
        result: Segmentation,
        statuses: Mapping[Modality, StreamStatus],
        grid: SegmentationGrid,
        camera: CameraModel,
        overlay_alpha: float,
    ) -> None:
        """Publish one result; pictures that nobody wants are not made, except the mask.

        Args:
            camera: intrinsics of the labels.
        """
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

    def destroy(self) -> None:
        """Remove the topics."""
        for publisher in self._all:
            self._node.destroy_lifecycle_publisher(publisher)
