"""Out-of-distribution distances of images from the training images, with limits from validation images.

`pixels`: how unusual plain image statistics are (Mahalanobis); it needs no network and goes with an exported model.
`mahalanobis` (Lee et al. 2018, NeurIPS) and `knn` (Sun et al. 2022, ICML; cosine distance to the k-th nearest) look at
the network's pooled vector. `together` is the largest of the three. Only numpy and OpenCV.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvit.errors import EvaluationError
from medvit.metric.baseline import downsample

Array = NDArray[np.float64]
METHODS = ("pixels", "mahalanobis", "knn", "together")
LEVEL = 0.99  # share of validation images inside the limit
_THUMB = 8  # side of the thumbnail among the statistics
_SIDE = 192  # pixels: most of a side that is looked at
_SHARES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
_SIGMAS = (0.7, 1.5, 3.0, 6.0)  # pixels: bands of detail, from grain to organs
_RIDGE = 0.1  # least weight of the unit matrix in a covariance of standardised features
_AT_ONCE = 512


def pixel_statistics(planes: NDArray[Any]) -> Array:
    """Return plain statistics of grey integer images [n H W] as fp64 [n 82], each side 8 pixels or more.

    A thumbnail of 8 x 8, quantiles of the grey values, mean of the four borders and of the middle, mean step to the
    next pixel, and the strength of four bands of detail. Grey values count from 0 to 1 of the integers' range; images
    with more than 192 pixels on a side are averaged down by a whole factor first.
    """
    top, factor = np.float32(np.iinfo(planes.dtype).max), -(-max(planes.shape[1:]) // _SIDE)
    size = planes.shape[2] // factor, planes.shape[1] // factor
    parts = [planes[k : k + _AT_ONCE].astype(np.float32) / top for k in range(0, len(planes), _AT_ONCE)]
    if factor > 1:
        parts = [np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in part]) for part in parts]
    return np.concatenate([_described(part) for part in parts])


def _described(grey: NDArray[np.float32]) -> Array:
    count, height, width = grey.shape
    edge, rows, columns = max(1, height // 16), height // 4, width // 4
    parts = (grey[:, :edge], grey[:, -edge:], grey[:, :, :edge], grey[:, :, -edge:],
             grey[:, rows : height - rows, columns : width - columns])  # fmt: skip
    means = np.stack([part.mean(axis=(1, 2)) for part in parts], axis=1)
    steps = np.stack([np.abs(np.diff(grey, axis=axis)).mean(axis=(1, 2)) for axis in (1, 2)], axis=1)
    spread = np.quantile(grey.reshape(count, -1), _SHARES, axis=1).T
    bands = np.array([[_band(image, sigma) for sigma in _SIGMAS] for image in grey])
    return np.concatenate(
        [downsample(grey, _THUMB), spread, means, steps, np.log(bands + 1e-4)], axis=1, dtype=np.float64
    )


def _band(image: NDArray[np.float32], sigma: float) -> float:
    fine, coarse = (cv2.GaussianBlur(image, (0, 0), width) for width in (sigma, 2 * sigma))
    return float((fine - coarse).std())


@dataclass(frozen=True)
class Gaussian:
    """Where features of training images lie: `mean` [F], `turn` [F F] to uncorrelated features of variance 1."""

    mean: Array
    turn: Array

    def distance(self, rows: ArrayLike) -> Array:
        """Return the Mahalanobis distance [m] of features [m F].

        Raises:
            EvaluationError: another number of features, or values that are not finite.
        """
        away = (_checked(rows, self.mean.size) - self.mean) @ self.turn
        return np.asarray(np.sqrt((away**2).sum(axis=1)))


def fit_gaussian(train: ArrayLike) -> Gaussian:
    """Return the cloud of training features [n F]: standardised, their correlations shrunk towards none.

    The weight of "none" is 0.1, more where there are few images for the number of features: F / (n + F).
    """
    rows = np.asarray(train, np.float64)
    rows = _checked(rows, rows.shape[-1])
    spread = rows.std(axis=0)
    spread = np.where(spread > 1e-9, spread, max(1e-9, float(spread.mean())))  # what never varied is not infinitely far
    weight = max(_RIDGE, rows.shape[1] / sum(rows.shape))
    scaled = (rows - rows.mean(axis=0)) / spread
    shrunk = (1 - weight) * (scaled.T @ scaled) / len(rows) + weight * np.eye(rows.shape[1])
    values, axes = np.linalg.eigh(shrunk)
    return Gaussian(rows.mean(axis=0), axes / np.sqrt(values) / spread[:, None])


class DistanceScale(NamedTuple):
    """Two distances of validation images: what half of them and what `LEVEL` of them stay below."""

    middle: float
    limit: float

    def __call__(self, distance: Array) -> Array:
        """Return distances on the scale where 0 is the middle and 1 the limit."""
        return (distance - self.middle) / max(self.limit - self.middle, 1e-12)


def fit_scale(validation: Array) -> DistanceScale:
    """Return the scale of validation distances; raises EvaluationError where there are none."""
    if not validation.size:
        raise EvaluationError("no validation image: the limits of the distances need some")
    return DistanceScale(float(np.median(validation)), float(np.quantile(validation, LEVEL)))


class Features(NamedTuple):
    """What is known of images: `statistics` [n 82] of their pixels and the network's pooled `vector` [n W]."""

    statistics: Array
    vector: Array


@dataclass(frozen=True)
class Envelope:
    """What the training images look like, in pixels and to the network; `nearest` are unit vectors [n W]."""

    pixels: Gaussian
    vectors: Gaussian
    nearest: Array
    k: int
    scales: dict[str, DistanceScale]

    def scores(self, seen: Features) -> dict[str, Array]:
        """Return every distance of images [m], higher is less like training, 1 is the limit.

        Raises:
            EvaluationError: features of another number, or values that are not finite.
        """
        plain = {
            "pixels": self.pixels.distance(seen.statistics),
            "mahalanobis": self.vectors.distance(seen.vector),
            "knn": _kth(_unit(_checked(seen.vector, self.nearest.shape[1])), self.nearest, self.k),
        }
        scaled = {name: self.scales[name](values) if name in self.scales else values for name, values in plain.items()}
        most: Array = np.max(list(scaled.values()), axis=0)
        return {**scaled, "together": self.scales["together"](most) if "together" in self.scales else most}


def fit_envelope(train: Features, validation: Features, k: int = 50) -> Envelope:
    """Return the envelope of training images, its limits set on validation images.

    Raises:
        EvaluationError: fewer training images than `k` + 1, no validation image, values that are not finite.
    """
    if len(train.vector) <= k or k < 1:
        raise EvaluationError(f"{len(train.vector)} training images, k={k}: expected more images than k")
    rows = _checked(train.vector, train.vector.shape[1])
    draft = Envelope(fit_gaussian(train.statistics), fit_gaussian(rows), _unit(rows), k, {})
    scales = {name: fit_scale(draft.scores(validation)[name]) for name in METHODS[:-1]}
    draft = Envelope(draft.pixels, draft.vectors, draft.nearest, k, scales)
    scales["together"] = fit_scale(draft.scores(validation)["together"])
    return Envelope(draft.pixels, draft.vectors, draft.nearest, k, scales)


def pixels_to_json(pixels: Gaussian, own: DistanceScale) -> dict[str, Any]:
    """Return the part that needs no network as plain JSON; it holds means and correlations, no single image."""
    return {"mean": pixels.mean.tolist(), "turn": pixels.turn.tolist(), "middle": own.middle, "limit": own.limit}


def pixels_from_json(data: Mapping[str, Any]) -> tuple[Gaussian, DistanceScale]:
    """Return what `pixels_to_json` wrote."""
    return Gaussian(np.array(data["mean"]), np.array(data["turn"])), DistanceScale(data["middle"], data["limit"])


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


def _checked(features: ArrayLike, width: int) -> Array:
    rows = np.asarray(features, np.float64)
    if rows.ndim != 2 or rows.shape[1] != width or not np.isfinite(rows).all():
        raise EvaluationError(f"features of shape {rows.shape}: expected [n {width}] of finite numbers")
    return rows
