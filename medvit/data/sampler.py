"""Sampling order of an epoch, from (seed, epoch) alone, for any number of workers and ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvit.errors import ConfigError

_MOST_CLASSES = 20


@dataclass(frozen=True)
class Sampler:
    """How an epoch is drawn from n units.

    kind: "plain" (every unit once, shuffled), "weighted" (with replacement, so that the values of every label come
    equally often), or "patient" (with replacement, every patient equally often).
    drop_last: leave out a last batch that is not full.
    """

    kind: str = "plain"
    drop_last: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError for an unknown kind."""
        if self.kind not in {"plain", "weighted", "patient"}:
            raise ConfigError(f"sampler kind {self.kind!r}: expected plain, weighted or patient")

    def weights(
        self,
        target: NDArray[np.float32],
        weight: NDArray[np.float32],
        patient: NDArray[np.object_],
        one_label: bool = False,
    ) -> NDArray[np.float64] | None:
        """Return the chance [n] of each unit (sum 1), or None where each comes once.

        target, weight: [n K] as the task encodes them; with `one_label` a row of them is one value (a class, a level).
        Raises ConfigError when a weighted label is not a class.
        """
        if self.kind == "plain":
            return None
        if one_label:
            rows = np.unique(target, axis=0, return_inverse=True)[1]
            target, weight = rows.reshape(-1, 1).astype(np.float32), weight.min(axis=1, keepdims=True)
        chance = _per_patient(patient) if self.kind == "patient" else _per_class(target, weight)
        share: NDArray[np.float64] = chance / chance.sum()
        return share

    def order(self, seed: int, epoch: int, count: int, chance: NDArray[np.float64] | None) -> NDArray[np.int64]:
        """Return the units of an epoch in order, `count` of them."""
        generator = np.random.default_rng([seed, epoch, 0x5A4D])
        if chance is None:
            return generator.permutation(count)
        return generator.choice(count, size=count, p=chance)


def _per_patient(patient: NDArray[np.object_]) -> NDArray[np.float64]:
    _, code, counts = np.unique(patient.astype(str), return_inverse=True, return_counts=True)
    chance: NDArray[np.float64] = 1.0 / counts[code]
    return chance


def _per_class(target: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float64]:
    """Average, over the labels a unit has, of the inverse frequency of its value; a unit without labels gets none."""
    total = np.zeros(len(target))
    for column, known in zip(target.T, (weight > 0).T, strict=True):
        if not known.any():
            continue
        values, code, counts = np.unique(column[known], return_inverse=True, return_counts=True)
        if len(values) > _MOST_CLASSES:
            raise ConfigError(f"sampler kind weighted needs classes; a label has {len(values)} values; use plain")
        total[known] += (known.sum() / len(values)) / counts[code]
    if not total.any():
        raise ConfigError("sampler kind weighted needs labels; every label is missing")
    mean: NDArray[np.float64] = total / np.maximum(1, (weight > 0).sum(axis=1))
    return mean


def batches(
    order: NDArray[np.int64], batch_size: int, rank: int, ranks: int, drop_last: bool
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return (positions in the epoch, units) of every batch of this rank, equally many for every rank.

    A step of all ranks together takes the next `batch_size * ranks` units, so 2 ranks of 16 see what one of 32 sees;
    at most `ranks - 1` units at the end of an epoch are left out.
    """
    whole = batch_size * ranks
    found = []
    for start in range(0, len(order), whole):
        share = min(batch_size, (len(order) - start) // ranks)
        if share == 0 or (drop_last and share < batch_size and start):
            break
        positions = np.arange(start + rank * share, start + (rank + 1) * share)
        found.append((positions, order[positions]))
    return found
