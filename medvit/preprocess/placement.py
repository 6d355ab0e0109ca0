"""Coordinates between the model's input and the original image or volume, both ways."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.preprocess.resize import resize, resize_volume


@dataclass(frozen=True, slots=True)
class Placement:
    """How an array of shape `original` became one of shape `size`; every field has one entry per axis.

    Its axes were put in the order `axes` and those marked in `flip` reversed; then the box from `start` of `extent`
    was cut out, resampled to `inner`, and laid at `offset` on the canvas (a negative offset crops).
    """

    original: tuple[int, ...]
    start: tuple[int, ...]
    extent: tuple[int, ...]
    inner: tuple[int, ...]
    offset: tuple[int, ...]
    size: tuple[int, ...]
    axes: tuple[int, ...] = (0, 1)
    flip: tuple[bool, ...] = (False, False)

    @property
    def _ratio(self) -> NDArray[np.float64]:
        return np.divide(self.extent, self.inner)

    def to_original(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Map (..., axes) points from pixels of the model's input to indices of the original; centres are integers."""
        turned = (
            (np.asarray(points, np.float64) - np.array(self.offset) + 0.5) * self._ratio - 0.5 + np.array(self.start)
        )
        found: NDArray[np.float64] = np.empty_like(turned)
        for axis, (source, flipped) in enumerate(zip(self.axes, self.flip, strict=True)):
            found[..., source] = self.original[source] - 1 - turned[..., axis] if flipped else turned[..., axis]
        return found

    def to_model(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Map (..., axes) points from the original to the model's input; what was cropped away lands outside."""
        given = np.asarray(points, np.float64)
        turned: NDArray[np.float64] = np.empty_like(given)
        for axis, (source, flipped) in enumerate(zip(self.axes, self.flip, strict=True)):
            turned[..., axis] = self.original[source] - 1 - given[..., source] if flipped else given[..., source]
        placed: NDArray[np.float64] = (turned - self.start + 0.5) / self._ratio - 0.5 + self.offset
        return placed

    def affine(self, original: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the affine (4, 4) of the model's input, `original` being that of the original."""
        count = len(self.size)
        corners = self.to_original(np.vstack([np.zeros(count), np.eye(count)]))
        turned = np.eye(4)
        turned[:count, :count] = (corners[1:] - corners[0]).T
        turned[:count, 3] = corners[0]
        return np.asarray(original @ turned)

    def map_to_original(self, image: NDArray[Any], outside: float = 0.0) -> NDArray[np.float32]:
        """Resample a map at the model's size onto the original grid, float32; what was cropped away is `outside`.

        Raises ValueError when the map does not have the shape `size`.
        """
        if image.shape != self.size:
            raise ValueError(f"a map of shape {image.shape} does not lie on a model input of shape {self.size}")
        inner = np.full(self.inner, outside, np.float32)
        on_canvas, on_inner = overlap(self.offset, self.inner, self.size)
        inner[on_inner] = image[on_canvas]
        box = resize(inner, self.extent) if len(self.size) == 2 else resize_volume(inner, self.extent)  # type: ignore[arg-type]
        turned = np.full([self.original[source] for source in self.axes], outside, np.float32)
        turned[tuple(slice(a, a + n) for a, n in zip(self.start, self.extent, strict=True))] = box
        turned = np.flip(turned, tuple(axis for axis, flipped in enumerate(self.flip) if flipped))
        return np.ascontiguousarray(turned.transpose(np.argsort(self.axes)))

    def to_json(self) -> dict[str, Any]:
        """Return plain lists."""
        return {name: list(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Placement:
        """Rebuild what `to_json` gave."""
        return cls(**{name: tuple(value) for name, value in data.items()})


def overlap(
    offset: tuple[int, ...], inner: tuple[int, ...], size: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the slices of the canvas and of the inner array that lie on each other."""
    canvas, part = [], []
    for at, length, side in zip(offset, inner, size, strict=True):
        first, last = max(0, at), min(side, at + length)
        canvas.append(slice(first, last))
        part.append(slice(first - at, last - at))
    return tuple(canvas), tuple(part)
