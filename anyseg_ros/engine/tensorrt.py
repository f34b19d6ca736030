"""TensorRT engine for NVIDIA GPUs: built from the ONNX graphs once, kept, replayed as CUDA graphs.

Networks are strongly typed (the only kind of TensorRT 11, known to 10 as well): the graph says which type
each tensor has, so it is converted to half precision before it is built, and a graph with quantize and
dequantize operators runs in INT8. Features never leave the GPU: an image's features are a slot of its memory.
"""

from __future__ import annotations

import hashlib
import logging
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from anyseg_ros.engine.base import EngineOutput, Features
from anyseg_ros.engine.cuda import CudaGraph, device_count
from anyseg_ros.engine.errors import EngineError, ModelError
from anyseg_ros.engine.graph_engine import GraphEngine
from anyseg_ros.engine.model_card import card_from_metadata
from anyseg_ros.engine.model_files import GraphInterface, check_pair, graph_path, is_segment_model

Precision = Literal["fp16", "fp32"]
_log = logging.getLogger(__name__)
_KEPT_IN_FP32 = ("LayerNormalization", "Softmax", "Exp", "ReduceSum")
"""Their sums leave the range or the precision of half floats."""


class TensorRtEngine(GraphEngine):
    """``encode.onnx`` and ``fuse.onnx`` of one model folder on the first CUDA device."""

    def __init__(
        self,
        model_dir: Path,
        threads: int = 0,
        precision: Precision = "fp16",
        say: Callable[[str], object] = _log.info,
    ) -> None:
        """Build the engines, or read them if this model was built for this GPU and TensorRT before.

        Args:
            model_dir: folder with ``encode.onnx`` and ``fuse.onnx``.
            threads: not used; the work is the GPU's.
            precision: of the arithmetic.
            say: told before an engine is built.

        Raises:
            EngineError: without a CUDA device, TensorRT, pycuda or onnx, or if the build fails.
            ModelError: if a file is missing, damaged, foreign, or the two do not belong together.
        """
        if device_count() == 0:
            raise EngineError("TensorRT needs an NVIDIA GPU with its driver; no CUDA device found")
        try:
            import onnx
            import pycuda.driver as cuda
            import tensorrt
        except ImportError as error:
            raise EngineError(
                f"{error.name} is not installed; install the extra: pip install -e '.[tensorrt]'"
            ) from None
        if is_segment_model(model_dir):
            raise EngineError(f"{model_dir} holds one graph 'segment', which ONNX Runtime runs")
        models = {}
        interfaces = {}
        for graph in ("encode", "fuse"):
            path = graph_path(model_dir, graph)
            try:
                models[graph] = onnx.load(str(path))
            except Exception as error:  # protobuf and onnx raise many types for a damaged file
                raise ModelError(f"{path} is no readable ONNX model: {error}") from None
            interfaces[graph] = _interface(models[graph], path)
        self._card = check_pair(model_dir, interfaces["encode"], interfaces["fuse"])
        self._cuda = cuda
        cuda.init()
        device = cuda.Device(0)
        self._context = device.retain_primary_context()
        live = len(self._card.modalities)
        with self._current():
            self._stream = cuda.Stream()
            logger = tensorrt.Logger(tensorrt.Logger.WARNING)
            runtime = tensorrt.Runtime(logger)
            plans = {
                graph: _plan(tensorrt, logger, models[graph], live, precision, device, say)
                for graph in models
            }
            self._encode = _Program(tensorrt, cuda, runtime, plans["encode"], live, self._stream)
            self._fuse = _Program(tensorrt, cuda, runtime, plans["fuse"], live, self._stream)
        self._levels = list(interfaces["fuse"].inputs)
        self._free: list[list[Any]] = []
        self._description = f"TensorRT {tensorrt.__version__}, {device.name()}, {precision}"

    def _encode_images(
        self, images: npt.NDArray[np.uint8], modality_ids: npt.NDArray[np.int64]
    ) -> list[Features]:
        count = len(images)
        with self._current():
            self._encode.upload("images", images)
            self._encode.upload("modality_ids", modality_ids)
            self._encode.run(count)
            features: list[Features] = []
            for row in range(count):
                slot = self._slot()
                for name, kept in zip(self._levels, slot.memory, strict=True):
                    source, size = self._encode.row(name, row)
                    self._cuda.memcpy_dtod_async(int(kept), source, size, self._stream)
                features.append((slot,))
            self._stream.synchronize()
        return features

    def _fuse_features(self, features: Sequence[Features]) -> EngineOutput:
        with self._current():
            for row, (slot,) in enumerate(features):
                for name, kept in zip(self._levels, slot.memory, strict=True):
                    target, size = self._fuse.row(name, row)
                    self._cuda.memcpy_dtod_async(target, int(kept), size, self._stream)
            self._fuse.run(len(features))
            return EngineOutput(*self._fuse.download("labels", "confidence"))

    def close(self) -> None:
        with self._current():
            self._encode.close()
            self._fuse.close()
            self._free.clear()
        self._context.detach()

    @contextmanager
    def _current(self) -> Iterator[None]:
        # The node loads on one thread and runs on another: the context belongs to the call.
        self._context.push()
        try:
            yield
        finally:
            self._cuda.Context.pop()

    def _slot(self) -> _Slot:
        """Device memory for one image's features; free again when nobody holds the features."""
        if self._free:
            memory = self._free.pop()
        else:
            memory = [self._cuda.mem_alloc(self._encode.row(name, 0)[1]) for name in self._levels]
        slot = _Slot(memory)
        weakref.finalize(slot, self._free.append, memory)
        return slot


class _Slot:
    """One image's features in device memory."""

    def __init__(self, memory: list[Any]) -> None:
        self.memory = memory


class _Program:
    """One serialised engine: its memory for the most rows, and for each number of rows a CUDA graph."""

    def __init__(
        self, tensorrt: Any, cuda: Any, runtime: Any, plan: bytes, rows: int, stream: Any
    ) -> None:
        self._cuda, self._stream = cuda, stream
        self._engine = runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError("TensorRT cannot read the engine that it built; see its log")
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._inputs = []
        self._device: dict[str, Any] = {}
        self._host: dict[str, npt.NDArray[Any]] = {}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            shape = tuple(self._engine.get_tensor_shape(name))
            shape = tuple(rows if side < 0 else side for side in shape)
            dtype = np.dtype(tensorrt.nptype(self._engine.get_tensor_dtype(name)))
            self._shapes[name] = shape
            self._host[name] = cuda.pagelocked_empty(shape, dtype)
            self._device[name] = cuda.mem_alloc(self._host[name].nbytes)
            if self._engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT:
                self._inputs.append(name)
        self._recorded: dict[int, tuple[Any, CudaGraph]] = {}
        for count in range(1, rows + 1):
            self._recorded[count] = self._record(count)

    def _record(self, count: int) -> tuple[Any, CudaGraph]:
        """An execution context of its own for ``count`` rows, and its work as a graph."""
        context = self._engine.create_execution_context()
        for name, memory in self._device.items():
            if name in self._inputs:
                context.set_input_shape(name, (count, *self._shapes[name][1:]))
            context.set_tensor_address(name, int(memory))

        def enqueue() -> None:
            if not context.execute_async_v3(self._stream.handle):
                raise EngineError(f"TensorRT could not run {count} rows; see its log")

        enqueue()  # the first run allocates, which a capture may not
        self._stream.synchronize()
        return context, CudaGraph(self._stream.handle, enqueue)

    def upload(self, name: str, values: npt.NDArray[Any]) -> None:
        """Copy rows to the device, through page-locked memory."""
        staged = self._host[name][: len(values)]
        staged[:] = values
        self._cuda.memcpy_htod_async(self._device[name], staged, self._stream)

    def run(self, count: int) -> None:
        """Enqueue the work for ``count`` rows."""
        self._recorded[count][1].launch()

    def row(self, name: str, index: int) -> tuple[int, int]:
        """Device address and bytes of one row of a tensor."""
        size = self._host[name].nbytes // self._shapes[name][0]
        return int(self._device[name]) + index * size, size

    def download(self, *names: str) -> list[npt.NDArray[Any]]:
        """Wait for the stream; the tensors in memory of their own."""
        for name in names:
            self._cuda.memcpy_dtoh_async(self._host[name], self._device[name], self._stream)
        self._stream.synchronize()
        return [self._host[name].copy() for name in names]

    def close(self) -> None:
        for _, graph in self._recorded.values():
            graph.destroy()
        self._recorded.clear()
        self._device.clear()
        self._engine = None


def _interface(model: Any, path: Path) -> GraphInterface:
    import onnx

    metadata = {entry.key: entry.value for entry in model.metadata_props}
    inputs = {}
    for entry in model.graph.input:
        tensor = entry.type.tensor_type
        inputs[entry.name] = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    sides = [
        side.dim_value or None for side in model.graph.input[0].type.tensor_type.shape.dim[1:3]
    ]
    return GraphInterface(
        card_from_metadata(metadata, path),
        inputs,
        [entry.name for entry in model.graph.output],
        (sides[0], sides[1]),
    )


def in_half_precision(model: Any) -> Any:
    """The ONNX model with half floats inside and out; sums that need it stay in fp32."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    blocked = [*(set(DEFAULT_OP_BLOCK_LIST) - {"Resize", "TopK"}), *_KEPT_IN_FP32]
    half = convert_float_to_float16(model, keep_io_types=False, op_block_list=blocked)
    del half.graph.value_info[:]  # some still name the types from before
    OnnxModel.graph_topological_sort(half.graph)  # the casts stand at the end
    return half


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(root) / "anyseg_ros" / "tensorrt"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def plan_name(model: bytes, precision: str, rows: int, gpu: str, version: str) -> str:
    """File name of a serialised engine: another one for another model, GPU, precision or TensorRT."""
    digest = hashlib.sha256(model)
    for part in (precision, str(rows), gpu, version):
        digest.update(b"\0" + part.encode())
    return digest.hexdigest()[:32] + ".plan"


def _plan(
    tensorrt: Any,
    logger: Any,
    model: Any,
    rows: int,
    precision: Precision,
    device: Any,
    say: Callable[[str], object],
) -> bytes:
    """The serialised engine for 1..rows rows, from the cache if it was built before."""
    folder = _cache_folder()
    gpu = f"{device.name()} {device.compute_capability()}"
    name = plan_name(model.SerializeToString(), precision, rows, gpu, tensorrt.__version__)
    path = folder / name
    if path.is_file():
        return path.read_bytes()
    say(
        f"building a TensorRT engine for {device.name()}: this takes minutes, and is done once; "
        f"it is kept in {folder}"
    )
    if precision == "fp16":
        model = in_half_precision(model)
    builder = tensorrt.Builder(logger)
    typed = 1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise EngineError(f"TensorRT cannot read the graph: {errors}")
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        entry = network.get_input(index)
        fixed = tuple(entry.shape)[1:]
        profile.set_shape(entry.name, (1, *fixed), (rows, *fixed), (rows, *fixed))
    config.add_optimization_profile(profile)
    timings = folder / f"timing-{tensorrt.__version__}-{gpu.replace(' ', '_')}.cache"
    known = timings.read_bytes() if timings.is_file() else b""
    cache = config.create_timing_cache(known)
    config.set_timing_cache(cache, False)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise EngineError("TensorRT could not build an engine from the graph; see its log")
    plan = bytes(built)
    _write(timings, bytes(config.get_timing_cache().serialize()))
    _write(path, plan)
    return plan


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all: two nodes may build at the same time."""
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)
