"""The networks that a configuration can name."""

from __future__ import annotations

from training.models.linear_fusion import LinearFusionSegmentor
from training.models.segmentor import AnymodalSegmentor, SegmentorConfig

Network = AnymodalSegmentor | LinearFusionSegmentor
"""Both have ``predictions`` and ``predict_subsets``."""


def make_network(config: SegmentorConfig) -> Network:
    """The network that ``config`` describes, with random weights."""
    if config.linear_fusion is not None:
        return LinearFusionSegmentor(config)
    return AnymodalSegmentor(config)
