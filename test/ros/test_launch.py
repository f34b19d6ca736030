"""Launch files: every argument explained, what they start, and what RViz is told to show."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import rclpy
import yaml
from ros_graph import domain

from anyseg_ros.ros.node import SegmentationNode

ROOT = Path(__file__).parents[2]
LAUNCH_FILES = sorted((ROOT / "launch").glob("*.launch.py"))
EXPECTED = {
    *("namespace", "name", "model", "engine", "calibration_file", "sensors", "params_file"),
    *("use_sim_time", "autostart", "respawn", "log_level", "rviz", "camera_info_topic"),
}


def displays() -> dict[str, dict]:
    tree = yaml.safe_load((ROOT / "config" / "anyseg.rviz").read_text())
    return {d["Name"]: d for d in tree["Visualization Manager"]["Displays"]}


def test_rviz_shows_topics_that_the_node_publishes_by_a_qos_that_fits():
    publishers = (ROOT / "anyseg_ros" / "ros" / "publishers.py").read_text()
    shown = {name: d["Topic"] for name, d in displays().items() if "Topic" in d}
    assert {"Overlay", "Segmentation", "Semantic points"} <= set(shown)
    for topic in shown.values():
        assert f'"~{topic["Value"].removeprefix("/anyseg")}"' in publishers
        # The node publishes best effort unless told otherwise.
        assert topic["Reliability Policy"] == "Best Effort"
        assert topic["Durability Policy"] == "Volatile"


def load(path: Path):
    pytest.importorskip("launch_ros", reason="launch_ros is not installed (it has no wheel)")
    pytest.importorskip("ament_index_python").get_package_prefix("anyseg_ros")
    spec = importlib.util.spec_from_file_location(path.stem.replace(".", "_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda p: p.name)
def test_every_argument_is_described(path):
    arguments = load(path).generate_launch_description().get_launch_arguments()
    assert arguments
    undescribed = [a.name for a in arguments if a.description in ("", "no description given")]
    assert not undescribed
    if path.name == "segment.launch.py":
        assert {a.name for a in arguments} >= EXPECTED


@pytest.mark.parametrize(
    ("said", "starts"),
    [
        ("", True),
        ("/**: {ros__parameters: {autostart: false}}", False),
        ("/anyseg: {ros__parameters: {autostart: false}}", False),
        ("/**: {ros__parameters: {threads: 1}}", True),
    ],
)
def test_a_params_file_decides_over_what_the_launch_file_takes_for_usual(tmp_path, said, starts):
    params = ROOT / "config" / "segment.yaml"
    if said:
        params = tmp_path / "params.yaml"
        params.write_text(said)
    arguments = ["--ros-args"]
    for path in (ROOT / "config" / "launch_defaults.yaml", params):
        arguments += ["--params-file", str(path)]
    with domain() as number:
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=number)
        node = SegmentationNode(context=context, cli_args=arguments)
        try:
            assert node.get_parameter("autostart").value is starts
        finally:
            node.destroy_node()
            rclpy.shutdown(context=context)


def overrides(**given: str) -> dict[str, object]:
    """What segment.launch.py sets over the parameter file, with these arguments."""
    module = load(ROOT / "launch" / "segment.launch.py")
    from launch import LaunchContext

    context = LaunchContext()
    for argument in module.ARGUMENTS:
        argument.execute(context)
    context.launch_configurations.update(given)
    return module._overrides(context)


def test_only_what_is_given_wins_over_the_file():
    assert overrides() == {}
    assert overrides(autostart="false", use_sim_time="true") == {
        "autostart": False,
        "use_sim_time": True,
    }
    named = overrides(camera_info_topic="/front/info", event_camera_info_topic="/dvs/info")
    assert set(named) == {"camera.camera_info_topic", "event.camera_info_topic"}


def test_rviz_follows_namespace_and_name():
    module = load(ROOT / "launch" / "segment.launch.py")
    from launch import LaunchContext

    shown = {d["Topic"]["Value"] for d in displays().values() if "Topic" in d}
    assert {f"/anyseg/{topic}" for topic in module.SHOWN} == shown
    context = LaunchContext()
    context.launch_configurations.update(namespace="robot/", name="seg", use_sim_time="true")
    node = module._rviz(context)
    targets = [target[0].text for _, target in node._Node__remappings]
    assert targets == [f"/robot/seg/{topic}" for topic in module.SHOWN]
    assert node._Node__parameters
    # What is not given is left to the launch around it.
    context.launch_configurations["use_sim_time"] = ""
    assert not module._rviz(context)._Node__parameters


@pytest.mark.parametrize(
    ("name", "given", "known"),
    [
        ("demo", {}, True),
        ("demo", {"bag": "/data/my_drive"}, False),
        ("evaluate", {}, True),
        ("evaluate", {"bag": "/data/my_drive"}, False),
        ("evaluate", {"play": "false"}, False),
    ],
)
def test_only_the_shipped_bag_has_its_rig_without_being_told(name, given, known):
    module = load(ROOT / "launch" / f"{name}.launch.py")
    from launch import LaunchContext
    from launch.actions import DeclareLaunchArgument

    context = LaunchContext()
    for entity in module.generate_launch_description().entities:
        if isinstance(entity, DeclareLaunchArgument):
            entity.execute(context)
    context.launch_configurations.update(given)
    (include,) = module._node(context)
    calibration = dict(include.launch_arguments)["calibration_file"]
    assert calibration.endswith("demo/calibration.yaml") is known
    assert known or not calibration
