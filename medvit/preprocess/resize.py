"""Resampling by area when shrinking and linearly when growing, on integers where the image has integers."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_RESIZABLE = (np.dtype("uint8"), np.dtype("uint16"), np.dtype("int16"), np.dtype("float32"))


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

    A large image shrinks by sums of whole rows (exact in float32 up to 256 rows of 16 bits) plus the shares of the two
    rows that a band cuts, and then along the columns: the same area mean, three times as fast as OpenCV's alone.
    """
    image, (rows, columns) = resizable(image), image.shape
    if rows < 2 * size[0] or columns < 2 * size[1]:
        return resize(image.astype(np.float32), size)
    edges = np.arange(size[0] + 1) * rows  # of the bands, in 1 / size[0] of a row
    first, last = -(-edges[:-1] // size[0]), edges[1:] // size[0]
    above, below = first * size[0] - edges[:-1], edges[1:] - last * size[0]
    sums = np.concatenate(
        [cv2.reduce(image[a:b], 0, cv2.REDUCE_SUM, dtype=cv2.CV_32F) for a, b in zip(first, last, strict=True)]
    )
    for row, share in ((first - 1, above), (np.minimum(last, rows - 1), below)):
        sums += image[row] * (share / size[0]).astype(np.float32)[:, None]
    sums *= np.float32(size[0] / rows)
    return resize(sums, size)


def resize_volume(values: NDArray[np.float32], size: tuple[int, int, int]) -> NDArray[np.float32]:
    """Resample a (slice, row, column) float32 volume to `size`, in-plane first and then along the slices."""
    depth, rows, columns = size
    planes = np.stack([resize(plane, (rows, columns)) for plane in values])
    if depth == planes.shape[0]:
        return planes
    flat = resize(planes.reshape(planes.shape[0], rows * columns), (depth, rows * columns))
    return flat.reshape(depth, rows, columns)
