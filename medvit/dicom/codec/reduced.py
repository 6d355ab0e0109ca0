"""JPEG 2000 and HTJ2K at half, quarter, ... resolution, through Pillow's OpenJPEG: the others decode whole frames."""

from __future__ import annotations

import io
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from medvit.dicom.codec import codestream
from medvit.errors import DicomRefusal

Array = NDArray[Any]


def decode_reduced(data: Any, reduce: int) -> Array:
    """Decode one grey frame at 1 / 2**reduce of each side (rounded up), each value in the middle of its pixel.

    Pillow spreads samples over 16 unsigned bits; that is taken back. Raises what Pillow raises, and `E-SIZE`.
    """
    from PIL import Image, Jpeg2KImagePlugin  # noqa: F401 - else Pillow loads its parsers of every format

    shape = codestream.jpeg2000_shape(data)
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG2000",)) as image:
            whole = cast(Any, image)
            whole.reduce = reduce
            # a size that Pillow divides as OpenJPEG does: it rounds to the nearest, OpenJPEG up
            whole._size = tuple(-(-side >> reduce) << reduce for side in (shape.columns, shape.rows))
            values = np.asarray(image)
    except Image.DecompressionBombError:
        raise DicomRefusal("E-SIZE", "too many pixels for a reduced decode", fix="leave reduce_to out") from None
    if values.dtype != np.uint8:
        values = values.astype(np.uint16) >> (16 - shape.precision)
    if shape.signed:
        values = (values.astype(np.int32) - (1 << (shape.precision - 1))).astype(np.int16)
    return _centred(values, reduce)


def _centred(values: Array, reduce: int) -> Array:
    """Move wavelet samples, which lie on every 2**reduce-th pixel, to the middle of the pixels they stand for."""
    ahead = 0.5 - 0.5 / (1 << reduce)
    weights = np.array([1 - ahead, ahead], np.float32)
    return np.asarray(cv2.sepFilter2D(values, -1, weights, weights, anchor=(0, 0), borderType=cv2.BORDER_REPLICATE))
