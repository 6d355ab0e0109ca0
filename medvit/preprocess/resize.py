"""Resampling by area when shrinking and linearly when growing, on integers where the image has integers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_RESIZABLE = (np.dtype("uint8"), np.dtype("uint16"), np.dtype("int16"), np.dtype("float32"))
_BLOCK = 64  # bands at a time, so that their sums stay in the cache


def resizable(image: NDArray[Any]) -> NDArray[Any]:
    """Return `image` in a type OpenCV resizes: itself, or the smallest of uint16, int16 and float32 that holds it."""
    if image.dtype in _RESIZABLE:
        return image
    if image.dtype == np.int8:
        return image.astype(np.int16)
    if np.issubdtype(image.dtype, np.integer):
        low, high = int(image.min()), int(image.max())
        if low >= 0 and high <= 65535:
            return image.astype(np.uint16)
        if low >= -32768 and high <= 32767:
            return image.astype(np.int16)
    return image.astype(np.float32)


def resize(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Resample a (row, column) image to `size`: the mean over the area when an axis shrinks, linear when it grows.

    Pixel centres are at (i + 0.5) * ratio - 0.5, so the field of view is kept. Integers stay so, rounded once.
    """
    rows, columns = size
    if image.shape == size:
        return image
    no_larger = rows <= image.shape[0] and columns <= image.shape[1]
    if no_larger or (rows >= image.shape[0] and columns >= image.shape[1]):
        how = cv2.INTER_AREA if no_larger else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(image, (columns, rows), interpolation=how))
    first = (rows, image.shape[1]) if rows < image.shape[0] else (image.shape[0], columns)  # shrink, then grow
    return resize(resize(image, first), size)


def resize_exact(image: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """Do as `resize` on integers or floats (row, column), but return the unrounded values, float32.

    A large image shrinks by sums of whole rows (exact in float32 up to 256 rows of 16 bits), from the row each band's
    edge cuts to the next such row; what lies above an edge in its row moves from the band below to the band above.
    Then along the columns: the same area mean as OpenCV's alone, in a third less time or better.
    """
    image, (rows, columns) = resizable(image), image.shape
    if rows < 2 * size[0] or columns < 2 * size[1]:
        return resize(image.astype(np.float32), size)
    edges = np.arange(size[0] + 1) * rows  # of the bands, in 1 / size[0] of a row
    cut, above = edges // size[0], (edges % size[0] / size[0]).astype(np.float32)
    means = np.empty(size, np.float32)
    for first in range(0, size[0], _BLOCK):
        block = slice(first, min(first + _BLOCK, size[0]))
        ends = slice(block.start, block.stop + 1)
        means[block] = resize(_band_sums(image, cut[ends], above[ends]), (block.stop - block.start, size[1]))
    means *= np.float32(size[0] / rows)
    return means


def _band_sums(image: NDArray[Any], cut: NDArray[Any], above: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sums over bands of rows (band, column); their edges lie `above` of a row below the top of `cut`."""
    sums = np.empty((len(cut) - 1, image.shape[1]), np.float32)
    for band, (start, stop) in enumerate(pairwise(cut.tolist())):
        cv2.reduce(image[start:stop], 0, cv2.REDUCE_SUM, sums[band : band + 1], cv2.CV_32F)
    if above.any():
        shares = image[np.minimum(cut, len(image) - 1)] * above[:, None]
        sums += shares[1:]
        sums -= shares[:-1]
    return sums


def resize_volume(values: NDArray[np.float32], size: tuple[int, int, int]) -> NDArray[np.float32]:
    """Resample a (slice, row, column) float32 volume to `size`, in-plane first and then along the slices."""
    depth, rows, columns = size
    planes = np.stack([resize(plane, (rows, columns)) for plane in values])
    if depth == planes.shape[0]:
        return planes
    flat = resize(planes.reshape(planes.shape[0], rows * columns), (depth, rows * columns))
    return flat.reshape(depth, rows, columns)
