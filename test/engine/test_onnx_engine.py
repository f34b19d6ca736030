"""The ONNX Runtime engine keeps its contract, and refuses models that break theirs."""

import shutil

import numpy as np
import onnx
import pytest
from tiny_model import LEVELS, tiny_card, write_tiny_model

from anyseg_ros.engine import EngineError, ModelCard, ModelError, load_engine
from anyseg_ros.engine.model_card import METADATA_KEY, attach_card
from anyseg_ros.modality import Modality


def pictures(*values):
    return np.stack([np.full((64, 128, 3), v, np.uint8) for v in values])


def test_labels_come_from_the_mean_of_what_is_live(tiny_model):
    engine = load_engine(tiny_model)
    images, ids = pictures(0, 255, 255), np.array([0, 1, 3])
    for members, expected in (([0], 0), ([1], 3), ([0, 1, 2], 2)):
        output = engine.segment(images[members], ids[members])
        assert output.labels.shape == output.confidence.shape == (64, 128)
        assert output.labels.dtype == output.confidence.dtype == np.uint8
        assert (output.labels == expected).all(), members
    assert np.abs(LEVELS - images.mean()).argmin() == 2  # what the last case expects


def test_encoding_one_by_one_equals_encoding_together(tiny_model):
    engine = load_engine(tiny_model)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 64, 128, 3)).astype(np.uint8)
    together = engine.encode(images, np.arange(4))
    alone = [engine.encode(images[k : k + 1], np.array([k]))[0] for k in range(4)]
    for a, b in zip(together, alone, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5)
    forward, backward = engine.fuse(together), engine.fuse(together[::-1])
    np.testing.assert_array_equal(forward.labels, backward.labels)


def test_encoding_nothing_gives_nothing_and_fusing_nothing_is_an_error(tiny_model):
    engine = load_engine(tiny_model)
    assert engine.encode(pictures(1)[:0], np.empty(0, np.int64)) == []
    with pytest.raises(ValueError, match="nothing to fuse"):
        engine.fuse([])


def test_the_card_survives_the_file(tiny_model):
    assert load_engine(tiny_model).card == tiny_card()
    assert load_engine(tiny_model).card.synthetic_only


def test_an_unknown_engine_is_named(tiny_model):
    with pytest.raises(EngineError, match=r"'tensorflow'.*onnxruntime"):
        load_engine(tiny_model, engine="tensorflow")


# --- models that are none


def test_a_missing_folder_and_file_are_named(tmp_path, tiny_model):
    with pytest.raises(ModelError, match="no model folder"):
        load_engine(tmp_path / "nowhere")
    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    (broken / "fuse.onnx").unlink()
    with pytest.raises(ModelError, match=r"no model file .*fuse\.onnx"):
        load_engine(broken)


def test_a_damaged_file_is_named(tmp_path, tiny_model):
    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    path = broken / "encode.onnx"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ModelError, match=r"encode\.onnx"):
        load_engine(broken)


def test_a_foreign_model_is_refused(tmp_path, tiny_model):
    foreign = shutil.copytree(tiny_model, tmp_path / "foreign")
    model = onnx.load(foreign / "encode.onnx")
    del model.metadata_props[:]
    onnx.save(model, foreign / "encode.onnx")
    with pytest.raises(ModelError, match="no model card"):
        load_engine(foreign)


def test_graphs_of_two_models_are_refused(tmp_path):
    one = write_tiny_model(tmp_path / "one")
    two = write_tiny_model(tmp_path / "two", tiny_card(model_id="f" * 16))
    shutil.copy(two / "fuse.onnx", one / "fuse.onnx")
    with pytest.raises(ModelError, match="do not belong to the same model"):
        load_engine(one)


def test_swapped_graphs_are_refused(tmp_path):
    folder = write_tiny_model(tmp_path / "swapped")
    (folder / "encode.onnx").rename(folder / "x")
    (folder / "fuse.onnx").rename(folder / "encode.onnx")
    (folder / "x").rename(folder / "fuse.onnx")
    with pytest.raises(ModelError, match="holds the graph 'fuse', expected 'encode'"):
        load_engine(folder)


def test_a_card_that_contradicts_its_graph_is_refused(tmp_path):
    folder = write_tiny_model(tmp_path / "m")
    for graph in ("encode", "fuse"):
        attach_card(folder / f"{graph}.onnx", tiny_card(width=256).for_graph(graph))
    with pytest.raises(ModelError, match="its card says"):
        load_engine(folder)


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda d: d.update(schema_version=2), "schema 2"),
        (lambda d: d.pop("classes"), "no 'classes'"),
        (lambda d: d["input"].update(width=100), "multiples of 32"),
        (lambda d: d["modalities"].clear(), "names no modality"),
        (lambda d: d["modalities"].update(radar={}), "'radar'"),
        (lambda d: d["modalities"]["depth"].update(encoding="hha"), "no encoding 'hha'"),
        (lambda d: d["modalities"]["depth"].update(std=[0, 1, 1]), "std positive"),
        (lambda d: d.update(graph="decode"), "graph 'decode'"),
    ],
)
def test_a_wrong_card_is_refused_by_field(break_it, said):
    import json

    data = json.loads(tiny_card().to_json())
    break_it(data)
    with pytest.raises(ModelError, match=said):
        ModelCard.from_json(json.dumps(data), "model.onnx")


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"schema_version": 1}'])
def test_a_card_that_is_none_is_refused(text):
    with pytest.raises(ModelError, match=r"^model\.onnx"):
        ModelCard.from_json(text, "model.onnx")


def test_attaching_a_card_twice_keeps_one(tmp_path):
    folder = write_tiny_model(tmp_path / "m")
    attach_card(folder / "encode.onnx", tiny_card(name="second"))
    keys = [entry.key for entry in onnx.load(folder / "encode.onnx").metadata_props]
    assert keys.count(METADATA_KEY) == 1


def test_a_card_may_name_fewer_modalities():
    card = tiny_card(modalities=(Modality.CAMERA, Modality.LIDAR))
    assert ModelCard.from_json(card.to_json()).modalities == (Modality.CAMERA, Modality.LIDAR)
