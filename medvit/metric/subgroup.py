"""Performance by subgroup and gaps between subgroups, on the same patient draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvit.errors import EvaluationError
from medvit.metric.bootstrap import Draws, Interval, interval
from medvit.metric.ranking import Ranking, checked, ratio

Array = NDArray[np.float64]
Rows = NDArray[np.intp]


class Gap(NamedTuple):
    """The largest difference of a metric between two groups, with the groups that make it and the worst of all."""

    metric: str
    worst_group: str
    best_group: str
    worst: Interval
    gap: Interval


def group_gap(metric: str, values: Mapping[str, tuple[float, Array]], level: float = 0.95) -> Gap | None:
    """Return the gap between the best and the worst group; None with fewer than two groups.

    `values` holds each group's value and its draws [D]. The two groups are named by the data and then held fixed: an
    interval of "largest minus smallest in each draw" could never include 0.
    """
    known = {name: pair for name, pair in values.items() if np.isfinite(pair[0])}
    if len(known) < 2:
        return None
    ordered = sorted(known, key=lambda name: (known[name][0], name))
    worst, best = ordered[0], ordered[-1]
    (low, low_draws), (high, high_draws) = known[worst], known[best]
    gap = interval(high - low, high_draws - low_draws, level=level)
    return Gap(metric, worst, best, interval(low, low_draws, level=level), gap)


def group_auroc(target: ArrayLike, score: ArrayLike, draws: Draws, rows: Rows) -> tuple[float, Array]:
    """Return the AUROC of the images `rows` and its draws [D]."""
    y, p = _taken(target, score, rows)
    ranking = Ranking(y, p)
    return float(draws.point(ranking.auroc, rows)[0]), draws.apply(ranking.auroc, rows)[:, 0]


def group_sensitivity(
    target: ArrayLike, score: ArrayLike, threshold: float, draws: Draws, rows: Rows
) -> tuple[float, Array]:
    """Return the sensitivity of the images `rows` at a fixed threshold, and its draws [D]."""
    y, p = _taken(target, score, rows)
    hit = (y * (p >= threshold)).astype(np.float64)

    def sensitivity(weight: Array) -> Array:
        return ratio(weight @ hit, weight @ y)

    return float(draws.point(sensitivity, rows)[0]), draws.apply(sensitivity, rows)[:, 0]


def _taken(target: ArrayLike, score: ArrayLike, rows: Rows) -> tuple[Array, Array]:
    y, p = checked(target, score)
    if rows.size and rows.max() >= y.size:
        raise EvaluationError(f"image {int(rows.max())} is asked of {y.size}; expected positions below the number")
    return y[rows], p[rows]
