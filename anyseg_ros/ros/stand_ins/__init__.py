"""``CvBridge``, ``point_cloud2`` and filters from ROS where they work, else stand-ins of the same results.

``cv_bridge``, ``sensor_msgs_py`` and ``message_filters`` have no Python wheels, so a graph built from
wheels lacks them. A ``cv_bridge`` built against another numpy imports but fails at its first use, hence
the probe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anyseg_ros.ros.stand_ins import point_cloud2
    from anyseg_ros.ros.stand_ins.cv_bridge import CvBridge, CvBridgeError
    from anyseg_ros.ros.stand_ins.message_filters import SimpleFilter, Subscriber
else:
    try:
        from cv_bridge import CvBridge, CvBridgeError

        CvBridge().encoding_to_cvtype2("mono8")
    except (ImportError, AttributeError):
        from anyseg_ros.ros.stand_ins.cv_bridge import CvBridge, CvBridgeError
    try:
        from sensor_msgs_py import point_cloud2
    except ImportError:
        from anyseg_ros.ros.stand_ins import point_cloud2
    try:
        from message_filters import SimpleFilter, Subscriber
    except ImportError:
        from anyseg_ros.ros.stand_ins.message_filters import SimpleFilter, Subscriber

__all__ = ["CvBridge", "CvBridgeError", "SimpleFilter", "Subscriber", "point_cloud2"]
