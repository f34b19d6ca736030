"""The engine protocol: encode modality images, fuse features to labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from anyseg_ros.engine.model_card import ModelCard

Features = tuple[Any, ...]
"""One modality image's features, for the engine that made them only. On a CPU arrays: feature maps, one a
stage, in the engine's own layout and precision, or the image and its modality's id (``slots.py``). On a GPU a
place in its memory."""


@dataclass(frozen=True)
class EngineOutput:
    """A segmentation in the network's input grid."""

    labels: npt.NDArray[np.uint8]
    """uint8[H, W], class ids"""
    confidence: npt.NDArray[np.uint8]
    """uint8[H, W], 255 times the largest softmax probability"""


class Engine(Protocol):
    """Runs one model. Not thread-safe: one caller at a time."""

    @property
    def card(self) -> ModelCard: ...

    @property
    def description(self) -> str:
        """What runs the model, for logs and diagnostics (``"ONNX Runtime 1.23, CPU, 2 threads"``)."""
        ...

    def encode(
        self, images: npt.NDArray[np.uint8], modality_ids: npt.NDArray[np.int64]
    ) -> list[Features]:
        """Encode ``images`` uint8[K, H, W, 3] of the given modalities int64[K] to K features."""
        ...

    def fuse(self, features: Sequence[Features]) -> EngineOutput:
        """Segment from the features of 1..M live streams; their order does not matter."""
        ...

    def segment(
        self, images: npt.NDArray[np.uint8], modality_ids: npt.NDArray[np.int64]
    ) -> EngineOutput:
        """``fuse(encode(...))``."""
        ...

    def close(self) -> None:
        """Release the model."""
        ...
