"""The worker's thread: the newest set first, and what the next one will contain while there is none."""

import threading
import time

import numpy as np
import pytest
from test_pipeline import CountingEngine, gray, matched, packet, rig

from anyseg_ros.engine import load_engine
from anyseg_ros.modalities import DepthFrame, ModalityError
from anyseg_ros.modality import MODALITIES
from anyseg_ros.pipeline import Pipeline
from anyseg_ros.ros.worker import SegmentationWorker, UsePrediction
from anyseg_ros.sync import StreamState, StreamStatus

CAMERA, DEPTH, EVENT, _ = MODALITIES


def far():
    return DepthFrame(np.full((64, 128), 5.0, np.float32))


def test_a_stream_is_expected_to_be_used_while_its_messages_are():
    prediction = UsePrediction()
    for stamp in range(40):
        prediction.note_message(stamp)
        prediction.note_message(stamp)
        if stamp < 20:
            prediction.note_use(stamp)
        # Ten messages tell, of which the newest two are not judged; three unused ones end it.
        assert prediction.expects_use is (9 <= stamp < 24), stamp


class GatedEngine(CountingEngine):
    """Waits at each encoding until it is let through."""

    def __init__(self, engine):
        super().__init__(engine)
        self.gate = threading.Semaphore(0)
        self.busy = threading.Event()

    def encode(self, images, modality_ids):
        self.busy.set()
        assert self.gate.acquire(timeout=20)
        return super().encode(images, modality_ids)


@pytest.fixture
def worker(tiny_model):
    engine = GatedEngine(load_engine(tiny_model, threads=1))
    results, errors, statuses = [], [], []
    found = SegmentationWorker(
        Pipeline(engine, rig(CAMERA, DEPTH)),
        lambda _, result, told: (statuses.append(told), results.append(result)),
        lambda _, error: errors.append(error),
    )
    found.engine, found.results, found.errors = engine, results, errors
    found.statuses = statuses
    yield found
    engine.gate.release(1000)
    found.close()
    assert not errors


def statuses_at(stamp):
    """The camera's, as its message of this stamp is the newest."""
    return {CAMERA: StreamStatus(StreamState.LIVE, "", 0.0, 10.0, stamp, 0, stamp)}


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def segment_both(worker, stamps):
    """Sets of camera and depth, each announced before as the node does."""
    for stamp in stamps:
        count = len(worker.results)
        worker.prepare(DEPTH, far(), stamp, 0)
        worker.engine.gate.release(2)
        worker.submit(matched(stamp, camera=(stamp, gray(stamp % 250)), depth=(stamp, far())), {})
        until(lambda count=count: len(worker.results) > count)


def drain(worker):
    while worker.engine.gate.acquire(blocking=False):
        pass
    worker.engine.encoded.clear()
    worker.engine.busy.clear()


def test_what_was_of_use_is_encoded_before_its_set_is_complete(worker):
    worker.prepare(DEPTH, far(), 1, 0)
    segment_both(worker, range(2, 12))
    drain(worker)
    message = far()
    worker.prepare(DEPTH, message, 20, 0)
    worker.prepare(DEPTH, message, 20, 0)  # as with each packet while its set is open
    worker.engine.gate.release()
    until(lambda: worker.engine.encoded == [["depth"]])
    worker.engine.gate.release()
    count = len(worker.results)
    worker.submit(matched(21, camera=(21, gray(21)), depth=(20, message)), {})
    until(lambda: len(worker.results) > count)
    assert worker.engine.encoded == [["depth"], ["camera"]]
    assert worker.results[-1].used == (CAMERA, DEPTH)
    assert worker.results[-1].timings.early_s > 0


def test_a_set_goes_first_and_takes_its_members_along(worker):
    segment_both(worker, range(2, 14))
    drain(worker)
    worker.prepare(DEPTH, far(), 20, 0)
    until(worker.engine.busy.is_set)  # at the gate with 20
    worker.prepare(CAMERA, gray(1), 21, 0)  # never used before: not even tried
    worker.prepare(DEPTH, far(), 30, 0)
    count = len(worker.results)
    worker.submit(matched(31, camera=(31, gray(31)), depth=(30, far())), {})
    worker.engine.gate.release(3)
    until(lambda: len(worker.results) > count)
    assert worker.engine.encoded == [["depth"], ["camera", "depth"]]
    time.sleep(0.05)
    assert len(worker.engine.encoded) == 2, "30 went with its set"


def test_images_of_a_set_are_built_while_one_of_its_members_is_encoded(worker):
    segment_both(worker, range(2, 14))
    drain(worker)
    built = threading.Event()

    def camera():
        built.set()
        return gray(21)

    message = far()
    worker.prepare(DEPTH, message, 20, 0)
    until(worker.engine.busy.is_set)
    count = len(worker.results)
    worker.submit(matched(21, camera=(21, camera), depth=(20, message)), {})
    assert built.wait(20), "while the depth image is at the gate"
    assert worker.engine.encoded == []
    worker.engine.gate.release(2)
    until(lambda: len(worker.results) > count)
    assert worker.engine.encoded == [["depth"], ["camera"]]
    # While a whole set is in work nobody knows whether the next will be overtaken: nothing is begun.
    built.clear()
    worker.engine.busy.clear()
    worker.submit(matched(31, camera=(31, gray(31)), depth=(30, far())), {})
    until(worker.engine.busy.is_set)
    worker.submit(matched(41, camera=(41, camera), depth=(40, far())), {})
    assert not built.wait(0.1)
    worker.engine.gate.release(2)
    until(lambda: len(worker.results) == count + 3)


def test_packets_that_are_being_encoded_are_not_built_again(tiny_model):
    engine = GatedEngine(load_engine(tiny_model, threads=1))
    pipeline = Pipeline(engine, rig(CAMERA, EVENT))
    begun, results = [], []
    start = pipeline.start_building
    pipeline.start_building = lambda modality, *rest: (
        begun.append(modality),
        start(modality, *rest),
    )
    worker = SegmentationWorker(pipeline, lambda _, result, __: results.append(result), print)
    worker.engine, worker.results = engine, results
    packets = packet(5), packet(6)
    for stamp in range(2, 14):
        worker.prepare(EVENT, packets, stamp, 0)
        engine.gate.release(2)
        count = len(results)
        worker.submit(matched(stamp, camera=(stamp, gray(1)), event=(stamp, packets)), {})
        until(lambda count=count: len(results) > count)
    drain(worker)
    begun.clear()
    worker.prepare(EVENT, packets, 20, 0)
    until(engine.busy.is_set)
    worker.submit(matched(20, camera=(20, gray(1)), event=(20, (packets[0], packets[1]))), {})
    assert begun == [CAMERA]
    engine.gate.release(9)
    worker.close()
    assert results[-1].used == (CAMERA, EVENT)


def test_what_belongs_to_another_time_is_forgotten(worker):
    segment_both(worker, range(2, 14))
    drain(worker)
    worker.reset()
    worker.prepare(DEPTH, far(), 20, 1)
    time.sleep(0.1)
    assert not worker.engine.busy.is_set(), "nothing ahead of the first set of a new epoch"
    worker.engine.gate.release(9)
    count = len(worker.results)
    worker.submit(matched(21, epoch=1, camera=(21, gray(21)), depth=(20, far())), {})
    until(lambda: len(worker.results) > count)
    assert worker.engine.encoded == [["camera", "depth"]]


def test_a_message_that_cannot_be_encoded_is_left_to_its_set(worker):
    segment_both(worker, range(2, 14))
    drain(worker)
    tried = threading.Event()

    def broken():
        tried.set()
        raise ModalityError("cut short")

    before, count = worker.counters.prepared, len(worker.results)
    worker.prepare(DEPTH, broken, 20, 0)
    assert tried.wait(20)
    worker.engine.gate.release(9)
    worker.submit(matched(21, camera=(21, gray(21)), depth=(20, broken)), {})
    until(lambda: len(worker.results) > count)
    assert worker.results[-1].used == (CAMERA,)
    assert worker.results[-1].skipped == {DEPTH: "cut short"}
    assert worker.counters.prepared == before


def test_what_was_encoded_is_of_the_message_itself_not_of_its_stamp(worker):
    segment_both(worker, range(2, 14))
    drain(worker)
    before, count = worker.counters.prepared, len(worker.results)
    worker.engine.gate.release(9)
    worker.prepare(DEPTH, far(), 20, 0)
    until(lambda: worker.counters.prepared > before)
    near = DepthFrame(np.full((64, 128), 1.0, np.float32))
    worker.submit(matched(21, camera=(21, gray(21)), depth=(20, near)), {})
    until(lambda: len(worker.results) > count)
    assert worker.engine.encoded == [["depth"], ["camera", "depth"]]


def test_a_set_that_waits_gives_way_to_a_newer_one_and_is_counted(worker):
    for stamp in range(1, 51):
        worker.submit(matched(stamp, camera=(stamp, gray(stamp))), statuses_at(stamp))
        until(worker.engine.busy.is_set)  # at the gate with 1
    worker.engine.gate.release(9)
    until(lambda: len(worker.results) == 2)
    assert [result.stamp_ns for result in worker.results] == [1, 50]
    assert worker.statuses == [statuses_at(1), statuses_at(50)]
    assert worker.counters.overtaken == 48


def test_a_set_of_another_time_is_not_segmented_after_a_reset(worker):
    worker.submit(matched(1, camera=(1, gray(1))), {})
    until(worker.engine.busy.is_set)
    worker.submit(matched(9_000, camera=(9_000, gray(2))), {})
    worker.reset()
    worker.engine.gate.release(9)
    until(lambda: len(worker.results) == 1)
    worker.submit(matched(5, epoch=1, camera=(5, gray(3))), {})
    until(lambda: len(worker.results) == 2)
    assert [result.stamp_ns for result in worker.results] == [1, 5]


def test_another_calibration_holds_from_the_next_set_on(worker):
    worker.engine.gate.release(9)
    both = {"camera": (1, gray(1)), "depth": (1, far())}
    worker.recalibrate(rig(CAMERA))
    worker.submit(matched(1, **both), {})
    until(lambda: len(worker.results) == 1)
    worker.recalibrate(rig(CAMERA, DEPTH))
    worker.submit(matched(2, **both), {})
    until(lambda: len(worker.results) == 2)
    assert [result.used for result in worker.results] == [(CAMERA,), (CAMERA, DEPTH)]


def test_sets_without_a_usable_member_are_told_from_an_engine_that_fails(tiny_model):
    class FailingEngine(CountingEngine):
        def encode(self, images, modality_ids):
            raise RuntimeError("out of memory")

    errors = []
    worker = SegmentationWorker(
        Pipeline(FailingEngine(load_engine(tiny_model, threads=1)), rig(CAMERA)),
        lambda *_: None,
        lambda _, error: errors.append(error),
    )
    worker.submit(matched(1, depth=(1, far())), {})
    until(lambda: len(errors) == 1)
    worker.submit(matched(2, camera=(2, gray(1))), {})
    until(lambda: len(errors) == 2)
    worker.close()
    assert (worker.counters.unusable, worker.counters.failed) == (1, 1)
    assert "no calibration for depth" in str(errors[0]) and str(errors[1]) == "out of memory"


def test_what_is_remembered_of_use_is_bounded():
    prediction = UsePrediction()
    for stamp in range(1000):
        prediction.note_use(stamp)
    assert not prediction._used
