"""Distribution shift between two sets of patients: distances and permutation tests.

Every statistic takes weights [D n] (how often each unit counts in each draw), so that draws of patients, and patients
dealt anew to the two sets, go through the same code.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvit.metric.bootstrap import Draws
from medvit.metric.ranking import ratio

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
_LEAST = 1e-3  # share that an empty bin counts as: an index of stability has no logarithm of 0


def mean_and_variance(values: Array) -> Statistic:
    """Return the statistic (mean, variance) [D 2] of numbers [n]."""

    def of(weight: Array) -> Array:
        mean = ratio(weight @ values, weight.sum(axis=1))
        square = ratio(weight @ values**2, weight.sum(axis=1))
        return np.stack([mean, np.maximum(square - mean**2, 0.0)], axis=1)

    return of


def proportions(bins: NDArray[np.intp], count: int) -> Statistic:
    """Return the statistic of the shares [D count] of bins, each unit's given by `bins` [n] from 0 on."""
    member = np.eye(count)[bins]
    return lambda weight: ratio(weight @ member, weight.sum(axis=1, keepdims=True))


def standardised_difference(one: Array, other: Array) -> Array:
    """Return (mean of other - mean of one) over the root of their mean variance [D], from moments [D 2].

    NaN where neither set varies. Cohen 1988; of shares p the variance is p (1 - p) (Austin 2009, Stat Med).
    """
    return ratio(other[:, 0] - one[:, 0], np.sqrt((one[:, 1] + other[:, 1]) / 2))


def stability_index(one: Array, other: Array) -> Array:
    """Return the population stability index [D] of two sets of shares [D bins]; an empty bin counts as 0.001."""
    p, q = np.maximum(one, _LEAST), np.maximum(other, _LEAST)
    return np.asarray(((q - p) * np.log(q / p)).sum(axis=1))


def kolmogorov_smirnov(values: Array) -> Statistic:
    """Return the largest difference [D] of the two distribution functions of numbers [n]; weights: the set, 0 or 1."""
    order = np.argsort(values, kind="stable")
    last = np.r_[np.flatnonzero(np.diff(values[order])), values.size - 1]

    def of(side: Array) -> Array:
        here = side[:, order]
        steps = [np.cumsum(part, axis=1)[:, last] / part.sum(axis=1, keepdims=True) for part in (here, 1.0 - here)]
        return np.asarray(np.abs(steps[0] - steps[1]).max(axis=1))

    return of


def total_variation(bins: NDArray[np.intp], count: int) -> Statistic:
    """Return half the sum of differences of shares [D] between the sets; weights are the set, 0 or 1."""
    of = proportions(bins, count)
    return lambda side: np.asarray(np.abs(of(side) - of(1.0 - side)).sum(axis=1) / 2)


def permutation_test(
    statistic: Statistic, patient: ArrayLike, second: NDArray[np.bool_], draws: int, seed: int
) -> float:
    """Return the p value of a distance between two sets [n] when patients are dealt to them at random, whole.

    Raises nothing: with one patient in a set the least p value is still right, and large.
    """
    _, code = np.unique(np.asarray(patient).astype(str), return_inverse=True)
    side = np.zeros(code.max() + 1)
    side[code] = second
    random = np.random.default_rng(seed)
    dealt = np.stack([side, *(random.permutation(side) for _ in range(draws))]).astype(np.uint16)
    found = Draws(dealt, code.reshape(-1)).apply(statistic)[:, 0]
    return float((1 + np.sum(found[1:] >= found[0] - 1e-12)) / (1 + draws))
