"""A GPU, its driver, pycuda and TensorRT made of host memory and ONNX Runtime, as far as they are used.

What the engine does with them can be run without a GPU: which memory it copies where, what it keeps, what it
gives back. Device addresses are host addresses. A capture records instead of running, as CUDA's does, and
after :meth:`FakeGpu.break_down` every call of the driver fails, as after a fault on a real one.
"""

from __future__ import annotations

import ctypes
import enum
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import onnxruntime

ILLEGAL_ADDRESS = 700
END = b"end of the plan"


class FakeGpu:
    """The state that the parts share."""

    def __init__(self):
        self.contexts = 0  # depth of the thread's stack
        self.retained = 0
        self.allocated = 0  # device and page-locked blocks that are not free again
        self.builds = 0
        self.captured = None  # what a capture has recorded so far
        self.graphs = {}
        self.broken = False

    def break_down(self):
        self.broken = True

    def install(self, monkeypatch, version="10.13.0"):
        """Put the parts where the engine looks for the real ones."""
        driver = Driver(self)
        monkeypatch.setattr("anyseg_ros.engine.cuda.ctypes", FakeCtypes(driver))
        monkeypatch.setattr("anyseg_ros.engine.tensorrt._contexts", [])
        monkeypatch.setattr("anyseg_ros.engine.tensorrt.atexit", SimpleNamespace(register=id))
        pycuda = ModuleType("pycuda")
        pycuda.driver = make_pycuda_driver(self)
        monkeypatch.setitem(sys.modules, "pycuda", pycuda)
        monkeypatch.setitem(sys.modules, "pycuda.driver", pycuda.driver)
        monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt(self, version))


class FakeCtypes:
    """``ctypes`` with another ``libcuda.so.1``."""

    def __init__(self, driver):
        self._driver = driver

    def CDLL(self, name):  # noqa: N802 (ctypes' name)
        assert name == "libcuda.so.1"
        return self._driver

    def __getattr__(self, name):
        return getattr(ctypes, name)


class Driver:
    """The functions of libcuda that :mod:`anyseg_ros.engine.cuda` calls."""

    def __init__(self, gpu):
        self.gpu = gpu

    def _code(self):
        return ILLEGAL_ADDRESS if self.gpu.broken else 0

    def cuInit(self, flags):  # noqa: N802
        return 0

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = 1
        return 0

    def cuStreamBeginCapture_v2(self, stream, mode):  # noqa: N802
        assert self.gpu.captured is None
        self.gpu.captured = []
        return self._code()

    def cuStreamEndCapture(self, stream, graph):  # noqa: N802
        number = len(self.gpu.graphs) + 1
        self.gpu.graphs[number], self.gpu.captured = self.gpu.captured, None
        graph._obj.value = number
        return self._code()

    def cuGraphInstantiateWithFlags(self, executable, graph, flags):  # noqa: N802
        executable._obj.value = graph.value
        return self._code()

    def cuGraphDestroy(self, graph):  # noqa: N802
        return self._code()

    def cuGraphLaunch(self, executable, stream):  # noqa: N802
        for work in self.gpu.graphs[executable.value]:
            work()
        return self._code()

    def cuGraphExecDestroy(self, executable):  # noqa: N802
        if not self.gpu.broken:
            del self.gpu.graphs[executable.value]
        return self._code()


def make_pycuda_driver(gpu):
    class Block:
        def __init__(self, size):
            assert gpu.contexts > 0, "allocated without a context"
            gpu.allocated += 1
            self.data = ctypes.create_string_buffer(max(size, 1))

        def __int__(self):
            return ctypes.addressof(self.data)

        def __del__(self):
            gpu.allocated -= 1

    class Locked(np.ndarray):
        """Counted until it and all views of it are gone."""

    def pagelocked_empty(shape, dtype):
        block = Block(int(np.prod(shape)) * np.dtype(dtype).itemsize)
        array = np.frombuffer(block.data, dtype)[: int(np.prod(shape))].reshape(shape).view(Locked)
        array.block = block
        return array

    def copy(target, source, size, stream):
        assert gpu.contexts > 0 and stream is not None
        ctypes.memmove(target, source, size)

    class PrimaryContext:
        def push(self):
            gpu.contexts += 1

        def detach(self):
            gpu.retained -= 1

    class Device:
        def __init__(self, index):
            assert index == 0

        def name(self):
            return "Fake GPU"

        def compute_capability(self):
            return (8, 7)

        def retain_primary_context(self):
            gpu.retained += 1
            return PrimaryContext()

    class Context:
        @staticmethod
        def pop():
            gpu.contexts -= 1

    class Stream:
        handle = 1

        def synchronize(self):
            assert gpu.captured is None, "synchronised within a capture"

    module = ModuleType("pycuda.driver")
    module.init = lambda: None
    module.Device, module.Context, module.Stream = Device, Context, Stream
    module.mem_alloc, module.pagelocked_empty = Block, pagelocked_empty
    module.memcpy_dtod_async = copy
    module.memcpy_htod_async = lambda target, values, stream: copy(
        int(target), values.ctypes.data, values.nbytes, stream
    )
    module.memcpy_dtoh_async = lambda values, source, stream: copy(
        values.ctypes.data, int(source), values.nbytes, stream
    )
    return module


def make_tensorrt(gpu, version):
    class TensorIOMode(enum.Enum):
        INPUT = 1
        OUTPUT = 2

    class ExecutionContext:
        def __init__(self, engine):
            self.engine, self.shapes, self.addresses, self.has_run = engine, {}, {}, False

        def set_input_shape(self, name, shape):
            self.shapes[name] = tuple(shape)

        def set_tensor_address(self, name, address):
            assert type(address) is int
            self.addresses[name] = address

        def execute_async_v3(self, stream):
            assert type(stream) is int
            if gpu.captured is None:
                self.has_run = True  # the first run allocates
                self.run()
            else:
                assert self.has_run, "allocates within a capture"
                gpu.captured.append(self.run)
            return not gpu.broken

        def run(self):
            feeds = {}
            for name in self.engine.inputs:
                dtype, shape = self.engine.dtypes[name], self.shapes[name]
                memory = (ctypes.c_char * (int(np.prod(shape)) * dtype.itemsize)).from_address(
                    self.addresses[name]
                )
                feeds[name] = np.frombuffer(memory, dtype).reshape(shape)
            if "modality_ids" in feeds:  # memory that nobody wrote: a GPU reads zeros out of bounds
                feeds["modality_ids"] = feeds["modality_ids"].clip(0, 3)
            results = self.engine.session.run(None, feeds)
            for name, value in zip(self.engine.outputs, results, strict=True):
                value = np.ascontiguousarray(value)
                ctypes.memmove(self.addresses[name], value.ctypes.data, value.nbytes)

    class CudaEngine:
        def __init__(self, model):
            graph = onnx.load_from_string(model).graph
            self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
            self.inputs = [entry.name for entry in graph.input]
            self.outputs = [entry.name for entry in graph.output]
            self.dtypes, self.shapes = {}, {}
            for entry in (*graph.input, *graph.output):
                tensor = entry.type.tensor_type
                self.dtypes[entry.name] = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
                self.shapes[entry.name] = [side.dim_value or -1 for side in tensor.shape.dim]
            self.num_io_tensors = len(self.shapes)

        def get_tensor_name(self, index):
            return [*self.inputs, *self.outputs][index]

        def get_tensor_shape(self, name):
            return self.shapes[name]

        def get_tensor_dtype(self, name):
            return self.dtypes[name]

        def get_tensor_mode(self, name):
            return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

        def create_execution_context(self):
            return ExecutionContext(self)

    class Runtime:
        def __init__(self, logger):
            pass

        def deserialize_cuda_engine(self, plan):
            return CudaEngine(plan.removesuffix(END)) if plan.endswith(END) else None

    class Network:
        model = b""

        @property
        def num_inputs(self):
            return len(onnx.load_from_string(self.model).graph.input)

        def get_input(self, index):
            entry = onnx.load_from_string(self.model).graph.input[index]
            sides = [side.dim_value or -1 for side in entry.type.tensor_type.shape.dim]
            return SimpleNamespace(name=entry.name, shape=sides)

    class OnnxParser:
        num_errors = 0

        def __init__(self, network, logger):
            self.network = network

        def parse(self, model):
            self.network.model = model
            return True

    class BuilderConfig:
        cache = None

        def add_optimization_profile(self, profile):
            return 0

        def create_timing_cache(self, data):
            good = data in (b"", b"timings")
            return SimpleNamespace(serialize=lambda: b"timings") if good else None

        def set_timing_cache(self, cache, ignore_mismatch):
            assert cache is not None
            self.cache = cache

        def get_timing_cache(self):
            return self.cache

    class Builder:
        def __init__(self, logger):
            pass

        def create_network(self, flags):
            return Network()

        def create_builder_config(self):
            return BuilderConfig()

        def create_optimization_profile(self):
            return SimpleNamespace(set_shape=lambda name, least, usual, most: None)

        def build_serialized_network(self, network, config):
            gpu.builds += 1
            return network.model + END

    module = ModuleType("tensorrt")
    module.__version__ = version
    module.Logger = type("Logger", (), {"WARNING": 2, "__init__": lambda self, level: None})
    module.NetworkDefinitionCreationFlag = enum.IntEnum("Flag", {"STRONGLY_TYPED": 1})
    module.nptype = np.dtype
    for part in (TensorIOMode, Runtime, OnnxParser, Builder):
        setattr(module, part.__name__, part)
    return module
