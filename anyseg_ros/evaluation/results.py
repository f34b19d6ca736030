"""Result files: ``docs/results/<topic>.json`` with the command, commit and machine behind the rows."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def machine() -> str:
    """Processor, accelerator and system of this machine, in words."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0].split(":", 1)[1].strip() if models else name
    parts = [f"{name}, {os.cpu_count()} cores", *_graphics_processors(), platform.system()]
    parts.append(f"Python {platform.python_version()}")
    if hasattr(os, "sched_getscheduler") and os.sched_getscheduler(0) != os.SCHED_OTHER:
        parts.append("real-time priority")
    return ", ".join(parts)


def _graphics_processors() -> list[str]:
    """Names of the NVIDIA devices, if there are any."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.strip().splitlines()


def commit() -> str:
    """The repository's commit, or ``unknown`` outside of a clone."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def merge_rows(old: Sequence[Row], new: Sequence[Row], keys: Sequence[str]) -> list[Row]:
    """Rows of ``old`` that agree with no new row in ``keys``, then the new ones."""
    replaced = {tuple(row.get(k) for k in keys) for row in new}
    kept = [row for row in old if tuple(row.get(k) for k in keys) not in replaced]
    return [*kept, *new]


def write_results(
    path: Path, rows: Sequence[Row], command: str, notes: str, keys: Sequence[str]
) -> None:
    """Write rows to a result file; rows already there stay unless a new one has the same ``keys``.

    Without ``keys`` the file is written anew. Safe against a kill at any time, and against another
    process that writes to the same file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        text = _merged(path, rows, command, notes, keys)
        part = path.with_name(path.name + ".part")
        part.write_text(text)
        part.replace(path)
    finally:
        os.close(folder)


def read_rows(path: Path) -> list[Row]:
    """The rows of a result file; none if there is no file."""
    return list(json.loads(path.read_text())["rows"]) if path.is_file() else []


def _merged(path: Path, rows: Sequence[Row], command: str, notes: str, keys: Sequence[str]) -> str:
    old: dict[str, Any] = json.loads(path.read_text()) if keys and path.is_file() else {}
    commands = [c for c in old.get("command", "").split(" && ") if c and c != command]
    document = {
        "command": " && ".join([*commands, command]),
        "commit": commit(),
        "machine": machine(),
        "notes": notes or old.get("notes", ""),
        "rows": merge_rows(old.get("rows", []), rows, keys),
    }
    head = json.dumps({k: v for k, v in document.items() if k != "rows"}, indent=2)
    body = ",\n".join("    " + json.dumps(row) for row in document["rows"])
    return head[:-2] + ',\n  "rows": [\n' + body + "\n  ]\n}\n"
