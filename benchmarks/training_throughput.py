"""Time of a training step: flattened (sample, modality) pairs against a loop over samples.

    python benchmarks/training_throughput.py

The public AnySeg encoder passes the samples of a batch one by one, since each brings its modalities as a
batch of its own. Three ways to compute one and the same training step (forward, OHEM cross-entropy,
backward, AdamW), with the same weights, batch and machine, timed in turn within one run:

- ``flattened``: all present pairs in one encoder batch, averaged back by index (``training/models``);
- ``loop``: the same layers, sample by sample;
- ``reference_loop``: sample by sample through transformers' SegFormer, whose layers are written as published:
  the reduction a strided convolution, the head projected, up-sampled, concatenated and fused.

``ratio`` is a row's time over that of ``flattened``; ``cpu_ratio`` the same in processor time, which other
work on the machine disturbs less. First it is checked that all three give the same logits.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

# Read by the OpenMP runtime as torch loads it, as in training/train.py.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyseg_ros.evaluation.results import Row, write_results
from anyseg_ros.modality import MODALITIES
from training.data.batches import draw_subsets
from training.losses.ohem import ohem_cross_entropy
from training.models.segformer_twin import transformers_twin
from training.models.segmentor import AnymodalSegmentor, SegmentorConfig, full_size

RESULTS = Path(__file__).resolve().parents[1] / "docs/results/training_throughput.json"
KEYS = ("name", "subsets", "threads", "precision")


class Pairs:
    """A batch of random images: the present pairs, and which sample each belongs to."""

    def __init__(self, samples: int, height: int, width: int, full: bool) -> None:
        rng = np.random.default_rng(0)
        shape = (samples, len(MODALITIES))
        present = np.ones(shape, bool) if full else draw_subsets(samples, MODALITIES, rng)
        sample_index, ids = np.nonzero(present)
        self.samples = samples
        self.sample_index, self.ids = torch.from_numpy(sample_index), torch.from_numpy(ids)
        self.images = torch.from_numpy(
            rng.integers(0, 256, (len(ids), 3, height, width), dtype=np.uint8)
        )
        self.labels = torch.from_numpy(rng.integers(0, 19, (samples, height, width), np.uint8))


def mean_by_sample(
    encode: Callable[[Tensor], list[Tensor]], x: Tensor, batch: Pairs
) -> list[Tensor]:
    """The four fused maps, one sample after the other."""
    fused = []
    for sample in range(batch.samples):
        maps = encode(x[batch.sample_index == sample])
        fused.append([level.mean(dim=0, keepdim=True) for level in maps])
    return [torch.cat(levels) for levels in zip(*fused, strict=True)]


def flattened(network: AnymodalSegmentor, batch: Pairs) -> Tensor:
    """Logits as training computes them."""
    return network(batch.images, batch.ids, batch.sample_index, batch.samples)


def loop(network: AnymodalSegmentor, batch: Pairs) -> Tensor:
    """The same layers, sample by sample."""
    x = network.normalize(batch.images, batch.ids).contiguous(memory_format=torch.channels_last)
    return network.head(mean_by_sample(lambda part: list(network.encoder(part)), x, batch))


class ReferenceLoop(nn.Module):
    """The published layers, sample by sample."""

    def __init__(self, network: AnymodalSegmentor) -> None:
        super().__init__()
        self.normalize = network.normalize
        self.twin = transformers_twin(network).train()

    def forward(self, batch: Pairs) -> Tensor:
        """Logits ``[B, classes, H/4, W/4]``."""
        x = self.normalize(batch.images, batch.ids)

        def encode(part: Tensor) -> list[Tensor]:
            return list(self.twin.segformer(part, output_hidden_states=True).hidden_states)

        return self.twin.decode_head(mean_by_sample(encode, x, batch))


def step(logits: Tensor, labels: Tensor, optimizer: torch.optim.Optimizer, ours: bool) -> None:
    """Loss, backward pass, update; each with its own up-sampling of the logits."""
    height, width = labels.shape[1:]
    if ours:
        full = full_size(logits, height, width)
    else:
        up = F.interpolate(logits.float(), (height, width), mode="bilinear", align_corners=False)
        full = up.permute(0, 2, 3, 1)
    loss = ohem_cross_entropy(full, labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def measure(batch: Pairs, bf16: bool, rounds: int) -> dict[str, tuple[float, float]]:
    """Median wall and processor seconds of a step, by name; the three take turns.

    Raises:
        RuntimeError: if they do not compute the same.
    """
    torch.manual_seed(0)
    base = AnymodalSegmentor(SegmentorConfig(head_width=256, dropout=0.0))
    other, reference = copy.deepcopy(base), ReferenceLoop(base)
    networks: dict[str, nn.Module] = {
        "flattened": base,
        "loop": other,
        "reference_loop": reference,
    }
    forward: dict[str, Callable[[], Tensor]] = {
        "flattened": lambda: flattened(base, batch),
        "loop": lambda: loop(other, batch),
        "reference_loop": lambda: reference(batch),
    }
    with torch.no_grad():
        expected = forward["flattened"]()
        for name, run in forward.items():
            gap = float((run() - expected).abs().max() / expected.abs().max())
            if gap > 1e-4:
                raise RuntimeError(
                    f"{name} differs from flattened by {gap:.2g} of the largest logit"
                )
    optimizers = {
        name: torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
        for name, module in networks.items()
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in networks}
    for turn in range(rounds + 1):
        for name, run in forward.items():
            began, work = time.perf_counter(), time.process_time()
            context = torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext()
            with context:
                logits = run()
            step(logits, batch.labels, optimizers[name], name != "reference_loop")
            if turn:  # the first warms up
                spent = (time.perf_counter() - began, time.process_time() - work)
                seconds[name].append(spent)
    medians = {name: np.median(values, axis=0) for name, values in seconds.items()}
    return {name: (float(wall), float(cpu)) for name, (wall, cpu) in medians.items()}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    rows: list[Row] = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for full in (False, True):
            batch = Pairs(options.samples, options.height, options.width, full)
            for bf16 in (True, False):
                times = measure(batch, bf16, options.rounds)
                for name, (wall, cpu) in times.items():
                    row = {
                        "name": name,
                        "subsets": "all modalities" if full else "random",
                        "threads": threads,
                        "precision": "bf16-mixed" if bf16 else "float32",
                        "samples": options.samples,
                        "pairs": len(batch.ids),
                        "height": options.height,
                        "width": options.width,
                        "median_step_s": round(wall, 4),
                        "ratio": round(wall / times["flattened"][0], 2),
                        "median_step_cpu_s": round(cpu, 4),
                        "cpu_ratio": round(cpu / times["flattened"][1], 2),
                        "against": "flattened",
                    }
                    rows.append(row)
                    print(row, flush=True)
    notes = (
        "Median time of a training step of MiT-B0 with a head of 256, the three implementations in turn. "
        "Random subsets: sizes 1 to 4 equally often. loop has this project's layers, reference_loop those "
        "of transformers' SegFormer."
    )
    command = "python benchmarks/training_throughput.py"
    write_results(options.output, rows, command, notes, KEYS)


if __name__ == "__main__":
    main()
