"""What the engines that load a model folder's graphs have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from anyseg_ros.engine.base import EngineOutput, Features
from anyseg_ros.engine.model_card import ModelCard


class GraphEngine(ABC):
    """An :class:`~anyseg_ros.engine.base.Engine`; subclasses load and run the graphs."""

    _card: ModelCard
    _description: str

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self._card

    @property
    def description(self) -> str:
        """What runs the model."""
        return self._description

    def encode(
        self, images: npt.NDArray[np.uint8], modality_ids: npt.NDArray[np.int64]
    ) -> list[Features]:
        """Encode ``images`` uint8[K, H, W, 3] of the modalities int64[K]; K may be 0."""
        return self._encode_images(images, modality_ids) if len(images) else []

    def fuse(self, features: Sequence[Features]) -> EngineOutput:
        """Segment from the features of 1..M live streams.

        Raises:
            ValueError: if there are none.
        """
        if not features:
            raise ValueError("nothing to fuse: at least one modality's features are needed")
        return self._fuse_features(features)

    def segment(
        self, images: npt.NDArray[np.uint8], modality_ids: npt.NDArray[np.int64]
    ) -> EngineOutput:
        """``fuse(encode(...))``."""
        return self.fuse(self.encode(images, modality_ids))

    @abstractmethod
    def close(self) -> None:
        """Release the model."""

    @abstractmethod
    def _encode_images(
        self, images: npt.NDArray[np.uint8], modality_ids: npt.NDArray[np.int64]
    ) -> list[Features]: ...

    @abstractmethod
    def _fuse_features(self, features: Sequence[Features]) -> EngineOutput: ...
