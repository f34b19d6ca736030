"""What in a recording is which sensor, where each sensor sits, and what to say when that is unclear."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from anyseg_ros.decoding import (
    INTENSITY_FIELD,
    EventPacketDecoder,
    MessageError,
    compressed_size,
    decode_camera_info,
    decode_compressed_depth,
    decode_compressed_image,
    decode_depth_image,
    decode_event_cloud,
    decode_image,
    decode_lidar,
)
from anyseg_ros.evaluation.bag import Bag, Topic
from anyseg_ros.modalities import (
    CameraModel,
    RigCalibration,
    RigidTransform,
    SensorCalibration,
    SensorData,
)
from anyseg_ros.modality import MODALITIES, Modality
from anyseg_ros.unread_types import UNREAD_TYPES

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
POINT_CLOUD = "sensor_msgs/msg/PointCloud2"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
EVENT_PACKET = "event_camera_msgs/msg/EventPacket"
TF_MESSAGE = "tf2_msgs/msg/TFMessage"

DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"

_LABEL_RANKS = tuple(
    re.compile(words, re.IGNORECASE)
    for words in (r"ground_?truth", r"label|annotation", "semantic")
)
"""What ground truth is called, the surest first."""
_CLASSES_WORDS = re.compile(r"ground_?truth|label|semantic|segmentation|annotation", re.IGNORECASE)
_NODE_OUTPUTS = frozenset(
    {
        "segmentation", "confidence", "overlay", "semantic_points", "pixel_points", "camera_info",
        "modalities", "label_info",
    }
)  # fmt: skip
"""What the segmentation node publishes below its name."""
_EVENT_WORDS = re.compile(r"event|dvs", re.IGNORECASE)
_DEPTH_WORDS = re.compile(r"depth", re.IGNORECASE)
_OPTICAL_FRAME = re.compile(r"optical", re.IGNORECASE)
_NOT_COLOR_WORDS = re.compile(r"infra|thermal|mask|confidence|overlay|debug", re.IGNORECASE)


class SourceError(ValueError):
    """Something the evaluation needs and cannot find; the message asks for it by name."""


class Decoder:
    """Decodes one sensor's messages to sensor data. Some sensors carry state across messages."""

    def __init__(
        self, kind: str, intensity_max: float = 0.0, intensity_field: str = INTENSITY_FIELD
    ) -> None:
        self._packets = EventPacketDecoder() if kind == "packets" else None
        self._kind = kind
        self._decode_scan = partial(
            decode_lidar, intensity_max=intensity_max, intensity_field=intensity_field
        )

    def __call__(self, message: Any) -> SensorData:
        """Decode a message; raises :class:`~anyseg_ros.decoding.MessageError`."""
        if self._packets is not None:
            return self._packets(message)
        if self._kind == "scan":
            return self._decode_scan(message)
        return _DECODERS[self._kind](message)


_DECODERS: dict[str, Any] = {
    "image": decode_image,
    "compressed": decode_compressed_image,
    "depth": decode_depth_image,
    "compressed_depth": decode_compressed_depth,
    "events": decode_event_cloud,
}
WINDOWED_KINDS = ("events", "packets")


@dataclass(frozen=True)
class SensorSource:
    """Where one sensor's data is."""

    topic: str
    kind: str
    """image, compressed, depth, compressed_depth, events, packets or scan"""
    messages: int
    frame_id: str
    size: tuple[int, int] | None = None
    """width and height as the messages tell, where they do"""


@dataclass(frozen=True)
class Sources:
    """What was found in a recording."""

    sensors: Mapping[Modality, SensorSource]
    camera_infos: Mapping[Modality, str]
    labels: str | None
    notes: Sequence[str] = field(default=())
    """What was chosen among several, and what was passed over."""


@dataclass(frozen=True)
class Overrides:
    """What the user says about a recording. Topics by sensor."""

    topics: Mapping[Modality, str] = field(default_factory=dict)
    camera_infos: Mapping[Modality, str] = field(default_factory=dict)
    labels: str | None = None
    extrinsics: Mapping[Modality, RigidTransform] = field(default_factory=dict)
    """Grid from sensor."""
    depth_registered: bool = False
    rectified: bool = False


@dataclass(frozen=True)
class _Candidate:
    modality: Modality
    source: SensorSource
    rank: tuple[int, ...]
    """lower is better"""
    doubt: str = ""
    """what it looks like instead, and why"""


def find_sources(bag: Bag, overrides: Overrides | None = None) -> Sources:
    """Find sensors, their CameraInfo and labels by the types of the topics and their first messages.

    Raises:
        SourceError: if a topic the user named is not there or of no use, or no sensor is found.
    """
    overrides = overrides or Overrides()
    by_name = {topic.name: topic for topic in bag.topics}
    named = [*overrides.topics.values(), *overrides.camera_infos.values()]
    if overrides.labels:
        named.append(overrides.labels)
    for name in named:
        if name not in by_name:
            raise SourceError(
                f"{bag.name} has no topic {name}; it has {', '.join(by_name) or 'none'}"
            )
    for name in overrides.camera_infos.values():
        if by_name[name].type != CAMERA_INFO:
            raise SourceError(
                f"{name} is {by_name[name].type}, which holds no intrinsics; expected {CAMERA_INFO}"
            )
    if overrides.labels and by_name[overrides.labels].type not in (IMAGE, COMPRESSED_IMAGE):
        raise SourceError(
            f"{overrides.labels} is {by_name[overrides.labels].type}, which is no picture of labels; "
            f"expected {IMAGE}, {COMPRESSED_IMAGE}"
        )
    notes: list[str] = []
    outputs = _node_outputs(bag.topics)
    for node, own in sorted(outputs.items()):
        notes.append(
            f"{node or '/'} is a segmentation node: its {', '.join(sorted(own))} are neither sensor nor "
            "ground truth"
        )
    not_input = {name for own in outputs.values() for name in own}
    labels = overrides.labels or _find_labels(bag, overrides, not_input, notes)
    candidates: dict[Modality, list[_Candidate]] = {}
    for topic in bag.topics:
        if topic.name == labels or topic.name in overrides.topics.values() or not topic.messages:
            continue
        if topic.name in not_input:
            continue
        candidate = _classify(bag, topic, notes)
        if candidate is not None:
            candidates.setdefault(candidate.modality, []).append(candidate)
    sensors: dict[Modality, SensorSource] = {}
    for modality in MODALITIES:
        if modality in overrides.topics:
            sensors[modality] = _as_sensor(bag, by_name[overrides.topics[modality]], modality)
            continue
        choices = sorted(candidates.get(modality, []), key=lambda c: (c.rank, c.source.topic))
        if choices:
            sensors[modality] = choices[0].source
        if len(choices) > 1:
            others = ", ".join(
                c.source.topic + (f" ({c.doubt})" if c.doubt else "") for c in choices[1:]
            )
            notes.append(
                f"{modality.label}: {choices[0].source.topic} taken, not {others}; "
                f"choose with --topic {modality.label}=TOPIC"
            )
        if choices and choices[0].doubt:
            notes.append(
                f"{modality.label}: {choices[0].source.topic} taken, for want of another: "
                f"{choices[0].doubt}; leave it out with --sensors, which lists those to use"
            )
    if not sensors:
        raise SourceError(
            f"{bag.name} has no sensor data; name it with --topic SENSOR=TOPIC, one of "
            + ", ".join(f"{t.name} ({t.type})" for t in bag.topics)
            + "".join(f"; {note}" for note in notes)
        )
    infos = dict(overrides.camera_infos)
    frames = _info_frames(bag, not_input)
    for modality, source in sensors.items():
        if modality not in infos and modality is not Modality.LIDAR:
            free = {name: f for name, f in frames.items() if name not in infos.values()}
            found = _nearest_info(modality, source, free, notes)
            if found is not None:
                infos[modality] = found
    return Sources(sensors, infos, labels, tuple(notes))


def _node_outputs(topics: Sequence[Topic]) -> dict[str, set[str]]:
    """Topics of segmentation nodes that were recorded along, by the node's name."""
    below: dict[str, dict[str, Topic]] = {}
    for topic in topics:
        node, _, output = topic.name.rpartition("/")
        # image_transport puts the codec behind: overlay/compressed.
        if output not in _NODE_OUTPUTS and node.rpartition("/")[2] in _NODE_OUTPUTS:
            node, _, output = node.rpartition("/")
        if output in _NODE_OUTPUTS:
            below.setdefault(node, {})[topic.name] = topic
    return {
        node: set(own)
        for node, own in below.items()
        if any(t.name == f"{node}/modalities" and t.type == DIAGNOSTICS for t in own.values())
        or {f"{node}/segmentation", f"{node}/confidence"} <= own.keys()
    }


def _find_labels(
    bag: Bag, overrides: Overrides, not_input: Collection[str], notes: list[str]
) -> str | None:
    """The topic whose name says most surely that it is ground truth; others of that make are noted."""
    found: list[tuple[int, str]] = []
    for topic in bag.topics:
        rank = next((r for r, w in enumerate(_LABEL_RANKS) if w.search(topic.name)), None)
        if rank is None or not topic.messages or topic.name in not_input:
            continue
        if topic.name in overrides.topics.values() or topic.type not in (COMPRESSED_IMAGE, IMAGE):
            continue
        first = bag.first(topic.name)
        if first is None:
            notes.append(f"{topic.name}: not one message can be read")
        elif (
            "png" in first.format.lower()
            if topic.type == COMPRESSED_IMAGE
            else first.encoding in ("mono8", "8UC1")
        ):
            found.append((rank, topic.name))
    names = [name for _, name in sorted(found)]
    if len(names) > 1:
        notes.append(
            f"labels: {names[0]} taken, not {', '.join(names[1:])}; choose with --labels TOPIC"
        )
    return names[0] if names else None


def _classify(bag: Bag, topic: Topic, notes: list[str]) -> _Candidate | None:
    """Which sensor a topic is, if it is one."""
    if topic.type in UNREAD_TYPES:
        notes.append(f"{topic.name} ({topic.type}) passed over: {UNREAD_TYPES[topic.type]}")
    if topic.type not in (IMAGE, COMPRESSED_IMAGE, POINT_CLOUD, EVENT_PACKET):
        return None
    if _CLASSES_WORDS.search(topic.name):
        return None
    first = bag.first(topic.name)
    if first is None:
        notes.append(f"{topic.name}: not one message can be read")
        return None
    kind: str | None = None
    modality = Modality.CAMERA
    if topic.type == EVENT_PACKET:
        modality, kind = Modality.EVENT, "packets"
    elif topic.type == POINT_CLOUD:
        fields = {f.name for f in first.fields}
        if {"x", "y", "t", "p"} <= fields:
            modality, kind = Modality.EVENT, "events"
        elif {"x", "y", "z"} <= fields:
            modality, kind = Modality.LIDAR, "scan"
    elif topic.type == COMPRESSED_IMAGE:
        if "compresseddepth" in first.format.lower():
            modality, kind = Modality.DEPTH, "compressed_depth"
        else:
            kind = "compressed"
    elif first.encoding in ("16UC1", "32FC1") or (
        first.encoding == "mono16" and _DEPTH_WORDS.search(topic.name)
    ):
        modality, kind = Modality.DEPTH, "depth"
    else:
        kind = "image"
    if kind is None:
        notes.append(f"{topic.name} passed over: a point cloud without x, y, z or x, y, t, p")
        return None
    if kind in ("image", "compressed"):
        if _EVENT_WORDS.search(topic.name):
            modality = Modality.EVENT
        elif _DEPTH_WORDS.search(topic.name):
            notes.append(f"{topic.name} passed over: depth in a picture encoding without a unit")
            return None
    grey = "mono" in str(getattr(first, "encoding", ""))
    doubt = _as_depth_camera(topic, first) if kind == "scan" else ""
    rank = (
        int(bool(doubt)),
        int(kind in ("image", "compressed") and modality is Modality.EVENT),
        int(bool(_NOT_COLOR_WORDS.search(topic.name))),
        int(grey),
        int("right" in topic.name),
        int(kind.startswith("compressed")),
        -topic.messages,
    )
    return _Candidate(modality, _source(topic, kind, first), rank, doubt)


def _as_depth_camera(topic: Topic, first: Any) -> str:
    """Why a cloud looks like a depth camera's, which shows nothing that its depth does not."""
    frame = str(first.header.frame_id)
    if _DEPTH_WORDS.search(topic.name):
        why = "depth is in its name"
    elif {"rgb", "rgba"} & {f.name for f in first.fields}:
        why = "it has colours"
    elif _OPTICAL_FRAME.search(frame):
        why = f"its frame is {frame}"
    else:
        return ""
    return f"a depth camera's cloud, as {why}"


def _source(topic: Topic, kind: str, first: Any) -> SensorSource:
    size = None
    if kind in ("image", "depth", "packets"):
        size = (int(first.width), int(first.height))
    elif kind in ("compressed", "compressed_depth"):
        size = compressed_size(first)
    return SensorSource(topic.name, kind, topic.messages, str(first.header.frame_id), size)


def _as_sensor(bag: Bag, topic: Topic, modality: Modality) -> SensorSource:
    """A topic the user named, as the sensor he named."""
    kinds = {
        (Modality.CAMERA, IMAGE): "image",
        (Modality.CAMERA, COMPRESSED_IMAGE): "compressed",
        (Modality.DEPTH, IMAGE): "depth",
        (Modality.DEPTH, COMPRESSED_IMAGE): "compressed_depth",
        (Modality.EVENT, POINT_CLOUD): "events",
        (Modality.EVENT, EVENT_PACKET): "packets",
        (Modality.EVENT, IMAGE): "image",
        (Modality.EVENT, COMPRESSED_IMAGE): "compressed",
        (Modality.LIDAR, POINT_CLOUD): "scan",
    }
    kind = kinds.get((modality, topic.type))
    if kind is None:
        allowed = ", ".join(t for m, t in kinds if m is modality)
        raise SourceError(
            f"{topic.name} is {topic.type}, which is no {modality.label} data; expected {allowed}"
            + (f"; {UNREAD_TYPES[topic.type]}" if topic.type in UNREAD_TYPES else "")
        )
    first = bag.first(topic.name)
    if first is None:
        raise SourceError(f"{topic.name}: not one message can be read")
    return _source(topic, kind, first)


def _info_frames(bag: Bag, not_input: Collection[str]) -> dict[str, str]:
    """The recording's CameraInfo topics with their frames."""
    frames = {}
    for topic in bag.topics:
        if topic.type == CAMERA_INFO and topic.messages and topic.name not in not_input:
            first = bag.first(topic.name)
            if first is not None:
                frames[topic.name] = str(first.header.frame_id).strip("/")
    return frames


def _nearest_info(
    modality: Modality, source: SensorSource, frames: Mapping[str, str], notes: list[str]
) -> str | None:
    """The CameraInfo of a sensor: of those of its frame the nearest by name.

    Of another frame only one beside the sensor's topic is taken, with a note: further off it is another
    camera's.
    """
    parts = source.topic.strip("/").split("/")
    # camera/image/compressed and camera/camera_info share "camera"; at the root nothing is shared.
    prefixes = ["/" + "/".join(parts[:n]) + "/" for n in range(len(parts) - 1, 0, -1)]

    def distance(name: str) -> tuple[int, int, str]:
        shared = next((n for n, p in enumerate(prefixes) if name.startswith(p)), len(prefixes))
        return shared, name.count("/"), name

    frame = source.frame_id.strip("/")
    own = [name for name, of in frames.items() if of == frame]
    if own:
        return min(own, key=distance)
    near = [name for name in frames if distance(name)[0] < len(prefixes)]
    if not near:
        return None
    found = min(near, key=distance)
    says = f"{found} is of frame {frames[found]!r}, {source.topic} of {frame!r}"
    choose = f"choose with --camera-info {modality.label}=TOPIC"
    if found.rpartition("/")[0] + "/" not in prefixes:
        notes.append(f"{modality.label}: {says}: its intrinsics are not taken; {choose}")
        return None
    notes.append(f"{modality.label}: {says}, its intrinsics are taken all the same; {choose}")
    return found


class TransformTree:
    """Static transforms between frames."""

    def __init__(self) -> None:
        self._edges: dict[str, dict[str, RigidTransform]] = {}

    def add(self, parent: str, child: str, parent_from_child: RigidTransform) -> None:
        """Note an edge; a later one replaces an earlier."""
        self._edges.setdefault(parent, {})[child] = parent_from_child
        self._edges.setdefault(child, {})[parent] = parent_from_child.inverse()

    @property
    def frames(self) -> list[str]:
        return sorted(self._edges)

    def lookup(self, target: str, source: str) -> RigidTransform | None:
        """``target_from_source``, or ``None`` if the frames are not connected."""
        if target == source:
            return RigidTransform.identity()
        reached = {target: RigidTransform.identity()}
        front = [target]
        while front:
            frame = front.pop(0)
            for other, frame_from_other in self._edges.get(frame, {}).items():
                if other in reached:
                    continue
                reached[other] = reached[frame] @ frame_from_other
                if other == source:
                    return reached[other]
                front.append(other)
        return None


def read_transforms(bag: Bag) -> TransformTree:
    """The transforms on the recording's static TF topics."""
    tree = TransformTree()
    topics = [t.name for t in bag.topics if t.type == TF_MESSAGE and "static" in t.name]
    for recorded in bag.messages(topics):
        try:
            message = recorded.decode()
        except Exception:  # a damaged message costs itself
            continue
        for edge in message.transforms:
            t, q = edge.transform.translation, edge.transform.rotation
            try:
                transform = RigidTransform.from_quaternion((q.x, q.y, q.z, q.w), (t.x, t.y, t.z))
            except ValueError:
                continue
            tree.add(edge.header.frame_id.strip("/"), edge.child_frame_id.strip("/"), transform)
    return tree


@dataclass(frozen=True)
class Rig:
    """A recording's calibration and what was left open."""

    calibration: RigCalibration
    origin: Mapping[Modality, str]
    """Where each usable sensor's calibration comes from, in words."""
    missing: Mapping[Modality, str]
    """Sensors that cannot be used, with what would have to be given."""


def find_rig(
    bag: Bag,
    sources: Sources,
    from_file: RigCalibration | None = None,
    overrides: Overrides | None = None,
) -> Rig:
    """Put the rig's calibration together: the file first, then CameraInfo; extrinsics also from TF.

    A lone image sensor without any calibration is its own grid: nothing needs to be projected.

    Raises:
        SourceError: if there is no segmentation grid, or no sensor can be used.
    """
    overrides = overrides or Overrides()
    infos = _read_infos(bag, sources, overrides.rectified)
    grid, grid_frame, grid_origin = _find_grid(sources, from_file, infos)
    tree = read_transforms(bag)
    sensors: dict[Modality, SensorCalibration] = {}
    origin: dict[Modality, str] = {}
    missing: dict[Modality, str] = {}
    for modality, source in sources.sensors.items():
        frame = source.frame_id.strip("/")
        in_file = from_file.sensors.get(modality) if from_file else None
        said: list[str] = []

        camera: CameraModel | None = None
        registered = modality is Modality.DEPTH and overrides.depth_registered
        if registered:
            camera = from_file.camera_of(Modality.CAMERA) if from_file else None
            camera = camera or infos.get(Modality.CAMERA, (grid, ""))[0]
            said.append("registered to the camera")
        elif modality is not Modality.LIDAR:
            camera = from_file.camera_of(modality) if from_file else None
            if camera is not None:
                said.append("intrinsics from the file")
            elif modality in infos:
                camera = infos[modality][0]
                said.append(f"intrinsics from {sources.camera_infos[modality]}")
            elif grid_origin is modality or (modality is Modality.CAMERA and from_file):
                camera = grid
                said.append("its own grid, no intrinsics needed" if not from_file else "the grid's")
            else:
                missing[modality] = (
                    f"no intrinsics: give --camera-info {modality.label}=TOPIC, or intrinsics in "
                    "--calibration FILE"
                )
                continue

        transform: RigidTransform | None
        if modality in overrides.extrinsics:
            transform = overrides.extrinsics[modality]
            said.append("extrinsics as given")
        elif in_file is not None:
            transform = in_file.grid_from_sensor
            said.append("extrinsics from the file")
        elif registered or grid_origin is modality:
            transform = RigidTransform.identity()
        else:
            transform = tree.lookup(grid_frame, frame)
            if transform is None and modality is Modality.CAMERA:
                transform = RigidTransform.identity()
            elif transform is not None and frame != grid_frame:
                said.append("extrinsics from tf_static")
        if transform is None:
            known = f"TF knows {', '.join(tree.frames)}" if tree.frames else "there is no static TF"
            missing[modality] = (
                f"no extrinsics from {frame!r} to {grid_frame!r} ({known}): give --extrinsics "
                f"{modality.label}=x,y,z,qx,qy,qz,qw or --calibration FILE"
            )
            continue
        sensors[modality] = SensorCalibration(frame, transform, camera)
        origin[modality] = ", ".join(said) or "the grid's frame"
    if not sensors:
        reasons = "; ".join(f"{m.label}: {reason}" for m, reason in missing.items())
        raise SourceError(f"{bag.name}: no sensor can be used: {reasons}")
    return Rig(RigCalibration(grid, grid_frame, sensors), origin, missing)


def _read_infos(
    bag: Bag, sources: Sources, rectified: bool
) -> dict[Modality, tuple[CameraModel, str]]:
    infos = {}
    for modality, topic in sources.camera_infos.items():
        first = bag.first(topic)
        if first is None:
            continue
        try:
            model = decode_camera_info(first, rectified)
        except MessageError as error:
            raise SourceError(
                f"{topic}: {error}; name another with --camera-info {modality.label}=TOPIC, or give "
                "--calibration FILE"
            ) from None
        infos[modality] = (model, str(first.header.frame_id).strip("/"))
    return infos


def _find_grid(
    sources: Sources,
    from_file: RigCalibration | None,
    infos: Mapping[Modality, tuple[CameraModel, str]],
) -> tuple[CameraModel, str, Modality | None]:
    """The grid, its frame, and the sensor that is the grid itself, if one is."""
    if from_file is not None:
        return from_file.grid, from_file.grid_frame_id, None
    if Modality.CAMERA in infos:
        return infos[Modality.CAMERA][0].undistorted(), infos[Modality.CAMERA][1], None
    lone = [m for m in sources.sensors if m is not Modality.LIDAR]
    if len(lone) == 1 and len(sources.sensors) == 1:
        modality = lone[0]
        source = sources.sensors[modality]
        if modality in infos:
            return infos[modality][0].undistorted(), infos[modality][1], modality
        if source.size is not None:
            width, height = source.size
            # Nothing is projected, so the focal length never enters a result.
            nominal = CameraModel(
                width, height, float(width), float(width), (width - 1) / 2, (height - 1) / 2
            )
            return nominal, source.frame_id.strip("/"), modality
    taken = ", ".join(f"{m.label} {s.topic}" for m, s in sorted(sources.sensors.items()))
    camera = sources.sensors.get(Modality.CAMERA)
    why = (
        "there is no camera"
        if camera is None
        else f"no CameraInfo is found for camera {camera.topic}"
    )
    raise SourceError(
        f"no segmentation grid: {why}; taken: {taken or 'none'}; give --calibration FILE, or --camera-info "
        "camera=TOPIC, or another camera with --topic camera=TOPIC"
        + "".join(f"; {note}" for note in sources.notes)
    )


def restrict(sources: Sources, modalities: Sequence[Modality]) -> Sources:
    """The same sources, of some sensors only."""
    return replace(
        sources, sensors={m: s for m, s in sources.sensors.items() if m in set(modalities)}
    )


def parse_extrinsics(text: str) -> RigidTransform:
    """``x,y,z,qx,qy,qz,qw``, metres and quaternion.

    Raises:
        ValueError: if it is not seven numbers, or the quaternion has no length.
    """
    values = np.array([float(v) for v in text.split(",")])
    if values.shape != (7,):
        raise ValueError(f"{text!r}: expected x,y,z,qx,qy,qz,qw")
    return RigidTransform.from_quaternion(values[3:], values[:3])
