"""From images to series, studies or patients, by a rule that is stated in the report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvit.errors import EvaluationError
from medvit.prediction.spec import EvaluationSpec

Array = NDArray[np.float64]
APART = "|"  # between the identifiers of a unit's images
_IDENTITY = ("study", "series", "pixel_sha256")
_POOL: dict[str, Callable[[Array], Array]] = {
    "mean": lambda logits: np.asarray(logits.mean(axis=0)),
    "max": lambda logits: np.asarray(logits.max(axis=0)),
    "first": lambda logits: logits[0],
}


def aggregate(
    table: pd.DataFrame, base: Array, target: Array, spec: EvaluationSpec
) -> tuple[pd.DataFrame, Array, Array, int]:
    """Return one row per unit, its pooled logits and labels [n K], and how many units hold images of unequal labels.

    `table` is sorted by uid. A finding is present in a unit if it is on any of its images; a label known on no image
    stays missing. A fact that differs within a unit becomes "mixed" (NaN for numbers); identifiers are all kept, parted
    by `APART`.

    Raises:
        EvaluationError: a unit of several patients, or exclusive classes or measurements that differ within a unit.
    """
    unit = spec.aggregate.unit
    names, code = np.unique(table[unit].astype(str).to_numpy(), return_inverse=True)
    order = np.argsort(code, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(code[order])) + 1)
    patients = table["patient"].to_numpy()
    if crossing := sum(len(set(patients[rows])) > 1 for rows in groups):
        raise EvaluationError(
            f"{crossing} of {len(groups)} {unit} units belong to several patients; check the manifest"
        )
    pairs = [_extremes(target[rows]) for rows in groups]
    mixed = sum(bool(np.any(low < high)) for low, high in pairs)
    if mixed and spec.kind in ("multiclass", "regression"):
        raise EvaluationError(
            f"{mixed} of {len(groups)} {unit} units hold images with different labels; use aggregate.unit=image"
        )
    facts = {
        str(name): [(_all if name in _IDENTITY else _one)(table[name].to_numpy()[rows]) for rows in groups]
        for name in table.columns
        if not table[name].map(lambda value: isinstance(value, (list, np.ndarray))).any()
    }
    logits = np.stack([_POOL[spec.aggregate.rule](base[rows]) for rows in groups])
    return pd.DataFrame({**facts, "uid": names}), logits, np.stack([high for _, high in pairs]), mixed


def _extremes(labels: Array) -> tuple[Array, Array]:
    """Return the smallest and largest known label of each output; NaN where none is known."""
    known = ~np.isnan(labels)
    some = known.any(axis=0)
    low, high = np.where(known, labels, np.inf).min(axis=0), np.where(known, labels, -np.inf).max(axis=0)
    return np.where(some, low, np.nan), np.where(some, high, np.nan)


def _one(values: NDArray[Any]) -> Any:
    known = pd.unique(pd.Series(values).dropna())
    if len(known) == 1:
        return known[0]
    numeric = values.dtype.kind in "fiu"
    return None if len(known) == 0 and not numeric else float("nan") if numeric else "mixed"


def _all(values: NDArray[Any]) -> str | None:
    known = pd.unique(pd.Series(values).dropna().astype(str))
    return APART.join(known) if len(known) else None
