"""The synchronizer, message by message."""

from __future__ import annotations

import itertools

import pytest
from sync_reference import MS, S

from anyseg_ros.sync import (
    DropReason,
    NewestSet,
    StreamConfig,
    StreamState,
    Synchronizer,
)


def pair(max_wait_s=0.05, on_drop=None, **changes):
    """A camera and a LiDAR, alike; the camera comes first."""
    values = {"timeout_s": 0.5, "tolerance_s": 0.05, "max_age_s": 0.3, **changes}
    configs = {"camera": StreamConfig(**values), "lidar": StreamConfig(**values)}
    return Synchronizer(configs, ["camera", "lidar"], max_wait_s, on_drop=on_drop)


def fed(sync, until_ms=1000, camera_late=10, lidar_late=10, lidar_phase=5):
    """Both streams every 100 ms; lateness and phase in milliseconds."""
    events = [(t + camera_late, "camera", t) for t in range(0, until_ms, 100)]
    events += [
        (t + lidar_late + lidar_phase, "lidar", t + lidar_phase) for t in range(0, until_ms, 100)
    ]
    sets = []
    for now, key, stamp in sorted(events):
        while (d := sync.next_deadline_ns()) is not None and d < now * MS:
            sets += sync.poll(d)
        sets += sync.add(key, stamp * MS, f"{key}@{stamp}", now * MS)
    return sets


def test_each_anchor_message_opens_a_set_with_the_nearest_of_the_others():
    sets = fed(pair())
    assert [m.anchor for m in sets] == ["camera"] * 10
    assert [m.stamp_ns // MS for m in sets] == list(range(0, 1000, 100))
    last = sets[-1]
    assert last.members["camera"].message == "camera@900"
    assert last.members["lidar"].message == "lidar@905"
    assert last.members["lidar"].age_s == pytest.approx(-0.005)
    assert not last.members["lidar"].held
    assert list(last.members) == ["camera", "lidar"]


def test_the_first_message_waits_for_nobody():
    sync = pair()
    (matched,) = sync.add("camera", 0, "image", 10 * MS)
    assert set(matched.members) == {"camera"}
    assert sync.status(10 * MS)["lidar"].state is StreamState.WAITING


def test_a_set_waits_as_long_as_the_other_is_usually_late_and_no_longer():
    sync = pair()
    fed(sync, 2000, lidar_late=30)
    assert sync.add("camera", 2000 * MS, "image", 2010 * MS) == []
    deadline = sync.next_deadline_ns()
    assert 2035 * MS <= deadline <= 2037 * MS
    assert sync.poll(deadline - 1) == []
    (matched,) = sync.poll(deadline)
    assert matched.stamp_ns == 2000 * MS
    # The LiDAR's last scan is older than the tolerance but young enough to be held.
    assert matched.members["lidar"].held
    assert matched.members["lidar"].stamp_ns == 1905 * MS


def test_max_wait_bounds_the_wait_while_nothing_is_learned():
    sync = pair(max_wait_s=0.07)
    sync.add("lidar", 0, "scan", 10 * MS)
    assert sync.add("camera", 100 * MS, "image", 110 * MS) == []
    assert sync.next_deadline_ns() == 180 * MS
    assert len(sync.poll(180 * MS)) == 1


def test_nothing_is_awaited_that_could_not_be_nearer():
    """The next scan is 70 ms off, the one in hand 30 ms: the set leaves at once."""
    sync = pair()
    fed(sync, 2000, lidar_phase=70)
    (matched,) = sync.add("camera", 2000 * MS, "image", 2010 * MS)
    assert matched.members["lidar"].stamp_ns == 1970 * MS


def test_where_the_nearest_is_lost_the_last_that_could_match_is_awaited():
    sync = pair(max_wait_s=0.2, tolerance_s=0.09)
    fed(sync, 2000, lidar_phase=70)
    sync.add("camera", 2000 * MS, None, 2010 * MS)
    assert sync.add("camera", 2100 * MS, None, 2110 * MS) == []  # the scan of 2070 is lost
    (matched,) = sync.add("lidar", 2170 * MS, None, 2180 * MS)
    assert matched.members["lidar"].age_s == pytest.approx(-0.07)


def test_of_two_equally_near_the_earlier_is_used():
    sync = pair(max_wait_s=0.0)
    sync.add("camera", 400 * MS, None, 410 * MS)
    for stamp in (480, 520):
        sync.add("lidar", stamp * MS, stamp, stamp * MS)
    (matched,) = sync.add("camera", 500 * MS, None, 530 * MS)
    assert matched.members["lidar"].message == 480


def test_what_has_the_anchors_own_stamp_is_not_awaited():
    """Nothing can be nearer, though the stream is not known yet."""
    sync = pair()
    sync.add("camera", 0, "image", 10 * MS)
    sync.add("lidar", 100 * MS, "scan", 110 * MS)
    (matched,) = sync.add("camera", 100 * MS, "image", 111 * MS)
    assert set(matched.members) == {"camera", "lidar"}


def test_complete_sets_are_those_of_all_streams():
    sync = pair()
    sets = fed(sync, 1000)
    for stamp in range(1000, 2000, 100):
        sets += sync.add("camera", stamp * MS, None, (stamp + 10) * MS)
        sets += sync.poll((stamp + 70) * MS)
    complete = [m for m in sets if len(m.members) == 2]
    assert (sync.sets, sync.complete_sets) == (len(sets), len(complete)) == (20, 12)


def test_too_old_is_not_used():
    sync = pair(timeout_s=5.0, max_age_s=0.3)
    fed(sync, 500)
    got = []
    for stamp in range(500, 1100, 100):
        sync.add("camera", stamp * MS, None, (stamp + 10) * MS)
        got += sync.poll((stamp + 90) * MS)
    used = {m.stamp_ns // MS: "lidar" in m.members for m in got}
    assert used == {500: True, 600: True, 700: True, 800: False, 900: False, 1000: False}


def test_when_the_anchor_is_overdue_the_next_leads_until_it_speaks_again():
    sync = pair()
    fed(sync, 1000)
    assert sync.add("lidar", 1005 * MS, "lidar@1005", 1015 * MS) == []
    assert sync.add("lidar", 1105 * MS, "lidar@1105", 1115 * MS) == []
    assert sync.next_deadline_ns() == 1160 * MS  # camera: 910 + 2.5 * 100
    assert sync.poll(1160 * MS - 1) == []
    (matched,) = sync.poll(1160 * MS)
    assert (matched.anchor, matched.stamp_ns) == ("lidar", 1105 * MS)
    # Overdue is not dropped: what it said last is used while it is fresh.
    assert matched.members["camera"].age_s == pytest.approx(0.205)
    assert sync.status(1160 * MS)["camera"].state is StreamState.LIVE
    assert sync.add("lidar", 1205 * MS, "lidar@1205", 1215 * MS) == []
    (matched,) = sync.add("camera", 1200 * MS, "image", 1216 * MS)
    assert (matched.anchor, matched.stamp_ns) == ("camera", 1200 * MS)
    assert matched.members["lidar"].message == "lidar@1205"


def test_without_a_period_the_next_takes_over_when_the_anchor_drops():
    sync = pair()
    fed(sync, 300)
    for stamp in range(305, 605, 100):
        assert sync.add("lidar", stamp * MS, f"lidar@{stamp}", (stamp + 10) * MS) == []
    assert sync.anchor == "camera"
    assert sync.next_deadline_ns() == 710 * MS + 1  # camera: 210 + 500
    (matched,) = sync.poll(710 * MS + 1)
    assert (matched.anchor, matched.stamp_ns) == ("lidar", 505 * MS)
    assert set(matched.members) == {"lidar"}
    assert sync.status(710 * MS + 1)["camera"].state is StreamState.DROPPED
    sync.add("camera", 700 * MS, "image", 711 * MS)
    (matched,) = sync.add("lidar", 705 * MS, "lidar@705", 715 * MS)
    assert (matched.anchor, set(matched.members)) == ("camera", {"camera", "lidar"})


def test_a_late_returning_anchor_does_not_stall_the_output():
    """A camera that returns 1 s behind is used at its age, if at all, but opens no sets."""
    sync = pair(max_age_s=2.0)
    fed(sync, 1000)
    outputs = []
    for stamp in range(1005, 4000, 100):
        outputs += sync.add("lidar", stamp * MS, None, (stamp + 10) * MS)
        if stamp > 2200:
            outputs += sync.add("camera", (stamp - 1000) * MS, None, (stamp + 20) * MS)
        outputs += sync.poll((stamp + 70) * MS)
    assert outputs[-1].anchor == "lidar"
    assert outputs[-1].members["camera"].age_s == pytest.approx(1.0, abs=0.11)
    times = [m.stamp_ns for m in outputs]
    assert max(b - a for a, b in itertools.pairwise(times)) < 0.6 * S


def test_quarantine_leaves_a_stream_out_until_its_release():
    drops = []
    sync = pair(on_drop=lambda *drop: drops.append(drop))
    fed(sync, 1000)
    sync.quarantine("camera", "frozen image")
    assert sync.next_deadline_ns() <= 920 * MS  # now
    assert sync.poll(920 * MS) == [], "the LiDAR's last scan was in a set already"
    assert sync.anchor == "lidar"
    assert sync.add("camera", 1000 * MS, None, 1010 * MS) == []
    assert drops[-1] == ("camera", 1000 * MS, DropReason.QUARANTINED)
    status = sync.status(1010 * MS)["camera"]
    assert (status.state, status.reason) == (StreamState.QUARANTINED, "frozen image")
    (matched,) = sync.add("lidar", 1005 * MS, None, 1015 * MS)
    assert (matched.anchor, set(matched.members)) == ("lidar", {"lidar"})
    sync.release("camera")
    assert sync.status(1020 * MS)["camera"].state is StreamState.LIVE
    sync.add("camera", 1100 * MS, None, 1110 * MS)
    (matched,) = sync.add("lidar", 1105 * MS, None, 1115 * MS)
    assert matched.anchor == "camera"


def test_what_was_in_hand_before_a_quarantine_is_not_used_after_it():
    drops = []
    sync = pair(on_drop=lambda *drop: drops.append(drop))
    fed(sync, 1000)
    sync.add("lidar", 1005 * MS, "doubtful", 1015 * MS)
    sync.quarantine("lidar", "departs from the others")
    assert ("lidar", 1005 * MS, DropReason.QUARANTINED) in drops
    sync.poll(1016 * MS)
    sync.release("lidar")
    assert sync.next_deadline_ns() <= 1016 * MS  # now
    (matched,) = sync.add("camera", 1010 * MS, None, 1110 * MS) + sync.poll(1170 * MS)
    assert set(matched.members) == {"camera"}


def test_quarantined_and_silent_is_dropped():
    sync = pair()
    fed(sync, 1000)
    sync.quarantine("lidar", "black")
    assert sync.status(3 * S)["lidar"].state is StreamState.DROPPED


def camera_and_packets(until_ms):
    """A camera's first image, and packets of events that end every 33 ms."""
    sync = Synchronizer(
        {
            "camera": StreamConfig(0.5, 0.05, 0.3),
            "event": StreamConfig(0.5, 0.05, 0.3, 30.0, windowed=True, window_s=0.05),
        },
        ["camera", "event"],
        max_wait_s=0.05,
    )
    sync.add("camera", 0, "image", 1 * MS)
    for end in range(0, until_ms, 33):
        sync.add("event", end * MS, f"to {end}", (end + 3) * MS)
    return sync


def test_windowed_packets_cover_up_to_the_anchor():
    sync = camera_and_packets(400)
    (matched,) = sync.add("camera", 380 * MS, "image", 400 * MS)
    member = matched.members["event"]
    assert member.message == ("to 363", "to 396")
    assert (member.stamp_ns, member.age_s, member.held) == (380 * MS, 0.0, False)


def test_a_set_waits_for_the_packet_that_covers_it():
    sync = camera_and_packets(370)
    assert sync.add("camera", 380 * MS, "image", 382 * MS) == []
    (matched,) = sync.add("event", 396 * MS, "to 396", 399 * MS)
    assert matched.members["event"].stamp_ns == 380 * MS


def test_what_is_certain_of_the_next_set_is_told_before_it_is_complete():
    sync = Synchronizer(
        {
            "camera": StreamConfig(0.5, 0.05, 0.3),
            "event": StreamConfig(0.5, 0.05, 0.3, 30.0, windowed=True, window_s=0.05),
            "lidar": StreamConfig(0.5, 0.05, 0.3),
        },
        ["camera", "event", "lidar"],
        max_wait_s=0.1,
    )
    sync.add("camera", 0, "first", 1 * MS)
    sync.add("lidar", 0, "scan", 2 * MS)
    for end in range(0, 70, 33):
        sync.add("event", end * MS, f"to {end}", (end + 3) * MS)
    assert sync.covered() == {} and not sync.is_unused("camera", 0, "first")
    assert sync.add("camera", 80 * MS, "image", 90 * MS) == []
    assert sync.covered() == {}, "what ends before the set's stamp may still be covered"
    assert sync.add("event", 99 * MS, "to 99", 102 * MS) == []
    told = sync.covered()["event"]
    assert (told.stamp_ns, told.message) == (80 * MS, ("to 33", "to 66", "to 99"))
    assert sync.is_unused("camera", 80 * MS, "image")
    assert not sync.is_unused("camera", 80 * MS, "a twin that was refused")
    assert not sync.is_unused("event", 99 * MS, "to 99")
    (matched,) = sync.add("lidar", 85 * MS, "scan", 110 * MS)
    assert matched.members["event"] == told
    assert sync.covered() == {} and not sync.is_unused("camera", 80 * MS, "image")
    with pytest.raises(KeyError):
        sync.is_unused("radar", 0, "echo")


def test_windowed_coverage_that_ends_early_is_cut_there_and_held_once_used():
    sync = Synchronizer(
        {
            "camera": StreamConfig(0.5, 0.05, 0.3),
            "event": StreamConfig(0.5, 0.05, 0.3, windowed=True, window_s=0.05),
        },
        ["camera", "event"],
        max_wait_s=0.0,
    )
    sync.add("camera", 1 * MS, None, 2 * MS)
    sync.add("event", 0, "a", 3 * MS)
    sync.add("event", 33 * MS, "b", 36 * MS)
    (first,) = sync.add("camera", 60 * MS, None, 61 * MS)
    (second,) = sync.add("camera", 160 * MS, None, 161 * MS)
    (third,) = sync.add("camera", 360 * MS, None, 361 * MS)
    member, again = first.members["event"], second.members["event"]
    assert (member.stamp_ns, member.message, member.held) == (33 * MS, ("a", "b"), False)
    assert member.age_s == pytest.approx(0.027)
    assert again.message is member.message
    assert (again.held, again.age_s) == (True, pytest.approx(0.127))
    assert "event" not in third.members


def test_duplicates_and_unused_messages_are_reported():
    drops = []
    sync = pair()
    sync.add_drop_callback(lambda *drop: drops.append(drop))
    fed(sync, 500)
    drops.clear()  # the first scan: the first image did not wait for it
    sync.add("camera", 400 * MS, None, 420 * MS)
    assert drops == [("camera", 400 * MS, DropReason.DUPLICATE_STAMP)]
    for stamp in range(410, 500, 20):
        sync.add("lidar", stamp * MS, None, (stamp + 10) * MS)
    for stamp in range(500, 1500, 100):
        sync.add("camera", stamp * MS, None, (stamp + 10) * MS)
        sync.poll((stamp + 90) * MS)
    unused = [stamp // MS for key, stamp, reason in drops if reason is DropReason.UNUSED]
    assert unused == [410, 430, 450, 470]
    assert sync.counters["camera"].dropped[DropReason.DUPLICATE_STAMP] == 1
    assert sync.counters["camera"].used == 15
    assert sync.sets == 15


def test_reordered_anchor_messages_leave_in_order():
    sync = pair()
    fed(sync, 1000, lidar_late=40)
    assert sync.add("camera", 1020 * MS, None, 1022 * MS) == []
    assert sync.add("camera", 1000 * MS, None, 1023 * MS) == []
    sets = sync.add("lidar", 1025 * MS, None, 1045 * MS)
    assert [m.stamp_ns // MS for m in sets] == [1000, 1020]


def test_memory_is_bounded_without_output():
    """An anchor that is alive but opens nothing must not let the others pile up."""
    sync = pair(timeout_s=1000.0)
    sync.add("camera", 0, None, 0)
    for i in range(1, 20_000):
        sync.add("lidar", i * 10 * MS, None, i * 10 * MS)
    assert sync.buffered["lidar"] <= 240  # 2.35 s
    for i in range(200_000, 210_000):
        sync.add("lidar", i * MS, None, i * MS)
    assert sync.buffered["lidar"] <= 256
    sync = pair(timeout_s=1000.0, max_wait_s=1e6)
    sync.add("lidar", 0, None, 0)
    sets = [m for i in range(1000) for m in sync.add("camera", i * MS, None, i * MS)]
    assert len(sets) >= 1000 - 33


def test_reset_starts_a_new_epoch_from_scratch():
    sync = pair()
    fed(sync, 500)
    sync.reset()
    assert sync.status(0)["camera"].state is StreamState.WAITING
    (matched,) = sync.add("camera", 5 * MS, "image", 1 * MS)
    assert (matched.epoch, set(matched.members)) == (1, {"camera"})


def test_other_limits_keep_what_is_known_and_the_order_of_sets():
    """The LiDAR is stamped 60 ms earlier: alone after a fresh start, it would lead back in time."""
    sync = pair(tolerance_s=0.1)
    sets = fed(sync, lidar_phase=-60, lidar_late=70)
    sync.quarantine("lidar", "covered")
    limits = StreamConfig(timeout_s=0.2, tolerance_s=0.01, max_age_s=0.05, expected_rate_hz=5)
    sync.configure({"camera": limits, "lidar": limits}, 0.02)
    status = sync.status(910 * MS)
    assert status["lidar"].state is StreamState.QUARANTINED
    assert status["camera"].state is StreamState.LIVE and status["camera"].rate_hz == 10
    assert sync.status(1150 * MS)["camera"].state is StreamState.DROPPED
    sync.release("lidar")
    for stamp in range(1000, 1500, 100):
        for key, lag in (("lidar", -60), ("camera", 0)):
            now = (stamp + lag + 70) * MS
            sets += sync.add(key, (stamp + lag) * MS, key, now) + sync.poll(now)
    sets += sync.poll(1600 * MS)
    stamps = [m.stamp_ns for m in sets]
    assert stamps == sorted(set(stamps)) and stamps[-1] == 1400 * MS
    assert {m.epoch for m in sets} == {0}
    assert set(sets[5].members) == {"camera", "lidar"}
    assert set(sets[-1].members) == {"camera"}, "60 ms are beyond the new age"
    # An expected rate that is taken back is no usual one: what is usual is learned anew.
    camera = sync._streams["camera"]
    assert camera._usual_period_ns == 200 * MS
    sync.configure({"camera": StreamConfig(0.2, 0.01, 0.05), "lidar": limits}, 0.02)
    assert camera._usual_period_ns is None
    with pytest.raises(ValueError, match="streams are"):
        sync.configure({"camera": limits}, 0.02)
    with pytest.raises(ValueError, match="max_wait_s"):
        sync.configure({"camera": limits, "lidar": limits}, -1.0)


def test_a_reset_leaves_nothing_of_the_packets_before_it():
    """A bag that is started again sends the same stamps."""
    sync = Synchronizer(
        {
            "camera": StreamConfig(0.5, 0.05, 0.3),
            "event": StreamConfig(0.5, 0.05, 0.3, windowed=True, window_s=0.05),
        },
        ["camera", "event"],
        max_wait_s=0.0,
    )
    for run in ("first", "second"):
        sync.add("camera", 1 * MS, None, 2 * MS)
        sync.add("event", 33 * MS, run, 36 * MS)
        (matched,) = sync.add("camera", 60 * MS, None, 61 * MS)
        assert matched.members["event"].message == (run,)
        assert not matched.members["event"].held
        assert sync.anchor == "camera"
        sync.reset()
        assert sync.anchor is None and sync.buffered == {"camera": 0, "event": 0}


def test_other_limits_take_effect_though_nothing_arrives():
    sync = pair()
    fed(sync, 1000)
    limits = StreamConfig(timeout_s=0.05, tolerance_s=0.05, max_age_s=0.3)
    sync.configure({"camera": limits, "lidar": limits}, 0.02)
    assert sync.next_deadline_ns() <= 915 * MS  # now
    sync.poll(980 * MS)
    assert sync.anchor is None


def test_other_limits_do_not_make_a_slow_stream_usual():
    sync = pair(timeout_s=2.0)
    fed(sync, 4000)
    stamps = range(4300, 20_000, 400)
    for stamp in stamps:
        for lidar in range(stamp - 295, stamp, 100):
            sync.add("lidar", lidar * MS, None, (lidar + 10) * MS)
        sync.add("camera", stamp * MS, None, (stamp + 10) * MS)
        sync.add("lidar", (stamp + 5) * MS, None, (stamp + 15) * MS)
        if stamp == 14_300:
            limits = StreamConfig(timeout_s=1.9, tolerance_s=0.05, max_age_s=0.3)
            sync.configure({"camera": limits, "lidar": limits}, 0.05)
    status = sync.status((stamps[-1] + 10) * MS)["camera"]
    assert status.detail == "slow: a message every 0.400 s, usually 0.100 s"


def test_another_window_is_handed_over_from_now_on():
    def configs(window_s):
        return {
            "camera": StreamConfig(0.5, 0.05, 0.3),
            "event": StreamConfig(0.5, 0.05, 0.3, windowed=True, window_s=window_s),
        }

    sync = Synchronizer(configs(0.03), ["camera", "event"], max_wait_s=0.0)
    sync.add("camera", 5 * MS, None, 5 * MS)
    got = []
    for stamp in range(10, 310, 10):
        sync.add("event", stamp * MS, stamp, stamp * MS)
        if stamp in (200, 300):
            (matched,) = sync.add("camera", stamp * MS, None, stamp * MS)
            got.append(len(matched.members["event"].message))
            sync.configure(configs(0.1), 0.0)
    assert got == [3, 10]


def test_small_steps_back_of_the_receipt_clock_are_levelled():
    sync = pair()
    fed(sync, 500)
    sync.add("camera", 500 * MS, None, 380 * MS)
    assert sync.epoch == 0


def test_a_larger_step_back_of_the_receipt_clock_is_a_jump():
    sync = pair()
    fed(sync, 500)  # to 415 ms
    sync.add("camera", 500 * MS, None, 280 * MS)
    assert sync.epoch == 1
    # What was received on the other clock says nothing of the rate on this one.
    for now in range(380, 1000, 100):
        sync.add("camera", (now + 220) * MS, None, now * MS)
    assert sync.status(980 * MS)["camera"].rate_hz == pytest.approx(10)


def test_a_status_is_never_older_than_the_last_message():
    sync = pair()
    fed(sync, 500)
    assert sync.status(0)["camera"].age_s == pytest.approx(0.005)


def test_late_packets_are_handed_over_with_a_whole_window():
    """An event camera 250 ms behind, as far as its age allows."""
    event = StreamConfig(0.5, 0.06, 0.25, windowed=True, window_s=0.1)
    sync = Synchronizer(
        {"camera": StreamConfig(0.5, 0.06, 0.25), "event": event}, ["camera", "event"], 0.1
    )
    arrivals = [(t + 20, "camera", t) for t in range(0, 5000, 33)]
    arrivals += [(t + 250, "event", t) for t in range(0, 5000, 5)]
    sets = []
    for now, key, stamp in sorted(arrivals):
        while (d := sync.next_deadline_ns()) is not None and d < now * MS:
            sets += sync.poll(d)
        sets += sync.add(key, stamp * MS, stamp, now * MS)
    last = [m.members["event"] for m in sets[-50:] if "event" in m.members]
    assert len(last) > 40
    for member in last:
        assert member.stamp_ns / MS - member.message[0] >= 95, "a packet covers 5 ms"


def test_newest_set_wins_and_the_skipped_are_counted():
    box: NewestSet[str] = NewestSet()
    sets = fed(pair(), 500)
    box.offer(sets[:3])
    assert box.take() is sets[2]
    assert box.take() is None
    box.offer(sets[3:4])
    box.offer(sets[4:5])
    box.offer([])
    assert (box.take(), box.skipped) == (sets[4], 3)
    box.offer(sets[:1])
    box.clear()
    assert (box.take(), box.skipped) == (None, 3)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"configs": {}, "priority": [], "max_wait_s": 0.1}, "configs is empty"),
        ({"priority": ["camera", "camera"]}, "priority must list every stream once"),
        ({"priority": ["camera", "radar"]}, "priority must list every stream once"),
        ({"max_wait_s": -1}, "max_wait_s"),
        ({"max_wait_s": float("nan")}, "max_wait_s"),
        ({"buffer_size": 0}, "buffer_size"),
    ],
)
def test_wrong_arguments_are_named(arguments, complaint):
    good = {
        "configs": {k: StreamConfig(0.5, 0.05, 0.3) for k in ("camera", "lidar")},
        "priority": ["camera", "lidar"],
        "max_wait_s": 0.05,
    }
    with pytest.raises(ValueError, match=complaint):
        Synchronizer(**(good | arguments))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout_s", 0),
        ("tolerance_s", -0.1),
        ("max_age_s", 0),
        ("expected_rate_hz", 0),
        ("window_s", -1),
        ("timeout_s", float("nan")),
        ("max_age_s", float("inf")),
        ("tolerance_s", float("inf")),
    ],
)
def test_wrong_stream_configuration_is_named(name, value):
    values = {"timeout_s": 0.5, "tolerance_s": 0.05, "max_age_s": 0.3, name: value}
    with pytest.raises(ValueError, match=name):
        StreamConfig(**values)


def test_unknown_streams_are_named():
    with pytest.raises(KeyError, match="radar"):
        pair().add("radar", 0, None, 0)
    with pytest.raises(ValueError, match="reason"):
        pair().quarantine("lidar", "")
