"""A training step's gradient, in one process or in two: what ``test_joint_batch.py`` compares.

A module of its own, since spawned processes import it by name.
"""

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from training.data.batches import Batch
from training.losses.cmd import CmdConfig
from training.losses.joint import joint_threshold
from training.losses.mad import MadConfig
from training.losses.umd import UmdConfig
from training.methods.anyseg import AnySegStudent
from training.methods.schedule import OptimizerConfig
from training.methods.supervised import OhemConfig
from training.models.segmentor import SegmentorConfig

CONFIG = SegmentorConfig(head_width=16, classes=5, dropout=0.0)
FAST = SegmentorConfig("fast_xs", head_width=16, classes=5, dropout=0.0, late_stages=1)
CASES = {
    "relations": {"cmd": CmdConfig(reading="relations")},
    "pairs": {"cmd": CmdConfig(reading="pairs")},
    "cosine": {"umd": UmdConfig(distance="cosine"), "cmd": CmdConfig(weight=0.0)},
    # No pixel is that wrong, so that the hardest sixteenth of the joint batch counts.
    "hardest share": {"ohem": OhemConfig(threshold=1e-6)},
    # A fifth of the pixels is right, wherever they are.
    # The first process has no sensor beside another.
    "alone": {"alone": 0.5, "ohem": OhemConfig(threshold=0.2)},
    "unequal counts": {"ohem": OhemConfig(threshold=0.2), "mad": MadConfig(weight=0.0)},
    # Batch norms everywhere, other widths than the teacher's.
    "convolutional": {"network": FAST},
    "convolutional, no maps compared": {
        "network": FAST,
        "umd": UmdConfig(weight=0.0),
        "cmd": CmdConfig(weight=0.0),
    },
}


def joint_batch():
    """Four samples; the second process has more sensors and fewer labels than the first."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (4, 4, 3, 32, 64), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 5, (4, 32, 64), generator=generator, dtype=torch.uint8)
    labels[2:, :20] = 255
    present = torch.tensor([[1, 0, 0, 0], [0, 0, 1, 0], [1, 1, 1, 1], [0, 1, 1, 1]]).bool()
    return Batch(images, labels, present)


class Step(nn.Module):
    """A training step as a module's forward pass, as Lightning's DDP strategy runs it."""

    def __init__(self, method):
        super().__init__()
        self.method = method

    def forward(self, batch):
        return self.method.training_step(batch, 0)


def gradients(teacher, case, batch, distributed):
    settings = {"network": CONFIG, "optimizer": OptimizerConfig(), "seed": 1, **CASES[case]}
    method = AnySegStudent(teacher, **settings).train()
    for module in method.network.modules():
        if isinstance(module, nn.BatchNorm2d):  # some begin with 0 and let no gradient through
            nn.init.ones_(module.weight)
    step = Step(method)
    # Its hooks live as long as the wrapper.
    module = DistributedDataParallel(step) if distributed else step
    module(batch).backward()
    values = {name: p.grad.clone() for name, p in method.network.named_parameters()}
    norm = method.network.head.norm
    return {**values, "running mean": norm.running_mean, "running variance": norm.running_var}


def rank_main(rank, port, teacher, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        whole = joint_batch()
        share = Batch(*(part[2 * rank : 2 * rank + 2] for part in whole))
        results = {case: gradients(teacher, case, share, True) for case in CASES}
        values = torch.tensor([[9.0, 1.0, 5.0], [7.0, 8.0, 2.0]])[rank, : 3 - rank]
        results["threshold"] = joint_threshold(values, 3)
        torch.save(results, folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
