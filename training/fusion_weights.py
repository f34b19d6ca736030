"""Weigh a model's sensors against each other, by a few labelled frames and without training.

    python training/fusion_weights.py runs/NAME/checkpoints/last.ckpt models/NAME --data data/street

AnySeg averages the maps of the live sensors, ``sum(f_m) / M``: a sensor that says little has as much say as
the best. Here each has a weight, ``sum(w_m f_m) / sum(w_m)``, one number a sensor for all of its maps. The
weights are searched one sensor after another on the first half of the frames, for the best mean mIoU over all
combinations of the sensors; what they gain is printed for the second half, which is of other drives if there
are several. A sensor alone is not changed by
its weight. What is written is an exported model; training that starts from it keeps the weights.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Mapping, Sequence
from pathlib import Path

if __package__ in (None, ""):  # called as a script: make the repository importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from anyseg_ros.engine import EngineError, ModelCard
from anyseg_ros.evaluation.metrics import ConfusionMatrix
from anyseg_ros.modality import Modality, all_subsets, subset_name
from training.data.batches import split_planes, thinned_out
from training.data.street import DataSetError, StreetData
from training.evaluate import CheckpointPredictor
from training.export import ExportError, add_export_options, export
from training.models.checkpoint import TrainedSegmentor, load_trained
from training.models.graphs import exportable
from training.models.segmentor import FusionWeights
from training.models.strict import CheckpointError

GRID = (0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Weights that are tried, against the first modality's 1."""

Subset = tuple[Modality, ...]
Weights = Mapping[Modality, float]


class Labelled(CheckpointPredictor):
    """Labelled frames, encoded once, and how well each combination of the sensors segments them.

    Args:
        trained: the model; its layers are rewritten in place.
        data: a split with labels.
        frames: which of its frames; the maps of all of them are kept in memory (2 MB a sensor and frame with
            the shipped model).
    """

    def __init__(self, trained: TrainedSegmentor, data: StreetData, frames: Sequence[int]) -> None:
        super().__init__(trained)
        before = trained.network.config.fusion_weights or FusionWeights()
        self.before = {m: before.of(m) / before.of(self.modalities[0]) for m in self.modalities}
        """the weights that the model has, against the first modality's 1"""
        trained.anymodal.set_fusion_weights(None)
        encode, fuse = exportable(trained.anymodal, self.spec.height, self.spec.width)
        self._fuse = fuse.to(self._device)
        encode = encode.to(self._device)
        ids = torch.tensor([int(m) for m in self.modalities], device=self._device)
        self._frames: list[tuple[dict[Modality, list[Tensor]], npt.NDArray[np.uint8]]] = []
        for index in tqdm(frames, "encode", unit="frame"):
            images, label = split_planes(np.array(data.planes(index)))
            pictures = torch.from_numpy(images.transpose(0, 2, 3, 1)).to(self._device)[ids]
            with torch.inference_mode():
                maps = encode(pictures.contiguous(), ids)
            recorded = data.available(index)
            features = {
                m: [level[row] for level in maps]
                for row, m in enumerate(self.modalities)
                if recorded[m]
            }
            self._frames.append((features, label))
        self.recorded = {m for features, _ in self._frames for m in features}
        """the sensors that any of the frames has"""
        self._known: dict[tuple[Subset, tuple[float, ...]], float] = {}

    def miou(self, subset: Subset, weights: Weights) -> float:
        """mIoU in percent of one combination, over the frames that have all of its sensors, else NaN."""
        total = sum(weights[m] for m in subset)
        shares = [weights[m] / total for m in subset]
        key = (subset, tuple(round(share, 6) for share in shares))
        if key not in self._known:
            matrix = ConfusionMatrix(len(self.classes))
            for features, label in self._frames:
                if all(m in features for m in subset):
                    matrix.add(self._labels([features[m] for m in subset], shares), label)
            self._known[key] = matrix.miou() if matrix.pixels else float("nan")
        return self._known[key]

    def scores(self, weights: Weights) -> dict[Subset, float]:
        """mIoU of every combination."""
        return {subset: self.miou(subset, weights) for subset in all_subsets(self.modalities)}

    @torch.inference_mode()
    def _labels(
        self, features: Sequence[Sequence[Tensor]], shares: Sequence[float]
    ) -> npt.NDArray[np.uint8]:
        # Their weighted mean as the only stream: the mean of one is itself.
        means = []
        for levels in zip(*features, strict=True):
            mean = shares[0] * levels[0]
            for share, level in zip(shares[1:], levels[1:], strict=True):
                mean = mean + share * level
            means.append(mean[None])
        labels, _ = self._fuse(*means)
        found: npt.NDArray[np.uint8] = labels.cpu().numpy()
        return found


def search(frames: Labelled, sweeps: int = 2) -> dict[Modality, float]:
    """The weights with the best mean mIoU over the combinations, one sensor's varied after another's.

    Args:
        frames: what they are judged by; the weight of its first modality stays 1, as only ratios matter.
            A sensor that none of them has keeps the weight that it has.
        sweeps: how often each sensor has its turn at most.
    """
    best = {m: 1.0 if m in frames.recorded else frames.before[m] for m in frames.modalities}
    score = mean_score(frames.scores(best))
    varied = [m for m in frames.modalities[1:] if m in frames.recorded]
    turns = sweeps * len(varied)
    with tqdm(total=turns * (len(GRID) - 1), desc="weigh", unit="weighting") as progress:
        for _ in range(sweeps):
            before = dict(best)
            for modality in varied:
                for weight in [w for w in GRID if w != best[modality]]:
                    tried = {**best, modality: weight}
                    found = mean_score(frames.scores(tried))
                    if found > score:
                        best, score = tried, found
                    progress.update()
                    progress.set_postfix(miou=f"{score:.2f}")
            if best == before:
                break
    return best


def mean_score(scores: Mapping[Subset, float]) -> float:
    """The mean over the combinations of which there were frames."""
    return float(np.nanmean(list(scores.values())))


def choose_frames(data: StreetData, frames: int) -> list[int]:
    """Evenly chosen frames of a split, of those that have a label.

    Raises:
        DataSetError: if there are fewer than two.
    """
    labelled = data.labelled()
    if len(labelled) < 2:
        folder = data.frames[0].drive.parent
        raise DataSetError(f"{folder} has {len(labelled)} frames with labels; expected at least 2")
    return thinned_out(labelled, frames)


def weights_for(trained: TrainedSegmentor, root: Path, frames: int) -> FusionWeights:
    """The best weights by a data set's validation split.

    Args:
        trained: the model; its layers are rewritten in place.
        root: of the data set.
        frames: how many of its frames.
    """
    data = StreetData(root, "val", CheckpointPredictor(trained).spec)
    return _as_config(search(Labelled(trained, data, choose_frames(data, frames))))


def main(arguments: list[str] | None = None) -> ModelCard:
    """Entry point; returns the card of what was written."""
    parser = ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model", type=Path, help="checkpoint, or folder of an exported model")
    parser.add_argument("output", type=Path, help="folder to write the weighted model to")
    parser.add_argument("--data", type=Path, required=True, help="data set with labels to judge by")
    parser.add_argument("--split", default="val", help="of the data set; not the one to test on")
    parser.add_argument("--frames", type=int, default=100, help="evenly chosen frames of it")
    parser.add_argument(
        "--weights", type=_weights, help="do not search, take these: event=0.25,depth=1.5"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that build images")
    add_export_options(parser)
    options = parser.parse_args(arguments)
    if options.frames < 2:
        parser.error("--frames must be at least 2: one half to choose by, the other to report")
    if options.output.resolve() == options.model.resolve():
        parser.error(f"the weighted model would overwrite {options.model}: name another folder")
    about = CheckpointPredictor(load_trained(options.model))
    unknown = [m.label for m in options.weights or () if m not in about.modalities]
    if unknown:
        parser.error(f"--weights: the model was not trained on {', '.join(unknown)}")
    data = StreetData(options.data, options.split, about.spec, options.workers)
    chosen = choose_frames(data, options.frames)
    half = (len(chosen) + 1) // 2
    plain = dict.fromkeys(about.modalities, 1.0)
    if options.weights is None:
        weights = search(Labelled(load_trained(options.model), data, chosen[:half]))
    else:
        weights = {**plain, **options.weights}
    held = Labelled(load_trained(options.model), data, chosen[half:])
    before, after = held.scores(plain), held.scores(weights)
    print(f"mIoU on {len(chosen) - half} other frames, by plain means and weighted:")
    for subset in before:
        print(f"  {subset_name(subset):26} {before[subset]:6.1f} {after[subset]:6.1f}")
    print(f"  {'mean':26} {mean_score(before):6.1f} {mean_score(after):6.1f}")
    if options.weights is None and mean_score(after) <= mean_score(before):
        print(
            f"note: nothing is gained on other frames than the {half} that these weights were chosen by; "
            "more labelled frames tell better, --weights takes others"
        )
    trained = load_trained(options.model)
    trained.anymodal.set_fusion_weights(_as_config(weights))
    card = export(
        trained,
        options.output,
        options.output.name,
        options.metrics,
        output_stride=options.output_stride,
        half_weights=options.half_weights,
    )
    said = ", ".join(f"{m.label} {weight:g}" for m, weight in weights.items())
    print(f"{options.output}: {card.name} {card.model_id}, {said}")
    return card


def _as_config(weights: Weights) -> FusionWeights:
    return FusionWeights(**{m.label: weight for m, weight in weights.items()})


def _weights(text: str) -> dict[Modality, float]:
    weights = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            modality, weight = Modality.from_label(name.strip()), float(value)
        except ValueError:
            raise ArgumentTypeError(
                f"{part!r}; expected SENSOR=NUMBER, as in event=0.25,depth=1.5"
            ) from None
        if not 0.0 < weight < float("inf"):
            raise ArgumentTypeError(f"{part!r}; expected a number above 0")
        weights[modality] = weight
    return weights


if __name__ == "__main__":
    try:
        main()
    except (CheckpointError, DataSetError, EngineError, ExportError) as error:
        sys.exit(f"fusion_weights: {error}")
