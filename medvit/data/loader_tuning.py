"""Measure the fastest number of loader threads, prefetched batches and page-locked memory."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Iterator
from typing import Any, Protocol

import joblib

from medvit.types import Batch

TRIVIAL_S = 0.002  # a batch made faster than this needs no thread
_BATCHES = 8
_MOST_AHEAD, _MOST_BYTES = 8, 1 << 30  # batches, and bytes of all that wait
_log = logging.getLogger(__name__)


class TunableLoader(Protocol):
    """A loader whose threads, batches ahead and page-locking can be set (`data.loader.BatchLoader`)."""

    workers: int
    prefetch: int
    pin: bool

    def batch_indices(self, epoch: int) -> list[Any]:
        """Return the batches of an epoch in order, not made yet."""

    def make_batches(self, todo: list[Any], epoch: int) -> Iterator[Batch]:
        """Make batches in order."""

    def batch_bytes(self, part: Any) -> int:
        """Return the size of the images of a batch."""


def tune_loader(loader: TunableLoader, workers: int | str, prefetch: int | str, pin: bool | str) -> None:
    """Set `workers`, `prefetch` and `pin` of a loader: as given, or where it says "auto" what is fastest here.

    Eight batches of the first epoch are made for each candidate, after one round that warms the page cache. The batches
    themselves do not depend on any of the three.
    """
    trial = loader.batch_indices(0)[:_BATCHES]
    loader.workers, loader.prefetch, loader.pin = 0, 2, False
    if not trial:
        return
    if "auto" in (workers, prefetch, pin):
        _seconds(loader, trial, 0)
    loader.pin = _faster_pinned(loader, trial) if pin == "auto" else bool(pin)
    each = _each(loader, trial) if "auto" in (workers, prefetch) else [0.0]
    told: dict[int, float] = {}
    if workers == "auto":
        loader.workers, told = _fastest(loader, trial, sum(each) / len(trial))
    else:
        loader.workers = int(workers)
    loader.prefetch = _enough(each, loader, trial) if prefetch == "auto" else int(prefetch)
    if "auto" in (workers, prefetch, pin):
        spent = ", ".join(f"{count}: {1e3 * seconds:.2f}" for count, seconds in told.items()) or "not measured"
        ahead = loader.prefetch if loader.workers else 0
        locked = "page-locked" if loader.pin else "not page-locked"
        _log.debug("loader: %d threads, %d ahead, %s; ms per batch by threads %s", loader.workers, ahead, locked, spent)


def _fastest(loader: TunableLoader, trial: list[Any], alone: float) -> tuple[int, dict[int, float]]:
    """Return the smallest number of threads within a tenth of the fastest, and the seconds per batch of each."""
    seconds = {0: alone}
    cores = joblib.cpu_count()
    for count in sorted({1, min(2, cores), min(4, cores), min(8, cores)}) if alone >= TRIVIAL_S else ():
        seconds[count] = _seconds(loader, trial, count) / len(trial)
    best = min(seconds.values())
    return min(count for count, spent in seconds.items() if spent <= 1.1 * best), seconds


def _enough(each: list[float], loader: TunableLoader, trial: list[Any]) -> int:
    """Return how many finished batches outlast the slowest one, within the memory allowed."""
    wanted = math.ceil(max(each) / max(statistics.median(each), 1e-9))
    size = max(1, loader.batch_bytes(trial[0]))
    return max(1, min(wanted, _MOST_AHEAD, _MOST_BYTES // size - loader.workers))


def _seconds(loader: TunableLoader, trial: list[Any], workers: int) -> float:
    loader.workers = workers
    start = time.perf_counter()
    for _ in loader.make_batches(trial, 0):
        pass
    return time.perf_counter() - start


def _each(loader: TunableLoader, trial: list[Any]) -> list[float]:
    return [_seconds(loader, [part], 0) for part in trial]


def _faster_pinned(loader: TunableLoader, trial: list[Any]) -> bool:
    """Say whether page-locked batches reach the GPU sooner, copy included; never without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return False
    seconds = {}
    for pin in (False, True, False, True):  # the first round of each allocates
        loader.pin = pin
        start = time.perf_counter()
        for batch in loader.make_batches(trial, 0):
            batch.image.to("cuda", non_blocking=True)
        torch.cuda.synchronize()
        seconds[pin] = time.perf_counter() - start
    return seconds[True] < seconds[False]
