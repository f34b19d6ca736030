"""Inference on a thread of its own, so that sensors are received while the network runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from anyseg_ros.modalities import RigCalibration
from anyseg_ros.pipeline import NoUsableInputError, Pipeline, Segmentation
from anyseg_ros.sync import MatchedSet


@dataclass
class WorkerCounters:
    """What became of the sets that were handed in."""

    segmented: int = 0
    overtaken: int = 0
    """Sets that a newer one replaced before the network was free."""
    unusable: int = 0
    failed: int = 0


class SegmentationWorker:
    """Segments the newest matched set; a set that waits is replaced by a newer one and counted."""

    def __init__(
        self,
        pipeline: Pipeline,
        on_result: Callable[[MatchedSet, Segmentation], None],
        on_error: Callable[[MatchedSet, Exception], None],
    ) -> None:
        """Start the thread.

        Args:
            on_result: called on the worker's thread with each result.
            on_error: called on the worker's thread when a set could not be segmented.
        """
        self._pipeline = pipeline
        self._on_result = on_result
        self._on_error = on_error
        self._condition = threading.Condition()
        self._waiting: MatchedSet | None = None
        self._rig: RigCalibration | None = None
        self._reset = False
        self._closing = False
        self.counters = WorkerCounters()
        self._thread = threading.Thread(target=self._run, name="anyseg-segment", daemon=True)
        self._thread.start()

    def submit(self, matched: MatchedSet) -> None:
        """Hand in a set; returns at once."""
        with self._condition:
            if self._waiting is not None:
                self.counters.overtaken += 1
            self._waiting = matched
            self._condition.notify()

    def recalibrate(self, rig: RigCalibration) -> None:
        """Use another calibration from the next set on."""
        with self._condition:
            self._rig = rig

    def reset(self) -> None:
        """Forget what belongs to another epoch of time before the next set."""
        with self._condition:
            self._reset = True
            self._waiting = None

    def close(self) -> None:
        """Finish the set in work, drop the waiting one, end the thread."""
        with self._condition:
            self._closing = True
            self._waiting = None
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                while self._waiting is None and not self._closing:
                    self._condition.wait()
                if self._closing:
                    return
                matched, self._waiting = self._waiting, None
                rig, self._rig = self._rig, None
                reset, self._reset = self._reset, False
            assert matched is not None
            try:
                if rig is not None:
                    self._pipeline.recalibrate(rig)
                if reset:
                    self._pipeline.reset()
                result = self._pipeline.segment(matched)
                self.counters.segmented += 1
                self._on_result(matched, result)
            except NoUsableInputError as error:
                self.counters.unusable += 1
                self._on_error(matched, error)
            except Exception as error:  # whatever an engine throws must not end the thread
                self.counters.failed += 1
                self._on_error(matched, error)
