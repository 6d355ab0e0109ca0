"""Memory-mapped cache of decoded, resampled integer pixels, checked against the source files.

A cache folder holds one sub-folder per preprocessing and decoder versions: `header.json`, `journal`, `shard-000.bin`.
What a file is, is known by a digest of its content; size, times and inode only save the reading.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvit.data.cache_journal import CacheRecord
from medvit.data.cache_layout import Preprocess, cache_home, image_bytes, images_per_shard, prepare_bytes, shard_paths
from medvit.dicom.storage import load
from medvit.errors import CacheError, MedvitError
from medvit.preprocess import Placement

_log = logging.getLogger(__name__)


class Cache:
    """The cached pixels of manifest rows, in their order. Made by `Cache.build`; open files are shared read-only.

    `rows` are the manifest rows that are there (refused ones are in `excluded`, with columns uid and reason);
    `counts` is the number of images of each row (1, or the slices of a bag).
    """

    def __init__(
        self, rows: pd.DataFrame, records: Sequence[CacheRecord], root: Path, preprocess: Preprocess, home: Path
    ) -> None:
        good = [not record.bad for record in records]
        self.rows = rows[good].reset_index(drop=True)
        self.records = [record for record in records if not record.bad]
        self.excluded = pd.DataFrame(
            [(record.uid, record.bad) for record in records if record.bad], columns=["uid", "reason"], dtype=str
        )
        self.preprocess, self.root, self.home = preprocess, root, home
        self.counts = np.array([record.count for record in self.records], np.int64)
        self._per_shard = images_per_shard(preprocess)
        self._first = np.array([r.shard * self._per_shard + r.start for r in self.records], np.int64)
        self._shards = [_map(path, preprocess) for path in shard_paths(home)]

    @classmethod
    def build(
        cls,
        rows: pd.DataFrame,
        root: Path,
        preprocess: Preprocess,
        folder: Path,
        workers: int = 0,
        on_bad: str = "refuse",
        progress: bool = False,
    ) -> Cache:
        """Bring the cache up to date with the files of `rows` and open it.

        rows: manifest rows (columns uid, files, volume_key). root: what `files` are relative to. workers: decoding
        processes, 0 for one per core. on_bad: "refuse" stops with all refused rows in one message; "exclude" leaves
        them out and lists them in `excluded` and in excluded.csv of the cache.
        Raises CacheError: E-DISK (announced size does not fit), refused files, an unwritable folder.
        """
        from medvit.data.cache_build import bring_up_to_date

        records = bring_up_to_date(rows, root, preprocess, folder, workers, progress)
        refused = [record for record in records if record.bad]
        if refused and on_bad != "exclude":
            listed = "; ".join(f"{record.uid}: {record.bad}" for record in refused[:20])
            raise CacheError(
                f"{len(refused)} of {len(records)} rows cannot be read: {listed}"
                f"{' ...' if len(refused) > 20 else ''}; repair or remove them (column files of manifest.parquet in "
                "data.folder names the file of each), or set data.on_bad=exclude"
            )
        built = cls(rows.reset_index(drop=True), records, Path(root), preprocess, cache_home(folder, preprocess))
        built.excluded.to_csv(built.home / "excluded.csv", index=False)
        _tell_warnings(records)
        if refused:
            _log.warning(
                "%d of %d rows are left out, their files are refused: excluded.csv", len(refused), len(records)
            )
        return built

    def __len__(self) -> int:
        return len(self.records)

    def gather(self, indices: NDArray[np.int64] | Sequence[int], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Copy the images of the rows `indices` (in that order, bags one after another) into [B C *S] integers.

        `out` is filled and returned where given (a pinned buffer); raises IndexError for an index outside the rows.
        """
        wanted = np.asarray(indices, np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"row {wanted.min()} to {wanted.max()} of a cache of {len(self)}")
        images = self._first[wanted]
        counts = self.counts[wanted]
        if (counts != 1).any():
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            images = np.repeat(images, counts) + within
        if out is None:
            out = np.empty((images.size, *self.preprocess.shape), self.preprocess.dtype)
        if out.shape != (images.size, *self.preprocess.shape) or out.dtype != self.preprocess.dtype:
            raise ValueError(f"a buffer of {out.shape} {out.dtype} for {images.size} images of {self.preprocess.shape}")
        flat = out.reshape(images.size, math.prod(self.preprocess.shape))
        shards = images // self._per_shard
        for shard in np.unique(shards):
            mine = np.flatnonzero(shards == shard)
            slots = images[mine] - shard * self._per_shard
            if mine.size == images.size:  # one fancy-index copy; mode="clip" writes into `out` without a second buffer
                np.take(self._shards[shard], slots, axis=0, out=flat, mode="clip")
            else:
                flat[mine] = self._shards[shard][slots]
        return out

    def position_mm(self, index: int) -> NDArray[np.float32]:
        """Return where each image of the row lies along its bag, mm from the middle slice."""
        return np.array(self.records[index].position_mm, np.float32)

    def placement(self, index: int) -> Placement:
        """Return where the row's model input lies on its original."""
        return Placement.from_json(self.records[index].placement or {})

    def audit(self, epoch: int, share: float = 0.001, seed: int = 0) -> int:
        """Decode a random `share` of the rows again (at least one), compare with the cache, and return how many.

        Raises CacheError E-STALE naming the row when a pixel differs, E-CHANGED when the file cannot be read any more.
        """
        if share <= 0 or not len(self):
            return 0
        chosen = np.random.default_rng([seed, epoch]).choice(len(self), math.ceil(share * len(self)), replace=False)
        for index in chosen:
            row = self.rows.loc[index]
            try:
                data = [load(self.root / name).view for name in row["files"]]
                fresh = prepare_bytes(data, row["volume_key"], self.preprocess).pixels
            except MedvitError as error:
                raise CacheError(f"E-CHANGED row {row['uid']} was cached but reads no more: {error}") from error
            if not np.array_equal(fresh, self.gather([int(index)])):
                raise CacheError(
                    f"E-STALE row {row['uid']}: its pixels differ from the cache (the file or a decoder changed); "
                    "start again, the cache repairs itself"
                )
        return len(chosen)


def _tell_warnings(records: Sequence[CacheRecord]) -> None:
    """Log how many rows were read with a warning, by its code, each with the first one's words."""
    counts, first = Counter[str](), dict[str, str]()
    for record in records:
        found = {text.partition(" ")[0]: text for text in record.warnings}
        counts.update(found.keys())
        first = found | first
    for code, count in counts.most_common():
        told = "%d of %d rows are read with a warning, such as: %s (what it means: docs/reference/errors.md, %s)"
        _log.warning(told, count, len(records), first[code], code)


def _map(path: Path, preprocess: Preprocess) -> NDArray[Any]:
    width = math.prod(preprocess.shape)
    count = path.stat().st_size // image_bytes(preprocess)
    if not count:
        return np.empty((0, width), preprocess.dtype)
    return np.asarray(np.memmap(path, preprocess.dtype, "r", shape=(count, width)))
