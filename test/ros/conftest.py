"""ROS for these tests: own domains, a transport that carries images, fields checked."""

import os

os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"

import pytest
import rig

from anyseg_ros.ros.transport import configure_transport

configure_transport()


@pytest.fixture
def values(tmp_path, tiny_model):
    """Parameters of a node with a tiny model and a calibrated rig."""
    return {
        "model": str(tiny_model),
        "calibration_file": str(rig.write_calibration(tmp_path)),
        "threads": 1,
    }
