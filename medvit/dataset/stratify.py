"""Iterative stratification of patients for several labels and properties at once.

Sechidis, Tsoumakas, Vlahavas: On the stratification of multi-label data, ECML PKDD 2011; here the unit is a patient
and a category counts the patient's images that have it. Single moves then even out what the greedy pass left uneven.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_AGE_BANDS = (0, 18, 40, 60, 80, 200)
_MOST_VALUES = 20
_SWEEPS = 5


def categories(table: pd.DataFrame, balance: list[str]) -> pd.DataFrame:
    """Return per patient (index, sorted) how many of its images have each value of the label and `balance` columns.

    Ages are cut into bands; other numeric columns with more than 20 values into quartiles.
    """
    columns = [c for c in table.columns if str(c).startswith("label.")] + balance
    parts = [pd.Series(1, index=table.index, name="images").to_frame()]
    parts += [
        pd.get_dummies(binned(table[name]).astype("string").fillna("missing"), prefix=name).astype(int)
        for name in columns
    ]
    return pd.concat(parts, axis=1).groupby(table["patient"]).sum().sort_index()


def binned(values: pd.Series) -> pd.Series:
    """Return ages by band, other numbers of more than 20 values by quartile, and anything else as it is."""
    if values.name == "age_years":
        return pd.cut(values.astype(float), _AGE_BANDS, right=False)
    if pd.api.types.is_numeric_dtype(values) and values.nunique() > _MOST_VALUES:
        return pd.qcut(values, 4, duplicates="drop")
    return values


def assign(patients: pd.DataFrame, shares: NDArray[np.float64], seed: int) -> NDArray[np.int64]:
    """Return a part number for each patient such that every category is divided as `shares` say.

    Args:
        patients: one row per patient, one column per category, counts.
        shares: wanted share of each part, summing to 1.
        seed: draws the order among equals.
    """
    rng = np.random.default_rng(seed)
    counts = patients.to_numpy(np.float64)
    wanted = shares[:, None] * counts.sum(axis=0)  # images of each category each part still wants
    room = shares * len(patients)  # patients each part still wants
    part = np.full(len(patients), -1)
    order = rng.permutation(len(patients))
    remaining = counts.copy()
    for _ in range(counts.shape[1]):
        totals = remaining.sum(axis=0)
        if not totals.any():
            break
        rarest = int(np.argmin(np.where(totals > 0, totals, np.inf)))
        having = order[remaining[order, rarest] > 0]
        for patient in having[np.argsort(-counts[having, rarest], kind="stable")]:
            best = _neediest(wanted[:, rarest], room, rng)
            part[patient] = best
            wanted[best] -= counts[patient]
            room[best] -= 1
            remaining[patient] = 0
    return _refine(counts, part, shares, rng)


def _refine(
    counts: NDArray[np.float64], part: NDArray[np.int64], shares: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Move single patients while that lowers the chi-square distance to the wanted counts.

    The rarest-first pass serves rare categories well and leaves the common ones, served last, uneven.
    """
    weights = np.column_stack([counts, np.ones(len(counts))])  # the number of patients counts as a category too
    target = shares[:, None] * weights.sum(axis=0)
    have = np.stack([weights[part == number].sum(axis=0) for number in range(len(shares))])
    for _ in range(_SWEEPS):
        moved = False
        for patient in rng.permutation(len(part)):
            own, mine = part[patient], weights[patient]
            over = have - target
            gain = ((2 * over[own] - mine) * mine / np.maximum(target[own], 1)).sum()
            cost = ((2 * over + mine) * mine / np.maximum(target, 1)).sum(axis=1)
            cost[own] = gain
            best = int(np.argmin(cost))
            if cost[best] < gain - 1e-9 and have[own, -1] > 1:
                have[own] -= mine
                have[best] += mine
                part[patient], moved = best, True
        if not moved:
            break
    return part


def _neediest(wanted: NDArray[np.float64], room: NDArray[np.float64], rng: np.random.Generator) -> int:
    """Return the part that wants this category most, then the one with most room, then by lot."""
    keys = np.lexsort((rng.random(len(room)), room, wanted))
    return int(keys[-1])
