"""How unlike the training images is an image? Two distances between embeddings, with limits from validation images.

Nearest neighbours (Sun et al. 2022, ICML): the cosine distance to the k-th nearest training image. Mahalanobis (Lee et
al. 2018, NeurIPS): the distance to the training cloud in units of its own spread. Only numpy: it can be shipped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvit.errors import EvaluationError

Array = NDArray[np.float64]
METHODS = ("knn", "mahalanobis")
_RIDGE = 1e-3  # of the mean variance: a direction that never varied in training is not infinitely far
_AT_ONCE = 512


@dataclass(frozen=True)
class Envelope:
    """What the training images look like to the network: unit vectors [n W], mean [W], whitening [W W], and limits.

    `limits` holds, per method, the score that `level` of the validation images stay below.
    """

    vectors: Array
    mean: Array
    whiten: Array
    k: int
    limits: dict[str, float]
    level: float

    def scores(self, embeddings: ArrayLike) -> dict[str, Array]:
        """Return both distances of embeddings [m W] as vectors [m]; higher is less like training.

        Raises:
            EvaluationError: another width, or values that are not finite.
        """
        rows = _checked(embeddings, self.mean.size)
        far = np.sqrt((((rows - self.mean) @ self.whiten) ** 2).sum(axis=1))
        return {"knn": _kth(_unit(rows), self.vectors, self.k), "mahalanobis": far}

    def outside(self, embeddings: ArrayLike, method: str = "knn") -> NDArray[np.bool_]:
        """Say which embeddings lie beyond the limit of the method."""
        return np.asarray(self.scores(embeddings)[method] > self.limits[method])


def fit(train: ArrayLike, validation: ArrayLike, k: int = 50, level: float = 0.99) -> Envelope:
    """Return the envelope of training embeddings [n W], its limits set on validation embeddings [m W].

    Raises:
        EvaluationError: fewer training images than `k` + 1, no validation image, values that are not finite.
    """
    rows = np.asarray(train, np.float64)
    if rows.ndim != 2 or len(rows) <= k or not 0 < level < 1:
        raise EvaluationError(f"{rows.shape} training embeddings, k={k}, level={level}: expected more images than k")
    known, held = _checked(rows, rows.shape[1]), _checked(validation, rows.shape[1])
    if not len(held):
        raise EvaluationError("no validation image: the limits of the distances need some")
    mean = known.mean(axis=0)
    spread = np.cov(known, rowvar=False).reshape(mean.size, mean.size)
    spread += np.eye(mean.size) * max(_RIDGE * np.trace(spread) / mean.size, 1e-12)
    values, axes = np.linalg.eigh(spread)
    draft = Envelope(_unit(known), mean, axes / np.sqrt(values), k, {}, level)
    limits = {name: float(np.quantile(score, level)) for name, score in draft.scores(held).items()}
    return Envelope(draft.vectors, mean, draft.whiten, k, limits, level)


def fpr_at_95(inside: ArrayLike, outside: ArrayLike) -> float:
    """Return the share of foreign images accepted by the limit that accepts 95 % of the proper ones."""
    limit = np.quantile(np.asarray(inside, np.float64), 0.95)
    return float(np.mean(np.asarray(outside, np.float64) <= limit))


def _kth(rows: Array, vectors: Array, k: int) -> Array:
    parts = [
        np.partition(rows[first : first + _AT_ONCE] @ vectors.T, -k, axis=1)[:, -k]
        for first in range(0, len(rows), _AT_ONCE)
    ]
    return 1.0 - np.concatenate(parts) if parts else np.zeros(0)


def _unit(rows: Array) -> Array:
    length: Array = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(length, 1e-12)


def _checked(embeddings: ArrayLike, width: int) -> Array:
    rows = np.asarray(embeddings, np.float64)
    if rows.ndim != 2 or rows.shape[1] != width or not np.isfinite(rows).all():
        raise EvaluationError(f"embeddings of shape {rows.shape}: expected [n {width}] of finite numbers")
    return rows
