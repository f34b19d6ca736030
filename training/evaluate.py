"""Evaluate on every subset of the sensors.

    python training/evaluate.py --model models/anyseg_street_b0 --data data/street --split test
    python training/evaluate.py --checkpoint runs/first_student/checkpoints/best.ckpt --data data/street
    python training/evaluate.py --majority --data data/street
    python training/evaluate.py --official muses_b0.pth --data MUSES --split val --unlabelled_is_road
    python training/evaluate.py --official m3l.pth --dataset stanford_indoor --data stanford --split test

mIoU by two rules (classes absent from the split skipped; absent classes 0, as the papers' code does), per
class, per weather and sensor failure, and the calibration error of the confidence. An exported model runs
through the runtime's engine, so that what is measured is what runs on the robot. On the validation splits of
DeLiVER and MUSES the published figures are printed beside the measured ones.
"""

from __future__ import annotations

import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

if __package__ in (None, ""):  # called as a script: make the repository importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import numpy.typing as npt
import torch
from jsonargparse.typing import NonNegativeInt
from torch.nn import functional as F
from tqdm import tqdm

from anyseg_ros.classes import ClassSet
from anyseg_ros.engine import EngineError, ModelError, load_engine
from anyseg_ros.evaluation.metrics import Calibration, ConfusionMatrix
from anyseg_ros.evaluation.results import Row, write_results
from anyseg_ros.modalities.encoding import EncodingSpec
from anyseg_ros.modality import MODALITIES, Modality, all_subsets, parse_subset, subset_name
from training.data.batches import split_planes, thinned_out
from training.data.deliver import FRAMES as DELIVER_FRAMES
from training.data.deliver import about_deliver
from training.data.indoor import DataSet, about_indoor
from training.data.muses import FRAMES as MUSES_FRAMES
from training.data.muses import about_muses
from training.data.published import PUBLISHED, comparison
from training.data.published import SPLIT as PUBLISHED_SPLIT
from training.data.sources import Frame, FrameSource, open_source
from training.data.street import DataSetError, ImageSpec, StreetData
from training.models.checkpoint import TrainedSegmentor, Weights, load_trained
from training.models.graphs import (
    ENSEMBLE,
    add_network_options,
    exportable,
    exportable_segment,
    labels_and_confidence,
)
from training.models.linear_fusion import LinearFusionSegmentor
from training.models.reference_checkpoints import (
    IMAGENET_CAMERA,
    RAW_BYTES,
    import_anyseg,
    import_m3l,
)
from training.models.strict import CheckpointError

Subset = tuple[Modality, ...]
Output = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]
"""labels and confidence, uint8[H, W]"""
ROW_KEYS = ("method", "seed", "split", "subset", "condition")
INDOOR_SIDES = {"stanford_indoor": 544, "sun_rgbd": 512}
"""Input size of M3L's networks in pixels: the published 540 and 500, up to a multiple of 32."""
_FRAMES = {"deliver": DELIVER_FRAMES, "muses": MUSES_FRAMES}


class Predictor(Protocol):
    """Segments one frame from several subsets of its modality images."""

    classes: ClassSet
    modalities: tuple[Modality, ...]

    def predict(
        self, images: npt.NDArray[np.uint8], subsets: Sequence[Subset]
    ) -> dict[Subset, Output]:
        """``images`` uint8[M, H, W, 3] in the order of the modalities."""
        ...


class EnginePredictor:
    """An exported model in the runtime's engine."""

    def __init__(self, folder: Path, engine: str = "auto") -> None:
        self._engine = load_engine(folder, engine)
        card = self._engine.card
        self.classes = card.classes
        self.modalities = card.modalities
        self.spec = ImageSpec(card.input_width, card.input_height, card.encodings)

    def predict(
        self, images: npt.NDArray[np.uint8], subsets: Sequence[Subset]
    ) -> dict[Subset, Output]:
        used = sorted({m for subset in subsets for m in subset})
        ids = np.array([int(m) for m in used], np.int64)
        features = dict(zip(used, self._engine.encode(images[ids], ids), strict=True))
        results = {}
        for subset in subsets:
            output = self._engine.fuse([features[m] for m in subset])
            results[subset] = (output.labels, output.confidence)
        return results


class CheckpointPredictor:
    """What all networks of checkpoints have in common: classes, images, and the GPU if there is one."""

    def __init__(self, trained: TrainedSegmentor) -> None:
        data = trained.data
        self.classes = ClassSet(
            tuple(data["class_names"]), tuple((r, g, b) for r, g, b in data["class_colors"])
        )
        self.modalities = tuple(Modality.from_label(label) for label in data["modalities"])
        encodings = {
            Modality.from_label(label): EncodingSpec(entry["name"], dict(entry["settings"]))
            for label, entry in data["encodings"].items()
        }
        self.spec = ImageSpec(int(data["input_width"]), int(data["input_height"]), encodings)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class TorchPredictor(CheckpointPredictor):
    """A checkpoint's network that averages modalities, in torch."""

    def __init__(self, trained: TrainedSegmentor) -> None:
        super().__init__(trained)
        encode, fuse = exportable(trained.anymodal, self.spec.height, self.spec.width)
        self._encode, self._fuse = encode.to(self._device), fuse.to(self._device)

    @torch.inference_mode()
    def predict(
        self, images: npt.NDArray[np.uint8], subsets: Sequence[Subset]
    ) -> dict[Subset, Output]:
        used = sorted({m for subset in subsets for m in subset})
        ids = np.array([int(m) for m in used], np.int64)
        maps = self._encode(
            torch.from_numpy(images[ids]).to(self._device), torch.from_numpy(ids).to(self._device)
        )
        results = {}
        # With all stages run once a modality, the head's affine part can be too, for all subsets.
        levels, weights = list(maps), torch.ones(len(used), 1, 1, 1, device=self._device)
        if self._fuse.weighted:
            *levels, weights = maps
            levels = [level / weights for level in levels]
        affine = None if self._fuse.late else self._fuse.head.projected(levels)
        for subset in subsets:
            rows = [used.index(m) for m in subset]
            if affine is None:
                labels, confidence = self._fuse(*(level[rows] for level in maps))
            else:
                # A sum of slices and not their mean, which is many times slower in this layout.
                total = weights[rows[0]] * affine[rows[:1]]
                for row in rows[1:]:
                    total = total + weights[row] * affine[row]
                logits = self._fuse.head.classify(total / weights[rows].sum())
                full = F.interpolate(
                    logits, size=self._fuse.size, mode="bilinear", align_corners=False
                )
                labels, confidence = labels_and_confidence(full[0])
            results[subset] = (labels.cpu().numpy(), confidence.cpu().numpy())
        return results


class LinearFusionPredictor(CheckpointPredictor):
    """A checkpoint's Linear Fusion network in torch: all slots, those of missing modalities masked.

    Args:
        trained: the network.
        prediction: which of its predictions, as in ``training/models/graphs.py``.
    """

    def __init__(self, trained: TrainedSegmentor, prediction: str = ENSEMBLE) -> None:
        super().__init__(trained)
        assert isinstance(trained.network, LinearFusionSegmentor)
        self.modalities = trained.network.modalities
        graph = exportable_segment(trained.network, self.spec.height, self.spec.width, prediction)
        self._segment = graph.to(self._device)

    @torch.inference_mode()
    def predict(
        self, images: npt.NDArray[np.uint8], subsets: Sequence[Subset]
    ) -> dict[Subset, Output]:
        slots = torch.from_numpy(images[[int(m) for m in self.modalities]]).to(self._device)
        results = {}
        for subset in subsets:
            present = torch.tensor([m in subset for m in self.modalities], device=self._device)
            labels, confidence = self._segment(slots, present)
            results[subset] = (labels.cpu().numpy(), confidence.cpu().numpy())
        return results


def checkpoint_predictor(
    trained: TrainedSegmentor, prediction: str = ENSEMBLE
) -> TorchPredictor | LinearFusionPredictor:
    """The predictor for whatever network a checkpoint holds.

    Raises:
        CheckpointError: if the network has no such prediction.
    """
    if isinstance(trained.network, LinearFusionSegmentor):
        try:
            return LinearFusionPredictor(trained, prediction)
        except ValueError as error:
            raise CheckpointError(str(error)) from None
    if prediction != ENSEMBLE:
        raise CheckpointError(
            f"no prediction {prediction!r}: a network that averages modalities has one only"
        )
    return TorchPredictor(trained)


class MajorityPredictor:
    """Always the class that covers most of the training split: what any network must beat."""

    modalities = MODALITIES

    def __init__(self, training_data: StreetData) -> None:
        self.classes = training_data.classes
        counts = np.zeros(256, np.int64)
        for _, planes in training_data:
            counts += np.bincount(split_planes(planes)[1].ravel(), minlength=256)
        counts = counts[: len(self.classes)]
        self._label = int(counts.argmax())
        self._confidence = round(255 * counts.max() / counts.sum())

    def predict(
        self, images: npt.NDArray[np.uint8], subsets: Sequence[Subset]
    ) -> dict[Subset, Output]:
        shape = images.shape[1:3]
        output = (
            np.full(shape, self._label, np.uint8),
            np.full(shape, self._confidence, np.uint8),
        )
        return dict.fromkeys(subsets, output)


class Scores:
    """Confusion and calibration of each subset under each condition."""

    def __init__(self, classes: ClassSet) -> None:
        self._classes = classes
        self._matrices: dict[tuple[Subset, str], ConfusionMatrix] = {}
        self._calibrations: dict[tuple[Subset, str], Calibration] = {}
        self._frames: dict[tuple[Subset, str], int] = {}

    def __bool__(self) -> bool:
        return bool(self._frames)

    def add(
        self,
        frame: Frame,
        outputs: Mapping[Subset, Output],
        truth: npt.NDArray[np.uint8],
    ) -> None:
        """Count one frame."""
        conditions = ("all", *frame.conditions)
        for subset, (labels, confidence) in outputs.items():
            matrix = ConfusionMatrix(len(self._classes))
            matrix.add(labels, truth)
            for condition in conditions:
                key = (subset, condition)
                self._frames[key] = self._frames.get(key, 0) + 1
                self._matrices.setdefault(key, ConfusionMatrix(len(self._classes)))
                self._matrices[key] += matrix
                self._calibrations.setdefault(key, Calibration(len(self._classes)))
                self._calibrations[key].add(labels, confidence, truth)

    def rows(self, method: str, seed: int, split: str) -> list[Row]:
        """One row a subset and condition, then the mean over subsets of each condition."""
        rows = []
        for condition in dict.fromkeys(condition for _, condition in self._frames):
            part = []
            for (subset, name), matrix in self._matrices.items():
                if name != condition:
                    continue
                row: Row = {
                    "method": method,
                    "seed": seed,
                    "split": split,
                    "subset": subset_name(subset),
                    "condition": condition,
                    "miou": round(matrix.miou(), 2),
                    "miou_absent_zero": round(matrix.miou_absent_zero(), 2),
                    "pixel_accuracy": round(matrix.pixel_accuracy(), 2),
                    "ece": round(self._calibrations[subset, name].ece(), 4),
                    "frames": self._frames[subset, name],
                }
                if condition == "all":
                    for class_name, iou in zip(self._classes.names, matrix.iou(), strict=True):
                        if not np.isnan(iou):
                            row[f"iou {class_name}"] = round(100 * float(iou), 2)
                part.append(row)
            rows += part
            if len(part) > 1:
                rows.append(_mean_row(part))
        return rows


def _mean_row(rows: Sequence[Row]) -> Row:
    mean = {key: rows[0][key] for key in ("method", "seed", "split")}
    mean |= {"subset": "mean", "condition": rows[0]["condition"]}
    for key in ("miou", "miou_absent_zero", "pixel_accuracy", "ece"):
        mean[key] = round(float(np.mean([row[key] for row in rows])), 4 if key == "ece" else 2)
    mean["frames"] = max(row["frames"] for row in rows)
    return mean


def markdown(rows: Sequence[Row]) -> str:
    """Two tables: subset by condition (mIoU), and subset by class (IoU), in percent."""
    conditions = list(dict.fromkeys(row["condition"] for row in rows))
    subsets = list(dict.fromkeys(row["subset"] for row in rows))
    by = {(row["subset"], row["condition"]): row for row in rows}
    lines = [
        "| sensors | " + " | ".join(conditions) + " | absent = 0 | ECE |",
        "|---" * (len(conditions) + 3) + "|",
    ]
    for subset in subsets:
        cells = [f"{by[subset, c]['miou']:.1f}" if (subset, c) in by else "" for c in conditions]
        whole = by[subset, "all"]
        lines.append(
            f"| {subset} | {' | '.join(cells)} | {whole['miou_absent_zero']:.1f} | {whole['ece']:.3f} |"
        )
    classes = [key.removeprefix("iou ") for key in rows[0] if key.startswith("iou ")]
    lines += ["", "| sensors | " + " | ".join(classes) + " |", "|---" * (len(classes) + 1) + "|"]
    for subset in subsets:
        whole = by[subset, "all"]
        if subset != "mean":
            cells = [f"{whole.get(f'iou {name}', float('nan')):.1f}" for name in classes]
            lines.append(f"| {subset} | {' | '.join(cells)} |")
    return "\n".join(lines)


def evaluate(
    predictor: Predictor, data: FrameSource, subsets: Sequence[Subset], frames: int = 0
) -> Scores:
    """Run a predictor over a split's labelled frames, evenly thinned out to at most ``frames`` unless 0.

    A combination is scored on the frames that have all of its sensors; one of which there are none has no
    row.

    Raises:
        DataSetError: if there is nothing to score.
    """
    scores = Scores(predictor.classes)
    for index in tqdm(thinned_out(data.labelled(), frames), desc="evaluate", unit="frame"):
        available = data.available(index)
        possible = [s for s in subsets if all(available[m] for m in s)]
        if not possible:
            continue
        images, truth = split_planes(np.array(data.planes(index)))
        channels_last = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        scores.add(data.frames[index], predictor.predict(channels_last, possible), truth)
    if not scores:
        raise DataSetError(
            "no frame is labelled and has all sensors of "
            + " or of ".join(subset_name(subset) for subset in subsets)
        )
    return scores


def evaluate_trained(
    trained: TrainedSegmentor,
    root: Path,
    split: str,
    subsets: Sequence[str] = (),
    workers: int = 0,
    prediction: str = ENSEMBLE,
    frames: int = 0,
) -> Scores:
    """Score a checkpoint's network on a split; all subsets of its modalities unless some are named."""
    predictor = checkpoint_predictor(trained, prediction)
    chosen = [parse_subset(name) for name in subsets] or all_subsets(predictor.modalities)
    data = open_source(trained.data, root, split, predictor.spec, workers)
    return evaluate(predictor, data, chosen, frames)


def imported(
    path: Path, dataset: str, normalization: str, weights: Weights = "auto"
) -> TrainedSegmentor:
    """An official checkpoint as a network trained on ``dataset``.

    Args:
        path: the file.
        dataset: ``deliver`` or ``muses`` of AnySeg's, ``stanford_indoor`` or ``sun_rgbd`` of M3L's.
        normalization: of AnySeg's: ``bytes`` or ``imagenet``, the two that its repository leaves open.
        weights: of M3L's; ``auto`` is the teacher.
    """
    if dataset in INDOOR_SIDES:
        indoor: DataSet = "stanford_indoor" if dataset == "stanford_indoor" else "sun_rgbd"
        side = INDOOR_SIDES[dataset]
        about = about_indoor(indoor, side, side) | {"modalities": ["camera", "depth"]}
        fusing = import_m3l(path, "student" if weights == "student" else "teacher")
        return _of_classes(TrainedSegmentor(fusing, 0, {"name": "M3L"}, about), path)
    table = RAW_BYTES if normalization == "bytes" else IMAGENET_CAMERA
    about = about_deliver() if dataset == "deliver" else about_muses()
    labels = [m.label for m in MODALITIES if m.label in about["encodings"]]
    network = import_anyseg(path, table)
    about |= {"modalities": labels}
    return _of_classes(TrainedSegmentor(network, 0, {"name": "AnySeg"}, about), path)


def _of_classes(trained: TrainedSegmentor, path: Path) -> TrainedSegmentor:
    """``trained``, if it has as many classes as its data set."""
    classes, data = trained.network.config.classes, trained.data
    if classes != len(data["class_names"]):
        raise CheckpointError(
            f"{path} has {classes} classes, {data['name']} {len(data['class_names'])}"
        )
    return trained


def _arguments(arguments: list[str] | None) -> Namespace:
    parser = ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path, help="folder of an exported model")
    source.add_argument("--checkpoint", type=Path, help="checkpoint of training/train.py")
    source.add_argument("--official", type=Path, help="published checkpoint; see --dataset")
    source.add_argument("--majority", action="store_true", help="the most frequent class, always")
    parser.add_argument("--data", type=Path, required=True, help="root of the data set")
    parser.add_argument(
        "--dataset",
        default="muses",
        choices=(*PUBLISHED, *INDOOR_SIDES),
        help="what an official checkpoint was trained on: AnySeg's on muses or deliver, M3L's on the others; "
        "others say so themselves",
    )
    parser.add_argument(
        "--normalization",
        default="bytes",
        choices=("bytes", "imagenet"),
        help="of the input of an official checkpoint of AnySeg",
    )
    parser.add_argument(
        "--unlabelled_is_road",
        action="store_true",
        help="MUSES: count unlabelled pixels as road, as the published figures do",
    )
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    parser.add_argument("--engine", default="auto", help="engine of an exported model")
    add_network_options(parser)
    parser.add_argument("--frames", type=int, default=0, help="evenly chosen frames; 0: all")
    parser.add_argument(
        "--subsets",
        nargs="+",
        default=[],
        help="e.g. camera camera+lidar all; default: all of them",
    )
    parser.add_argument("--method", help="name of the method in the rows")
    parser.add_argument("--seed", type=int, default=0, help="seed named in the rows")
    parser.add_argument("--output", type=Path, help="result file to write the rows to")
    parser.add_argument("--notes", default="", help="notes of the result file")
    parser.add_argument("--workers", type=int, default=2, help="processes that build images")
    parser.add_argument(
        "--threads",
        type=NonNegativeInt,
        default=0,
        help="CPU threads of a torch network; 0: as torch likes. 1 is many times faster on a busy machine",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> list[Row]:
    """Entry point; ``arguments`` default to those of the command line. Returns the rows."""
    options = _arguments(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    predictor: Predictor
    spec, about = ImageSpec(), {}
    if options.majority:
        predictor = MajorityPredictor(StreetData(options.data, "train", spec, options.workers))
    elif options.model:
        predictor = EnginePredictor(options.model, options.engine)
        spec = predictor.spec
    else:
        if options.official:
            trained = imported(
                options.official, options.dataset, options.normalization, options.weights
            )
        else:
            trained = load_trained(options.checkpoint, options.weights)
        predictor = checkpoint_predictor(trained, options.prediction)
        spec, about = predictor.spec, trained.data
    chosen = [parse_subset(name) for name in options.subsets] or all_subsets(predictor.modalities)
    data = open_source(
        about, options.data, options.split, spec, options.workers, options.unlabelled_is_road
    )
    scores = evaluate(predictor, data, chosen, options.frames)
    given = options.model or options.checkpoint or options.official
    default = "majority" if options.majority else str(given)
    rows = scores.rows(options.method or default, options.seed, options.split)
    print(markdown(rows))
    if about.get("dataset") in PUBLISHED and options.split == PUBLISHED_SPLIT:
        whole = {r["subset"]: r["miou_absent_zero"] for r in rows if r["condition"] == "all"}
        print(f"\n{comparison(whole, about['dataset'])}")
        of_all = _FRAMES[about["dataset"]][options.split]
        scored = next(row["frames"] for row in rows if row["condition"] == "all")
        if scored != of_all:
            print(f"The published rows are of {of_all} frames, the measured one of {scored}.")
    if options.output:
        words = sys.argv[1:] if arguments is None else arguments
        command = "python training/evaluate.py " + shlex.join(words)
        write_results(options.output, rows, command, options.notes, ROW_KEYS)
    return rows


if __name__ == "__main__":
    try:
        main()
    except (CheckpointError, DataSetError, EngineError, ModelError) as error:
        sys.exit(f"evaluate: {error}")
