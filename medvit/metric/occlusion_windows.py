"""The windows of an occlusion map, the same for a network in torch and for an exported one. numpy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

_WINDOWS = 6  # strides per axis, whatever the grid

Box = tuple[slice, ...]


def windows(grid: Sequence[int]) -> list[Box]:
    """Return boxes of cells that cover a grid: two strides wide, overlapping by half, about 6 strides per axis."""
    strides = [math.ceil(side / _WINDOWS) for side in grid]
    starts = product(*(range(-step, side, step) for step, side in zip(strides, grid, strict=True)))
    return [tuple(slice(max(s, 0), s + 2 * step) for s, step in zip(at, strides, strict=True)) for at in starts]


def pixels_of(box: Box, cell: Sequence[int]) -> Box:
    """Return the pixels of a box of cells, each `cell` pixels large."""
    return tuple(slice(one.start * side, one.stop * side) for one, side in zip(box, cell, strict=True))
