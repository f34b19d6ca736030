"""Models of one graph ``segment`` with a fixed slot a modality: its features are the images themselves.

Such a network (Linear Fusion) lets its modalities meet in every block, so nothing can be computed for one of
them alone. Encoding only keeps the image; all the work is done when the live ones are fused, and its cost
does not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from anyseg_ros.engine.base import Features
from anyseg_ros.engine.model_card import ModelCard
from anyseg_ros.modality import Modality


def slot_features(
    images: npt.NDArray[np.uint8], modality_ids: npt.NDArray[np.int64]
) -> list[Features]:
    """Each of ``images`` uint8[K, H, W, 3] with the id that says where it belongs."""
    return [(image, np.asarray(i)) for image, i in zip(images, modality_ids, strict=True)]


def fill_slots(
    features: Sequence[Features], card: ModelCard
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """The segment graph's inputs: ``images`` uint8[M, H, W, 3], zero where absent, and ``present`` bool[M].

    Raises:
        ValueError: if two are of one modality, or one has no slot.
    """
    images = np.zeros((len(card.modalities), card.input_height, card.input_width, 3), np.uint8)
    present = np.zeros(len(card.modalities), bool)
    for image, modality_id in features:
        modality = Modality(int(modality_id))
        if modality not in card.modalities:
            raise ValueError(f"the model was not trained on {modality.label}")
        slot = card.modalities.index(modality)
        if present[slot]:
            raise ValueError(f"two images of {modality.label}: the model has one slot for it")
        images[slot], present[slot] = image, True
    return images, present
