"""Fingerprints of images: the same pixels, or the same picture after a resize, another window or a crop.

Grey values are replaced by their ranks, so that no monotone window matters; the image is then described by what stands
out from its surroundings, so that two chests do not look alike because both are chests. A crop is sought among windows
that cut 0, 6 or 12 % off each edge; the best three candidates per image are aligned edge by edge and judged at twice
the resolution. Not sought: flips, rotations, and crops of more than about 18 % of a side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvit.dataset.manifest import Manifest
from medvit.errors import DicomRefusal
from medvit.preprocess.resize import to_uint8
from medvit.types import Film

SIDE = 96
ALIKE = 0.88  # correlation of two descriptions; different chest films stay below 0.7, copies above 0.94
_OWN = 0.85  # the same less what all images of the set share; 0.5 and 0.92
_ENOUGH = 12  # images that can say what all share
_FINE, _COARSE = (48, 2.5), (16, 1.5)  # side of a description, and the Gaussian that is its surroundings, pixels
_CUTS = (0.0, 0.06, 0.12)
_STEPS = (0.04, 0.02, 0.01)
_MAYBE, _CANDIDATES = 0.7, 3
_HOPELESS = 0.45  # of the best of 81 windows; a true crop between two of them has 0.5 and more
_BLOCK = 128

Floats = NDArray[np.float32]
T = TypeVar("T")
Window = tuple[float, float, float, float]  # cut off at top, bottom, left, right, shares of the side


class CachedImages(Protocol):
    """Decoded images of manifest rows in their order, such as `data.cache.Cache`."""

    rows: pd.DataFrame

    def __len__(self) -> int: ...

    def gather(self, indices: Sequence[int]) -> NDArray[Any]:
        """Return the images of these rows [B C *S], integers."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image to look at: its files, which volume of theirs, and whether it is a volume."""

    paths: tuple[Path, ...]
    volume_key: str
    volume: bool


@dataclass(frozen=True)
class Fingerprints:
    """Of n images: `exact` (SHA-256 of shape and pixels, hex; "" unreadable) and `sketch` (uint8 [n 96 96], ranks)."""

    exact: tuple[str, ...]
    sketch: NDArray[np.uint8]


def items(manifest: Manifest) -> list[Item]:
    """Return what to look at, in row order."""
    keys, kinds = manifest.table["volume_key"], manifest.table["kind"]
    return [Item(tuple(manifest.paths(row)), keys.iloc[row], kinds.iloc[row] == "volume") for row in range(len(keys))]


def read_image(item: Item) -> Floats:
    """Return the display values in 0 to 1 (row, column) of a film, or of the middle slice of a volume.

    Raises DicomRefusal as the readers do.
    """
    from medvit.preprocess.film import FilmPreprocess
    from medvit.preprocess.volume import VolumePreprocess

    if not item.volume:
        film: Film = FilmPreprocess().read(item.paths[0])
        return film.display()
    volume = VolumePreprocess(size=(1, SIDE, SIDE)).read(list(item.paths), item.volume_key)
    middle = volume.values[len(volume.values) // 2]
    low, high = np.percentile(middle, [1, 99])
    return np.asarray(np.clip((middle - low) / max(float(high - low), 1e-6), 0, 1), np.float32)


def of_manifest(manifest: Manifest, workers: int = 1, progress: Callable[[int], object] | None = None) -> Fingerprints:
    """Decode every image of the manifest (of a volume the middle slice) and take its fingerprint, in row order."""
    found = each_image(_of_item, manifest, workers, progress)
    return Fingerprints(tuple(exact for exact, _ in found), np.stack([small for _, small in found]))


def each_image(
    function: Callable[[Item], T], manifest: Manifest, workers: int, progress: Callable[[int], object] | None
) -> list[T]:
    """Return `function` of every image of the manifest, in row order; chunks of images run in parallel."""
    import joblib

    todo, found = items(manifest), list[T]()
    chunks = [todo[start : start + 32] for start in range(0, len(todo), 32)]
    with joblib.Parallel(n_jobs=workers, return_as="generator") as pool:
        for chunk in pool(joblib.delayed(_each)(function, chunk) for chunk in chunks):
            found += chunk
            if progress:
                progress(len(chunk))
    return found


def _each(function: Callable[[Item], T], chunk: Sequence[Item]) -> list[T]:
    cv2.setNumThreads(1)
    return [function(item) for item in chunk]


def _of_item(item: Item) -> tuple[str, NDArray[np.uint8]]:
    try:
        image = read_image(item)
    except DicomRefusal:
        return "", np.zeros((SIDE, SIDE), np.uint8)
    return pixel_digest(image), sketch(np.asarray(np.round(image * 255), np.uint8))


def of_cache(cache: CachedImages) -> Fingerprints:
    """Take the fingerprints of cached rows, in their order: exact ones of all their images, sketches of the middle."""
    exact, small = [], []
    for row in range(len(cache)):
        pixels = cache.gather([row])
        exact.append(pixel_digest(pixels))
        plane = pixels[len(pixels) // 2, 0]
        while plane.ndim > 2:
            plane = plane[len(plane) // 2]
        small.append(sketch(to_uint8(plane)))
    return Fingerprints(tuple(exact), np.stack(small) if small else np.zeros((0, SIDE, SIDE), np.uint8))


def pixel_digest(image: NDArray[Any]) -> str:
    """Return the SHA-256 (hex) of shape, type and pixels."""
    head = f"{image.shape}{image.dtype}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(image).tobytes()).hexdigest()


def sketch(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the ranks of the grey values (0 to 255) of an image [H W], averaged to 96 x 96."""
    counts = np.bincount(image.ravel(), minlength=256)
    ranks = (np.cumsum(counts) - counts / 2) * (255.0 / image.size)
    small = cv2.resize(ranks.astype(np.float32)[image], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(np.round(small), np.uint8)


def near_pairs(sketches: NDArray[np.uint8], apart: Sequence[Any], *, crops: bool = True) -> pd.DataFrame:
    """Return pairs of images that show one picture: columns row < other, score (0.88 to 1) and how ("whole", "crop").

    sketches: uint8 [n 96 96]; blank ones match nothing. apart: only images with different values here are compared (the
    patient, or the side of a split). crops: also seek crops, at about 50 ms per image and n^2 x 40,000 operations.
    """
    owner = pd.factorize(np.asarray(apart, object))[0]
    whole = describe(sketches, *_FINE)
    common = whole.mean(0) if len(whole) >= _ENOUGH else np.zeros(whole.shape[1], np.float32)
    found: dict[tuple[int, int], tuple[float, str]] = {}
    for row, other, score in _close(whole, owner, ALIKE):
        if _own_agreement(whole[row], whole[other], common) >= _OWN:
            found[row, other] = (score, "whole")
    for row, other in _candidates(sketches, owner) if crops else ():
        pair = (min(row, other), max(row, other))
        if pair not in found:
            score, aligned = _aligned(whole[row], sketches[other])
            if score >= ALIKE and _own_agreement(whole[row], aligned, common) >= _OWN:
                found[pair] = (score, "crop")
    rows = [(row, other, round(min(score, 1.0), 4), how) for (row, other), (score, how) in sorted(found.items())]
    return pd.DataFrame(rows, columns=["row", "other", "score", "how"])


def describe(images: Sequence[NDArray[Any]] | NDArray[Any], side: int, sigma: float) -> Floats:
    """Return unit vectors [n side*side]: each pixel less its Gaussian surroundings, over the local spread.

    Images without structure (spread below half a grey level of 256) give the zero vector.
    """
    vectors = np.zeros((len(images), side * side), np.float32)
    for number, image in enumerate(images):
        small = cv2.resize(np.asarray(image, np.float32), (side, side), interpolation=cv2.INTER_AREA)
        detail = small - cv2.GaussianBlur(small, (0, 0), sigma)
        spread = np.sqrt(np.maximum(cv2.GaussianBlur(detail * detail, (0, 0), 1.5 * sigma), 0))
        if detail.std() > 0.5:
            vector = (detail / (spread + 5.0)).ravel()
            vectors[number] = vector / np.linalg.norm(vector)
    return vectors


def _close(vectors: Floats, owner: NDArray[np.int64], least: float) -> Iterator[tuple[int, int, float]]:
    """Yield the pairs of different owners whose vectors agree, also as negatives of each other."""
    for start in range(0, len(vectors), _BLOCK):
        score = np.abs(vectors[start : start + _BLOCK] @ vectors[start:].T)
        score[owner[start : start + _BLOCK, None] == owner[None, start:]] = 0.0
        for one, two in zip(*np.nonzero(np.triu(score, 1) >= least), strict=True):
            yield start + int(one), start + int(two), float(score[one, two])


def _candidates(sketches: NDArray[np.uint8], owner: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield (row, other): the whole of `row` may be a window of `other`."""
    windows = [(top, bottom, left, right) for top in _CUTS for bottom in _CUTS for left in _CUTS for right in _CUTS]
    views = np.stack([describe([_cut(image, window) for window in windows], *_COARSE) for image in sketches])
    whole = views[:, 0]
    best = np.full((len(whole), _CANDIDATES), -1)
    score = np.zeros((len(whole), _CANDIDATES), np.float32)
    for start in range(0, len(views), _BLOCK):
        block = views[start : start + _BLOCK]
        agree = np.abs(whole @ block.reshape(-1, block.shape[2]).T).reshape(len(whole), len(block), -1).max(2)
        agree[owner[:, None] == owner[None, start : start + len(block)]] = 0.0
        every = np.concatenate([score, agree], axis=1)
        names = np.concatenate([best, np.tile(np.arange(start, start + len(block)), (len(whole), 1))], axis=1)
        order = np.argsort(-every, axis=1, kind="stable")[:, :_CANDIDATES]
        score, best = np.take_along_axis(every, order, 1), np.take_along_axis(names, order, 1)
    for row, place in zip(*np.nonzero(score >= _MAYBE), strict=True):
        yield int(row), int(best[row, place])


def _own_agreement(one: Floats, two: Floats, common: Floats) -> float:
    """Return the correlation of two descriptions less what all share; `two` may be a negative."""
    first, second = one - common, two * np.sign(one @ two) - common
    return float(first @ second / max(float(np.linalg.norm(first) * np.linalg.norm(second)), 1e-9))


def _aligned(wanted: Floats, image: NDArray[np.uint8]) -> tuple[float, Floats]:
    """Return the best agreement of `wanted` with a window of `image`, moving one edge at a time, and the window."""

    def view(window: Window) -> Floats:
        (found,) = describe([_cut(image, window)], *_FINE)
        return np.asarray(found, np.float32)

    def score(window: Window) -> float:
        return abs(float(view(window) @ wanted))

    window = max(((a, b, c, d) for a in _CUTS for b in _CUTS for c in _CUTS for d in _CUTS), key=score)
    best = score(window)
    if best < _HOPELESS:
        return best, view(window)
    for step in _STEPS:
        moved = True
        while moved and best < 0.98:
            moved = False
            for edge in range(4):
                for change in (-step, step):
                    cut = min(max(window[edge] + change, 0.0), 0.2)
                    trial = (*window[:edge], cut, *window[edge + 1 :])
                    value = score(trial)  # type: ignore[arg-type]
                    if value > best:
                        window, best, moved = trial, value, True  # type: ignore[assignment]
    return best, view(window)


def _cut(image: NDArray[np.uint8], window: Window) -> NDArray[np.uint8]:
    top, bottom, left, right = (round(cut * SIDE) for cut in window)
    return image[top : SIDE - bottom, left : SIDE - right]
