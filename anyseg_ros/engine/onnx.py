"""ONNX Runtime engine, the default: runs on any CPU, and on CUDA where its provider is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anyseg_ros.engine.base import EngineOutput, Features
from anyseg_ros.engine.errors import EngineError, ModelError
from anyseg_ros.engine.model_card import ModelCard, card_from_metadata

_ENCODE_INPUTS = {"images": "tensor(uint8)", "modality_ids": "tensor(int64)"}


class OnnxRuntimeEngine:
    """Two ONNX Runtime sessions, ``encode.onnx`` and ``fuse.onnx`` of one model folder."""

    def __init__(self, model_dir: Path, threads: int = 0) -> None:
        """Load a model.

        Args:
            model_dir: folder with ``encode.onnx`` and ``fuse.onnx``.
            threads: intra-op threads; 0 lets ONNX Runtime use every core.

        Raises:
            EngineError: if ONNX Runtime is not installed.
            ModelError: if a file is missing, damaged, foreign, or the two do not belong together.
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
        available = onnxruntime.get_available_providers()
        providers = [
            name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available
        ]
        self._encode, encode_card = self._load(model_dir / "encode.onnx", options, providers)
        self._fuse, fuse_card = self._load(model_dir / "fuse.onnx", options, providers)
        for card, graph in ((encode_card, "encode"), (fuse_card, "fuse")):
            if card.graph != graph:
                raise ModelError(
                    f"{model_dir / graph}.onnx holds the graph {card.graph!r}, expected {graph!r}"
                )
        if encode_card.for_graph("fuse") != fuse_card:
            raise ModelError(
                f"{model_dir}: encode.onnx ({encode_card.name}, {encode_card.model_id}) and fuse.onnx "
                f"({fuse_card.name}, {fuse_card.model_id}) do not belong to the same model"
            )
        self._card = encode_card
        self._check_interface(model_dir)
        provider = self._encode.get_providers()[0].removesuffix("ExecutionProvider")
        self._description = (
            f"ONNX Runtime {onnxruntime.__version__}, {provider}, "
            f"{threads or 'all'} thread{'' if threads == 1 else 's'}"
        )

    @property
    def card(self) -> ModelCard:
        return self._card

    @property
    def description(self) -> str:
        return self._description

    def encode(
        self, images: npt.NDArray[np.uint8], modality_ids: npt.NDArray[np.int64]
    ) -> list[Features]:
        if not len(images):
            return []
        maps = self._encode.run(None, {"images": images, "modality_ids": modality_ids})
        return [tuple(level[k] for level in maps) for k in range(len(images))]

    def fuse(self, features: Sequence[Features]) -> EngineOutput:
        if not features:
            raise ValueError("nothing to fuse: at least one modality's features are needed")
        names = [entry.name for entry in self._fuse.get_inputs()]
        stacked = {
            name: np.stack([levels[i] for levels in features]) for i, name in enumerate(names)
        }
        labels, confidence = self._fuse.run(["labels", "confidence"], stacked)
        return EngineOutput(labels, confidence)

    def segment(
        self, images: npt.NDArray[np.uint8], modality_ids: npt.NDArray[np.int64]
    ) -> EngineOutput:
        return self.fuse(self.encode(images, modality_ids))

    def close(self) -> None:
        del self._encode, self._fuse

    def _load(self, path: Path, options: Any, providers: list[str]) -> tuple[Any, ModelCard]:
        if not path.is_file():
            raise ModelError(
                f"no model file {path}; a model is a folder with encode.onnx and fuse.onnx"
            )
        try:
            session = self._runtime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # ONNX Runtime has an exception type for every kind of damage
            raise ModelError(f"{path} is no readable ONNX model: {error}") from None
        card = card_from_metadata(session.get_modelmeta().custom_metadata_map, path)
        return session, card

    def _check_interface(self, model_dir: Path) -> None:
        inputs = {entry.name: entry.type for entry in self._encode.get_inputs()}
        if inputs != _ENCODE_INPUTS:
            raise ModelError(
                f"{model_dir / 'encode.onnx'} takes {inputs}, expected {_ENCODE_INPUTS}"
            )
        produced = [entry.name for entry in self._encode.get_outputs()]
        consumed = [entry.name for entry in self._fuse.get_inputs()]
        outputs = {entry.name for entry in self._fuse.get_outputs()}
        if produced != consumed or not {"labels", "confidence"} <= outputs:
            raise ModelError(
                f"{model_dir}: encode.onnx gives {produced}, fuse.onnx takes {consumed} and gives "
                f"{sorted(outputs)}; expected the same feature names, then labels and confidence"
            )
        shape = self._encode.get_inputs()[0].shape
        size = [self._card.input_height, self._card.input_width]
        if [v for v in shape[1:3] if isinstance(v, int)] not in ([], size):
            raise ModelError(
                f"{model_dir / 'encode.onnx'} takes images of {shape[1:3]} (height, width), "
                f"but its card says {size}"
            )
