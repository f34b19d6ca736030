"""Ground truth for a recording: a label topic, or a folder of label images, found by stamp."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from anyseg_ros.classes import IGNORE_ID
from anyseg_ros.decoding import MessageError, decode_labels, stamp_ns
from anyseg_ros.evaluation.bag import Bag
from anyseg_ros.evaluation.sources import SourceError
from anyseg_ros.modalities import Letterbox

LabelImage = npt.NDArray[np.uint8]


class LabelIndex:
    """Label images by stamp; kept compressed, decoded when asked for."""

    def __init__(self, encoded: Mapping[int, bytes | Path], tolerance_s: float = 0.03) -> None:
        """Index PNG data or paths by stamp in nanoseconds."""
        self._stamps = sorted(encoded)
        self._encoded = dict(encoded)
        self._tolerance_ns = round(tolerance_s * 1e9)
        self.refused: list[str] = []

    def __len__(self) -> int:
        return len(self._stamps)

    def at(self, stamp: int, letterbox: Letterbox) -> LabelImage | None:
        """Labels nearest to a stamp on the letterbox's canvas, 255 around them; ``None`` if none is near."""
        after = bisect_left(self._stamps, stamp)
        near = self._stamps[max(after - 1, 0) : after + 1]
        best = min(near, key=lambda s: abs(s - stamp), default=None)
        if best is None or abs(best - stamp) > self._tolerance_ns:
            return None
        labels = self._read(best)
        if labels is None:
            return None
        return place_labels(labels, letterbox)

    def _read(self, stamp: int) -> LabelImage | None:
        entry = self._encoded[stamp]
        data = np.frombuffer(entry if isinstance(entry, bytes) else entry.read_bytes(), np.uint8)
        labels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
        if labels is None or labels.dtype != np.uint8 or labels.ndim != 2:
            self.refused.append(f"labels at {stamp} ns are no 8-bit picture of one channel")
            return None
        return np.asarray(labels, np.uint8)


def place_labels(labels: LabelImage, letterbox: Letterbox) -> LabelImage:
    """Labels of the grid's aspect ratio on the network's canvas; 255 outside the content."""
    size = (letterbox.content_width, letterbox.content_height)
    if labels.shape[1::-1] != size:
        scaled = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT)
        labels = np.asarray(scaled, np.uint8)
    if labels.shape == (letterbox.height, letterbox.width):
        return labels
    canvas = np.full((letterbox.height, letterbox.width), IGNORE_ID, np.uint8)
    canvas[letterbox.content] = labels
    return canvas


def labels_of_topic(bag: Bag, topic: str) -> LabelIndex:
    """Index a recording's label topic; a message that cannot be decoded costs itself."""
    found: dict[int, bytes | Path] = {}
    refused = []
    for recorded in bag.messages([topic]):
        try:
            message = recorded.decode()
            stamp = stamp_ns(message.header.stamp)
            if hasattr(message, "format"):
                found[stamp] = bytes(memoryview(message.data))
            else:
                found[stamp] = cv2.imencode(".png", decode_labels(message))[1].tobytes()
        except MessageError as error:
            refused.append(f"{topic}: {error}")
        except Exception as error:
            refused.append(f"{topic}: {error!r}")
    index = LabelIndex(found)
    index.refused += refused
    return index


def labels_of_folder(folder: Path) -> LabelIndex:
    """Index a folder: ``<stamp in ns>.png``, or a drive with ``frames.jsonl`` and ``label/000000.png``.

    Raises:
        SourceError: if it is neither.
    """
    if (folder / "frames.jsonl").is_file():
        found: dict[int, bytes | Path] = {}
        for line in (folder / "frames.jsonl").read_text().splitlines():
            frame = json.loads(line)
            path = folder / "label" / f"{int(frame['index']):06d}.png"
            if path.is_file():
                found[int(frame["anchor_stamp_ns"])] = path
    else:
        found = {
            int(path.stem): path
            for path in sorted(folder.glob("*.png"))
            if re.fullmatch(r"\d{10,19}", path.stem)
        }
    if not found:
        raise SourceError(
            f"{folder} holds no labels; expected <stamp in nanoseconds>.png, or frames.jsonl with "
            "label/000000.png"
        )
    return LabelIndex(found)
