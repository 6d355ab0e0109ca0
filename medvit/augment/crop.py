"""Random crops that keep most of the anatomy: what masked autoencoding asks of augmentation, and no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.augment.fused import warp
from medvit.augment.random_streams import stream_keys, uniform
from medvit.errors import ConfigError


@dataclass(frozen=True)
class RandomCrop:
    """A window of each image [C *S] at a random place, enlarged to the whole size; never a flip, turn or other grey.

    share: range of the window's sides, as a share of the image's, drawn on its own for every axis, so that 0.7 to 1.0
    leaves at least half of a film. All channels, and images of one position (a bag), have the same window. Values
    between pixels are linear. Raises ConfigError for a range that is none, or leaves less than half a side.
    """

    share: Sequence[float] = (0.7, 1.0)

    def __post_init__(self) -> None:
        """Check the range."""
        if len(self.share) != 2 or not 0.5 <= self.share[0] <= self.share[1] <= 1:
            raise ConfigError(
                f"augment.share={list(self.share)}: expected [least, most] with 0.5 <= least <= most <= 1"
            )

    def windows(self, seed: int, epoch: int, position: NDArray[np.int64], size: tuple[int, ...]) -> NDArray[np.float64]:
        """Return first pixel and step of each axis [n axes 2]: pixel i of the crop lies at first + i * step."""
        axes = len(size)
        drawn = uniform(stream_keys(seed, epoch, position), 2 * axes).reshape(-1, axes, 2)
        low, high = self.share
        step = low + (high - low) * drawn[..., 0]
        room = np.array(size) * (1 - step)  # of the window's edges, which are half a pixel beyond its outer pixels
        return np.stack([room * drawn[..., 1] + step / 2 - 0.5, step], axis=-1)

    def __call__(
        self, images: NDArray[Any], seed: int, epoch: int, position: NDArray[np.int64], member: NDArray[np.int64]
    ) -> NDArray[Any]:
        """Return the crops, integers [n C *S]; nothing outside the image is ever seen in them."""
        del member
        size = images.shape[2:]
        out = np.empty_like(images)
        for n, window in enumerate(self.windows(seed, epoch, position, size)):
            (top, down), (left, right) = window[-2:]
            matrix = np.array([[down, 0.0, top], [0.0, right, left]])
            for channel, target in zip(images[n], out[n], strict=True):
                slices = _between(channel, *window[0]) if len(size) == 3 else channel[None]
                for plane, place in zip(slices, target.reshape(-1, *size[-2:]), strict=True):
                    place[...] = _inside(plane, matrix)
        return out


def _inside(plane: NDArray[Any], matrix: NDArray[np.float64]) -> NDArray[Any]:
    """Return the plane resampled; half a pixel beyond the outer ones, they go on as they are (and not as zeros)."""
    bordered = np.pad(plane, 1, mode="edge")
    moved: NDArray[Any] = warp(bordered, matrix + np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]))
    return moved[: plane.shape[0], : plane.shape[1]]


def _between(volume: NDArray[Any], first: float, step: float) -> NDArray[Any]:
    """Return as many slices of a volume (slice, row, column) as it has, linearly between its own."""
    place = np.clip(first + step * np.arange(len(volume)), 0, len(volume) - 1)
    below = np.minimum(place.astype(np.int64), max(len(volume) - 2, 0))
    above = np.minimum(below + 1, len(volume) - 1)
    share = (place - below).astype(np.float32)[:, None, None]
    mixed: NDArray[Any] = np.rint(volume[below] * (1 - share) + volume[above] * share).astype(volume.dtype)
    return mixed
