"""LightningDataModule of a data set folder: `SplitData` with the loaders of a training."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from medvit.data.cache_layout import Preprocess
from medvit.data.loader import BatchLoader, Plan
from medvit.data.sampler import Sampler
from medvit.data.split_data import SplitData
from medvit.data.units import Augmentation, LabelTask

_log = logging.getLogger(__name__)


class DataModule(SplitData, pl.LightningDataModule):
    """Batches of one data set, as `SplitData` reads it.

    sampler: a `Sampler` or its kind. augment: see `medvit.augment.fused`, training only.
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
        pl.LightningDataModule.__init__(self)
        SplitData.__init__(self, folder, preprocess, task, **loading)
        self.augment = augment
        self.draw = sampler if isinstance(sampler, Sampler) else Sampler(sampler)

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
        plan = Plan(loading.batch_size, loading.seed, sampler, augment, self._rank(), ranks, loading.same_batches)
        audit = self._audit if side == "train" else None
        return BatchLoader(units, plan, loading.workers, loading.pin, audit, loading.prefetch)

    def _audit(self, epoch: int) -> None:
        if self._rank() == 0 and self.cache is not None:
            count = self.cache.audit(epoch, self.loading.audit_share, self.loading.seed)
            _log.debug("cache audit of epoch %d: %d rows equal their files", epoch, count)

    def _rank(self) -> int:
        return int(self.trainer.global_rank) if self.trainer is not None else 0
