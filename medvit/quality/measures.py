"""Image-quality measures of the pixels: darkness, saturation, text-like marks, fingerprints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvit.dataset.leakage.fingerprint import SIDE, Item, each_image, pixel_digest, read_image, sketch
from medvit.dataset.manifest import Manifest
from medvit.errors import DicomRefusal

SMALL = 32
_TEXT_HEIGHT = (5, 48)  # pixels; SE-11 asks for 10 to 40
_STROKE = 45  # grey levels
_NEAR_END, _FAINT = 15, 16  # grey levels from white or black within which a stroke may stand out less
_SMALL_TEXT = 18  # pixels; smaller letters run into each other
_TEXT_RUN = {False: 5, True: 7}  # letters on a line, of films and of volumes (folded cortex looks like letters)


class Measured(NamedTuple):
    """Of n images: one row of measures each, the picture [n 32 32], and the sketch [n 96 96] that copies share (uint8).

    Columns: code and found (refusal while decoding, "" if none), black, white (shares of pixels at the ends), spread
    (standard deviation, 0 to 0.5), text (a line of letters is suspected), exact (SHA-256 of the pixels).
    """

    table: pd.DataFrame
    small: NDArray[np.uint8]
    sketch: NDArray[np.uint8]


def measure(manifest: Manifest, workers: int = 1, progress: Callable[[int], object] | None = None) -> Measured:
    """Decode every image of the manifest and return its measures, in row order; chunks of images run in parallel."""
    rows = each_image(measure_one, manifest, workers, progress)
    small, sketches = (np.stack([row.pop(name) for row in rows]) for name in ("small", "sketch"))
    return Measured(pd.DataFrame(rows), small, sketches)


def measure_one(item: Item) -> dict[str, Any]:
    """Return the measures of one image; a refusal while decoding becomes its `code`."""
    empty = {"code": "", "found": "", "black": 0.0, "white": 0.0, "spread": 0.0, "text": False, "exact": ""}
    blank = {"small": np.zeros((SMALL, SMALL), np.uint8), "sketch": np.zeros((SIDE, SIDE), np.uint8)}
    try:
        image = read_image(item)
    except DicomRefusal as refusal:
        return {**empty, "code": refusal.code, "found": refusal.found, **blank}
    pixels = np.asarray(np.round(image * 255), np.uint8)
    small = cv2.resize(pixels, (SMALL, SMALL), interpolation=cv2.INTER_AREA)
    return {
        **empty,
        "black": float((pixels < 3).mean()),
        "white": float((pixels > 252).mean()),
        "spread": float(image.std()),
        "text": text_suspected(pixels, item.volume),
        "exact": pixel_digest(image),
        "small": np.asarray(small, np.uint8),
        "sketch": sketch(pixels),
    }


def text_suspected(pixels: NDArray[np.uint8], volume: bool = False) -> bool:
    """Whether a line of letters seems to stand in the image (SE-11); figures in docs/explanation/threat-model.md."""
    return letters(pixels) >= _TEXT_RUN[volume]


def letters(pixels: NDArray[np.uint8]) -> int:
    """Return the most letter-like marks on one line: small connected strokes that stand out from what is around them.

    A heuristic for text burned into the image: strokes under 11 pixels wide that are a sixth of the grey range
    brighter or darker than their surroundings, or less than that but near white or black, or white or black.
    """
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (11, 11))
    longest = 0
    bright, dark = (cv2.morphologyEx(pixels, way, kernel) for way in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT))
    faint = (bright > _FAINT) & (pixels > 255 - _NEAR_END), (dark > _FAINT) & (pixels < _NEAR_END)
    for marks in (bright > _STROKE, dark > _STROKE, *faint, pixels > 247, pixels < 8):
        if 0 < marks.mean() < 0.5:
            _, _, boxes, _ = cv2.connectedComponentsWithStats(marks.astype(np.uint8), connectivity=8)
            longest = max(longest, _longest_line(boxes[1:].astype(int)))
    return longest


def _longest_line(boxes: NDArray[np.int64]) -> int:
    """Return the length of the longest row of boxes of about one height, on one line, close to each other."""
    width, height, area = boxes.T[2:]
    fill = area / np.maximum(width * height, 1)
    tall = (height >= _TEXT_HEIGHT[0]) & (height <= _TEXT_HEIGHT[1])
    letter = (width <= 1.3 * height) & (fill > 0.15) & ((fill < 0.95) | (width < 0.4 * height))
    touching = (width <= 6 * height) & (height <= _SMALL_TEXT) & (fill > 0.3) & (fill < 0.75)
    found = boxes[tall & (letter | touching)]
    found = found[np.argsort(found[:, 0])]
    longest = 0
    for _, y, _, size, _ in found:
        line = found[(abs(found[:, 1] - y) <= 0.3 * size) & (abs(found[:, 3] - size) <= 0.35 * size)]
        near = line[1:, 0] - (line[:-1, 0] + line[:-1, 2]) <= 1.4 * size
        count = best = 0
        for (_, _, wide, _, _), joined in zip(line, [False, *near], strict=True):
            count = (count if joined else 0) + max(1, round(wide / size))
            best = max(best, count)
        longest = max(longest, best)
    return longest
