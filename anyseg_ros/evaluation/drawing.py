"""Pictures and figures that reports share: sensor data as people see it, SVG and data URLs."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import cv2
import matplotlib
import numpy as np
import numpy.typing as npt
from jinja2 import Environment, StrictUndefined

from anyseg_ros.classes import ClassSet
from anyseg_ros.modality import Modality

Picture = npt.NDArray[np.uint8]

SENSOR_COLORS = {
    Modality.CAMERA: "#2563eb",
    Modality.DEPTH: "#059669",
    Modality.EVENT: "#d97706",
    Modality.LIDAR: "#7c3aed",
}


def depict(modality: Modality, image: Picture) -> npt.NDArray:
    """A modality image uint8[H, W, 3] as a person would want to see it, RGB."""
    if modality is Modality.CAMERA:
        return image
    if modality is Modality.EVENT:
        shown = np.full_like(image, 255)
        strongest = image[..., [0, 2]].max(-1)
        brighter = image[..., 0] >= image[..., 2]
        for mask, color in ((brighter, (220, 38, 38)), (~brighter, (29, 78, 216))):
            shown[mask & (strongest > 20)] = color
        return shown
    near = cv2.cvtColor(cv2.applyColorMap(image[..., 0], cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    near[image[..., 0] == 0] = 24
    return near


def overlay(labels: Picture, picture: Picture | None, classes: ClassSet) -> npt.NDArray:
    """Class colours, over a picture where there is one."""
    colors = classes.colorize(labels)
    return colors if picture is None else cv2.addWeighted(colors, 0.65, picture, 0.35, 0.0)


def blank(width: int, height: int) -> Picture:
    """What a silent sensor looks like: grey, crossed out."""
    picture = np.full((height, width, 3), 226, np.uint8)
    for begin, end in (((0, 0), (width, height)), ((0, height), (width, 0))):
        cv2.line(picture, begin, end, (203, 203, 208), 1, cv2.LINE_AA)
    text, font, scale = "no signal", cv2.FONT_HERSHEY_SIMPLEX, height / 240
    (w, h), _ = cv2.getTextSize(text, font, scale, 1)
    spot = ((width - w) // 2, (height + h) // 2)
    cv2.putText(picture, text, spot, font, scale, (120, 120, 130), 1, cv2.LINE_AA)
    return picture


def svg_text(figure: Any) -> str:
    """A figure as an SVG element."""
    buffer = io.StringIO()
    # Text stays text: small, searchable, and the same on every machine.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "anyseg"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def data_url(picture: npt.NDArray, quality: int = 84) -> str:
    """An RGB picture as a JPEG data URL."""
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    assert done
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def number(value: float | None, digits: int = 0, unit: str = "") -> str:
    """A number for people; a dash where it is not known."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}{unit}"


def environment() -> Environment:
    """For page templates: everything is escaped, an unknown name is an error, ``number`` is a filter."""
    made = Environment(autoescape=True, undefined=StrictUndefined)
    made.filters["number"] = number
    return made
