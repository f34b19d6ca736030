"""Environment that lets Fast DDS carry camera images, set before ``rclpy.init``.

With its defaults, Fast DDS loses nearly every best-effort message above the 512 KB of its shared
memory segment, so nearly every 640x480 colour image. The segment is the sender's and twice its
socket buffer, so a larger buffer is all it takes, and the process still talks to every other.
``LARGE_DATA`` (TCP) is a little faster, but a process that has it and one that has not do not find
each other at all: no driver, no ``ros2 topic``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

FASTDDS_TRANSPORTS = "DEFAULT?sockets_size=16MB"
"""Messages of up to 32 MB through shared memory."""

REMEDY = (
    f'set FASTDDS_BUILTIN_TRANSPORTS="{FASTDDS_TRANSPORTS}" where the publisher starts '
    "(ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST would void it)"
)


def large_message_remedy(middleware: str) -> str:
    """What helps where a middleware loses large messages, as the end of a sentence.

    Args:
        middleware: as ``rclpy.get_rmw_implementation_identifier`` names it.
    """
    if middleware.startswith("rmw_fastrtps"):
        return REMEDY
    return f"see how {middleware} is tuned for large messages (buffers of sockets and kernel)"


# Any of these says that the user has chosen a transport.
_USERS_CHOICE = (
    "FASTDDS_BUILTIN_TRANSPORTS",
    "FASTDDS_DEFAULT_PROFILES_FILE",
    "FASTRTPS_DEFAULT_PROFILES_FILE",
)


OPT_OUT = "ANYSEG_CONFIGURE_TRANSPORT"
"""Variable that is set to 0 to leave the middleware's settings alone."""


def transport_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables to add for large data.

    Empty if the user chose a transport or another middleware, or wants none to be set.
    """
    if environment.get(OPT_OUT) == "0":
        return {}
    if environment.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp") != "rmw_fastrtps_cpp":
        return {}
    if any(environment.get(name) for name in _USERS_CHOICE):
        return {}
    return {"FASTDDS_BUILTIN_TRANSPORTS": FASTDDS_TRANSPORTS}


def configure_transport(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Set what :func:`transport_environment` says; returns whether large data is provided for."""
    environment.update(transport_environment(environment))
    return any(environment.get(name) for name in _USERS_CHOICE)
