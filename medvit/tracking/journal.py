"""The journal of a run: `journal.jsonl` in its folder, to which every line is added and none is ever changed.

It is the truth about the run; MLflow's store beside it and a server are written from the same values. A line is one
JSON object with `event`, `at` (milliseconds since 1970, of this machine) and what the event holds:

    start      run, experiment, name, parent (or null), schema
    params     values (text by name)
    metrics    step, values (a number by name; "nan", "inf" and "-inf" as text, which JSON has no numbers for)
    tags       values (text by name)
    dataset    name, digest, context, profile
    view       metrics, params: the columns of the experiment's page
    artifact   name (relative to the run's artifacts), sha256
    files      values (SHA-256 by name): what rebuilds the run, in its own folder, for a server alone
    status     status: RUNNING, FINISHED, FAILED or KILLED
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvit.atomic_file import BINARY

NAME = "journal.jsonl"
SCHEMA = "medvit.journal/1"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Journal:
    """The journal of the run whose folder this is."""

    folder: Path

    @property
    def file(self) -> Path:
        """Where it is."""
        return self.folder / NAME

    def write(self, event: str, *, durable: bool = True, **content: Any) -> int:
        """Add a line, and return the time it bears; `durable` also survives a power failure, which takes milliseconds.

        Raises:
            OSError: the disk is full, or the folder is not there or cannot be written.
        """
        now = int(time.time() * 1000)
        line = json.dumps({"event": event, "at": now, **content}, allow_nan=False) + "\n"
        handle = os.open(self.file, os.O_RDWR | os.O_APPEND | os.O_CREAT | BINARY, 0o644)
        try:
            data = line.encode()
            if _torn(handle):
                data = b"\n" + data
            while data:  # in one piece, but for a signal or a disk that fills up
                data = data[os.write(handle, data) :]
            if durable:
                os.fsync(handle)
        finally:
            os.close(handle)
        return now


def _torn(handle: int) -> bool:
    """Say whether the last line has no end: the process that wrote it was killed in the middle."""
    size = os.fstat(handle).st_size
    return size > 0 and os.pread(handle, 1, size - 1) != b"\n"


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the events of a run in their order; lines that were left half written are skipped with a warning.

    Raises:
        OSError: the run has no journal, or it cannot be read.
    """
    reader = Reader(folder)
    return [*reader.events(), *reader.last()]


class Reader:
    """Reads a journal while it is being written: each call gives the events that were added since the last."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / NAME
        self._offset = 0
        self._rest = b""
        self._number = 0

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield the events of all lines that are complete by now."""
        with self.file.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
        self._offset += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        for line in lines:
            self._number += 1
            if line and (event := _parsed(line, self._number)):
                yield event

    def last(self) -> Iterator[dict[str, Any]]:
        """Yield the event of a last line that lacks nothing but its end; warn of one that is torn."""
        if self._rest and (event := _parsed(self._rest, self._number + 1)):
            yield event


def _parsed(line: bytes, number: int) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:  # also of half a character
        found = None
    if not isinstance(found, dict) or "event" not in found:
        logger.warning("line %d of %s is torn (the process was stopped while it wrote) and is left out", number, NAME)
        return None
    return found


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain(value: float) -> float | str:
    """Return a number as JSON has it; what is not finite as text."""
    return value if math.isfinite(value) else str(value)
