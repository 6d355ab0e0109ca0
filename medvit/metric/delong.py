"""DeLong's variance, covariance and tests of AUROC, also for several images per patient.

DeLong et al., Biometrics 1988; the sums by patient are Obuchowski, Biometrics 1997, which is DeLong's where every
patient has one image.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvit.errors import EvaluationError
from medvit.metric.ranking import Ranking, checked

Array = NDArray[np.float64]


class DeLong(NamedTuple):
    """AUROC of M models on the same images [M] and its covariance [M M]; NaN where fewer than two of an outcome."""

    auroc: Array
    covariance: Array


class Comparison(NamedTuple):
    """A difference of two AUROCs, its standard error, the statistic and the two-sided p value."""

    difference: float
    error: float
    statistic: float
    p: float


def delong(target: ArrayLike, scores: ArrayLike, patient: ArrayLike | None = None) -> DeLong:
    """Return AUROC and covariance of one or more models; `scores` [n] or [M n], `patient` [n] clusters the images.

    Raises:
        EvaluationError: targets not 0 or 1, scores not finite, or lengths that differ.
    """
    many = np.atleast_2d(np.asarray(scores, np.float64))
    y = checked(target, many[0])[0]
    code = np.arange(y.size) if patient is None else np.unique(np.asarray(patient).astype(str), return_inverse=True)[1]
    if code.size != y.size:
        raise EvaluationError(f"{code.size} patients for {y.size} images; expected one per image")
    positive, negative = y == 1, y == 0
    m, n = int(positive.sum()), int(negative.sum())
    if min(m, n) == 0:
        return DeLong(np.full(len(many), np.nan), np.full((len(many), len(many)), np.nan))
    components = np.stack([_components(y, score) for score in many])  # [M n], each image against the other outcome
    auroc = components[:, positive].mean(axis=1)
    apart = components - auroc[:, None]
    first, second = (_by_patient(apart * side, code) for side in (positive, negative))
    patients = [np.unique(code[side]).size for side in (positive, negative)] + [np.unique(code).size]
    scale = [k / (k - 1.0) if k > 1 else math.nan for k in patients]
    cross = first @ second.T
    covariance = scale[0] * (first @ first.T) / m**2 + scale[1] * (second @ second.T) / n**2
    covariance = covariance + scale[2] * (cross + cross.T) / (m * n)
    return DeLong(auroc, covariance)


def delong_interval(auroc: float, variance: float, level: float = 0.95) -> tuple[float, float]:
    """Return the normal interval of an AUROC, cut to [0, 1]."""
    half = NormalDist().inv_cdf(0.5 + level / 2.0) * math.sqrt(max(0.0, variance))  # rounding may leave -1e-19
    return max(0.0, auroc - half), min(1.0, auroc + half)


def paired_test(target: ArrayLike, one: ArrayLike, other: ArrayLike, patient: ArrayLike | None = None) -> Comparison:
    """Return DeLong's test of two models on the same images; equal models give difference 0 and p = 1."""
    auroc, covariance = delong(target, np.stack([np.asarray(one, np.float64), np.asarray(other, np.float64)]), patient)
    difference = float(auroc[0] - auroc[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2.0 * covariance[0, 1])
    rounding = 1e-12 * float(covariance[0, 0] + covariance[1, 1])  # what is left of equal numbers after subtraction
    if not math.isfinite(variance):
        return Comparison(difference, math.nan, math.nan, math.nan)
    if variance <= rounding:
        return Comparison(difference, 0.0, 0.0, 1.0) if difference == 0 else Comparison(difference, 0.0, math.inf, 0.0)
    error = math.sqrt(variance)
    return Comparison(difference, error, difference / error, two_sided(difference / error))


def unpaired_test(first: DeLong, second: DeLong, sizes: tuple[int, int]) -> Comparison:
    """Return the test of two AUROCs from different patients, Welch's t with Satterthwaite's degrees of freedom.

    `sizes` are the numbers of images (or patients) behind `first` and `second`, each about one model.
    """
    from scipy.special import stdtr

    difference = float(first.auroc[0] - second.auroc[0])
    v, w = float(first.covariance[0, 0]), float(second.covariance[0, 0])
    if not math.isfinite(v + w) or v + w == 0:
        return Comparison(difference, math.nan, math.nan, math.nan)
    error = math.sqrt(v + w)
    freedom = (v + w) ** 2 / (v * v / (sizes[0] - 1) + w * w / (sizes[1] - 1))
    return Comparison(difference, error, difference / error, float(2.0 * stdtr(freedom, -abs(difference / error))))


def two_sided(z: float) -> float:
    """Return the two-sided p value of a standard normal statistic."""
    return math.erfc(abs(z) / math.sqrt(2.0))


def _components(y: Array, score: Array) -> Array:
    """Return for each image the share of images of the other outcome it is ranked rightly against [n]."""
    ranking = Ranking(y, score)
    positive, negative = (side[0] for side in ranking.groups())
    group = np.repeat(np.arange(ranking.start.size), np.diff(np.r_[ranking.start, y.size]))
    below = (np.cumsum(negative) - 0.5 * negative) / negative.sum()
    above = (positive.sum() - np.cumsum(positive) + 0.5 * positive) / positive.sum()
    result = np.empty(y.size)
    result[ranking.order] = np.where(ranking.target == 1, below[group], above[group])
    return result


def _by_patient(values: Array, code: NDArray[np.intp]) -> Array:
    """Return sums over the images of each patient [M P]."""
    return np.stack([np.bincount(code, weights=row) for row in values])
