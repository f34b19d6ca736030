"""Pictures for engines: noise tells nothing of rounding, since a network is near a tie everywhere in it."""

import numpy as np

from anyseg_ros.engine import ModelCard

_BLOCK = 32


def areas(card: ModelCard, count: int) -> np.ndarray:
    """uint8[count, H, W, 3]: areas of random colours with edges between them, of the model's size."""
    shape = (count, card.input_height // _BLOCK, card.input_width // _BLOCK, 3)
    coarse = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return coarse.repeat(_BLOCK, axis=1).repeat(_BLOCK, axis=2)
