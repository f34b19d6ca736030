"""One subscription a sensor: message in, checked sensor data with its stamp out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

from rclpy.event_handler import QoSRequestedIncompatibleQoSInfo, SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
)
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from anyseg_ros.decoding import EventPacketDecoder, on_host_clock
from anyseg_ros.modalities import CameraModel, SensorData
from anyseg_ros.modality import Modality
from anyseg_ros.ros import messages
from anyseg_ros.ros.diagnostics import SensorLog
from anyseg_ros.ros.messages import MessageError
from anyseg_ros.ros.parameters import ParameterError, SensorParameters
from anyseg_ros.ros.stage_times import StageTimes
from anyseg_ros.ros.throttled_log import ThrottledLog
from anyseg_ros.sync.streams import to_ns

DECODERS: dict[tuple[Modality, str], tuple[type, Callable[[Any], SensorData]]] = {
    (Modality.CAMERA, "image"): (Image, messages.decode_image),
    (Modality.CAMERA, "compressed"): (CompressedImage, messages.decode_compressed_image),
    (Modality.DEPTH, "image"): (Image, messages.decode_depth_image),
    (Modality.DEPTH, "compressed_depth"): (CompressedImage, messages.decode_compressed_depth),
    (Modality.EVENT, "points"): (PointCloud2, messages.decode_event_cloud),
    (Modality.EVENT, "image"): (Image, messages.decode_image),
    (Modality.LIDAR, "points"): (PointCloud2, messages.decode_lidar),
}
"""Message class and decoder of each kind of topic whose messages can be read one by one."""

WINDOWED_TYPES = ("points", "packets")
"""Kinds of event messages that hold the events of a stretch of time, not a picture."""

DataCallback = Callable[[Modality, int, SensorData, str], None]
RefusedCallback = Callable[[Modality, str], None]
InfoCallback = Callable[[Modality, CameraModel, str], None]


def type_name(message_class: type[Any]) -> str:
    """``package/msg/Name``"""
    return f"{message_class.__module__.split('.')[0]}/msg/{message_class.__name__}"


def readable_types(modality: Modality) -> dict[str, str]:
    """Message types that a sensor may send, each with the value of ``<sensor>.type`` that reads it."""
    found = {type_name(cls): kind for (m, kind), (cls, _) in DECODERS.items() if m is modality}
    if modality is Modality.EVENT:
        found["event_camera_msgs/msg/EventPacket"] = "packets"  # may not be installed
    return found


def input_qos(parameters: SensorParameters) -> QoSProfile:
    """QoS of a sensor's subscriptions: sensor data unless reliable is asked for."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=parameters.qos_depth,
        reliability=(
            ReliabilityPolicy.RELIABLE if parameters.qos_reliable else ReliabilityPolicy.BEST_EFFORT
        ),
        durability=DurabilityPolicy.VOLATILE,
    )


INFO_QOS = (
    QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
    QoSProfile(
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    ),
)
"""Of the subscriptions to CameraInfo: the first hears every publisher, the second what one has sent, once and
latched, before this node came."""


def event_packet_class() -> type[Any]:
    """``event_camera_msgs/msg/EventPacket``.

    Raises:
        ParameterError: saying what to install where the package is missing.
    """
    try:
        found: type[Any] = import_module("event_camera_msgs.msg").EventPacket
    except ImportError:
        raise ParameterError(
            "event.type is 'packets', which needs the message package event_camera_msgs: install "
            "ros-$ROS_DISTRO-event-camera-msgs (there is no Python wheel of it) or build it from "
            "https://github.com/ros-event-camera/event_camera_msgs; or publish PointCloud2 and set "
            "event.type to 'points'"
        ) from None
    return found


def check_message_packages(
    sensors: Mapping[Modality, SensorParameters], modalities: Iterable[Modality]
) -> None:
    """Make sure that the messages of the sensors in use can be received.

    Raises:
        ParameterError: naming the package that is missing.
    """
    if Modality.EVENT in modalities and sensors[Modality.EVENT].type == "packets":
        event_packet_class()


def _message_and_decoder(
    modality: Modality, parameters: SensorParameters
) -> tuple[type[Any], Callable[[Any], SensorData]]:
    """Message class of a sensor's topic, and what turns a message into sensor data.

    The decoder belongs to one subscription: that of event packets carries the sensor's state.
    """
    if (modality, parameters.type) == (Modality.EVENT, "packets"):
        return event_packet_class(), EventPacketDecoder()
    message_class, decode = DECODERS[modality, parameters.type]
    if modality is Modality.LIDAR:
        decode = partial(
            messages.decode_lidar,
            intensity_max=parameters.intensity_max,
            intensity_field=parameters.intensity_field,
        )
    return message_class, decode


class SensorInput:
    """Subscribes to one sensor (and its CameraInfo), checks and decodes. A bad message costs itself."""

    def __init__(
        self,
        node: Node,
        modality: Modality,
        parameters: SensorParameters,
        on_data: DataCallback,
        on_info: InfoCallback | None,
        on_refused: RefusedCallback,
        on_info_refused: RefusedCallback,
        warnings: ThrottledLog,
        times: StageTimes,
    ) -> None:
        """Subscribe.

        Args:
            on_data: called with modality, stamp in ns, data and frame id. May raise MessageError.
            on_info: called with the model of each CameraInfo; ``None`` if none is wanted.
            on_refused: called with modality and reason for each data message that is refused.
            on_info_refused: the same for each CameraInfo that is refused.
            warnings: where refused messages are logged.
            times: where the time of decoding is noted.
        """
        self._node = node
        self._modality = modality
        self._parameters = parameters
        self._offset_ns = to_ns(parameters.stamp_offset_s)
        self._on_data = on_data
        self._on_info = on_info
        self._on_refused = on_refused
        self._on_info_refused = on_info_refused
        self._warnings = warnings
        self._times = times
        self.log = SensorLog()
        message_class, self._decode = _message_and_decoder(modality, parameters)
        self.message_type = type_name(message_class)
        self._subscriptions: list[Any] = []
        if parameters.enabled:
            self._subscriptions.append(
                node.create_subscription(
                    message_class,
                    parameters.topic,
                    self._on_message,
                    input_qos(parameters),
                    event_callbacks=SubscriptionEventCallbacks(
                        incompatible_qos=self._on_incompatible_qos
                    ),
                )
            )
        self.topic = self._subscriptions[0].topic_name if self._subscriptions else parameters.topic
        self.info_topic = ""
        if on_info is not None and parameters.camera_info_topic:
            for qos in INFO_QOS:
                subscription = node.create_subscription(
                    CameraInfo,
                    parameters.camera_info_topic,
                    self._on_camera_info,
                    qos,
                    # Whom one of the two does not suit suits the other.
                    event_callbacks=SubscriptionEventCallbacks(incompatible_qos=lambda _: None),
                )
                self.info_topic = subscription.topic_name
                self._subscriptions.append(subscription)

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _on_message(self, message: Any) -> None:
        self.log.received += 1
        try:
            with self._times.measure(f"decode_{self._modality.label}"):
                data = self._decode(message)
            stamp, data = on_host_clock(message, data, self._offset_ns)
            self._on_data(self._modality, stamp, data, message.header.frame_id)
        except Exception as error:  # a message that breaks a decoder must not end the node
            self.log.rejected += 1
            self.log.last_error = self._refuse(self.topic, error)
            self._on_refused(self._modality, self.log.last_error)

    def _on_incompatible_qos(self, event: QoSRequestedIncompatibleQoSInfo) -> None:
        """A publisher is there that does not offer what is asked for, so that nothing arrives of it."""
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        remedy = (
            f"; set {self._modality.label}.qos_reliable to false" if policy == "RELIABILITY" else ""
        )
        self.log.qos_mismatch = (
            f"QoS mismatch on {self.topic}: a publisher does not offer the {policy} that is asked for"
            + remedy
        )
        self._warnings.warning(f"{self.topic} qos", self.log.qos_mismatch, 30.0)

    def _on_camera_info(self, message: Any) -> None:
        assert self._on_info is not None
        try:
            camera = messages.decode_camera_info(message, self._parameters.rectified)
            self._on_info(self._modality, camera, message.header.frame_id)
        except Exception as error:
            self.log.info_rejected += 1
            self.log.info_error = self._refuse(self.info_topic, error)
            self._on_info_refused(self._modality, self.log.info_error)

    def _refuse(self, topic: str, error: Exception) -> str:
        """Log that a message is refused; returns why."""
        reason = str(error) if isinstance(error, MessageError) else repr(error)
        self._warnings.warning(
            topic, f"{self._modality.label}: refused a message on {topic}: {reason}"
        )
        return reason
