"""Engines run a model: ONNX Runtime on any machine, others where they are installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from anyseg_ros.engine.base import Engine, EngineOutput, Features
from anyseg_ros.engine.errors import EngineError, ModelError
from anyseg_ros.engine.model_card import ModelCard, Normalization
from anyseg_ros.engine.onnx import OnnxRuntimeEngine

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
    "load_engine",
]

ENGINES: dict[str, Callable[[Path, int], Engine]] = {"onnxruntime": OnnxRuntimeEngine}


def load_engine(model_dir: Path, engine: str = "auto", threads: int = 0) -> Engine:
    """Load a model folder into an engine.

    Args:
        model_dir: folder with the model's ONNX graphs.
        engine: a name from :data:`ENGINES`, or ``auto`` for the best that is installed.
        threads: CPU threads; 0 for all cores.

    Raises:
        EngineError: if there is no such engine, or it is not installed.
        ModelError: if the folder holds no valid model.
    """
    if not model_dir.is_dir():
        raise ModelError(f"no model folder {model_dir}")
    name = "onnxruntime" if engine == "auto" else engine
    if name not in ENGINES:
        raise EngineError(f"unknown engine {engine!r}; expected auto or {', '.join(ENGINES)}")
    return ENGINES[name](model_dir, threads)
