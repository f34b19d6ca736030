"""Fusion of modalities: the mean, plain or weighted, over those that are present in a sample."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_over_present(
    features: Tensor, sample_index: Tensor, samples: int, weights: Tensor | None = None
) -> Tensor:
    """Average the maps that belong to the same sample.

    Args:
        features: float ``[P, C, H, W]``, one map for each present (sample, modality) pair.
        sample_index: int64 ``[P]``, the sample each map belongs to, 0..samples-1.
        samples: number of samples; each must own at least one map, else its mean is NaN.
        weights: float ``[P]``, of each map in its sample's mean; all alike without.

    Returns:
        float ``[samples, C, H, W]``
    """
    if weights is None:
        counts = torch.bincount(sample_index, minlength=samples).to(features.dtype)
    else:
        weights = weights.to(features.dtype)
        counts = weights.new_zeros(samples).index_add(0, sample_index, weights)
        features = features * weights.view(-1, 1, 1, 1)
    total = features.new_zeros(samples, *features.shape[1:])
    if features.is_contiguous(memory_format=torch.channels_last):
        total = total.to(memory_format=torch.channels_last)
    total = total.index_add(0, sample_index, features)
    return total / counts.view(-1, 1, 1, 1)
