"""The trial of a preprocessing's steps on generated images, before anything is read: what they must not do.

A step that is random, keeps something of the image before, changes the shape, moves the image, or drives its values
beyond black and white makes no error in a training: it makes another training than the one that was asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medvit.errors import ConfigError, DicomRefusal
from medvit.preprocess.steps import MOVES, PLACES, RANDOM, WHOLE, Node, forget, numbered, run, run_whole, short
from medvit.preprocess.whole_chain import by_monai

Image = NDArray[np.float32]
Where = Callable[[NDArray[np.float64]], NDArray[np.float64]]
MOST_LOST, WORTH_TELLING = 0.25, 0.01
"""Shares of the grey pixels driven beyond black or white: above the first refused, above the second told."""
_GREY = (0.05, 0.95)  # neither black nor white: what noise pushes beyond on a black background is no loss
_HALF_LEVEL = 0.5 / 255
_SPOTS = np.array([(0.3, 0.32, 0.36), (0.6, 0.68, 0.30), (0.7, 0.42, 0.70), (0.4, 0.6, 0.55)])
_VOLUME = (24, 64, 64)  # a quick size for the places where a volume may have any
_SERIES = np.array([[3.0, 0, 0, -90], [0, 0, -0.9, 80], [0, -0.9, 0, 100], [0, 0, 0, 1]])  # RIP: an order nobody names
_AXIAL = np.array([[0, 0, -1.5, 90], [0, -1.5, 0, 80], [2.0, 0, 0, -60], [0, 0, 0, 1]])  # SPL
_FILM = np.diag([0.2, 0.2, 1.0, 1.0])


class Found(NamedTuple):
    """What a trial found: what is refused, and what is only told."""

    refused: list[str]
    told: list[str]


def problems(definition: Any) -> Found:
    """Try the steps of a preprocessing, each on generated images as its place has them."""
    if WHOLE in definition.steps:
        return _of_whole(definition)
    refused: list[str] = []
    good: list[tuple[str, Node]] = []
    loses = False
    for place, number, node in numbered(definition.steps):
        name = f"{place}, step {number}: {short(node)}"
        shape, affine = _scene(definition, place)
        first, second = (generated(shape, seed) for seed in (1, 2))
        forget()  # what an earlier image left in a step would hide what it keeps
        try:
            once, other = (run([node], image, affine) for image in (first, second))
            again = run([node], first, affine)
            if not np.array_equal(once, again):
                refused.append(f"{name} {_CHANGES}")
                continue
            pairs = [
                (image, done, run([node], spotted(image), affine)) for image, done in ((first, once), (second, other))
            ]
        except (ConfigError, DicomRefusal) as error:
            refused.append(f"{place}, step {number}: {error}")
            continue
        if any(_moved(image, done, with_spots, lambda points: points) for image, done, with_spots in pairs):
            refused.append(f"{name} {MOVES}")
            continue
        if _is_shown(definition, place):
            good.append((name, node))
            loses = loses or lost(first, once) > WORTH_TELLING
    found = _beyond(definition, good) if loses else Found([], [])
    return Found(refused + found.refused, found.told)


def _scene(definition: Any, place: str) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Return shape and affine of an image at `place`: any size before the canvas, where the size counts."""
    size, film = _size(definition), definition.kind == "film"
    affine = _AXIAL if place != PLACES[0] and getattr(definition, "orientation", "") == "axial" else _SERIES
    affine = _FILM if film else affine
    if place == PLACES[2] or (place == PLACES[1] and film and definition.fit == "stretch"):
        return size, affine
    few = size if film else _VOLUME
    if place == PLACES[1]:
        return (*few[:-1], max(1, few[-1] * 3 // 4)), affine
    return tuple(side + 9 * (axis + 1) for axis, side in enumerate(few)), affine


def _size(definition: Any) -> tuple[int, ...]:
    """Return the canvas; a bag has any number of slices up to its own, and a few do."""
    sides = tuple(definition.size)
    return (min(sides[0] or 8, 8), *sides[1:]) if getattr(definition, "mode", "") == "slices" else sides


def _is_shown(definition: Any, place: str) -> bool:
    """Say whether 0 is black and 1 white at a place: a volume as it was read has HU or a signal."""
    return definition.kind == "film" or place != PLACES[0]


def _beyond(definition: Any, steps: Sequence[tuple[str, Node]]) -> Found:
    """Run `steps` one after the other and say which drives values away for good: they are clipped after the last."""
    shape, affine = _scene(definition, PLACES[1])
    image = generated(shape, 1)
    shares, value = [0.0], image
    for _, node in steps:
        try:
            value = run([node], value, affine)
        except (ConfigError, DicomRefusal):  # it did what it should by itself
            return Found([], [])
        shares.append(lost(image, value))
    worst = int(np.argmax(np.diff(shares)))
    return saturation(steps[worst][0], shares[-1])


def lost(before: NDArray[Any], after: NDArray[Any]) -> float:
    """Return the share of the grey pixels of `before` that are beyond 0 (black) or 1 (white) in `after`."""
    grey = np.asarray((before > _GREY[0]) & (before < _GREY[1]))
    beyond = (after < -_HALF_LEVEL) | (after > 1 + _HALF_LEVEL)
    return float((grey & beyond).sum()) / max(1, int(grey.sum()))


def saturation(name: str, share: float, instead: str = "") -> Found:
    """Say what a step that drives `share` of the grey pixels away does, refused or told, and what to do `instead`."""
    said = f"{name} drives {share:.0%} of the grey pixels of a generated image beyond 0 (black) and 1 (white)"
    if share > MOST_LOST:
        return Found([f"{said}, where all are clipped: {instead or _SCALE}"], [])
    return Found([], [f"{said}, where they are clipped"] if share > WORTH_TELLING else [])


def _of_whole(definition: Any) -> Found:
    """Try a list that is another chain as a whole."""
    film, size = definition.kind == "film", _size(definition)
    shape = tuple(side + 9 * (axis + 1) for axis, side in enumerate(size))
    affine = _FILM if film else _SERIES
    first, second = (generated(shape, seed) for seed in (1, 2))
    forget()
    try:
        once, where, _ = by_monai(definition, first, affine)
        other, _, _ = by_monai(definition, second, affine)
        again, _, _ = by_monai(definition, first, affine)
        if not np.array_equal(once, again) or other.dtype != once.dtype:
            return Found([f"transforms: a step {_CHANGES}"], [])
        display = run_whole(definition.steps[WHOLE], first, affine)[0]
        pairs = [(first, once), (second, other)]
        spots = [by_monai(definition, spotted(image), affine)[0] for image, _ in pairs]
    except (ConfigError, DicomRefusal) as error:
        return Found([str(error)], [])
    if any(_moved(image, done, more, where.to_model) for (image, done), more in zip(pairs, spots, strict=True)):
        return Found([f"transforms: a step moves the image without saying so in its affine: {MOVES}"], [])
    beyond = float(np.mean((display < -_HALF_LEVEL) | (display > 1 + _HALF_LEVEL)))
    return saturation("transforms: the list", beyond)


def generated(shape: tuple[int, ...], seed: int) -> Image:
    """Return smooth values in [0, 1] with some grain and a dark surround, as images have, off the middle."""
    axes = [*np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")]
    axes[-1] = axes[-1] + (0.15 if seed % 2 else -0.15)  # so that a step that turns every image one way turns one
    ball = np.clip(1.2 - np.sqrt(sum(axis**2 for axis in axes)) * (1 + 0.1 * seed), 0, 1)
    grain = np.random.default_rng(seed).random(shape) * 0.1
    return np.asarray(np.clip(ball * (0.9 + grain), 0, 1), np.float32)


def _spots(shape: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return where dark spots are put [n axes], and how wide they are along each axis, pixels."""
    sides = np.array(shape)
    return _SPOTS[:, -len(shape) :] * (sides - 1), np.maximum(1.0, sides / 40)


def spotted(image: Image) -> Image:
    """Return an image with dark spots at a few places that no flip or turn takes to one another."""
    points, width = _spots(image.shape)
    height = np.zeros(image.shape, np.float32)
    for point in points:
        along = [
            np.exp(-0.5 * ((np.arange(n) - x) / w) ** 2) for n, x, w in zip(image.shape, point, width, strict=True)
        ]
        height += functools.reduce(np.multiply.outer, along).astype(np.float32)
    return np.asarray(image * (1 - 0.5 * np.clip(height, 0, 1)), np.float32)


def _moved(image: Image, done: NDArray[Any], with_spots: NDArray[Any], where: Where) -> bool:
    """Say whether the spots are elsewhere in the result than `where` has them."""
    points, width = _spots(image.shape)
    before = _centres(np.abs(spotted(image) - image), points, width + 1)[0]
    ratio = np.abs(where(np.full(image.ndim, 1.0)) - where(np.zeros(image.ndim)))
    change = with_spots.astype(np.float64) - done.astype(np.float64)
    change -= np.median(change)
    change = np.maximum(change * np.sign(change.max() + change.min()), 0)  # without the rings that a sharpening leaves
    if change.max() <= 1e-4 * max(1e-6, float(np.ptp(done.astype(np.float64)))):
        return False  # nothing is left of the spots: it tells nothing
    expected = where(before)
    after, stray = _centres(change, where(points), (width + 1) * ratio)
    few = np.where(np.array(done.shape) < 16, 0.3, 0) * done.shape  # between few slices a filter feels the ends
    tolerance = np.maximum(np.maximum(1.5, few), 0.6 * width * ratio)  # a threshold leaves half a spot
    aside = (np.abs(after - expected) > tolerance).any(axis=1)  # no centre is nan, and nan is not aside
    return stray > 0.3 or int(aside.sum()) > 1


def _centres(
    change: NDArray[Any], points: NDArray[np.float64], width: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Return the centre of what changed most around each point, nan where nothing did, and the share of the rest."""
    most = np.argwhere(change >= 0.4 * change.max())
    weight = change[tuple(most.T)]
    distance = np.sqrt((((most[:, None] - points[None]) / width) ** 2).sum(-1))
    nearest, near = distance.argmin(axis=1), distance.min(axis=1) < 3
    centres = np.full(points.shape, np.nan)
    for spot in range(len(points)):
        mine = near & (nearest == spot)
        if mine.any():
            centres[spot] = np.average(most[mine], axis=0, weights=weight[mine])
    return centres, float(1 - near.mean())


_CHANGES = (
    "gives another result for the same image after another one: it is random, or keeps something of the image before; "
    f"{RANDOM}"
)
_SCALE = (
    "scale them to 0..1 in the same step or the next (monai.transforms.ScaleIntensityRangePercentilesd, lower: 1, "
    "upper: 99, b_min: 0, b_max: 1, clip: true); mean and deviation are normalised at the end of the pipeline anyway "
    "(preprocess.mean, preprocess.std)"
)
