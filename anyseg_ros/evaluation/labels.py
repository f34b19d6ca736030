"""Ground truth for a recording: a label topic, or a folder of label images, found by stamp."""

from __future__ import annotations

import json
import re
from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from anyseg_ros.classes import IGNORE_ID
from anyseg_ros.decoding import MessageError, decode_labels, stamp_ns
from anyseg_ros.evaluation.bag import NS_PER_S, Bag, BagMessage
from anyseg_ros.evaluation.sources import SourceError
from anyseg_ros.modalities import Letterbox

LabelImage = npt.NDArray[np.uint8]
Load = Callable[[], LabelImage]

LABEL_TOLERANCE_S = 0.03
"""How far labels may lie from the stamp that they are wanted for."""
LABELS_NEAR_S = 5.0
"""How much later or earlier than a set the labels for it may have been recorded."""
_REASONS = 8


class LabelIndex:
    """Label images by stamp; kept as they are stored, decoded when asked for."""

    def __init__(self, found: Mapping[int, Load], tolerance_s: float = LABEL_TOLERANCE_S) -> None:
        """Index what loads a label image by stamp in nanoseconds."""
        self._stamps = sorted(found)
        self._load = dict(found)
        self._tolerance_ns = round(tolerance_s * NS_PER_S)
        self.found = len(found)
        """labels seen so far"""
        self.refused = 0
        """labels that are of no use"""
        self.reasons: Counter[str] = Counter()
        """why, the first few different ones"""

    def advance(self, log_time_ns: int) -> None:
        """Called before labels of a moment are asked for; see :class:`TopicLabels`."""

    def at(self, stamp: int, letterbox: Letterbox) -> LabelImage | None:
        """Labels nearest to a stamp on the letterbox's canvas, 255 around them; ``None`` if none is near.

        Labels that cannot be read, or are of another aspect ratio than the grid, are refused and
        counted, once each.
        """
        after = bisect_left(self._stamps, stamp)
        near = self._stamps[max(after - 1, 0) : after + 1]
        best = min(near, key=lambda s: abs(s - stamp), default=None)
        if best is None or abs(best - stamp) > self._tolerance_ns:
            return None
        try:
            return place_labels(self._load[best](), letterbox)
        except MessageError as error:
            self._refuse(str(error))
        except OSError as error:
            self._refuse(f"cannot be read: {error}")
        self._remove(best)
        return None

    def _remove(self, stamp: int) -> None:
        del self._load[stamp]
        del self._stamps[bisect_left(self._stamps, stamp)]

    def _refuse(self, reason: str) -> None:
        self.refused += 1
        if reason in self.reasons or len(self.reasons) < _REASONS:
            self.reasons[reason] += 1


class TopicLabels(LabelIndex):
    """Labels of a recording's topic, read along with the replay.

    Only those recorded within ``LABELS_NEAR_S`` of the present moment are kept, so that memory does
    not grow with the recording.
    """

    def __init__(self, bag: Bag, topic: str, tolerance_s: float = LABEL_TOLERANCE_S) -> None:
        super().__init__({}, tolerance_s)
        # The replay reads the same files on another thread.
        self._messages = bag.messages([topic], apart=True)
        self._next: BagMessage | None = next(self._messages, None)
        self._kept: deque[tuple[int, int, Load]] = deque()
        """(log time, stamp, what loads it), in order of log time"""

    def advance(self, log_time_ns: int) -> None:
        """Read up to a little after a log time; forget what was recorded long before it."""
        reach = round(LABELS_NEAR_S * NS_PER_S)
        while self._next is not None and self._next.log_time_ns <= log_time_ns + reach:
            self._take(self._next)
            self._next = next(self._messages, None)
        while self._kept and self._kept[0][0] < log_time_ns - reach:
            _, stamp, load = self._kept.popleft()
            # A later label of the same stamp may have taken its place.
            if self._load.get(stamp) is load:
                self._remove(stamp)

    def _take(self, recorded: BagMessage) -> None:
        self.found += 1
        try:
            message = recorded.decode()
            stamp = stamp_ns(message.header.stamp)
            load = _loader(message)
        except MessageError as error:
            self._refuse(str(error))
        except Exception as error:  # a damaged message may break the deserialiser in any way
            self._refuse(f"cannot be read: {type(error).__name__}: {error}"[:200])
        else:
            if stamp not in self._load:
                insort(self._stamps, stamp)
            self._load[stamp] = load
            self._kept.append((recorded.log_time_ns, stamp, load))


def _loader(message: Any) -> Load:
    """What decodes a label message; raw pictures are compressed until then."""
    if hasattr(message, "format"):
        return partial(decode_labels, message)
    fast = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    done, data = cv2.imencode(".png", decode_labels(message), fast)
    if not done:
        raise MessageError("data", "no pixel", "class ids")
    return partial(_decode, data)


def _read(path: Path) -> LabelImage:
    return _decode(np.frombuffer(path.read_bytes(), np.uint8))


def _decode(data: npt.NDArray[np.uint8]) -> LabelImage:
    labels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    if labels is None or labels.dtype != np.uint8 or labels.ndim != 2:
        raise MessageError("file", "no 8-bit picture of one channel", "class ids")
    return np.asarray(labels, np.uint8)


def place_labels(labels: LabelImage, letterbox: Letterbox) -> LabelImage:
    """Labels of the grid on the network's canvas; 255 outside the content.

    Raises:
        MessageError: if they are of another aspect ratio than the grid; stretched labels would lie
            beside what they are labels of.
    """
    height, width = labels.shape
    grid = (letterbox.source_width, letterbox.source_height)
    # As wide as high by the grid's measure, but for rounding to whole pixels.
    if abs(width * grid[1] - height * grid[0]) > max(grid):
        raise MessageError("size", f"{width}x{height}", f"the aspect ratio of {grid[0]}x{grid[1]}")
    size = (letterbox.content_width, letterbox.content_height)
    if (width, height) != size:
        scaled = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT)
        labels = np.asarray(scaled, np.uint8)
    if labels.shape == (letterbox.height, letterbox.width):
        return labels
    canvas = np.full((letterbox.height, letterbox.width), IGNORE_ID, np.uint8)
    canvas[letterbox.content] = labels
    return canvas


def labels_of_folder(folder: Path) -> LabelIndex:
    """Index a folder: ``<stamp in ns>.png``, or a drive with ``frames.jsonl`` and ``label/000000.png``.

    Raises:
        SourceError: if it is neither.
    """
    if (folder / "frames.jsonl").is_file():
        found: dict[int, Load] = {}
        for line in (folder / "frames.jsonl").read_text().splitlines():
            frame = json.loads(line)
            path = folder / "label" / f"{int(frame['index']):06d}.png"
            if path.is_file():
                found[int(frame["anchor_stamp_ns"])] = partial(_read, path)
    else:
        found = {
            int(path.stem): partial(_read, path)
            for path in sorted(folder.glob("*.png"))
            if re.fullmatch(r"\d{10,19}", path.stem)
        }
    if not found:
        raise SourceError(
            f"{folder} holds no labels; expected <stamp in nanoseconds>.png, or frames.jsonl with "
            "label/000000.png"
        )
    return LabelIndex(found)
