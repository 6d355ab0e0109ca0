"""Writer of a cache: one process under a lock, safe to kill at any moment.

Pixels are appended to a shard first and their journal line after, so a line that is there tells the truth. While a
build is under way the file `dirty` stands in the folder; if it is found at the start, every checksum is verified first.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from medvit import file_lock
from medvit.atomic_file import BINARY, sync
from medvit.data import cache_journal
from medvit.data.cache_journal import CacheRecord
from medvit.data.cache_layout import Preprocess, image_bytes, images_per_shard, layout, shard_paths
from medvit.errors import CacheError
from medvit.preprocess import Prepared

_log = logging.getLogger(__name__)


class Writer:
    """The journal and the shards, opened for appending; only ever used under the lock."""

    def __init__(self, home: Path, preprocess: Preprocess) -> None:
        self.home, self.preprocess = home, preprocess
        self.bytes, self.per_shard = image_bytes(preprocess), images_per_shard(preprocess)
        self.by_uid: dict[str, CacheRecord] = {}
        self.by_key: dict[str, CacheRecord] = {}
        self.unread: dict[str, CacheRecord] = {}  # rows that could not be read now, not written down

    def __enter__(self) -> Writer:
        path = self.home / "journal"
        (self.home / "header.json").write_text(json.dumps(layout(self.preprocess), indent=1))
        records, length = cache_journal.read(path)
        sizes = [shard.stat().st_size // self.bytes for shard in shard_paths(self.home)]
        suspect = (self.home / "dirty").exists()
        intact = [record for record in records if self._holds(record, sizes, suspect)]
        if len(intact) < len(records):  # forget torn entries for good: their place in the shard may be filled again
            _log.warning("cache: %d entries were torn and will be decoded again", len(records) - len(intact))
            fresh = path.with_name("journal.new")
            fresh.write_bytes(b"".join(record.line() for record in intact))
            fresh.replace(path)
            length = path.stat().st_size
        for record in intact:
            self._remember(record)
        self.journal = os.open(path, os.O_RDWR | os.O_CREAT | BINARY, 0o644)
        os.ftruncate(self.journal, length)
        os.lseek(self.journal, 0, os.SEEK_END)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.journal)

    def _remember(self, record: CacheRecord) -> None:
        self.by_uid[record.uid] = record
        if record.key and not record.bad:
            self.by_key[record.key] = record

    def _holds(self, record: CacheRecord, sizes: list[int], suspect: bool) -> bool:
        """Say whether the pixels are there; after a build that did not end, whether their checksum is right as well."""
        if record.bad:
            return True
        if record.shard >= len(sizes) or record.start + record.count > sizes[record.shard]:
            return False
        if not suspect:
            return True
        with (self.home / f"shard-{record.shard:03d}.bin").open("rb") as shard:
            shard.seek(record.start * self.bytes)
            return zlib.crc32(shard.read(record.count * self.bytes)) == record.crc

    @contextlib.contextmanager
    def building(self) -> Iterator[None]:
        """Mark the folder dirty meanwhile; on a full disk take back what was added and raise CacheError E-DISK."""
        dirty = self.home / "dirty"
        sizes = {path: path.stat().st_size for path in shard_paths(self.home)}
        length = os.lseek(self.journal, 0, os.SEEK_END)
        try:
            dirty.touch()
            yield
            for path in shard_paths(self.home):
                sync(path)
            os.fsync(self.journal)
            dirty.unlink()
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            os.ftruncate(self.journal, length)
            for path in shard_paths(self.home):
                os.truncate(path, sizes[path]) if path in sizes else path.unlink()
            raise CacheError("E-DISK the disk filled while caching; what this build added was removed") from None

    def add(self, record: CacheRecord, prepared: Prepared | None) -> None:
        """Append the pixels, then the journal line; equal content is kept once."""
        if not record.key:
            self.by_uid.pop(record.uid, None)
            self.unread[record.uid] = record
            return
        twin = self.by_key.get(record.key)
        if twin is not None and not record.bad:
            place = {"shard": twin.shard, "start": twin.start, "count": twin.count, "crc": twin.crc}
            record = replace(record, **place)  # type: ignore[arg-type]
        elif prepared is not None:
            record = self._append(record, prepared)
        cache_journal.write_all(self.journal, record.line())
        self._remember(record)

    def _append(self, record: CacheRecord, prepared: Prepared) -> CacheRecord:
        if record.count > self.per_shard:
            raise CacheError(f"row {record.uid} has {record.count} slices; a shard holds {self.per_shard}; set size[0]")
        existing = shard_paths(self.home)
        number = max(0, len(existing) - 1)
        used = -(-existing[number].stat().st_size // self.bytes) if existing else 0  # past a torn image, never over it
        if used + record.count > self.per_shard:
            number, used = number + 1, 0
        pixels = np.ascontiguousarray(prepared.pixels)
        descriptor = os.open(self.home / f"shard-{number:03d}.bin", os.O_WRONLY | os.O_CREAT | BINARY, 0o644)
        try:
            os.lseek(descriptor, used * self.bytes, os.SEEK_SET)
            cache_journal.write_all(descriptor, pixels.data)
        finally:
            os.close(descriptor)
        return replace(record, shard=number, start=used)


@contextlib.contextmanager
def locked(home: Path) -> Iterator[None]:
    """Hold the folder's lock: a second builder waits, then finds the work done. Being killed frees it.

    Raises CacheError for a folder that cannot be written.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        (home / "lock").touch()
    except OSError as error:
        raise CacheError(f"the cache folder cannot be written ({error.strerror}); choose another") from None
    with contextlib.ExitStack() as lock:
        try:
            lock.enter_context(file_lock.locked(home / "lock", wait=False))
        except BlockingIOError:
            _log.info("cache: another process is building; waiting for it")
            lock.enter_context(file_lock.locked(home / "lock"))
        yield
