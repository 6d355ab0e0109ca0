"""Intervals by resampling patients: one matrix of counts, shared by every metric, so that differences are paired.

Images of one patient are alike: resampling images gives intervals that are too narrow. Here a draw takes patients with
replacement, and an image counts as often as its patient was drawn (Efron and Tibshirani 1993, chapter 8).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvit.errors import EvaluationError

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]  # weights [D n] -> values [D] or [D M]
Method = Literal["percentile", "bca"]
_CELLS = 4_000_000  # weights held at once, 32 MB: memory stays flat while n and draws grow
DEFINED = 0.975  # least share of draws with a value: an interval of fewer would describe only the lucky draws


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its interval. NaN bounds: no honest interval; `note` then says why. `draws` had a defined value.

    A bound may be infinite: of a ratio whose denominator is 0 in enough draws.
    """

    value: float
    low: float
    high: float
    draws: int = 0
    note: str = ""

    def __str__(self) -> str:
        """Return value and interval with three decimals, or why there is no number."""
        return f"{short(self.value)} {self.bounds}" if math.isfinite(self.value) else self.note or "n/a"

    @property
    def bounds(self) -> str:
        """The two ends in brackets, or why there are none."""
        if not math.isfinite(self.low):
            return f"(no interval: {self.note})"
        if self.low == self.high and self.value != 0:
            return "(no interval: every draw gives this value)"
        return f"({short(self.low)} to {short(self.high) if math.isfinite(self.high) else '∞'})"


def short(value: float) -> str:
    """Return a number as it is read in a report: three decimals, two digits where it is below 0.001."""
    size = abs(value)
    text = f"{value:.2g}" if 0 < size < 0.001 else f"{value:.3f}" if size < 10 else f"{value:.1f}"
    return text.replace("-", "−")


@dataclass(frozen=True)
class Draws:
    """Patient counts: `counts` [D P] says how often each patient was drawn, `code` [n] which patient an image is of."""

    counts: NDArray[np.uint16]
    code: NDArray[np.intp]

    @property
    def size(self) -> int:
        """Return the number of draws."""
        return int(self.counts.shape[0])

    def apply(self, statistic: Statistic, rows: NDArray[np.intp] | None = None) -> Array:
        """Return the statistic of every draw [D M], in slices of draws; `rows` are the images it is about."""
        code = self.code if rows is None else self.code[rows]
        step = max(1, _CELLS // max(1, code.size))
        parts = [
            _columns(statistic(self.counts[k : k + step][:, code].astype(np.float64)))
            for k in range(0, self.size, step)
        ]
        return np.concatenate(parts)

    def point(self, statistic: Statistic, rows: NDArray[np.intp] | None = None) -> Array:
        """Return the statistic of the sample as it is [M]."""
        values: Array = _columns(statistic(np.ones((1, self.code.size if rows is None else rows.size))))[0]
        return values

    def jackknife(self, statistic: Statistic, rows: NDArray[np.intp] | None = None) -> Array:
        """Return the statistic with one patient left out at a time [P' M], over the patients of `rows`."""
        code = self.code if rows is None else self.code[rows]
        patients, step = np.unique(code), max(1, _CELLS // max(1, code.size))
        parts = [
            _columns(statistic((code[None, :] != patients[k : k + step, None]).astype(np.float64)))
            for k in range(0, patients.size, step)
        ]
        return np.concatenate(parts)


def patient_draws(patient: Sequence[str] | ArrayLike, draws: int, seed: int) -> Draws:
    """Return `draws` resamplings of the patients behind the images [n]; the same for every order of the images.

    Raises:
        EvaluationError: fewer than two patients or no draws.
    """
    names, code = np.unique(np.asarray(patient).astype(str), return_inverse=True)
    if names.size < 2 or draws < 1:
        raise EvaluationError(f"{names.size} patients and {draws} draws; an interval needs at least 2 and 1")
    random = np.random.default_rng(seed)
    share = np.full(names.size, 1.0 / names.size)
    step = max(1, _CELLS // names.size)
    parts = [
        random.multinomial(names.size, share, size=min(step, draws - k)).astype(np.uint16)
        for k in range(0, draws, step)
    ]
    return Draws(np.concatenate(parts), code.reshape(-1))


def intervals(
    statistic: Statistic,
    draws: Draws,
    rows: NDArray[np.intp] | None = None,
    *,
    method: Method = "percentile",
    level: float = 0.95,
) -> list[Interval]:
    """Return one interval per value of `statistic`, by patient bootstrap.

    `method`: "percentile", or "bca" (bias-corrected and accelerated, the acceleration from leaving patients out).
    """
    point, sample = draws.point(statistic, rows), draws.apply(statistic, rows)
    left_out = draws.jackknife(statistic, rows) if method == "bca" else None
    return [
        interval(point[m], sample[:, m], None if left_out is None else left_out[:, m], level) for m in range(point.size)
    ]


def interval(point: float, sample: Array, left_out: Array | None = None, level: float = 0.95) -> Interval:
    """Return the percentile interval of one statistic's draws, or the BCa interval if `left_out` is given."""
    value, known = float(point), sample[~np.isnan(sample)]
    if not np.isfinite(value):
        return Interval(value, float("nan"), float("nan"), 0, "undefined")
    note = f"defined in only {known.size} of {sample.size} draws" if known.size < sample.size else ""
    if known.size < DEFINED * sample.size:
        return Interval(value, float("nan"), float("nan"), int(known.size), note)
    tail = (1.0 - level) / 2.0
    ends = [tail, 1.0 - tail] if left_out is None else _bca_ends(value, known, left_out, tail)
    whole = bool(np.isfinite(known).all())  # nothing lies between a number and infinity
    low, high = np.quantile(known, ends, method="linear" if whole else "inverted_cdf")
    if low == high:
        note = "every draw gives the same value"
    elif np.isinf(high):
        note = f"infinite in {int(np.isinf(known).sum())} of {sample.size} draws"
    return Interval(value, float(low), float(high), int(known.size), note)


def _bca_ends(value: float, known: Array, left_out: Array, tail: float) -> list[float]:
    """Return the two quantiles BCa reads off (Efron 1987), ties counted half; the plain tails where it is undefined."""
    normal = NormalDist()
    share = (np.sum(known < value) + 0.5 * np.sum(known == value)) / known.size
    apart = left_out[np.isfinite(left_out)].mean() - left_out[np.isfinite(left_out)] if left_out.size else np.zeros(1)
    spread = float(np.sum(apart**2) ** 1.5)
    if not 0.0 < share < 1.0 or spread == 0.0:
        return [tail, 1.0 - tail]
    bias, acceleration = normal.inv_cdf(float(share)), float(np.sum(apart**3)) / (6.0 * spread)
    ends = []
    for end in (tail, 1.0 - tail):
        shifted = bias + normal.inv_cdf(end)
        ends.append(normal.cdf(bias + shifted / (1.0 - acceleration * shifted)))
    return ends


def p_value(sample: ArrayLike) -> float:
    """Return the two-sided bootstrap p value of "no difference" from the draws of a difference; 1 if all are 0.

    Twice the smaller share of draws on either side of 0, zeros counted on both sides, one added to each count.
    """
    known = np.asarray(sample, np.float64)
    known = known[np.isfinite(known)]
    if known.size == 0:
        return float("nan")
    smaller = min(int(np.sum(known <= 0)), int(np.sum(known >= 0)))
    return min(1.0, 2.0 * (smaller + 1) / (known.size + 1))


def wilson(hits: float, total: float, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion (JASA 1927), for proportions of exactly 0 or 1."""
    if total <= 0:
        return float("nan"), float("nan")
    z = NormalDist().inv_cdf(0.5 + level / 2.0)
    share, slack = hits / total, z * z / total
    centre = (share + slack / 2.0) / (1.0 + slack)
    half = z * np.sqrt(share * (1.0 - share) / total + slack / (4.0 * total)) / (1.0 + slack)
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def _columns(values: Array) -> Array:
    return values[:, None] if values.ndim == 1 else values
