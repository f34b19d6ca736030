"""Random changes of a sample for training. Pure functions of the sample and a random generator."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from anyseg_ros.modality import MODALITIES, Modality

LABEL_PLANE = 3 * len(MODALITIES)
PLANES = LABEL_PLANE + 1
"""Planes of a sample uint8[PLANES, H, W]: three for each modality in order, then the label."""

Planes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class AugmentConfig:
    """How training samples are varied.

    Args:
        crop_height: height of a crop in pixels, a multiple of 32.
        crop_width: width likewise.
        min_scale: smallest zoom (below 1 the crop shows more than its own size).
        max_scale: largest zoom.
        flip: probability of a mirror image.
        color: strength of brightness, contrast and saturation changes of the camera image.
        empty_event: probability that the event image is empty, as over a still scene.
        thin_event: probability that only a random share of the event pixels is kept, as from a
            sensor with a higher contrast threshold.
    """

    crop_height: int = 128
    crop_width: int = 256
    min_scale: float = 0.6
    max_scale: float = 1.3
    flip: float = 0.5
    color: float = 0.2
    empty_event: float = 0.03
    thin_event: float = 0.3

    def apply(self, planes: Planes, rng: np.random.Generator) -> Planes:
        """See :func:`augment`."""
        return augment(planes, self, rng)


def random_crop(planes: Planes, config: AugmentConfig, rng: np.random.Generator) -> Planes:
    """Cut a random window of random scale; nearest for labels and sparse or metric images.

    Interpolation would invent depths and returns that no sensor measured; only the camera is filtered.
    """
    _, height, width = planes.shape
    smallest = max(config.crop_height / height, config.crop_width / width)
    scale = max(float(rng.uniform(config.min_scale, config.max_scale)), smallest)
    rows = min(height, round(config.crop_height / scale))
    columns = min(width, round(config.crop_width / scale))
    top = int(rng.integers(0, height - rows + 1))
    left = int(rng.integers(0, width - columns + 1))
    window = planes[:, top : top + rows, left : left + columns]
    if (rows, columns) == (config.crop_height, config.crop_width):
        return np.array(window)
    y = ((np.arange(config.crop_height) + 0.5) * rows / config.crop_height).astype(np.intp)
    x = ((np.arange(config.crop_width) + 0.5) * columns / config.crop_width).astype(np.intp)
    out = np.array(window)[:, y[:, None], x]
    camera = _planes_of(Modality.CAMERA)
    image = np.ascontiguousarray(window[camera].transpose(1, 2, 0))
    shrinks = rows > config.crop_height
    resized = cv2.resize(
        image,
        (config.crop_width, config.crop_height),
        interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
    )
    out[camera] = resized.transpose(2, 0, 1)
    return out


def random_flip(planes: Planes, config: AugmentConfig, rng: np.random.Generator) -> Planes:
    """Mirror left and right."""
    return planes[:, :, ::-1] if rng.random() < config.flip else planes


def random_color(image: Planes, config: AugmentConfig, rng: np.random.Generator) -> Planes:
    """Change brightness, contrast and saturation of a camera image uint8[3, H, W]."""
    if config.color <= 0:
        return image
    brightness, contrast, saturation = 1.0 + rng.uniform(-config.color, config.color, 3)
    x = image.astype(np.float32)
    gray = x.mean(axis=0, keepdims=True)
    x = gray + (x - gray) * np.float32(saturation)
    mean = np.float32(gray.mean())
    x = (mean + (x - mean) * np.float32(contrast)) * np.float32(brightness)
    return np.clip(x, 0, 255).astype(np.uint8)


def augment(planes: Planes, config: AugmentConfig, rng: np.random.Generator) -> Planes:
    """All of the above: uint8[PLANES, H, W] -> uint8[PLANES, crop_height, crop_width], contiguous."""
    out = np.ascontiguousarray(random_flip(random_crop(planes, config, rng), config, rng))
    camera = _planes_of(Modality.CAMERA)
    out[camera] = random_color(out[camera], config, rng)
    # Brighter and darker; the plane between them is no count.
    counts = slice(3 * Modality.EVENT, 3 * Modality.EVENT + 3, 2)
    if rng.random() < config.thin_event:
        out[counts] *= rng.random(out.shape[1:]) < rng.uniform(0.1, 1.0)
    if rng.random() < config.empty_event:
        out[counts] = 0
    return out


def _planes_of(modality: Modality) -> slice:
    return slice(3 * modality, 3 * modality + 3)
