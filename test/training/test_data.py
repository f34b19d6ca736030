"""Street files become batches: right pixels, reproducible, subsets as drawn."""

import json
import shutil
from collections import Counter

import cv2
import numpy as np
import pytest
import yaml
from street_on_disk import HEIGHT, WIDTH, write_street

from anyseg_ros.modality import MODALITIES, Modality
from training.data.batches import StepBatches, StepSampler, draw_subsets, split_planes
from training.data.street import (
    DataSetError,
    ImageSpec,
    StreetData,
    class_set,
    list_frames,
    provenance,
)
from training.data.transforms import LABEL_PLANE, AugmentConfig, augment

SPEC = ImageSpec(WIDTH, HEIGHT)
EVENT = slice(3 * Modality.EVENT, 3 * Modality.EVENT + 3)
CROP = AugmentConfig(crop_height=32, crop_width=64)


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    return write_street(tmp_path_factory.mktemp("street"))


@pytest.fixture(scope="module")
def data(street):
    return StreetData(street, "train", SPEC, workers=0)


def test_planes_hold_every_sensor_and_the_label(street, data):
    images, label = split_planes(data.planes(1))
    drive = street / "train" / "drive_0000"
    expected = cv2.imread(str(drive / "label/000001.png"), cv2.IMREAD_UNCHANGED)
    camera = cv2.imread(str(drive / "camera/000001.png"))[:, :, ::-1]
    np.testing.assert_array_equal(label, expected)
    np.testing.assert_array_equal(images[Modality.CAMERA].transpose(1, 2, 0), camera)
    for modality in (Modality.DEPTH, Modality.LIDAR):
        assert (images[modality].max(axis=0) > 0).mean() > 0.5, modality
    brighter, elevation, darker = images[Modality.EVENT]
    assert 0.0 < (np.maximum(brighter, darker) > 0).mean() < 0.5
    assert (elevation > 0).all()


def test_nearer_things_differ_from_farther_ones_in_depth_and_lidar(data):
    images, label = split_planes(data.planes(0))
    for modality in (Modality.DEPTH, Modality.LIDAR):
        image = images[modality].astype(float)
        road, sky = label == 0, label == 10
        assert np.abs(image[:, road].mean(axis=1) - image[:, sky].mean(axis=1)).max() > 10, modality


def test_the_cache_is_used_and_depends_on_the_encodings(street, data, monkeypatch):
    def fail(*_):
        raise AssertionError("built again")

    monkeypatch.setattr("training.data.street.build_planes", fail)
    again = StreetData(street, "train", SPEC, workers=0)
    np.testing.assert_array_equal(again.planes(0), data.planes(0))
    with pytest.raises(AssertionError, match="built again"):
        StreetData(street, "train", ImageSpec(WIDTH, HEIGHT * 2), workers=0)


def test_weather_and_failure_come_along(street):
    frames = list_frames(street, "test")
    assert [f.weather for f in frames] == ["clear", "fog"] * 2
    assert [f.failure for f in frames] == [None, "motion_blur"] * 2


def test_missing_things_are_named(street, tmp_path):
    with pytest.raises(DataSetError, match=r"training\.simulation"):
        list_frames(tmp_path, "train")
    broken = write_street(tmp_path / "broken", frames=1)
    (broken / "val/drive_0000/lidar/000000.npz").unlink()
    with pytest.raises(DataSetError, match=r"lidar/000000 .*npz"):
        StreetData(broken, "val", SPEC, workers=0)
    path = broken / "train/drive_0000/calibration.yaml"
    calibration = yaml.safe_load(path.read_text())
    del calibration["sensors"]["lidar"]["grid_from_sensor"]
    path.write_text(yaml.safe_dump(calibration))
    with pytest.raises(DataSetError, match=r"calibration.yaml.*grid_from_sensor for lidar"):
        StreetData(broken, "train", SPEC, workers=0)
    (broken / "test/drive_0000/frames.jsonl").write_text('{"index": 0}\n')
    with pytest.raises(DataSetError, match=r"frames.jsonl, line 1.*anchor_stamp_ns"):
        list_frames(broken, "test")


def labelled_wrongly(root, label, name="000001.png"):
    street = write_street(root, frames=3)
    path = street / "train/drive_0000/label" / name
    cv2.imwrite(str(path), label)
    return street, path


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (np.full((HEIGHT, WIDTH), 40, np.uint8), "holds 40; expected ids of the 19 classes"),
        (
            np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint8),
            "19, 20, 21, 22, 23 and",
        ),
        (
            np.zeros((HEIGHT, HEIGHT), np.uint8),
            f"is {HEIGHT} x {HEIGHT}; expected the aspect ratio",
        ),
        (np.zeros((HEIGHT, WIDTH, 3), np.uint8), "has 3 channels of uint8; expected class ids"),
        (np.zeros((HEIGHT, WIDTH), np.uint16), "has 1 channel of uint16; expected class ids"),
    ],
    ids=["id", "ids", "size", "colour", "16 bits"],
)
def test_labels_that_would_train_something_else_are_refused_by_name(tmp_path, label, said):
    street, path = labelled_wrongly(tmp_path / "street", label)
    with pytest.raises(DataSetError) as caught:
        StreetData(street, "train", SPEC, workers=0)
    assert str(caught.value).startswith(
        f"{path} {said}" if said[0] != "1" else f"{path} holds {said}"
    )


def test_labels_of_the_raw_pictures_size_are_scaled(tmp_path):
    label = np.zeros((3 * HEIGHT, 3 * WIDTH), np.uint8)
    label[:, WIDTH:] = 7
    street, _ = labelled_wrongly(tmp_path / "street", label)
    planes = StreetData(street, "train", SPEC, workers=0).planes(1)[LABEL_PLANE]
    np.testing.assert_array_equal(planes, label[::3, ::3])


def test_a_label_that_belongs_to_no_frame_is_not_missed_in_silence(tmp_path):
    street, path = labelled_wrongly(
        tmp_path / "street", np.zeros((HEIGHT, WIDTH), np.uint8), "1.png"
    )
    with pytest.raises(DataSetError, match=r"label/1.png belongs to no frame .* 000000.png"):
        StreetData(street, "train", SPEC, workers=0)
    path.unlink()
    (path.parent / ".hidden").touch()
    StreetData(street, "train", SPEC, workers=0)
    (path.parent / "000002.png").unlink()
    with pytest.raises(DataSetError, match=r"no .*label/000002 with suffix .png"):
        StreetData(street, "train", SPEC, workers=0)


def test_own_classes_are_those_of_dataset_yaml(tmp_path):
    street = write_street(tmp_path / "street", frames=2)
    path = street / "dataset.yaml"
    about = yaml.safe_load(path.read_text())
    names = ["floor", "shelf", "person"]
    path.write_text(yaml.safe_dump({**about, "classes": names}))
    found = class_set(street)
    assert found.names == tuple(names) and len(set(found.colors)) == 3
    assert found.colors[2] == (220, 20, 60), "Cityscapes' own"
    with pytest.raises(
        DataSetError, match=r"ids of the 3 classes in dataset.yaml, 0 to 2, and 255"
    ):
        StreetData(street, "train", SPEC, workers=0)
    path.write_text(yaml.safe_dump({**about, "classes": names, "class_colors": [[1, 2, 3]] * 3}))
    assert class_set(street).colors == ((1, 2, 3),) * 3
    for wrong in (
        {"classes": ["a", "a"]},
        {"classes": "road"},
        {"classes": names, "class_colors": [[1]]},
    ):
        path.write_text(json.dumps(wrong))
        with pytest.raises(DataSetError, match=r"dataset.yaml"):
            class_set(street)
    path.write_text("{}")
    assert len(class_set(street)) == 19


def test_sizes_of_subsets_are_uniform_and_members_too():
    rng = np.random.default_rng(0)
    present = np.concatenate([draw_subsets(6, MODALITIES, rng) for _ in range(2000)])
    sizes = Counter(present.sum(axis=1).tolist())
    assert set(sizes) == {1, 2, 3, 4}
    for size in sizes:
        assert sizes[size] / len(present) == pytest.approx(0.25, abs=0.02)
    assert present.mean(axis=0) == pytest.approx([0.625] * 4, abs=0.02)


def test_a_batch_of_a_multiple_of_four_costs_the_same_each_step():
    rng = np.random.default_rng(0)
    assert {int(draw_subsets(8, MODALITIES, rng).sum()) for _ in range(50)} == {20}


def test_subsets_stay_within_the_modalities_trained_on():
    present = draw_subsets(20, [Modality.DEPTH, Modality.LIDAR], np.random.default_rng(0))
    assert not present[:, [Modality.CAMERA, Modality.EVENT]].any()
    assert present.any(axis=1).all()


def test_a_step_always_gives_the_same_batch_and_another_a_different_one(data):
    first, again = (StepBatches(data, CROP, 4, seed=3)[7] for _ in range(2))
    for left, right in zip(first, again, strict=True):
        assert left.equal(right)
    other = StepBatches(data, CROP, 4, seed=3)[8]
    assert not other.images.equal(first.images)
    assert first.images.shape == (4, 4, 3, 32, 64) and first.labels.shape == (4, 32, 64)


def test_every_sample_is_seen_once_a_pass(data):
    batches = StepBatches(data, CROP, 2, seed=0)
    seen = [batches._sample(position) for position in range(2 * len(data))]
    assert sorted(seen[: len(data)]) == sorted(seen[len(data) :]) == list(range(len(data)))


def test_processes_share_the_joint_batch(data):
    whole = StepBatches(data, CROP, 4, seed=1)[5]
    parts = [StepBatches(data, CROP, 4, seed=1, rank=r, world_size=2)[5] for r in range(2)]
    for rank, part in enumerate(parts):
        assert part.images.equal(whole.images[2 * rank : 2 * rank + 2])
        assert part.present.equal(whole.present[2 * rank : 2 * rank + 2])


def test_an_epoch_begins_at_the_step_that_was_reached():
    assert list(StepSampler(3, lambda: 6)) == [6, 7, 8]


def test_augmentation_keeps_sensors_and_label_aligned(data):
    planes = np.array(data.planes(0))
    # Give each sensor the label itself: wherever a pixel goes, they must go together.
    planes[:LABEL_PLANE] = planes[LABEL_PLANE]
    config = AugmentConfig(
        crop_height=32, crop_width=64, color=0.0, empty_event=0.0, thin_event=0.0
    )
    for seed in range(20):
        out = augment(planes, config, np.random.default_rng(seed))
        assert out.shape == (LABEL_PLANE + 1, 32, 64)
        for modality in (Modality.DEPTH, Modality.EVENT, Modality.LIDAR):
            np.testing.assert_array_equal(out[3 * modality], out[LABEL_PLANE])
        camera_off = np.abs(out[0].astype(int) - out[LABEL_PLANE].astype(int)) > 1
        assert camera_off.mean() < 0.25  # filtered at the edges


def test_event_images_lose_a_share_of_their_pixels_at_times(data):
    config = AugmentConfig(crop_height=32, crop_width=64, empty_event=0.0, thin_event=1.0)
    full = AugmentConfig(crop_height=32, crop_width=64, empty_event=0.0, thin_event=0.0)
    planes = np.array(data.planes(0))
    for seed in range(5):
        thinned = augment(planes, config, np.random.default_rng(seed))[EVENT]
        whole = augment(planes, full, np.random.default_rng(seed))[EVENT]
        kept = (thinned == whole)[[0, 2]].all(axis=0)
        # Both polarities of a pixel go together; the elevation is no event and stays.
        assert (kept | (thinned[[0, 2]] == 0).all(axis=0)).all()
        np.testing.assert_array_equal(thinned[1], whole[1])


def test_event_images_are_empty_at_times(data):
    config = AugmentConfig(crop_height=32, crop_width=64, empty_event=1.0)
    out = augment(np.array(data.planes(0)), config, np.random.default_rng(0))
    assert not out[EVENT][[0, 2]].any()
    assert out[EVENT][1].all()


def test_only_rendered_data_count_as_synthetic(tmp_path):
    (tmp_path / "mine").mkdir()
    path = tmp_path / "mine" / "dataset.yaml"
    path.write_text("command: python -m training.simulation dataset --out OUT\n")
    assert provenance(path.parent) == {"name": "synthetic street", "synthetic_only": True}
    path.write_text("command: anyseg-evaluate drive --extract mine\n")
    assert provenance(path.parent) == {"name": "mine", "synthetic_only": False}
    for wrong in ("- 1\n", "{"):
        path.write_text(wrong)
        with pytest.raises(DataSetError, match=r"dataset\.yaml"):
            provenance(path.parent)


def test_a_rendering_that_was_killed_is_no_split(street, tmp_path):
    root = tmp_path / "half"
    shutil.copytree(street, root)
    there = len(list_frames(root, "test"))
    planned = {"drives": {"test": there}, "frames_per_drive": 1}
    (root / "dataset.yaml").write_text(yaml.safe_dump(planned))
    assert len(list_frames(root, "test")) == there
    planned["frames_per_drive"] = 2
    (root / "dataset.yaml").write_text(yaml.safe_dump(planned))
    with pytest.raises(DataSetError, match=f"holds {there} of {2 * there} frames"):
        list_frames(root, "test")
