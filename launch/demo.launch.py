"""Segment the shipped bag while sensors go and come: ``ros2 launch anyseg_ros demo.launch.py``."""

from __future__ import annotations

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    SetEnvironmentVariable,
    Shutdown,
)
from launch.launch_context import LaunchContext
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from anyseg_ros.ros.transport import transport_environment

SHARE = Path(get_package_share_directory("anyseg_ros"))
BAG = str(SHARE / "demo" / "street_drive")


def _node(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node; the shipped bag's rig is known without being named."""
    calibration = LaunchConfiguration("calibration_file").perform(context)
    if not calibration and LaunchConfiguration("bag").perform(context) == BAG:
        calibration = str(SHARE / "demo" / "calibration.yaml")
    return [
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(SHARE / "launch" / "segment.launch.py")),
            launch_arguments={
                "params_file": str(SHARE / "config" / "demo.yaml"),
                "calibration_file": calibration,
            }.items(),
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """What ``ros2 launch`` runs: the node, and a player that ends the launch when it is done."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "bag",
                default_value=BAG,
                description="Bag to play; its topics must be those of config/demo.yaml.",
            ),
            DeclareLaunchArgument(
                "calibration_file",
                default_value="",
                description="Calibration of the rig; empty: the shipped bag's, of another CameraInfo and TF.",
            ),
            DeclareLaunchArgument(
                "outages",
                default_value=str(SHARE / "config" / "demo_outages.yaml"),
                description="Timetable of the outages.",
            ),
            DeclareLaunchArgument("rate", default_value="1.0", description="Playback speed."),
            *(
                SetEnvironmentVariable(name, value)
                for name, value in transport_environment(os.environ).items()
            ),
            OpaqueFunction(function=_node),
            Node(
                package="anyseg_ros",
                executable="play_bag",
                arguments=[
                    LaunchConfiguration("bag"),
                    "--outages",
                    LaunchConfiguration("outages"),
                    "--rate",
                    LaunchConfiguration("rate"),
                    "--wait",
                    "30",
                ],
                output="screen",
                on_exit=Shutdown(reason="the bag has ended"),
            ),
        ]
    )
