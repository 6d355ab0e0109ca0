"""Calibration: slope, intercept, Brier, ECE, reliability, and scaling fitted on validation.

Everything is about the probability of the finding (the positive class), one finding at a time. Van Calster et al.,
BMC Medicine 2019 (slope, intercept); Naeini et al., AAAI 2015 (ECE); Guo et al., ICML 2017 (temperature).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvit.errors import EvaluationError
from medvit.metric.ranking import checked, ratio, weight_rows

Array = NDArray[np.float64]
Bins = Literal["width", "mass"]
_STEPS, _FLAT, _STEEPEST = 60, 1e-11, 50.0


@dataclass(frozen=True, slots=True)
class Calibrator:
    """probability = sigmoid(slope * logit + intercept). Temperature T is slope 1 / T and intercept 0."""

    kind: Literal["none", "temperature", "platt"] = "none"
    slope: float = 1.0
    intercept: float = 0.0
    images: int = 0
    note: str = ""

    @property
    def temperature(self) -> float:
        """Return 1 / slope; above 1 the model was too sure of itself."""
        return 1.0 / self.slope

    def __call__(self, logit: ArrayLike) -> Array:
        """Return calibrated probabilities of logits of any shape."""
        return sigmoid(self.slope * np.asarray(logit, np.float64) + self.intercept)

    def to_json(self) -> dict[str, Any]:
        """Return the numbers a bundle keeps."""
        return asdict(self)


def sigmoid(logit: ArrayLike) -> Array:
    """Return 1 / (1 + exp(-logit)) without overflow."""
    x = np.asarray(logit, np.float64)
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def logit(probability: ArrayLike) -> Array:
    """Return log(p / (1 - p)), probabilities kept 1e-15 away from 0 and 1."""
    p = np.clip(np.asarray(probability, np.float64), 1e-15, 1.0 - 1e-15)
    return np.log(p) - np.log1p(-p)


def fit(target: ArrayLike, logits: ArrayLike, kind: Literal["none", "temperature", "platt"]) -> Calibrator:
    """Return the scaling that makes the logits [n] most likely; fit it on validation, never on test.

    Where the likelihood has no sensible maximum (all images of one outcome, perfect separation, a model that ranks
    worse than chance) the logits stay as they are and `note` says so.
    """
    y, x = checked(target, logits)
    if kind == "none":
        return Calibrator(images=y.size)
    if not 0 < y.sum() < y.size:
        return Calibrator(kind, images=y.size, note="not fitted: one outcome is missing")
    column = {"temperature": _regress(y, x, None, free=("slope",)), "platt": _regress(y, x, None)}[kind]
    intercept, slope = (float(v) for v in column[0])
    if not (np.isfinite(slope) and 1.0 / _STEEPEST <= slope <= _STEEPEST):
        reason = "the outcomes are separated or ranked worse than by chance"
        return Calibrator(kind, images=y.size, note=f"not fitted: {reason}")
    return Calibrator(kind, slope, intercept, y.size)


def fit_softmax(onehot: ArrayLike, logits: ArrayLike) -> Calibrator:
    """Return the one temperature of exclusive classes, [n K] one-hot targets and logits; noted where there is none."""
    y, z = np.asarray(onehot, np.float64), np.asarray(logits, np.float64)
    if y.shape != z.shape or y.ndim != 2 or not np.isfinite(z).all() or not (y.sum(axis=1) == 1).all():
        raise EvaluationError(f"one-hot targets {y.shape} and logits {z.shape}; expected one finite [n K] each")
    slope = 1.0
    for _ in range(_STEPS):
        scaled = slope * z
        p = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        mean = (p * z).sum(axis=1)
        bend = float(((p * z * z).sum(axis=1) - mean**2).sum())
        step = float(((y * z).sum(axis=1) - mean).sum()) / bend if bend > 0 else np.inf
        slope += float(np.clip(step, -0.5 * slope, slope))  # never through 0
        if abs(step) < _FLAT * max(1.0, slope) and 1.0 / _STEEPEST <= slope <= _STEEPEST:
            return Calibrator("temperature", slope, 0.0, len(y))
    return Calibrator("temperature", images=len(y), note="not fitted: the classes are separated or ranked by chance")


def recalibration(target: ArrayLike, logits: ArrayLike, weight: ArrayLike | None = None) -> Array:
    """Return calibration-in-the-large and calibration slope per draw [D 2]; ideal 0 and 1, NaN where undefined.

    The slope is b of logit P(y = 1) = a + b * logit; the intercept is a of the same with b fixed at 1, which is above 0
    where the model says too little.
    """
    y, x = checked(target, logits)
    large = _regress(y, x, weight, free=("intercept",))[:, 0]
    return np.stack([large, _regress(y, x, weight)[:, 1]], axis=1)


def brier(target: ArrayLike, probability: ArrayLike, weight: ArrayLike | None = None) -> Array:
    """Return Brier score and scaled Brier score per draw [D 2].

    Brier is the mean squared difference of probability and outcome (0 is best); scaled is 1 - Brier / (q (1 - q)) with
    prevalence q, so 1 is best and 0 is what always saying the prevalence gives.
    """
    y, p = checked(target, probability)
    w = weight_rows(weight, y.size)
    total = w.sum(axis=1)
    score, share = ratio(w @ (y - p) ** 2, total), ratio(w @ y, total)
    return np.stack([score, 1.0 - ratio(score, share * (1.0 - share))], axis=1)


def ece(
    target: ArrayLike, probability: ArrayLike, weight: ArrayLike | None = None, *, bins: int = 15, kind: Bins = "width"
) -> Array:
    """Return the expected calibration error per draw [D]: mean over images of |observed share - mean probability|.

    Shares and means are per bin: `bins` of equal width on [0, 1], or of equal mass (edges at quantiles of these
    probabilities, equal values in one bin). Bins stay those of the whole sample while draws vary.

    Raises:
        EvaluationError: a probability outside [0, 1], or what `checked` says.
    """
    y, p = checked(target, probability)
    w = weight_rows(weight, y.size)
    inside = _membership(p, bins, kind)
    return ratio(np.abs((w * (y - p)) @ inside).sum(axis=1), w.sum(axis=1))


def reliability(
    target: ArrayLike, probability: ArrayLike, weight: ArrayLike | None = None, *, bins: int = 10, kind: Bins = "mass"
) -> tuple[Array, Array, Array]:
    """Return per draw and bin: mean probability, observed share and weight, each [D bins]; NaN in empty bins."""
    y, p = checked(target, probability)
    w = weight_rows(weight, y.size)
    inside = _membership(p, bins, kind)
    mass = w @ inside
    return ratio((w * p) @ inside, mass), ratio((w * y) @ inside, mass), mass


def _membership(p: Array, bins: int, kind: Bins) -> Array:
    """Return one 1 per image in the column of its bin [n bins]."""
    if bins < 1:
        raise EvaluationError(f"{bins} bins; expected 1 or more")
    if p.size and not (p.min() >= 0.0 and p.max() <= 1.0):
        raise EvaluationError(f"probabilities run from {p.min():.4g} to {p.max():.4g}; expected 0 to 1")
    inside = np.zeros((p.size, bins))
    if p.size:
        edges = np.linspace(0.0, 1.0, bins + 1)
        if kind == "mass":
            edges = np.quantile(p, edges)
        # A value on an inner edge belongs to the bin above, as in numpy.histogram.
        inside[np.arange(p.size), np.searchsorted(edges[1:-1], p, side="right")] = 1.0
    return inside


def _regress(y: Array, x: Array, weight: ArrayLike | None, free: tuple[str, ...] = ("intercept", "slope")) -> Array:
    """Return intercept and slope of the logistic regression of y on x per draw [D 2], by Newton's method.

    What is not `free` stays at intercept 0 and slope 1. Draws that do not converge (separation) are NaN.
    """
    w = weight_rows(weight, y.size)
    beta = np.tile([0.0, 0.0 if "slope" in free else 1.0], (w.shape[0], 1))
    if w.shape[0] > 1:  # draws lie near the whole sample: starting there halves the steps
        whole = _regress(y, x, None, free)[0]
        beta = np.where(np.isfinite(whole).all(), np.tile(whole, (w.shape[0], 1)), beta)
    moving = np.ones(w.shape[0], bool)
    for _ in range(_STEPS):
        step = np.zeros_like(beta)
        step[moving] = _newton(y, x, w[moving], beta[moving], free)
        beta += np.clip(step, -4.0, 4.0)
        moving &= ~(np.abs(step).max(axis=1) < _FLAT * np.maximum(1.0, np.abs(beta).max(axis=1)))
        moving &= np.isfinite(beta).all(axis=1)
        if not moving.any():
            break
    beta[moving] = np.nan
    return beta


def _newton(y: Array, x: Array, w: Array, beta: Array, free: tuple[str, ...]) -> Array:
    """Return Newton's step [D 2] of the weighted log likelihood; NaN where its curvature vanishes."""
    p = sigmoid(beta[:, :1] + beta[:, 1:] * x)
    residual, bend = w * (y - p), w * p * (1.0 - p)
    first, second = residual.sum(axis=1), residual @ x
    aa, ab, bb = bend.sum(axis=1), bend @ x, bend @ (x * x)
    nothing = np.zeros_like(first)
    if free == ("intercept",):
        return np.stack([ratio(first, aa), nothing], axis=1)
    if free == ("slope",):
        return np.stack([nothing, ratio(second, bb)], axis=1)
    size = aa * bb - ab * ab
    size = np.where(size > 1e-14 * aa * bb, size, 0.0)
    return np.stack([ratio(bb * first - ab * second, size), ratio(aa * second - ab * first, size)], axis=1)
