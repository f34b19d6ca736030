"""Segment the shipped bag while sensors go and come: ``ros2 launch anyseg_ros demo.launch.py``."""

from __future__ import annotations

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    SetEnvironmentVariable,
    Shutdown,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from anyseg_ros.ros.transport import transport_environment

SHARE = Path(get_package_share_directory("anyseg_ros"))


def generate_launch_description() -> LaunchDescription:
    """What ``ros2 launch`` runs: the node, and a player that ends the launch when it is done."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "bag",
                default_value=str(SHARE / "demo" / "street_drive"),
                description="Bag to play.",
            ),
            DeclareLaunchArgument(
                "calibration_file",
                default_value=str(SHARE / "demo" / "calibration.yaml"),
                description="Calibration of the bag's rig.",
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
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(SHARE / "launch" / "segment.launch.py")),
                launch_arguments={
                    "params_file": str(SHARE / "config" / "demo.yaml"),
                    "calibration_file": LaunchConfiguration("calibration_file"),
                }.items(),
            ),
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
