"""Bring a cache up to date: find new and changed files, decode them in parallel, pass them to the writer."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medvit.data.cache_journal import CacheRecord, Stat
from medvit.data.cache_layout import (
    Preprocess,
    cache_home,
    image_bytes,
    prepare_bytes,
    uid_in_errors,
)
from medvit.data.cache_write import Writer, locked
from medvit.dicom.storage import load
from medvit.errors import CacheError, DicomRefusal
from medvit.preprocess import Prepared, VolumePreprocess

_CHUNK = 16  # rows per task: enough to hide the exchange between processes, few enough for a steady progress bar
_TRUST_NS = 2_000_000_000  # a file changed within two seconds before it was read may change again unseen
_RESERVE = 64 << 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Job:
    uid: str
    files: tuple[str, ...]
    volume_key: str
    known: CacheRecord | None  # the row's last record, whose stats no longer match


def bring_up_to_date(
    rows: pd.DataFrame, root: Path, preprocess: Preprocess, folder: Path, workers: int, progress: bool
) -> list[CacheRecord]:
    """Return one record per row, decoding what is new or changed; raises CacheError."""
    if rows["uid"].duplicated().any():
        raise CacheError(f"{int(rows['uid'].duplicated().sum())} rows share a uid; expected one row per uid")
    if not Path(root).is_dir():
        raise CacheError(
            "E-IO the folder the images were indexed from is not there; put it back, or index again where it is now"
        )
    home = cache_home(folder, preprocess)
    with locked(home), Writer(home, preprocess) as writer:
        jobs = [job for job in _jobs(rows, Path(root), writer.by_uid) if job is not None]
        if jobs:
            _announce(jobs, len(rows), preprocess, home)
            with writer.building():
                for found in _progress(_results(jobs, Path(root), preprocess, workers), len(jobs), progress):
                    writer.add(*found)
        return [writer.by_uid.get(uid) or writer.unread[uid] for uid in rows["uid"]]


def _jobs(rows: pd.DataFrame, root: Path, by_uid: dict[str, CacheRecord]) -> Iterator[_Job | None]:
    """Yield a job for every row that is new or whose files no longer look as they did."""
    for uid, files, key in zip(rows["uid"], rows["files"], rows["volume_key"], strict=True):
        known = by_uid.get(uid)
        if known is None or not _unchanged(known, [root / name for name in files]):
            yield _Job(uid, tuple(files), key, known)


def _unchanged(record: CacheRecord, paths: Sequence[Path]) -> bool:
    if len(paths) != len(record.stats):
        return False
    for path, stat in zip(paths, record.stats, strict=True):
        try:
            found = _looks(path.stat())
        except OSError:
            return False
        if found != stat[:4] or max(stat[1], stat[2]) > record.seen_ns - _TRUST_NS:
            return False
    return True


def _looks(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _announce(jobs: list[_Job], total: int, preprocess: Preprocess, home: Path) -> None:
    """Say how large the build will be; raises CacheError E-DISK when the disk lacks it."""
    images = len(jobs)
    if isinstance(preprocess, VolumePreprocess) and preprocess.mode == "slices":
        most = preprocess.size[0] or 1 << 30
        images = sum(min(most, max(len(job.files), preprocess.size[0], 1)) for job in jobs)
    needed, free = images * image_bytes(preprocess), shutil.disk_usage(home).free
    _log.info("cache: %d of %d rows to decode, %.3f GB; %.1f GB free", len(jobs), total, needed / 1e9, free / 1e9)
    if needed + _RESERVE > free:
        raise CacheError(
            f"E-DISK the cache needs {needed / 1e9:.3f} GB and the disk has {free / 1e9:.3f} GB free; "
            "free some, or choose another cache folder or a smaller size"
        )


def _results(
    jobs: list[_Job], root: Path, preprocess: Preprocess, workers: int
) -> Iterator[tuple[CacheRecord, Prepared | None]]:
    """Yield (record, pixels) in any order; pixels are None for a refusal and for content that did not change."""
    root = root.absolute()  # a worker may have been started in another working directory
    count = min(workers or os.cpu_count() or 1, -(-len(jobs) // _CHUNK))
    chunks = [jobs[at : at + _CHUNK] for at in range(0, len(jobs), _CHUNK)]
    if count <= 1:
        for job in jobs:
            yield _decode(job, root, preprocess)
        return
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    parallel = Parallel(n_jobs=count, return_as="generator_unordered", pre_dispatch="2*n_jobs", batch_size=1)
    try:
        for results in parallel(delayed(_decode_chunk)(chunk, root, preprocess) for chunk in chunks):
            yield from results
    except TerminatedWorkerError as error:
        raise CacheError(
            "a decoding process was killed (out of memory?); use fewer workers, what is done is kept"
        ) from error


def _decode_chunk(chunk: list[_Job], root: Path, preprocess: Preprocess) -> list[tuple[CacheRecord, Prepared | None]]:
    import cv2

    cv2.setNumThreads(1)  # the processes are the parallelism
    if preprocess.steps:
        import torch

        torch.set_num_threads(1)
    return [_decode(job, root, preprocess) for job in chunk]


def _decode(job: _Job, root: Path, preprocess: Preprocess) -> tuple[CacheRecord, Prepared | None]:
    """Read each file once; hash and decode the same bytes, so a file that changes meanwhile cannot mix."""
    seen_ns = time.time_ns()
    stats: tuple[Stat, ...] = ()
    key = ""
    try:
        files = [load(root / name, digest=True) for name in job.files]
        stats = tuple((*_looks(file.stat), file.digest) for file in files)
        key = hashlib.sha256("|".join([job.volume_key, *(stat[4] for stat in stats)]).encode()).hexdigest()
        if job.known is not None and job.known.key == key:
            return replace(job.known, stats=stats, seen_ns=seen_ns), None
        with uid_in_errors(job.uid):
            prepared = prepare_bytes([file.view for file in files], job.volume_key, preprocess)
    except DicomRefusal as error:
        return CacheRecord(
            job.uid, key, stats, seen_ns, bad=str(error)
        ), None  # without a key it is tried again next time
    record = CacheRecord(
        job.uid,
        key,
        stats,
        seen_ns,
        count=len(prepared.pixels),
        crc=zlib.crc32(np.ascontiguousarray(prepared.pixels).data),
        position_mm=tuple(float(mm) for mm in prepared.position_mm),
        placement=prepared.placement.to_json(),
        warnings=prepared.warnings,
    )
    return record, prepared


def _progress(results: Iterator[Any], total: int, shown: bool) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import track

    yield from track(results, "Caching", total=total, console=Console(stderr=True), disable=not shown)
