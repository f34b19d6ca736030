"""Command line ``anyseg-evaluate``: rosbags in, a report out.

Exit status: 0, every recording was evaluated; 1, at least one could not be; 2, the command line, the
model, the calibration or the timetable is wrong; 3, every recording gave a report, at least one only
in part because it is damaged; 130, interrupted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal

import yaml

from anyseg_ros import __version__
from anyseg_ros.consistency import ConsistencyError, load_profile
from anyseg_ros.engine import Engine, EngineError, ModelError, load_engine
from anyseg_ros.evaluation.bag import Bag, BagError, bag_name, find_bags, is_output
from anyseg_ros.evaluation.evaluate import (
    WRITTEN,
    Evaluation,
    EvaluationOptions,
    Listener,
    RandomOutages,
    evaluate_recording,
    label_source,
    write_json,
    write_tables,
)
from anyseg_ros.evaluation.extract import DataSetWriter, ExtractError
from anyseg_ros.evaluation.outages import OutageError, load_outages
from anyseg_ros.evaluation.output_bag import OutputBagWriter
from anyseg_ros.evaluation.replay import ReplaySettings, load_settings, unread_parameters
from anyseg_ros.evaluation.sources import (
    Overrides,
    Rig,
    SourceError,
    Sources,
    parse_extrinsics,
)
from anyseg_ros.modalities import CalibrationError, ModalityError, load_calibration
from anyseg_ros.modality import Modality, parse_subset, subset_name
from anyseg_ros.resources import ResourceError, find_model

DONE, FAILED, WRONG_USE, PARTIAL, INTERRUPTED = 0, 1, 2, 3, 130
_PROGRESS_MARK = "@progress "
_OF_ALL_PARTS = frozenset({"bags", "out", "jobs", "fresh", "part", "threads"})
"""Options that do not change what is found in one recording."""


class UsageError(ValueError):
    """Options that cannot be used together or at all."""


@dataclass(frozen=True)
class Job:
    """One recording and where its report goes."""

    files: tuple[Path, ...]
    out: Path

    @property
    def name(self) -> str:
        return self.out.name


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parsed = _parser().parse_args(sys.argv[1:] if arguments is None else list(arguments))
    try:
        options = _options(parsed)
        jobs, problems = _jobs(parsed)
        model = find_model(parsed.model)
        if parsed.part:
            engine = load_engine(model, parsed.engine, parsed.threads)
            return _evaluate_here(jobs[0], engine, options, parsed)
        for problem in problems:
            print(f"anyseg-evaluate: {problem}", file=sys.stderr)
        if not jobs:
            return FAILED
        if len(jobs) == 1 and not problems:
            return _single(jobs[0], model, options, parsed)
        return _many(jobs, model, parsed, len(problems))
    except (
        UsageError,
        SourceError,
        OutageError,
        CalibrationError,
        ConsistencyError,
        ModelError,
        EngineError,
        ModalityError,
        ResourceError,
    ) as error:
        print(f"anyseg-evaluate: {error}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:
        print("anyseg-evaluate: interrupted; start it again to go on", file=sys.stderr)
        return INTERRUPTED


# --- command line -----------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="anyseg-evaluate",
        description="Replay rosbags through the segmentation pipeline, score them, write a report.",
        epilog=(
            "Exit status: 0 done; 1 at least one recording could not be evaluated; 2 wrong use; "
            "3 done, but at least one recording is damaged and its report partial; 130 interrupted."
        ),
    )
    add = parser.add_argument
    add(
        "bags",
        nargs="+",
        type=Path,
        metavar="BAG",
        help="rosbag2 folder, .mcap or .db3 file, or a folder of recordings",
    )
    add(
        "--out",
        type=Path,
        default=Path("out/evaluation"),
        metavar="DIR",
        help=("folder for the reports, one subfolder a recording (default: %(default)s)"),
    )
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model", default="", metavar="M", help="model folder, or name of a shipped model"
    )
    group.add_argument(
        "--engine", default="auto", help="what runs the model (default: %(default)s)"
    )
    group.add_argument(
        "--threads", type=int, default=0, metavar="N", help="CPU threads of the engine; 0 for all"
    )
    group = parser.add_argument_group("what is evaluated")
    group.add_argument(
        "--subsets",
        default="all",
        metavar="LIST",
        help=("all, none, leave-one-out, or e.g. camera,camera+lidar (default: %(default)s)"),
    )
    group.add_argument(
        "--every",
        type=int,
        default=1,
        metavar="N",
        help="evaluate the subsets on each n-th set only, with labels and without",
    )
    group.add_argument(
        "--outages",
        type=Path,
        metavar="FILE",
        help="YAML timetable of faults: {sensor, from_s, to_s, kind}",
    )
    group.add_argument(
        "--random-outages",
        metavar="SEED[,PER_MINUTE[,MEAN_S]]",
        help="faults at random times, seeded (default 4 a minute and sensor, 2 s)",
    )
    group.add_argument(
        "--labels",
        metavar="TOPIC|FOLDER",
        help=(
            "ground truth: a topic of label images, or a folder (default: a label "
            "topic, if there is one)"
        ),
    )
    group.add_argument(
        "--tag",
        action="append",
        default=[],
        metavar="TAG",
        help=("what holds for these recordings, e.g. fog; scores are given for each tag"),
    )
    group.add_argument("--tags", type=Path, metavar="FILE", help="YAML list of {from_s, to_s, tag}")
    group.add_argument("--duration", type=float, metavar="S", help="only the first seconds")
    group = parser.add_argument_group("the recording, where it does not tell by itself")
    group.add_argument(
        "--sensors", default="all", metavar="SUBSET", help="use only these, e.g. camera+lidar"
    )
    group.add_argument("--topic", action="append", default=[], metavar="SENSOR=TOPIC")
    group.add_argument("--camera-info", action="append", default=[], metavar="SENSOR=TOPIC")
    group.add_argument(
        "--extrinsics",
        action="append",
        default=[],
        metavar="SENSOR=x,y,z,qx,qy,qz,qw",
        help="pose of the sensor in the grid's optical frame",
    )
    group.add_argument("--calibration", type=Path, metavar="FILE", help="the rig's calibration")
    group.add_argument(
        "--depth-registered", action="store_true", help="depth is registered to the camera"
    )
    group.add_argument(
        "--rectified",
        action="store_true",
        help="images are rectified: P of CameraInfo, no distortion",
    )
    group.add_argument(
        "--params",
        type=Path,
        metavar="FILE",
        help="a node's parameter file: timing, stamp_offset, priority, health, consistency, "
        "lidar.intensity_max and intensity_field; not its topics and calibration",
    )
    group.add_argument(
        "--clock",
        choices=("log", "stamps"),
        default="log",
        help="receipt time: when messages were recorded, or their stamps",
    )
    group = parser.add_argument_group("more output")
    group.add_argument(
        "--write-bag",
        nargs="?",
        const="",
        metavar="DIR",
        help=("write labels, overlay and confidence as a bag beside the recording, or into DIR"),
    )
    group.add_argument(
        "--extract",
        type=Path,
        metavar="DIR",
        help="write the matched sets as a data set that training/ reads",
    )
    group.add_argument(
        "--extract-every",
        type=float,
        default=0.5,
        metavar="S",
        help="seconds between extracted sets (default: %(default)s)",
    )
    group.add_argument(
        "--split",
        default="train",
        choices=("train", "val", "test"),
        help="split of the data set that the recordings become",
    )
    group = parser.add_argument_group("many recordings")
    group.add_argument("--jobs", type=int, default=1, metavar="N", help="recordings at once")
    group.add_argument("--fresh", action="store_true", help="also evaluate what is done already")
    add("--part", action="store_true", help=argparse.SUPPRESS)
    return parser


def _options(parsed: argparse.Namespace) -> EvaluationOptions:
    def by_sensor(entries: Sequence[str], option: str) -> dict[Modality, str]:
        found = {}
        for entry in entries:
            label, separator, value = entry.partition("=")
            if not separator or not value:
                raise UsageError(f"{option} {entry!r}: expected SENSOR=VALUE, e.g. camera=/image")
            try:
                found[Modality.from_label(label)] = value
            except ValueError as error:
                raise UsageError(f"{option} {entry!r}: {error}") from None
        return found

    for name, least in (("every", 1), ("jobs", 1), ("threads", 0)):
        if getattr(parsed, name) < least:
            raise UsageError(f"--{name} is {getattr(parsed, name)}; expected at least {least}")
    if parsed.duration is not None and not parsed.duration > 0:
        raise UsageError(f"--duration is {parsed.duration}; expected more than 0")
    label_topic = label_folder = None
    if parsed.labels:
        if Path(parsed.labels).is_dir():
            label_folder = Path(parsed.labels)
        else:
            label_topic = parsed.labels
    try:
        extrinsics = {
            m: parse_extrinsics(v) for m, v in by_sensor(parsed.extrinsics, "--extrinsics").items()
        }
        sensors = parse_subset(parsed.sensors)
    except ValueError as error:
        raise UsageError(str(error)) from None
    settings = load_settings(parsed.params) if parsed.params else ReplaySettings()
    unread = unread_parameters(parsed.params) if parsed.params else None
    if parsed.outages:
        load_outages(parsed.outages)  # a wrong timetable is told before the replay
    return EvaluationOptions(
        settings=replace(settings, clock=parsed.clock),
        calibration=load_calibration(parsed.calibration) if parsed.calibration else None,
        overrides=Overrides(
            topics=by_sensor(parsed.topic, "--topic"),
            camera_infos=by_sensor(parsed.camera_info, "--camera-info"),
            labels=label_topic,
            extrinsics=extrinsics,
            depth_registered=parsed.depth_registered,
            rectified=parsed.rectified,
        ),
        sensors=sensors,
        subsets=_subsets(parsed.subsets),
        every=parsed.every,
        outages=parsed.outages,
        random=_random(parsed.random_outages),
        labels=label_folder,
        tags=tuple(parsed.tag),
        timed_tags=_timed_tags(parsed.tags),
        until_s=parsed.duration,
        notes=(unread,) if unread else (),
    )


def _subsets(text: str) -> tuple[tuple[Modality, ...], ...] | Literal["all", "leave-one-out"]:
    if text == "all":
        return "all"
    if text == "leave-one-out":
        return "leave-one-out"
    if text == "none":
        return ()
    try:
        return tuple(parse_subset(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--subsets: {error}") from None


def _random(text: str | None) -> RandomOutages | None:
    if text is None:
        return None
    parts = text.split(",")
    try:
        rates = [float(v) for v in parts[1:]]
        if len(rates) > 2 or any(not r > 0 for r in rates):
            raise ValueError
        return RandomOutages(int(parts[0]), *rates)
    except ValueError:
        raise UsageError(
            f"--random-outages {text!r}: expected SEED[,PER_MINUTE[,MEAN_S]]"
        ) from None


def _timed_tags(path: Path | None) -> tuple[tuple[float, float, str], ...]:
    if path is None:
        return ()
    try:
        entries = yaml.safe_load(path.read_text())
        return tuple((float(e["from_s"]), float(e["to_s"]), str(e["tag"])) for e in entries)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: expected a list of {{from_s, to_s, tag}} ({error})") from None


def _jobs(parsed: argparse.Namespace) -> tuple[list[Job], list[str]]:
    """The recordings, each with a folder of its own, and what is no recording."""
    jobs: list[Job] = []
    problems: list[str] = []
    names: set[str] = set()
    for path in parsed.bags:
        if len(parsed.bags) > 1 and is_output(path):
            print(f"{path}: written by --write-bag, left out")
            continue
        try:
            found = find_bags(path)
        except BagError as error:
            problems.append(str(error))
            continue
        for files in found:
            name = base = bag_name(files)
            number = 2
            while name in names:
                name, number = f"{base}_{number}", number + 1
            names.add(name)
            jobs.append(Job(tuple(files), parsed.out if parsed.part else parsed.out / name))
    return jobs, problems


# --- one recording ----------------------------------------------------------------------------


def _single(job: Job, model: Path, options: EvaluationOptions, parsed: argparse.Namespace) -> int:
    mark = _fingerprint(job, model, parsed)
    status = None if parsed.fresh else _finished(job, mark, parsed)
    if status is not None:
        print(f"{job.name}: done already, see {job.out}; --fresh evaluates it again")
        return status
    engine = load_engine(model, parsed.engine, parsed.threads)
    status = _evaluate_here(job, engine, options, parsed)
    _mark_finished(job, mark, status)
    return status


def _evaluate_here(
    job: Job, engine: Engine, options: EvaluationOptions, parsed: argparse.Namespace
) -> int:
    """Evaluate in this process, say what is found, write the report.

    Raises:
        UsageError: if the folder of the report cannot be written.
    """
    _prepare(job.out)
    profile = load_profile(find_model(parsed.model), engine.card)
    options = replace(options, settings=replace(options.settings, profile=profile))
    try:
        with Bag(job.files) as bag:
            listeners = _listeners(bag, job, parsed, engine)
            with _progress(bag, options, parsed.part) as progress:
                evaluation = evaluate_recording(
                    bag,
                    engine,
                    options,
                    listeners,
                    progress,
                    lambda sources, rig: _describe(bag, sources, rig, options),
                )
        write_tables(job.out, evaluation)
        page = _write_page(job.out, evaluation)
    except (BagError, SourceError, ExtractError) as error:
        print(f"anyseg-evaluate: {error}", file=sys.stderr, flush=True)
        return FAILED
    except OSError as error:  # a disk that is full or gone
        print(f"anyseg-evaluate: {job.name}: {error}", file=sys.stderr, flush=True)
        return FAILED
    extracted = [w for w in listeners if isinstance(w, DataSetWriter)]
    for remark in (*evaluation.results["remarks"], *(r for w in extracted for r in w.remarks())):
        print(f"  ! {remark}")
    _print_summary(evaluation)
    print(f"report   {page or job.out / 'results.json'}", flush=True)
    if not evaluation.scorer.frames:
        return FAILED
    return PARTIAL if evaluation.partial else DONE


def _prepare(folder: Path) -> None:
    """Make the folder of a report and clear it of an earlier one, before hours are spent on a new one.

    Raises:
        UsageError: if nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("finished.json", *WRITTEN):
            (folder / name).unlink(missing_ok=True)
        with TemporaryFile(dir=folder) as probe:
            probe.write(bytes(4096))
    except OSError as error:
        raise UsageError(f"cannot write the report to {folder}: {error}; give --out DIR") from None


def _listeners(bag: Bag, job: Job, parsed: argparse.Namespace, engine: Engine) -> list[Listener]:
    listeners: list[Listener] = []
    if parsed.write_bag is not None:
        listeners.append(OutputBagWriter(_output_bag(job, parsed), engine.card.classes))
    if parsed.extract is not None:
        listeners.append(
            DataSetWriter(_drive_folder(job, parsed), engine.card.classes, parsed.extract_every)
        )
    return listeners


@contextmanager
def _progress(bag: Bag, options: EvaluationOptions, part: bool) -> Iterator[Any]:
    total = min(bag.duration_s, options.until_s or bag.duration_s)
    if part:
        last = -1

        def tell(time_s: float) -> None:
            nonlocal last
            if int(time_s) > last:
                last = int(time_s)
                print(f"{_PROGRESS_MARK}{time_s:.1f} {total:.1f}", flush=True)

        yield tell
        return
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda _time_s: None
        return
    with tqdm(total=round(total, 1), unit="s", desc=bag.name, disable=None) as bar:
        yield lambda time_s: bar.update(min(time_s, total) - bar.n)


def _describe(bag: Bag, sources: Sources, rig: Rig, options: EvaluationOptions) -> None:
    print(f"{bag.name}: {bag.duration_s:.1f} s, {len(bag.topics)} topics")
    for modality, source in sorted(sources.sensors.items()):
        if modality in rig.missing:
            print(f"  {modality.label:7} {source.topic}  NOT USED: {rig.missing[modality]}")
        else:
            print(f"  {modality.label:7} {source.topic} ({source.kind}); {rig.origin[modality]}")
    print(f"  labels  {label_source(sources, options) or 'none'}")
    for note in (*sources.notes, *options.notes):
        print(f"  {note}")
    sys.stdout.flush()


def _print_summary(evaluation: Evaluation) -> None:
    results, timing = evaluation.results, evaluation.timing
    run = results["run"]
    print(
        f"{run['segmented']} sets segmented, {run['complete']} with all sensors; "
        f"{timing['sets_per_s']:.1f} sets/s, {timing['speed']:.2f} times real time"
    )
    labelled = evaluation.scorer.labelled
    for row in results["subsets"]:
        if not row["sets"]:
            continue
        score = f"mIoU {row['miou']:5.1f} %  " if labelled else ""
        print(
            f"  {row['subset']:28} {score}as all sensors {row['agreement']:5.1f} %  "
            f"confidence {100 * row['confidence']:5.1f} %"
        )


def _write_page(folder: Path, evaluation: Evaluation) -> Path | None:
    try:
        from anyseg_ros.evaluation.replay_report import write_replay_report
    except ImportError as error:
        print(
            f"no report page: {error.name} is not installed (the extra report: pip install -e '.[report]')"
        )
        return None
    return write_replay_report(folder, evaluation)


# --- many recordings --------------------------------------------------------------------------


def _many(jobs: Sequence[Job], model: Path, parsed: argparse.Namespace, lost: int) -> int:
    """Evaluate each recording in a process of its own, so that none can take the others down."""
    statuses: dict[str, int] = {}
    todo = []
    marks = {job.name: _fingerprint(job, model, parsed) for job in jobs}
    for job in jobs:
        status = None if parsed.fresh else _finished(job, marks[job.name], parsed)
        if status is None:
            todo.append(job)
        else:
            statuses[job.name] = status
    if statuses:
        print(f"{len(statuses)} of {len(jobs)} recordings are done already")
    threads = parsed.threads or max((os.cpu_count() or 1) // parsed.jobs, 1)
    bar = _Bar(len(todo))
    processes: list[subprocess.Popen[str]] = []
    try:
        with ThreadPoolExecutor(parsed.jobs) as pool:
            runs = {
                pool.submit(_run_part, job, parsed, threads, bar, processes): job for job in todo
            }
            try:
                for run in as_completed(runs):
                    job = runs[run]
                    status = statuses[job.name] = run.result()
                    if status in (DONE, PARTIAL):
                        _mark_finished(job, marks[job.name], status)
                    bar.done(job.name, status, job.out)
            except BaseException:
                for process in processes:
                    process.terminate()
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        bar.close()
    _write_overview(parsed.out, jobs, statuses)
    failed = sum(s not in (DONE, PARTIAL) for s in statuses.values()) + lost
    partial = sum(s == PARTIAL for s in statuses.values())
    print(
        f"{len(statuses) - failed + lost} of {len(jobs) + lost} recordings evaluated"
        + (f", {partial} in part" if partial else "")
        + f"; overview {parsed.out / 'recordings.csv'}"
    )
    if failed:
        return FAILED
    return PARTIAL if partial else DONE


class _Bar:
    """Progress over all recordings; falls back to lines where tqdm is missing."""

    def __init__(self, total: int) -> None:
        self._lock = threading.Lock()
        self._shares: dict[str, float] = {}
        self._bar: Any = None
        try:
            from tqdm import tqdm

            self._bar = tqdm(
                total=total,
                desc="recordings",
                disable=None,
                bar_format="{desc} {percentage:3.0f}%|{bar}| {n:.2f}/{total} [{elapsed}<{remaining}]",
            )
        except ImportError:
            pass

    def advance(self, name: str, share: float) -> None:
        with self._lock:
            step = share - self._shares.get(name, 0.0)
            self._shares[name] = share
            if self._bar is not None and step > 0:
                self._bar.update(step)

    def done(self, name: str, status: int, folder: Path) -> None:
        self.advance(name, 1.0)
        word = {DONE: "done", PARTIAL: "done in part"}.get(status, "FAILED")
        line = f"{name}: {word}, see {folder / 'log.txt'}"
        with self._lock:
            if self._bar is not None:
                self._bar.write(line)
            else:
                print(line, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _run_part(
    job: Job,
    parsed: argparse.Namespace,
    threads: int,
    bar: _Bar,
    processes: list[subprocess.Popen[str]],
) -> int:
    try:
        _prepare(job.out)
    except UsageError as error:
        print(f"anyseg-evaluate: {error}", file=sys.stderr, flush=True)
        return FAILED
    command = [
        *(sys.executable, "-m", "anyseg_ros.evaluation.evaluate_bag", *map(str, job.files)),
        *_options_of_a_part(parsed),
        *("--part", "--out", str(job.out), "--threads", str(threads)),
    ]
    with (job.out / "log.txt").open("w") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        processes.append(process)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(_PROGRESS_MARK):
                reached, total = (float(v) for v in line[len(_PROGRESS_MARK) :].split())
                bar.advance(job.name, min(reached / max(total, 0.1), 0.99))
            else:
                log.write(line)
        status = process.wait()
        if status not in (DONE, FAILED, WRONG_USE, PARTIAL):
            log.write(f"anyseg-evaluate: the process ended with status {status}\n")
    return status


def _options_of_a_part(parsed: argparse.Namespace) -> list[str]:
    """The command line again, less the recordings and what concerns all of them together."""
    words: list[str] = []
    for name, value in vars(parsed).items():
        if name in _OF_ALL_PARTS or value is None or value is False:
            continue
        option = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        else:
            words += [f"{option}={v}" for v in (value if isinstance(value, list) else [value])]
    return words


def _fingerprint(job: Job, model: Path, parsed: argparse.Namespace) -> str:
    """What the results depend on: recording, model, labels, options, version of this package."""
    digest = hashlib.sha256(__version__.encode())
    options = {k: str(v) for k, v in sorted(vars(parsed).items()) if k not in _OF_ALL_PARTS}
    digest.update(json.dumps(options).encode())
    read = [p for p in (parsed.outages, parsed.calibration, parsed.params, parsed.tags) if p]
    if parsed.labels and Path(parsed.labels).is_dir():
        read.append(Path(parsed.labels))
    for path in [*job.files, model, *read]:
        for file in sorted(
            p for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file()
        ):
            state = file.stat()
            digest.update(f"{file.name}:{state.st_size}:{state.st_mtime_ns}".encode())
    return digest.hexdigest()


def _also_written(job: Job, parsed: argparse.Namespace) -> list[Path]:
    """What is written besides the report: a drive, a bag."""
    paths = []
    if parsed.extract is not None:
        paths.append(_drive_folder(job, parsed))
    if parsed.write_bag is not None:
        paths.append(_output_bag(job, parsed))
    return paths


def _drive_folder(job: Job, parsed: argparse.Namespace) -> Path:
    # A part's folder has the job's name, which differs from that of another recording of the same name.
    name = job.out.name if parsed.part else job.name
    return Path(parsed.extract) / parsed.split / name


def _output_bag(job: Job, parsed: argparse.Namespace) -> Path:
    folder = Path(parsed.write_bag) if parsed.write_bag else job.files[0].resolve().parent
    return folder / f"{bag_name(job.files)}_anyseg"


def _finished(job: Job, mark: str, parsed: argparse.Namespace) -> int | None:
    """The exit status of an earlier run with the same fingerprint, if what it wrote is still there."""
    try:
        done = json.loads((job.out / "finished.json").read_text())
    except (OSError, ValueError):
        return None
    if done.get("fingerprint") != mark:
        return None
    if not all(path.exists() for path in (job.out / "results.json", *_also_written(job, parsed))):
        return None
    return int(done["status"])


def _mark_finished(job: Job, mark: str, status: int) -> None:
    if status in (DONE, PARTIAL):
        write_json(job.out / "finished.json", {"fingerprint": mark, "status": status})


def _write_overview(folder: Path, jobs: Sequence[Job], statuses: dict[str, int]) -> None:
    from anyseg_ros.evaluation.evaluate import write_csv

    rows = []
    for job in jobs:
        status = statuses.get(job.name, FAILED)
        row: dict[str, Any] = {
            "recording": job.name,
            "status": {DONE: "done", PARTIAL: "partial"}.get(status, "failed"),
            "sets": None,
            "complete": None,
            "miou": None,
            "weakest_sensor_lost": None,
            "agreement_then": None,
            "report": str(job.out / "index.html"),
        }
        try:
            results = json.loads((job.out / "results.json").read_text())
        except (OSError, ValueError):
            results = None
        if results is not None and status in (DONE, PARTIAL):
            run = results["run"]
            row |= {"sets": run["segmented"], "complete": run["complete"]}
            row["miou"] = results["subsets"][0]["miou"]
            sensors = [s["sensor"] for s in results["sensors"] if s["used_by_model"]]
            agreement = {r["subset"]: r["agreement"] for r in results["subsets"]}
            lost = {
                s: agreement.get(subset_name(Modality.from_label(o) for o in sensors if o != s))
                for s in sensors
            }
            known = {s: a for s, a in lost.items() if a is not None}
            if known:
                worst = min(known, key=lambda s: known[s])
                row |= {"weakest_sensor_lost": worst, "agreement_then": known[worst]}
        rows.append(row)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "recordings.csv", rows)


if __name__ == "__main__":
    sys.exit(main())
