"""Records a running node's outputs, and what was sent to it, as a subscriber beside it sees them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image

from anyseg_ros.modality import Modality
from anyseg_ros.ros.messages import stamp_ns

_CDR_STAMP_OFFSET = 4
"""A serialised message begins with 4 bytes of encapsulation; std_msgs/Header, so the stamp, is next."""


@dataclass(frozen=True)
class InputReceipt:
    """One sensor message, as the recorder received it."""

    stamp_ns: int
    received_ns: int
    """Monotonic clock."""
    serialized: bytes = field(repr=False)


@dataclass(frozen=True)
class OutputReceipt:
    """One segmentation, as the recorder received it."""

    stamp_ns: int
    received_ns: int
    labels: npt.NDArray[np.uint8] = field(repr=False)


@dataclass(frozen=True)
class ModalitiesReceipt:
    """One ``~/modalities`` message: each sensor's key values."""

    stamp_ns: int
    received_ns: int
    sensors: Mapping[str, Mapping[str, str]]


class Recorder:
    """Subscribes to a segmentation node's topics and to the sensors', and keeps all it receives."""

    def __init__(
        self,
        node: Node,
        sensor_topics: Mapping[Modality, tuple[str, Any]],
        segmentation_node: str = "/anyseg",
        ground_truth_topic: str = "/ground_truth/labels",
    ) -> None:
        """Create the subscriptions.

        Args:
            node: the rclpy node to subscribe with; the caller spins it.
            sensor_topics: topic and message class of each sensor.
            segmentation_node: full name of the node to record.
            ground_truth_topic: compressed label images (PNG, class ids).
        """
        self.inputs: dict[Modality, list[InputReceipt]] = {m: [] for m in sensor_topics}
        self.outputs: list[OutputReceipt] = []
        self.modalities: list[ModalitiesReceipt] = []
        self.ground_truth: dict[int, npt.NDArray] = {}
        many = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
        subscribe = node.create_subscription
        for modality, (topic, kind) in sensor_topics.items():
            subscribe(kind, topic, self._input_callback(modality), many, raw=True)
        subscribe(Image, f"{segmentation_node}/segmentation", self._on_output, many)
        subscribe(DiagnosticArray, f"{segmentation_node}/modalities", self._on_modalities, many)
        subscribe(
            CompressedImage, ground_truth_topic, self._on_ground_truth, qos_profile_sensor_data
        )

    def _input_callback(self, modality: Modality) -> Any:
        def receive(serialized: bytes) -> None:
            received_ns = time.monotonic_ns()
            seconds, nanoseconds = np.frombuffer(serialized, "<u4", 2, _CDR_STAMP_OFFSET)
            stamp = int(seconds) * 1_000_000_000 + int(nanoseconds)
            self.inputs[modality].append(InputReceipt(stamp, received_ns, bytes(serialized)))

        return receive

    def _on_output(self, message: Image) -> None:
        received_ns = time.monotonic_ns()
        labels = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width)
        self.outputs.append(
            OutputReceipt(stamp_ns(message.header.stamp), received_ns, labels.copy())
        )

    def _on_modalities(self, message: DiagnosticArray) -> None:
        received_ns = time.monotonic_ns()
        sensors = {
            status.name: {entry.key: entry.value for entry in status.values}
            for status in message.status
        }
        self.modalities.append(
            ModalitiesReceipt(stamp_ns(message.header.stamp), received_ns, sensors)
        )

    def _on_ground_truth(self, message: CompressedImage) -> None:
        labels = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_UNCHANGED)
        if labels is not None and labels.ndim == 2:
            self.ground_truth[stamp_ns(message.header.stamp)] = labels
