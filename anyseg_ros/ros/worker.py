"""Inference on a thread of its own, so that sensors are received while the network runs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from anyseg_ros.modalities import RigCalibration
from anyseg_ros.modality import Modality
from anyseg_ros.pipeline import NoUsableInputError, Pipeline, Segmentation, same_message
from anyseg_ros.sync import MatchedSet, StreamStatus

Statuses = Mapping[Modality, StreamStatus]
"""Of each stream at one moment."""
_JUDGED = 8
_UNDECIDED = 2
_USED_SHARE = 0.75


@dataclass
class WorkerCounters:
    """What became of the sets that were handed in."""

    overtaken: int = 0
    """Sets that a newer one replaced before the network was free."""
    unusable: int = 0
    failed: int = 0
    prepared: int = 0
    """Messages that were encoded before their set was complete."""


class UsePrediction:
    """Whether a stream's next message will be part of a set that is segmented: its last ones tell."""

    def __init__(self) -> None:
        self._stamps: deque[int] = deque(maxlen=_JUDGED + _UNDECIDED)
        self._used: set[int] = set()

    def note_message(self, stamp_ns: int) -> None:
        """A message arrived."""
        if stamp_ns not in self._stamps:
            self._stamps.append(stamp_ns)
            self._used &= set(self._stamps)

    def note_use(self, stamp_ns: int) -> None:
        """A set was segmented with it."""
        if stamp_ns in self._stamps:
            self._used.add(stamp_ns)

    @property
    def expects_use(self) -> bool:
        """Whether three quarters of the last eight were used; of the newest two nobody can know."""
        judged = list(self._stamps)[:-_UNDECIDED]
        return (
            len(judged) == _JUDGED and sum(s in self._used for s in judged) >= _USED_SHARE * _JUDGED
        )


@dataclass(frozen=True)
class _Early:
    """A message to be encoded before its set is complete."""

    message: Any
    stamp_ns: int
    epoch: int


class SegmentationWorker:
    """Segments the newest matched set; a set that waits is replaced by a newer one and counted.

    While there is none, it encodes what the next set will presumably contain; what comes in meanwhile is made
    into images on another thread.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        on_result: Callable[[MatchedSet, Segmentation, Statuses], None],
        on_error: Callable[[MatchedSet, Exception], None],
    ) -> None:
        """Start the thread.

        Args:
            on_result: called on the worker's thread with each result, and the statuses of its set.
            on_error: called on the worker's thread when a set could not be segmented.
        """
        self._pipeline = pipeline
        self._on_result = on_result
        self._on_error = on_error
        self._condition = threading.Condition()
        self._waiting: tuple[MatchedSet, Statuses] | None = None
        self._early: dict[Modality, _Early] = {}
        self._at: _Early | None = None
        self._predictions = {modality: UsePrediction() for modality in Modality}
        self._asked: dict[Modality, Any] = {}
        self._rig: RigCalibration | None = None
        self._reset = False
        self._closing = False
        self.counters = WorkerCounters()
        self._thread = threading.Thread(target=self._run, name="anyseg-segment", daemon=True)
        self._thread.start()

    def submit(self, matched: MatchedSet, statuses: Statuses) -> None:
        """Hand in a set and the streams' statuses as it was completed; returns at once."""
        with self._condition:
            if self._waiting is not None:
                self.counters.overtaken += 1
            self._waiting = matched, statuses
            current = self._rig is None and not self._reset
            for modality, member in matched.members.items():
                early = self._early.get(modality)
                if early is not None and early.stamp_ns <= member.stamp_ns:
                    del self._early[modality]
                # It is this set's turn next, unless one overtakes it within one encoding.
                at = self._at
                if current and at is not None and not same_message(at.message, member.message):
                    self._pipeline.start_building(
                        modality, member.message, member.stamp_ns, matched.epoch
                    )
            self._condition.notify()

    def prepare(self, modality: Modality, message: Any, stamp_ns: int, epoch: int) -> None:
        """Encode a message now, unless a set waits or such messages were of no use lately.

        Returns at once. Arguments as in :meth:`~anyseg_ros.pipeline.Pipeline.prepare`.
        """
        with self._condition:
            if self._asked.get(modality) == (epoch, stamp_ns):
                return
            self._asked[modality] = epoch, stamp_ns
            prediction = self._predictions[modality]
            prediction.note_message(stamp_ns)
            # What a set's thread has yet to be told of would make it useless.
            current = self._rig is None and not self._reset
            if prediction.expects_use and self._waiting is None and current:
                self._early[modality] = _Early(message, stamp_ns, epoch)
                if self._at is not None:
                    self._pipeline.start_building(modality, message, stamp_ns, epoch)
                self._condition.notify()

    def recalibrate(self, rig: RigCalibration) -> None:
        """Use another calibration from the next set on."""
        with self._condition:
            self._rig = rig
            self._early.clear()

    def reset(self) -> None:
        """Forget what belongs to another epoch of time before the next set."""
        with self._condition:
            self._reset = True
            self._waiting = None
            self._early.clear()

    def close(self) -> None:
        """Finish the set in work, drop the waiting one, end the thread."""
        with self._condition:
            self._closing = True
            self._waiting = None
            self._early.clear()
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._at = None
                while self._waiting is None and not self._early and not self._closing:
                    self._condition.wait()
                if self._closing:
                    return
                if self._waiting is None:
                    modality = next(iter(self._early))
                    early = self._at = self._early.pop(modality)
                    waiting = None
                else:
                    waiting, self._waiting = self._waiting, None
                    rig, self._rig = self._rig, None
                    reset, self._reset = self._reset, False
            if waiting is None:
                self._prepare(modality, early)
            else:
                self._segment(*waiting, rig, reset)

    def _segment(
        self,
        matched: MatchedSet,
        statuses: Statuses,
        rig: RigCalibration | None,
        reset: bool,
    ) -> None:
        try:
            if rig is not None:
                self._pipeline.recalibrate(rig)
            if reset:
                self._pipeline.reset()
            result = self._pipeline.segment(matched)
            with self._condition:
                for modality in result.used:
                    self._predictions[modality].note_use(matched.members[modality].stamp_ns)
            self._on_result(matched, result, statuses)
        except NoUsableInputError as error:
            self.counters.unusable += 1
            self._on_error(matched, error)
        except Exception as error:  # whatever an engine throws must not end the thread
            self.counters.failed += 1
            self._on_error(matched, error)

    def _prepare(self, modality: Modality, early: _Early) -> None:
        try:
            done = self._pipeline.prepare(modality, early.message, early.stamp_ns, early.epoch)
            self.counters.prepared += done
        except Exception:  # the set that it belongs to tries again, and reports it
            return
