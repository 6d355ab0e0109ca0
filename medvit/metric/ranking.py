"""AUROC, AUPRC and their curves by weighted rank sums in fp64, over many bootstrap draws at once.

A draw is a row of counts: how often each image was drawn. Sums of counts are exact in fp64, so the values do not depend
on the order of the rows and agree with the pairwise definition to the last digits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvit.errors import EvaluationError

Array = NDArray[np.float64]


def checked(target: ArrayLike, score: ArrayLike) -> tuple[Array, Array]:
    """Return target (0 or 1) and score as fp64 vectors [n], or say what is wrong with them.

    Raises:
        EvaluationError: lengths differ, a target is neither 0 nor 1, or a score is not finite.
    """
    y, p = np.asarray(target, np.float64), np.asarray(score, np.float64)
    problems = []
    if y.ndim != 1 or y.shape != p.shape:
        problems.append(f"targets have shape {y.shape} and scores {p.shape}; expected two vectors of one length")
    if (bad := int(np.sum((y != 0) & (y != 1)))) > 0:
        problems.append(f"{bad} of {y.size} targets are neither 0 nor 1; leave missing labels out first")
    if (bad := int(np.sum(~np.isfinite(p)))) > 0:
        problems.append(f"{bad} of {p.size} scores are NaN or infinite; such a model output cannot be ranked")
    if problems:
        raise EvaluationError("; ".join(problems))
    return y, p


class Ranking:
    """One finding's targets and scores, sorted once, so that thousands of weightings cost one pass each."""

    def __init__(self, target: ArrayLike, score: ArrayLike) -> None:
        y, p = checked(target, score)
        self.order = np.argsort(p, kind="stable")
        ranked = p[self.order]
        self.start = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]]) if p.size else np.zeros(0, np.intp)
        self.score = ranked[self.start]
        self.target = y[self.order]

    def groups(self, weight: ArrayLike | None = None) -> tuple[Array, Array]:
        """Return the weights of positives and negatives at each distinct score, ascending, each [D G].

        `weight` is [n] or [D n], not negative; without it every image counts once (D = 1).
        """
        w = weight_rows(weight, self.target.size)
        if self.target.size == 0:
            return np.zeros((w.shape[0], 0)), np.zeros((w.shape[0], 0))
        w = w[:, self.order]
        total = np.add.reduceat(w, self.start, axis=1)
        positive = np.add.reduceat(w * self.target, self.start, axis=1)
        return positive, total - positive

    def auroc(self, weight: ArrayLike | None = None) -> Array:
        """Return the area under the ROC curve per draw [D]: P(positive higher) + P(tie) / 2; NaN if undefined."""
        positive, negative = self.groups(weight)
        below = np.cumsum(negative, axis=1) - 0.5 * negative
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        return ratio((positive * below).sum(axis=1), pairs)

    def auprc(self, weight: ArrayLike | None = None) -> Array:
        """Return the average precision per draw [D]: sum of recall steps times precision, no interpolation."""
        positive, negative = self.groups(weight)
        hit = np.cumsum(positive[:, ::-1], axis=1)
        precision = ratio(hit, hit + np.cumsum(negative[:, ::-1], axis=1), empty=0.0)
        # Without negatives the precision is 1 whatever the model does: not a measurement.
        defined = np.where(negative.sum(axis=1) > 0, positive.sum(axis=1), 0.0)
        return ratio((positive[:, ::-1] * precision).sum(axis=1), defined)


def weight_rows(weight: ArrayLike | None, size: int) -> Array:
    """Return weights as one row per draw [D n]; ones [1 n] without any."""
    return np.ones((1, size)) if weight is None else np.atleast_2d(np.asarray(weight, np.float64))


def ratio(above: Any, below: Any, empty: float = np.nan) -> Array:
    """Return above / below, and `empty` wherever below is 0."""
    above, below = np.broadcast_arrays(np.asarray(above, np.float64), np.asarray(below, np.float64))
    result: Array = np.divide(above, below, out=np.full(above.shape, empty), where=below != 0)
    return result


def auroc(target: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Return the area under the ROC curve in [0, 1] (Mann-Whitney, ties count one half); NaN without both outcomes.

    `target` [n] is 0 or 1, `score` [n] any finite number, `weight` [n] is 0 for images to leave out.

    Raises:
        EvaluationError: as `checked` says, on the images that are not left out.
    """
    y, p, w = _kept(target, score, weight)
    return float(Ranking(y, p).auroc(w)[0])


def auprc(target: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Return the average precision in [0, 1]; chance is the prevalence; NaN without both outcomes. As `auroc`."""
    y, p, w = _kept(target, score, weight)
    return float(Ranking(y, p).auprc(w)[0])


def macro(values: ArrayLike) -> tuple[float, int, int]:
    """Return the mean over the findings that have a value, how many those are, and how many findings there are."""
    v = np.asarray(values, np.float64)
    known = np.isfinite(v)
    return (float(v[known].mean()) if known.any() else float("nan")), int(known.sum()), int(v.size)


def roc_curve(target: ArrayLike, score: ArrayLike) -> tuple[Array, Array, Array]:
    """Return thresholds (descending, +inf first), false positive rate and true positive rate, each [G + 1].

    An image is positive at a threshold if its score is at least the threshold.
    """
    ranking = Ranking(target, score)
    positive, negative = ranking.groups()
    hit, false = (np.r_[0.0, np.cumsum(side[0, ::-1])] for side in (positive, negative))
    return np.r_[np.inf, ranking.score[::-1]], ratio(false, false[-1]), ratio(hit, hit[-1])


def pr_curve(target: ArrayLike, score: ArrayLike) -> tuple[Array, Array, Array]:
    """Return thresholds (descending), recall and precision at each distinct score, each [G]."""
    ranking = Ranking(target, score)
    positive, negative = ranking.groups()
    hit, false = np.cumsum(positive[0, ::-1]), np.cumsum(negative[0, ::-1])
    return ranking.score[::-1], ratio(hit, hit[-1] if hit.size else 0.0), ratio(hit, hit + false)


def _kept(target: ArrayLike, score: ArrayLike, weight: ArrayLike | None) -> tuple[Array, Array, Array | None]:
    y, p = np.asarray(target, np.float64), np.asarray(score, np.float64)
    if weight is None:
        return y, p, None
    w = np.asarray(weight, np.float64)
    if w.shape != y.shape or p.shape != y.shape:
        raise EvaluationError(f"targets, scores and weights have shapes {y.shape}, {p.shape}, {w.shape}; expected one")
    if not (np.isfinite(w) & (w >= 0)).all():
        raise EvaluationError("a weight is negative or not finite; expected 0 (left out) or more")
    keep = w > 0
    return y[keep], p[keep], w[keep]
