"""A list of transforms that is not the fused chain: everything between reading and rounding runs in MONAI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.errors import ConfigError, DicomRefusal
from medvit.preprocess.placement import Placement
from medvit.preprocess.steps import WHOLE, run_whole


def by_monai(
    definition: Any, values: NDArray[np.float32], affine: NDArray[np.float64]
) -> tuple[NDArray[Any], Placement, NDArray[np.float64]]:
    """Return the integers [*S] that the chain makes of what was read, where they lie, and their affine.

    Raises:
        ConfigError: the result has another size than the network wants, or lies askew, so that no map leads back.
        DicomRefusal: E-STEP, as the steps between fused ones.
    """
    made, after = run_whole(definition.steps[WHOLE], values, affine)
    wanted = tuple(definition.size)
    several = getattr(definition, "mode", "") == "slices"
    right = made.shape[1:] == wanted[1:] and len(made) <= (wanted[0] or len(made)) if several else made.shape == wanted
    if not right:
        raise ConfigError(
            f"preprocess.transforms make {list(made.shape)} of an image of {list(values.shape)}, and preprocess.size "
            f"is {list(wanted)}: end the list with ResizeWithPadOrCropd(spatial_size=${{preprocess.size}})"
        )
    levels = np.clip(made * np.float32(definition.levels) + np.float32(0.5), 0, definition.levels)
    if levels.min() == levels.max():
        found = "the list of transforms leaves one value alone"
        raise DicomRefusal("E-STEP", found, fix="bring the values to 0 black, 1 white, or leave the image out")
    return levels.astype(definition.dtype), _placement(values.shape, made.shape, affine, after), after


def _placement(
    original: Sequence[int], size: Sequence[int], before: NDArray[np.float64], after: NDArray[np.float64]
) -> Placement:
    """Return where the result lies on what was read, by the affines, to half a voxel."""
    count = len(original)
    back = np.linalg.solve(before, after)  # indices of the result to indices of what was read
    linear, shift = back[:count, :count], back[:count, 3]
    axes = tuple(int(axis) for axis in np.abs(linear).argmax(axis=0))
    aside = linear.copy()
    aside[axes, range(count)] = 0
    if sorted(axes) != list(range(count)) or np.abs(aside).max() > 0.01:
        raise ConfigError("preprocess.transforms turn the image askew: no map of the network could lead back to it")
    step = linear[axes, range(count)]
    flip = tuple(bool(one < 0) for one in step)
    first = [original[a] - 1 - shift[a] if back else shift[a] for a, back in zip(axes, flip, strict=True)]
    inner, offset, start, extent = [], [], [], []
    for side, at, ratio, axis in zip(size, first, np.abs(step), axes, strict=True):
        lead = max(0, round((-0.5 - at) / ratio + 0.5))  # of the result's voxels, those before the image begins
        begin = max(0, round(at + ratio * (lead - 0.5) + 0.5))
        length = max(1, min(side - lead, round((original[axis] - begin) / ratio)))
        offset.append(lead)
        inner.append(length)
        start.append(begin)
        extent.append(max(1, min(original[axis] - begin, round(length * ratio))))
    return Placement(tuple(original), tuple(start), tuple(extent), tuple(inner), tuple(offset), tuple(size), axes, flip)
