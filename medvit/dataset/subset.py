"""A share of the training patients: nested, so that a larger share holds every smaller one, and stratified by label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from medvit.dataset.manifest import LABEL
from medvit.dataset.stratify import binned

_CLASSES = 20  # most values of a label that are classes; what has more is a measurement


def patient_order(rows: pd.DataFrame, seed: int) -> list[str]:
    """Return the patients of manifest rows in an order of which every beginning has the labels of the whole.

    A stratum is what labels a patient's images have (numbers of many values by quartile). Its patients stand in random
    order at even distances: systematic sampling with a random start, so the first m of n hold m/n of each stratum,
    rounded up or down.
    """
    text = pd.Series("", index=rows.index, dtype="string")
    for name in (each for each in rows.columns if str(each).startswith(LABEL)):
        text = text + "|" + binned(rows[name]).astype("string").fillna("missing")
    kind = text.groupby(rows["patient"]).agg(lambda each: " ".join(sorted(set(each))))
    rng, place = np.random.default_rng(seed), np.empty(len(kind))
    for _, mine in sorted(pd.Series(range(len(kind))).groupby(kind.to_numpy()).groups.items()):
        place[rng.permutation(mine.to_numpy())] = (np.arange(len(mine)) + rng.random()) / len(mine)
    return [str(patient) for patient in kind.index[np.argsort(place, kind="stable")]]


def too_few(rows: pd.DataFrame, part: pd.DataFrame, labels: Sequence[str]) -> list[str]:
    """Return which values of the labels have fewer than two patients in a part of `rows`; two can be validated across.

    Measurements are not asked (`_CLASSES`).
    """
    wrong = []
    for name in (f"{LABEL}{label}" for label in labels):
        values = sorted(rows[name].dropna().unique(), key=str)
        if len(values) > _CLASSES:
            continue
        counts = part.groupby(name)["patient"].nunique().reindex(values, fill_value=0)
        short = [f"{count} of {name.removeprefix(LABEL)}={value}" for value, count in counts.items() if count < 2]
        if short:
            wrong.append(f"{part['patient'].nunique()} patients, {', '.join(short)}; expected 2 or more of each")
    return wrong


def learnt(rows: pd.DataFrame, subset: Mapping[str, Any] | None) -> pd.DataFrame:
    """Return the training rows that `subset` of conf/train.yaml leaves: of `share` of the patients, null for all."""
    if not subset or subset["share"] is None:
        return rows
    order = patient_order(rows, subset["seed"])
    chosen = set(order[: max(1, round(subset["share"] * len(order)))])
    return rows[rows["patient"].astype(str).isin(chosen)]
