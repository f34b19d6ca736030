"""Engines and networks against the AnySeg reference network in torch, in one interleaved run.

    python benchmarks/speed.py                # 512x512 and 256x512, 1..4 sensors, every engine that loads
    python benchmarks/speed.py --sizes 512x512 --repeats 15 --model models/NAME

The reference is the paper's network as its authors wrote it: MiT-B0, head width 768, one encoder pass a
modality after another, every level projected, resized, concatenated and fused, torch eager in fp32. The rows
``mit_b0`` are the same network with the same weights, exported and run by this project's engines; each says
which share of its labels equals the reference's (the weights are random, so many pixels are near a tie: a
trained network loses less). Images are uint8 noise, labels and confidence come out at full size.

``mit_b0 cached``: only one of the live sensors has something new, the others' features are kept. Against:
the reference, which encodes all of them again. Other names are other networks (random weights) and, with
``--model``, shipped ones; they have no labels to compare. Medians of interleaved rounds; the ratio is that
of the medians. Needs torch and, for its rows, openvino.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from anyseg_ros.classes import CITYSCAPES_19
from anyseg_ros.engine import ENGINES, Engine, EngineError
from anyseg_ros.engine.model_card import ModelCard, attach_card
from anyseg_ros.evaluation.results import Row, write_results
from anyseg_ros.modalities import DEFAULT_ENCODINGS
from anyseg_ros.modality import MODALITIES
from training.export import write_graphs
from training.models.graphs import exportable
from training.models.segmentor import AnymodalSegmentor, SegmentorConfig

RESULTS = Path(__file__).parents[1] / "docs/results/speed.json"
REFERENCE = "anyseg torch eager fp32"
ROW_KEYS = ("name", "engine", "live_sensors", "height", "width")
Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Network:
    """A network to export: its configuration, and how its output is decided."""

    config: SegmentorConfig
    output_stride: int = 1


NETWORKS = {
    "mit_b0": Network(SegmentorConfig(head_width=768)),
    "mit_b0 head 256": Network(SegmentorConfig(head_width=256)),
    "mit_b0 late 2 head 256": Network(SegmentorConfig(head_width=256, late_stages=2)),
    "fast_xs late 2": Network(
        SegmentorConfig(encoder="fast_xs", late_stages=2, head_width=64), output_stride=2
    ),
    "fast_s late 2": Network(
        SegmentorConfig(encoder="fast_s", late_stages=2, head_width=64), output_stride=2
    ),
    "fast_m late 3": Network(
        SegmentorConfig(encoder="fast_m", late_stages=3, head_width=64), output_stride=2
    ),
}


class Reference:
    """AnySeg's network in the form of its authors."""

    def __init__(self, network: AnymodalSegmentor) -> None:
        self._network = network.eval()

    @torch.inference_mode()
    def __call__(self, images: Images) -> npt.NDArray[np.uint8]:
        """Labels uint8[H, W] of images uint8[M, H, W, 3], modality k the k-th."""
        planes = torch.from_numpy(images).permute(0, 3, 1, 2)
        sums: list[torch.Tensor] = []
        for modality in range(len(images)):
            maps = self._network.encode(planes[modality : modality + 1], torch.tensor([modality]))
            sums = [a + b for a, b in zip(sums, maps, strict=True)] if sums else list(maps)
        logits = self._network.head.forward_as_written([s / len(images) for s in sums])
        full = F.interpolate(logits, size=images.shape[1:3], mode="bilinear", align_corners=False)
        labels: npt.NDArray[np.uint8] = full.argmax(1)[0].to(torch.uint8).numpy()
        return labels


def make_network(config: SegmentorConfig) -> AnymodalSegmentor:
    """The network with random weights, its logits as far apart as a trained one's."""
    torch.manual_seed(0)
    network = AnymodalSegmentor(config).eval()
    torch.nn.init.normal_(network.head.classifier.weight, std=0.3)
    return network


def export(network: Network, folder: Path, height: int, width: int) -> None:
    """Write a network with a card, as ``training/export.py`` does."""
    encode, fuse = exportable(make_network(network.config), height, width, network.output_stride)
    folder.mkdir(parents=True)
    write_graphs(encode, fuse, folder, height, width)
    card = ModelCard(
        name=folder.name,
        classes=CITYSCAPES_19,
        encodings=DEFAULT_ENCODINGS,
        input_width=width,
        input_height=height,
        normalization={m: network.config.normalization.of(m) for m in MODALITIES},
        provenance={"data": "random weights", "synthetic_only": True},
    )
    for graph in ("encode", "fuse"):
        attach_card(folder / f"{graph}.onnx", card.for_graph(graph))


@dataclass(frozen=True)
class Job:
    """Something to time."""

    name: str
    engine: str
    live: int
    run: Callable[[], object]


def engine_jobs(name: str, engine_name: str, engine: Engine, images: Images) -> list[Job]:
    """All-new sets of 1..4 sensors, and sets of which one member is new."""
    ids = np.arange(len(images), dtype=np.int64)
    features = engine.encode(images, ids)

    def cached(live: int) -> Callable[[], object]:
        def run() -> object:
            return engine.fuse([*engine.encode(images[:1], ids[:1]), *features[1:live]])

        return run

    jobs = []
    for live in range(1, len(images) + 1):
        part = slice(0, live)
        jobs.append(
            Job(name, engine_name, live, lambda part=part: engine.segment(images[part], ids[part]))
        )
        if live > 1:
            jobs.append(Job(f"{name} cached", engine_name, live, cached(live)))
    return jobs


def time_interleaved(jobs: Sequence[Job], repeats: int) -> list[float]:
    """Median milliseconds of each job; the jobs take turns, so that a busy moment meets all of them."""
    taken: list[list[float]] = [[] for _ in jobs]
    for repeat in range(repeats + 1):
        for job, times in zip(jobs, taken, strict=True):
            started = time.perf_counter()
            job.run()
            if repeat:  # the first round allocates
                times.append(time.perf_counter() - started)
    return [1e3 * statistics.median(times) for times in taken]


def load(folder: Path, engines: Sequence[str], threads: int) -> dict[str, Engine]:
    """The engines that can be used here; says why others cannot."""
    loaded = {}
    for name in engines:
        try:
            loaded[name] = ENGINES[name](folder, threads)
        except EngineError as error:
            print(f"{name}: not measured: {error}", file=sys.stderr)
    return loaded


def measure(height: int, width: int, options: argparse.Namespace, folder: Path) -> list[Row]:
    """All rows of one size."""
    images = np.random.default_rng(0).integers(0, 256, (4, height, width, 3), np.uint8)
    reference = Reference(make_network(NETWORKS["mit_b0"].config))
    counts = range(1, len(images) + 1)
    truth = {live: reference(images[:live]) for live in counts}
    jobs = [
        Job(REFERENCE, "torch", live, lambda live=live: reference(images[:live])) for live in counts
    ]
    agreement: dict[tuple[str, str, int], float] = {}
    loaded: list[Engine] = []
    folders = {}
    for name in options.networks:
        folders[name] = folder / f"{name} {height}x{width}"
        export(NETWORKS[name], folders[name], height, width)
    folders |= {path.name: path for path in options.model}
    for name, path in folders.items():
        for engine_name, engine in load(path, options.engines, options.threads).items():
            card = engine.card
            if (card.input_height, card.input_width) != (height, width):
                engine.close()
                continue
            loaded.append(engine)
            jobs += engine_jobs(name, engine_name, engine, images)
            if name == "mit_b0":
                for live in counts:
                    output = engine.segment(images[:live], np.arange(live, dtype=np.int64))
                    share = float((output.labels == truth[live]).mean())
                    agreement[name, engine_name, live] = share
                    agreement[f"{name} cached", engine_name, live] = share
    medians = time_interleaved(jobs, options.repeats)
    for engine in loaded:
        engine.close()
    own = {job.live: ms for job, ms in zip(jobs, medians, strict=True) if job.name == REFERENCE}
    rows = []
    for job, ms in zip(jobs, medians, strict=True):
        row: Row = {
            "name": job.name,
            "engine": job.engine,
            "live_sensors": job.live,
            "height": height,
            "width": width,
            "median_ms": round(ms, 2),
            "ratio": round(own[job.live] / ms, 2),
            "against": REFERENCE,
        }
        share = agreement.get((job.name, job.engine, job.live), -1.0)
        if share >= 0:
            row["labels_equal"] = round(share, 5)
        rows.append(row)
    return rows


def print_table(rows: Sequence[Row]) -> None:
    """The rows, one size after the other."""
    print(
        f"{'name':24s} {'engine':16s} {'HxW':9s} {'live':>4s} {'ms':>8s} {'ratio':>7s}  labels equal"
    )
    for row in rows:
        equal = f"{row['labels_equal']:.3%}" if "labels_equal" in row else ""
        print(
            f"{row['name']:24s} {row['engine']:16s} {row['height']}x{row['width']:<5d} "
            f"{row['live_sensors']:4d} {row['median_ms']:8.1f} {row['ratio']:7.2f}  {equal}"
        )


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["512x512", "256x512"], help="HEIGHTxWIDTH")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--model", type=Path, nargs="*", default=[], help="shipped model folders")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument(
        "--threads", type=int, default=0, help="of torch and the engines; 0 for all"
    )
    parser.add_argument("--repeats", type=int, default=9, help="rounds")
    parser.add_argument("--output", type=Path, default=RESULTS, help="result file")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> list[Row]:
    """Entry point; ``arguments`` default to those of the command line. Returns the rows."""
    options = parse_arguments(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    rows: list[Row] = []
    for size in options.sizes:
        height, width = (int(side) for side in size.split("x"))
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(height, width, options, Path(folder))
    print_table(rows)
    given = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "benchmarks/speed.py", *given])
    notes = (
        f"Medians of {options.repeats} interleaved rounds, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads; reference: AnySeg's network as published (MiT-B0, head width "
        "768, modality after modality, nothing folded), random weights. mit_b0: the same network and the "
        "same weights; labels_equal: share of the pixels with the reference's label. cached: one sensor's "
        "image is new. fast_*: other networks, random weights, output stride 2."
    )
    write_results(options.output, rows, command, notes, ROW_KEYS)
    return rows


if __name__ == "__main__":
    main()
