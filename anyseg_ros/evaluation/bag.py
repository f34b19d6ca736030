"""Recordings as they come off robots: rosbag2 folders, loose files, cut off, compressed, half missing."""

from __future__ import annotations

import heapq
import re
import shutil
import sqlite3
import struct
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import lz4.frame
import yaml
from rosbags.interfaces import Connection, MessageDefinitionFormat
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

NS_PER_S = 1_000_000_000
OUTPUT_MARK = ("written_by", "anyseg-evaluate --write-bag")
"""Custom data of a bag that the evaluation wrote, key and value."""

_EVENT_PACKET = """std_msgs/Header header
uint32 height
uint32 width
uint64 seq
uint64 time_base
string encoding
bool is_bigendian
uint8[] events
"""
_STORAGES = (".mcap", ".db3")
_PACKED = ".zstd"
_PART_GAP_S = 60.0
"""Parts of one recording follow each other; files further apart in time are recordings of their own."""
_MCAP_CHUNK = 0x06
_MCAP_MAGIC = b"\x89MCAP0\r\n"
# DataEnd and an empty Footer: no summary, readers then scan the file.
_MCAP_END = b"\x0f" + struct.pack("<QI", 4, 0) + b"\x02" + struct.pack("<QQQI", 20, 0, 0, 0)


class BagError(RuntimeError):
    """A recording that cannot be read; the message names it and says why, in one line."""


@dataclass(frozen=True)
class Topic:
    """One topic of a recording."""

    name: str
    type: str
    """``package/msg/Name``"""
    messages: int


@dataclass(frozen=True)
class BagMessage:
    """One recorded message."""

    topic: str
    log_time_ns: int
    """when it was recorded"""
    decode: Callable[[], Any]
    """Deserialises it; raises whatever a damaged message makes the deserialiser raise."""


def known_types() -> Typestore:
    """ROS 2's message types and the event packets, for bags that do not carry their own."""
    store = get_typestore(Stores.ROS2_KILTED)
    store.register(get_types_from_msg(_EVENT_PACKET, "event_camera_msgs/msg/EventPacket"))
    return store


def find_bags(path: Path) -> list[list[Path]]:
    """The recordings at or under a path; each is a rosbag2 folder, or the files of one recording.

    Bags that the evaluation wrote into a folder are no recordings of it.

    Raises:
        BagError: if there is none.
    """
    if not path.exists():
        raise BagError(f"{path}: no such file or folder")
    if path.is_file():
        if path.suffix == ".bag":
            raise BagError(f"{path} is a ROS 1 bag; convert it with rosbags-convert first")
        if not _is_storage(path):
            raise BagError(
                f"{path} is no recording; expected .mcap, .db3, either packed as .zstd, or a rosbag2 "
                "folder"
            )
        return [[path]]
    if (path / "metadata.yaml").is_file():
        return [[path]]
    loose: dict[str, list[Path]] = {}
    for file in _storage_files(path):
        # Parts of one recording are numbered; a recorder that was killed left no metadata.yaml.
        loose.setdefault(re.sub(r"_\d+$", "", _stem(file)), []).append(file)
    found = [
        files
        for parts in loose.values()
        for files in _apart_in_time(sorted(parts, key=_part_number))
    ]
    for folder in sorted(p for p in path.iterdir() if p.is_dir()):
        if is_output(folder):
            continue
        try:
            found += find_bags(folder)
        except BagError:
            continue
    if not found:
        raise BagError(f"{path} holds no recording (metadata.yaml, *.mcap or *.db3)")
    return found


def is_output(folder: Path) -> bool:
    """Whether a folder is a bag that the evaluation wrote, beside a recording perhaps."""
    try:
        text = (folder / "metadata.yaml").read_text()
    except (OSError, UnicodeDecodeError):
        return False
    return OUTPUT_MARK[1] in text


def _is_storage(path: Path) -> bool:
    return path.name.removesuffix(_PACKED).endswith(_STORAGES)


def _storage_files(folder: Path) -> list[Path]:
    """The storage files of a folder; of one that is there packed and not, the one that is not."""
    files = {p.name: p for p in sorted(folder.iterdir()) if p.is_file() and _is_storage(p)}
    return [p for name, p in files.items() if name.removesuffix(_PACKED) == name] + [
        p
        for name, p in files.items()
        if name.endswith(_PACKED) and name.removesuffix(_PACKED) not in files
    ]


def _stem(path: Path) -> str:
    return Path(path.name.removesuffix(_PACKED)).stem


def _part_number(path: Path) -> int:
    number = re.search(r"_(\d+)$", _stem(path))
    return int(number[1]) if number else 0


def _apart_in_time(parts: Sequence[Path]) -> list[list[Path]]:
    """Numbered files, split where they do not follow each other: ``drive_1`` may be another drive."""
    if len(parts) < 2:
        return [list(parts)]
    groups: list[list[Path]] = []
    end_ns = 0
    for part in parts:
        times = _times(part)
        if not groups or (
            times is not None and end_ns and abs(times[0] - end_ns) > _PART_GAP_S * NS_PER_S
        ):
            groups.append([])
            end_ns = 0
        groups[-1].append(part)
        if times is not None:
            end_ns = times[1]
    return groups


def _times(file: Path) -> tuple[int, int] | None:
    """Log times of the first and last message; ``None`` of a file that is empty, damaged or packed."""
    try:
        with Reader(file) as reader:
            return (reader.start_time, reader.end_time) if reader.message_count else None
    except Exception:  # it is opened again, and then its damage is told
        return None


def bag_name(files: Sequence[Path]) -> str:
    """What to call a recording: its folder, or its file."""
    if files[0].is_dir():
        return files[0].resolve().name
    return _stem(files[0]) if len(files) == 1 else re.sub(r"_\d+$", "", _stem(files[0]))


class _Storages:
    """Storage files or a rosbag2 folder, read as one.

    rosbags' own reader of several files refuses all where one topic's definition is bad; here that costs
    the topic.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        """Open.

        Raises:
            Exception: whatever the storage plugins raise for a file they cannot read.
        """
        self.paths = tuple(paths)
        self._known = known_types()
        self._stores: dict[tuple[str, str, str], Typestore] = {}
        self.connections: list[Connection] = []
        self.undefined: dict[str, str] = {}
        """Topics of a known type whose definition cannot be used, with the reason."""
        with ExitStack() as stack:
            self.readers = [stack.enter_context(Reader(path)) for path in paths]
            for connection in (c for reader in self.readers for c in reader.connections):
                try:
                    self._define(connection)
                except Exception as error:  # the parser has errors of its own
                    # Of a type that nobody here knows nothing is lost.
                    if connection.msgtype in self._known.fielddefs:
                        self.undefined[connection.topic] = _one_line(error)
                else:
                    self.connections.append(connection)
            self._stack = stack.pop_all()

    def __enter__(self) -> _Storages:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def start_time(self) -> int:
        """Log time of the first message, ns."""
        return min(reader.start_time for reader in self.readers)

    @property
    def end_time(self) -> int:
        """Just after the last message, ns."""
        return max(reader.end_time for reader in self.readers)

    @property
    def message_count(self) -> int:
        return sum(reader.message_count for reader in self.readers)

    def messages(
        self, connections: Sequence[Connection]
    ) -> Iterator[tuple[Connection, int, bytes | memoryview]]:
        """Connection, log time and data of some connections' messages, in order of log time."""
        streams = []
        for reader in self.readers:
            wanted = [c for c in connections if any(c is own for own in reader.connections)]
            if wanted:
                streams.append(reader.messages(wanted))
        yield from heapq.merge(*streams, key=lambda entry: entry[1])

    def deserialize(self, connection: Connection, data: bytes | memoryview) -> Any:
        """Raises whatever a damaged message makes the deserialiser raise."""
        store = self._stores.get(self._key(connection), self._known)
        return store.deserialize_cdr(data, connection.msgtype)

    @staticmethod
    def _key(connection: Connection) -> tuple[str, str, str]:
        return connection.msgtype, connection.digest, connection.msgdef.data

    def _define(self, connection: Connection) -> None:
        """Learn a connection's type from the definition that the recording carries, if it does."""
        definition, key = connection.msgdef, self._key(connection)
        if definition.format == MessageDefinitionFormat.NONE or key in self._stores:
            return
        store = get_typestore(Stores.EMPTY)
        if definition.format == MessageDefinitionFormat.MSG:
            store.register(get_types_from_msg(definition.data, connection.msgtype))
        else:
            # Definitions of all nested types follow one another, each below a head of its own.
            rule = "=" * 80 + "\n"
            types = {}
            for text in definition.data.split(rule):
                if text.strip():
                    body = text.split("\n", 1)[1] if text.startswith("IDL: ") else text
                    types.update(get_types_from_idl(body))
            store.register(types)
        have = store.hash_rihs01(connection.msgtype)
        if connection.digest and have != connection.digest:
            raise ValueError(
                f"its definition of {connection.msgtype} has hash {have}, not {connection.digest}"
            )
        self._stores[key] = store


class Bag:
    """An open recording. What is damaged is read as far as it goes, and said in ``damage``."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Open a recording as :func:`find_bags` gives it.

        Raises:
            BagError: if nothing can be read from it.
        """
        self.files = tuple(files)
        self.name = bag_name(files)
        self.damage: list[str] = []
        """What could not be read, a line each."""
        self._stack = ExitStack()
        try:
            self._reader = self._open()
        except BaseException:
            self._stack.close()
            raise
        counts: dict[tuple[str, str], int] = {}
        for connection in self._reader.connections:
            key = (connection.topic, connection.msgtype)
            counts[key] = counts.get(key, 0) + connection.msgcount
        self.topics = [Topic(name, kind, n) for (name, kind), n in sorted(counts.items())]
        self.tags = self._read_tags()
        if not self._reader.message_count:
            self._stack.close()
            raise BagError(f"{self.files[0]} is empty: it holds no message")

    def __enter__(self) -> Bag:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files and remove what was repaired."""
        self._stack.close()

    @property
    def start_ns(self) -> int:
        """Log time of the first message."""
        return int(self._reader.start_time)

    @property
    def duration_s(self) -> float:
        return float((self._reader.end_time - 1 - self._reader.start_time) / NS_PER_S)

    def messages(self, topics: Collection[str], apart: bool = False) -> Iterator[BagMessage]:
        """Messages of some topics in order of log time; ends early, with a line, where damage begins.

        Args:
            apart: through a reader of its own, while another thread reads the same files.
        """
        reader = self._reader
        if apart:
            reader = self._stack.enter_context(_Storages(self._reader.paths))
        connections = [c for c in reader.connections if c.topic in topics]
        if not connections:
            return
        last_s = 0.0
        try:
            for connection, log_time, data in reader.messages(connections):
                last_s = (log_time - self.start_ns) / NS_PER_S
                decode = partial(reader.deserialize, connection, data)
                yield BagMessage(connection.topic, log_time, decode)
        except GeneratorExit:
            raise
        except Exception as error:  # every storage plugin has errors of its own
            self._note(f"damaged after {last_s:.1f} s: {_one_line(error)}")

    def first(self, topic: str) -> Any | None:
        """The first message of a topic that can be read, or ``None``."""
        for message in self.messages([topic]):
            try:
                return message.decode()
            except Exception:  # a damaged message; the next may do
                continue
        return None

    def _note(self, line: str) -> None:
        if line not in self.damage:
            self.damage.append(line)

    def _open(self) -> _Storages:
        self._copies = Path(self._stack.enter_context(TemporaryDirectory(prefix="anyseg-bag-")))
        paths = list(self.files)
        reason = ""
        if not any(p.name.endswith(_PACKED) for p in paths):
            try:
                return self._enter(paths)
            except Exception as error:
                reason = _one_line(error)
        stand_ins = self._repair()
        if not stand_ins:
            raise BagError(f"{self.files[0]} cannot be read: {'; '.join(self.damage) or reason}")
        try:
            storages = self._enter(stand_ins)
        except Exception as error:
            raise BagError(f"{self.files[0]} cannot be read: {_one_line(error)}") from None
        if reason and not self.damage:
            self._note(f"damaged, read as far as it goes: {reason}")
        return storages

    def _enter(self, paths: Sequence[Path]) -> _Storages:
        storages = self._stack.enter_context(_Storages(paths))
        for topic, reason in storages.undefined.items():
            self._note(f"{topic} cannot be read: {reason}")
        return storages

    def _read_tags(self) -> dict[str, str]:
        """``custom_data`` of the bag's metadata, e.g. ``weather: fog``."""
        found: dict[str, str] = {}
        for reader in self._reader.readers:
            storage = getattr(reader, "storage", None)
            custom = getattr(getattr(storage, "metadata", None), "custom", None)
            found |= {str(k): str(v) for k, v in (custom or {}).items()}
        return found

    def _repair(self) -> list[Path]:
        """Stand-ins for the files, each readable; empty if there is nothing in them."""
        source = self.files[0]
        if source.is_file():
            return self._stand_ins(self.files)
        try:
            metadata = yaml.safe_load((source / "metadata.yaml").read_text())
            information = metadata["rosbag2_bagfile_information"]
            names = [Path(p).name for p in information["relative_file_paths"]]
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError) as error:
            self._note(
                f"metadata.yaml is damaged, the files are read without it: {_one_line(error)}"
            )
            return self._stand_ins(sorted(_storage_files(source), key=_part_number))
        if missing := [name for name in names if not (source / name).exists()]:
            self._note(f"missing: {', '.join(missing)}")
        kept = self._stand_ins([source / n for n in names if (source / n).exists()])
        if not kept:
            return []
        information["relative_file_paths"] = [path.name for path in kept]
        if str(information.get("compression_mode", "")).lower() == "file":
            information["compression_mode"] = information["compression_format"] = ""
        (self._copies / "metadata.yaml").write_text(yaml.safe_dump(metadata))
        return [self._copies]

    def _stand_ins(self, files: Sequence[Path]) -> list[Path]:
        """Links to the files that are whole, copies of what can be saved of the others."""
        found = []
        for file in files:
            try:
                stand_in = self._stand_in(file)
            except (OSError, sqlite3.Error, zstd.ZstdError) as error:
                self._note(f"{file.name} is left out, it cannot be copied: {_one_line(error)}")
                target = self._copies / file.name.removesuffix(_PACKED)
                for half in (target, target.with_suffix(".whole"), self._unpacked(target.name)):
                    half.unlink(missing_ok=True)
                continue
            if stand_in is not None:
                found.append(stand_in)
        return found

    def _unpacked(self, name: str) -> Path:
        return self._copies / "unpacked" / name

    def _stand_in(self, file: Path) -> Path | None:
        target = self._copies / file.name.removesuffix(_PACKED)
        cut = ""
        if file.name.endswith(_PACKED):
            unpacked = self._unpacked(target.name)
            unpacked.parent.mkdir(exist_ok=True)
            cut = _unpack(file, unpacked)
        else:
            unpacked = file.resolve()
        reason = cut or _damage(unpacked)
        if not reason:
            target.symlink_to(unpacked)
            return target
        repair = _repair_mcap if target.suffix == ".mcap" else _repair_sqlite
        saved = repair(unpacked, target)
        if unpacked != file.resolve():
            unpacked.unlink()
        if not saved:
            self._note(f"{file.name} is damaged, nothing in it can be read: {reason}")
            return None
        self._note(f"{file.name} is damaged, read as far as it goes: {reason}")
        return target


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _unpack(file: Path, target: Path) -> str:
    """Unpack a zstd file as far as it goes; returns what is wrong with it, or nothing.

    Raises:
        OSError: if it cannot be read, or the copy not written.
    """
    with file.open("rb") as packed, target.open("wb") as out:
        unpacker = zstd.ZstdDecompressor()
        while block := packed.read(1 << 20):
            while block:
                if unpacker.eof:
                    unpacker = zstd.ZstdDecompressor()
                try:
                    out.write(unpacker.decompress(block))
                except zstd.ZstdError as error:
                    return _one_line(error)
                block = unpacker.unused_data if unpacker.eof else b""
    return "" if unpacker.eof else "it ends in the middle"


def _damage(file: Path) -> str:
    """What is wrong with a storage file, or nothing."""
    try:
        if file.suffix == ".db3" and file.stat().st_size < _sqlite_length(file):
            return "it is shorter than its header says"
        with Reader(file):
            return ""
    except Exception as error:  # every storage plugin has errors of its own
        return _one_line(error)


def _sqlite_length(file: Path) -> int:
    """How long a database is by its own account, bytes (https://sqlite.org/fileformat.html)."""
    with file.open("rb") as opened:
        head = opened.read(100)
    if len(head) < 100:
        return 100
    (page_size,) = struct.unpack(">H", head[16:18])
    (pages,) = struct.unpack(">I", head[28:32])
    return int(pages * (page_size if page_size > 1 else 65536))


def _repair_mcap(file: Path, target: Path) -> bool:
    """Copy the whole records of an MCAP file and end it properly (https://mcap.dev/spec)."""
    size = file.stat().st_size
    last_chunk = b""
    with file.open("rb") as source:
        if source.read(8) != _MCAP_MAGIC:
            return False
        end = 8
        while True:
            head = source.read(9)
            if len(head) < 9:
                break
            opcode, length = struct.unpack("<BQ", head)
            # The data end, the footer and the index after them are written anew.
            if opcode in (0x02, 0x0F):
                break
            if end + 9 + length > size:
                if opcode == _MCAP_CHUNK:
                    last_chunk = _saved_chunk(source.read())
                break
            end += 9 + length
            source.seek(end)
        if end == 8:
            return False
        source.seek(0)
        with target.open("wb") as out:
            left = end
            while left and (block := source.read(min(left, 1 << 20))):
                out.write(block)
                left -= len(block)
            out.write(last_chunk + _MCAP_END + _MCAP_MAGIC)
    return True


def _saved_chunk(content: bytes) -> bytes:
    """A chunk record of the whole records at the beginning of a chunk that is cut off; maybe empty."""
    if len(content) < 32:
        return b""
    begin_ns, end_ns, _, _, name_length = struct.unpack("<QQQII", content[:32])
    compression = content[32 : 32 + name_length].decode(errors="replace")
    data = content[32 + name_length + 8 :]
    try:
        if compression == "zstd":
            data = zstd.ZstdDecompressor().decompress(data)
        elif compression == "lz4":
            data = lz4.frame.LZ4FrameDecompressor().decompress(data)
    except (zstd.ZstdError, RuntimeError):
        return b""
    end = 0
    while end + 9 <= len(data):
        (length,) = struct.unpack("<Q", data[end + 1 : end + 9])
        if end + 9 + length > len(data):
            break
        end += 9 + length
    if not end:
        return b""
    # Uncompressed, without a checksum.
    head = struct.pack("<QQQIIQ", begin_ns, end_ns, end, 0, 0, end)
    return struct.pack("<BQ", _MCAP_CHUNK, len(head) + end) + head + data[:end]


def _repair_sqlite(file: Path, target: Path) -> bool:
    """Copy a database row by row until the first that cannot be read."""
    whole = target.with_suffix(".whole")
    shutil.copyfile(file, whole)
    if whole.stat().st_size < 100:
        return False
    # SQLite opens no file that is shorter than its header says.
    length = _sqlite_length(whole)
    if whole.stat().st_size < length:
        with whole.open("r+b") as padded:
            padded.truncate(length)
    copied = 0
    uri = f"file:{whole}?mode=ro&immutable=1"
    with (
        closing(sqlite3.connect(uri, uri=True)) as source,
        closing(sqlite3.connect(target)) as out,
    ):
        tables = source.execute("SELECT name, sql FROM sqlite_master WHERE type='table'").fetchall()
        for name, sql in tables:
            if name.startswith("sqlite_"):
                continue
            out.execute(sql)
            try:
                # By rowid: an index at the end of a cut-off file is gone.
                for row in source.execute(f'SELECT * FROM "{name}" NOT INDEXED'):
                    marks = ",".join("?" * len(row))
                    out.execute(f'INSERT INTO "{name}" VALUES ({marks})', row)
                    copied += name == "messages"
            except sqlite3.DatabaseError:
                continue
        out.commit()
    whole.unlink()
    return copied > 0


__all__ = ["Bag", "BagError", "BagMessage", "Topic", "bag_name", "find_bags", "is_output"]
