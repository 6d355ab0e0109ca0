"""Makes an even, straight stack of one that is neither: linear between neighbours, only where a policy asks for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medvit.series.geometry import Stack, Vector

Values = NDArray[np.float32]


def straighten(values: Values, stack: Stack, affine: Vector) -> tuple[Values, Vector]:
    """Resample slices (slice, row, column) onto an even grid along the normal; return them with their affine.

    The grid starts at the first slice, its step is the median spacing, its rows and columns stay those of the first
    slice; what was never imaged becomes the smallest value of the stack. Linear interpolation, so a value that is a
    linear function of the position in mm is kept exactly.
    """
    along = (stack.positions - stack.positions[0]) @ stack.normal
    gap = float(np.median(np.diff(along)))
    count = round(float(along[-1]) / gap) + 1
    in_plane = affine[:3, 1:3]  # mm per row and per column
    aside = (stack.positions - stack.positions[0]) @ np.linalg.pinv(in_plane).T  # [n 2] in rows and columns
    floor = values.min()
    out = np.empty((count, *values.shape[1:]), np.float32)
    for index in range(count):
        at = min(index * gap, float(along[-1]))
        low = min(int(np.searchsorted(along, at, side="right")) - 1, len(along) - 2)
        weight = np.float32((at - along[low]) / (along[low + 1] - along[low]))
        lower, upper = _shifted(values[low], aside[low], floor), _shifted(values[low + 1], aside[low + 1], floor)
        out[index] = lower * (1 - weight) + upper * weight
    straight = affine.copy()
    straight[:3, 0] = stack.normal * gap
    return out, straight


def _shifted(plane: Values, by: Vector, fill: np.float32) -> Values:
    """Return the plane moved by a fraction of rows and columns, `fill` where nothing was imaged."""
    for axis in (0, 1):
        if abs(by[axis]) > 1e-6:
            plane = _moved(np.moveaxis(plane, axis, 0), float(by[axis]), fill)
            plane = np.moveaxis(plane, 0, axis)
    return plane


def _moved(lines: Values, by: float, fill: np.float32) -> Values:
    """Read line i at i - by, between two neighbours."""
    wanted = np.arange(len(lines)) - by
    low = np.floor(wanted).astype(np.intp)
    weight = (wanted - low).astype(np.float32)[:, None]
    inside = (low >= 0) & (wanted <= len(lines) - 1)
    low = np.clip(low, 0, len(lines) - 1)
    high = np.minimum(low + 1, len(lines) - 1)
    moved: Values = lines[low] * (1 - weight) + lines[high] * weight
    moved[~inside] = fill
    return moved
