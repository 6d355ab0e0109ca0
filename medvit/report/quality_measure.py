"""What the pixels of each image say about its quality: darkness, saturation, text-like marks, fingerprints."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvit.data.fingerprint import Item, items, read_image
from medvit.data.manifest import Manifest
from medvit.errors import DicomRefusal

SMALL = 32
_HASH = 16
_TEXT_HEIGHT = (5, 48)  # pixels; SE-11 asks for 10 to 40
_STROKE = 45  # grey levels
_SMALL_TEXT = 18  # pixels; smaller letters run into each other
_TEXT_RUN = {False: 5, True: 7}  # letters on a line, of films and of volumes (folded cortex looks like letters)


def measure(
    manifest: Manifest, workers: int = 1, progress: Callable[[int], object] | None = None
) -> tuple[pd.DataFrame, NDArray[np.uint8]]:
    """Return one row of measures per image (in row order) and its 32 x 32 picture; chunks of images run in parallel.

    Columns: code (refusal while decoding, "" if none), black, white (shares of pixels at the ends), spread (standard
    deviation, 0 to 0.5), text (a line of letters is suspected), exact (SHA-256 of the pixels), near (256-bit
    difference hash, hex).
    """
    import joblib

    todo = items(manifest)
    chunks = [todo[start : start + 32] for start in range(0, len(todo), 32)]
    rows: list[dict[str, Any]] = []
    with joblib.Parallel(n_jobs=workers) as pool:
        for start in range(0, len(chunks), 4 * workers):
            wave = chunks[start : start + 4 * workers]
            done = (
                pool(joblib.delayed(_measure_chunk)(chunk) for chunk in wave)
                if workers > 1
                else map(_measure_chunk, wave)
            )
            rows += [row for chunk in done for row in chunk]
            if progress:
                progress(sum(len(chunk) for chunk in wave))
    small = np.stack([row.pop("small") for row in rows])
    return pd.DataFrame(rows), small


def _measure_chunk(chunk: Sequence[Item]) -> list[dict[str, Any]]:
    cv2.setNumThreads(1)
    return [measure_one(item) for item in chunk]


def measure_one(item: Item) -> dict[str, Any]:
    """Return the measures of one image; a refusal while decoding becomes its `code`."""
    empty = {"code": "", "black": 0.0, "white": 0.0, "spread": 0.0, "text": False, "exact": "", "near": ""}
    blank = np.zeros((SMALL, SMALL), np.uint8)
    try:
        image = read_image(item)
    except DicomRefusal as refusal:
        return {**empty, "code": refusal.code, "small": blank}
    pixels = np.asarray(np.round(image * 255), np.uint8)
    small = cv2.resize(pixels, (SMALL, SMALL), interpolation=cv2.INTER_AREA)
    return {
        **empty,
        "black": float((pixels < 3).mean()),
        "white": float((pixels > 252).mean()),
        "spread": float(image.std()),
        "text": letters(pixels) >= _TEXT_RUN[item.volume],
        "exact": hashlib.sha256(np.array(image.shape).tobytes() + image.tobytes()).hexdigest(),
        "near": difference_hash(pixels),
        "small": np.asarray(small, np.uint8),
    }


def difference_hash(pixels: NDArray[np.uint8]) -> str:
    """Return 256 bits (64 hex digits): is each of 16 x 16 cells brighter than its right neighbour."""
    cells = cv2.resize(pixels, (_HASH + 1, _HASH), interpolation=cv2.INTER_AREA).astype(np.int16)
    return np.packbits(cells[:, :-1] > cells[:, 1:]).tobytes().hex()


def letters(pixels: NDArray[np.uint8]) -> int:
    """Return the most letter-like marks on one line: small connected strokes that stand out from what is around them.

    A heuristic for text burned into the image (SE-11): strokes under 11 pixels wide that are an eighth of the grey
    range brighter or darker than their surroundings, or white or black. Of names with years written in white at 10, 14,
    20, 28 and 40 pixels on 60 enlarged chest films, 56, 58, 60, 60 and 60 reached 5 marks; so did 17 of 383 films
    without text.
    """
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (11, 11))
    longest = 0
    strokes = [cv2.morphologyEx(pixels, way, kernel) > _STROKE for way in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT)]
    for marks in (*strokes, pixels > 247, pixels < 8):
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
