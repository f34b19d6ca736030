"""How DeLiVER's and MUSES' papers prepare their images, for results that can be set beside theirs.

After the public code of DeLiVER (arXiv 2303.01480), whose augmentation AnySeg's repository repeats byte for
byte. Two faults of it are not followed: the crop may begin one pixel late there and is padded by one row or
column then, and newer torchvision filters when it shrinks, where the published code did not; here
nothing is filtered.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from anyseg_ros.classes import IGNORE_ID
from anyseg_ros.modality import Modality
from training.data.street import DataSetError
from training.data.transforms import LABEL_PLANE, Planes

_LUMA = np.array([0.2989, 0.587, 0.114], np.float32)[:, None, None]
_CAMERA = slice(3 * Modality.CAMERA, 3 * Modality.CAMERA + 3)


@dataclass(frozen=True)
class PublishedAugment:
    """The training transforms, in their order; normalisation happens in the network.

    Args:
        crop_height: height of the crops in pixels.
        crop_width: width likewise.
        min_scale: smallest random scale.
        max_scale: largest.
        color: probability that the camera's brightness, contrast and saturation change.
        color_strength: each factor is uniform in 1 -+ this.
        flip: probability of a mirror image.
        blur: probability that the camera image is blurred, 3x3 with a standard deviation of 0.8.
    """

    crop_height: int = 1024
    crop_width: int = 1024
    min_scale: float = 0.5
    max_scale: float = 2.0
    color: float = 0.2
    color_strength: float = 0.5
    flip: float = 0.5
    blur: float = 0.2

    def apply(self, planes: Planes, rng: np.random.Generator) -> Planes:
        """uint8[PLANES, H, W] to uint8[PLANES, crop_height, crop_width]."""
        out = np.array(planes)
        if rng.random() < self.color:
            low, high = 1.0 - self.color_strength, 1.0 + self.color_strength
            out[_CAMERA] = change_color(out[_CAMERA], *rng.uniform(low, high, 3))
        if rng.random() < self.flip:
            out = out[:, :, ::-1]
        if rng.random() < self.blur:
            image = np.ascontiguousarray(out[_CAMERA].transpose(1, 2, 0))
            blurred = cv2.GaussianBlur(image, (3, 3), 0.8, borderType=cv2.BORDER_REFLECT_101)
            out = np.array(out)
            out[_CAMERA] = blurred.transpose(2, 0, 1)
        return self._resize_and_crop(np.ascontiguousarray(out), rng)

    def _resize_and_crop(self, planes: Planes, rng: np.random.Generator) -> Planes:
        height, width = planes.shape[1:]
        ratio = rng.uniform(self.min_scale, self.max_scale)
        target = (int(self.crop_height * ratio), int(4 * self.crop_width * ratio))
        factor = min(max(target) / max(height, width), min(target) / min(height, width))
        scaled = resize_planes(planes, int(height * factor + 0.5), int(width * factor + 0.5))
        top = int(rng.integers(0, max(scaled.shape[1] - self.crop_height, 0) + 1))
        left = int(rng.integers(0, max(scaled.shape[2] - self.crop_width, 0) + 1))
        part = scaled[:, top : top + self.crop_height, left : left + self.crop_width]
        out = np.zeros((len(planes), self.crop_height, self.crop_width), np.uint8)
        out[LABEL_PLANE] = IGNORE_ID
        out[:, : part.shape[1], : part.shape[2]] = part
        return out


def change_color(image: Planes, brightness: float, contrast: float, saturation: float) -> Planes:
    """The three changes in this order, each rounded down to bytes: RGB uint8[3, H, W]."""
    bright = _blend(image, np.float32(0.0), brightness)
    mean = np.floor((bright * _LUMA).sum(axis=0)).mean(dtype=np.float32)
    contrasted = _blend(bright, mean, contrast)
    gray = np.floor((contrasted * _LUMA).sum(axis=0, keepdims=True))
    return _blend(contrasted, gray, saturation)


def _blend(image: Planes, other: Any, share: float) -> Planes:
    mixed = np.float32(share) * image + np.float32(1.0 - share) * other
    return np.clip(mixed, 0, 255).astype(np.uint8)


def resize_image(image: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Bilinear, unfiltered: uint8[C, H, W] to uint8[C, height, width]."""
    values = torch.from_numpy(np.ascontiguousarray(image)).float()[None]
    out = F.interpolate(values, (height, width), mode="bilinear", align_corners=False)
    return out[0].round().to(torch.uint8).numpy()


def resize_nearest(image: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Nearest, the source pixel rounded down: uint8[C, H, W] to uint8[C, height, width]."""
    values = torch.from_numpy(np.ascontiguousarray(image)).float()[None]
    return F.interpolate(values, (height, width), mode="nearest")[0].to(torch.uint8).numpy()


def resize_planes(planes: Planes, height: int, width: int) -> Planes:
    """All images bilinearly, the label by its nearest pixel."""
    if planes.shape[1:] == (height, width):
        return planes
    images = resize_image(planes[:LABEL_PLANE], height, width)
    return np.concatenate([images, resize_nearest(planes[LABEL_PLANE:], height, width)])


def resize_for_validation(planes: Planes, shorter: int = 1024) -> Planes:
    """Shorter side to ``shorter``, then both up to multiples of 32; the label too, as published."""
    height, width = planes.shape[1:]
    factor = shorter / min(height, width)
    height, width = round(height * factor), round(width * factor)
    scaled = resize_planes(planes, height, width)
    return resize_planes(scaled, -(-height // 32) * 32, -(-width // 32) * 32)


def read_png(path: Path) -> npt.NDArray[np.uint8]:
    """An 8-bit picture as uint8[C, H, W], C = 1, 3 (RGB) or 4 (RGBA).

    Raises:
        DataSetError: if the file is missing, no picture, or has more than 8 bits.
    """
    if not path.is_file():
        raise DataSetError(f"no {path}")
    image: npt.NDArray[Any] | None = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise DataSetError(f"{path} is no readable image")
    if image.dtype != np.uint8:
        raise DataSetError(f"{path} has {image.dtype} pixels; expected 8-bit ones")
    if image.ndim == 2:
        return image[None]
    code = cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB
    return np.ascontiguousarray(cv2.cvtColor(image, code).transpose(2, 0, 1))


def three_channels(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The first three channels; a single one three times."""
    return np.repeat(image, 3, axis=0) if len(image) == 1 else image[:3]
