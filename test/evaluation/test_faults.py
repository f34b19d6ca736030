"""Each kind of fault does to messages what the vocabulary says, for as long as the timetable says."""

from __future__ import annotations

import cv2
import made_bag
import numpy as np
import pytest
from made_bag import MAKERS, PERIOD_S, START_NS, TYPES, header, make

from anyseg_ros.decoding import MessageError, stamp_ns
from anyseg_ros.evaluation.faults import DATA_TYPES, FaultInjector
from anyseg_ros.evaluation.outages import KINDS, Outage
from anyseg_ros.evaluation.sources import Decoder
from anyseg_ros.modality import MODALITIES, Modality

CAMERA, DEPTH, EVENT, LIDAR = MODALITIES
DECODER_KIND = {CAMERA: "compressed", DEPTH: "compressed_depth", EVENT: "events", LIDAR: "scan"}
CASES = [(kind, sensor) for kind, about in KINDS.items() for sensor in about.sensors]
BEGIN_S, END_S = 1.0, 3.0
STAMPS = ("duplicate_stamps", "stuck_stamps", "stamps_back", "stamps_future")
TIMES = ("silent", "slow", "burst", "reordered", "late")
REFUSED = {
    ("empty", CAMERA), ("empty", DEPTH), ("empty", LIDAR),
    *(("wrong_encoding", sensor) for sensor in MODALITIES),
    *(("truncated", sensor) for sensor in MODALITIES),
}  # fmt: skip


def image(modality: Modality, stamp: int, encoding: str):
    """A raw picture of random pixels, to any of the encodings that the faults know."""
    dtype = {"rgb8": "u1", "16UC1": "<u2", "32FC1": "<f4"}[encoding]
    shape = (12, 16, 3) if encoding == "rgb8" else (12, 16)
    pixels = (np.random.default_rng(stamp % 2**32).random(shape) * 200 + 1).astype(dtype)
    return make(
        "sensor_msgs/msg/Image",
        header=header(made_bag.FRAMES[modality], stamp),
        height=12,
        width=16,
        encoding=encoding,
        is_bigendian=0,
        step=pixels.nbytes // 12,
        data=pixels.reshape(-1).view(np.uint8),
    )


def play(sensor: Modality, *outages: Outage, maker=None, duration_s: float = 5.0):
    """(bag time, message, recorded message, changed) of all that is received."""
    maker = maker or MAKERS[sensor]
    faults = FaultInjector(outages)
    got = []
    for index in range(round(duration_s / PERIOD_S[sensor])):
        time_s = index * PERIOD_S[sensor]
        message = maker(START_NS + round(time_s * 1e9))
        got += faults.feed(sensor, "/data", time_s, message, lambda m=message: m)
        assert all(d.time_s <= time_s for d in got)
    got += faults.flush()
    assert [d.time_s for d in got] == sorted(d.time_s for d in got)
    return [(d.time_s, d.message or d.item, d.item, d.message is not None) for d in got]


def told(message) -> float:
    """Seconds between a message's stamp and the begin of the recording."""
    return (stamp_ns(message.header.stamp) - START_NS) / 1e9


@pytest.mark.parametrize(("kind", "sensor"), CASES)
def test_a_fault_lasts_as_long_as_the_timetable_says(kind, sensor):
    received = play(sensor, Outage(sensor, BEGIN_S, END_S, kind))
    for time_s, _, item, changed in received:
        during = BEGIN_S <= told(item) < END_S
        assert changed == (during and kind not in TIMES) or kind == "duplicate_stamps"
        if not during and kind != "reordered":  # whose last is released by the first after
            assert time_s == pytest.approx(told(item))
    inside = [r for r in received if BEGIN_S <= told(r[2]) < END_S]
    expected = round((END_S - BEGIN_S) / PERIOD_S[sensor])
    if kind == "silent":
        expected = 0
    elif kind == "slow":
        expected = -(-expected // 4)
    assert len(inside) == expected
    # Another sensor's messages pass untouched, and so does this one's CameraInfo unless silent.
    other = FaultInjector([Outage(sensor, BEGIN_S, END_S, kind)])
    message = MAKERS[CAMERA](START_NS)
    (delivery,) = other.feed(MODALITIES[sensor - 1], "/other", 2.0, message, lambda: message)
    assert delivery.message is None and delivery.time_s == 2.0
    info = other.feed(sensor, "/info", 2.0, message, lambda: message, carries_data=False)
    assert len(info) == (0 if kind == "silent" else 1)


@pytest.mark.parametrize(("kind", "sensor"), CASES)
def test_the_decoders_meet_what_the_fault_says(kind, sensor):
    decode = Decoder(DECODER_KIND[sensor])
    received = play(sensor, Outage(sensor, BEGIN_S, END_S, kind))
    before = decode(next(m for _, m, item, _ in reversed(received) if told(item) < BEGIN_S))
    for _, message, item, changed in received:
        if not changed:
            continue
        # What goes over DDS is what was made here.
        wire = TYPES.serialize_cdr(message, message.__msgtype__)
        message = TYPES.deserialize_cdr(wire, message.__msgtype__)
        assert message.__msgtype__ in DATA_TYPES
        if (kind, sensor) in REFUSED:
            with pytest.raises(MessageError):
                decode(message)
            continue
        check(kind, sensor, decode(message), decode(item), before)


def check(kind, sensor, data, recorded, before):
    """Sensor data as the fault leaves it, as it was recorded, and before the fault."""
    if kind in STAMPS:
        if sensor is EVENT:
            np.testing.assert_array_equal(data.x, recorded.x)
        return
    values = {CAMERA: "image", DEPTH: "depth_m", EVENT: "x", LIDAR: "points_m"}[sensor]
    found, was, last = (getattr(d, values) for d in (data, recorded, before))
    if kind == "frozen":
        np.testing.assert_array_equal(found, last)
    elif kind in ("black", "empty"):
        assert not found.any() and (sensor is not EVENT or not len(found))
    elif kind == "saturated" and sensor is EVENT:
        assert len(found) == 10 * len(was)
    elif kind == "saturated":
        assert (found == (255 if sensor is CAMERA else np.float32(65.535))).all()
    elif kind == "nan" and sensor is LIDAR:
        assert 0 < len(found) < 0.06 * len(was)
    elif kind == "nan":
        assert np.count_nonzero(found) < 0.04 * was.size
    else:
        assert kind == "noise" and found.shape == was.shape
        assert (found != was).mean() > 0.9


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1", "rgb8"])
@pytest.mark.parametrize("kind", ["black", "saturated", "noise", "nan", "truncated"])
def test_raw_pictures_fail_as_compressed_ones_do(kind, encoding):
    sensor = CAMERA if encoding == "rgb8" else DEPTH
    if sensor not in KINDS[kind].sensors:
        return
    decode = Decoder("image" if sensor is CAMERA else "depth")
    received = play(
        sensor,
        Outage(sensor, BEGIN_S, END_S, kind),
        maker=lambda stamp: image(sensor, stamp, encoding),
    )
    changed = [message for _, message, _, was_changed in received if was_changed]
    assert len(changed) == 20
    for message in changed:
        if kind == "truncated":
            with pytest.raises(MessageError):
                decode(message)
            continue
        data = decode(message)
        pixels = data.image if sensor is CAMERA else data.depth_m
        if kind == "black":
            assert not pixels.any()
        elif kind == "saturated":
            assert (pixels == (255 if sensor is CAMERA else np.float32(65.535))).all()
        elif kind == "nan":
            valid = np.isfinite(pixels) & (pixels > 0)
            assert valid.mean() < 0.06
        else:
            assert pixels.std() > 5


def test_stamps_lie_as_the_timetable_says():
    shift = {"stamps_back": -10.0, "stamps_future": 10.0}
    for kind in STAMPS:
        received = play(CAMERA, Outage(CAMERA, BEGIN_S, END_S, kind))
        lies = [
            (told(message), told(item))
            for _, message, item, _ in received
            if BEGIN_S <= told(item) < END_S
        ]
        if kind in shift:
            assert all(lie - true == pytest.approx(shift[kind]) for lie, true in lies)
        elif kind == "stuck_stamps":
            assert {round(lie, 6) for lie, _ in lies} == {BEGIN_S - 0.1}
        else:
            assert all(a[0] == b[0] for a, b in zip(lies[::2], lies[1::2], strict=True))
            assert len({lie for lie, _ in lies}) == 10


def test_timing_faults_move_messages_and_nothing_else():
    by_kind = {
        kind: play(LIDAR, Outage(LIDAR, BEGIN_S, END_S, kind))
        for kind in ("burst", "reordered", "late")
    }
    for received in by_kind.values():
        assert not any(changed for *_, changed in received)
    late = [(t, told(m)) for t, m, *_ in by_kind["late"]]
    assert all(
        t - s == pytest.approx(0.3 if BEGIN_S <= s < END_S else 0, abs=1e-6) for t, s in late
    )
    burst = [(t, told(m)) for t, m, *_ in by_kind["burst"] if BEGIN_S <= told(m) < END_S]
    assert {round(t, 6) for t, _ in burst} == {2.0, 3.0}
    order = [round(told(m), 1) for _, m, *_ in by_kind["reordered"]]
    assert order[8:16] == [0.8, 0.9, 1.1, 1.0, 1.3, 1.2, 1.5, 1.4]


def test_two_faults_of_one_sensor_add_up():
    received = play(
        CAMERA,
        Outage(CAMERA, BEGIN_S, END_S, "black"),
        Outage(CAMERA, BEGIN_S, END_S, "late"),
        Outage(CAMERA, BEGIN_S, END_S, "slow"),
    )
    changed = [(t - told(m), m) for t, m, _, was_changed in received if was_changed]
    assert len(changed) == 5
    for delay_s, message in changed:
        assert delay_s == pytest.approx(0.3)
        assert not cv2.imdecode(np.asarray(message.data), cv2.IMREAD_UNCHANGED).any()


@pytest.mark.parametrize("encoding", ["mono", "evt3"])
@pytest.mark.parametrize("kind", ["frozen", "black", "saturated", "noise", "empty", "truncated"])
def test_event_packets_fail_too(kind, encoding):
    def packet(stamp):
        random = np.random.default_rng(stamp % 2**32)
        x, y = random.integers(0, 64, 50), random.integers(0, 48, 50)
        if encoding == "mono":
            times = np.arange(50, dtype=np.uint64) * 1000
            words = times | x.astype(np.uint64) << 32 | y.astype(np.uint64) << 48
        else:  # EVT_TIME_HIGH, EVT_TIME_LOW, then EVT_ADDR_Y and EVT_ADDR_X by turns
            micro = (stamp // 1000) & 0xFFFFFF
            pairs = np.stack([y, 0x2000 | x], 1).ravel()
            words = np.array([0x8000 | micro >> 12, 0x6000 | micro & 0xFFF, *pairs], np.uint16)
        return make(
            "event_camera_msgs/msg/EventPacket",
            header=header("event_frame", stamp),
            height=48,
            width=64,
            seq=0,
            time_base=0,
            encoding=encoding,
            is_bigendian=False,
            events=words.view(np.uint8),
        )

    decode = Decoder("packets")
    plain = Decoder("packets")
    received = play(EVENT, Outage(EVENT, BEGIN_S, END_S, kind), maker=packet)
    for _, message, item, changed in received:
        if kind == "truncated" and changed:
            with pytest.raises(MessageError):
                decode(message)
            continue
        data, recorded = decode(message), plain(item)
        assert len(recorded.x) == 50
        if not changed:
            continue
        if kind in ("black", "empty"):
            assert not len(data.x)
        elif kind == "saturated":
            assert len(data.x) > 300
        elif kind == "noise":
            assert len(data.x) == 50 and (data.x != recorded.x).mean() > 0.7
        else:
            assert len(data.x) == 50
