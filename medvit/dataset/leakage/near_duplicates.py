"""Near duplicates by the embeddings of a backbone, with a limit measured on planted copies.

A network's vectors of one body part lie close together, those of a classifier closest, so that a plain cosine tells
nothing. They are therefore whitened by the principal components of the set. The limit lies half-way between the nearest
other patient and the copies that are planted among the images; how many of these it finds is told with the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

LEAST = 64  # images from which a limit can be measured
PLANTED = 24  # copies of each kind
_COMPONENTS = 128
_SPREADS = 3.0  # standard deviations above the usual nearest neighbour, of the inverse hyperbolic tangent (Fisher)
_FAINT = 0.05  # quantile of the copies that lie closer than patients do
_BLOCK = 512

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class NearDuplicates:
    """Pairs of rows that look alike (columns row < other, score) and what the measurement says of them."""

    pairs: pd.DataFrame
    told: str


def _resized(plane: NDArray[Any]) -> NDArray[Any]:
    height, width = plane.shape
    small = cv2.resize(plane, (max(width // 2, 1), max(height // 2, 1)), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))


def _windowed(plane: NDArray[Any]) -> NDArray[Any]:
    top = float(np.iinfo(plane.dtype).max)
    return np.clip((plane - 0.06 * top) * 1.2, 0, top).astype(plane.dtype)


def _cropped(plane: NDArray[Any]) -> NDArray[Any]:
    height, width = plane.shape
    inner = plane[height // 10 : height - height // 20, width // 20 : width - width // 10]
    return np.asarray(cv2.resize(inner, (width, height), interpolation=cv2.INTER_LINEAR))


def _turned(plane: NDArray[Any]) -> NDArray[Any]:
    height, width = plane.shape
    return np.asarray(cv2.warpAffine(plane, cv2.getRotationMatrix2D((width / 2, height / 2), 5, 1), (width, height)))


WAYS: Mapping[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "resized": _resized,
    "windowed": _windowed,
    "cropped by 15 %": _cropped,
    "turned by 5 degrees": _turned,
}


def altered_copies(images: NDArray[Any], way: str) -> NDArray[Any]:
    """Return copies of images (uint8 or uint16, [... H W]), changed plane by plane in one of `WAYS`."""
    planes = images.reshape(-1, *images.shape[-2:])
    return np.stack([WAYS[way](plane) for plane in planes]).reshape(images.shape)


def altered_rows(count: int) -> NDArray[np.int64]:
    """Return the rows that are planted, the same for the same number of images."""
    return np.random.default_rng(count).choice(count, min(PLANTED, count), replace=False)


def find_near_duplicates(
    vectors: Floats, planted: Mapping[str, Floats], patient: NDArray[Any], name: str
) -> NearDuplicates:
    """Seek images of different patients that lie closer than different patients do.

    vectors: [n W], one per image. planted: per way the vectors of copies of the rows `chosen(n)`. patient: [n].
    """
    no_pairs = pd.DataFrame({"row": [], "other": [], "score": []}).astype({"row": int, "other": int})
    if len(vectors) < LEAST:
        return NearDuplicates(no_pairs, f"by {name}: not sought, {len(vectors)} images are too few (at least {LEAST})")
    mean = vectors.mean(axis=0)
    _, spread, axes = np.linalg.svd(vectors - mean, full_matrices=False)
    kept = min(_COMPONENTS, len(vectors) // 3, int((spread > 1e-6 * spread[0]).sum()))
    if kept < 2:
        return NearDuplicates(no_pairs, f"by {name}: not sought, its vectors do not differ")

    def white(given: Floats) -> Floats:
        turned = (given - mean) @ axes[:kept].T / spread[:kept]
        unit: Floats = turned / np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-12)
        return unit

    base = white(vectors)
    score, other = nearest_of_others(base, pd.factorize(patient)[0])
    middle, upper = np.arctanh(np.clip(np.quantile(score, [0.5, 0.75]), -0.999, 0.999))
    limit = float(np.tanh(middle + _SPREADS * (upper - middle) / 0.6745))
    rows = altered_rows(len(vectors))
    copied = {way: (white(copies) * base[rows]).sum(axis=1) for way, copies in planted.items()}
    above = [value for values in copied.values() for value in values if value > limit]
    limit = (limit + float(np.quantile(above, _FAINT))) / 2 if above else limit  # between patients and copies
    found = {way: float(np.mean(values >= limit)) for way, values in copied.items()}
    close = np.flatnonzero(score >= limit)
    pairs = pd.DataFrame({"row": np.minimum(close, other[close]), "other": np.maximum(close, other[close]),
                          "score": np.round(score[close], 4)}).drop_duplicates(["row", "other"])  # fmt: skip
    shares = ", ".join(f"{way} {share:.0%}" for way, share in found.items())
    told = f"by {name}, cosine above {limit:.2f} of {kept} whitened components; found of {len(rows)} planted: {shares}"
    return NearDuplicates(pairs.sort_values(["row", "other"], ignore_index=True), told)


def nearest_of_others(base: Floats, owner: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64]]:
    """Return the cosine and the row of each image's nearest image of another owner (-1 where there is none)."""
    score, other = np.full(len(base), -1.0), np.zeros(len(base), np.int64)
    for start in range(0, len(base), _BLOCK):
        block = slice(start, start + _BLOCK)
        agree = base[block] @ base.T
        agree[owner[block, None] == owner[None]] = -1.0
        other[block] = agree.argmax(axis=1)
        score[block] = agree.max(axis=1)
    return score, other
