"""Logistic regression along a path of L2 strengths: the head of a probe that is solved instead of trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.errors import DataError

Array = NDArray[np.float64]
STRENGTHS = tuple(float(c) for c in np.logspace(-5, 2, 15))  # sklearn's C: weak weights first


@dataclass(frozen=True)
class Logistic:
    """A fitted logistic regression: logits are vectors @ coef.T + intercept, standardisation folded in.

    `strength` is the chosen C per output and `loss` its cross-validated log loss.
    """

    coef: Array
    intercept: Array
    strength: tuple[float, ...]
    loss: tuple[float, ...]

    def logits(self, vectors: Array) -> Array:
        """Return logits [n K] of vectors [n F]."""
        out: Array = vectors @ self.coef.T + self.intercept
        return out


def fit_path(vectors: Array, truth: Array, patients: NDArray[Any], exclusive: bool = False, folds: int = 5) -> Logistic:
    """Fit logistic regression with the L2 strength of the lowest cross-validated log loss.

    Args:
        vectors: [n F] features, standardised inside each fold.
        truth: [n K] of 0, 1 or NaN (left out): one regression per column, or with `exclusive` one of K classes.
        patients: [n] groups that are never split between fitting and testing.
        exclusive: the columns are classes that exclude each other.
        folds: at most this many; fewer where a class has fewer patients.

    Raises:
        DataError: a column without two patients of each value.
    """
    if exclusive:
        known = np.isfinite(truth).all(axis=1)
        coef, intercept, c, loss = _path(vectors[known], truth[known].argmax(axis=1), patients[known], folds)
        if len(coef) == 1:  # of two classes scikit-learn gives the second's logit
            coef, intercept = np.concatenate([0 * coef, coef]), np.concatenate([0 * intercept, intercept])
        return Logistic(coef, intercept, (c,), (loss,))
    parts = []
    for column in truth.T:
        known = np.isfinite(column)
        parts.append(_path(vectors[known], column[known].astype(int), patients[known], folds))
    coefs, intercepts, strengths, losses = zip(*parts, strict=True)
    return Logistic(np.concatenate(coefs), np.concatenate(intercepts), strengths, losses)


def nested(vectors: Array, truth: Array, patients: NDArray[Any], exclusive: bool = False, folds: int = 5) -> Array:
    """Return out-of-fold logits [n K]; the strength is chosen anew inside each fit, so they judge the whole recipe."""
    out = np.full(truth.shape, np.nan)
    strata = np.nan_to_num(truth).argmax(axis=1) if exclusive else np.nan_to_num(truth).max(axis=1).astype(int)
    for fit, held in _folds(strata, patients, folds):
        out[held] = fit_path(vectors[fit], truth[fit], patients[fit], exclusive, folds).logits(vectors[held])
    return out


def _path(x: Array, y: NDArray[np.int64], patients: NDArray[Any], folds: int) -> tuple[Array, Array, float, float]:
    """Return coef, intercept, C and loss of one regression."""
    from sklearn.metrics import log_loss

    values, losses = np.unique(y), np.zeros(len(STRENGTHS))
    for fit, held in _folds(y, patients, folds):
        for k, (coef, intercept) in enumerate(_solutions(x[fit], y[fit], STRENGTHS)):
            said = _probabilities(x[held] @ coef.T + intercept)
            losses[k] += log_loss(y[held], said, labels=values) * len(held) / len(y)
    best = int(np.argmin(losses))
    coef, intercept = _solutions(x, y, STRENGTHS[: best + 1])[-1]
    return coef, intercept, STRENGTHS[best], float(losses[best])


def _solutions(x: Array, y: NDArray[np.int64], strengths: tuple[float, ...]) -> list[tuple[Array, Array]]:
    """Return coef and intercept along the path, each started from the last, for raw (not standardised) vectors.

    The penalty does not see a rotation, so with more features than rows the fit works in the span of the rows.
    """
    from sklearn.linear_model import LogisticRegression

    mean, std = x.mean(axis=0), x.std(axis=0)
    std = np.where(std > 1e-12, std, 1.0)
    z, turn = (x - mean) / std, None
    if z.shape[1] > z.shape[0]:
        u, size, turn = np.linalg.svd(z, full_matrices=False)
        z = u * size
    newton = z.shape[1] * len(np.unique(y)) <= 2000
    model = LogisticRegression(max_iter=1000, warm_start=True, solver="newton-cholesky" if newton else "lbfgs")
    found = []
    for strength in strengths:
        model.set_params(C=strength).fit(z, y)
        coef = (model.coef_ if turn is None else model.coef_ @ turn) / std
        found.append((coef, model.intercept_ - coef @ mean))
    return found


def _folds(y: NDArray[np.int64], patients: NDArray[Any], folds: int) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    from sklearn.model_selection import StratifiedGroupKFold

    values = np.unique(y)
    fewest = min((len(np.unique(patients[y == value])) for value in values), default=0)
    if fewest >= 2 and len(values) >= 2:
        splitter = StratifiedGroupKFold(min(folds, fewest), shuffle=True, random_state=0)
        parts = list(splitter.split(np.zeros(len(y)), y, patients))
        if all(len(np.unique(y[fit])) == len(values) for fit, _ in parts):
            return parts
    raise DataError(
        f"logistic regression: the rarest of {len(values)} values has {fewest} patients; cross-validation over "
        "patients needs two values with at least two patients each on every side. Use more data, or a trained head"
    )


def _probabilities(logits: Array) -> Array:
    if logits.shape[1] > 1:
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        multi: Array = e / e.sum(axis=1, keepdims=True)
        return multi
    p = 1 / (1 + np.exp(-np.clip(logits[:, 0], -500, 500)))
    return np.stack([1 - p, p], axis=1)
