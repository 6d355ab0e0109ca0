"""Batches in a fixed order, made in this thread or some ahead in others, resumable in the middle of an epoch."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.data.sampler import Sampler, batches
from medvit.data.units import Augmentation, Units
from medvit.types import Batch

_TRIVIAL_S = 0.002  # a batch made faster than this needs no thread
_AHEAD = 2
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What an epoch is made of: `sampler` None means every unit once in order (validation)."""

    batch_size: int
    seed: int = 0
    sampler: Sampler | None = None
    augment: Augmentation | None = None
    rank: int = 0
    ranks: int = 1


class BatchLoader:
    """An iterable of `Batch`. Epoch and place in it are its whole state, so that a resumed run sees the same batches.

    Threads, not processes: gathering and the fused augmentation leave Python's lock, and a batch handed between
    processes costs more than making it (docs/performance.md). `workers` 0 makes batches when they are asked for; "auto"
    measures. `on_epoch(epoch)` is called before the first batch of an epoch (the audit of the cache).
    """

    def __init__(
        self,
        units: Units,
        plan: Plan,
        workers: int | str = 0,
        pin: bool = False,
        on_epoch: Callable[[int], object] | None = None,
    ) -> None:
        self.units, self.plan, self.pin, self.on_epoch = units, plan, pin, on_epoch
        self.epoch = self.done = self._resume_at = 0
        self._chance: NDArray[np.float64] | None = None
        if plan.sampler is not None:
            self._chance = plan.sampler.weights(units.target, units.weight, units.frame["patient"].to_numpy())
        self.workers = measured_workers(self) if workers == "auto" else int(workers)

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
        return len(self._batches(0))

    def __iter__(self) -> Iterator[Batch]:
        self.done, self._resume_at = self._resume_at, 0
        if self.on_epoch is not None:
            self.on_epoch(self.epoch)
        todo = self._batches(self.epoch)[self.done :]
        for batch in self._made_here(todo) if self.workers == 0 else self._made_ahead(todo):
            self.done += 1
            yield batch
        self.epoch, self.done = self.epoch + 1, 0

    def _batches(self, epoch: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        plan = self.plan
        if plan.sampler is None:  # every unit exactly once; ranks take turns
            mine = np.arange(plan.rank, len(self.units), plan.ranks)
            parts = [mine[at : at + plan.batch_size] for at in range(0, len(mine), plan.batch_size)]
            return [(part, part) for part in parts]
        order = plan.sampler.order(plan.seed, epoch, len(self.units), self._chance)
        return batches(order, plan.batch_size, plan.rank, plan.ranks, plan.sampler.drop_last)

    def _make(self, positions: NDArray[np.int64], units: NDArray[np.int64], epoch: int) -> Batch:
        return self.units.batch(positions, units, self.plan.augment, (self.plan.seed, epoch), self.pin)

    def _made_here(self, todo: list[Any]) -> Iterator[Batch]:
        for positions, units in todo:
            yield self._make(positions, units, self.epoch)

    def _made_ahead(self, todo: list[Any]) -> Iterator[Batch]:
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="medvit-batch")
        waiting: deque[Future[Batch]] = deque()
        try:
            for positions, units in todo:
                waiting.append(pool.submit(self._make, positions, units, self.epoch))
                if len(waiting) >= self.workers + _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def measured_workers(loader: BatchLoader) -> int:
    """Return the number of threads that makes batches fastest here, the smallest within a tenth of the best."""
    trial = loader._batches(0)[:8]
    if not trial:
        return 0
    seconds: dict[int, float] = {}
    cores = len(os.sched_getaffinity(0))
    for count in sorted({0, 1, min(2, cores), min(4, cores), min(8, cores)}):
        loader.workers = count
        start = time.perf_counter()
        for _ in loader._made_here(trial) if count == 0 else loader._made_ahead(trial):
            pass
        seconds[count] = (time.perf_counter() - start) / len(trial)
        if count == 0 and seconds[0] < _TRIVIAL_S:
            break
    best = min(seconds.values())
    chosen = min(count for count, spent in seconds.items() if spent <= 1.1 * best)
    _log.info("loader: %d threads chosen; ms per batch %s", chosen, {n: round(s * 1e3, 2) for n, s in seconds.items()})
    return chosen
