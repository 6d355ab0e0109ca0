"""Batches in a fixed order, made in this thread or some ahead in others, resumable in the middle of an epoch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvit.data.cache_layout import image_bytes
from medvit.data.loader_tuning import tune_loader
from medvit.data.sampler import Sampler, batches
from medvit.data.units import Augmentation, Units
from medvit.types import Batch

Part = tuple[NDArray[np.int64], NDArray[np.int64]]  # positions in the epoch, units


@dataclass(frozen=True)
class Plan:
    """What an epoch is made of: `sampler` None means every unit once in order (validation).

    With `same_batches` every epoch is the first one again.
    """

    batch_size: int
    seed: int = 0
    sampler: Sampler | None = None
    augment: Augmentation | None = None
    rank: int = 0
    ranks: int = 1
    same_batches: bool = False


class BatchLoader:
    """An iterable of `Batch`. Epoch and place in it are its whole state, so that a resumed run sees the same batches.

    Threads, not processes: gathering and the fused augmentation leave Python's lock, and a batch handed between
    processes costs more than making it (docs/reference/performance.md). `workers` 0 makes batches when they are asked
    for; else `prefetch` more than there are threads may wait; `pin` makes them page-locked. "auto" of each:
    `loader_tuning`.
    `on_epoch(epoch)` is called before the first batch of an epoch (the audit of the cache).
    """

    def __init__(
        self,
        units: Units,
        plan: Plan,
        workers: int | str = 0,
        pin: bool | str = False,
        on_epoch: Callable[[int], object] | None = None,
        prefetch: int | str = 2,
    ) -> None:
        self.units, self.plan, self.on_epoch = units, plan, on_epoch
        self.epoch = self.done = self._resume_at = 0
        self._chance: NDArray[np.float64] | None = None
        if plan.sampler is not None:
            patients = units.frame["patient"].to_numpy()
            self._chance = plan.sampler.weights(units.target, units.weight, patients, units.one_label)
        self.workers, self.prefetch, self.pin = 0, 2, False
        tune_loader(self, workers, prefetch, pin)

    batch_sampler = None  # Lightning asks for it beside `sampler`

    @property
    def sampler(self) -> BatchLoader:
        """Where Lightning looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of another epoch; naming the present one keeps the place in it."""
        if epoch != self.epoch:
            self.epoch, self.done, self._resume_at = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and how many of its batches were given out."""
        return {"epoch": self.epoch, "done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration go on where `state_dict` was taken; validation always starts at its beginning."""
        if self.plan.sampler is not None:
            self.epoch, self._resume_at = state["epoch"], state["done"]

    def __len__(self) -> int:
        return len(self.batch_indices(0))

    def __iter__(self) -> Iterator[Batch]:
        self.done, self._resume_at = self._resume_at, 0
        if self.on_epoch is not None:
            self.on_epoch(self.epoch)
        drawn = 0 if self.plan.same_batches else self.epoch
        for batch in self.make_batches(self.batch_indices(drawn)[self.done :], drawn):
            self.done += 1
            yield batch
        self.epoch, self.done = self.epoch + 1, 0

    def batch_indices(self, epoch: int) -> list[Part]:
        """Return the batches of an epoch in order, not made yet."""
        plan = self.plan
        if plan.sampler is None:  # every unit exactly once; ranks take turns
            mine = np.arange(plan.rank, len(self.units), plan.ranks)
            parts = [mine[at : at + plan.batch_size] for at in range(0, len(mine), plan.batch_size)]
            return [(part, part) for part in parts]
        order = plan.sampler.order(plan.seed, epoch, len(self.units), self._chance)
        return batches(order, plan.batch_size, plan.rank, plan.ranks, plan.sampler.drop_last)

    def _make(self, positions: NDArray[np.int64], units: NDArray[np.int64], epoch: int) -> Batch:
        return self.units.batch(positions, units, self.plan.augment, (self.plan.seed, epoch), self.pin)

    def batch_bytes(self, part: Part) -> int:
        """Return the size of the images of a batch."""
        cache = self.units.cache
        rows = np.concatenate([self.units.members[unit] for unit in part[1]])
        return int(cache.counts[rows].sum()) * image_bytes(cache.preprocess)

    def make_batches(self, todo: list[Part], epoch: int) -> Iterator[Batch]:
        """Make batches in order, in this thread or ahead in others."""
        if self.workers:
            yield from self._make_ahead(todo, epoch)
            return
        for positions, units in todo:
            yield self._make(positions, units, epoch)

    def _make_ahead(self, todo: list[Part], epoch: int) -> Iterator[Batch]:
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="medvit-batch")
        waiting: deque[Future[Batch]] = deque()
        try:
            for positions, units in todo:
                waiting.append(pool.submit(self._make, positions, units, epoch))
                if len(waiting) >= self.workers + self.prefetch:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
