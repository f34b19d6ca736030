"""A seeded portion of ``benchmarks/fuzz_decoders.py``, and the damage that it has found before."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest

from anyseg_ros.decoding import (
    MessageError,
    decode_compressed_depth,
    decode_compressed_image,
    decode_event_cloud,
    decode_labels,
    decode_lidar,
)
from benchmarks.fuzz_decoders import (
    CONTRADICTION,
    FAULTLESS,
    KINDS,
    OPEN,
    build_message,
    fuzz,
    judge_png,
    make,
)


def test_no_random_message_breaks_a_decoder():
    tally = fuzz(seed=7, first=0, count=3000)
    assert not tally.failures
    # The portion says something: each kind was decoded and refused, contradictions among them.
    for name in KINDS:
        assert tally.outcomes[f"{name}: decoded"] > 10 and tally.outcomes[f"{name}: refused"] > 10
    assert tally.judged[f"{CONTRADICTION}, refused"] > 500
    assert tally.judged[f"{FAULTLESS}, decoded"] > 300
    assert tally.judged[f"{CONTRADICTION}, decoded"] == tally.judged[f"{FAULTLESS}, refused"] == 0


def test_a_message_depends_on_seed_and_number_alone():
    first, again = build_message(3, 11), build_message(3, 11)
    assert first[0] == again[0] and str(first[1]) == str(again[1])


def compressed(data: bytes, words: str):
    header = KINDS["event packet"].build(np.random.default_rng(0)).header
    return make(
        "sensor_msgs/msg/CompressedImage",
        header=header,
        format=words,
        data=np.frombuffer(data, np.uint8),
    )


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


@pytest.mark.parametrize(
    ("decode", "words", "head", "pixels"),
    [
        (decode_compressed_image, "png", b"", np.zeros((4, 4, 3), np.uint8)),
        (decode_labels, "png", b"", np.zeros((4, 4), np.uint8)),
        (
            decode_compressed_depth,
            "16UC1; compressedDepth png",
            bytes(12),
            np.zeros((4, 4), np.uint16),
        ),
    ],
)
def test_a_png_chunk_longer_than_the_message_is_refused_at_once(decode, words, head, pixels):
    """OpenCV would allocate the four gigabytes that the chunk promises, for twenty seconds."""
    data = bytearray(head + png(pixels))
    at = data.index(b"IDAT") - 4
    data[at : at + 4] = b"\xee\xee\xee\xee"
    began = time.perf_counter()
    with pytest.raises(MessageError, match="PNG cut off"):
        decode(compressed(bytes(data), words))
    assert time.perf_counter() - began < 0.5


@pytest.mark.parametrize("words", ["h264", "mono8", "rgb8; jpeg compressed", "jpg png"])
def test_labels_of_another_format_are_refused(words):
    with pytest.raises(MessageError, match="png"):
        decode_labels(compressed(png(np.zeros((4, 4), np.uint8)), words))


def lidar():
    return KINDS["lidar cloud"].build(np.random.default_rng(2))


def test_a_field_that_is_not_read_must_lie_inside_a_point_too():
    message = KINDS["event cloud"].build(np.random.default_rng(0))
    extra = make(
        "sensor_msgs/msg/PointField", name="ring", offset=message.point_step, datatype=2, count=1
    )
    message.fields = [*message.fields, extra]
    with pytest.raises(MessageError, match=r"fields\[ring\]\.offset"):
        decode_event_cloud(message)


def test_fields_that_overlap_are_refused():
    message = lidar()
    next(f for f in message.fields if f.name == "y").offset -= 2
    with pytest.raises(MessageError, match=r"fields\[y\]\.offset"):
        decode_lidar(message)


def test_a_point_of_gigabytes_is_refused():
    message = lidar()
    message.width, message.row_step, message.point_step = 0, 0, 2**32 - 1
    message.data = message.data[:0]
    with pytest.raises(MessageError, match="point_step"):
        decode_lidar(message)


def test_the_oracle_knows_a_whole_png_from_a_damaged_one():
    whole = png(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8))
    assert judge_png(whole) == OPEN
    assert judge_png(whole[:-1]) == CONTRADICTION
    damaged = bytearray(whole)
    damaged[whole.index(b"IDAT") + 9] ^= 1
    assert judge_png(bytes(damaged)) == CONTRADICTION
