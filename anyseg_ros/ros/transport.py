"""Environment that lets Fast DDS carry camera images, set before ``rclpy.init``.

With its defaults, Fast DDS loses nearly every best-effort message above the 512 KB of its shared
memory segment, so nearly every 640x480 colour image. ``LARGE_DATA`` sends data over TCP and keeps UDP
for discovery; measured, it loses nothing and takes a third of the CPU time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

FASTDDS_TRANSPORTS = "LARGE_DATA?max_msg_size=4MB&sockets_size=8MB&non_blocking=true"
DISCOVERY_RANGE = "SUBNET"
"""``LOCALHOST`` makes Fast DDS ignore the built-in transports that are asked for."""

REMEDY = (
    f'set FASTDDS_BUILTIN_TRANSPORTS="{FASTDDS_TRANSPORTS}" and '
    f"ROS_AUTOMATIC_DISCOVERY_RANGE={DISCOVERY_RANGE} for the publisher and for this node"
)

# Any of these says that the user has chosen a transport.
_USERS_CHOICE = (
    "FASTDDS_BUILTIN_TRANSPORTS",
    "FASTDDS_DEFAULT_PROFILES_FILE",
    "FASTRTPS_DEFAULT_PROFILES_FILE",
)


def transport_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables to add for large data; empty if the user chose a transport or another middleware."""
    if environment.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp") != "rmw_fastrtps_cpp":
        return {}
    if any(environment.get(name) for name in _USERS_CHOICE):
        return {}
    added = {"FASTDDS_BUILTIN_TRANSPORTS": FASTDDS_TRANSPORTS}
    if not environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE"):
        added["ROS_AUTOMATIC_DISCOVERY_RANGE"] = DISCOVERY_RANGE
    return added


def configure_transport(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Set what :func:`transport_environment` says; returns whether large data is provided for."""
    environment.update(transport_environment(environment))
    return any(environment.get(name) for name in _USERS_CHOICE)
