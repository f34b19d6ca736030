"""Score the running node against labels: ``ros2 launch anyseg_ros evaluate.launch.py bag:=...``.

With ``play:=false`` somebody else plays, e.g. ``ros2 bag play --clock``; end the launch with Ctrl-C then.
"""

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
    TimerAction,
)
from launch.conditions import IfCondition
from launch.launch_context import LaunchContext
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from anyseg_ros.ros.transport import transport_environment

SHARE = Path(get_package_share_directory("anyseg_ros"))
DEMO_BAG = str(SHARE / "demo" / "street_drive")
LAST_RESULTS_S = 2.0
"""How long results may still be on their way when the bag has ended."""


def _node(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node; the shipped bag's rig is known without being named."""
    given = {
        name: LaunchConfiguration(name).perform(context)
        for name in ("params_file", "calibration_file", "model", "use_sim_time")
    }
    plays = LaunchConfiguration("play").perform(context).lower() in ("true", "1")
    shipped = plays and LaunchConfiguration("bag").perform(context) == DEMO_BAG
    if not given["calibration_file"] and shipped:
        given["calibration_file"] = str(SHARE / "demo" / "calibration.yaml")
    return [
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(SHARE / "launch" / "segment.launch.py")),
            launch_arguments=given.items(),
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """What ``ros2 launch`` runs: node, player and score; all end when the bag does."""
    arguments = {
        "bag": (DEMO_BAG, "Bag to play."),
        "calibration_file": (
            "",
            "Calibration of the rig; empty: as in params_file, else CameraInfo and TF.",
        ),
        "params_file": (
            str(SHARE / "config" / "demo.yaml"),
            "The node's parameters: topics, types; by default those of the shipped bag.",
        ),
        "model": ("", "Model folder or name; empty: the default."),
        "outages": (str(SHARE / "config" / "no_outages.yaml"), "Timetable of the outages."),
        "rate": ("1.0", "Playback speed."),
        "play": ("true", "Play the bag; false: somebody else does."),
        "use_sim_time": ("", "Take time from /clock; empty: as in params_file."),
        "ground_truth": ("/ground_truth/labels", "Topic of the label images (PNG)."),
        "out": ("out/score", "Folder for results.json and outputs.csv."),
    }
    given = {name: LaunchConfiguration(name) for name in arguments}
    player = Node(
        package="anyseg_ros",
        executable="play_bag",
        arguments=[
            given["bag"],
            *("--outages", given["outages"]),
            *("--rate", given["rate"]),
            *("--wait", "30", "--clock"),
        ],
        condition=IfCondition(given["play"]),
        output="screen",
        on_exit=[
            TimerAction(period=LAST_RESULTS_S, actions=[Shutdown(reason="the bag has ended")])
        ],
    )
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=about)
                for name, (default, about) in arguments.items()
            ),
            *(
                SetEnvironmentVariable(name, value)
                for name, value in transport_environment(os.environ).items()
            ),
            OpaqueFunction(function=_node),
            Node(
                package="anyseg_ros",
                executable="score",
                arguments=[
                    *("--model", given["model"]),
                    *("--ground-truth", given["ground_truth"]),
                    *("--out", given["out"]),
                ],
                output="screen",
            ),
            player,
        ]
    )
