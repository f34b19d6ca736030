"""Batch norms: frozen, or over the joint batch of all processes (torch's SyncBatchNorm needs a GPU)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from training.losses.joint import processes


class _SumOverProcesses(torch.autograd.Function):
    """All-reduce; each process's loss depends on each summand, so that gradients are summed likewise."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _summed(value: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(value)
    return total


class JointBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` whose training statistics are those of the batches of all processes together.

    With one process, and in evaluation, it is ``nn.BatchNorm2d``. Mean and variance are summed over the
    processes with gradients, so that each process gets those of the joint batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same shape; B may differ between processes."""
        if not self.training or processes() == 1:
            return super().forward(x)
        dims, shape = (0, 2, 3), (1, -1, 1, 1)
        values = x.float()
        count = x.new_tensor(float(x.numel() // x.shape[1]), dtype=torch.float32)
        sums = _summed(torch.cat([values.sum(dims), count.view(1)]))
        total = sums[-1].detach()
        mean = sums[:-1] / total
        centred = values - mean.view(shape)
        # A second pass, not E[x^2] - E[x]^2, which loses digits where the mean is large.
        variance = _summed(centred.square().sum(dims)) / total
        self._follow(mean.detach(), variance.detach() * (total / (total - 1).clamp_min(1.0)))
        out = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.weight is not None:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        rate = self.momentum
        if rate is None:
            rate = 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, rate)
        self.running_var.lerp_(unbiased_variance, rate)


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """A batch norm that keeps its statistics: an affine map a channel whose weight and bias train."""

    def train(self, mode: bool = True) -> FrozenBatchNorm2d:
        return super().train(False)


def batch_norm(channels: int, frozen: bool) -> nn.BatchNorm2d:
    """A norm over the joint batch, or one that keeps its statistics (at first mean 0, variance 1)."""
    return FrozenBatchNorm2d(channels).eval() if frozen else JointBatchNorm2d(channels)
