"""The index of a cache: an append-only journal, one checksummed line per file, read back safely after any crash."""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

Stat = tuple[int, int, int, int, str]  # size, mtime_ns, ctime_ns, inode, content digest of one source file


@dataclass(frozen=True, slots=True)
class CacheRecord:
    """Where one manifest row lies in the cache, or why it does not (`bad`). Holds no path and no identifier.

    `key` is the content key; images `start` to `start + count` of shard `shard`; `crc` is the CRC-32 of their bytes;
    `seen_ns` is when the sources were read (a file modified later than just before that is read again).
    """

    uid: str
    key: str
    stats: tuple[Stat, ...]
    seen_ns: int
    shard: int = -1
    start: int = 0
    count: int = 0
    crc: int = 0
    position_mm: tuple[float, ...] = ()
    placement: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    bad: str = ""

    def line(self) -> bytes:
        """Return the journal line: CRC-32 of the JSON text, a space, the JSON text."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        text = json.dumps(values, separators=(",", ":")).encode()
        return b"%08x %s\n" % (zlib.crc32(text), text)


def read(path: Path) -> tuple[list[CacheRecord], int]:
    """Return the intact records and the length in bytes they take; everything after a torn line is ignored."""
    if not path.is_file():
        return [], 0
    records, length = [], 0
    for line in path.read_bytes().splitlines(keepends=True):
        checksum, _, text = line.rstrip(b"\n").partition(b" ")
        if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
            break
        records.append(_record(json.loads(text)))
        length += len(line)
    return records, length


def _record(values: dict[str, Any]) -> CacheRecord:
    tuples = {name: tuple(values[name]) for name in ("position_mm", "warnings")}
    return CacheRecord(**{**values, **tuples, "stats": tuple(tuple(stat) for stat in values["stats"])})


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write every byte at the descriptor's position, as `os.write` alone does not promise."""
    view = memoryview(data).cast("B")
    while view.nbytes:
        view = view[os.write(descriptor, view) :]
