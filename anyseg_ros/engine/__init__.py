"""Engines run a model: ONNX Runtime on any machine, OpenVINO and TensorRT where they are installed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from anyseg_ros.engine.base import Engine, EngineOutput, Features
from anyseg_ros.engine.errors import EngineError, ModelError
from anyseg_ros.engine.model_card import ModelCard, Normalization
from anyseg_ros.engine.onnx import OnnxRuntimeEngine
from anyseg_ros.engine.openvino import OpenVinoEngine
from anyseg_ros.engine.tensorrt import TensorRtEngine

__all__ = [
    "ENGINES",
    "Engine",
    "EngineError",
    "EngineOutput",
    "Features",
    "ModelCard",
    "ModelError",
    "Normalization",
    "OnnxRuntimeEngine",
    "OpenVinoEngine",
    "TensorRtEngine",
    "load_engine",
]

ENGINES: dict[str, Callable[[Path, int], Engine]] = {
    "tensorrt": TensorRtEngine,
    "onnxruntime_cuda": partial(OnnxRuntimeEngine, device="CUDA"),
    "openvino": OpenVinoEngine,
    "openvino_fp32": partial(OpenVinoEngine, precision="fp32"),
    "onnxruntime": OnnxRuntimeEngine,
}
"""By name, the fastest first: ``auto`` takes the first that loads."""

_log = logging.getLogger(__name__)


def load_engine(
    model_dir: Path,
    engine: str = "auto",
    threads: int = 0,
    say: Callable[[str], object] = _log.info,
) -> Engine:
    """Load a model folder into an engine.

    Args:
        model_dir: folder with the model's ONNX graphs.
        engine: a name from :data:`ENGINES`, or ``auto`` for the fastest that loads.
        threads: CPU threads; 0 for all cores.
        say: told which engine ``auto`` chose, and why not a faster one.

    Raises:
        EngineError: if there is no such engine, or it is not installed.
        ModelError: if the folder holds no valid model.
    """
    if not model_dir.is_dir():
        raise ModelError(f"no model folder {model_dir}")
    if engine != "auto":
        if engine not in ENGINES:
            raise EngineError(f"unknown engine {engine!r}; expected auto or {', '.join(ENGINES)}")
        return ENGINES[engine](model_dir, threads)
    refused = []
    for name, load in ENGINES.items():
        try:
            loaded = load(model_dir, threads)
        except EngineError as error:
            refused.append(f"{name}: {error}")
            continue
        reasons = f" ({'; '.join(refused)})" if refused else ""
        say(f"engine auto: {loaded.description}{reasons}")
        return loaded
    raise EngineError(f"no engine can be used: {'; '.join(refused)}")
