"""The ROS 2 side: the only package that imports ``rclpy`` and message packages."""

from anyseg_ros.ros.live_synchronizer import InputStatistics, LiveTimeSynchronizer
from anyseg_ros.ros.stand_ins import Subscriber

__all__ = ["InputStatistics", "LiveTimeSynchronizer", "Subscriber"]
