"""Named encodings: how metres, events and points become pixels, with their settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite

from anyseg_ros.modalities.errors import ModalityError
from anyseg_ros.modality import Modality


@dataclass(frozen=True)
class EncodingSpec:
    """An encoding's name and the settings that the model was trained with."""

    name: str
    settings: Mapping[str, float] = field(default_factory=dict)


# Every encoding the project can build, with its settings and their defaults.
ENCODINGS: dict[Modality, dict[str, dict[str, float]]] = {
    Modality.CAMERA: {"rgb": {}},
    Modality.DEPTH: {
        "inverse_log": {"min_m": 1.0, "max_m": 80.0},
        "inverse_log_height": {
            "min_m": 1.0,
            "max_m": 80.0,
            "min_height_m": -3.0,
            "max_height_m": 7.0,
        },
        "minmax": {},
    },
    Modality.EVENT: {
        "polarity_counts": {"window_s": 0.05, "saturation": 4.0},
        "polarity_counts_elevation": {"window_s": 0.05, "saturation": 4.0},
        "signed_count_elevation_recency": {"window_s": 0.1, "saturation": 4.0},
    },
    Modality.LIDAR: {
        "range_height_intensity": {
            "min_m": 1.0,
            "max_m": 80.0,
            "min_height_m": -3.0,
            "max_height_m": 7.0,
            "splat_width_px": 3,
            "splat_height_px": 5,
        }
    },
}

DEFAULT_ENCODINGS: dict[Modality, EncodingSpec] = {
    modality: EncodingSpec(name, ENCODINGS[modality][name])
    for modality, name in {
        Modality.CAMERA: "rgb",
        Modality.DEPTH: "inverse_log_height",
        Modality.EVENT: "signed_count_elevation_recency",
        Modality.LIDAR: "range_height_intensity",
    }.items()
}


def resolve_settings(modality: Modality, spec: EncodingSpec) -> dict[str, float]:
    """Settings of ``spec`` with defaults filled in.

    Raises:
        ModalityError: if the project has no such encoding, the encoding no such setting, or a value cannot
            work.
    """
    known = ENCODINGS[modality]
    if spec.name not in known:
        raise ModalityError(
            f"no encoding {spec.name!r} for {modality.label}; this version builds {', '.join(known)}"
        )
    unknown = sorted(set(spec.settings) - set(known[spec.name]))
    if unknown:
        raise ModalityError(
            f"{modality.label} encoding {spec.name} has no setting {', '.join(unknown)}; "
            f"it has {', '.join(known[spec.name]) or 'none'}"
        )
    settings = {**known[spec.name], **spec.settings}
    what = f"{modality.label} encoding {spec.name}"
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise ModalityError(f"{what}: {name} is {value!r}; expected a number")
    for name, value in settings.items():
        where = f"{what}: {name} is {value!r}"
        if value <= 0 and not name.endswith("_height_m"):
            raise ModalityError(f"{where}; expected one above 0")
        if name.endswith("_px") and value != int(value):
            raise ModalityError(f"{where}; expected a whole number")
        if name.startswith("min_") and value >= settings[f"max_{name.removeprefix('min_')}"]:
            raise ModalityError(f"{where}, which is not below max_{name.removeprefix('min_')}")
    return settings


def window_s(modality: Modality, spec: EncodingSpec) -> float:
    """Seconds before its stamp that an image looks at; of a modality without a window any."""
    return resolve_settings(modality, spec).get("window_s", 0.05)
