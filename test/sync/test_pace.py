"""A stream that becomes slow or late does not drag the output; one that is back leads again."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyseg_ros.sync import Impairment, StreamConfig, StreamState, Synchronizer

MS = 1_000_000


def config(rate=None, windowed=False):
    return StreamConfig(0.5, 0.06, 0.25, rate, windowed=windowed)


def play(messages, configs=None, priority=("camera", "lidar")):
    """Sets with their time of release; messages are (receipt ms, key, stamp ms)."""
    sync = Synchronizer(configs or {key: config() for key in priority}, list(priority), 0.05)
    out = []
    for receipt, key, stamp in sorted(messages):
        while (due := sync.next_deadline_ns()) is not None and due < receipt * MS:
            due = max(due, out[-1][0] + 1 if out else due)
            if due >= receipt * MS:
                break
            before = len(out)
            out += [(due, s) for s in sync.poll(due)]
            if len(out) == before and sync.next_deadline_ns() == due:
                break
        out += [(receipt * MS, s) for s in sync.add(key, stamp * MS, None, receipt * MS)]
    return sync, out


def every(period, start, end, key, delay=5):
    return [(t + delay, key, t) for t in range(start, end, period)]


def outputs(sets, start, end):
    return [s for _, s in sets if start * MS <= s.stamp_ns < end * MS]


@pytest.mark.parametrize("rate", [None, 10.0])
def test_an_anchor_at_a_quarter_of_its_rate_does_not_drag_the_output(rate):
    messages = (
        every(100, 0, 5000, "camera")
        + every(400, 5000, 15000, "camera")
        + every(100, 15000, 20000, "camera")
        + every(100, 20, 20000, "lidar")
    )
    sync, sets = play(messages, {"camera": config(rate), "lidar": config()})
    assert len(outputs(sets, 1000, 5000)) == 40
    # Three intervals of 0.4 s show it.
    assert len(outputs(sets, 6300, 15000)) == pytest.approx(87, abs=1)
    assert {s.anchor for s in outputs(sets, 6300, 14900)} == {"lidar"}
    used = [("camera" in s.members) for s in outputs(sets, 6300, 15000)]
    assert 0.4 < sum(used) / len(used) < 0.9, "what it sends is used while it is fresh"
    # As many at the usual rate release it.
    assert {s.anchor for s in outputs(sets, 15500, 20000)} == {"camera"}
    assert sync.status(20_000 * MS)["camera"].impairment is Impairment.NONE


def test_the_status_says_how_slow():
    messages = every(100, 0, 5000, "camera") + every(400, 5000, 9000, "camera")
    sync, _ = play(messages + every(100, 20, 9000, "lidar"))
    status = sync.status(8700 * MS)["camera"]
    assert (status.state, status.impairment) == (StreamState.LIVE, Impairment.SLOW)
    assert status.detail == "slow: a message every 0.400 s, usually 0.100 s"
    assert sync.anchor == "lidar"
    sync.reset()
    assert sync.status(0)["camera"].impairment is Impairment.NONE


def test_a_slow_anchor_stays_if_nobody_is_faster():
    messages = every(33, 0, 4000, "camera") + every(132, 4000, 9000, "camera")
    sync, _ = play(messages + every(200, 20, 9000, "lidar"))
    assert sync.status(8900 * MS)["camera"].impairment is Impairment.SLOW
    assert sync.anchor == "camera"


def test_a_slow_lone_stream_goes_on():
    sync, sets = play(every(100, 0, 4000, "camera") + every(400, 4000, 9000, "camera"))
    assert sync.anchor == "camera"
    assert len(outputs(sets, 4000, 9000)) == 13


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_lost_messages_are_no_slow_stream(seed):
    import random

    draw = random.Random(seed)
    camera = [m for m in every(100, 0, 20000, "camera") if draw.random() > 0.1]
    _, sets = play(camera + every(100, 20, 20000, "lidar"))
    anchors = [s.anchor for s in outputs(sets, 2000, 20000)]
    assert anchors.count("camera") > 0.85 * len(anchors)


def test_a_quiet_event_camera_that_sends_full_packets_is_not_slow():
    configs = {"event": config(windowed=True), "lidar": config()}
    messages = every(10, 0, 3000, "event") + every(200, 3000, 8000, "event")
    sync, _ = play(messages + every(100, 20, 8000, "lidar"), configs, ("event", "lidar"))
    assert sync.status(7900 * MS)["event"].impairment is Impairment.NONE
    assert sync.anchor == "event"


def test_a_fast_stream_is_named_and_used():
    messages = every(100, 0, 5000, "camera") + every(20, 5000, 8000, "camera")
    sync, _ = play(messages + every(100, 20, 8000, "lidar"))
    assert sync.status(7900 * MS)["camera"].impairment is Impairment.FAST
    assert sync.anchor == "camera"


def test_a_slow_start_is_forgotten_in_time():
    messages = every(400, 0, 10000, "camera") + every(100, 10000, 50000, "camera")
    sync, _ = play(messages)
    assert sync.status(49_950 * MS)["camera"].impairment is Impairment.NONE


def test_what_is_expected_is_usual_for_good():
    """Unlike a rate that was learned, which a slow start may have made too low."""
    sync, _ = play(every(20, 0, 40_000, "camera"), {"camera": config(10.0)}, ("camera",))
    assert sync.status(39_990 * MS)["camera"].impairment is Impairment.FAST


def test_nearly_the_usual_rate_is_usual_again():
    messages = every(100, 0, 5000, "camera") + every(400, 5000, 9000, "camera")
    messages += every(150, 9000, 12_000, "camera") + every(100, 20, 12_000, "lidar")
    sync, _ = play(messages)
    assert sync.status(11_990 * MS)["camera"].impairment is Impairment.NONE
    assert sync.anchor == "camera"


def test_an_anchor_that_becomes_late_by_300_ms_does_not_delay_the_output():
    messages = (
        every(100, 0, 5000, "camera")
        + every(100, 5000, 10000, "camera", delay=305)
        + every(100, 10000, 15000, "camera")
        + every(100, 20, 15000, "lidar")
    )
    _, sets = play(messages)
    late = [(t - s.stamp_ns) / MS for t, s in sets if 5700 * MS <= s.stamp_ns < 10000 * MS]
    assert max(late) <= 60
    assert {s.anchor for s in outputs(sets, 5700, 9900)} == {"lidar"}
    assert {s.anchor for s in outputs(sets, 10400, 15000)} == {"camera"}


def test_a_camera_that_was_always_late_leads():
    messages = every(100, 0, 8000, "camera", delay=400) + every(100, 20, 8000, "lidar")
    _, sets = play(messages)
    assert {s.anchor for s in outputs(sets, 2000, 7000)} == {"camera"}


@pytest.mark.parametrize("others", [(), ("depth",)])
def test_who_never_changed_is_not_late_because_another_has_become_punctual(others):
    messages = (
        every(33, 0, 40000, "camera", 20)
        + every(100, 20, 2000, "lidar", 300)  # a slow start
        + every(100, 2020, 40000, "lidar", 20)
    )
    for key in others:
        messages += every(33, 10, 40000, key, 25)
    sync, sets = play(messages, priority=("camera", *others, "lidar"))
    status = sync.status(39_990 * MS)
    assert status["camera"].impairment is Impairment.NONE
    assert sync.anchor == "camera"
    assert len(outputs(sets, 30000, 39000)) == pytest.approx(9000 / 33, abs=2)


def test_who_is_late_is_late_after_the_hosts_clock_was_set_back():
    """By 0.2 s, which stamps that the host gives follow."""
    messages = (
        every(100, 0, 5000, "camera", 250)
        + every(100, 5000, 12000, "camera", 50)
        + every(100, 12000, 20000, "camera", 400)
        + every(100, 20, 5000, "lidar", 250)
        + every(100, 5020, 20000, "lidar", 50)
    )
    sync, sets = play(messages)
    assert sync.status(19_950 * MS)["camera"].impairment is Impairment.LATE
    assert {s.anchor for s in outputs(sets, 14000, 19000)} == {"lidar"}


def test_who_was_late_and_is_as_it_was_leads_again():
    messages = (
        every(100, 0, 5000, "camera", 20)
        + every(100, 5000, 10000, "camera", 350)
        + every(100, 10000, 20000, "camera", 20)
        + every(100, 20, 20000, "lidar")
    )
    _, sets = play(messages)
    assert {s.anchor for s in outputs(sets, 6500, 9500)} == {"lidar"}
    assert {s.anchor for s in outputs(sets, 12000, 19000)} == {"camera"}


def test_late_is_named():
    messages = every(100, 0, 5000, "camera") + every(100, 5000, 8000, "camera", delay=305)
    sync, _ = play(messages + every(100, 20, 8000, "lidar"))
    status = sync.status(8000 * MS)["camera"]
    assert (status.state, status.impairment) == (StreamState.LIVE, Impairment.LATE)
    assert status.detail == (
        "late: 0.30 s later than usual; "
        "in none of the last 25 sets: its newest message was 0.32 s older than the set"
    )
    assert status.clock_apart_s is None
    messages += every(100, 8000, 9000, "camera", delay=305)
    sync, _ = play(messages + every(100, 20, 9300, "lidar"))
    lidar = sync.status(9300 * MS)["lidar"]
    assert sync.anchor == "lidar" and (lidar.detail, lidar.clock_apart_s) == ("", None)
    for delay, impairment in ((225, Impairment.LATE), (185, Impairment.NONE)):
        messages = every(100, 0, 5000, "camera") + every(100, 5000, 8000, "camera", 5 + delay)
        sync, _ = play(messages + every(100, 20, 8000, "lidar"))
        assert sync.status(8000 * MS)["camera"].impairment is impairment
    assert sync.status(8000 * MS)["lidar"].impairment is Impairment.NONE
