"""Runs the rows of a result table, one after another, through any interruption.

    python training/experiments.py run training/experiments/anymodal.yaml --workers 2
    python training/experiments.py status training/experiments/anymodal.yaml
    python training/experiments.py report training/experiments/anymodal.yaml

A plan (YAML) lists experiments and their seeds. Each is trained by ``training/train.py`` with a fixed number
of steps, evaluated on every subset of the sensors from its last checkpoint, and its rows go into the plan's
result file at once. Whatever is killed goes on from its last checkpoint when the same command is given again;
what is finished is skipped. A run's folder is named after a digest of all that decides its result, so that
a changed experiment starts anew and never continues another's weights.

Keys of a plan:
    results: the result file; runs: folder of the runs; notes: of the result file.
    steps: of each experiment, times its ``budget`` (default 1).
    overrides: settings of ``training/train.py`` for all experiments, as ``model.umd.weight: 0``.
    machine: settings that say how a run is computed, not what; no part of the digest.
    evaluation: data (root), split and the other keys of ``Evaluation``; conditions says which rows by weather
        and failure are kept besides those of the whole split: ``none``, ``mean`` (of the subsets) or ``all``.
    groups: list of ``seeds`` and ``experiments``, worked off in this order: group, seed, experiment.
Keys of an experiment:
    config: of ``training/train.py``; overrides; budget.
    like: another experiment whose keys it takes over and changes.
    teacher: the experiment whose weights of the same seed teach this one.
    start: the experiment whose weights of the same seed this one starts from.
    network_of: trains nothing; the rows of that experiment under another name.
    method: in the rows; default: the experiment's name. columns: more keys of the rows.
    weigh: number of validation frames by which ``training/fusion_weights.py`` weighs the sensors before the
        network is evaluated and exported; default: none, a plain mean.
    export: folder to export the trained model to. evaluation: changes to the plan's.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TextIO

if __package__ in (None, ""):  # called as a script: make the repository importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import yaml
from tqdm import tqdm

from anyseg_ros.evaluation.results import Row, commit, read_rows, write_results

SCRIPTS = Path(__file__).resolve().parent
Conditions = Literal["none", "mean", "all"]
ROW_KEYS = ("method", "seed", "split", "subset", "condition")
_NEXT_PHASE = 1000
"""What a run's seed grows by where it goes on from another."""
DONE, LOCK, ROWS, TASK = "done.json", "lock", "rows.json", "task.json"


class PlanError(ValueError):
    """A plan that cannot be run; the message names the file and the key."""


@dataclass(frozen=True)
class Evaluation:
    """What a finished run is scored on.

    Args:
        data: root of the data set.
        split: of it.
        conditions: which rows by weather and failure are kept.
        subsets: names of subsets; all of the trained modalities' if empty.
        weights: ``student`` or ``teacher`` of methods with an averaged teacher; ``auto``: the teacher.
        prediction: of a Linear Fusion network: ``ensemble``, ``live`` or a modality's name.
        frames: evenly chosen frames of the split; 0 for all.
    """

    data: str
    split: str = "test"
    conditions: Conditions = "mean"
    subsets: tuple[str, ...] = ()
    weights: Literal["auto", "student", "teacher"] = "auto"
    prediction: str = "ensemble"
    frames: int = 0


@dataclass(frozen=True)
class Experiment:
    """One experiment with one seed."""

    name: str
    seed: int
    method: str
    config: Path
    overrides: Mapping[str, Any]
    steps: int
    evaluation: Evaluation
    teacher: str | None = None
    start: str | None = None
    network_of: str | None = None
    export: Path | None = None
    weigh: int = 0
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """``<name>/<seed>``"""
        return f"{self.name}/{self.seed}"

    @property
    def needs(self) -> tuple[str, ...]:
        """Keys of the experiments whose weights this one needs."""
        others = (self.teacher, self.start, self.network_of)
        return tuple(f"{other}/{self.seed}" for other in others if other is not None)


_EXPERIMENT_KEYS = {
    "config",
    "overrides",
    "budget",
    "like",
    "teacher",
    "start",
    "network_of",
    "method",
    "columns",
    "export",
    "weigh",
    "evaluation",
}


class Plan:
    """A plan file, resolved into experiments in the order of work.

    Raises:
        PlanError: naming what is missing, unknown or circular.
    """

    def __init__(self, path: Path, machine: Mapping[str, Any] | None = None) -> None:
        self.path = path
        try:
            document = yaml.safe_load(path.read_text())
        except (OSError, yaml.YAMLError) as error:
            raise PlanError(f"cannot read {path}: {error}") from None
        if not isinstance(document, Mapping):
            raise PlanError(f"{path} must be a mapping")
        try:
            self.results = Path(document["results"])
            self.runs = Path(document["runs"])
            self.notes = str(document.get("notes", ""))
            self.machine = {**document.get("machine", {}), **(machine or {})}
            self.experiments = list(self._resolve(document))
        except KeyError as error:
            raise PlanError(f"{path} has no key {error.args[0]!r}") from None
        except TypeError as error:
            raise PlanError(f"{path}: {error}") from None
        self._by_key = {e.key: e for e in self.experiments}
        if len(self._by_key) < len(self.experiments):
            raise PlanError(f"{path} lists an experiment twice with the same seed")
        for experiment in self.experiments:
            self._check_needs(experiment)
            if experiment.weigh and experiment.evaluation.split == "val":
                raise PlanError(
                    f"{path}: {experiment.key} is weighed and scored by the same frames"
                )

    def __getitem__(self, key: str) -> Experiment:
        return self._by_key[key]

    def _resolve(self, document: Mapping[str, Any]) -> Iterator[Experiment]:
        groups = document["groups"]
        entries = {n: e or {} for g in groups for n, e in g["experiments"].items()}
        for group in groups:
            for seed in group["seeds"]:
                for name in group["experiments"]:
                    yield self._experiment(document, entries, name, int(seed))

    def _experiment(
        self, document: Mapping[str, Any], entries: Mapping[str, Any], name: str, seed: int
    ) -> Experiment:
        entry = self._inherited(entries, name, ())
        if "network_of" in entry:
            source = self._inherited(entries, entry["network_of"], ())
            entry = {**source, "method": name, "export": None, "weigh": 0, **entry}
        steps = round(int(document["steps"]) * float(entry.get("budget", 1)))
        evaluation = {**document["evaluation"], **entry.get("evaluation", {})}
        evaluation["subsets"] = tuple(evaluation.get("subsets", ()))
        export = entry.get("export")
        return Experiment(
            name=name,
            seed=seed,
            method=str(entry.get("method", name)),
            config=Path(entry["config"]),
            overrides={**document.get("overrides", {}), **entry.get("overrides", {})},
            steps=steps,
            evaluation=Evaluation(**evaluation),
            teacher=entry.get("teacher"),
            start=entry.get("start"),
            network_of=entry.get("network_of"),
            export=None if export is None else Path(export),
            weigh=int(entry.get("weigh", 0)),
            columns=entry.get("columns", {}),
        )

    def _inherited(
        self, entries: Mapping[str, Any], name: str, seen: tuple[str, ...]
    ) -> dict[str, Any]:
        if name in seen:
            raise PlanError(f"{self.path}: {' is like '.join((*seen, name))}")
        if name not in entries:
            raise PlanError(f"{self.path}: no experiment {name!r}")
        entry = dict(entries[name])
        if unknown := sorted(set(entry) - _EXPERIMENT_KEYS):
            raise PlanError(f"{self.path}: {name} has unknown keys {', '.join(unknown)}")
        if (base := entry.pop("like", None)) is None:
            return entry
        inherited = self._inherited(entries, base, (*seen, name))
        inherited.pop("export", None)
        inherited.pop("weigh", None)
        inherited.pop("method", None)
        for key in ("overrides", "columns", "evaluation"):
            entry[key] = {**inherited.get(key, {}), **entry.get(key, {})}
        return {**inherited, **entry}

    def _check_needs(self, experiment: Experiment, before: tuple[str, ...] = ()) -> None:
        seen = (*before, experiment.key)
        for needs in experiment.needs:
            if needs not in self._by_key:
                raise PlanError(f"{self.path}: {seen[-1]} needs {needs}, which is not listed")
            if needs in seen:
                raise PlanError(f"{self.path}: {' needs '.join([*seen, needs])}")
            self._check_needs(self[needs], seen)

    def digest(self, experiment: Experiment) -> str:
        """Short hash of all that decides the weights: settings, steps, seed, data, teacher, start."""
        if experiment.network_of is not None:
            return self.digest(self[f"{experiment.network_of}/{experiment.seed}"])
        try:
            base = _settings(experiment.config, experiment.config.stat().st_mtime_ns)
        except (OSError, yaml.YAMLError) as error:
            raise PlanError(f"cannot read {experiment.config}: {error}") from None
        data = Path(experiment.evaluation.data) / "dataset.yaml"
        of = {
            role: self.digest(self[f"{other}/{experiment.seed}"])
            for role, other in (("teacher", experiment.teacher), ("start", experiment.start))
            if other is not None
        }
        parts = [
            {key: base.get(key) for key in ("model", "data")},
            dict(experiment.overrides),
            experiment.steps,
            experiment.seed,
            data.read_text() if data.is_file() else None,
            of.get("teacher"),
        ]
        if "start" in of:
            parts += [of["start"], self.batch_seed(experiment)]
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def batch_seed(self, experiment: Experiment) -> int:
        """Seed of a run's batches, subsets and masks.

        Not the experiment's own for what goes on from another run: it would see that one's batches again.
        """
        if experiment.start is None:
            return experiment.seed
        return self.batch_seed(self[f"{experiment.start}/{experiment.seed}"]) + _NEXT_PHASE

    def folder(self, experiment: Experiment) -> Path:
        """The run's folder; that of its source for an experiment that trains nothing."""
        name = experiment.network_of or experiment.name
        return self.runs / name / f"seed{experiment.seed}-{self.digest(experiment)}"

    def task(self, experiment: Experiment) -> dict[str, Any]:
        """All that the scoring of a run depends on; the done marker holds a copy."""
        return {
            "name": experiment.name,
            "method": experiment.method,
            "seed": experiment.seed,
            "steps": experiment.steps,
            "columns": dict(experiment.columns),
            "evaluation": json.loads(json.dumps(asdict(experiment.evaluation))),
            "export": None if experiment.export is None else str(experiment.export),
            **({"weigh": experiment.weigh} if experiment.weigh else {}),
        }

    def markers(self, experiment: Experiment) -> Path:
        """Folder of the done marker and the rows."""
        return self.folder(experiment) / "results" / experiment.name.replace("/", "_")

    def is_done(self, experiment: Experiment) -> bool:
        """Trained, scored and in the result file."""
        marker = self.markers(experiment) / DONE
        return marker.is_file() and json.loads(marker.read_text())["task"] == self.task(experiment)

    def fit_command(self, experiment: Experiment) -> list[str]:
        """The call of ``training/train.py``."""
        folder = self.folder(experiment)
        settings: dict[str, Any] = {
            **self.machine,
            **experiment.overrides,
            "seed_everything": experiment.seed,
            "model.seed": self.batch_seed(experiment),
            "data.seed": self.batch_seed(experiment),
            "trainer.max_steps": experiment.steps,
        }
        data = yaml.safe_load(experiment.config.read_text())["data"]
        if "label_fraction" in data.get("init_args", {}):
            settings.setdefault("data.split_seed", experiment.seed)  # the same labels in each phase
        others = {"model.teacher": experiment.teacher, "model.start_from": experiment.start}
        for setting, other in others.items():
            if other is not None:
                folder_of_other = self.folder(self[f"{other}/{experiment.seed}"])
                settings[setting] = str(folder_of_other / "checkpoints" / "last.ckpt")
        return [
            sys.executable,
            str(SCRIPTS / "train.py"),
            "fit",
            "--config",
            str(experiment.config),
            "--runs",
            str(folder.parent),
            "--name",
            folder.name,
            *(f"--{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in settings.items()),
        ]


@lru_cache
def _settings(path: Path, modified_ns: int) -> dict[str, Any]:
    """A configuration; the queue asks for it twice a second and a run, and parsing takes a while."""
    return yaml.safe_load(path.read_text())


def steps_done(folder: Path) -> int:
    """Steps that a run has logged so far; at most those of the last flush behind."""
    best = 0
    for table in folder.glob("log/version_*/metrics.csv"):
        lines = table.read_text().splitlines()
        if not lines or "step" not in lines[0].split(","):
            continue
        column = lines[0].split(",").index("step")
        for line in reversed(lines[1:]):
            cells = line.split(",")
            if column < len(cells) and cells[column].isdigit():
                best = max(best, int(cells[column]) + 1)
                break
    return best


class Queue:
    """Works off a plan with a few runs at a time.

    Args:
        plan: what to run.
        chosen: the experiments wanted; those they need are added.
        workers: runs at a time.
    """

    def __init__(self, plan: Plan, chosen: Sequence[Experiment], workers: int) -> None:
        self.plan = plan
        wanted: set[str] = set()
        missing = [e.key for e in chosen]
        while missing:  # a teacher may need one of its own
            key = missing.pop()
            if key not in wanted:
                wanted.add(key)
                missing += plan[key].needs
        known = [e for e in plan.experiments if e.key in wanted]
        self._waiting = [e for e in known if not plan.is_done(e)]
        for experiment in known:
            if plan.is_done(experiment):
                self._restore_rows(experiment)
        self.pending = list(self._waiting)
        self._workers = workers
        self._running: dict[str, threading.Thread] = {}
        self._failed: dict[str, str] = {}
        self._children: set[subprocess.Popen[bytes]] = set()
        self._guard = threading.Lock()
        self._stopped = False

    def run(self) -> dict[str, str]:
        """Work until nothing is left that can be done. Returns what failed, with the reason."""
        previous = signal.signal(signal.SIGTERM, self._terminate)
        total = sum(e.steps for e in self.pending if e.network_of is None)
        interval = 0.5 if sys.stderr.isatty() else 60.0
        try:
            with tqdm(total=total, unit="step", mininterval=interval) as bar:
                while self._waiting or self._running:
                    self._start_what_can()
                    time.sleep(0.5)
                    self._show(bar)
                    for key in [k for k, thread in self._running.items() if not thread.is_alive()]:
                        del self._running[key]
                        tqdm.write(f"{key}: {self._failed.get(key, 'done')}")
                self._show(bar)
        finally:
            self._stop()
            signal.signal(signal.SIGTERM, previous)
        return self._failed

    def _show(self, bar: tqdm[Any]) -> None:
        done = sum(
            e.steps if self.plan.is_done(e) else min(e.steps, steps_done(self.plan.folder(e)))
            for e in self.pending
            if e.network_of is None
        )
        bar.set_postfix_str(", ".join(self._running), refresh=False)
        bar.update(done - bar.n)

    def _start_what_can(self) -> None:
        for experiment in list(self._waiting):
            if len(self._running) >= self._workers:
                return
            if failed := [needs for needs in experiment.needs if needs in self._failed]:
                self._waiting.remove(experiment)
                self._failed[experiment.key] = f"needs {failed[0]}, which failed"
                continue
            if not all(self.plan.is_done(self.plan[needs]) for needs in experiment.needs):
                continue
            lock = _try_lock(self.plan.folder(experiment) / LOCK)
            if lock is None:
                continue  # another queue, or a run that outlived one, is at it
            self._waiting.remove(experiment)
            if self.plan.is_done(experiment):  # finished by the other
                lock.close()
                continue
            thread = threading.Thread(target=self._work, args=(experiment, lock), daemon=True)
            self._running[experiment.key] = thread
            thread.start()

    def _work(self, experiment: Experiment, lock: TextIO) -> None:
        try:
            with lock:
                self._train_and_score(experiment, lock)
        except Exception as error:  # one row must not end the queue
            self._failed[experiment.key] = f"failed: {error}"

    def _train_and_score(self, experiment: Experiment, lock: TextIO) -> None:
        folder, markers = self.plan.folder(experiment), self.plan.markers(experiment)
        markers.mkdir(parents=True, exist_ok=True)
        if experiment.network_of is None:
            self._call(self.plan.fit_command(experiment), folder / "train.log", lock)
        task = self.plan.task(experiment)
        rows = self._rows_of_source(experiment)
        if rows is None:
            _write(markers / TASK, json.dumps(task, indent=2))
            score = [sys.executable, str(Path(__file__).resolve()), "score", str(markers)]
            self._call(score, folder / "score.log", lock)
            rows = json.loads((markers / ROWS).read_text())
        else:
            _write(markers / ROWS, json.dumps(rows))
        if self._stopped:
            return
        self._publish(experiment, rows)
        _write(markers / DONE, json.dumps({"task": task, "commit": commit()}, indent=2))

    def _publish(self, experiment: Experiment, rows: Sequence[Row]) -> None:
        command = f"python training/experiments.py run {shlex.quote(str(self.plan.path))}"
        keys = [*ROW_KEYS, *experiment.columns]
        write_results(self.plan.results, rows, command, self.plan.notes, keys)

    def _restore_rows(self, experiment: Experiment) -> None:
        """Put rows of what was done back into a result file that lacks them: another one, or an older one."""
        rows: list[Row] = json.loads((self.plan.markers(experiment) / ROWS).read_text())
        keys = [*ROW_KEYS, *experiment.columns]
        there = {tuple(row.get(key) for key in keys) for row in read_rows(self.plan.results)}
        if any(tuple(row.get(key) for key in keys) not in there for row in rows):
            self._publish(experiment, rows)

    def _rows_of_source(self, experiment: Experiment) -> list[Row] | None:
        """The rows of a network that was scored in the same way under its own name, renamed."""
        if experiment.network_of is None or experiment.export is not None:
            return None
        source = self.plan[f"{experiment.network_of}/{experiment.seed}"]
        if (source.evaluation, source.weigh) != (experiment.evaluation, experiment.weigh):
            return None
        rows: list[Row] = json.loads((self.plan.markers(source) / ROWS).read_text())
        own = {"method": experiment.method, **experiment.columns}
        return [{k: v for k, v in row.items() if k not in source.columns} | own for row in rows]

    def _call(self, command: Sequence[str], log: Path, lock: TextIO) -> None:
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}
        with log.open("ab") as file:
            file.write(f"$ {shlex.join(command)}\n".encode())
            file.flush()
            with self._guard:
                if self._stopped:
                    raise RuntimeError("stopped")
                # The child inherits the lock: if this process is killed, the run stays taken until it ends.
                child = subprocess.Popen(
                    command,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    env=environment,
                    pass_fds=(lock.fileno(),),
                )
                self._children.add(child)
            try:
                code = child.wait()
            finally:
                self._children.discard(child)
        if code:
            raise RuntimeError(f"exit status {code}, see {log}")

    def _terminate(self, *_: Any) -> None:
        raise SystemExit("stopped; the same command goes on")

    def _stop(self) -> None:
        with self._guard:
            self._stopped = True
            for child in self._children:
                child.terminate()
        for thread in self._running.values():
            thread.join(timeout=30)


def _try_lock(path: Path) -> TextIO | None:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


def score(markers: Path) -> None:
    """Evaluate (and export) the run whose ``results/<experiment>`` folder is given; writes ``rows.json``."""
    import torch

    from training import evaluate, export
    from training.fusion_weights import weights_for
    from training.models.checkpoint import TrainedSegmentor, load_trained

    task = json.loads((markers / TASK).read_text())
    spec = Evaluation(**task["evaluation"])
    weights = None

    def load() -> TrainedSegmentor:  # anew each time: what reads a network rewrites its layers
        trained = load_trained(markers.parents[1] / "checkpoints" / "last.ckpt", spec.weights)
        if weights is not None:
            trained.anymodal.set_fusion_weights(weights)
        return trained

    trained = load()
    if trained.steps != task["steps"]:
        raise RuntimeError(
            f"{markers.parents[1]} ended after {trained.steps} of {task['steps']} steps"
        )
    torch.set_num_threads(1)
    if task.get("weigh"):
        weights = weights_for(trained, Path(spec.data), task["weigh"])
        trained = load()
    scores = evaluate.evaluate_trained(
        trained,
        Path(spec.data),
        spec.split,
        spec.subsets,
        prediction=spec.prediction,
        frames=spec.frames,
    )
    rows = scores.rows(task["method"], task["seed"], spec.split)
    kept = [{**row, "steps": task["steps"], **task["columns"]} for row in rows if _keep(row, spec)]
    _write(markers / ROWS, json.dumps(kept))
    if task["export"]:
        metrics = {r["subset"]: r["miou"] for r in kept if r["condition"] == "all"}
        folder = Path(task["export"])
        export.export(load(), folder, folder.name, metrics, spec.prediction)


def _keep(row: Row, spec: Evaluation) -> bool:
    if row["condition"] == "all" or spec.conditions == "all":
        return True
    return spec.conditions == "mean" and row["subset"] == "mean"


def status(plan: Plan) -> str:
    """A line an experiment: its state, and its score where it is done."""
    lines = []
    for experiment in plan.experiments:
        folder = plan.folder(experiment)
        if plan.is_done(experiment):
            rows = json.loads((plan.markers(experiment) / ROWS).read_text())
            whole = [row for row in rows if row["condition"] == "all"]
            state = f"done, mIoU {whole[-1]['miou']:.2f} ({whole[-1]['subset']})"
        elif steps := steps_done(folder) if experiment.network_of is None else 0:
            lock = _try_lock(folder / LOCK)
            if lock is not None:
                lock.close()
            state = f"{'running' if lock is None else 'interrupted'}, {steps} of {experiment.steps} steps"
        elif waits := [needs for needs in experiment.needs if not plan.is_done(plan[needs])]:
            state = f"waits for {waits[0]}"
        else:
            state = "pending"
        lines.append(f"{experiment.key:40s} {state}")
    return "\n".join(lines)


def report(rows: Sequence[Row], columns: Sequence[str] = ()) -> str:
    """Markdown table of mIoU in percent over the whole split: mean and standard deviation over seeds.

    Args:
        rows: of a result file.
        columns: keys besides the method that tell experiments apart.
    """
    from anyseg_ros.modality import MODALITIES, subset_name

    full = subset_name(MODALITIES)
    shown = ("mean", full, *(m.label for m in MODALITIES))
    groups: dict[tuple[Any, ...], dict[str, dict[int, float]]] = {}
    for row in rows:
        if row.get("condition") == "all" and row["subset"] in shown:
            key = (
                row["method"],
                *(row.get(c, "") for c in columns),
                row["split"],
                row.get("steps"),
            )
            groups.setdefault(key, {}).setdefault(row["subset"], {})[row["seed"]] = row["miou"]
    head = ["method", *columns, "split", "steps", "seeds", "mean of subsets", "all"]
    head += [m.label for m in MODALITIES]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for key, by_subset in groups.items():
        seeds = sorted({seed for scores in by_subset.values() for seed in scores})
        cells = [_spread(list(by_subset.get(subset, {}).values())) for subset in shown]
        names = ["" if part is None else str(part) for part in key]
        lines.append(f"| {' | '.join([*names, str(len(seeds)), *cells])} |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"


def _choose(plan: Plan, patterns: Sequence[str]) -> list[Experiment]:
    if not patterns:
        return plan.experiments
    chosen = []
    for pattern in patterns:
        found = [e for e in plan.experiments if fnmatch(e.key, pattern) or e.name == pattern]
        if not found:
            raise PlanError(f"no experiment of {plan.path} matches {pattern!r}")
        chosen += found
    return chosen


def _arguments(arguments: list[str] | None) -> Namespace:
    parser = ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run what is pending, in the plan's order")
    show = commands.add_parser("status", help="what is done, running, pending")
    table = commands.add_parser("report", help="the headline table of the result file")
    for command in (run, show, table):
        command.add_argument("plan", type=Path)
    run.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME/SEED",
        help="only these and what they need; a name alone means all its seeds; * matches anything",
    )
    run.add_argument("--workers", type=int, default=1, help="runs at a time")
    run.add_argument(
        "--machine",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="changes to the plan's machine settings, e.g. trainer.accelerator=gpu",
    )
    one = commands.add_parser("score", help="used by run: evaluate one finished training")
    one.add_argument("folder", type=Path)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; ``arguments`` default to those of the command line. Returns the exit status."""
    options = _arguments(arguments)
    if options.command == "score":
        score(options.folder)
        return 0
    machine = dict(item.split("=", 1) for item in getattr(options, "machine", []))
    plan = Plan(options.plan, machine)
    if options.command == "status":
        print(status(plan))
        return 0
    columns = list(dict.fromkeys(c for e in plan.experiments for c in e.columns))
    if options.command == "run":
        queue = Queue(plan, _choose(plan, options.only), options.workers)
        print(f"{len(queue.pending)} of {len(plan.experiments)} to do", flush=True)
        failed = queue.run()
        for key, reason in failed.items():
            print(f"{key}: {reason}", file=sys.stderr)
        print(report(read_rows(plan.results), columns))
        return 1 if failed else 0
    print(report(read_rows(plan.results), columns))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (PlanError, KeyboardInterrupt) as error:
        sys.exit(f"experiments: {error or 'stopped; the same command goes on'}")
