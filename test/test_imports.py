"""Imports point one way: ros -> pipeline -> {sync, modalities, engine} -> modality; no torch at runtime."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What each room may not import, besides its own.
FORBIDDEN = {
    "anyseg_ros": ["torch", "lightning", "transformers", "training", "mujoco"],
    "anyseg_ros/sync": ["anyseg_ros"],
    "anyseg_ros/modalities": [
        f"anyseg_ros.{room}" for room in ("sync", "engine", "pipeline", "ros", "evaluation")
    ],
    "anyseg_ros/engine": [
        f"anyseg_ros.{room}" for room in ("sync", "pipeline", "ros", "evaluation")
    ],
    "anyseg_ros/pipeline.py": ["anyseg_ros.ros", "anyseg_ros.evaluation"],
    "anyseg_ros/evaluation": ["anyseg_ros.ros"],
    "training": ["anyseg_ros.ros", "anyseg_ros.sync", "anyseg_ros.pipeline", "rclpy"],
}
ROS = ("rclpy", "sensor_msgs", "std_msgs", "diagnostic_msgs", "cv_bridge", "tf2_ros", "launch")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def files(room: str) -> list[Path]:
    path = ROOT / room
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_imports_nothing_above_it(room):
    own = room.removesuffix(".py").replace("/", ".")
    assert files(room)
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files(room)
        for name in imported(path)
        if any(within(name, bad) for bad in FORBIDDEN[room])
        and not (own != "anyseg_ros" and within(name, own))
    ]
    assert not wrong, wrong


def test_ros_stays_in_its_room():
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files("anyseg_ros")
        if "anyseg_ros/ros/" not in path.as_posix()
        for name in imported(path)
        if any(within(name, package) for package in ROS)
    ]
    assert not wrong, wrong
