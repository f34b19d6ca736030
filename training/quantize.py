"""Quantise an exported model to INT8.

    python training/quantize.py models/NAME models/NAME_int8 --data data/street

Weights and the inputs of convolutions and linear layers become 8-bit integers, by ranges that real frames
show (ONNX Runtime's static quantisation: quantize and dequantize operators in the graph). All is symmetric
and biases stay floats, as TensorRT wants it. What it costs is printed as the share of pixels that keep their
label, and measured in mIoU by ``training/evaluate.py --model``. Whether it gains time depends on the engine.
"""

from __future__ import annotations

import logging
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # called as a script: make the repository importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import numpy.typing as npt
from onnxruntime import quantization
from tqdm import tqdm

from anyseg_ros.engine import EngineError, ModelError
from anyseg_ros.engine.half_weights import unpack_weights
from anyseg_ros.engine.model_card import ModelCard, attach_card, weights_hash
from anyseg_ros.engine.onnx import OnnxRuntimeEngine
from training.data.batches import draw_subsets, split_planes
from training.data.sources import FrameSource, open_source
from training.data.street import DataSetError, ImageSpec

GRAPHS = ("encode", "fuse")
QUANTISED = ("Conv", "MatMul")
Feed = dict[str, npt.NDArray[Any]]


class CalibrationFeeds(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Inputs of one graph, one frame at a time."""

    def __init__(self, feeds: Iterator[Feed]) -> None:
        self._feeds = feeds

    def get_next(self) -> Feed | None:
        """The next frame's inputs; ``None`` at the end."""
        return next(self._feeds, None)


class Calibration:
    """Evenly chosen frames of a split, and what a model makes of them.

    Args:
        engine: the exact model.
        data: the frames.
        frames: how many.
        seed: of the subsets that are fused.
    """

    def __init__(
        self, engine: OnnxRuntimeEngine, data: FrameSource, frames: int, seed: int = 0
    ) -> None:
        self._engine = engine
        self._data = data
        self.chosen = np.linspace(0, len(data) - 1, min(frames, len(data))).round().astype(int)
        modalities = engine.card.modalities
        self._ids = np.array([int(m) for m in modalities], np.int64)
        present = draw_subsets(len(self.chosen), modalities, np.random.default_rng(seed))
        self.subsets = [np.flatnonzero(row[self._ids]) for row in np.asarray(present)]

    def images(self) -> Iterator[npt.NDArray[np.uint8]]:
        """All modality images of each frame, uint8[M, H, W, 3]."""
        for index in self.chosen:
            planes, _ = split_planes(np.array(self._data.planes(int(index))))
            yield np.ascontiguousarray(planes.transpose(0, 2, 3, 1))[self._ids]

    def feeds(self, graph: str, inputs: Sequence[str]) -> Iterator[Feed]:
        """Inputs of ``encode``: all images of a frame; of ``fuse``: the features of a random subset."""
        frames = zip(self.images(), self.subsets, strict=True)
        for images, subset in tqdm(frames, f"calibrate {graph}", len(self.chosen), unit="frame"):
            if graph == "encode":
                yield {"images": images, "modality_ids": self._ids}
                continue
            features = self._engine.encode(images[subset], self._ids[subset])
            maps = [np.stack([f[level] for f in features]) for level in range(len(inputs))]
            yield dict(zip(inputs, maps, strict=True))

    def agreement(self, other: OnnxRuntimeEngine) -> float:
        """Share of the pixels to which another model gives the same label as the exact one."""
        same = []
        frames = zip(self.images(), self.subsets, strict=True)
        for images, subset in tqdm(frames, "compare", len(self.chosen), unit="frame"):
            exact, got = (
                engine.segment(images[subset], self._ids[subset]).labels
                for engine in (self._engine, other)
            )
            same.append(float((exact == got).mean()))
        return float(np.mean(same))


def quantise(folder: Path, output: Path, data: FrameSource, frames: int) -> ModelCard:
    """Write the INT8 model.

    Args:
        folder: of the exported model.
        output: folder to write, created if need be.
        data: what it is calibrated on.
        frames: how many of them, evenly chosen.

    Returns:
        The card of the INT8 model.

    Raises:
        ModelError: if the model is none that is encoded and fused, is quantised already, or would be
            overwritten.
    """
    import onnx

    if output.resolve() == folder.resolve():
        raise ModelError(f"the INT8 model would overwrite {folder}: name another folder")
    if not (folder / "encode.onnx").is_file():
        raise ModelError(
            f"{folder} has no encode.onnx: only models that encode and fuse are quantised"
        )
    engine = OnnxRuntimeEngine(folder)
    if "int8" in engine.card.provenance:
        raise ModelError(f"{folder} is quantised already")
    calibration = Calibration(engine, data, frames)
    output.mkdir(parents=True, exist_ok=True)
    about: Mapping[str, Any] = {"frames": len(calibration.chosen), "of": engine.card.model_id}
    constants: dict[str, npt.NDArray[Any]] = {}
    for graph in GRAPHS:
        model = unpack_weights(onnx.load(folder / f"{graph}.onnx"))
        inputs = [entry.name for entry in model.graph.input]
        weights = {entry.name for entry in model.graph.initializer}
        quantization.quantize_static(
            model,
            output / f"{graph}.onnx",
            CalibrationFeeds(calibration.feeds(graph, inputs)),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            # Products of two maps, as in attention, stay exact: their ranges differ from frame to frame.
            nodes_to_exclude=[
                node.name
                for node in model.graph.node
                if node.op_type == "MatMul" and weights.isdisjoint(node.input)
            ],
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "OpTypesToExcludeOutputQuantization": list(QUANTISED),
            },
        )
        written = onnx.load(output / f"{graph}.onnx")
        for entry in written.graph.initializer:  # weights and the ranges of this calibration
            constants[f"{graph}/{entry.name}"] = onnx.numpy_helper.to_array(entry)
    card = replace(
        engine.card,
        name=output.name,
        model_id=weights_hash(constants),
        provenance={**engine.card.provenance, "int8": about},
    )
    for graph in GRAPHS:
        attach_card(output / f"{graph}.onnx", card.for_graph(graph))
    return card


def main(arguments: list[str] | None = None) -> float:
    """Entry point; returns the share of equal labels."""
    parser = ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model", type=Path, help="folder of the exported model")
    parser.add_argument("output", type=Path, help="folder to write the INT8 model to")
    parser.add_argument("--data", type=Path, required=True, help="data set to calibrate on")
    parser.add_argument("--frames", type=int, default=32, help="evenly chosen frames of it")
    parser.add_argument("--workers", type=int, default=2, help="processes that build images")
    options = parser.parse_args(arguments)
    if options.frames < 1:
        parser.error("--frames must be at least 1")
    card = OnnxRuntimeEngine(options.model).card
    spec = ImageSpec(card.input_width, card.input_height, card.encodings)
    training = open_source({}, options.data, "train", spec, options.workers)
    held_out = open_source({}, options.data, "val", spec, options.workers)
    logging.disable(logging.WARNING)  # the library recommends steps that an export has done
    try:
        quantised = quantise(options.model, options.output, training, options.frames)
    finally:
        logging.disable(logging.NOTSET)
    comparison = Calibration(OnnxRuntimeEngine(options.model), held_out, options.frames, seed=1)
    share = comparison.agreement(OnnxRuntimeEngine(options.output))
    size = sum(path.stat().st_size for path in options.output.glob("*.onnx")) / 1e6
    print(
        f"{options.output}: {quantised.name}, {size:.1f} MB; {share:.2%} of the labels on "
        f"{len(comparison.chosen)} validation frames are those of {options.model}"
    )
    return share


if __name__ == "__main__":
    try:
        main()
    except (DataSetError, EngineError, ModelError) as error:
        sys.exit(f"quantize: {error}")
