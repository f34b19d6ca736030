"""Published results on DeLiVER and MUSES, to print beside measured ones.

All on the validation split, MiT-B0, mIoU in percent where a class that neither label nor prediction holds
counts 0. MUSES: from the README of AnySeg's repository, with unlabelled pixels counted as road. DeLiVER:
AnySeg from its paper (arXiv 2411.17141), as transcribed by others.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np

from anyseg_ros.modality import Modality, subset_name

SPLIT = "val"


def _subsets(modalities: tuple[Modality, ...]) -> list[str]:
    """Singles, pairs, triples, all: each in the order of ``modalities``."""
    sizes = range(1, len(modalities) + 1)
    return [subset_name(s) for size in sizes for s in combinations(modalities, size)]


def _table(subsets: list[str], values: tuple[float, ...]) -> dict[str, float]:
    return dict(zip(subsets, values, strict=True))


_DELIVER = _subsets((Modality.CAMERA, Modality.DEPTH, Modality.EVENT, Modality.LIDAR))
_MUSES = _subsets((Modality.CAMERA, Modality.EVENT, Modality.LIDAR))

PUBLISHED: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "deliver": {
        "AnySeg": _table(
            _DELIVER,
            (
                *(47.11, 52.17, 17.33, 19.01),
                *(60.37, 47.49, 48.13, 52.82, 52.29, 21.47),
                *(60.16, 60.60, 47.98, 52.44),
                60.26,
            ),
        ),
    },
    "muses": {
        "CMX": _table(_MUSES, (2.52, 2.35, 3.01, 41.15, 41.25, 2.56, 42.27)),
        "CMNeXt": _table(_MUSES, (3.50, 2.77, 2.64, 6.63, 10.28, 3.14, 46.66)),
        "MAGIC": _table(_MUSES, (43.22, 2.68, 22.95, 43.51, 49.05, 22.98, 49.02)),
        "Any2Seg": _table(_MUSES, (44.40, 3.17, 22.33, 44.51, 49.96, 22.63, 50.00)),
        "AnySeg": _table(_MUSES, (46.01, 19.57, 32.13, 46.29, 51.25, 35.21, 51.14)),
    },
}
"""data set, method, subset: mIoU"""


def comparison(measured: Mapping[str, float], dataset: str) -> str:
    """Markdown table: a row a subset, the measured mIoU (absent classes 0) beside each published method.

    Args:
        measured: mIoU by subset name, in percent; a subset that is not measured stays empty.
        dataset: a key of :data:`PUBLISHED`.
    """
    methods = PUBLISHED[dataset]
    subsets = list(next(iter(methods.values())))
    lines = [
        f"| sensors | measured | {' | '.join(methods)} |",
        "|---" * (2 + len(methods)) + "|",
    ]
    for subset in subsets:
        cells = [f"{values[subset]:.2f}" for values in methods.values()]
        own = f"{measured[subset]:.2f}" if subset in measured else ""
        lines.append(f"| {subset} | {own} | {' | '.join(cells)} |")
    means = [f"{np.mean(list(values.values())):.2f}" for values in methods.values()]
    complete = all(subset in measured for subset in subsets)
    own = f"{np.mean([measured[s] for s in subsets]):.2f}" if complete else ""
    lines.append(f"| mean | {own} | {' | '.join(means)} |")
    return "\n".join(lines)
