"""ROS for these tests: own domains, a transport that carries images, fields checked."""

import os

os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"

from anyseg_ros.ros.transport import configure_transport

configure_transport()
