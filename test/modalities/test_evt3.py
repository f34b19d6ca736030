"""EVT 3.0 against a word-by-word reading of the format, on made-up streams and a real recording."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyseg_ros.decoding import EventPacketDecoder, MessageError
from anyseg_ros.modalities.evt3 import Evt3Decoder

ADDR_Y, ADDR_X, BASE_X, VECT_12, VECT_8, LOW, HIGH = 0x0, 0x2, 0x3, 0x4, 0x5, 0x6, 0x8
OTHERS = (0x7, 0xA, 0xE, 0xF)


class WordByWord:
    """The format's table, one word at a time."""

    def __init__(self):
        self.y = self.high = None
        self.low = self.base = self.polarity = self.turns = 0

    def decode(self, words) -> list[tuple[int, int, int, int]]:
        events = []

        def emit(x, polarity):
            if self.y is not None and self.high is not None:
                time_us = (self.turns * 4096 + self.high) * 4096 + self.low
                events.append((x, self.y, polarity, time_us))

        for word in map(int, words):
            kind, value = word >> 12, word & 0xFFF
            if kind == ADDR_Y:
                self.y = value & 0x7FF
            elif kind == ADDR_X:
                emit(value & 0x7FF, value >> 11)
            elif kind == BASE_X:
                self.base, self.polarity = value & 0x7FF, value >> 11
            elif kind in (VECT_12, VECT_8):
                width = 12 if kind == VECT_12 else 8
                for bit in range(width):
                    if value >> bit & 1:
                        emit(self.base + bit, self.polarity)
                self.base += width
            elif kind == LOW:
                self.low = value
            elif kind == HIGH:
                if self.high is not None and value - self.high < -2048:
                    self.turns += 1
                elif self.high is not None and value - self.high > 2048:
                    self.turns -= 1
                self.high = value
        return events


def rows(events) -> list[tuple[int, int, int, int]]:
    columns = (events.x, events.y, events.polarity, events.time_us)
    return list(zip(*(column.tolist() for column in columns), strict=True))


word = st.one_of(
    st.builds(
        lambda k, v: k << 12 | v, st.sampled_from([ADDR_Y, ADDR_X, LOW]), st.integers(0, 4095)
    ),
    # Few columns, so that vectors stay in range and meet each other.
    st.builds(lambda v, p: BASE_X << 12 | p << 11 | v, st.integers(0, 300), st.integers(0, 1)),
    st.builds(lambda k, v: k << 12 | v, st.sampled_from([VECT_12, VECT_8]), st.integers(0, 4095)),
    st.builds(lambda v: HIGH << 12 | v, st.one_of(st.integers(0, 9), st.integers(4090, 4095))),
    st.builds(lambda k, v: k << 12 | v, st.sampled_from(OTHERS), st.integers(0, 4095)),
)


@settings(max_examples=200)
@given(st.lists(st.lists(word, max_size=40), max_size=6))
def test_any_stream_cut_anywhere_decodes_as_word_by_word(packets):
    fast, slow = Evt3Decoder(), WordByWord()
    for packet in packets:
        assert rows(fast.decode(np.array(packet, np.uint16))) == slow.decode(packet)


def test_the_clock_goes_on_where_the_sensor_starts_again():
    words = [HIGH << 12 | 4095, LOW << 12 | 4000, ADDR_Y << 12 | 5, ADDR_X << 12 | 7]
    words += [HIGH << 12 | 0, LOW << 12 | 10, ADDR_X << 12 | 1 << 11 | 8]
    decoder = Evt3Decoder()
    assert rows(decoder.decode(np.array(words, np.uint16))) == [
        (7, 5, 0, 4095 * 4096 + 4000),
        (8, 5, 1, 4096 * 4096 + 10),
    ]
    assert decoder.undated == 0


def test_events_without_a_time_are_left_out_and_counted():
    decoder = Evt3Decoder()
    words = [ADDR_Y << 12 | 5, ADDR_X << 12 | 7, HIGH << 12 | 1, ADDR_X << 12 | 8]
    assert rows(decoder.decode(np.array(words, np.uint16))) == [(8, 5, 0, 4096)]
    assert decoder.undated == 1


def test_a_real_recording_decodes_as_word_by_word():
    path = os.environ.get("ANYSEG_EVENT_BAG")
    if not path:
        pytest.skip("set ANYSEG_EVENT_BAG to a bag of event_camera_msgs/EventPacket (EVT3)")
    from rosbags.highlevel import AnyReader

    fast, slow, events = Evt3Decoder(), WordByWord(), 0
    with AnyReader([Path(path)]) as reader:
        for connection, _, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            words = message.events.view("<u2")
            decoded = rows(fast.decode(words))
            assert decoded == slow.decode(words)
            events += len(decoded)
    assert events > 1000
    assert fast.undated == 0


def packet(data: np.ndarray, encoding: str, stamp_ns: int = 10**18, **changes) -> SimpleNamespace:
    seconds, nanoseconds = divmod(stamp_ns, 10**9)
    values = {
        "header": SimpleNamespace(stamp=SimpleNamespace(sec=seconds, nanosec=nanoseconds)),
        "width": 640,
        "height": 480,
        "encoding": encoding,
        "is_bigendian": False,
        "events": data.view(np.uint8),
    }
    return SimpleNamespace(**{**values, **changes})


def test_mono_packets_are_dated_from_their_header():
    words = np.array([1 << 63 | 3 << 48 | 9 << 32 | 250, 4 << 48 | 639 << 32 | 100], np.uint64)
    decoded = EventPacketDecoder()(packet(words, "mono"))
    assert decoded.x.tolist() == [639, 9]  # in order of time
    assert decoded.y.tolist() == [4, 3]
    assert decoded.polarity.tolist() == [0, 1]
    assert decoded.stamp_ns.tolist() == [10**18 + 100, 10**18 + 250]


def single_event(time_us: int, x: int = 1) -> np.ndarray:
    return np.array(
        [
            HIGH << 12 | time_us >> 12,
            LOW << 12 | time_us & 0xFFF,
            ADDR_Y << 12 | 2,
            ADDR_X << 12 | x,
        ],
        np.uint16,
    )


def test_a_late_header_does_not_shift_the_sensors_clock():
    decode = EventPacketDecoder()
    stamps = [
        decode(packet(single_event(1000 * i), "evt3", 10**18 + 1_000_000 * i + late)).stamp_ns[0]
        for i, late in enumerate([0, 4_000_000, 100_000, 0])
    ]
    assert np.abs(np.diff(stamps) - 1_000_000).max() < 1000


def test_a_sensor_set_anew_is_dated_anew():
    decode = EventPacketDecoder()
    decode(packet(single_event(9_000_000), "evt3", 10**18))
    later = decode(packet(single_event(9_000_100), "evt3", 10**18 + 5 * 10**9))
    assert later.stamp_ns[0] == 10**18 + 5 * 10**9


@pytest.mark.parametrize(
    "message, named",
    [
        (packet(np.zeros(3, np.uint8), "evt3"), "events"),
        (packet(np.zeros(4, np.uint8), "mono"), "events"),
        (packet(np.zeros(4, np.uint8), "trigger"), "encoding"),
        (packet(np.zeros(4, np.uint8), "evt3", width=0), "width"),
        (packet(single_event(5, x=700), "evt3"), "outside the sensor"),
    ],
)
def test_a_packet_that_contradicts_itself_is_refused_by_name(message, named):
    with pytest.raises(MessageError, match=named):
        EventPacketDecoder()(message)
