"""A file that is there as a whole or not at all, whenever the process or the machine stops."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

BINARY = getattr(os, "O_BINARY", 0)  # without it Windows turns line feeds into two bytes


def replace_file(path: Path, write_draft: Callable[[Path], object], previous: Path | None = None) -> None:
    """Write a file under a temporary name beside `path`, flush it to the disk, and rename it: all of it or nothing.

    What was at `path` stays as `previous`, where that is given.

    Raises:
        OSError: the disk is full, or the folder cannot be written; the file that was there is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    draft = Path(name)
    try:
        os.close(handle)
        write_draft(draft)
        sync(draft)
        draft.chmod(0o644)
        if previous is not None and path.exists():
            _also_called(path, previous)
        draft.replace(path)
        sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def _also_called(path: Path, other: Path) -> None:
    """Give a file a second name, in place of what has it; where the disk knows no links it loses the first one."""
    link = other.with_name(f".{other.name}.link")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:
        path.replace(other)
    else:
        link.replace(other)
        link.unlink(missing_ok=True)  # a rename onto the same file leaves both names


def sync(path: Path) -> None:
    """Flush a file or a folder's list of names to the disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
