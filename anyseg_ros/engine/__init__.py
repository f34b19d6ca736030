"""Engines run a model: ONNX Runtime on any machine, OpenVINO and TensorRT where they are installed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

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
    model_dir: Path | str,
    engine: str = "auto",
    threads: int = 0,
    say: Callable[[str], object] = _log.info,
) -> Engine:
    """Load a model folder into an engine, and run it once on nothing.

    The first run allocates: no set has to wait for that, and a GPU without memory for it shows here.

    Args:
        model_dir: folder with the model's ONNX graphs.
        engine: a name from :data:`ENGINES`, or ``auto`` for the fastest that loads and runs.
        threads: CPU threads; 0 for all cores.
        say: told which engine ``auto`` chose, and why not a faster one; and before a load that takes
            minutes.

    Raises:
        EngineError: if there is no such engine, it is not installed, or ``auto`` finds none.
        ModelError: if the folder holds no valid model.
    """
    model_dir = Path(model_dir)
    if not model_dir.is_dir():
        raise ModelError(f"no model folder {model_dir}")
    if engine != "auto":
        if engine not in ENGINES:
            raise EngineError(f"unknown engine {engine!r}; expected auto or {', '.join(ENGINES)}")
        return _load(engine, model_dir, threads, say)
    refused = []
    bad_model: ModelError | None = None
    for name in ENGINES:
        try:
            loaded = _load(name, model_dir, threads, say)
        except (EngineError, ModelError) as error:
            # What one engine cannot read, another may: an operator, a GPU that has no memory left.
            bad_model = error if isinstance(error, ModelError) else bad_model
            refused.append(f"{name}: {error}")
            continue
        except Exception as error:  # drivers and bindings fail in ways of their own
            refused.append(f"{name}: {error!r}")
            continue
        reasons = f" ({'; '.join(refused)})" if refused else ""
        say(f"engine auto: {loaded.description}{reasons}")
        return loaded
    if bad_model is not None:
        raise bad_model
    raise EngineError(f"no engine can be used: {'; '.join(refused)}")


def _load(name: str, model_dir: Path, threads: int, say: Callable[[str], object]) -> Engine:
    load = ENGINES[name]
    if load is TensorRtEngine:  # the only one that may take minutes
        load = partial(TensorRtEngine, say=say)
    loaded = load(model_dir, threads)
    card = loaded.card
    nothing = np.zeros((len(card.modalities), card.input_height, card.input_width, 3), np.uint8)
    try:
        loaded.segment(nothing, np.array(card.modalities, np.int64))
    except Exception:
        with suppress(Exception):  # what cannot run may not close either
            loaded.close()
        raise
    return loaded
