"""The synchronizer as a ``message_filters`` filter: with real subscribers, and on made-up time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import rclpy
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PointStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from ros_graph import domain
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header, String

from anyseg_ros.ros import LiveTimeSynchronizer, Subscriber
from anyseg_ros.ros.stand_ins import SimpleFilter
from anyseg_ros.sync import DropReason, StreamConfig, StreamState

MS = 1_000_000
ORIGIN = 1_700_000_000_000 * MS


class Feed:
    """Inputs and a clock in the test's hands."""

    def __init__(self, count: int = 2, **settings) -> None:
        self.now_ms = 0
        self.filters = [SimpleFilter() for _ in range(count)]
        self.sync = LiveTimeSynchronizer(
            self.filters,
            **{"queue_size": 30, "slop": 0.02} | settings,
            now_ns=lambda: self.now_ms * MS,
        )
        self.got: list[tuple] = []
        self.sync.registerCallback(lambda *messages: self.got.append(messages))

    def send(self, index: int, at_ms: int, stamp_ms: int | None = None) -> None:
        self.now_ms = at_ms
        self.filters[index].signalMessage(message(at_ms if stamp_ms is None else stamp_ms))


def message(stamp_ms: float) -> SimpleNamespace:
    return stamped(ORIGIN + int(stamp_ms * MS))


def stamped(stamp_ns: int) -> SimpleNamespace:
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    return SimpleNamespace(header=SimpleNamespace(stamp=Time(sec=seconds, nanosec=nanoseconds)))


def stamp_ms(one) -> int:
    stamp = one.header.stamp
    return (stamp.sec * 1_000_000_000 + stamp.nanosec - ORIGIN) // MS


def test_a_silent_input_is_none_and_the_rest_goes_on():
    feed = Feed(timeout=0.3)
    for at in range(0, 3000, 100):
        feed.send(0, at)
        if not 1000 <= at < 2000:
            feed.send(1, at + 5)
        feed.now_ms = at + 50
        feed.sync.poll()
    complete = {stamp_ms(a) for a, b in feed.got if b is not None}
    alone = {stamp_ms(a) for a, b in feed.got if b is None}
    assert complete | alone == set(range(0, 3000, 100))
    assert set(range(100, 1000, 100)) <= complete and set(range(2100, 3000, 100)) <= complete
    assert set(range(1000, 2000, 100)) <= alone
    # The first one gone, the second sets the pace.
    feed.got.clear()
    for at in range(3000, 4000, 100):
        feed.send(1, at)
        feed.now_ms = at + 50
        feed.sync.poll()
    assert [b for a, b in feed.got if a is None] and stamp_ms(feed.got[-1][1]) == 3900


def test_callbacks_take_arguments_and_sets_tell_more():
    feed = Feed(max_age=0.5)
    wholes = []
    feed.sync.registerCallback(lambda a, b, *rest: wholes.append(rest), "x", 7)
    feed.sync.registerSetCallback(lambda matched, tag: wholes.append((matched, tag)), "set")
    feed.send(1, 0)
    feed.send(0, 300)
    feed.now_ms = 450
    feed.sync.poll()
    (matched, tag), arguments = wholes[-2:]
    assert arguments == ("x", 7) and tag == "set"
    assert matched.anchor == "input 0" and matched.members["input 1"].age_s == pytest.approx(0.3)


def test_dropped_messages_and_statistics_are_told():
    feed = Feed()
    drops = []
    feed.sync.registerDropCallback(lambda *told: drops.append(told), "drop")
    for at in range(0, 2000, 50):
        feed.send(0, at)
        for extra in (10, 20, 30):
            feed.send(1, at + extra)
    feed.send(1, 2000, 1980)  # the same stamp again
    assert ("input 1", ORIGIN + 1980 * MS, DropReason.DUPLICATE_STAMP, "drop") in drops
    assert any(reason is DropReason.UNUSED for _, _, reason, _ in drops)
    told = feed.sync.statistics()
    assert told["input 0"].status.state is StreamState.LIVE
    assert told["input 0"].status.rate_hz == pytest.approx(20, rel=0.05)
    assert told["input 1"].status.rate_hz == pytest.approx(60, rel=0.1)
    counters = told["input 1"].counters
    assert counters.received == 121
    assert sum(counters.dropped.values()) == len([d for d in drops if d[0] == "input 1"])
    assert feed.sync.sets == len(feed.got)
    assert feed.sync.complete_sets == sum(b is not None for _, b in feed.got)
    feed.send(1, 2100, 1980)
    assert told["input 1"].counters.dropped[DropReason.DUPLICATE_STAMP] == 1, "of that moment"


def test_a_quarantined_input_is_left_out_until_released():
    feed = Feed()
    feed.sync.quarantine("input 1", "looks wrong")
    for at in range(0, 500, 100):
        feed.send(1, at)
        feed.send(0, at + 1)
    assert {b for _, b in feed.got} == {None}
    feed.sync.release("input 1")
    feed.send(1, 500)
    feed.send(0, 501)
    assert feed.got[-1][1] is not None


def test_what_has_no_stamp():
    feed = Feed()
    with pytest.raises(ValueError, match="allow_headerless"):
        feed.filters[0].signalMessage(String(data="x"))
    unstamped = SimpleNamespace(header=Header())
    feed.filters[0].signalMessage(unstamped)
    assert feed.sync.statistics()["input 0"].counters.rejected == 1
    headerless = Feed(allow_headerless=True)
    for at in (0, 100):
        headerless.now_ms = at
        for one in headerless.filters:
            one.signalMessage(String(data=str(at)))
    assert [(a.data, b.data) for a, b in headerless.got if b] == [("100", "100")]


def test_an_input_with_its_own_clock_does_not_push_out_one_with_the_hosts():
    inputs = [SimpleFilter(), SimpleFilter()]
    sync = LiveTimeSynchronizer(inputs, queue_size=30, slop=0.02, timeout=5.0)
    got = []
    sync.registerCallback(lambda *messages: got.append(messages))
    since_boot = 100_000 * MS - time.monotonic_ns()
    for index in range(40):
        inputs[1].signalMessage(stamped(since_boot + time.monotonic_ns()))
        if index >= 20:
            inputs[0].signalMessage(stamped(time.time_ns()))
        time.sleep(0.005)
    assert got[0][0] is None and got[-1][0] is not None and got[-1][1] is None
    told = sync.statistics()
    assert told["input 0"].status.state is StreamState.LIVE
    assert "timestamp mode" in told["input 1"].status.reason


def test_windowed_inputs_give_packets():
    camera, events = (
        StreamConfig(0.5, 0.02, 0.2),
        StreamConfig(0.5, 0.02, 0.2, windowed=True, window_s=0.1),
    )
    feed = Feed(configs=[camera, events])
    for at in range(0, 1000, 20):
        feed.send(1, at)
        if at % 100 == 0:
            feed.send(0, at + 1, at)
    packets = feed.got[-1][1]
    assert isinstance(packets, tuple) and len(packets) == 5


def test_a_callback_that_sends_does_not_upset_the_order():
    feed = Feed(count=1)
    order = []

    def echo(one) -> None:
        order.append(stamp_ms(one))
        if stamp_ms(one) % 100 == 0:
            feed.send(0, feed.now_ms + 10)
        order.append(-stamp_ms(one))

    feed.sync.registerCallback(echo)
    feed.send(0, 100)
    feed.send(0, 200)
    assert order == [100, -100, 110, -110, 200, -200, 210, -210]


def test_sets_that_a_slow_callback_missed_are_counted():
    feed = Feed(count=1, queue_size=2)

    def slow(one) -> None:
        if stamp_ms(one) == 100:
            for at in (110, 120, 130, 140):
                feed.send(0, at)

    feed.sync.registerCallback(slow)
    feed.send(0, 100)
    assert [stamp_ms(one) for (one,) in feed.got] == [100, 130, 140]
    assert (feed.sync.sets, feed.sync.skipped_sets) == (5, 2)


def test_without_max_age_nothing_beyond_the_slop_is_used():
    feed = Feed(slop=0.02, max_wait=0.0)
    feed.send(0, 0)
    for lag in (20, 21):
        feed.send(1, feed.now_ms + 100)
        feed.send(0, feed.now_ms + lag)
    assert [b is not None for _, b in feed.got] == [False, True, False]


def test_inputs_of_one_topic_have_names_of_their_own():
    inputs = [SimpleFilter(), SimpleFilter()]
    for one in inputs:
        one.getTopic = lambda: "camera/image"
    sync = LiveTimeSynchronizer(inputs, queue_size=3, slop=0.02, now_ns=lambda: 0)
    assert sync.names == ["camera/image", "camera/image (1)"]
    assert list(sync.statistics()) == sync.names


def test_an_error_in_a_callback_comes_out_and_does_not_block():
    feed = Feed(count=1)
    feed.sync.registerCallback(lambda one: 1 / (stamp_ms(one) - 100))
    with pytest.raises(ZeroDivisionError):
        feed.send(0, 100)
    feed.send(0, 200)
    assert [stamp_ms(one) for (one,) in feed.got] == [100, 200]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"slop": -1.0}, "tolerance_s"),
        ({"configs": []}, "2 inputs"),
        ({"queue_size": 0}, "buffer_size"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Feed(**settings)


def test_subscribers_over_dds_one_of_which_stops():
    with domain() as number:
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=number)
        node = rclpy.create_node("user", context=context, namespace="/robot")
        node.set_parameters([Parameter("use_sim_time", value=False)])
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        topics = ("a", "b")
        publishers = [node.create_publisher(PointStamped, t, 10) for t in topics]
        sync = LiveTimeSynchronizer(
            [Subscriber(node, PointStamped, t) for t in topics],
            queue_size=10,
            slop=0.05,
            timeout=0.3,
        )
        assert sync.names == ["a", "b"]
        got = []
        sync.registerCallback(lambda a, b: got.append((a is not None, b is not None)))

        def run(which, condition) -> None:
            until = time.monotonic() + 20
            while not condition():
                assert time.monotonic() < until
                stamp = node.get_clock().now().to_msg()
                for index in which:
                    publishers[index].publish(PointStamped(header=Header(stamp=stamp)))
                pause = time.monotonic() + 0.05
                while time.monotonic() < pause:
                    executor.spin_once(timeout_sec=0.01)

        run((0, 1), lambda: got.count((True, True)) >= 5)
        run((0,), lambda: got[-3:] == [(True, False)] * 3)
        # The first one stops: the timer, and no message, makes the second the anchor.
        run((1,), lambda: got[-3:] == [(False, True)] * 3)
        run((0, 1), lambda: got[-3:] == [(True, True)] * 3)
        assert sync.statistics()["a"].status.state is StreamState.LIVE
        timers = len(list(node.timers))
        sync.close()
        assert len(list(node.timers)) == timers - 1
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_it_takes_and_gives_what_message_filters_does():
    message_filters = pytest.importorskip(
        "message_filters", reason="message_filters is not installed (it has no wheel)"
    )
    assert issubclass(LiveTimeSynchronizer, message_filters.SimpleFilter)
    feed = Feed()
    cache = message_filters.Cache(feed.filters[1], 5)
    other, ours = [], []
    theirs = message_filters.ApproximateTimeSynchronizer(feed.filters, 30, 0.02)
    theirs.registerCallback(lambda *messages: other.append(messages))
    feed.sync.registerCallback(lambda *messages: None not in messages and ours.append(messages))
    for at in range(0, 3000, 100):
        feed.send(0, at)
        feed.send(1, at + 7)
    # The very first set does not wait for an input that nobody has heard of yet.
    assert len(other) == 30 and ours == other[1:]
    assert cache.getLast() is feed.got[-1][1]


def test_the_example_in_the_documentation_runs(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "synchronizer.md").read_text()
    programs = [b for b in re.findall(r"```python\n(.*?)```", text, re.S) if "rclpy.spin" in b]
    (program,) = programs
    try:
        import message_filters  # noqa: F401
    except ImportError:
        # As the program's own comment says.
        program = program.replace(
            "import message_filters  # from wheels, without it: ", ""
        ).replace("message_filters.Subscriber", "Subscriber")
    (tmp_path / "matcher.py").write_text(program)
    with domain() as number:
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=number)
        driver = rclpy.create_node("driver", context=context)
        cameras = driver.create_publisher(Image, "camera/image", 10)
        lidars = driver.create_publisher(PointCloud2, "lidar/points", 10)
        log = tmp_path / "log"
        environment = {**os.environ, "ROS_DOMAIN_ID": str(number)}
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, str(tmp_path / "matcher.py")],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:

            def send_until(words: str, with_lidar: bool) -> None:
                until = time.monotonic() + 30
                while words not in log.read_text():
                    assert process.poll() is None and time.monotonic() < until, log.read_text()
                    stamp = driver.get_clock().now().to_msg()
                    cameras.publish(Image(header=Header(stamp=stamp)))
                    if with_lidar:
                        lidars.publish(PointCloud2(header=Header(stamp=stamp)))
                    time.sleep(0.05)

            send_until("image cloud", True)
            send_until("image no cloud", False)
        finally:
            process.kill()
            process.wait(10)
            driver.destroy_node()
            rclpy.shutdown(context=context)


def test_under_sim_time_the_clock_wakes_it_and_nothing_else():
    with domain() as number:
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=number)
        sim = [Parameter("use_sim_time", value=True)]
        node = rclpy.create_node("user", context=context, parameter_overrides=sim)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        clock = node.create_publisher(Clock, "/clock", 10)
        sync = LiveTimeSynchronizer(
            [Subscriber(node, PointStamped, t) for t in ("a", "b")], 10, 0.05, timeout=3600.0
        )
        got, polls = [], []
        sync.registerCallback(lambda a, b: got.append((a is not None, b is not None)))
        poll = sync._synchronizer.poll
        sync._synchronizer.poll = lambda now: polls.append(now) or poll(now)

        def pass_to(seconds: float) -> None:
            stamp = Time(sec=round(seconds * 10) // 10, nanosec=round(seconds * 10) % 10 * 100 * MS)
            until = time.monotonic() + 20
            while node.get_clock().now().to_msg() != stamp:
                assert time.monotonic() < until
                clock.publish(Clock(clock=stamp))
                executor.spin_once(timeout_sec=0.1)

        for tenth in range(1, 6):  # both live, a set each
            pass_to(tenth / 10)
            for index in (0, 1):
                header = Header(stamp=node.get_clock().now().to_msg())
                sync.add(PointStamped(header=header), sync.names[index])
        assert got[-4:] == [(True, True)] * 4
        got.clear()
        pass_to(0.6)
        sync.add(PointStamped(header=Header(stamp=node.get_clock().now().to_msg())), "a")
        polls.clear()
        until = (
            time.monotonic() + 0.5
        )  # paused: looked at every 0.1 s, in case anything else changed
        while time.monotonic() < until:
            executor.spin_once(timeout_sec=0.01)
        assert len(polls) <= 6 and not got
        pass_to(3000.0)  # b is late beyond all waiting
        until = time.monotonic() + 0.05
        while not got and time.monotonic() < until:
            executor.spin_once(timeout_sec=0.01)
        assert got == [(True, False)]
        polls.clear()
        pass_to(1.0)  # a bag that begins again
        executor.spin_once(timeout_sec=0.05)
        assert polls
        sync.close()
        pass_to(2.0)
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)
