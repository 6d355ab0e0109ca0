"""Localisation scores of attribution maps against boxes or masks, on the pixels of the model's input.

Every score of a map that says nothing (the same value everywhere) is the share of the image the finding covers, or for
the pointing game the share that counts as a hit; so chance is a number beside each score. A centre prior is the
baseline that a map has to beat: findings lie near the middle of images. Saporta et al. 2022 (CheXlocalize).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvit.errors import EvaluationError
from medvit.metric.bootstrap import Interval, intervals, patient_draws

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
SCORES = ("pointing", "iou", "energy")
_POINTING = 15 / 224  # of the image's side: the tolerance of the field, stated in mm in every table


@dataclass(frozen=True, slots=True)
class Annotation:
    """One image's finding: `mask` [*S] at the model's input, `spacing_mm` of its pixels per axis, and its patient."""

    mask: Mask
    spacing_mm: tuple[float, ...]
    patient: str

    @property
    def tolerance_mm(self) -> float:
        """Return 15 of 224 pixels in mm, by the longer side."""
        sides = [float(n * mm) for n, mm in zip(self.mask.shape, self.spacing_mm, strict=True)]
        return _POINTING * max(sides)


def box_mask(shape: Sequence[int], corners: ArrayLike) -> Mask:
    """Return the mask of a box; `corners` (2, axes) are its first and last pixel, both inside.

    Raises:
        EvaluationError: the box lies outside the image, or its corners are not in order.
    """
    first, last = np.asarray(corners, np.float64)
    low, high = np.maximum(np.round(first), 0).astype(int), np.minimum(np.round(last), np.array(shape) - 1).astype(int)
    if (low > high).any():
        raise EvaluationError(f"a box from {first} to {last} (row, column) covers no pixel of an image of {shape}")
    mask = np.zeros(tuple(shape), bool)
    mask[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] = True
    return mask


def score(saliency: ArrayLike, truth: Annotation, tolerance_mm: float | None = None) -> dict[str, float]:
    """Return pointing, iou and energy of one map [*S], each in [0, 1].

    `pointing`: is the highest pixel within the tolerance of the finding (ties count by their share). `iou`: the best
    over all thresholds. `energy`: the share of the map inside the finding; of a map of zeros, that of an even map.

    Raises:
        EvaluationError: the shapes differ, the map is not finite or negative, or the mask is empty.
    """
    values, mask = np.asarray(saliency, np.float64), truth.mask
    if values.shape != mask.shape or not np.isfinite(values).all() or (values < 0).any() or not mask.any():
        raise EvaluationError(
            f"a map of {values.shape} for a mask of {mask.shape} with {int(mask.sum())} pixels: expected one shape, "
            "finite values of at least 0 and a mask that is not empty"
        )
    if not values.any():
        values = np.ones_like(values)
    reach = dilate_mm(mask, truth.spacing_mm, truth.tolerance_mm if tolerance_mm is None else tolerance_mm)
    return {
        "pointing": float(reach[values == values.max()].mean()),
        "iou": best_iou(values, mask),
        "energy": float(values[mask].sum() / values.sum()),
    }


def best_iou(values: Array, mask: Mask) -> float:
    """Return the largest intersection over union of {values >= t} with the mask over all thresholds t."""
    order = np.argsort(-values, axis=None, kind="stable")
    ranked, hit = values.ravel()[order], np.cumsum(mask.ravel()[order])
    ends = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True])  # a threshold never cuts through equal values
    return float(np.max(hit[ends] / (ends + 1 + mask.sum() - hit[ends])))


def dilate_mm(mask: Mask, spacing_mm: Sequence[float], tolerance_mm: float) -> Mask:
    """Return which pixels lie at most `tolerance_mm` from a pixel of the mask (Euclidean, centre to centre)."""
    from scipy.ndimage import distance_transform_edt

    near = distance_transform_edt(~mask, sampling=spacing_mm) ** 2 <= tolerance_mm**2 + 1e-9
    return np.asarray(near & mask.any())


def centre_prior(shape: Sequence[int]) -> Array:
    """Return a Gaussian on the middle of the image, its deviation a quarter of each side."""
    bumps = [np.exp(-(((np.arange(n) - (n - 1) / 2) / (n / 4)) ** 2) / 2) for n in shape]
    outer: Array = bumps[0]
    for bump in bumps[1:]:
        outer = np.multiply.outer(outer, bump)
    return outer


def summary(
    scores: Mapping[str, ArrayLike], patient: Sequence[str], draws: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Return the mean of each score over images with its interval by patient bootstrap.

    Raises:
        EvaluationError: fewer than two patients.
    """
    table = np.stack([np.asarray(column, np.float64) for column in scores.values()], axis=1)
    drawn = patient_draws(patient, draws, seed)
    found = intervals(lambda weight: weight @ table / weight.sum(axis=1, keepdims=True), drawn)
    return dict(zip(scores, found, strict=True))
