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


def resize_volume(values: NDArray[np.float32], size: tuple[int, int, int]) -> NDArray[np.float32]:
    """Resample a (slice, row, column) float32 volume to `size`, in-plane first and then along the slices."""
    depth, rows, columns = size
    planes = np.stack([resize(plane, (rows, columns)) for plane in values])
    if depth == planes.shape[0]:
        return planes
    flat = resize(planes.reshape(planes.shape[0], rows * columns), (depth, rows * columns))
    return flat.reshape(depth, rows, columns)
