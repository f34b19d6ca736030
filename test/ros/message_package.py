"""Builds a ROS message package from its ``.msg`` text, as colcon would, with what the ROS wheels bring.

For message packages that have no wheel (``event_camera_msgs``, ``vision_msgs``): the tests then send
real messages over real DDS. The wheels hold the generators, templates, headers and libraries; only a C++
compiler and Python's headers must be there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

EVENT_PACKET = """\
std_msgs/Header header
uint32 height
uint32 width
uint64 seq
uint64 time_base
string encoding
bool is_bigendian
uint8[] events
"""
VISION_CLASS = "uint16 class_id\nstring class_name\n"
LABEL_INFO = "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n"

_ROOT = Path(sys.prefix)
_HEADERS = Path(sysconfig.get_paths()["include"])
_IMPLEMENTATION = "rosidl_typesupport_fastrtps_c"


@contextmanager
def message_package(
    name: str, messages: Mapping[str, str], make_folder: Callable[[], Path]
) -> Iterator[Any]:
    """The module ``<name>.msg``: the installed one, else built and importable for a while."""
    try:
        yield import_module(f"{name}.msg")
        return
    except ImportError:
        require_compiler()
    folder = build_message_package(name, messages, make_folder())
    sys.path.insert(0, str(folder))
    try:
        yield import_module(f"{name}.msg")
    finally:
        sys.path.remove(str(folder))
        for module in [m for m in sys.modules if m.split(".")[0] == name]:
            del sys.modules[module]


def require_compiler() -> None:
    """Skip the test, saying what is missing, where messages cannot be built."""
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler (c++) to build a message package with")
    if not (_HEADERS / "Python.h").is_file():
        pytest.skip(f"no Python headers ({_HEADERS}/Python.h) to build a message package with")
    if not (_ROOT / "share" / "rosidl_generator_py" / "resource").is_dir():
        pytest.skip("no rosidl generators beside this Python (the ROS wheels bring them)")


def build_message_package(name: str, messages: Mapping[str, str], folder: Path) -> Path:
    """Generate and compile package ``name``; returns the folder to put on ``PYTHONPATH``.

    Args:
        messages: message name to the text of its ``.msg``, in order of dependence.
    """
    from rosidl_adapter.msg import convert_msg_to_idl
    from rosidl_generator_c.cli import GenerateC
    from rosidl_generator_py.cli import GeneratePython
    from rosidl_generator_type_description.cli import HashTypeDescription
    from rosidl_typesupport_c.cli import GenerateCTypesupport
    from rosidl_typesupport_fastrtps_c.cli import GenerateFastRTPSCTypesupport

    out = folder / name
    (out / "msg").mkdir(parents=True)
    for message, text in messages.items():
        (out / "msg" / f"{message}.msg").write_text(text)
        convert_msg_to_idl(out, name, Path("msg", f"{message}.msg"), out / "msg")
    idls = [f"{out}:msg/{message}.idl" for message in messages]
    include = [str(_ROOT / "share" / package) for package in ("std_msgs", "builtin_interfaces")]
    what = {"package_name": name, "interface_files": idls, "include_paths": include}
    with patch.dict(os.environ, AMENT_PREFIX_PATH=str(_ROOT)):
        hashes = HashTypeDescription("type_description").generate_type_hashes(
            **what, output_path=out
        )
        GenerateC("c").generate(**what, output_path=out, type_description_files=hashes)
        only = {"typesupport_implementations": [_IMPLEMENTATION]}
        GenerateFastRTPSCTypesupport("fastrtps_c").generate(**what, output_path=out)
        GenerateCTypesupport("c", **only).generate(**what, output_path=out)
        GeneratePython(
            "py", typesupport_implementations=["rosidl_typesupport_c", _IMPLEMENTATION]
        ).generate(**what, output_path=out)
    _compile(name, out)
    return out.parent


def _compile(name: str, out: Path) -> None:
    """Everything into the extension module that ``import_type_support`` looks for."""
    module = f"{name}_s__rosidl_typesupport_c"
    sources = [
        *out.glob("msg/detail/*.c"),
        *out.glob("msg/detail/*.cpp"),
        *(p for p in out.glob("msg/*.c*")),
        out / f"_{name}_s.ep.rosidl_typesupport_c.c",
    ]
    includes = [
        out.parent,
        _HEADERS,
        _ROOT / "include",
        *(p for p in (_ROOT / "include").iterdir() if p.is_dir()),
    ]
    import numpy

    includes.append(Path(numpy.get_include()))
    flags = ["-fPIC", "-O0", "-w", *(f"-I{path}" for path in includes)]

    def compile_one(path: Path) -> Path:
        target = path.with_suffix(path.suffix + ".o")
        standard = [] if path.suffix == ".c" else ["-std=c++17"]
        compiler = "cc" if path.suffix == ".c" else "c++"
        subprocess.run(
            [compiler, *standard, *flags, "-c", str(path), "-o", str(target)], check=True
        )
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources))
    libraries = [
        "rosidl_runtime_c",
        "rosidl_typesupport_c",
        "rosidl_typesupport_fastrtps_c",
        "rosidl_typesupport_fastrtps_cpp",
        "fastcdr",
        "rcutils",
        *(
            f"{package}__{part}"
            for package in ("std_msgs", "builtin_interfaces")
            for part in ("rosidl_generator_c", "rosidl_generator_py", _IMPLEMENTATION)
        ),
    ]
    subprocess.run(
        ["c++", "-shared", *map(str, objects), f"-L{_ROOT / 'lib'}", f"-Wl,-rpath,{_ROOT / 'lib'}"]
        + [f"-l{library}" for library in libraries]
        + ["-o", str(out / f"{module}{sysconfig.get_config_var('EXT_SUFFIX')}")],
        check=True,
    )
