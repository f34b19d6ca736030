"""Models of one ``segment`` graph run behind the same engine protocol, and are checked as strictly."""

import importlib.util
import shutil

import numpy as np
import pytest
from tiny_model import tiny_card
from tiny_segment_model import write_segment_model

from anyseg_ros.engine import ModelError, load_engine
from anyseg_ros.engine.model_card import attach_card
from anyseg_ros.engine.slots import fill_slots, slot_features
from anyseg_ros.modality import Modality

ENGINES = [
    "onnxruntime",
    pytest.param(
        "openvino_fp32",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed"
        ),
    ),
]


def pictures(*values):
    return np.stack([np.full((64, 128, 3), v, np.uint8) for v in values])


@pytest.mark.parametrize("name", ENGINES)
def test_labels_come_from_the_live_slots_only(tmp_path, name):
    engine = load_engine(write_segment_model(tmp_path / "m"), name)
    images, ids = pictures(0, 255, 255), np.array([0, 1, 3])
    for members, expected in (([0], 0), ([1], 3), ([0, 1, 2], 2), ([2, 0, 1], 2)):
        output = engine.segment(images[members], ids[members])
        assert output.labels.shape == output.confidence.shape == (64, 128)
        assert output.labels.dtype == output.confidence.dtype == np.uint8
        assert (output.labels == expected).all(), members
    engine.close()


@pytest.mark.parametrize("name", ENGINES)
def test_what_was_encoded_before_can_be_fused_later(tmp_path, name):
    engine = load_engine(write_segment_model(tmp_path / "m"), name)
    camera = engine.encode(pictures(255), np.array([Modality.CAMERA]))[0]
    for value, expected in ((60, 2), (255, 3)):
        lidar = engine.encode(pictures(value), np.array([Modality.LIDAR]))[0]
        assert (engine.fuse([camera, lidar]).labels == expected).all()
    with pytest.raises(ValueError, match="nothing to fuse"):
        engine.fuse([])
    assert engine.encode(pictures(1)[:0], np.empty(0, np.int64)) == []


def test_slots_follow_the_card():
    card = tiny_card(modalities=(Modality.DEPTH, Modality.LIDAR))
    images, present = fill_slots(slot_features(pictures(7), np.array([3])), card)
    assert present.tolist() == [False, True]
    assert not images[0].any() and (images[1] == 7).all()
    images, present = fill_slots(slot_features(pictures(5), np.array([1])), card)
    assert present.tolist() == [True, False]
    assert (images[0] == 5).all() and not images[1].any()
    with pytest.raises(ValueError, match="not trained on camera"):
        fill_slots(slot_features(pictures(7), np.array([0])), card)
    with pytest.raises(ValueError, match="two images of depth"):
        fill_slots(slot_features(pictures(7, 8), np.array([1, 1])), card)


@pytest.mark.parametrize("name", ENGINES)
def test_models_that_contradict_their_card_are_refused(tmp_path, name):
    folder = write_segment_model(tmp_path / "m")
    attach_card(folder / "segment.onnx", tiny_card(width=256).for_graph("segment"))
    with pytest.raises(ModelError, match="its card says"):
        load_engine(folder, name)
    attach_card(folder / "segment.onnx", tiny_card())
    with pytest.raises(ModelError, match="holds the graph 'encode', expected 'segment'"):
        load_engine(folder, name)
    three = write_segment_model(tmp_path / "three", slots=3)
    with pytest.raises(ModelError, match=r"takes 3 images.* 4 modalities"):
        load_engine(three, name)


@pytest.mark.parametrize("name", ENGINES)
def test_another_graph_under_the_name_is_refused(tmp_path, name, tiny_model):
    folder = tmp_path / "m"
    folder.mkdir()
    shutil.copy(tiny_model / "encode.onnx", folder / "segment.onnx")
    attach_card(folder / "segment.onnx", tiny_card().for_graph("segment"))
    with pytest.raises(ModelError, match=r"segment\.onnx takes .*modality_ids"):
        load_engine(folder, name)
