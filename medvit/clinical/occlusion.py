"""Occlusion maps of an exported network: forward passes of the bundle's own runtime, no torch, no gradient.

The same windows, the same even grey and the same mean as `medvit.explain.attribution.occlusion`; a test compares them.
A bag of slices is treated as the volume it is: its windows reach over slices too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.bundle.runtime import Runtime
from medvit.errors import BundleError
from medvit.metric.occlusion_windows import Box, pixels_of, windows
from medvit.preprocess import Placement, Prepared

_VOXELS_AT_ONCE = 16 * 224 * 224  # of occluded images per forward pass and thread


@dataclass(frozen=True)
class Maps:
    """Maps of one unit, [K *grid] float32, one per output: how far its logit falls where a window shows even grey.

    `fall` [K] is how far it falls when all of the image is grey: near 0 or below, a map measures little.
    """

    names: tuple[str, ...]
    values: NDArray[np.float32]
    fall: NDArray[np.float64]
    placement: Placement

    def on_original(self, name: str) -> NDArray[np.float32]:
        """Return the map of one output on the stored pixels or voxels; 0 where the model never looked."""
        return self.placement.map_to_original(upsample(self.values[self.names.index(name)], self.placement.size))


def occlusion(runtime: Runtime, prepared: Prepared) -> Maps:
    """Return the occlusion maps of what the preprocessing made of one unit.

    Raises:
        BundleError: the bundle was exported before it told its patch grid.
    """
    images = runtime.preprocess.normalise(prepared.pixels)
    bag = "mask" in runtime.inputs
    image = images.swapaxes(0, 1) if bag else images[0]  # [C *S]: slices of a bag are the first axis of space
    grid = (image.shape[1], *grid_of(runtime)) if bag else grid_of(runtime)
    cell = [length // side for length, side in zip(image.shape[1:], grid, strict=True)]
    fill = np.broadcast_to(image.mean(tuple(range(2 if bag else 1, image.ndim)), keepdims=True), image.shape)

    def answers(boxes: Sequence[Box | None]) -> NDArray[np.float64]:
        painted = np.repeat(image[None], len(boxes), axis=0)
        for copy, box in zip(painted, boxes, strict=True):
            where = (slice(None), *(pixels_of(box, cell) if box else ()))
            copy[where] = fill[where]
        return _logits(runtime, painted, prepared.position_mm, bag)

    whole = _logits(runtime, image[None], prepared.position_mm, bag)[0]
    boxes = windows(grid)
    step = max(1, min(64, _VOXELS_AT_ONCE // image.size))
    parts: list[list[Box | None]] = [[*boxes[first : first + step]] for first in range(0, len(boxes), step)]
    with ThreadPoolExecutor(runtime.workers) as pool:
        *found, grey = pool.map(answers, [*parts, [None]])
    values, count = np.zeros((len(whole), *grid)), np.zeros(grid)
    for box, logits in zip(boxes, np.concatenate(found), strict=True):
        values[(slice(None), *box)] += (whole - logits).reshape(-1, *[1] * len(grid))
        count[box] += 1
    return Maps(runtime.names, (values / count).astype(np.float32), whole - grey[0], prepared.placement)


def grid_of(runtime: Runtime) -> tuple[int, ...]:
    """Return the patches per axis of one image, as the bundle tells them."""
    told = runtime.bundle.manifest.get("grid")
    if told is None:
        raise BundleError(
            "This bundle does not tell its patch grid: it was exported before predict drew maps. Export the run again, "
            "or predict without dicom.maps, dicom.seg and dicom.parametric."
        )
    return tuple(told)


def _logits(runtime: Runtime, images: NDArray[Any], position_mm: NDArray[Any], bag: bool) -> NDArray[np.float64]:
    """Return the logits [B K] of several painted copies [B C *S] of one unit."""
    feed: dict[str, NDArray[Any]] = {"image": np.ascontiguousarray(images)}
    if bag:
        count, slices = len(images), images.shape[2]
        feed = {
            "image": np.ascontiguousarray(images.swapaxes(1, 2)),
            "mask": np.ones((count, slices), bool),
            "position_mm": np.repeat(position_mm[None], count, axis=0),
            "kind": np.zeros((count, slices), np.int64),
        }
        feed = {name: value for name, value in feed.items() if name in runtime.inputs}
    return runtime.session.run(feed)


def upsample(values: NDArray[Any], size: Sequence[int]) -> NDArray[np.float32]:
    """Return a map at another size, linearly between the middles of its cells (torch's align_corners=False)."""
    found = np.asarray(values, np.float32)
    for axis, length in enumerate(size):
        side = found.shape[axis]
        at = np.clip((np.arange(length) + 0.5) * side / length - 0.5, 0, side - 1)
        low = np.minimum(np.floor(at).astype(int), max(side - 2, 0))
        share = (at - low).astype(np.float32).reshape([-1 if each == axis else 1 for each in range(found.ndim)])
        high = np.minimum(low + 1, side - 1)
        found = found.take(low, axis) * (1 - share) + found.take(high, axis) * share
    return found


def hot(values: NDArray[np.float32], share: float) -> NDArray[np.bool_]:
    """Return where a map is at least `share` of its highest value; nowhere when that is not above 0."""
    top = float(values.max()) if values.size else 0.0
    return values >= share * top if top > 0 and math.isfinite(top) else np.zeros(values.shape, bool)
