"""DeLiVER and MUSES on small trees in their exact layout, with their traps; the published tables."""

import re
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from test_reference_checkpoints import encoder_shapes, linear, random_weights, saved

from anyseg_ros.modality import Modality
from training import evaluate, train
from training.data.deliver import DELIVER_25, DeliverData, training_ids
from training.data.muses import MusesData, MusesDataModule
from training.data.published import PUBLISHED, comparison
from training.data.published_transforms import (
    PublishedAugment,
    change_color,
    resize_for_validation,
    resize_image,
)
from training.data.street import DataSetError
from training.data.transforms import LABEL_PLANE, PLANES
from training.methods.anyseg import AnySegStudent
from training.methods.m3l import M3L, AnySegM3L
from training.methods.magic_style import MagicStyle
from training.methods.mean_teacher import MeanTeacher
from training.methods.supervised import Supervised
from training.models.encoder import MixTransformer
from training.models.reference_checkpoints import (
    IMAGENET_CAMERA,
    RAW_BYTES,
    import_imagenet_encoder,
)
from training.models.segmentor import (
    AnymodalSegmentor,
    LinearFusionConfig,
    NormalizationConfig,
    SegmentorConfig,
)
from training.models.strict import CheckpointError

SIDE = 64
ROOT = Path(__file__).resolve().parents[2]


def save(path, image):
    """Write an RGB(A) or one-channel picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if image.ndim == 3:
        code = cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR
        image = cv2.cvtColor(image, code)
    assert cv2.imwrite(str(path), image)


def flat(value, *channels, side=SIDE):
    return np.full((side, side, *channels), value, np.uint8)


@pytest.fixture(scope="module")
def deliver(tmp_path_factory):
    """Under a root whose name holds a weather and "img", which substring matching would trip over."""
    root = tmp_path_factory.mktemp("sun") / "rain_img" / "DELIVER"
    scenes = [
        ("cloud", "train", "MAP_1_point1", "000010"),
        ("sun", "train", "MAP_1_point2", "000011"),
        ("rain", "val", "MAP_2_point3_eventlowres", "000020"),
        ("fog", "val", "MAP_2_point4", "000021"),
        ("night", "test", "MAP_3_point5_lidarjitter", "000030"),
    ]
    for weather, split, scene, frame in scenes:
        place = Path(weather) / split / scene
        rgb = flat((200, 100, 50), 3)
        rgb[: SIDE // 2] = (10, 20, 30)
        save(root / "img" / place / f"{frame}_rgb_front.png", rgb)
        save(root / "hha" / place / f"{frame}_depth_front.png", flat((1, 2, 3), 3))
        save(root / "depth" / place / f"{frame}_depth_front.png", flat((99, 99, 99), 3))
        save(root / "lidar" / place / f"{frame}_lidar_front.png", flat((7, 8, 9, 255), 4))
        event = flat(0, side=16 if "eventlowres" in scene else SIDE)
        event[:, : len(event) // 2] = 250
        save(root / "event" / place / f"{frame}_event_front.png", event)
        label = flat((1, 77, 88, 255), 4)
        label[:4] = (0, 77, 88, 255)
        label[4:8] = (255, 77, 88, 255)
        label[8:12] = (25, 77, 88, 255)
        save(root / "semantic" / place / f"{frame}_semantic_front.png", label)
    return root


def test_deliver_labels_wrap():
    stored = np.array([0, 1, 25, 255], np.uint8)
    assert training_ids(stored).tolist() == [255, 0, 24, 255]


def test_deliver_planes_hold_each_sensor(deliver):
    data = DeliverData(deliver, "train")
    planes = data.planes(0)
    assert len(data) == 2 and planes.shape == (PLANES, SIDE, SIDE) and planes.dtype == np.uint8
    pixel = planes[:, -1, 0].tolist()
    assert pixel[:12] == [200, 100, 50, 1, 2, 3, 250, 250, 250, 7, 8, 9], "RGB, HHA, event, LiDAR"
    assert planes[LABEL_PLANE, [0, 4, 8, 12], 0].tolist() == [255, 255, 24, 0]


def test_deliver_conditions_are_parts_of_the_path(deliver):
    assert [f.conditions for f in DeliverData(deliver, "train").frames] == [
        ("cloud", "no_failure"),
        ("sun", "no_failure"),
    ]
    assert [f.conditions for f in DeliverData(deliver, "val").frames] == [
        ("fog", "no_failure"),
        ("rain", "eventlowres"),
    ]


def test_deliver_small_event_pictures_grow_without_new_values(deliver):
    planes = DeliverData(deliver, "val", shorter=SIDE).planes(1)
    event = planes[3 * Modality.EVENT]
    assert event.shape == (SIDE, SIDE)
    assert (event[:, : SIDE // 2] == 250).all() and (event[:, SIDE // 2 :] == 0).all()


def test_deliver_validation_frames_are_scaled_to_multiples_of_32(deliver):
    planes = DeliverData(deliver, "val", shorter=72).planes(0)
    assert planes.shape == (PLANES, 96, 96)
    assert set(np.unique(planes[LABEL_PLANE])) == {0, 24, 255}


def test_missing_files_are_named(deliver, tmp_path):
    with pytest.raises(DataSetError, match=r"is .* the folder DELIVER"):
        DeliverData(deliver.parent, "val")
    alone = tmp_path / "img" / "fog" / "train" / "MAP_1"
    save(alone / "000001_rgb_front.png", flat(3, 3))
    with pytest.raises(DataSetError, match=r"no .*hha.fog.train.MAP_1.000001_depth_front\.png"):
        DeliverData(tmp_path, "train").planes(0)
    save(tmp_path / "hha/fog/train/MAP_1/000001_depth_front.png", np.zeros((4, 4), np.uint16))
    with pytest.raises(DataSetError, match="uint16"):
        DeliverData(tmp_path, "train").planes(0)


@pytest.fixture(scope="module")
def muses(tmp_path_factory):
    root = tmp_path_factory.mktemp(
        "frame_camera"
    )  # the published loader would rewrite this folder too
    for weather, time, split, stem in (
        ("clear", "day", "train", "REC1_frame_1"),
        ("snow", "night", "val", "REC2_frame_2"),
        ("rain", "day", "val", "REC3_frame_3"),
        ("fog", "day", "test", "REC4_frame_4"),
    ):
        place = Path(split) / weather / time
        camera = np.zeros((27, 48, 3), np.uint8)
        camera[:, 24:] = (200, 100, 50)
        for sensor, image in (
            ("frame_camera", camera),
            ("event_camera", np.zeros_like(camera) + np.uint8(9)),
            ("lidar", np.zeros_like(camera) + np.uint8(5)),
        ):
            save(root / sensor / place / f"{stem}_{sensor}.png", image)
        if split != "test":
            label = np.full((27, 48), 2, np.uint8)
            label[:, 24:] = 255
            save(root / "gt_semantic" / place / f"{stem}_gt_labelTrainIds.png", label)
    return root


def test_muses_is_read_as_squares(muses):
    data = MusesData(muses, "val", SIDE)
    assert [f.conditions for f in data.frames] == [("rain", "day"), ("snow", "night")]
    planes = data.planes(0)
    assert planes.shape == (PLANES, SIDE, SIDE)
    assert planes[:, 5, -5].tolist()[:12] == [200, 100, 50, 0, 0, 0, 9, 9, 9, 5, 5, 5]
    assert planes[LABEL_PLANE, 0].tolist() == [2] * (SIDE // 2) + [255] * (SIDE // 2)
    overshoot = planes[0].astype(int).max()
    assert overshoot > 200, "bicubic, as published, also where it overshoots"


def test_muses_counts_unlabelled_pixels_as_road_where_told(muses):
    label = MusesData(muses, "val", SIDE, unlabelled_is_road=True).planes(0)[LABEL_PLANE]
    assert sorted(np.unique(label)) == [0, 2]


def test_muses_says_that_test_labels_are_withheld_and_that_there_is_no_depth(muses):
    with pytest.raises(DataSetError, match="withholds"):
        MusesData(muses, "test", SIDE).planes(0)
    with pytest.raises(ValueError, match="no depth"):
        MusesDataModule(muses, modalities=("camera", "depth"))


def test_both_normalisations_of_muses():
    network = AnymodalSegmentor(SegmentorConfig(head_width=16, normalization=RAW_BYTES))
    ids = torch.tensor([0, 2, 3])
    images = torch.full((3, 3, 32, 32), 128.0)
    torch.testing.assert_close(network.normalize(images, ids), images)
    other = AnymodalSegmentor(SegmentorConfig(head_width=16, normalization=IMAGENET_CAMERA))
    values = other.normalize(images, ids)[:, 0, 0, 0]
    expected = [(128 / 255 - 0.485) / 0.229, 128 / 255, 128 / 255]
    torch.testing.assert_close(values, torch.tensor(expected))


@pytest.mark.parametrize(
    "name", ["deliver_teacher", "deliver_anyseg", "muses_teacher", "muses_anyseg"]
)
def test_configurations_hold_the_published_settings(name):
    document = yaml.safe_load((ROOT / f"training/configs/{name}.yaml").read_text())
    model, data = document["model"]["init_args"], document["data"]["init_args"]
    table = model["network"]["normalization"]
    given = NormalizationConfig(**{key: tuple(value) for key, value in table.items()})
    assert given == IMAGENET_CAMERA
    epoch = data["loader"]["steps_per_epoch"]
    assert document["trainer"]["max_steps"] == 200 * epoch
    assert model["optimizer"]["warmup_steps"] == 10 * epoch
    assert model["optimizer"]["learning_rate"] == (6e-5 if "deliver" in name else 1.2e-4)


@pytest.mark.parametrize("method", [Supervised, AnySegStudent, MagicStyle, MeanTeacher, AnySegM3L])
def test_training_begins_with_imagenet_weights_where_told(method, tmp_path):
    weights = random_weights({**encoder_shapes(), **linear("head", 1000, 256)})
    path = saved(weights, tmp_path / "mit_b0.pth")
    network = SegmentorConfig(head_width=16)
    more = {}
    if method is AnySegStudent:
        teacher = Supervised(network)
        more["teacher"] = saved(
            {
                "segmentor": asdict(network),
                "state_dict": {f"network.{k}": v for k, v in teacher.network.state_dict().items()},
                "global_step": 0,
                "method": {"name": "Supervised", "seed": 0},
                "data": {},
            },
            tmp_path / "teacher.ckpt",
        )
    begun = method(network=network, imagenet=path, **more).network
    assert torch.equal(
        begun.encoder.stages[0].patch_embed.proj.weight, weights["patch_embed1.proj.weight"]
    )
    with pytest.raises(ValueError, match="mit_b0"):
        method(network=SegmentorConfig(encoder="fast_xs", head_width=16), imagenet=path, **more)
    with pytest.raises(ValueError, match="start_from and imagenet both"):
        method(network=network, imagenet=path, start_from=path, **more)


def test_m3l_begins_with_imagenet_weights_and_their_norms_in_every_stream(tmp_path):
    weights = random_weights({**encoder_shapes(), **linear("head", 1000, 256)})
    path = saved(weights, tmp_path / "mit_b0.pth")
    network = SegmentorConfig(head_width=16, linear_fusion=LinearFusionConfig())
    begun = M3L(network=network, imagenet=path)
    plain = MixTransformer("mit_b0")
    import_imagenet_encoder(path, plain)
    for encoder in (begun.network.encoder, begun.teacher_network.encoder):
        own = encoder.state_dict()
        shared = [name for name in own if ".norms." not in name and name != "mask_token"]
        assert {n: own[n].tolist() for n in shared} == {
            n: plain.state_dict()[n].tolist() for n in shared
        }
        norms = [name for name in own if ".norms." in name]
        assert len(norms) + len(shared) + 1 == len(own) and norms
        for name in norms:
            bare = re.sub(r"norms\.\d\.", "", name)
            assert torch.equal(own[name], plain.state_dict()[bare]), name
    with pytest.raises(CheckpointError, match="wrong shape"):
        M3L(network=replace(network, encoder="mit_b1"), imagenet=path)


def test_color_changes_by_hand():
    image = np.zeros((3, 1, 2), np.uint8)
    image[:, 0, 0], image[:, 0, 1] = (100, 50, 200), (10, 10, 10)
    bright = change_color(image, 1.5, 1.0, 1.0)
    assert bright[:, 0, 0].tolist() == [150, 75, 255]
    gray = change_color(image, 1.0, 1.0, 0.0)
    assert gray[:, 0, 0].tolist() == [int(0.2989 * 100 + 0.587 * 50 + 0.114 * 200)] * 3
    even = change_color(image, 1.0, 0.0, 1.0)
    assert (even == even[0, 0, 0]).all()


def test_published_augmentation_keeps_images_and_label_together():
    rng = np.random.default_rng(0)
    planes = np.repeat(rng.integers(0, 25, (1, 8, 8), np.uint8), PLANES, 0)
    planes = planes.repeat(12, axis=1).repeat(12, axis=2)
    config = PublishedAugment(64, 64, color=0.0, blur=0.0)
    padded = mirrored = 0
    for seed in range(20):
        out = config.apply(planes, np.random.default_rng(seed))
        assert out.shape == (PLANES, 64, 64)
        inside = out[LABEL_PLANE] != 255
        padded += not inside.all()
        mirrored += bool(out[0, 0, 0] != planes[0, 0, 0])
        same = (out[0] == out[LABEL_PLANE]) | ~inside
        assert same.mean() > 0.7, "they differ at most where bilinear mixes neighbours"
        assert (out[:LABEL_PLANE][:, ~inside] == 0).all()
        assert inside[0, 0], "padding is right and below"
    assert 0 < padded < 20 and mirrored
    again = config.apply(planes, np.random.default_rng(3))
    assert np.array_equal(again, config.apply(planes, np.random.default_rng(3)))


def test_resizing_does_not_filter():
    stripes = np.zeros((1, 4, 8), np.uint8)
    stripes[:, :, ::4] = 200
    small = resize_image(stripes, 2, 4)
    assert small[0, 0].tolist() == [100, 0, 100, 0], "two neighbours each, not an average of all"


def test_frames_that_fit_are_left_alone():
    planes = np.random.default_rng(0).integers(0, 256, (PLANES, 64, 96), np.uint8)
    assert np.array_equal(resize_for_validation(planes, 64), planes)


def test_published_means_are_those_of_the_papers():
    means = {
        (dataset, method): np.mean(list(values.values()))
        for dataset, methods in PUBLISHED.items()
        for method, values in methods.items()
    }
    expected = {
        ("deliver", "AnySeg"): 46.64,
        ("muses", "CMX"): 19.30,
        ("muses", "CMNeXt"): 10.80,
        ("muses", "MAGIC"): 33.34,
        ("muses", "Any2Seg"): 33.86,
        ("muses", "AnySeg"): 40.23,
    }
    assert means == pytest.approx(expected, abs=0.006)


def test_the_comparison_puts_measured_and_published_side_by_side():
    measured = {"camera": 50.0, "event": 20.0}
    table = comparison(measured, "muses").splitlines()
    assert table[2].startswith("| camera | 50.00 |") and table[2].endswith("| 46.01 |")
    assert table[-1].startswith("| mean |  |"), "no mean of a part"


def tiny_run(path, module, root, classes, **data):
    document = {
        "threads": 1,
        "model": {
            "class_path": "training.methods.supervised.Supervised",
            "init_args": {
                "network": {"head_width": 16, "classes": classes},
                "optimizer": {"warmup_steps": 1},
            },
        },
        "data": {
            "class_path": module,
            "init_args": {
                "root": str(root),
                "augment": {"crop_height": 32, "crop_width": 32},
                "loader": {"batch_size": 2, "steps_per_epoch": 2},
                **data,
            },
        },
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 2,
            "max_epochs": -1,
            "num_sanity_val_steps": 0,
            "enable_progress_bar": False,
            "use_distributed_sampler": False,
        },
    }
    path.write_text(yaml.safe_dump(document))
    train.main(["fit", "--config", str(path), "--runs", str(path.parent), "--name", "run"])
    return path.parent / "run" / "checkpoints" / "last.ckpt"


def test_deliver_trains_and_prints_the_published_rows(deliver, tmp_path, capsys):
    module = "training.data.deliver.DeliverDataModule"
    checkpoint = tiny_run(tmp_path / "c.yaml", module, deliver, len(DELIVER_25), shorter=SIDE)
    arguments = ["--checkpoint", str(checkpoint), "--data", str(deliver), "--split", "val"]
    rows = evaluate.main(arguments)
    assert {row["condition"] for row in rows} == {"all", "fog", "rain", "no_failure", "eventlowres"}
    assert len([row for row in rows if row["condition"] == "all"]) == 16
    printed = capsys.readouterr().out
    assert "| sensors | measured | AnySeg |" in printed and "| 60.26 |" in printed


def test_muses_trains_without_depth_and_prints_the_published_rows(muses, tmp_path, capsys):
    module = "training.data.muses.MusesDataModule"
    checkpoint = tiny_run(tmp_path / "c.yaml", module, muses, 19, side=SIDE)
    arguments = ["--checkpoint", str(checkpoint), "--data", str(muses), "--split", "val"]
    rows = evaluate.main([*arguments, "--unlabelled_is_road"])
    assert {row["subset"] for row in rows if row["condition"] == "snow"} == {
        *("camera", "event", "lidar", "camera+event", "camera+lidar", "event+lidar"),
        "camera+event+lidar",
        "mean",
    }
    assert "| mean |" in capsys.readouterr().out
    logged = (tmp_path / "run" / "log" / "version_0" / "metrics.csv").read_text()
    assert "val/miou/camera+event+lidar" in logged and "depth" not in logged
