"""LightningDataModule of a data set folder (manifest, splits, cache); the test split only when allowed."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl

from medvit.data.cache import Cache
from medvit.data.cache_layout import Preprocess
from medvit.data.loader import BatchLoader, Plan
from medvit.data.sampler import Sampler
from medvit.data.units import Augmentation, LabelTask, Units
from medvit.errors import ConfigError, DataError, SplitError

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loading:
    """How batches are made.

    workers: threads that make batches ahead, 0 for none; prefetch: batches that wait beside those; pin: page-locked
    memory; "auto" of the three measures (`loader_tuning`). bag: None, "study", "series" or "patient". fold: of a k-fold
    split. audit_share: part of the training rows decoded again each epoch. on_bad: "refuse" or "exclude" files that
    cannot be read. build_workers: decoding processes of the cache, 0 for one per core. allow_test: only `evaluate`
    sets it.
    """

    batch_size: int = 32
    workers: int | str = "auto"
    prefetch: int | str = "auto"
    pin: bool | str = "auto"
    bag: str | None = None
    seed: int = 0
    fold: int | None = None
    audit_share: float = 0.001
    on_bad: str = "refuse"
    build_workers: int = 0
    allow_test: bool = False

    def __post_init__(self) -> None:
        """Check every setting at once; raises ConfigError."""
        wrong = [] if self.batch_size > 0 else [f"batch_size={self.batch_size}: expected above 0"]
        workers_right = self.workers == "auto" or (isinstance(self.workers, int) and self.workers >= 0)
        prefetch_right = self.prefetch == "auto" or (isinstance(self.prefetch, int) and self.prefetch >= 1)
        wrong += [] if prefetch_right else [f"prefetch={self.prefetch!r}: expected auto or 1 and more"]
        wrong += (
            [] if self.pin == "auto" or isinstance(self.pin, bool) else [f"pin={self.pin!r}: expected auto or a bool"]
        )
        wrong += [] if workers_right else [f"workers={self.workers!r}: expected auto or 0 and more"]
        wrong += [] if 0 <= self.audit_share <= 1 else [f"audit_share={self.audit_share}: expected 0 to 1"]
        wrong += [] if self.on_bad in {"refuse", "exclude"} else [f"on_bad={self.on_bad!r}: expected refuse or exclude"]
        if wrong:
            raise ConfigError("data loading: " + "; ".join(wrong))


class DataModule(pl.LightningDataModule):
    """Batches of one data set. `folder` holds manifest.parquet, splits.parquet and cache/.

    sampler: a `Sampler` or its kind. augment: see `medvit.augment.fused`, training only. `loading` are the fields
    of `Loading` by name. Images come as integers; `normalise` (or `image.float() * scale + shift`) makes the model's
    input on the device. Raises ConfigError for an unknown setting, SplitError for the test split without allow_test.
    """

    def __init__(
        self,
        folder: str | Path,
        preprocess: Preprocess,
        task: LabelTask,
        augment: Augmentation | None = None,
        sampler: Sampler | str = "plain",
        **loading: Any,
    ) -> None:
        super().__init__()
        self.folder, self.preprocess, self.task, self.augment = Path(folder), preprocess, task, augment
        self.draw = sampler if isinstance(sampler, Sampler) else Sampler(sampler)
        self.loading = _loading(loading)
        self.scale, self.shift = preprocess.scale, preprocess.shift
        self.cache: Cache | None = None
        self.hashes: dict[str, str] = {}
        self._units: dict[str, Units] = {}

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 - every stage needs the same cache
        """Read the manifest and splits and bring the cache up to date; further calls do nothing."""
        if self.cache is not None:
            return
        from medvit.dataset import manifest, splits

        table = manifest.read(self.folder)
        frozen = splits.read(self.folder, table)
        self.hashes = {"manifest": table.digest, "split": frozen.digest, "preprocess": self.preprocess.digest}
        sides = ["train", "val", *(["test"] if self.loading.allow_test else [])]
        parts = [frozen.rows(table, side, self.loading.fold).assign(_side=side) for side in sides]
        self.prepare_rows(pd.concat(parts, ignore_index=True), table.root)
        self._tell_written_since((self.folder / manifest.MANIFEST).stat().st_mtime_ns)

    def _tell_written_since(self, indexed_ns: int) -> None:
        """Warn of files that were written after the manifest: another film may lie at the place of the indexed one."""
        if self.cache is None or self._rank() != 0:
            return
        late = sum(any(stat[1] > indexed_ns for stat in record.stats) for record in self.cache.records)
        if late:
            said = (
                "%d of %d images were written after they were indexed, and may be others than those that the labels "
                "and patients belong to: run python -m medvit.index again (what did not change is not read twice)"
            )
            _log.warning(said, late, len(self.cache))

    def prepare_rows(self, rows: pd.DataFrame, root: Path) -> None:
        """Build the cache of `rows` (manifest columns and `_side`) and the units of every side."""
        _refuse_other_kind(rows, self.preprocess.kind)
        self.task.encode(rows)  # a label that the task does not know is told before images are decoded for hours
        workers, on_bad, shown = self.loading.build_workers, self.loading.on_bad, self._rank() == 0
        self.cache = Cache.build(rows, root, self.preprocess, self.folder / "cache", workers, on_bad, shown)
        sides = self.cache.rows["_side"].to_numpy()
        for side in dict.fromkeys(rows["_side"]):
            mine = np.flatnonzero(sides == side)
            if not len(mine):
                raise SplitError(f"the {side} side has no readable image; make another split")
            self._units[side] = Units(self.cache, mine, self.task, self.loading.bag)

    def units(self, side: str) -> Units:
        """Return the units of "train", "val" or "test", in the order that validation and test loaders give them."""
        if side == "test" and not self.loading.allow_test:
            raise SplitError("the test split is read by `python -m medvit.evaluate` only")
        self.setup()
        return self._units[side]

    def normalise(self, image: Tensor) -> Tensor:
        """Return the model's input, float32, from integers [B C *S] on any device."""
        return image.float() * self.scale + self.shift

    def train_dataloader(self) -> BatchLoader:
        """Return the training batches, drawn by the sampler and augmented."""
        return self._loader("train", self.draw, self.augment)

    def val_dataloader(self) -> BatchLoader:
        """Return every validation unit once, in order, not augmented."""
        return self._loader("val", None, None)

    def test_dataloader(self) -> BatchLoader:
        """Return every test unit once, in order; raises SplitError without `allow_test`."""
        return self._loader("test", None, None)

    def _loader(self, side: str, sampler: Sampler | None, augment: Augmentation | None) -> BatchLoader:
        units, loading = self.units(side), self.loading
        ranks = self.trainer.world_size if self.trainer is not None else 1
        plan = Plan(loading.batch_size, loading.seed, sampler, augment, self._rank(), ranks)
        audit = self._audit if side == "train" else None
        return BatchLoader(units, plan, loading.workers, loading.pin, audit, loading.prefetch)

    def _audit(self, epoch: int) -> None:
        if self._rank() == 0 and self.cache is not None:
            count = self.cache.audit(epoch, self.loading.audit_share, self.loading.seed)
            _log.debug("cache audit of epoch %d: %d rows equal their files", epoch, count)

    def _rank(self) -> int:
        return int(self.trainer.global_rank) if self.trainer is not None else 0


def _refuse_other_kind(rows: pd.DataFrame, kind: str) -> None:
    """Say once, and not for each file, that films are asked for where the index found volumes, or the other way."""
    if "kind" not in rows or not (other := int((rows["kind"] != kind).sum())):
        return
    word = "preprocess=volume or preprocess=slices" if kind == "film" else "preprocess=film"
    found = "volumes" if kind == "film" else "films"
    raise DataError(
        f"{other} of {len(rows)} images of the data set are {found}, and the preprocessing is for {kind}s: {word}, or "
        f"index them as {kind}s (data.kind={kind})"
    )


def _loading(options: dict[str, Any]) -> Loading:
    """Return the settings; raises ConfigError that names every unknown one with the nearest valid name."""
    valid = [field.name for field in fields(Loading)]
    unknown = [name for name in options if name not in valid]
    if unknown:
        near = [f"{name} (did you mean {''.join(get_close_matches(name, valid, 1)) or valid})" for name in unknown]
        raise ConfigError(f"DataModule has no setting {'; '.join(near)}")
    return Loading(**options)
