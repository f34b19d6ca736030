"""The queue of experiments: order, dependencies, and that a kill at any time costs nothing but time."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from street_on_disk import HEIGHT, WIDTH, write_street

from anyseg_ros.engine import load_engine
from anyseg_ros.evaluation.results import read_rows
from training import experiments, train
from training.experiments import Plan, PlanError, Queue, report, steps_done

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "training" / "experiments.py")


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    return write_street(tmp_path_factory.mktemp("street"))


def config(path, method, **settings):
    document = {
        "model": {
            "class_path": method,
            "init_args": {
                "network": {"head_width": 32},
                "optimizer": {"warmup_steps": 2},
                **settings,
            },
        },
        "data": {
            "class_path": "training.data.batches.StreetDataModule",
            "init_args": {
                "root": "elsewhere",
                "height": HEIGHT,
                "width": WIDTH,
                "modality_dropout": True,
                "augment": {"crop_height": 32, "crop_width": 64},
                "loader": {"batch_size": 4, "steps_per_epoch": 4, "build_workers": 0},
            },
        },
        "trainer": {
            "max_epochs": -1,
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
        },
    }
    path.write_text(yaml.safe_dump(document))
    return str(path)


@pytest.fixture
def document(street, tmp_path):
    supervised = config(tmp_path / "supervised.yaml", "training.methods.supervised.Supervised")
    student = config(
        tmp_path / "student.yaml", "training.methods.anyseg.AnySegStudent", teacher="none"
    )
    return {
        "results": str(tmp_path / "results.json"),
        "runs": str(tmp_path / "runs"),
        "steps": 6,
        "overrides": {"data.root": str(street)},
        "machine": {
            "threads": 1,
            "save_every": 1,
            "trainer.accelerator": "cpu",
            "trainer.enable_progress_bar": False,
        },
        "evaluation": {"data": str(street), "split": "test"},
        "groups": [
            {
                "seeds": [0, 1],
                "experiments": {
                    "student": {"config": student, "teacher": "teacher"},
                    "teacher": {
                        "config": supervised,
                        "overrides": {"data.modality_dropout": False},
                    },
                    "all_modalities": {"network_of": "teacher"},
                },
            },
            {
                "seeds": [0],
                "experiments": {
                    "student/no_mad": {"like": "student", "overrides": {"model.mad.weight": 0.0}},
                    "specialist/depth": {
                        "config": supervised,
                        "method": "specialist",
                        "budget": 0.5,
                        "columns": {"labels": 0.5},
                        "overrides": {"data.modalities": ["depth"]},
                    },
                },
            },
        ],
    }


def write(document, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def test_order_is_group_then_seed_then_experiment(document, tmp_path):
    plan = Plan(write(document, tmp_path))
    assert [e.key for e in plan.experiments] == [
        "student/0",
        "teacher/0",
        "all_modalities/0",
        "student/1",
        "teacher/1",
        "all_modalities/1",
        "student/no_mad/0",
        "specialist/depth/0",
    ]
    assert plan["student/no_mad/0"].needs == ("teacher/0",)
    assert plan["student/no_mad/0"].overrides["model.mad.weight"] == 0.0
    assert plan["specialist/depth/0"].steps == 3 and plan["student/0"].steps == 6


@pytest.mark.parametrize("name", ["anymodal", "anyseg_street", "few_labels"])
def test_the_plans_of_the_project_can_be_read(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = Plan(Path(f"training/experiments/{name}.yaml"))
    for experiment in plan.experiments:
        assert plan.folder(experiment).parent.parent.is_relative_to(plan.runs)
        assert "--model.seed" in " ".join(plan.fit_command(experiment))


def test_only_what_is_asked_for_and_its_teacher_is_run(document, tmp_path):
    plan = Plan(write(document, tmp_path))
    queue = Queue(plan, [plan["student/1"]], 1)
    assert [e.key for e in queue.pending] == ["student/1", "teacher/1"]


def test_a_run_is_named_after_all_that_decides_its_result(document, tmp_path):
    folder = Plan(write(document, tmp_path)).folder
    student = Plan(write(document, tmp_path))["student/0"]
    before = folder(student)
    document["machine"]["threads"] = 2
    document["groups"][1]["experiments"]["specialist/depth"]["budget"] = 2
    changed = Plan(write(document, tmp_path))
    assert changed.folder(changed["student/0"]) == before
    teacher = document["groups"][0]["experiments"]["teacher"]
    teacher["overrides"]["model.optimizer.learning_rate"] = 1e-3
    changed = Plan(write(document, tmp_path))
    assert changed.folder(changed["student/0"]) != before, "its teacher is another"


def test_a_run_starts_from_another_of_its_seed(document, tmp_path):
    first = document["groups"][0]
    first["experiments"]["start"] = {"config": first["experiments"]["teacher"]["config"]}
    before = Plan(write(document, tmp_path))
    first["experiments"]["student"]["start"] = "start"
    plan = Plan(write(document, tmp_path))
    student = plan["student/1"]
    assert student.needs == ("teacher/1", "start/1")
    settings = dict(item.split("=", 1) for item in plan.fit_command(student) if "=" in item)
    for setting, other in (("teacher", "teacher/1"), ("start_from", "start/1")):
        last = plan.folder(plan[other]) / "checkpoints" / "last.ckpt"
        assert settings[f"--model.{setting}"] == str(last)
    assert plan.folder(student) != before.folder(before["student/1"])
    assert plan.folder(plan["start/1"]) == before.folder(before["start/1"])
    queue = Queue(plan, [student], 1)
    assert [e.key for e in queue.pending] == ["student/1", "teacher/1", "start/1"]

    first["experiments"]["student"] |= {"teacher": "start", "start": "teacher"}
    swapped = Plan(write(document, tmp_path))
    assert swapped.folder(swapped["student/1"]) != plan.folder(student)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("steps"), "no key 'steps'"),
        (
            lambda d: d["groups"][0]["experiments"]["student"].update(weight=3),
            "unknown keys weight",
        ),
        (lambda d: d["groups"][0]["experiments"]["teacher"].update(teacher="student"), "needs"),
        (lambda d: d["groups"][0]["experiments"]["student"].update(teacher="nobody"), "not listed"),
        (lambda d: d["groups"][0]["experiments"]["teacher"].update(start="student"), "needs"),
        (lambda d: d["groups"][1].update(seeds=[7]), "needs teacher/7, which is not listed"),
        (lambda d: d["evaluation"].update(folder="x"), "folder"),
        (
            lambda d: d["groups"][0]["experiments"]["student"].update(
                weigh=4, evaluation={"split": "val"}
            ),
            "student/0 is weighed and scored by the same frames",
        ),
    ],
)
def test_plans_that_cannot_be_run_are_refused(document, tmp_path, change, message):
    change(document)
    with pytest.raises(PlanError, match=message):
        Plan(write(document, tmp_path))


def weights(plan, key):
    path = plan.folder(plan[key]) / "checkpoints" / "last.ckpt"
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.mark.timeout(2400)
def test_a_queue_killed_at_any_time_ends_with_the_same_weights(document, tmp_path):
    document["groups"] = [{**document["groups"][0], "seeds": [0]}]
    student = document["groups"][0]["experiments"]["student"]
    student |= {"columns": {"labels": 0.5}, "export": str(tmp_path / "model"), "weigh": 2}
    document["steps"] = 8
    straight = Plan(write(document, tmp_path))
    for key in ("teacher/0", "student/0"):
        train.main(straight.fit_command(straight[key])[2:])

    document["runs"] = str(tmp_path / "killed")
    killed = Plan(write(document, tmp_path))
    command = [sys.executable, SCRIPT, "run", str(killed.path), "--workers=2"]
    for key in ("teacher/0", "student/0"):  # killed once in the teacher and once in the student
        queue = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
        last = killed.folder(killed[key]) / "checkpoints" / "last.ckpt"
        deadline = time.monotonic() + 900
        while not last.is_file() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(queue.pid, signal.SIGKILL)
        queue.wait()
        assert last.is_file() and not killed.is_done(killed[key])
    assert experiments.main(["run", str(killed.path)]) == 0
    for key in ("teacher/0", "student/0"):
        expected = weights(straight, key)
        for name, value in weights(killed, key).items():
            assert torch.equal(value, expected[name]), f"{key}: {name}"

    by_method = {}
    for row in read_rows(killed.results):
        by_method.setdefault(row.pop("method"), []).append(row)
    assert by_method["teacher"] == by_method["all_modalities"]
    whole = [row for row in by_method["student"] if row["condition"] == "all"]
    assert len(whole) == 16 and whole[-1]["subset"] == "mean"
    assert whole[0]["labels"] == 0.5 and whole[0]["steps"] == 8

    card = load_engine(tmp_path / "model", "onnxruntime", 1).card
    assert card.provenance["steps"] == 8
    assert set(card.provenance["fusion_weights"]) == {"camera", "depth", "event", "lidar"}
    assert card.provenance["metrics"]["camera+lidar"] == next(
        row["miou"] for row in whole if row["subset"] == "camera+lidar"
    )

    before = killed.results.stat().st_mtime_ns
    assert experiments.main(["run", str(killed.path)]) == 0
    assert killed.results.stat().st_mtime_ns == before, "finished experiments are left alone"


@pytest.mark.parametrize("scored_alike", [True, False])
def test_the_same_network_is_scored_once(document, tmp_path, capfd, scored_alike):
    renamed = document["groups"][0]["experiments"]["all_modalities"]
    renamed["columns"] = {"labels": 0.5}
    if not scored_alike:
        renamed["evaluation"] = {"frames": 1}
    plan = Plan(write(document, tmp_path))
    teacher = plan["teacher/0"]
    row = {"method": "teacher", "seed": 0, "split": "test", "subset": "depth", "condition": "all"}
    markers = plan.markers(teacher)
    markers.mkdir(parents=True)
    (markers / experiments.ROWS).write_text(json.dumps([{**row, "miou": 30.0}]))
    (markers / experiments.DONE).write_text(json.dumps({"task": plan.task(teacher)}))
    status = experiments.main(["run", str(plan.path), "--only", "all_modalities/0"])
    if scored_alike:
        expected = {**row, "method": "all_modalities", "miou": 30.0, "labels": 0.5}
        # What was done before goes into the result file too if that has lost it.
        assert status == 0 and read_rows(plan.results) == [{**row, "miou": 30.0}, expected]
    else:  # there are no weights to be scored
        assert status == 1 and "score.log" in capfd.readouterr().err


@pytest.mark.timeout(600)
def test_a_failed_run_does_not_end_the_queue(document, tmp_path, capfd):
    experiments_of = document["groups"][0]["experiments"]
    experiments_of["teacher"]["overrides"]["model.optimizer.learning_speed"] = 1.0
    document["groups"][0]["seeds"] = [0]
    document["steps"] = 2
    plan = Plan(write(document, tmp_path))
    chosen = ["student", "specialist/*"]
    assert experiments.main(["run", str(plan.path), "--only", *chosen]) == 1
    assert plan.is_done(plan["specialist/depth/0"])
    errors = capfd.readouterr().err
    assert "teacher/0: failed: exit status" in errors
    assert "student/0: needs teacher/0, which failed" in errors


def test_report_gives_mean_and_spread_over_the_seeds():
    row = {"method": "student", "split": "test", "condition": "all", "steps": 6}
    rows = [
        {**row, "seed": seed, "subset": "mean", "miou": miou}
        for seed, miou in ((0, 40.0), (1, 42.0), (2, 44.0))
    ]
    table = report([*rows, {**rows[0], "method": "one"}])
    assert "| student | test | 6 | 3 | 42.00 ± 2.00 |" in table
    assert "| one | test | 6 | 1 | 40.00 |" in table


def test_steps_are_read_from_the_newest_log(tmp_path):
    log = tmp_path / "log" / "version_3"
    log.mkdir(parents=True)
    assert steps_done(tmp_path) == 0
    (log / "metrics.csv").write_text("epoch,step,train/loss\n0,19,1.0\n0,39,0.9\n0,")
    assert steps_done(tmp_path) == 40
