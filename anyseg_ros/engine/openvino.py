"""OpenVINO engine for Intel and AMD CPUs: bf16 where the CPU computes in it, else fp32.

Shapes are static, one compiled graph for each number of images or streams: OpenVINO then plans its memory
once, which is worth a third of the time. All are compiled when the model is loaded, so that no set waits.
Features stay as OpenVINO computes them, channels last and in the arithmetic's precision: turning them into
plain arrays and back would take up to a third of a small network's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from anyseg_ros.engine.base import EngineOutput, Features
from anyseg_ros.engine.errors import EngineError, ModelError
from anyseg_ros.engine.graph_engine import GraphEngine
from anyseg_ros.engine.model_card import METADATA_KEY, card_from_metadata
from anyseg_ros.engine.model_files import (
    GraphInterface,
    check_pair,
    check_segment,
    graph_path,
    is_segment_model,
)
from anyseg_ros.engine.slots import fill_slots, slot_features

Precision = Literal["auto", "fp32", "bf16"]
_HINTS = {"fp32": "f32", "bf16": "bf16"}
_STORED: dict[str, Any] = {"fp32": np.float32, "bf16": np.uint16}
"""What numpy, which knows no bf16, holds features as."""


class OpenVinoEngine(GraphEngine):
    """The graphs of one model folder (encode and fuse, or segment), compiled by OpenVINO for the CPU."""

    def __init__(self, model_dir: Path, threads: int = 0, precision: Precision = "auto") -> None:
        """Load and compile a model.

        Args:
            model_dir: folder with the model's graphs.
            threads: inference threads; 0 for all cores.
            precision: of the arithmetic; ``auto`` for bf16 where the CPU has instructions for it.

        Raises:
            EngineError: if OpenVINO is not installed or has no CPU device.
            ModelError: if a file is missing, damaged, foreign, or two do not belong together.
        """
        try:
            import openvino
        except ImportError:
            raise EngineError(
                "OpenVINO is not installed; install it with: pip install openvino"
            ) from None
        self._openvino = openvino
        self._core = openvino.Core()
        if "CPU" not in self._core.available_devices:
            raise EngineError(f"OpenVINO finds no CPU device, only {self._core.available_devices}")
        if precision == "auto":
            able = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            precision = "bf16" if able else "fp32"
        self._precision: Precision = precision
        # Without the hint OpenVINO would choose bf16 by itself, unsaid.
        self._options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
        }
        if threads:
            self._options["INFERENCE_NUM_THREADS"] = threads
        self._segment: Any = None
        self._encode: dict[int, Any] = {}
        self._fuse: dict[int, Any] = {}
        if is_segment_model(model_dir):
            segment, segment_graph = self._read(model_dir, "segment")
            self._card = check_segment(model_dir, segment)
            self._segment = self._compile(segment_graph)
        else:
            encode, encode_graph = self._read(model_dir, "encode")
            fuse, fuse_graph = self._read(model_dir, "fuse")
            self._card = check_pair(model_dir, encode, fuse)
            for count in range(1, len(self._card.modalities) + 1):
                self._encode[count] = self._compile(self._with_images(encode_graph, count))
                self._fuse[count] = self._compile(self._with_streams(fuse_graph, count))
        self._description = (
            f"OpenVINO {openvino.__version__.split('-')[0]}, CPU, {precision}, "
            f"{threads or 'all'} thread{'' if threads == 1 else 's'}"
        )

    def _encode_images(
        self, images: npt.NDArray[np.uint8], modality_ids: npt.NDArray[np.int64]
    ) -> list[Features]:
        if self._segment is not None:
            return slot_features(images, modality_ids)
        request = self._encode[len(images)]
        request.set_tensor("images", self._shared(np.ascontiguousarray(images)))
        request.set_tensor("modality_ids", self._shared(np.asarray(modality_ids, np.int64)))
        # Features outlive the call, so each run writes into memory of its own: nothing is copied.
        stored = _STORED[self._precision]
        maps = [np.empty(tuple(port.shape), stored) for port in request.model_outputs]
        for index, level in enumerate(maps):
            request.set_output_tensor(index, self._features(level))
        request.infer()
        return [tuple(level[k] for level in maps) for k in range(len(images))]

    def _fuse_features(self, features: Sequence[Features]) -> EngineOutput:
        if self._segment is not None:
            request = self._segment
            images, present = fill_slots(features, self._card)
            request.set_tensor("images", self._shared(images))
            request.set_tensor("present", self._shared(present))
        else:
            request = self._fuse[len(features)]
            for index, level in enumerate(level for levels in features for level in levels):
                request.set_input_tensor(index, self._features(level[np.newaxis]))
        request.infer()
        labels, confidence = (
            request.get_tensor(name).data.copy() for name in ("labels", "confidence")
        )
        return EngineOutput(labels, confidence)

    def close(self) -> None:
        self._encode.clear()
        self._fuse.clear()
        self._segment = None

    def _shared(self, array: npt.NDArray[Any]) -> Any:
        return self._openvino.Tensor(array, shared_memory=True)

    def _read(self, model_dir: Path, graph: str) -> tuple[GraphInterface, Any]:
        path = graph_path(model_dir, graph)
        try:
            model = self._core.read_model(str(path))
        except RuntimeError as error:
            raise ModelError(f"{path} is no readable ONNX model: {error}") from None
        metadata = {}
        if model.has_rt_info(["framework", METADATA_KEY]):
            metadata[METADATA_KEY] = model.get_rt_info(["framework", METADATA_KEY]).astype(str)
        sides = [
            side.get_length() if side.is_static else None
            for side in list(model.inputs[0].partial_shape)[:3]
        ]
        return GraphInterface(
            card_from_metadata(metadata, path),
            {port.any_name: port.element_type.to_dtype().name for port in model.inputs},
            [port.any_name for port in model.outputs],
            (sides[1], sides[2]),
            sides[0],
        ), model

    def _compile(self, model: Any) -> Any:
        return self._core.compile_model(model, "CPU", self._options).create_infer_request()

    @property
    def _feature_type(self) -> Any:
        return getattr(self._openvino.Type, _HINTS[self._precision])

    def _features(self, level: npt.NDArray[Any]) -> Any:
        return self._openvino.Tensor(level, self._openvino.Shape(level.shape), self._feature_type)

    def _with_images(self, graph: Any, count: int) -> Any:
        """The encode graph for a fixed number of images, features out as they are stored."""
        model = graph.clone()
        model.reshape(
            {port.any_name: [count, *list(port.partial_shape)[1:]] for port in model.inputs}
        )
        steps = self._openvino.preprocess.PrePostProcessor(model)
        for index in range(len(model.outputs)):
            output = steps.output(index)
            output.model().set_layout(self._openvino.Layout("NCHW"))
            output.tensor().set_layout(self._openvino.Layout("NHWC"))
            output.tensor().set_element_type(self._feature_type)
        return steps.build()

    def _with_streams(self, graph: Any, count: int) -> Any:
        """The fuse graph with an input for each stream's stored map, so that none is copied into a stack."""
        operators = self._openvino.opset13
        model = graph.clone()
        model.reshape({port.any_name: [1, *list(port.partial_shape)[1:]] for port in model.inputs})
        parameters: list[list[Any]] = []
        for old in model.get_parameters():
            own = [
                operators.parameter(old.get_output_shape(0), old.get_element_type())
                for _ in range(count)
            ]
            total = own[0]
            for other in own[1:]:
                total = operators.add(total, other)
            mean = operators.multiply(total, np.float32(1.0 / count))
            # The graph's own mean, over what would be a stack of one, goes too.
            for reader in list(old.output(0).get_target_inputs()):
                node = reader.get_node()
                averages = _is_mean_of_streams(node)
                (node.output(0) if averages else old.output(0)).replace(mean.output(0))
            parameters.append(own)
        ordered = [own[stream] for stream in range(count) for own in parameters]
        fuse = self._openvino.Model(model.get_results(), ordered, f"fuse{count}")
        steps = self._openvino.preprocess.PrePostProcessor(fuse)
        for index in range(len(ordered)):
            stored = steps.input(index)
            stored.model().set_layout(self._openvino.Layout("NCHW"))
            stored.tensor().set_layout(self._openvino.Layout("NHWC"))
            stored.tensor().set_element_type(self._feature_type)
        return steps.build()


def _is_mean_of_streams(node: Any) -> bool:
    """Whether a node is the mean over the first axis, which it keeps."""
    if node.get_type_name() != "ReduceMean" or not node.get_keep_dims():
        return False
    axes = node.input_value(1).get_node()
    return axes.get_type_name() == "Constant" and list(axes.get_data().ravel()) == [0]
