"""The TensorRT engine as far as it can be held to its word without a GPU, and in full where there is one."""

import gc
import importlib
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from fake_gpu import FakeGpu
from pictures import areas
from tensorrt_table import unsupported

from anyseg_ros.engine import ENGINES, EngineError, ModelError, OnnxRuntimeEngine, load_engine
from anyseg_ros.engine.cuda import CudaError, CudaGraph, device_count
from anyseg_ros.engine.half_weights import unpack_weights
from anyseg_ros.engine.tensorrt import TensorRtEngine, in_half_precision, plan_name

MODELS = sorted(p.parent for p in Path(__file__).parents[2].glob("models/*/encode.onnx"))
GRAPHS = [path for model in MODELS for path in sorted(model.glob("*.onnx"))]

USED = {
    "": ("Logger", "Runtime", "TensorIOMode", "DataType", "nptype", "__version__"),
    "Logger": ("WARNING",),
    "Runtime": ("deserialize_cuda_engine",),
    "TensorIOMode": ("INPUT",),
    "ICudaEngine": (
        "create_execution_context",
        "get_tensor_dtype",
        "get_tensor_mode",
        "get_tensor_name",
        "get_tensor_shape",
        "num_io_tensors",
    ),
    "IExecutionContext": ("execute_async_v3", "set_input_shape", "set_tensor_address"),
    "IOptimizationProfile": ("set_shape",),
    "ITimingCache": ("serialize",),
}
USED_TO_BUILD = {
    "": ("Builder", "OnnxParser", "NetworkDefinitionCreationFlag"),
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
    "Builder": (
        "build_serialized_network",
        "create_builder_config",
        "create_network",
        "create_optimization_profile",
    ),
    "IBuilderConfig": (
        "add_optimization_profile",
        "create_timing_cache",
        "get_timing_cache",
        "set_timing_cache",
    ),
    "INetworkDefinition": ("get_input", "num_inputs"),
    "OnnxParser": ("get_error", "num_errors", "parse"),
}


@pytest.mark.parametrize("path", GRAPHS, ids=lambda p: f"{p.parent.name}-{p.stem}")
@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_every_operator_and_type_of_the_shipped_graphs_is_supported(path, half):
    model = unpack_weights(onnx.load(path))
    if half:
        model = in_half_precision(model)
    assert unsupported(model) == []


def test_the_table_finds_what_is_unsupported():
    helper, kind = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Add", ["x", "x"], ["y"]),
        helper.make_node("Unique", ["y"], ["z"]),
    ]
    ends = [helper.make_tensor_value_info(n, kind.UINT8, [4]) for n in ("x", "z")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    said = unsupported(model)
    assert "opset 21" in said and "Add of uint8" in said and "Unique" in said
    assert "uint8 inside the graph: y" in said


@pytest.mark.parametrize("model", MODELS, ids=lambda p: p.name)
def test_half_precision_keeps_the_labels(model, tmp_path):
    rng = np.random.default_rng(0)
    half = shutil.copytree(model, tmp_path / "half")
    for graph in ("encode", "fuse"):
        packed = onnx.load(half / f"{graph}.onnx")
        onnx.save(in_half_precision(unpack_weights(packed)), half / f"{graph}.onnx")
    exact, rounded = load_engine(model, "onnxruntime"), load_engine(half, "onnxruntime")
    card = exact.card
    images = rng.integers(0, 256, (2, card.input_height, card.input_width, 3), np.uint8)
    ids = np.array([0, 3])
    expected, got = exact.segment(images, ids), rounded.segment(images, ids)
    assert (expected.labels == got.labels).mean() > 0.99
    difference = expected.confidence.astype(int) - got.confidence
    assert np.abs(difference).mean() < 2


@pytest.mark.skipif(device_count() > 0, reason="this machine has a GPU")
def test_without_a_gpu_the_error_says_so_before_tensorrt_is_touched(tiny_model):
    with pytest.raises(EngineError, match="no CUDA device"):
        TensorRtEngine(tiny_model)


def test_auto_says_why_not(tiny_model):
    said = []
    engine = load_engine(tiny_model, "auto", 1, said.append)
    assert len(said) == 1 and said[0].startswith(f"engine auto: {engine.description}")
    if device_count() == 0:
        assert "tensorrt: TensorRT needs an NVIDIA GPU" in said[0]


@pytest.mark.parametrize(
    "error",
    [
        CudaError("cuStreamBeginCapture_v2: code 901"),
        MemoryError(),
        OSError(30, "Read-only file system"),
        ModelError("encode.onnx is no readable ONNX model: CUDA failure 2: out of memory"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_auto_takes_the_next_engine_whatever_is_wrong_with_one(tiny_model, monkeypatch, error):
    def fail(model_dir, threads):
        raise error

    said = []
    for name in ENGINES:
        if name != "onnxruntime":
            monkeypatch.setitem(ENGINES, name, fail)
    engine = load_engine(tiny_model, "auto", 1, said.append)
    assert engine.description.startswith("ONNX Runtime")
    expected = str(error) if isinstance(error, ModelError) else repr(error)
    assert f"tensorrt: {expected}; onnxruntime_cuda: {expected}" in said[0]
    monkeypatch.setitem(ENGINES, "onnxruntime", fail)
    with pytest.raises(ModelError if isinstance(error, ModelError) else EngineError) as refused:
        load_engine(tiny_model, "auto", 1, said.append)
    assert expected in str(refused.value)


def test_auto_takes_the_next_engine_if_one_loads_but_does_not_run(tiny_model, monkeypatch):
    closed = []

    class WithoutMemory(OnnxRuntimeEngine):
        def _fuse_features(self, features):
            raise MemoryError

        def close(self):
            closed.append(self)
            super().close()

    said = []
    for name in ENGINES:
        if name != "onnxruntime":
            monkeypatch.setitem(ENGINES, name, WithoutMemory)
    load_engine(tiny_model, "auto", 1, said.append)
    assert "tensorrt: MemoryError()" in said[0]
    assert len(closed) == len(ENGINES) - 1
    with pytest.raises(MemoryError):
        load_engine(tiny_model, "openvino", 1)


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A stand-in: what it cannot tell is whether the real ones do as it does."""
    fake = FakeGpu()
    fake.install(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return fake


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_engines_own_part_gives_the_labels_of_onnx_runtime(tiny_model, gpu, precision):
    exact, engine = load_engine(tiny_model, "onnxruntime"), TensorRtEngine(tiny_model, 0, precision)
    assert engine.description == f"TensorRT 10.13.0, Fake GPU, {precision}"
    images = areas(exact.card, 4)
    for live in ((0,), (3, 1), (2, 0, 3), (0, 1, 2, 3), (1,)):
        ids = np.array(live)
        expected, got = exact.segment(images[ids], ids), engine.segment(images[ids], ids)
        assert (expected.labels == got.labels).mean() > (0.999 if precision == "fp32" else 0.98), (
            live
        )
        assert got.labels.dtype == got.confidence.dtype == np.uint8
    features = engine.encode(images, np.arange(4))
    kept = engine.fuse(features[:2]).labels
    engine.encode(
        images[::-1], np.arange(4)
    )  # others' features must not land in slots that are held
    np.testing.assert_array_equal(engine.fuse(features[:2]).labels, kept)


def test_closed_engines_give_everything_back(tiny_model, gpu):
    engines = [TensorRtEngine(tiny_model, 0, "fp32") for _ in range(2)]
    for engine in engines:
        engine.fuse(engine.encode(areas(engine.card, 2), np.arange(2)))
        engine.close()
        engine.close()
    assert (gpu.allocated, gpu.contexts, gpu.graphs, gpu.retained) == (0, 0, {}, 1)
    engine = TensorRtEngine(tiny_model, 0, "fp32")
    features = engine.encode(areas(engine.card, 2), np.arange(2))
    engine.close()  # while somebody holds features
    del engine, features
    gc.collect()
    assert gpu.allocated == 0


def test_an_engine_closes_after_a_fault_of_the_gpu(tiny_model, gpu):
    engine = TensorRtEngine(tiny_model, 0, "fp32")
    gpu.break_down()
    with pytest.raises(CudaError, match="cuGraphLaunch failed with CUresult 700"):
        engine.segment(areas(engine.card, 1), np.arange(1))
    engine.close()
    engine.close()
    assert gpu.contexts == 0


def test_a_capture_that_fails_says_why(gpu):
    def fail():
        raise EngineError("no rows")

    with pytest.raises(EngineError, match="no rows"):
        CudaGraph(1, fail)
    assert gpu.captured is None


def test_a_build_is_announced_and_kept(tiny_model, gpu, tmp_path):
    said = []
    for precision, builds in (("fp32", 2), ("fp32", 2), ("fp16", 4), ("fp32", 4)):
        TensorRtEngine(tiny_model, 0, precision, said.append).close()
        assert gpu.builds == builds
    assert len(said) == 4  # two graphs in two precisions
    assert "TensorRT engine for Fake GPU: this takes minutes" in said[0]
    names = sorted(path.suffix for path in (tmp_path / "anyseg_ros/tensorrt").iterdir())
    assert names == [".cache"] + [".plan"] * 4  # and no temporary file


@pytest.mark.parametrize("damage", [b"", b"half of a pl"], ids=["empty", "cut off"])
def test_what_is_kept_and_damaged_is_built_again(tiny_model, gpu, tmp_path, damage):
    TensorRtEngine(tiny_model, 0, "fp32").close()
    whole = {path: path.read_bytes() for path in (tmp_path / "anyseg_ros/tensorrt").iterdir()}
    for path in whole:
        path.write_bytes(damage)
    said = []
    TensorRtEngine(tiny_model, 0, "fp32", said.append).close()
    assert gpu.builds == 4
    assert sum("cannot read the engine kept in" in text for text in said) == (2 if damage else 0)
    assert {path: path.read_bytes() for path in whole} == whole


def test_an_engine_that_cannot_be_kept_runs_all_the_same(tiny_model, gpu, tmp_path):
    (tmp_path / "anyseg_ros").write_text("in the folder's place")
    said = []
    engine = TensorRtEngine(tiny_model, 0, "fp32", said.append)
    engine.segment(areas(engine.card, 1), np.arange(1))
    assert sum("cannot be kept, and is built again next time" in text for text in said) == 2


def test_what_is_missing_is_named(tiny_model, gpu, monkeypatch):
    gpu.install(monkeypatch, version="8.6.1")
    with pytest.raises(EngineError, match=r"TensorRT 8\.6\.1 is too old: 10 or later"):
        TensorRtEngine(tiny_model)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match=r"tensorrt.*; install the extra"):
        TensorRtEngine(tiny_model)
    broken = ModuleType("pycuda")  # as where CUDA's own libraries are on no path
    broken.__path__ = []
    monkeypatch.setitem(sys.modules, "pycuda", broken)
    monkeypatch.delitem(sys.modules, "pycuda.driver")
    monkeypatch.setattr(sys, "meta_path", [MissingLibrary(), *sys.meta_path])
    with pytest.raises(EngineError, match=r"^libcurand\.so\.10: cannot open") as refused:
        TensorRtEngine(tiny_model)
    assert "install the extra" not in str(refused.value)


class MissingLibrary:
    """Fails to import ``pycuda.driver`` as the loader of shared libraries does."""

    def find_spec(self, name, path=None, target=None):
        if name == "pycuda.driver":
            raise ImportError("libcurand.so.10: cannot open shared object file", name="_driver")


def test_an_engine_is_kept_for_one_model_gpu_precision_and_version():
    keys = [
        (b"model", "fp16", 4, "Orin (8, 7)", "10.3"),
        (b"other", "fp16", 4, "Orin (8, 7)", "10.3"),
        (b"model", "fp32", 4, "Orin (8, 7)", "10.3"),
        (b"model", "fp16", 3, "Orin (8, 7)", "10.3"),
        (b"model", "fp16", 4, "Thor (11, 0)", "10.3"),
        (b"model", "fp16", 4, "Orin (8, 7)", "11.0"),
    ]
    assert len({plan_name(*key) for key in keys}) == len(keys)
    assert plan_name(*keys[0]) == plan_name(*keys[0])


@pytest.mark.parametrize("package", ["tensorrt", "tensorrt_lean_bindings"])
def test_the_bindings_have_what_is_used(package):
    try:
        bindings = importlib.import_module(package)
    except ImportError:
        pytest.skip(f"{package} is not installed: its attributes are not checked")
    wanted = USED | (USED_TO_BUILD if package == "tensorrt" else {})
    missing = [
        f"{owner}.{name}"
        for owner, names in wanted.items()
        for name in names
        if not hasattr(getattr(bindings, owner) if owner else bindings, name)
    ]
    assert missing == []
    if package == "tensorrt_lean_bindings":  # it has no builder: those attributes are not checked
        assert not hasattr(bindings, "Builder")


@pytest.mark.skipif(device_count() == 0, reason="no NVIDIA GPU: TensorRT itself is not run")
@pytest.mark.parametrize("model", MODELS, ids=lambda p: p.name)
def test_tensorrt_gives_the_labels_of_onnx_runtime(model, tmp_path, monkeypatch):
    pytest.importorskip("tensorrt", reason="TensorRT is not installed: it is not run")
    pytest.importorskip("pycuda", reason="pycuda is not installed: TensorRT is not run")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    exact, engine = load_engine(model, "onnxruntime"), TensorRtEngine(model)
    images = areas(exact.card, 4)
    for live in (1, 2, 3, 4, 1):
        ids = np.arange(live)
        expected, got = exact.segment(images[:live], ids), engine.segment(images[:live], ids)
        assert (expected.labels == got.labels).mean() > 0.98, live
    features = engine.encode(images, np.arange(4))
    alone = engine.fuse(features[:2]).labels
    np.testing.assert_array_equal(engine.fuse(features[:2][::-1]).labels, alone)
    engine.close()
    built = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.plan")}
    assert len(built) == 2
    TensorRtEngine(model).close()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.plan")} == built
