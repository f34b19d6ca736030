"""Optimiser and learning-rate schedule, shared by the methods."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with a linear warm-up and polynomial decay, per step.

    Args:
        learning_rate: peak rate. The decay begins with the warm-up, so that slightly less is reached.
        weight_decay: of matrices and kernels; norms and biases have none.
        warmup_steps: length of the warm-up.
        warmup_start: share of the peak at step 0.
        decay_after_warmup: begin the decay at the end of the warm-up instead, as published.
        horizon: step at which the decay would reach 0; 0: the last one.
        power: of the decay.
        clip_norm: gradients are scaled down to this norm; 0 for no clipping.
        head_factor: the head's rate, as a multiple of the others'.
    """

    learning_rate: float = 6e-4
    weight_decay: float = 0.01
    warmup_steps: int = 500
    warmup_start: float = 0.1
    decay_after_warmup: bool = False
    horizon: int = 0
    power: float = 0.9
    clip_norm: float = 1.0
    head_factor: float = 1.0


def rate_factor(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """Share of the peak rate at ``step``.

    Linear from ``warmup_start`` to 1 over the warm-up; times ``(1 - step / horizon) ** power``, with both
    counted from the end of the warm-up if ``decay_after_warmup``.
    """
    start = config.warmup_steps if config.decay_after_warmup else 0
    horizon = config.horizon or total_steps
    past = min(max(step - start, 0) / max(horizon - start, 1), 1.0)
    decay = (1.0 - past) ** config.power
    if step >= config.warmup_steps:
        return float(decay)
    ramp = config.warmup_start + (1.0 - config.warmup_start) * step / config.warmup_steps
    return float(ramp * decay)


def make_optimizer(
    module: nn.Module, config: OptimizerConfig, total_steps: int, fused: bool = True
) -> tuple[torch.optim.AdamW, LambdaLR]:
    """AdamW over the parameters that require a gradient, and its schedule (one step a batch).

    Args:
        module: what is trained; the head is named ``network.head``.
        config: rates.
        total_steps: steps of the run.
        fused: one kernel for all parameters.
    """
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    head = {name for name, _ in trained if name.startswith("network.head.")}
    parts = [(1.0, trained)]
    if config.head_factor != 1.0:
        parts = [
            (1.0, [(name, p) for name, p in trained if name not in head]),
            (config.head_factor, [(name, p) for name, p in trained if name in head]),
        ]
    groups = []
    for factor, part in parts:
        common = {"lr": config.learning_rate * factor}
        matrices = [p for _, p in part if p.ndim > 1]
        vectors = [p for _, p in part if p.ndim <= 1]
        groups.append({**common, "params": matrices, "weight_decay": config.weight_decay})
        groups.append({**common, "params": vectors, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=fused)
    return optimizer, LambdaLR(optimizer, lambda step: rate_factor(step, total_steps, config))
