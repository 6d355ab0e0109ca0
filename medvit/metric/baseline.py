"""Shortcut baselines: what pixels or metadata give without any deep model, on the same split.

A model that does not beat these has learnt nothing worth its weight. All of them return scores, higher for the finding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvit.errors import EvaluationError

Array = NDArray[np.float64]
SIDE = 48
_BLOCK = 256


def downsample(images: ArrayLike, side: int = SIDE) -> Array:
    """Return images [n H W], each side at least `side`, averaged to `side` x `side`, fp64 [n side*side].

    Every pixel counts by the part of it that lies in the target pixel.
    """
    pixels = np.asarray(images, np.float64)
    if pixels.ndim != 3 or min(pixels.shape[1:]) < side:
        raise EvaluationError(f"images have shape {pixels.shape}; expected [n H W] with sides of {side} or more")
    rows, columns = (_area(length, side) for length in pixels.shape[1:])
    small: Array = np.einsum("ai,nij,bj->nab", rows, pixels, columns, optimize=True)
    return small.reshape(len(pixels), side * side)


def ridge(train: Array, target: ArrayLike, test: Array, strengths: Sequence[float] = (1.0, 10.0, 100.0, 1e3)) -> Array:
    """Return scores of `test` [m F] by ridge regression of the 0/1 `target` on standardised `train` [n F].

    The strength (times n / 1000) with the least leave-one-out error is taken, exactly, from one eigendecomposition
    (Hastie, Tibshirani and Friedman 2009, section 7.10).
    """
    y = _target(train, target)
    mean, spread = train.mean(axis=0), train.std(axis=0)
    spread = np.where(spread > 1e-12, spread, 1.0)
    x, new = (train - mean) / spread, (test - mean) / spread
    offset = float(y.mean())
    fits = _wide_fits(x, y - offset, strengths) if len(x) <= x.shape[1] else _long_fits(x, y - offset, strengths)
    _, slopes = min(fits, key=lambda fitted: fitted[0])
    scores: Array = new @ slopes + offset
    return scores


def nearest_neighbour(train: Array, target: ArrayLike, test: Array) -> Array:
    """Return the label of the nearest training image [m], ties between equally near ones averaged (Euclidean)."""
    y = _target(train, target)
    square = (train**2).sum(axis=1)
    scores = np.empty(len(test))
    for k in range(0, len(test), _BLOCK):
        block = test[k : k + _BLOCK]
        apart = square - 2.0 * block @ train.T  # the same for every column but for the block's own square
        close = apart <= apart.min(axis=1, keepdims=True) + 1e-9 * np.abs(square).max()
        scores[k : k + _BLOCK] = (close @ y) / close.sum(axis=1)
    return scores


def metadata_table(train: Mapping[str, ArrayLike], test: Mapping[str, ArrayLike]) -> tuple[Array, Array]:
    """Return numeric tables of metadata columns: numbers with a column for "missing", words as one column per word.

    Words and means are those of `train`; a word only `test` has gets no column. Both need the same keys.
    """
    if set(train) != set(test):
        raise EvaluationError(f"metadata of train has {sorted(train)} and of test {sorted(test)}; expected the same")
    sides: tuple[list[Array], list[Array]] = ([], [])
    for name in sorted(train):
        first, second = np.asarray(train[name]), np.asarray(test[name])
        if first.dtype.kind in "fiub":
            numbers = [side.astype(np.float64) for side in (first, second)]
            middle = float(np.nanmean(numbers[0])) if np.isfinite(numbers[0]).any() else 0.0
            for side, values in zip(sides, numbers, strict=True):
                gone = ~np.isfinite(values)
                side.extend([np.where(gone, middle, values), gone.astype(np.float64)])
        else:
            for word in np.unique(first.astype(str)):
                for side, values in zip(sides, (first, second), strict=True):
                    side.append((values.astype(str) == word).astype(np.float64))
    if not sides[0]:
        raise EvaluationError("no metadata columns; expected some of age, sex, view, vendor")
    return np.stack(sides[0], axis=1), np.stack(sides[1], axis=1)


def _wide_fits(x: Array, y: Array, strengths: Sequence[float]) -> list[tuple[float, Array]]:
    """Return leave-one-out error and slopes per strength, by the n x n kernel: for fewer images than pixels."""
    value, vector = np.linalg.eigh(x @ x.T)
    turned, fits = vector.T @ y, []
    for strength in strengths:
        shrunk = 1.0 / (np.maximum(value, 0.0) + strength * y.size / 1000.0)
        dual = vector @ (shrunk * turned)
        left_out = dual / ((vector**2) @ shrunk)  # residual of each image when it is not fitted on
        fits.append((float(np.mean(left_out**2)), x.T @ dual))
    return fits


def _long_fits(x: Array, y: Array, strengths: Sequence[float]) -> list[tuple[float, Array]]:
    """Return the same by the pixels x pixels matrix: for more images than pixels."""
    value, vector = np.linalg.eigh(x.T @ x)
    turned, along, fits = vector.T @ (x.T @ y), x @ vector, []
    for strength in strengths:
        shrunk = 1.0 / (np.maximum(value, 0.0) + strength * y.size / 1000.0)
        slopes = vector @ (shrunk * turned)
        left_out = (y - x @ slopes) / (1.0 - (along**2) @ shrunk)
        fits.append((float(np.mean(left_out**2)), slopes))
    return fits


def _area(length: int, side: int) -> Array:
    """Return the averaging matrix [side length] of one axis."""
    edge = np.arange(side + 1) * (length / side)
    pixel = np.arange(length)
    over = np.minimum(edge[1:, None], pixel + 1) - np.maximum(edge[:-1, None], pixel)
    share: Array = np.maximum(over, 0.0) * (side / length)
    return share


def _target(train: Array, target: ArrayLike) -> Array:
    y = np.asarray(target, np.float64)
    if y.shape != (len(train),) or not np.isin(y, (0.0, 1.0)).all() or not 0 < y.sum() < y.size:
        raise EvaluationError(f"a baseline needs both outcomes, 0 and 1, one per training row ({len(train)})")
    return y
