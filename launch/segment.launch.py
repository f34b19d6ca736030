"""Start the segmentation node: ``ros2 launch anyseg_ros segment.launch.py``."""

from __future__ import annotations

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.launch_context import LaunchContext
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue

from anyseg_ros.ros.transport import OPT_OUT, transport_environment

SHARE = Path(get_package_share_directory("anyseg_ros"))
SENSORS = ("camera", "depth", "event", "lidar")
INFO_TOPICS = {
    "camera_info_topic": "camera",
    "depth_camera_info_topic": "depth",
    "event_camera_info_topic": "event",
}
"""Arguments that name the CameraInfo of a sensor."""
DEFAULTS = SHARE / "config" / "launch_defaults.yaml"
SHOWN = ("overlay", "segmentation", "confidence", "semantic_points")
"""Topics in config/anyseg.rviz."""

ARGUMENTS = [
    DeclareLaunchArgument(
        "params_file",
        default_value=str(SHARE / "config" / "segment.yaml"),
        description="YAML with the node's parameters.",
    ),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node."),
    DeclareLaunchArgument("name", default_value="anyseg", description="Name of the node."),
    DeclareLaunchArgument(
        "model", default_value="", description="Model folder or name; empty: as in params_file."
    ),
    DeclareLaunchArgument(
        "engine", default_value="", description="Inference engine; empty: as in params_file."
    ),
    DeclareLaunchArgument(
        "calibration_file",
        default_value="",
        description="Calibration of the rig; empty: as in params_file.",
    ),
    *(
        DeclareLaunchArgument(
            f"{sensor}_topic",
            default_value="",
            description=f"Topic of the {sensor}; empty: as in params_file.",
        )
        for sensor in SENSORS
    ),
    *(
        DeclareLaunchArgument(
            argument,
            default_value="",
            description=f"Topic of the {sensor}'s CameraInfo; empty: as in params_file, else "
            "camera_info beside the sensor's topic.",
        )
        for argument, sensor in INFO_TOPICS.items()
    ),
    *(
        DeclareLaunchArgument(
            f"{sensor}_type",
            default_value="",
            description=f"Kind of message of the {sensor}; empty: as in params_file.",
        )
        for sensor in SENSORS
    ),
    DeclareLaunchArgument(
        "sensors",
        default_value="",
        description="Sensors to use, e.g. 'camera,lidar'; empty: as in params_file.",
    ),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="",
        description="Take time from /clock; empty: as in params_file, or as SetParameter has it.",
    ),
    DeclareLaunchArgument(
        "autostart",
        default_value="",
        description="Configure and activate at start; empty: as in params_file, else true.",
    ),
    DeclareLaunchArgument(
        "respawn", default_value="false", description="Start the node again if it ends."
    ),
    DeclareLaunchArgument(
        "respawn_delay", default_value="2.0", description="Seconds before it is started again."
    ),
    DeclareLaunchArgument(
        "rviz", default_value="false", description="Start RViz with the package's displays."
    ),
    DeclareLaunchArgument(
        "rviz_frame",
        default_value="camera",
        description="RViz's fixed frame: one that TF connects with the LiDAR's, or that one.",
    ),
    DeclareLaunchArgument(
        "log_level", default_value="info", description="debug, info, warn, error or fatal."
    ),
    DeclareLaunchArgument(
        "configure_transport",
        default_value="true",
        description="Let Fast DDS carry large messages, unless the environment already chooses; false "
        "leaves the middleware's settings alone (ANYSEG_CONFIGURE_TRANSPORT=0 does so without launch).",
    ),
]


def _overrides(context: LaunchContext) -> dict[str, object]:
    """Parameters given as launch arguments; they win over the file."""

    def given(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    values: dict[str, object] = {
        name: ParameterValue(given(name), value_type=str)
        for name in ("model", "engine", "calibration_file")
        if given(name)
    }
    for sensor in SENSORS:
        for field in ("topic", "type"):
            if given(f"{sensor}_{field}"):
                values[f"{sensor}.{field}"] = ParameterValue(
                    given(f"{sensor}_{field}"), value_type=str
                )
    for argument, sensor in INFO_TOPICS.items():
        if given(argument):
            values[f"{sensor}.camera_info_topic"] = ParameterValue(given(argument), value_type=str)
    if given("sensors"):
        chosen = {name.strip() for name in given("sensors").replace("+", ",").split(",")}
        unknown = sorted(chosen - set(SENSORS))
        if unknown:
            raise RuntimeError(f"sensors:={given('sensors')}: expected some of {SENSORS}")
        values |= {f"{sensor}.enabled": sensor in chosen for sensor in SENSORS}
    for flag in ("autostart", "use_sim_time"):
        if given(flag):
            values[flag] = _is_true(context, flag)
    return values


def _is_true(context: LaunchContext, flag: str) -> bool:
    return LaunchConfiguration(flag).perform(context).lower() in ("true", "1", "yes", "on")


def _rviz(context: LaunchContext) -> Node:
    parts = [
        LaunchConfiguration(part).perform(context).strip("/") for part in ("namespace", "name")
    ]
    node = "/" + "/".join(part for part in parts if part)
    given = LaunchConfiguration("use_sim_time").perform(context)
    return Node(
        package="rviz2",
        executable="rviz2",
        arguments=[
            *("-d", str(SHARE / "config" / "anyseg.rviz")),
            *("-f", LaunchConfiguration("rviz_frame")),
        ],
        remappings=[(f"/anyseg/{topic}", f"{node}/{topic}") for topic in SHOWN],
        parameters=[{"use_sim_time": _is_true(context, "use_sim_time")}] if given else [],
        output="log",
    )


def _start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    actions: list[LaunchDescriptionEntity] = []
    if _is_true(context, "configure_transport"):
        actions += [
            SetEnvironmentVariable(name, value)
            for name, value in transport_environment(os.environ).items()
        ]
    else:
        actions.append(SetEnvironmentVariable(OPT_OUT, "0"))
    actions.append(
        LifecycleNode(
            package="anyseg_ros",
            executable="segment",
            name=LaunchConfiguration("name"),
            # An empty namespace, not none: else a section of the file that names the node would win
            # over the arguments.
            namespace=LaunchConfiguration("namespace"),
            # Later ones win.
            parameters=[str(DEFAULTS), LaunchConfiguration("params_file"), _overrides(context)],
            arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
            respawn=_is_true(context, "respawn"),
            respawn_delay=float(LaunchConfiguration("respawn_delay").perform(context)),
            output="screen",
            emulate_tty=True,
        )
    )
    if _is_true(context, "rviz"):
        actions.append(_rviz(context))
    return actions


def generate_launch_description() -> LaunchDescription:
    """What ``ros2 launch`` runs."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=_start)])
