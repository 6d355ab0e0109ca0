"""Agreement of grades (quadratic-weighted kappa) and of measurements (mean absolute error)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvit.errors import EvaluationError
from medvit.metric.ranking import ratio, weight_rows

Array = NDArray[np.float64]


def quadratic_kappa(one: ArrayLike, other: ArrayLike, grades: int, weight: ArrayLike | None = None) -> Array:
    """Return Cohen's kappa with quadratic weights per draw [D]: 1 is agreement, 0 is chance (Cohen 1968).

    `one` and `other` [n] are grades 0 to `grades` - 1; NaN where both always say the same single grade.

    Raises:
        EvaluationError: grades that are not whole numbers in range, or lengths that differ.
    """
    a, b = (np.asarray(side, np.float64) for side in (one, other))
    if a.shape != b.shape or a.ndim != 1:
        raise EvaluationError(f"grades have shapes {a.shape} and {b.shape}; expected two vectors of one length")
    both = np.r_[a, b]
    if bad := int(np.sum(~(np.isfinite(both) & (both >= 0) & (both < grades) & (both == np.floor(both))))):
        raise EvaluationError(f"{bad} of {both.size} grades are not whole numbers from 0 to {grades - 1}")
    w = weight_rows(weight, a.size)
    cell = (a * grades + b).astype(np.intp)
    inside = np.zeros((a.size, grades * grades))
    inside[np.arange(a.size), cell] = 1.0
    table = (w @ inside).reshape(-1, grades, grades)
    apart = (np.arange(grades)[:, None] - np.arange(grades)) ** 2.0
    seen = (table * apart).sum(axis=(1, 2)) * table.sum(axis=(1, 2))
    chance = np.einsum("di,ij,dj->d", table.sum(axis=2), apart, table.sum(axis=1))
    return 1.0 - ratio(seen, chance)


def mean_absolute_error(truth: ArrayLike, value: ArrayLike, weight: ArrayLike | None = None) -> Array:
    """Return the mean absolute error per draw [D], in the unit of the values.

    Raises:
        EvaluationError: values that are not finite, or lengths that differ.
    """
    a, b = (np.asarray(side, np.float64) for side in (truth, value))
    if a.shape != b.shape or a.ndim != 1:
        raise EvaluationError(f"values have shapes {a.shape} and {b.shape}; expected two vectors of one length")
    if bad := int(np.sum(~(np.isfinite(a) & np.isfinite(b)))):
        raise EvaluationError(f"{bad} of {a.size} pairs are NaN or infinite")
    w = weight_rows(weight, a.size)
    return ratio(w @ np.abs(a - b), w.sum(axis=1))
