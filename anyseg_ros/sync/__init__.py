"""Matched sets of messages from streams that stall, lie and come back. No ROS, no clock of its own.

Usable alone::

    sync = Synchronizer(
        {"camera": StreamConfig(0.5, 0.05, 0.3, 10.0), "lidar": StreamConfig(0.5, 0.05, 0.3, 10.0)},
        priority=["camera", "lidar"],
        max_wait_s=0.05,
    )
    now_ns = steady_clock()
    for matched in sync.add("camera", stamp_ns, image, now_ns()):
        print(matched.stamp_ns, matched.members.keys())
    ...  # poll(now) at next_deadline_ns() if nothing arrives before

The classes hold no locks: the caller serialises.
"""

from anyseg_ros.sync.clock import steady_clock
from anyseg_ros.sync.newest import NewestSet
from anyseg_ros.sync.streams import (
    DropReason,
    Impairment,
    StreamConfig,
    StreamCounters,
    StreamState,
    StreamStatus,
)
from anyseg_ros.sync.synchronizer import MatchedSet, Member, Synchronizer

__all__ = [
    "DropReason",
    "Impairment",
    "MatchedSet",
    "Member",
    "NewestSet",
    "StreamConfig",
    "StreamCounters",
    "StreamState",
    "StreamStatus",
    "Synchronizer",
    "steady_clock",
]
