"""Recordings as they come off robots: rosbag2 folders, loose files, cut off, compressed, half missing."""

from __future__ import annotations

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
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
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
        if path.suffix not in (".mcap", ".db3"):
            raise BagError(f"{path} is no recording; expected .mcap, .db3 or a rosbag2 folder")
        return [[path]]
    if (path / "metadata.yaml").is_file():
        return [[path]]
    loose: dict[str, list[Path]] = {}
    for file in sorted([*path.glob("*.mcap"), *path.glob("*.db3")]):
        # Parts of one recording are numbered; a recorder that was killed left no metadata.yaml.
        loose.setdefault(re.sub(r"_\d+$", "", file.stem), []).append(file)
    found = [sorted(files, key=_part_number) for files in loose.values()]
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


def _part_number(path: Path) -> int:
    number = re.search(r"_(\d+)$", path.stem)
    return int(number[1]) if number else 0


def bag_name(files: Sequence[Path]) -> str:
    """What to call a recording: its folder, or its file."""
    if files[0].is_dir():
        return files[0].resolve().name
    return files[0].stem if len(files) == 1 else re.sub(r"_\d+$", "", files[0].stem)


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
            reader = AnyReader(self._reader.paths, default_typestore=known_types())
            self._stack.enter_context(reader)
        connections = [c for c in reader.connections if c.topic in topics]
        if not connections:
            return
        last_s = 0.0
        try:
            for connection, log_time, data in reader.messages(connections):
                last_s = (log_time - self.start_ns) / NS_PER_S
                decode = partial(reader.deserialize, data, connection.msgtype)
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

    def _open(self) -> AnyReader:
        types = known_types()
        try:
            return self._stack.enter_context(AnyReader(self.files, default_typestore=types))
        except Exception as error:
            reason = _one_line(error)
        repaired = self._repair()
        if repaired:
            try:
                reader = self._stack.enter_context(AnyReader(repaired, default_typestore=types))
            except Exception as error:
                raise BagError(f"{self.files[0]} cannot be read: {_one_line(error)}") from None
            self.damage.insert(0, f"damaged, read as far as it goes: {reason}")
            if not reader.is2:
                raise BagError(f"{self.files[0]} is a ROS 1 bag; convert it with rosbags-convert")
            return reader
        raise BagError(f"{self.files[0]} cannot be read: {reason}")

    def _read_tags(self) -> dict[str, str]:
        """``custom_data`` of the bag's metadata, e.g. ``weather: fog``."""
        found: dict[str, str] = {}
        for reader in self._reader.readers:
            storage = getattr(reader, "storage", None)
            custom = getattr(getattr(storage, "metadata", None), "custom", None)
            found |= {str(k): str(v) for k, v in (custom or {}).items()}
        return found

    def _repair(self) -> list[Path]:
        """Copies of the files, cut behind the last whole record; empty if there is nothing in them."""
        folder = Path(self._stack.enter_context(TemporaryDirectory(prefix="anyseg-bag-")))
        source = self.files[0]
        if source.is_file():
            return [p for p in (_repaired(file, folder) for file in self.files) if p is not None]
        try:
            metadata = yaml.safe_load((source / "metadata.yaml").read_text())
            information = metadata["rosbag2_bagfile_information"]
            names = [Path(p).name for p in information["relative_file_paths"]]
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
            files = sorted([*source.glob("*.mcap"), *source.glob("*.db3")], key=_part_number)
            return [p for p in (_repaired(file, folder) for file in files) if p is not None]
        if missing := [name for name in names if not (source / name).exists()]:
            self._note(f"missing: {', '.join(missing)}")
        kept = [
            name for name in names if (source / name).exists() and _repaired(source / name, folder)
        ]
        if not kept:
            return []
        information["relative_file_paths"] = kept
        (folder / "metadata.yaml").write_text(yaml.safe_dump(metadata))
        return [folder]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _repaired(file: Path, folder: Path) -> Path | None:
    """A readable copy of a storage file, or ``None`` if nothing in it can be saved."""
    target = folder / file.name
    try:
        if file.suffix == ".mcap":
            return target if _repair_mcap(file, target) else None
        if file.suffix == ".db3":
            return target if _repair_sqlite(file, target) else None
    except (OSError, sqlite3.Error):
        return None
    return None


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
    head = whole.open("rb").read(100)
    if len(head) < 100:
        return False
    # SQLite opens no file that is shorter than its header says (https://sqlite.org/fileformat.html).
    (page_size,) = struct.unpack(">H", head[16:18])
    (pages,) = struct.unpack(">I", head[28:32])
    length = pages * (page_size if page_size > 1 else 65536)
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
