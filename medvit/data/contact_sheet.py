"""Contact sheet of augmented images, to look at before a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from medvit.data.units import Augmentation, Units
from medvit.errors import DataError
from medvit.preprocess.resize import to_uint8

_GAP = 2


def write(units: Units, augment: Augmentation | None, path: Path, rows: int = 6, draws: int = 7, seed: int = 0) -> Path:
    """Write a PNG: each row a unit (spread over the data set), first as it is and then under `draws` draws.

    Volumes and bags show their middle slice. The picture holds no text: nothing that names a patient but the pixels.
    Raises DataError when the folder cannot be written.
    """
    chosen = np.unique(np.linspace(0, len(units) - 1, min(rows, len(units))).astype(np.int64))
    columns = [_middle(units, chosen, None, 0, seed)]
    columns += [_middle(units, chosen, augment, draw, seed) for draw in range(draws if augment is not None else 0)]
    height, width = columns[0].shape[1:]
    sheet = np.full((len(chosen) * (height + _GAP), len(columns) * (width + _GAP)), 255, np.uint8)
    for column, images in enumerate(columns):
        for row, image in enumerate(images):
            top, left = row * (height + _GAP), column * (width + _GAP)
            sheet[top : top + height, left : left + width] = image
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", sheet)[1].tobytes())
    except OSError as error:
        raise DataError(f"the contact sheet cannot be written: {error.strerror}") from None
    return path


def _middle(
    units: Units, chosen: NDArray[np.int64], augment: Augmentation | None, epoch: int, seed: int
) -> NDArray[Any]:
    """Return one 8-bit plane (H, W) per chosen unit."""
    batch = units.batch(chosen, chosen, augment, (seed, epoch))
    images = batch.image.numpy()
    planes = []
    for number, image in enumerate(images):
        count = int(batch.bag.mask[number].sum()) if batch.bag is not None else 0
        stack = image[:count] if count else image
        flat = stack.reshape(-1, *stack.shape[-2:])
        planes.append(flat[len(flat) // 2])
    return to_uint8(np.stack(planes))
