"""Message types that sensors' drivers send and nobody here reads, with what to do instead."""

from __future__ import annotations

from collections.abc import Mapping

_LIVOX = (
    "with xfer_format 0 in its launch file the Livox driver publishes sensor_msgs/msg/PointCloud2"
)
_EVENT_ARRAY = (
    "use a driver that sends event_camera_msgs/msg/EventPacket, such as metavision_driver, and event.type "
    "'packets'; legacy_to_bag of event_camera_legacy_tools converts recordings to it"
)

UNREAD_TYPES: Mapping[str, str] = {
    "livox_ros_driver2/msg/CustomMsg": _LIVOX,
    "livox_ros_driver/msg/CustomMsg": _LIVOX,
    "livox_interfaces/msg/CustomMsg": _LIVOX,
    "dvs_msgs/msg/EventArray": _EVENT_ARRAY,
    "prophesee_event_msgs/msg/EventArray": _EVENT_ARRAY,
    "event_array_msgs/msg/EventArray": _EVENT_ARRAY,
}
"""Remedy of each, as the second half of a sentence that names the type."""
