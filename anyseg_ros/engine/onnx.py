"""ONNX Runtime engine: the default on any CPU; with onnxruntime-gpu also on CUDA."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from anyseg_ros.engine.base import EngineOutput, Features
from anyseg_ros.engine.errors import EngineError, ModelError
from anyseg_ros.engine.graph_engine import GraphEngine
from anyseg_ros.engine.model_card import card_from_metadata
from anyseg_ros.engine.model_files import (
    GraphInterface,
    check_pair,
    check_segment,
    graph_path,
    is_segment_model,
)
from anyseg_ros.engine.slots import fill_slots, slot_features

Device = Literal["CPU", "CUDA"]
_NUMPY_NAMES = {
    "tensor(uint8)": "uint8",
    "tensor(int64)": "int64",
    "tensor(float)": "float32",
    "tensor(bool)": "bool",
}


class OnnxRuntimeEngine(GraphEngine):
    """ONNX Runtime sessions of one model folder: ``encode.onnx`` and ``fuse.onnx``, or ``segment.onnx``."""

    def __init__(self, model_dir: Path, threads: int = 0, device: Device = "CPU") -> None:
        """Load a model.

        Args:
            model_dir: folder with the model's graphs.
            threads: intra-op threads; 0 lets ONNX Runtime use every core.
            device: what runs the graphs.

        Raises:
            EngineError: if ONNX Runtime is not installed, or cannot use the device.
            ModelError: if a file is missing, damaged, foreign, or two do not belong together.
        """
        try:
            import onnxruntime
        except ImportError:
            raise EngineError(
                "ONNX Runtime is not installed; install it with: pip install onnxruntime"
            ) from None
        self._runtime = onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors only: the rest is raised as exceptions
        # Idle worker threads would spin and take the cores that the sensors' callbacks need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        wanted = f"{device}ExecutionProvider"
        if wanted not in onnxruntime.get_available_providers():
            raise EngineError(
                f"this ONNX Runtime has no provider for {device}; install onnxruntime-gpu for CUDA"
            )
        if device == "CUDA" and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # CUDA's libraries from PyPI are on no path of the loader's
        # Operators that the GPU's provider lacks run on the CPU.
        providers = list(dict.fromkeys((wanted, "CPUExecutionProvider")))
        self._encode: Any = None
        self._fuse: Any = None
        self._segment: Any = None
        if is_segment_model(model_dir):
            self._segment, segment = self._load(model_dir, "segment", options, providers)
            self._card = check_segment(model_dir, segment)
        else:
            self._encode, encode = self._load(model_dir, "encode", options, providers)
            self._fuse, fuse = self._load(model_dir, "fuse", options, providers)
            self._card = check_pair(model_dir, encode, fuse)
            self._feature_names = list(fuse.inputs)
        if (self._segment or self._encode).get_providers()[0] != wanted:
            raise EngineError(f"ONNX Runtime found no {device} device, or not its libraries")
        self._description = (
            f"ONNX Runtime {onnxruntime.__version__}, {device}, "
            f"{threads or 'all'} thread{'' if threads == 1 else 's'}"
        )

    def _encode_images(
        self, images: npt.NDArray[np.uint8], modality_ids: npt.NDArray[np.int64]
    ) -> list[Features]:
        if self._segment is not None:
            return slot_features(images, modality_ids)
        maps = self._encode.run(None, {"images": images, "modality_ids": modality_ids})
        return [tuple(level[k] for level in maps) for k in range(len(images))]

    def _fuse_features(self, features: Sequence[Features]) -> EngineOutput:
        if self._segment is not None:
            images, present = fill_slots(features, self._card)
            inputs = {"images": images, "present": present}
            return EngineOutput(*self._segment.run(["labels", "confidence"], inputs))
        stacked = {
            name: np.stack([levels[i] for levels in features])
            for i, name in enumerate(self._feature_names)
        }
        labels, confidence = self._fuse.run(["labels", "confidence"], stacked)
        return EngineOutput(labels, confidence)

    def close(self) -> None:
        self._encode = self._fuse = self._segment = None

    def _load(
        self, model_dir: Path, graph: str, options: Any, providers: list[str]
    ) -> tuple[Any, GraphInterface]:
        path = graph_path(model_dir, graph)
        try:
            session = self._runtime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # ONNX Runtime has an exception type for every kind of damage
            raise ModelError(f"{path} is no readable ONNX model: {error}") from None
        card = card_from_metadata(session.get_modelmeta().custom_metadata_map, path)
        inputs = session.get_inputs()
        fixed = [side if isinstance(side, int) else None for side in inputs[0].shape[:3]]
        return session, GraphInterface(
            card,
            {entry.name: _NUMPY_NAMES.get(entry.type, entry.type) for entry in inputs},
            [entry.name for entry in session.get_outputs()],
            (fixed[1], fixed[2]),
            fixed[0],
        )
