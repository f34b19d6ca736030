"""A run from the command line: it learns, resumes to the same weights, exports, evaluates."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import yaml
from street_on_disk import HEIGHT, WIDTH, write_street

from anyseg_ros.engine import load_engine
from anyseg_ros.modality import all_subsets, subset_name
from training import evaluate, export, train
from training.data.batches import Batch
from training.errors import SettingsError
from training.methods.schedule import OptimizerConfig, rate_factor
from training.methods.supervised import Supervised, supervised_loss
from training.models.checkpoint import load_trained
from training.models.segmentor import LinearFusionConfig, SegmentorConfig
from training.models.strict import CheckpointError

ROOT = Path(__file__).resolve().parents[2]


def test_learning_rate_warms_up_and_decays():
    config = OptimizerConfig(warmup_steps=10, warmup_start=0.1, power=0.9)
    factors = [rate_factor(step, 100, config) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[5] == pytest.approx(0.55 * 0.95**0.9)
    assert factors[50] == pytest.approx(0.5**0.9)
    assert factors[100] == 0.0
    assert max(factors) == factors[10]


def test_the_published_schedule_decays_after_the_warm_up():
    config = OptimizerConfig(
        warmup_steps=4970, warmup_start=0.1, decay_after_warmup=True, horizon=99_897
    )
    assert rate_factor(0, 99_400, config) == pytest.approx(0.1)
    assert rate_factor(4970, 99_400, config) == 1.0
    left = (99_897 - 99_400) / (99_897 - 4970)
    assert rate_factor(99_400, 99_400, config) == pytest.approx(left**0.9)


def test_scaled_gradients_are_clipped_without_their_scale(monkeypatch):
    method = Supervised(SegmentorConfig(head_width=16))
    for precision, fused in (("16-mixed", False), ("bf16-mixed", True)):
        trainer = SimpleNamespace(precision=precision, max_steps=5)
        monkeypatch.setattr(Supervised, "trainer", trainer, raising=False)
        optimizer = method.configure_optimizers()["optimizer"]
        # Lightning takes the scale off before clipping unless the optimizer says that it does so itself.
        assert getattr(optimizer, "_step_supports_amp_scaling", False) == fused


@pytest.mark.parametrize(
    "path", sorted((ROOT / "training/configs").glob("*.yaml")), ids=lambda p: p.stem
)
def test_the_configurations_of_the_project_are_valid(path, capsys):
    with pytest.raises(SystemExit) as ended:
        train.main(["fit", "--config", str(path), "--print_config"])
    assert ended.value.code == 0
    stated = yaml.safe_load(path.read_text())
    resolved = yaml.safe_load(capsys.readouterr().out)
    assert resolved["model"]["class_path"] == stated["model"]["class_path"]
    for key, value in stated["data"]["init_args"]["loader"].items():
        assert resolved["data"]["init_args"]["loader"][key] == value


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    return write_street(tmp_path_factory.mktemp("street"))


def tiny_config(
    street,
    path,
    method="training.methods.supervised.Supervised",
    max_steps=6,
    steps_per_epoch=3,
    **settings,
):
    """Write the configuration of a run of a few steps on a tiny data set."""
    settings = {"network": {"head_width": 32}, "optimizer": {"warmup_steps": 2}, **settings}
    document = {
        "threads": 1,
        "model": {"class_path": method, "init_args": settings},
        "data": {
            "class_path": "training.data.batches.StreetDataModule",
            "init_args": {
                "root": str(street),
                "height": HEIGHT,
                "width": WIDTH,
                "augment": {"crop_height": 32, "crop_width": 64},
                "loader": {
                    "batch_size": 4,
                    "steps_per_epoch": steps_per_epoch,
                    "build_workers": 0,
                },
            },
        },
        "trainer": {
            "accelerator": "cpu",
            "max_steps": max_steps,
            "max_epochs": -1,
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 0,
            "enable_progress_bar": False,
            "use_distributed_sampler": False,
        },
    }
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture(scope="module")
def config(street, tmp_path_factory):
    return tiny_config(street, tmp_path_factory.mktemp("config") / "tiny.yaml")


def fit(config, runs, *more):
    train.main(["fit", "--config", str(config), "--runs", str(runs), "--name", "tiny", *more])
    return runs / "tiny" / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def checkpoint(config, tmp_path_factory):
    return fit(config, tmp_path_factory.mktemp("runs"))


class KilledError(Exception):
    """Stands for the end of a process in the middle of a run."""


def test_a_killed_run_resumes_to_the_same_weights(config, checkpoint, tmp_path, monkeypatch):
    whole_step = Supervised.training_step

    def step_or_die(self, batch, batch_idx):
        if self.global_step == 4:  # one step after the checkpoint of the first epoch
            raise KilledError
        return whole_step(self, batch, batch_idx)

    monkeypatch.setattr(Supervised, "training_step", step_or_die)
    with pytest.raises(KilledError):
        fit(config, tmp_path)
    monkeypatch.undo()
    resumed = torch.load(fit(config, tmp_path), weights_only=True)
    straight = torch.load(checkpoint, weights_only=True)
    assert resumed["global_step"] == straight["global_step"] == 6
    for name, value in straight["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], value), name


def test_a_finished_run_says_that_nothing_is_left(config, checkpoint, capfd):
    before = torch.load(checkpoint, weights_only=True)["state_dict"]
    fit(config, checkpoint.parents[2])
    assert "at step 6 of 6\nnothing is left to train" in capfd.readouterr().out
    after = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("capability", "precision", "told"),
    [("AVX2", "bf16-mixed", True), ("AVX512", "bf16-mixed", False), ("AVX2", "32-true", False)],
)
def test_bf16_on_a_cpu_without_it_is_told(
    config, checkpoint, capfd, monkeypatch, capability, precision, told
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(train.platform, "machine", lambda: "x86_64")
    fit(config, checkpoint.parents[2], "--trainer.precision", precision)  # nothing left to train
    assert ("--trainer.precision 32-true" in capfd.readouterr().out) == told


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (["--trainer.max_steps=-1", "--trainer.max_epochs=2"], "max_steps must be given"),
        (["--trainer.accumulate_grad_batches=2"], "accumulate_grad_batches must be 1"),
        (["--model.init_args.network.classes=5"], "classes is 5, but the data set has 19 classes"),
    ],
)
def test_settings_that_would_train_otherwise_are_refused(config, tmp_path, setting, message):
    with pytest.raises(ValueError, match=message):
        fit(config, tmp_path, *setting)


def test_a_run_does_not_go_on_with_other_data_or_another_network(config, checkpoint, tmp_path):
    shutil.copytree(checkpoint.parents[1], tmp_path / "tiny")
    other = write_street(tmp_path / "other")
    about = yaml.safe_load((other / "dataset.yaml").read_text())
    (other / "dataset.yaml").write_text(
        yaml.safe_dump({**about, "command": "anyseg-evaluate --extract"})
    )
    for setting, said in (
        (
            f"data.init_args.root={other}",
            r"settings of the data \(name synthetic street, now other",
        ),
        ("data.init_args.seed=5", r"settings of the data \(seed 0, now 5\): choose another --name"),
        (
            "model.init_args.network.head_width=8",
            r"settings of the network \(head_width 32, now 8\)",
        ),
    ):
        with pytest.raises(SettingsError, match=said):
            fit(config, tmp_path, f"--{setting}")


def test_a_run_starts_from_a_network_of_other_classes(config, checkpoint, tmp_path, capsys):
    own = write_street(tmp_path / "own", frames=3)
    about = yaml.safe_load((own / "dataset.yaml").read_text())
    names = ["a", "b", "c"]
    (own / "dataset.yaml").write_text(yaml.safe_dump({**about, "classes": names}))
    for path in own.glob("*/*/label/*.png"):
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED) % 3)
    last = fit(
        config,
        tmp_path,
        f"--data.init_args.root={own}",
        f"--model.init_args.start_from={checkpoint}",
        "--model.init_args.network.classes=3",
        "--trainer.max_steps=1",
    )
    assert "of 19 classes there and 3 here, so head.classifier" in capsys.readouterr().out
    trained = load_trained(last)
    assert trained.data["class_names"] == names
    export.main([str(last), str(tmp_path / "model")])
    engine = load_engine(tmp_path / "model", "onnxruntime", 1)
    assert engine.card.classes.names == tuple(names)


def test_a_run_leaves_logs_configuration_and_checkpoints(checkpoint):
    run = checkpoint.parents[1]
    assert (run / "checkpoints" / "best.ckpt").is_file()
    rows = (run / "log" / "version_0" / "metrics.csv").read_text()
    assert "train/loss" in rows and "val/miou/camera+depth+event+lidar" in rows
    assert list((run / "tensorboard").glob("events*"))
    assert (
        yaml.safe_load((run / "log" / "version_0" / "config.yaml").read_text())["trainer"][
            "max_steps"
        ]
        == 6
    )


def test_a_run_starts_from_trained_weights(config, checkpoint, tmp_path):
    method = Supervised(SegmentorConfig(head_width=32), start_from=checkpoint)
    trained = load_trained(checkpoint).network.state_dict()
    for name, value in method.network.state_dict().items():
        assert torch.equal(value, trained[name]), name
    with pytest.raises(
        CheckpointError, match=r"(?s)cannot start from .*last\.ckpt.*head\.fuse\.weight"
    ):
        Supervised(SegmentorConfig(head_width=64), start_from=checkpoint)
    more = ["--model.init_args.start_from", str(checkpoint)]
    frozen = ["--model.init_args.optimizer.learning_rate", "0"]
    tuned = torch.load(fit(config, tmp_path, *more, *frozen), weights_only=True)["state_dict"]
    assert torch.equal(tuned["network.head.fuse.weight"], trained["head.fuse.weight"])


def test_each_modality_learns_alone_too():
    """The second loss is that of each modality's own prediction, where others are present."""
    method = Supervised(SegmentorConfig(head_width=32, dropout=0.0), alone=0.5).eval()
    method.log = lambda *_, **__: None
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 4, 3, 64, 64), generator=rng, dtype=torch.uint8)
    labels = torch.randint(0, 19, (3, 64, 64), generator=rng, dtype=torch.uint8)
    present = torch.tensor([[1, 0, 1, 1], [0, 0, 1, 0], [0, 1, 0, 1]], dtype=torch.bool)

    def loss(images, labels, present):
        logits = method.network.predictions(images, present)
        return supervised_loss(logits, labels, method.ohem)

    together = loss(images, labels, present)
    # The middle sample's only modality is no second prediction.
    own = [(0, 0), (0, 2), (0, 3), (2, 1), (2, 3)]
    only = torch.zeros(len(own), 4, dtype=torch.bool)
    for row, (_, modality) in enumerate(own):
        only[row, modality] = True
    samples = [sample for sample, _ in own]
    logits = method.network.predictions(images[samples], only)[0]
    quarter = labels[samples][:, 2::4, 2::4]
    alone = supervised_loss([logits], quarter, method.ohem)
    got = method.training_step(Batch(images, labels, present), 0)
    assert got.item() == pytest.approx((together + 0.5 * alone).item(), rel=1e-5)
    lonely = Batch(images[1:2], labels[1:2], present[1:2])
    expected = loss(lonely.images, lonely.labels, lonely.present)
    assert method.training_step(lonely, 0).item() == pytest.approx(expected.item(), rel=1e-5)
    with pytest.raises(ValueError, match="linear_fusion must be null"):
        Supervised(SegmentorConfig(linear_fusion=LinearFusionConfig()), alone=1.0)


def test_foreign_checkpoints_are_refused(tmp_path, checkpoint):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_trained(tmp_path / "none.ckpt")
    with pytest.raises(
        CheckpointError, match=r"folder of a run; name its checkpoint, .*last.ckpt$"
    ):
        load_trained(checkpoint.parents[1])
    (tmp_path / "text.ckpt").write_text("# no checkpoint")
    with pytest.raises(CheckpointError, match=r"text.ckpt is no readable checkpoint \(\w+\)$"):
        load_trained(tmp_path / "text.ckpt")
    with pytest.raises(export.ExportError, match=r"cannot make the folder .*text.ckpt: "):
        export.main([str(checkpoint), str(tmp_path / "text.ckpt")])
    other = tmp_path / "other.ckpt"
    torch.save({"weights": 1}, other)
    with pytest.raises(CheckpointError, match=r"other.ckpt is no checkpoint of"):
        load_trained(other)
    stored = torch.load(checkpoint, weights_only=True)
    del stored["state_dict"]["network.head.fuse.weight"]
    torch.save(stored, other)
    with pytest.raises(CheckpointError, match=r"head\.fuse\.weight"):
        load_trained(other)


def test_export_runs_in_the_engine_and_evaluates_alike(checkpoint, street, tmp_path, capsys):
    folder = tmp_path / "tiny_model"
    export.main([str(checkpoint), str(folder)])
    engine = load_engine(folder, "onnxruntime", 1)
    card = engine.card
    assert card.synthetic_only and card.provenance["steps"] == 6
    assert (card.input_width, card.input_height, len(card.classes)) == (WIDTH, HEIGHT, 19)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, HEIGHT, WIDTH, 3), np.uint8)
    for count in range(1, 5):
        output = engine.segment(images[:count], np.arange(count))
        assert output.labels.shape == output.confidence.shape == (HEIGHT, WIDTH)
    engine.close()

    common = ["--data", str(street), "--workers", "0", "--output", str(tmp_path / "rows.json")]
    from_model = evaluate.main(["--model", str(folder), "--method", "m", *common])
    from_torch = evaluate.main(["--checkpoint", str(checkpoint), "--method", "t", *common])
    majority = evaluate.main(["--majority", *common])
    names = [subset_name(s) for s in all_subsets()]
    assert [row["subset"] for row in from_model if row["condition"] == "all"] == [*names, "mean"]
    assert {row["condition"] for row in from_model} == {
        *("all", "clear", "fog", "no_failure", "motion_blur")
    }
    for left, right in zip(from_model, from_torch, strict=True):
        assert left["miou"] == pytest.approx(right["miou"], abs=0.2)
    written = json.loads((tmp_path / "rows.json").read_text())
    assert len(written["rows"]) == len(from_model) + len(from_torch) + len(majority)
    assert written["command"].count("training/evaluate.py") == 3
    assert "| camera+depth+event+lidar |" in capsys.readouterr().out
