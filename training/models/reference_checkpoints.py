"""Importers for published weights: AnySeg's and M3L's, and MiT encoders trained on ImageNet.

Every key and every shape must match; the reference code loads non-strictly, so that a wrong file silently
leaves random weights. Files are read weights-only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from training.models.encoder import MixTransformer
from training.models.linear_fusion import LinearFusionEncoder, LinearFusionSegmentor, ModalityNorm
from training.models.segmentor import (
    AnymodalSegmentor,
    LinearFusionConfig,
    NormalizationConfig,
    SegmentorConfig,
)
from training.models.strict import CheckpointError, listed, load_strictly, mit_size

_UNIT = (1.0, 1.0, 1.0)
_ZERO = (0.0, 0.0, 0.0)
_BYTE = (1 / 255, 1 / 255, 1 / 255)
RAW_BYTES = NormalizationConfig(
    *(_ZERO, _BYTE, _ZERO, _BYTE, _ZERO, _BYTE, _ZERO, _BYTE),
)
"""0..255 as they are: what the released MUSES evaluation feeds its network."""
IMAGENET_CAMERA = NormalizationConfig(
    depth_std=_UNIT, event_std=_UNIT, lidar_std=_UNIT, depth_mean=_ZERO, event_mean=_ZERO
)
"""ImageNet's for the camera, the others in 0..1: what the DeLiVER code trains with."""

_WRAPPERS = ("model_state_dict", "state_dict", "model")
Role = Literal["student", "teacher"]
# Mask tokens of the later stages are never used.
_M3L_DROPPED = re.compile(r"encoder\.patch_embed[234]\.mask_token|.*\.num_batches_tracked")
_DROPPED = re.compile(r"classifier\.weight|head\.(weight|bias)|.*\.num_batches_tracked")
# In the order of application; each pattern matches a whole key.
_RENAMES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), target)
    for pattern, target in (
        (r"patch_embed(\d)\.(proj|norm)\.(\w+)", r"encoder.stages.{}.patch_embed.\2.\3"),
        (r"block(\d)\.(\d+)\.(norm[12])\.(\w+)", r"encoder.stages.{}.blocks.\2.\3.\4"),
        (r"block(\d)\.(\d+)\.attn\.sr\.(\w+)", r"encoder.stages.{}.blocks.\2.attention.reduce.\3"),
        (
            r"block(\d)\.(\d+)\.attn\.(q|kv|proj|norm)\.(\w+)",
            r"encoder.stages.{}.blocks.\2.attention.\3.\4",
        ),
        (
            r"block(\d)\.(\d+)\.mlp\.dwconv\.dwconv\.(\w+)",
            r"encoder.stages.{}.blocks.\2.mlp.depthwise.\3",
        ),
        (r"block(\d)\.(\d+)\.mlp\.(fc[12])\.(\w+)", r"encoder.stages.{}.blocks.\2.mlp.\3.\4"),
        (r"norm(\d)\.(\w+)", r"encoder.stages.{}.norm.\2"),
        (r"linear_c(\d)\.proj\.(\w+)", r"head.projections.{}.\2"),
    )
)
_HEAD = {
    "linear_fuse.conv.weight": "head.fuse.weight",
    "linear_fuse.bn.weight": "head.norm.weight",
    "linear_fuse.bn.bias": "head.norm.bias",
    "linear_fuse.bn.running_mean": "head.norm.running_mean",
    "linear_fuse.bn.running_var": "head.norm.running_var",
    "linear_pred.weight": "head.classifier.weight",
    "linear_pred.bias": "head.classifier.bias",
}


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a published file weights-only, without its wrapper and one leading ``module.``.

    Raises:
        CheckpointError: if the file is missing, damaged, or holds no named tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint {path}")
    try:
        stored: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for damaged or foreign files
        raise CheckpointError(f"{path} is no readable checkpoint: {error}") from None
    for wrapper in _WRAPPERS:
        if isinstance(stored, Mapping) and isinstance(stored.get(wrapper), Mapping):
            stored = stored[wrapper]
            break
    if not isinstance(stored, Mapping) or not all(isinstance(v, Tensor) for v in stored.values()):
        raise CheckpointError(
            f"{path} holds no state dict: expected a mapping from names to tensors"
        )
    return {str(name).removeprefix("module."): value for name, value in stored.items()}


def import_anyseg(path: Path, normalization: NormalizationConfig = RAW_BYTES) -> AnymodalSegmentor:
    """Read an official AnySeg checkpoint; encoder size, head width and classes follow from its shapes.

    Args:
        path: the file.
        normalization: of the input images; the repository leaves open which one training used.

    Raises:
        CheckpointError: naming the keys that are missing, unknown or of another shape.
    """
    source = read_state_dict(path)
    renamed = _renamed(source, path)
    try:
        config = SegmentorConfig(
            encoder=mit_size(renamed, path),
            head_width=len(renamed["head.projections.0.weight"]),
            classes=len(renamed["head.classifier.weight"]),
            normalization=normalization,
        )
    except KeyError as error:
        raise CheckpointError(f"{path} has no {error.args[0]} (in this project's names)") from None
    network = AnymodalSegmentor(config)
    own = {"mean", "std", "head.norm.num_batches_tracked"}
    load_strictly(network, renamed, own, path)
    return network.eval()


def import_m3l(
    path: Path, role: Role = "teacher", modalities: Sequence[str] = ("camera", "depth")
) -> LinearFusionSegmentor:
    """Read an official Linear Fusion or M3L checkpoint; encoder size, head width and classes follow from it.

    Args:
        path: the file.
        role: which network of a mean-teacher or M3L file; supervised files hold one only.
        modalities: what the published streams 0 and 1 are: RGB and depth.

    Returns:
        The network, which resizes logits as the published code does. The plain variant has no mask token;
        its own stays random then, and every modality should be present.

    Raises:
        CheckpointError: naming the keys that are missing, unknown or of another shape.
    """
    source = _of_role(read_state_dict(path), role, path)
    renamed = _translated(source, _M3L_DROPPED, _m3l_name, "Linear Fusion network", path)
    try:
        first = {n.replace("norms.0.", ""): v for n, v in renamed.items() if ".norms.0." in n}
        config = SegmentorConfig(
            encoder=mit_size(first, path),
            head_width=len(renamed["head.projections.0.weight"]),
            classes=len(renamed["head.classifier.weight"]),
            normalization=IMAGENET_CAMERA,
            frozen_norm=True,
            linear_fusion=LinearFusionConfig(tuple(modalities), align_corners=True),
        )
    except KeyError as error:
        raise CheckpointError(f"{path} has no {error.args[0]} (in this project's names)") from None
    network = LinearFusionSegmentor(config)
    own = {"mean", "std", "head.norm.num_batches_tracked"}
    if "encoder.mask_token" not in renamed:
        own.add("encoder.mask_token")
    load_strictly(network, renamed, own, path)
    return network.eval()


def _of_role(source: Mapping[str, Tensor], role: Role, path: Path) -> dict[str, Tensor]:
    roles = {name.split(".", 1)[0] for name in source} & {"student", "teacher"}
    if not roles:
        return dict(source)
    if roles != {"student", "teacher"}:
        raise CheckpointError(f"{path} holds a {roles.pop()} only; expected student and teacher")
    strays = [name for name in source if not name.startswith(("student.", "teacher."))]
    if strays:
        raise CheckpointError(f"{path} has keys of neither student nor teacher: {listed(strays)}")
    prefix = f"{role}."
    return {n.removeprefix(prefix): v for n, v in source.items() if n.startswith(prefix)}


def _m3l_name(name: str) -> str | None:
    if name == "alpha":
        return name
    if name == "encoder.patch_embed1.mask_token":
        return "encoder.mask_token"
    # Shared layers are wrapped in "module", the norms of stream 0 and 1 are called ln_0 and ln_1.
    norm = re.fullmatch(r"(.*)\.ln_(\d)\.(weight|bias)", name)
    if norm is not None:
        target = _own_name(f"{norm[1]}.{norm[3]}")
        return target and target.removesuffix(norm[3]) + f"norms.{norm[2]}.{norm[3]}"
    shared = re.fullmatch(r"(encoder\..*)\.module\.(weight|bias)", name)
    if shared is not None:
        return _own_name(f"{shared[1]}.{shared[2]}")
    plain = name.startswith("decoder.") or ".dwconv.dwconv." in name
    return _own_name(name) if plain else None


def import_imagenet_encoder(path: Path, encoder: MixTransformer | LinearFusionEncoder) -> None:
    """Load ImageNet weights of a MiT (``mit_b0.pth`` and its like) into an encoder of the same size.

    Every modality's layer norm of a Linear Fusion encoder gets the same weights, as in M3L's code; its mask
    token, of which ImageNet knows nothing, stays as it is.

    Raises:
        CheckpointError: naming the keys that are missing, unknown or of another shape.
    """
    renamed = _renamed(read_state_dict(path), path)
    stripped = {name.removeprefix("encoder."): value for name, value in renamed.items()}
    if isinstance(encoder, MixTransformer):
        load_strictly(encoder, stripped, set(), path)
        return
    norms = {name for name, part in encoder.named_modules() if isinstance(part, ModalityNorm)}
    spread: dict[str, Tensor] = {}
    for name, value in stripped.items():
        module, _, leaf = name.rpartition(".")
        if module in norms:
            spread |= {f"{module}.norms.{i}.{leaf}": value for i in range(encoder.modalities)}
        else:
            spread[name] = value
    load_strictly(encoder, spread, {"mask_token"}, path)


def _renamed(source: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    return _translated(source, _DROPPED, _own_name, "MiT segmentor", path)


def _translated(
    source: Mapping[str, Tensor],
    dropped: re.Pattern[str],
    own_name: Callable[[str], str | None],
    kind: str,
    path: Path,
) -> dict[str, Tensor]:
    """A state dict under this project's names."""
    renamed, unknown = {}, []
    for name, value in source.items():
        if dropped.fullmatch(name):
            continue
        target = own_name(name)
        if target is None:
            unknown.append(name)
        else:
            renamed[target] = value
    if unknown:
        raise CheckpointError(f"{path} has keys that no {kind} has: {listed(unknown)}")
    return renamed


def _own_name(name: str) -> str | None:
    bare = name.removeprefix("encoder.").removeprefix("decoder.")
    if bare in _HEAD:
        return _HEAD[bare]
    for pattern, target in _RENAMES:
        if match := pattern.fullmatch(bare):
            # Stages count from 1 there and from 0 here.
            return match.expand(target.replace("{}", str(int(match[1]) - 1)))
    return None
