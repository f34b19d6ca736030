"""The package is what ROS and pip expect."""

import re
import runpy
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import setuptools

from anyseg_ros import __version__
from anyseg_ros.resources import ResourceError, find_model, find_resource

ROOT = Path(__file__).parents[2]


def setup_arguments(monkeypatch) -> dict:
    found = {}
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: found.update(arguments))
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"))
    return found


def test_package_xml_is_valid_for_ament_python():
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    assert package.get("format") == "3"
    assert package.findtext("name") == "anyseg_ros"
    assert package.findtext("version") == __version__
    # An address that does not validate silently turns the package into a plain one.
    assert re.fullmatch(
        r"[-a-zA-Z0-9_%+]+(\.[-a-zA-Z0-9_%+]+)*@[-a-zA-Z0-9%]+(\.[-a-zA-Z0-9%]+)*\.[a-zA-Z]{2,}",
        package.find("maintainer").get("email"),
    )
    assert package.findtext("export/build_type") == "ament_python"
    needed = {entry.text for entry in package.iter() if entry.tag.endswith("depend")}
    assert {"rclpy", "cv_bridge", "sensor_msgs_py", "message_filters", "sensor_msgs"} <= needed
    assert {"std_msgs", "diagnostic_msgs", "vision_msgs", "launch_ros"} <= needed
    # What the demo and the reports import; rosdep installs it, so that the scripts start.
    assert {"python3-tqdm", "python3-matplotlib", "python3-jinja2"} <= needed


def test_setup_installs_what_ros_looks_for(monkeypatch):
    arguments = setup_arguments(monkeypatch)
    assert arguments["version"] == __version__
    installed = {folder: files for folder, files in arguments["data_files"]}
    assert installed["share/ament_index/resource_index/packages"] == ["resource/anyseg_ros"]
    assert "package.xml" in installed["share/anyseg_ros"]
    assert "launch/segment.launch.py" in installed["share/anyseg_ros/launch"]
    assert "config/segment.yaml" in installed["share/anyseg_ros/config"]
    scripts = [s.split("=")[0].strip() for s in arguments["entry_points"]["console_scripts"]]
    assert {"segment", "play_bag"} <= set(scripts)
    assert not any("torch" in requirement for requirement in arguments["install_requires"])
    assert any(r.endswith("<5") for r in arguments["install_requires"] if "opencv" in r)
    for script in arguments["entry_points"]["console_scripts"]:
        module, function = script.split("=")[1].strip().split(":")
        source = ROOT / Path(*module.split(".")).with_suffix(".py")
        assert f"def {function}(" in source.read_text()


def test_resources_are_found_or_named(tmp_path):
    assert find_resource("config/segment.yaml").is_file()
    assert find_model(str(tmp_path)) == tmp_path
    assert find_model() == find_model("anyseg_street_b0") == ROOT / "models/anyseg_street_b0"
    with pytest.raises(ResourceError, match=r"no model folder .*none"):
        find_model(str(tmp_path / "none"))
    shipped = r"'no_such_model': name a folder, or one of anyseg_street_b0, anyseg_street_fast$"
    with pytest.raises(ResourceError, match=shipped):
        find_model("no_such_model")
