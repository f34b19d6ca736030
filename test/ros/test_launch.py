"""Launch files: every argument explained, what they start, and what RViz is told to show."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LAUNCH_FILES = sorted((ROOT / "launch").glob("*.launch.py"))
EXPECTED = {
    *("namespace", "name", "model", "engine", "calibration_file", "sensors", "params_file"),
    *("use_sim_time", "autostart", "respawn", "log_level", "rviz"),
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
