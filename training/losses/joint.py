"""Means over the joint batch of all processes.

Data-parallel training averages the gradients of its W processes. Where each has another number n_r of
hard pixels or present modalities, the average of their means is not the mean of the joint batch. A
process's mean times ``W n_r / sum_s n_s`` makes it so:

    1/W sum_r (W n_r / sum_s n_s) mean_r = sum_r n_r mean_r / sum_s n_s.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist


def processes() -> int:
    """W; 1 where training is not distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def joint_sum(value: Tensor) -> Tensor:
    """Sum of a constant over all processes; carries no gradient."""
    total = value.detach().clone()
    if processes() > 1:
        dist.all_reduce(total)
    return total


def joint_share(count: Tensor | int, device: torch.device) -> Tensor:
    """``W n_r / sum_s n_s``, the factor above; 0 where nothing is counted anywhere."""
    own = torch.as_tensor(count, dtype=torch.float64, device=device)
    return (processes() * own / joint_sum(own).clamp_min(1.0)).float()


def joint_mean(mean: Tensor, count: Tensor | int) -> Tensor:
    """This process's part of a joint mean, from its own mean over ``count`` items.

    Args:
        mean: scalar; any finite value if ``count`` is 0.
        count: of the items of this process.
    """
    return mean * joint_share(count, mean.device) if processes() > 1 else mean


def joint_threshold(values: Tensor, count: int) -> Tensor:
    """The ``count``-th largest of the values of all processes together.

    Args:
        values: float ``[n_r]``, of different length in each process.
        count: at least 1, at most the number of all values; the same in all processes.
    """
    largest = torch.topk(values.detach(), min(count, values.numel())).values
    padded = values.new_full((count,), -torch.inf)
    padded[: largest.numel()] = largest
    gathered = [torch.empty_like(padded) for _ in range(processes())]
    dist.all_gather(gathered, padded)
    return torch.topk(torch.cat(gathered), count).values[-1]
