"""The trial of random transforms on generated images, before a run is opened: what each must not do.

Training images are changed by draws that follow from (seed, epoch, position) alone. A transform that draws elsewhere,
keeps something of the image before, or is not random at all, makes no error: it makes a training that nobody repeats.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.augment.monai_random import Monai, applied
from medvit.augment.random_streams import stream_keys
from medvit.preprocess.step_trial import Found, generated, lost, saturation

_DRAWS, _CERTAIN = 24, 6  # of a transform that may leave an image as it is, and of one that is made not to
_SECONDS = 0.4  # for the draws of one transform
_OF_AN_IMAGE = (TypeError, ValueError, RuntimeError, KeyError, IndexError, AttributeError, ArithmeticError)
Image = NDArray[np.float32]


def problems(part: Monai, shape: Sequence[int]) -> Found:
    """Try every transform of a part on images [C *S] of `shape`.

    The random numbers of torch, numpy and Python are as they were afterwards.
    """
    import torch

    sides = tuple(shape[1:]) if shape[0] == 1 else tuple(shape)
    images = [generated(sides, seed).reshape(shape) for seed in (1, 2, 3)]
    images = [image.reshape(-1, *shape[-2:]) if part.in_plane else image for image in images]
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002 - what others draw from
    refused, told, changing = list[str](), list[str](), list[str]()
    try:
        for number, transform in enumerate(part.transforms):
            name = f"{part.where}, step {part.before + number + 1}: {type(transform).__name__}"
            found = _of_one(_certain(transform), number, images, name, changing)
            refused += found.refused
            told += found.told
        if changing and not refused:
            refused += _shape_lost(part, images, changing[0])
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        random.setstate(kept[2])
    return Found(refused, told)


def _of_one(transform: Any, number: int, images: Sequence[Image], name: str, changing: list[str]) -> Found:
    """Try one transform; one that changes the shape is noted in `changing`, as a later one may change it back."""

    def draw(count: int) -> Image:
        return _drawn(transform, number, images[count % 3], count)

    try:
        start = time.perf_counter()
        draw(0)
        wanted = _CERTAIN if hasattr(transform, "prob") else _DRAWS
        count = int(np.clip(_SECONDS / (2 * (time.perf_counter() - start) + 1e-9), 2, wanted))
        before = _global_numbers()
        first = [draw(place) for place in range(count)]
        after = _global_numbers()
        drawn = [library for library in before if before[library] != after[library]]
        # in the other order, so that each comes after another image than before
        again = [draw(place) for place in reversed(range(count))][::-1]
        still = [one for one in _not_random(transform) if _changes(one, number, images[0])]
    except ImportError as error:
        return Found([f"{name} needs a package that is not installed: {error}"], [])
    except _OF_AN_IMAGE as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return Found([f"{name} cannot change an image of shape {list(images[0].shape)} ({said})"], [])
    same = all(a.shape == b.shape and np.array_equal(a, b, equal_nan=True) for a, b in zip(first, again, strict=True))
    refused = [] if same else [f"{name} {_elsewhere(transform, drawn)}"]
    if not all(np.isfinite(image).all() for image in first):
        refused.append(f"{name} gives values that are not finite")
    if shapes := {image.shape for image in first} - {images[0].shape}:
        changing.append(f"{name} changes the shape from {list(images[0].shape)} to {list(min(shapes))}")
    elif still and same:
        inside = "" if still == [transform] else f" holds {', '.join(type(one).__name__ for one in still)}, which"
        refused.append(f"{name}{inside} {_STILL}")
    if refused or shapes:
        return Found(refused, [])
    share = float(np.mean([lost(images[place % 3], image) for place, image in enumerate(first)]))
    return saturation(name, share, _SMALLER)


def _shape_lost(part: Monai, images: Sequence[Image], first: str) -> list[str]:
    """Say which transform changed the shape, where no later one brings it back."""
    certain = [_certain(transform) for transform in part.transforms]
    for count in range(_CERTAIN):
        image = images[count % 3]
        for number, transform in enumerate(certain):
            image = _drawn(transform, number, image, count)
        if image.shape != images[0].shape:
            return [f"{first}, and an image of the network has to keep its own: {_SHAPE}"]
    return []


def _drawn(transform: Any, number: int, image: Image, count: int) -> Image:
    """Return an image after one transform, by the numbers of the draw `count`."""
    import torch

    stream = int(stream_keys(0, 0, np.array([count]))[0])
    return np.asarray(applied(transform, number, torch.from_numpy(image.copy()), stream), np.float32)


def _certain(transform: Any) -> Any:
    """Return a copy that changes every image, where the transform has a `prob`, with those inside it."""
    made = copy.deepcopy(transform)
    for one in _all(made):
        if isinstance(getattr(one, "prob", None), float | int) and one.prob > 0:
            one.prob = 1.0
    return made


def _all(transform: Any) -> Iterator[Any]:
    yield transform
    for one in getattr(transform, "transforms", ()):
        yield from _all(one)


def _not_random(transform: Any) -> Iterator[Any]:
    """Yield what draws nothing: itself, or what a plain Compose holds; OneOf, SomeOf and RandomOrder draw."""
    from monai.transforms.compose import Compose
    from monai.transforms.transform import Randomizable

    if type(transform) is Compose:
        for one in transform.transforms:
            yield from _not_random(one)
    elif not isinstance(transform, Randomizable):
        yield transform


def _changes(transform: Any, number: int, image: Image) -> bool:
    return not np.array_equal(_drawn(transform, number, image, 0), image)


def _elsewhere(transform: Any, drawn: Sequence[str]) -> str:
    """Say why a transform gives another result for the same image and seed."""
    from monai.transforms.transform import Randomizable

    known = isinstance(transform, Randomizable)
    derive = "" if known else "derive from monai.transforms.RandomizableTransform, "
    why = f"it draws from the global numbers of {' and '.join(drawn)}" if drawn else (
        "it keeps something of the image before, or draws from numbers of its own"
    )  # fmt: skip
    return f"gives another result for the same image and seed: {why}; {derive}draw from self.R and keep nothing"


def _global_numbers() -> dict[str, bytes]:
    """Return the states of the generators that every library may draw from."""
    import torch

    numpy: Any = np.random.get_state()  # noqa: NPY002
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": numpy[1].tobytes() + bytes(str(numpy[2]), "ascii"),
        "random": repr(random.getstate()).encode(),
    }


_STILL = (
    "is not random: it would change the training images alone; put it into preprocess.after_resampling (or "
    "after_reading, before_normalisation), where it changes every image"
)
_SMALLER = "a random step gets 0 black to 1 white, before the normalisation: give it a smaller range, of such values"
_SHAPE = "take one that keeps it (RandZoomd, RandAffined), or put Resized behind it"
