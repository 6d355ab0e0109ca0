"""A file that is there as a whole or not at all, whenever the process or the machine stops."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def replace_file(path: Path, write_draft: Callable[[Path], object]) -> None:
    """Write a file under a temporary name beside `path`, flush it to the disk, and rename it: all of it or nothing.

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
        draft.replace(path)
        sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file or a folder's list of names to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
