"""The picture people look at: class colours over what the sensors show."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from anyseg_ros.classes import ClassSet
from anyseg_ros.modalities import SegmentationGrid
from anyseg_ros.modality import Modality
from anyseg_ros.pipeline import Segmentation


def draw_overlay(
    result: Segmentation, grid: SegmentationGrid, classes: ClassSet, alpha: float
) -> npt.NDArray[np.uint8]:
    """Class colours over the best picture there is: the camera's, else another sensor's in grey.

    Returns:
        uint8[H, W, 3], BGR, the size of the labels.
    """
    colours = cv2.cvtColor(classes.colorize(result.labels), cv2.COLOR_RGB2BGR)
    source = min(result.images)
    picture = result.images[source]
    if result.labels.shape != picture.shape[:2]:
        picture = grid.letterbox.restore(picture)
    if source is Modality.CAMERA:
        background = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    else:
        # The first and last channels are what the sensor says in every encoding; the one between
        # them may come from the grid alone.
        gray = np.maximum(picture[..., 0], picture[..., 2])
        background = cv2.cvtColor(gray, cv2.COLOR_GRAY2BGR)
    blended = cv2.addWeighted(colours, alpha, background, 1.0 - alpha, 0.0)
    return np.asarray(blended, np.uint8)
