"""TensorRT engine for NVIDIA GPUs: built from the ONNX graphs once, kept, replayed as CUDA graphs.

Networks are strongly typed (the only kind of TensorRT 11, known to 10 as well): the graph says which type
each tensor has, so it is converted to half precision before it is built, and a graph with quantize and
dequantize operators runs in INT8. Features never leave the GPU: an image's features are a slot of its memory.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from anyseg_ros.engine.base import EngineOutput, Features
from anyseg_ros.engine.cuda import CudaError, CudaGraph, device_count
from anyseg_ros.engine.errors import EngineError, ModelError
from anyseg_ros.engine.graph_engine import GraphEngine
from anyseg_ros.engine.half_weights import unpack_weights
from anyseg_ros.engine.model_card import card_from_metadata
from anyseg_ros.engine.model_files import GraphInterface, check_pair, graph_path, is_segment_model

Precision = Literal["fp16", "fp32"]
_log = logging.getLogger(__name__)
_KEPT_IN_FP32 = ("LayerNormalization", "Softmax", "Exp", "ReduceSum")
"""Their sums leave the range or the precision of half floats."""
_OLDEST = 10
"""The first TensorRT whose networks can be strongly typed."""
_contexts: list[Any] = []
"""The device's primary context, once it is retained."""


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
            EngineError: without a CUDA device, TensorRT 10 or later, pycuda or onnx, or if the build fails.
            ModelError: if a file is missing, damaged, foreign, or the two do not belong together.
        """
        if device_count() == 0:
            raise EngineError("TensorRT needs an NVIDIA GPU with its driver; no CUDA device found")
        try:
            import onnx
            import pycuda.driver as cuda
            import tensorrt
        except ImportError as error:
            # Installed, but a library of CUDA's is missing: the error says which.
            hint = "; install the extra: pip install -e '.[tensorrt]'"
            raise EngineError(
                f"{error}{hint if isinstance(error, ModuleNotFoundError) else ''}"
            ) from error
        if int(tensorrt.__version__.split(".")[0]) < _OLDEST:
            raise EngineError(
                f"TensorRT {tensorrt.__version__} is too old: {_OLDEST} or later is needed"
            )
        if is_segment_model(model_dir):
            raise EngineError(f"{model_dir} holds one graph 'segment', which ONNX Runtime runs")
        models = {}
        interfaces = {}
        for graph in ("encode", "fuse"):
            path = graph_path(model_dir, graph)
            try:
                models[graph] = unpack_weights(onnx.load(str(path)))
            except Exception as error:  # protobuf and onnx raise many types for a damaged file
                raise ModelError(f"{path} is no readable ONNX model: {error}") from None
            interfaces[graph] = _interface(models[graph], path)
        self._card = check_pair(model_dir, interfaces["encode"], interfaces["fuse"])
        self._cuda = cuda
        cuda.init()
        device = cuda.Device(0)
        self._context = _primary_context(device)
        live = len(self._card.modalities)
        with self._current():
            self._stream = cuda.Stream()
            logger = tensorrt.Logger(tensorrt.Logger.WARNING)
            runtime = tensorrt.Runtime(logger)
            engines = {
                graph: _engine(
                    tensorrt, runtime, logger, models[graph], live, precision, device, say
                )
                for graph in models
            }
            self._encode = _Program(
                tensorrt, cuda, engines["encode"], live, self._stream, ("images", "modality_ids")
            )
            self._fuse = _Program(
                tensorrt, cuda, engines["fuse"], live, self._stream, ("labels", "confidence")
            )
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
            self._stream = None

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


def _primary_context(device: Any) -> Any:
    """The device's primary context, retained once a process.

    Not once an engine: pycuda's ``detach`` leaves it current on the thread, and its destructor does not
    release it (pycuda 2026.1, ``src/cpp/cuda.hpp``).
    """
    if not _contexts:
        _contexts.append(device.retain_primary_context())
        atexit.register(_contexts[0].detach)
    return _contexts[0]


class _Slot:
    """One image's features in device memory."""

    def __init__(self, memory: list[Any]) -> None:
        self.memory = memory


class _Program:
    """One engine: its memory for the most rows, and for each number of rows a CUDA graph."""

    def __init__(
        self,
        tensorrt: Any,
        cuda: Any,
        engine: Any,
        rows: int,
        stream: Any,
        staged: Sequence[str],
    ) -> None:
        """Of ``staged`` tensors the host has page-locked copies, to upload or download."""
        self._cuda, self._stream, self._engine = cuda, stream, engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._inputs = []
        self._device: dict[str, Any] = {}
        self._row_bytes: dict[str, int] = {}
        self._host: dict[str, npt.NDArray[Any]] = {}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            shape = tuple(self._engine.get_tensor_shape(name))
            shape = tuple(rows if side < 0 else side for side in shape)
            dtype = np.dtype(tensorrt.nptype(self._engine.get_tensor_dtype(name)))
            self._shapes[name] = shape
            self._row_bytes[name] = int(np.prod(shape[1:])) * dtype.itemsize
            self._device[name] = cuda.mem_alloc(self._row_bytes[name] * shape[0])
            if name in staged:
                self._host[name] = cuda.pagelocked_empty(shape, dtype)
            if self._engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT:
                self._inputs.append(name)
        self._recorded: dict[int, tuple[Any, CudaGraph]] = {}
        for count in range(1, rows + 1):
            self._recorded[count] = self._record(count)

    def _record(self, count: int) -> tuple[Any, CudaGraph]:
        """An execution context of its own for ``count`` rows, and its work as a graph."""
        context = self._engine.create_execution_context()
        if context is None:
            raise EngineError("no GPU memory for TensorRT to run in; see its log")
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
        size = self._row_bytes[name]
        return int(self._device[name]) + index * size, size

    def download(self, *names: str) -> list[npt.NDArray[Any]]:
        """Wait for the stream; the tensors in memory of their own."""
        for name in names:
            self._cuda.memcpy_dtoh_async(self._host[name], self._device[name], self._stream)
        self._stream.synchronize()
        return [self._host[name].copy() for name in names]

    def close(self) -> None:
        recorded, self._recorded = self._recorded, {}
        for _, graph in recorded.values():
            # After a fault of the GPU every call fails, this one too; the rest is to be given up even so.
            with suppress(CudaError):
                graph.destroy()
        recorded.clear()
        self._device.clear()
        self._host.clear()
        self._stream = self._engine = None


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
    return Path(root) / "anyseg_ros" / "tensorrt"


def plan_name(model: bytes, recipe: str, rows: int, gpu: str, version: str) -> str:
    """File name of a serialised engine: another one for another model, GPU, recipe or TensorRT."""
    digest = hashlib.sha256(model)
    for part in (recipe, str(rows), gpu, version):
        digest.update(b"\0" + part.encode())
    return digest.hexdigest()[:32] + ".plan"


def _recipe(precision: Precision) -> str:
    """What is done to a graph before it is built."""
    if precision == "fp32":
        return precision
    import onnxruntime  # whose converter it is

    return " ".join((precision, *_KEPT_IN_FP32, onnxruntime.__version__))


def _engine(
    tensorrt: Any,
    runtime: Any,
    logger: Any,
    model: Any,
    rows: int,
    precision: Precision,
    device: Any,
    say: Callable[[str], object],
) -> Any:
    """The engine for 1..rows rows: from the cache if it was built before and can be read, else built."""
    folder = _cache_folder()
    gpu = f"{device.name()} {device.compute_capability()}"
    version = tensorrt.__version__
    path = folder / plan_name(model.SerializeToString(), _recipe(precision), rows, gpu, version)
    # A power cut while it was written, a full disk: a damaged file costs a build, not the GPU.
    if kept := _read(path):
        engine = runtime.deserialize_cuda_engine(kept)
        if engine is not None:
            return engine
        say(f"TensorRT cannot read the engine kept in {path}: it is built again")
    say(
        f"building a TensorRT engine for {device.name()}: this takes minutes, and is done once; "
        f"it is kept in {folder}"
    )
    timings = folder / f"timing-{version}-{gpu.replace(' ', '_')}.cache"
    plan, timed = _build(tensorrt, logger, model, rows, precision, _read(timings))
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError("TensorRT cannot read the engine that it built; see its log")
    try:
        _write(path, plan)
        if timed:
            _write(timings, timed)
    except OSError as error:
        say(f"the engine cannot be kept, and is built again next time: {error}")
    return engine


def _build(
    tensorrt: Any, logger: Any, model: Any, rows: int, precision: Precision, timings: bytes
) -> tuple[bytes, bytes]:
    """The serialised engine, and what is to be remembered of TensorRT's timings (nothing: empty)."""
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
    # None for a damaged one.
    cache = config.create_timing_cache(timings) or config.create_timing_cache(b"")
    if cache is not None:
        config.set_timing_cache(cache, False)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise EngineError("TensorRT could not build an engine from the graph; see its log")
    kept = config.get_timing_cache()
    return bytes(built), b"" if kept is None else bytes(kept.serialize())


def _read(path: Path) -> bytes:
    """The file's content; empty if there is none or it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all: two nodes may build at the same time, and the power may fail.

    Raises:
        OSError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
