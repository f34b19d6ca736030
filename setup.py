"""Package ``anyseg_ros`` for colcon (ament_python) and for pip."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "anyseg_ros"
HERE = Path(__file__).parent


def data_folder(folder: str) -> list[tuple[str, list[str]]]:
    """Every file under a folder, to be installed at the same place under the package's share."""
    found: dict[str, list[str]] = {}
    for path in sorted((HERE / folder).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            relative = path.relative_to(HERE)
            found.setdefault(f"share/{PACKAGE}/{relative.parent}", []).append(str(relative))
    return list(found.items())


ROS_WHEELS = [
    "ros-rclpy[fastrtps]==9.1.*",
    "ros-diagnostic-msgs",
    "ros-geometry-msgs",
    "ros-sensor-msgs",
    "ros-std-msgs",
    "ros-std-srvs",
    "ros-visualization-msgs",
    "rosbags-image>=0.10",
]
CPU = ["onnxruntime>=1.20"]
REPORT = ["jinja2>=3.1", "matplotlib>=3.8", "tqdm"]
SIMULATION = ["mujoco>=3.2", "tqdm"]
TRAINING = [
    *CPU,  # exported graphs are held against torch in it
    "torch>=2.6",
    "transformers>=4.48",
    "lightning>=2.5",
    "torchmetrics>=1.6",
    "jsonargparse[signatures]>=4.35",
    "onnx>=1.17",
    "onnxscript>=0.1",
    "pillow",
    "tensorboard",
    "tqdm",
]

setup(
    name=PACKAGE,
    version="0.1.0",
    description="Semantic segmentation that survives the loss of any subset of a robot's sensors",
    license="Apache-2.0",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={f"{PACKAGE}.evaluation": ["*.j2"]},
    python_requires=">=3.11",
    install_requires=[
        "numpy>=1.26",
        "opencv-python-headless>=4.8,<5",
        "PyYAML",
        "rosbags>=0.10",
    ],
    extras_require={
        "ros-wheels": ROS_WHEELS,
        "cpu": CPU,
        "report": REPORT,
        "demo": [*ROS_WHEELS, *CPU, *REPORT],
        "openvino": ["openvino>=2024.6"],
        "tensorrt": ["tensorrt>=10", "pycuda>=2025.1.2", "onnx>=1.17", *CPU],
        "training": TRAINING,
        "simulation": SIMULATION,
        "dev": [
            "pytest>=8",
            "pytest-timeout",
            "pytest-xdist",
            "hypothesis",
            "onnx>=1.17",
            "ruff",
            "mypy",
        ],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        *(entry for name in ("launch", "config", "models", "demo") for entry in data_folder(name)),
    ],
    entry_points={
        "console_scripts": [
            f"segment = {PACKAGE}.ros.node:main",
            f"play_bag = {PACKAGE}.ros.bag_player:main",
            f"demo = {PACKAGE}.ros.demo:main",
            f"anyseg-evaluate = {PACKAGE}.evaluation.evaluate_bag:main",
            f"score = {PACKAGE}.ros.score:main",
        ]
    },
    zip_safe=False,
)
