"""``CvBridge`` and ``point_cloud2`` from ROS where they work, else stand-ins with the same results.

``cv_bridge`` and ``sensor_msgs_py`` have no Python wheels, so a graph built from wheels lacks them.
A ``cv_bridge`` built against another numpy imports but fails at its first use, hence the probe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anyseg_ros.ros.stand_ins import point_cloud2
    from anyseg_ros.ros.stand_ins.cv_bridge import CvBridge, CvBridgeError
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

__all__ = ["CvBridge", "CvBridgeError", "point_cloud2"]
