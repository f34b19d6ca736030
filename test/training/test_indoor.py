"""Stanford Indoor and SUN RGB-D: their files are read, splits are held against the published ones."""

import cv2
import numpy as np
import pytest
from test_reference_checkpoints import m3l_shapes, random_weights, saved

from anyseg_ros.modality import Modality
from training import evaluate
from training.data import indoor
from training.data.batches import LoaderConfig
from training.data.few_labels import FewLabelBatches
from training.data.indoor import (
    FewLabelIndoor,
    IndoorData,
    IndoorFrame,
    area_frames,
    check_split,
    read_list,
    split_hash,
    sun_test_frames,
)
from training.data.sources import open_source
from training.data.street import DataSetError, ImageSpec
from training.data.transforms import LABEL_PLANE, AugmentConfig
from training.models.strict import CheckpointError

CROP = AugmentConfig(32, 64, 0.5, 2.0)


def picture(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)


@pytest.fixture(scope="module")
def stanford(tmp_path_factory):
    root = tmp_path_factory.mktemp("stanford")
    rng = np.random.default_rng(0)
    for area in (*"12346", "5a", "5b"):
        for index in range(2):
            folder = root / f"area_{area}"
            name = f"camera_{area}{index}_office_{index}_frame_{index}_domain"
            picture(folder / f"image/{name}.png", rng.integers(0, 256, (64, 128, 3), np.uint8))
            depth = rng.integers(500, 5000, (64, 128)).astype(np.uint16)
            depth[0, 0] = 0
            picture(folder / f"depth/{name}.png", depth)
            label = rng.integers(0, 13, (64, 128)).astype(np.uint8)
            label[5, 5] = 255
            picture(folder / f"label/{name}.png", label)
    return root


@pytest.fixture(scope="module")
def sun(tmp_path_factory):
    root = tmp_path_factory.mktemp("sun")
    for folder, numbers, shift in (("train", (1, 2, 3), 5050), ("test", (1, 5050), 0)):
        for n in numbers:
            picture(root / f"images/{folder}/img-{n:06d}.jpg", np.full((32, 64, 3), 9 * n % 256))
            picture(root / f"depth/{folder}/{n}.png", np.full((32, 64), 1000 + n, np.uint16))
            label = np.full((32, 64), n % 38, np.uint8)
            label[0] = 0
            picture(root / f"labels/{folder}/img-{n + shift:06d}.png", label)
    return root


def listing(path, lines):
    path.write_text("".join(line + "\n" for line in lines))
    return path


def test_stanford_frames_become_planes(stanford):
    frames = area_frames(stanford, ["2"])
    assert [f.area for f in frames] == ["2", "2"]
    planes = IndoorData(stanford, "stanford_indoor", frames).planes(1)
    folder, name = stanford / "area_2", frames[1].name
    rgb = cv2.imread(str(folder / f"image/{name}.png"))[..., ::-1]
    np.testing.assert_array_equal(planes[:3].transpose(1, 2, 0), rgb)
    depth = cv2.imread(str(folder / f"depth/{name}.png"), cv2.IMREAD_UNCHANGED).astype(float)
    gray = planes[3 * Modality.DEPTH]
    # The pixel without a return is the least value, 0; the published code rounds, a level apart at most.
    assert np.abs(gray - 255 * depth / depth.max()).max() <= 1.5
    assert gray[0, 0] == 0 and gray[1:].min() > 0
    assert (planes[3:6] == gray).all() and not planes[6:12].any()
    label = cv2.imread(str(folder / f"label/{name}.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(planes[LABEL_PLANE], label)


def test_sun_numbers_and_labels_follow_their_rules(sun):
    data = IndoorData(sun, "sun_rgbd", [IndoorFrame("train", "000002")], size=(64, 96))
    planes = data.planes(0)
    assert planes.shape == (13, 64, 96)
    assert set(np.unique(planes[LABEL_PLANE])) == {1, 255}  # 2 is the second class, 0 unlabelled
    assert data.available(0).tolist() == [True, True, False, False]
    assert sun_test_frames(sun) == [IndoorFrame("test", "000001")]  # 5050 is in no published list
    missing = IndoorData(sun, "sun_rgbd", [IndoorFrame("train", "000009")])
    with pytest.raises(DataSetError, match=r"img-000009\.jpg is missing"):
        missing.planes(0)


def test_lists_are_read_whatever_their_prefix(tmp_path):
    lines = [
        "/data/area_1/image/a.png\t/data/area_1/depth/a.png\t/data/area_1/label/a.png",
        "/final_data/area_5b/image/b.png.png\t/final_data/area_5b/depth/b.png.png",
        "",
    ]
    frames = read_list(listing(tmp_path / "list.txt", lines), "stanford_indoor")
    assert frames == [IndoorFrame("1", "a"), IndoorFrame("5b", "b")]
    sun = read_list(listing(tmp_path / "sun.txt", ["/images/train/img-000012.jpg\t/d"]), "sun_rgbd")
    assert sun == [IndoorFrame("train", "000012")]
    with pytest.raises(DataSetError, match=r"line 1: no image of sun_rgbd"):
        read_list(tmp_path / "list.txt", "sun_rgbd")
    with pytest.raises(DataSetError, match="twice"):
        read_list(listing(tmp_path / "two.txt", [lines[0], lines[0]]), "stanford_indoor")
    with pytest.raises(DataSetError, match="cannot read"):
        read_list(tmp_path / "none.txt", "sun_rgbd")


def test_the_hash_is_over_sorted_lines():
    frames = [IndoorFrame("2", "b"), IndoorFrame("1", "a")]
    # printf '1 a\n2 b\n' | sha256sum; printf '000002\n000010\n' | sha256sum
    assert split_hash(frames, "stanford_indoor") == "6bdf6e37dc327165"
    sun = [IndoorFrame("train", "000010"), IndoorFrame("train", "000002")]
    assert split_hash(sun, "sun_rgbd") == "419044eae65dbd6e"


def test_splits_are_held_against_the_published_counts_and_hashes(monkeypatch):
    numbers = [IndoorFrame("train", f"{n:06d}") for n in range(297)]
    with pytest.raises(DataSetError, match="296 frames, published are 297"):
        check_split(numbers[:-1], "1/16", "sun_rgbd")
    with pytest.raises(DataSetError, match=r"other ones .*062c1f26a3bec24a"):
        check_split(numbers, "1/16", "sun_rgbd")
    with pytest.raises(DataSetError, match="no published split '1/7'"):
        check_split(numbers, "1/7", "sun_rgbd")
    monkeypatch.setitem(indoor.SUN_HASHES, "1/16", split_hash(numbers, "sun_rgbd"))
    check_split(numbers, "1/16", "sun_rgbd")
    check_split(numbers[:95], "1/50", "sun_rgbd")  # known by count only
    assert indoor.STANFORD_COUNTS == {"train": 49_199, "val": 3_704, "test": 17_593}
    assert indoor.STANFORD_HASHES["1/100"] == "06b2d38b1f7b3ffd"


def test_the_data_module_gives_labelled_and_unlabelled_samples(stanford, tmp_path):
    train = area_frames(stanford, indoor.TRAIN_AREAS)
    line = f"/data/area_{train[3].area}/image/{train[3].name}.png\t/x\t/y"
    labelled_list = listing(tmp_path / "labelled.txt", [line])
    settings = {"augment": CROP, "height": 32, "width": 64, "loader": LoaderConfig(batch_size=2)}
    data = FewLabelIndoor(stanford, "stanford_indoor", labelled_list, **settings)
    labelled, unlabelled = data.frames()
    assert (len(labelled), len(unlabelled)) == (1, 7)
    batch = FewLabelBatches(labelled, unlabelled, CROP, 2, 0)[0]
    assert batch.labelled.present.tolist() == [[True, True, False, False]] * 2
    assert (batch.unlabelled.labels == 255).all() and (batch.labelled.labels < 13).any()
    samples = list(data.val_dataloader())
    assert len(samples) == 2 and samples[0].images.shape == (1, 4, 3, 32, 64)
    about = data.describe()
    assert about["modalities"] == ["camera", "depth"] and len(about["class_names"]) == 13
    with pytest.raises(DataSetError, match="8 frames, published are 49199"):
        FewLabelIndoor(
            stanford, "stanford_indoor", labelled_list, labelled_split="1/1000", **settings
        ).frames()
    stray = listing(tmp_path / "stray.txt", [line.replace("area_2", "area_3")])
    with pytest.raises(DataSetError, match="no training frames"):
        FewLabelIndoor(stanford, "stanford_indoor", stray, **settings).frames()
    with pytest.raises(DataSetError, match="needs the list train_list"):
        FewLabelIndoor(stanford, "sun_rgbd", stray, **settings).frames()


def test_splits_to_evaluate_on(stanford, sun, tmp_path):
    about = {"dataset": "stanford_indoor", "input_height": 32, "input_width": 64}
    spec = ImageSpec(64, 32)
    test = open_source(about, stanford, "test", spec)
    assert [f.area for f in test.frames] == ["5a", "5a", "5b", "5b"]
    assert test.frames[0].conditions == ("area_5a",) and test.planes(0).shape == (13, 32, 64)
    about["dataset"] = "sun_rgbd"
    assert len(open_source(about, sun, "test", spec)) == 1
    with pytest.raises(DataSetError, match=r"cannot read .*val\.txt"):
        open_source(about, sun, "val", spec)
    listing(sun / "val.txt", ["/images/train/img-000003.jpg\t/depth/train/3.png"])
    assert (open_source(about, sun, "val", spec).planes(0)[LABEL_PLANE, -1] == 2).all()
    with pytest.raises(DataSetError, match="no split 'all'"):
        open_source(about, sun, "all", spec)


def test_official_m3l_files_are_scored(stanford, tmp_path, capsys):
    path = saved(random_weights(m3l_shapes()), tmp_path / "supervised.pth")
    arguments = ["--official", str(path), "--dataset", "stanford_indoor", "--data", str(stanford)]
    rows = evaluate.main([*arguments, "--split", "test", "--frames", "1"])
    subsets = [row["subset"] for row in rows if row["condition"] == "all"]
    assert subsets == ["camera", "depth", "camera+depth", "mean"]
    assert "| camera+depth |" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match=r"supervised\.pth has 13 classes, SUN RGB-D 37"):
        evaluate.imported(path, "sun_rgbd", "bytes")


def test_images_of_another_size_are_refused(stanford, tmp_path):
    frame = area_frames(stanford, ["1"])[0]
    for kind in ("image", "depth", "label"):
        picture(tmp_path / f"area_1/{kind}/{frame.name}.png", np.zeros((32, 32), np.uint8))
    picture(tmp_path / f"area_1/depth/{frame.name}.png", np.zeros((16, 32), np.uint16))
    with pytest.raises(DataSetError, match="differ in size"):
        IndoorData(tmp_path, "stanford_indoor", [frame]).planes(0)
