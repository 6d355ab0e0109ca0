"""Candidate image files below a folder: no links out of it, no loops, no junk; what is skipped is counted."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medvit.errors import DataError

JUNK = frozenset({"thumbs.db", "desktop.ini", ".ds_store", "dicomdir"})
# fmt: off
NO_IMAGE = frozenset((
    ".csv", ".tsv", ".txt", ".json", ".xml", ".html", ".htm", ".pdf", ".md", ".zip", ".gz", ".tar", ".tgz",
    ".xlsx", ".xls", ".docx", ".doc", ".py", ".sh", ".log", ".yaml", ".yml", ".parquet", ".bval", ".bvec", ".db",
    ".ini", ".exe", ".dll", ".inf", ".mat", ".npz", ".npy", ".pkl", ".pt", ".toml", ".bib", ".mp4", ".sqlite",
    ".sha256",
))
# fmt: on
TRIES = 3


@dataclass(frozen=True, slots=True)
class Found:
    """One candidate file: path relative to the root, size in bytes, time of last change in ns."""

    name: str
    size: int
    changed_ns: int


def walk(root: Path, skipped: Counter[str]) -> Iterator[Found]:
    """Yield candidate files below `root` in a fixed order, one folder in memory at a time; count the rest in `skipped`.

    A linked file counts if it ends inside the root; linked folders are never entered (their files are met where they
    are, and a loop cannot start). Names may hold any bytes.

    Raises:
        DataError: `root` is no folder or cannot be listed.
    """
    if not root.is_dir():
        raise DataError("E-IO data.root is not a folder that can be read; check the path and its permissions")
    base = root.resolve()
    stack = [""]
    while stack:
        folder = stack.pop()
        entries = _entries(base / folder)
        if entries is None:
            if not folder:
                raise DataError(f"E-IO data.root cannot be listed after {TRIES} tries; check its permissions")
            skipped["E-IO folder cannot be listed"] += 1
            continue
        below = []
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                below += [name] * (not _junk(entry.name, skipped))
            elif found := _candidate(entry, name, base, skipped):
                yield found
        stack += reversed(below)


def _entries(folder: Path) -> list[os.DirEntry[str]] | None:
    for attempt in range(TRIES):
        try:
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError:
            time.sleep(0.05 * 4**attempt)
    return None


def _candidate(entry: os.DirEntry[str], name: str, base: Path, skipped: Counter[str]) -> Found | None:
    try:
        if entry.is_symlink():
            target = Path(os.path.realpath(entry.path))
            if not target.is_relative_to(base) or not target.is_file():
                skipped["W-LINK link out of the root, to a folder or to nothing"] += 1
                return None
        elif not entry.is_file():
            skipped["not a regular file"] += 1
            return None
        state = entry.stat()
    except OSError:
        skipped["W-LINK link that cannot be followed"] += 1
        return None
    lower = entry.name.lower()
    if _junk(entry.name, skipped):
        return None
    if Path(lower).suffix in NO_IMAGE and not lower.endswith(".nii.gz"):
        skipped["not an image file"] += 1
        return None
    return Found(name, state.st_size, state.st_mtime_ns)


def _junk(name: str, skipped: Counter[str]) -> bool:
    if name.startswith(".") or name.lower() in JUNK:
        skipped["DICOMDIR" if name.lower() == "dicomdir" else "hidden or system file"] += 1
        return True
    return False
