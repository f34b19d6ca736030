"""Where the installed models, configuration and demo data are."""

from __future__ import annotations

import sys
from pathlib import Path

PACKAGE = "anyseg_ros"
DEFAULT_MODEL = "anyseg_street_b0"


class ResourceError(FileNotFoundError):
    """A file of this package that is nowhere; the message lists where it was looked for."""


def share_directories() -> list[Path]:
    """Folders that may hold this package's files: source checkout, ament prefix, Python prefix."""
    checkout = Path(__file__).resolve().parents[1]
    folders = [checkout] if (checkout / "package.xml").is_file() else []
    try:
        from ament_index_python.packages import get_package_share_directory

        folders.append(Path(get_package_share_directory(PACKAGE)))
    except (ImportError, OSError, LookupError, ValueError):
        pass  # no ament index: ROS from wheels has none
    folders.append(Path(sys.prefix) / "share" / PACKAGE)
    return folders


def find_resource(relative: str) -> Path:
    """Path of a file or folder of this package, e.g. ``config/segment.yaml``.

    Raises:
        ResourceError: if it is in none of :func:`share_directories`.
    """
    folders = share_directories()
    for folder in folders:
        if (folder / relative).exists():
            return folder / relative
    raise ResourceError(
        f"{relative} is in none of {', '.join(map(str, folders))}: is {PACKAGE} installed whole?"
    )


def find_model(name: str = "") -> Path:
    """Folder of a model: a path as given, a name under ``models/``, or the default model.

    Raises:
        ResourceError: if there is no such folder; the message lists the models that there are.
    """
    if name:
        path = Path(name).expanduser()
        if path.is_dir():
            return path
        if path.is_absolute() or len(path.parts) > 1:
            raise ResourceError(f"no model folder {path}")
    try:
        return find_resource(f"models/{name or DEFAULT_MODEL}")
    except ResourceError:
        names = sorted(
            {path.name for folder in share_directories() for path in folder.glob("models/*/")}
        )
        if not name or not names:
            raise
    raise ResourceError(f"no model {name!r}: name a folder, or one of {', '.join(names)}")
