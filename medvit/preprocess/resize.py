"""Resampling by area when shrinking and linearly when growing, on integers where the image has integers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_RESIZABLE = (np.dtype("uint8"), np.dtype("uint16"), np.dtype("int16"), np.dtype("float32"))
_BLOCK = 32  # bands at a time, so that their sums stay in the cache


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


def to_uint8(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a uint8 or uint16 image in 8 bits: of 16 bits the upper half."""
    return image if image.dtype == np.uint8 else (image >> 8).astype(np.uint8)


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
    Then along the columns: the same area mean as OpenCV's alone, in half the time or less.
    """
    image, (rows, columns) = resizable(image), image.shape
    if rows < 2 * size[0] or columns < 2 * size[1]:
        return resize(image.astype(np.float32), size)
    bands = _Bands(image, size[0])
    means = np.empty(size, np.float32)
    for first in range(0, size[0], _BLOCK):
        sums = bands.sums(first, min(first + _BLOCK, size[0]))
        means[first : first + _BLOCK] = _narrowed(sums, size[1])
    means *= np.float32(size[0] / rows)
    return means


def _narrowed(rows: NDArray[np.float32], columns: int) -> NDArray[np.float32]:
    """Return what `resize` makes of `rows`, bit for bit, in half the time: four at a time, as channels of one row.

    OpenCV adds along a row one by one, each sum waiting for the one before; those of four channels do not.
    """
    if len(rows) % 4:
        return resize(rows, (len(rows), columns))
    merged = cv2.merge(list(rows.reshape(4, -1, rows.shape[1])))
    small = cv2.resize(merged, (columns, len(merged)), interpolation=cv2.INTER_AREA)
    return np.asarray(small.transpose(2, 0, 1).reshape(len(rows), columns))


class _Bands:
    """The rows of an image shared out to `count` bands of equal height; the memory of the sums is used again."""

    def __init__(self, image: NDArray[Any], count: int) -> None:
        edges = np.arange(count + 1) * len(image)  # of the bands, in 1 / count of a row
        self._image, self._cut = image, (edges // count).tolist()
        self._above = (edges % count / count).astype(np.float32)[:, None]
        self._at = np.minimum(self._cut, len(image) - 1)
        self._sums = np.empty((_BLOCK, image.shape[1]), np.float32)
        self._rows = np.empty((_BLOCK + 1, image.shape[1]), image.dtype)
        self._shares = np.empty(self._rows.shape, np.float32)

    def sums(self, first: int, end: int) -> NDArray[np.float32]:
        """Return the sums over the bands `first` to `end` (band, column), at most `_BLOCK`, until the next call."""
        count, edges = end - first, slice(first, end + 1)
        sums, rows, shares = self._sums[:count], self._rows[: count + 1], self._shares[: count + 1]
        for band, (start, stop) in enumerate(pairwise(self._cut[edges])):
            cv2.reduce(self._image[start:stop], 0, cv2.REDUCE_SUM, sums[band : band + 1], cv2.CV_32F)
        if self._above[edges].any():
            np.take(self._image, self._at[edges], axis=0, out=rows, mode="clip")
            np.copyto(shares, rows)
            shares *= self._above[edges]
            sums += shares[1:]
            sums -= shares[:-1]
        return sums


def resize_volume(
    values: NDArray[np.float32], size: tuple[int, int, int], part: tuple[slice, ...] = (slice(None),) * 3
) -> NDArray[np.float32]:
    """Resample a (slice, row, column) float32 volume to `size`, in-plane first and then along the slices.

    Of the result only `part` is returned, bit for bit, and planes that it does not touch are left out.
    """
    (depth, rows, columns), count = size, len(values)
    first, last, _ = part[0].indices(depth)
    if depth == count:
        return np.stack([resize(plane, (rows, columns))[part[1:]] for plane in values[first:last]])
    near = range(max(0, first * count // depth - 2), min(count, -(-last * count // depth) + 2))
    shape = np.broadcast_to(np.float32(0), (rows, columns))[part[1:]].shape
    planes = np.zeros((count, *shape), np.float32)
    for index in near:
        planes[index] = resize(values[index], (rows, columns))[part[1:]]
    flat = resize(planes.reshape(count, -1), (depth, planes[0].size))
    return flat[first:last].reshape(-1, *shape)
