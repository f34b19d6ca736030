"""Hysteresis, and what the monitor lets through to a synchronizer."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensor_scenes import events, lidar

from anyseg_ros.health import (
    HealthMonitor,
    HealthSettings,
    Hysteresis,
    HysteresisSettings,
    Suspect,
)
from anyseg_ros.modalities import CameraFrame
from anyseg_ros.modalities.quality import DEFAULT_LIMITS
from anyseg_ros.modality import Modality
from anyseg_ros.sync import DropReason, StreamConfig, StreamState, Synchronizer

MS = 1_000_000
PERIOD = 100 * MS


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 400)), max_size=80),
    st.integers(1, 6),
    st.integers(1, 6),
)
def test_the_state_changes_only_after_enough_in_a_row(observations, bad_count, good_count):
    settings = HysteresisSettings(bad_count, 0.5, good_count, 0.9)
    hysteresis = Hysteresis(settings)
    now, run, since, state = 0, 0, 0, False
    for bad, step in observations:
        now += step * MS
        if bad == state:
            run = 0
        else:
            since = now if run == 0 else since
            run += 1
        limit_s = settings.good_time_s if state else settings.bad_time_s
        needed = good_count if state else bad_count
        if run >= needed or (run >= 2 and now - since >= limit_s * 1e9):
            state, run = bad, 0
        assert hysteresis.note(bad, now) is state


@given(st.lists(st.booleans(), max_size=60))
def test_no_message_alone_decides(observations):
    """With the defaults, a state holds for at least two observations against it."""
    hysteresis = Hysteresis(HysteresisSettings())
    before = previous = None
    for i, bad in enumerate(observations):
        state = hysteresis.note(bad, i * PERIOD)
        if before is not None and state != before:
            assert bad == previous == state
        before, previous = state, bad


@pytest.mark.parametrize(
    "wrong", [{"bad_count": 0}, {"good_count": 0}, {"bad_time_s": 0.0}, {"good_time_s": -1.0}]
)
def test_settings_that_cannot_work_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        HysteresisSettings(**wrong)


class Rig:
    """Camera and LiDAR at 10 Hz in front of a synchronizer; the camera's pictures are told to it."""

    def __init__(self, settings=None):
        config = StreamConfig(0.5, 0.06, 0.25)
        self.drops = []
        self.sync = Synchronizer(
            dict.fromkeys((Modality.CAMERA, Modality.LIDAR), config),
            [Modality.CAMERA, Modality.LIDAR],
            0.05,
            on_drop=lambda key, stamp, reason: self.drops.append((key, reason)),
        )
        self.monitor = HealthMonitor(self.sync, (Modality.CAMERA, Modality.LIDAR), settings)
        self.random = np.random.default_rng(0)
        self.tick = 0
        self.sets = []

    def picture(self):
        y, x = np.mgrid[:48, :64]
        smooth = 120 + 60 * np.sin(x / 9) + 40 * np.cos(y / 7)
        noisy = smooth[..., None] + self.random.normal(0, 2, (48, 64, 3))
        return CameraFrame(np.clip(noisy, 0, 255).astype(np.uint8))

    def step(self, camera=None, refused=""):
        self.tick += 1
        now = self.tick * PERIOD
        if refused:
            self.sets += self.monitor.refuse(Modality.CAMERA, refused, now)
        else:
            self.sets += self.monitor.add(Modality.CAMERA, now, camera or self.picture(), now)
        self.sets += self.monitor.add(Modality.LIDAR, now - 5 * MS, lidar(), now + MS)
        self.sets += self.sync.poll(now + 60 * MS)
        return self.status().state

    def status(self, modality=Modality.CAMERA):
        return self.sync.status(self.tick * PERIOD)[modality]

    def uses(self, frame):
        return sum(member.message is frame for s in self.sets for member in s.members.values())


BLACK = CameraFrame(np.zeros((48, 64, 3), np.uint8))


def test_bad_pictures_are_never_used_and_the_stream_is_quarantined_and_released():
    rig = Rig()
    for _ in range(10):
        assert rig.step() is StreamState.LIVE
    assert rig.sync.anchor is Modality.CAMERA
    states = [rig.step(BLACK) for _ in range(5)]
    assert states == [StreamState.LIVE] * 2 + [StreamState.QUARANTINED] * 3
    assert "black" in rig.status().reason
    assert rig.sync.anchor is Modality.LIDAR
    states = [rig.step() for _ in range(6)]
    assert states == [StreamState.QUARANTINED] * 4 + [StreamState.LIVE] * 2
    assert rig.sync.anchor is Modality.CAMERA
    assert rig.uses(BLACK) == 0
    health = rig.monitor.health[Modality.CAMERA]
    assert (health.withheld, health.quarantines) == (5, 1)


def test_a_frozen_picture_is_used_once():
    rig = Rig()
    for _ in range(5):
        rig.step()
    last = rig.picture()
    for _ in range(10):
        rig.step(last)
    assert rig.status().state is StreamState.QUARANTINED
    assert "frozen" in rig.status().reason
    used = [m for s in rig.sets for m in s.members.values() if m.message is last]
    assert [m.held for m in used] == [False, True, True]
    assert used[-1].age_s < 0.25


def test_one_bad_picture_costs_itself():
    rig = Rig()
    for _ in range(5):
        rig.step()
    before = len(rig.sets)
    assert rig.step(BLACK) is StreamState.LIVE
    assert (Modality.CAMERA, DropReason.BAD_CONTENT) in rig.drops
    for _ in range(5):
        assert rig.step() is StreamState.LIVE
    assert len(rig.sets) - before == 6, "the LiDAR leads where the picture is bad"


def test_every_other_picture_bad_leaves_the_good_ones():
    rig = Rig()
    for i in range(30):
        assert rig.step(BLACK if i % 2 else None) is StreamState.LIVE
    assert rig.uses(BLACK) == 0
    assert len(rig.sets) == 30
    assert [s.anchor for s in rig.sets[2:4]] == [Modality.CAMERA, Modality.LIDAR]


def test_messages_that_cannot_be_decoded_quarantine_with_their_reason():
    rig = Rig()
    for _ in range(5):
        rig.step()
    for _ in range(4):
        state = rig.step(refused="field 'encoding' is 'x'; expected rgb8")
    assert state is StreamState.QUARANTINED
    assert "refused: field 'encoding'" in rig.status().reason
    assert rig.sync.anchor is Modality.LIDAR


def test_a_message_delivered_twice_is_no_frozen_sensor():
    rig = Rig()
    for _ in range(8):
        rig.tick += 1
        now, frame = rig.tick * PERIOD, rig.picture()
        for copy in range(4):
            rig.monitor.add(Modality.CAMERA, now, frame, now + copy)
    assert rig.status().state is StreamState.LIVE
    assert rig.monitor.health[Modality.CAMERA].withheld == 0


def test_a_withheld_message_delivered_again_is_withheld_again():
    rig = Rig()
    rig.step()
    rig.step(BLACK)
    black = rig.tick * PERIOD
    rig.step()
    rig.sets += rig.monitor.add(Modality.CAMERA, black, BLACK, rig.tick * PERIOD + 2 * MS)
    rig.step()
    assert rig.uses(BLACK) == 0
    assert rig.monitor.health[Modality.CAMERA].withheld == 2


def test_who_is_accused_is_watched_though_contents_are_not_checked():
    rig = Rig(HealthSettings(enabled=False))
    rig.step()
    rig.monitor.accuse_only({Modality.LIDAR: "departs"})
    assert rig.status(Modality.LIDAR).state is StreamState.QUARANTINED
    rig.step()  # the camera alone cannot accuse it
    assert rig.status(Modality.LIDAR).state is StreamState.LIVE


def test_two_sources_must_both_take_their_reason_back():
    rig = Rig()
    rig.step()
    rig.monitor.accuse(Modality.CAMERA, "operator", "departs from the others")
    for _ in range(5):
        rig.step(BLACK)
    assert "departs" in rig.status().reason and "black" in rig.status().reason
    for _ in range(8):
        rig.step()
    assert rig.status().reason == "departs from the others"
    rig.monitor.absolve(Modality.CAMERA, "operator")
    assert rig.step() is StreamState.LIVE


def test_switched_off_it_lets_everything_through_and_releases():
    rig = Rig()
    for _ in range(5):
        rig.step(BLACK)
    rig.monitor.configure(HealthSettings(enabled=False))
    assert rig.step(BLACK) is StreamState.LIVE
    assert rig.uses(BLACK) == 1


def test_a_reset_forgets_quarantines():
    rig = Rig()
    for _ in range(5):
        rig.step(BLACK)
    rig.monitor.reset()
    assert rig.step() is StreamState.LIVE


def test_a_reset_forgets_what_messages_showed_and_who_was_watched():
    """A bag that is started again sends the same stamps and pictures."""
    rig = Rig()
    first, again = rig.picture(), rig.picture()
    rig.step(BLACK)
    rig.step(first)
    rig.monitor.accuse_only({Modality.LIDAR: "departs"})
    rig.monitor._watched[Modality.LIDAR].suspect = Suspect(1, lidar())
    rig.monitor.reset()
    rig.sync.reset()
    rig.tick = 0
    assert rig.monitor.suspects() == {}
    rig.step(again)  # at the black one's stamp
    rig.step(first)  # not frozen: the time before does not count
    assert rig.uses(again) == 1 and rig.uses(first) == 2
    assert rig.monitor.health[Modality.CAMERA].withheld == 1


def test_other_limits_take_effect_while_it_runs():
    rig = Rig()
    rig.step()
    never = replace(DEFAULT_LIMITS[Modality.CAMERA], black_level=0, flat_contrast=0, frozen_share=0)
    rig.monitor.configure(HealthSettings(limits={**DEFAULT_LIMITS, Modality.CAMERA: never}))
    rig.step(BLACK)
    assert rig.uses(BLACK) == 1
    rig.monitor.configure(
        HealthSettings(hysteresis=HysteresisSettings(bad_count=5, bad_time_s=9.0))
    )
    states = [rig.step(BLACK) for _ in range(6)]
    assert states == [StreamState.LIVE] * 4 + [StreamState.QUARANTINED] * 2


def test_switched_off_it_does_not_quarantine_for_messages_that_cannot_be_decoded():
    rig = Rig(HealthSettings(enabled=False))
    for _ in range(5):
        rig.step()
    for _ in range(4):
        assert rig.step(refused="cut short") is StreamState.LIVE


def test_a_second_reason_is_no_second_quarantine():
    rig = Rig()
    rig.step()
    for source in ("operator", "consistency"):
        rig.monitor.accuse(Modality.CAMERA, source, "departs")
    assert rig.monitor.health[Modality.CAMERA].quarantines == 1


def test_bad_messages_before_the_clock_was_set_back_count_no_time():
    hysteresis = Hysteresis(HysteresisSettings(bad_count=10, bad_time_s=0.5))
    assert not hysteresis.note(True, 100 * PERIOD)
    assert not any(hysteresis.note(True, now * PERIOD) for now in range(5))
    assert hysteresis.note(True, 5 * PERIOD)


def test_of_an_accused_event_camera_the_last_packets_are_watched():
    rigged = (Modality.CAMERA, Modality.EVENT, Modality.LIDAR)
    sync = Synchronizer(dict.fromkeys(rigged, StreamConfig(0.5, 0.06, 0.25)), list(rigged), 0.05)
    monitor = HealthMonitor(sync, rigged, HealthSettings(enabled=False))
    rig = Rig()
    for i in range(1, 20):
        now = i * PERIOD // 2
        monitor.add(Modality.CAMERA, now, rig.picture(), now)
        monitor.add(Modality.LIDAR, now, lidar(), now)
        monitor.add(Modality.EVENT, now, events(50, now), now)
        if i == 5:
            monitor.accuse_only({Modality.EVENT: "departs"})
    # Those that end within the last 0.2 s, oldest first.
    watched = monitor.suspects()[Modality.EVENT].message
    assert [packet.stamp_ns[-1] // MS for packet in watched] == [800, 850, 900, 950]


def test_an_accused_stream_is_watched_while_two_others_can_accuse_it():
    config = StreamConfig(0.5, 0.06, 0.25)
    rigged = (Modality.CAMERA, Modality.EVENT, Modality.LIDAR)
    sync = Synchronizer(dict.fromkeys(rigged, config), list(rigged), 0.05)
    monitor = HealthMonitor(sync, rigged)
    rig = Rig()

    def step(i, *modalities):
        now = i * PERIOD
        for modality in modalities:
            data = lidar() if modality is Modality.LIDAR else rig.picture()
            monitor.add(modality, now, data, now)
        return sync.status(now)[Modality.CAMERA].state

    for i in range(5):
        step(i, *rigged)
    assert monitor.suspects() == {}
    monitor.accuse_only({Modality.CAMERA: "departs"})
    assert step(6, *rigged) is StreamState.QUARANTINED
    assert monitor.suspects()[Modality.CAMERA].stamp_ns == 6 * PERIOD
    for i in range(7, 14):
        state = step(i, Modality.LIDAR, Modality.CAMERA)
    assert state is StreamState.LIVE, "one other stream alone accuses nobody"
    assert monitor.suspects() == {}


def test_a_verdict_that_names_nobody_releases():
    rig = Rig()
    rig.step()
    rig.monitor.accuse_only({Modality.CAMERA: "departs"})
    assert rig.status().state is StreamState.QUARANTINED
    rig.monitor.accuse_only({})
    assert rig.step() is StreamState.LIVE
