"""Random changes of training images: the default presets as one fused pass over integers, equal to MONAI's transforms.

Which transforms those are, `medvit.augment.chain` says.

Nothing here flips: a left-right flip makes a situs inversus and mirrors side markers. For any transform of MONAI see
`monai_random`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from medvit.augment.random_streams import stream_keys, uniform
from medvit.errors import ConfigError

_DEGREE = 3  # of the bias field's Legendre polynomials
_TERMS = (_DEGREE + 1) * (_DEGREE + 2) // 2
CHANCES = {"geometry": 1.0, "blur": 0.2, "bias": 0.0, "gamma": 0.5, "contrast": 0.5, "brightness": 0.5, "noise": 0.2}


class SampledChange(NamedTuple):
    """What happens to one image; None where a step is left out. `matrix` (2, 3) gives the source (row, column)."""

    matrix: NDArray[np.float64] | None
    blur: tuple[float, float] | None
    bias: NDArray[np.float64] | None
    gamma: float | None
    contrast: float
    brightness: float
    noise: float


def no_augmentation() -> None:
    """Return no augmentation."""


@dataclass(frozen=True)
class Geometry:
    """Rotation in degrees, shift and zoom as fractions of the side, each uniform in plus or minus; zoom per axis."""

    rotate_deg: float = 10.0
    shift: float = 0.1
    zoom: float = 0.1


@dataclass(frozen=True)
class Fused:
    """Affine, blur, bias field, gamma, contrast, brightness and noise in this order, on uint8 or uint16 [n C *S].

    The last two axes are moved and blurred (slices alike); display values stay in [0, 1]. geometry: fields of
    `Geometry`. blur: sigma range in pixels. bias: largest coefficient of the log field. gamma: range of the exponent.
    tone: largest relative contrast and absolute brightness change. noise: largest deviation. chance: probability of
    each step by name. The default is the X-ray preset. Raises ConfigError for unknown names.
    """

    geometry: Mapping[str, float] = field(default_factory=dict)
    blur: Sequence[float] = (0.3, 1.0)
    bias: float = 0.1
    gamma: Sequence[float] = (0.8, 1.25)
    tone: float = 0.1
    noise: float = 0.03
    chance: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check names and ranges."""
        wrong = [
            f"chance of {name!r}: expected one of {', '.join(CHANCES)}" for name in self.chance if name not in CHANCES
        ]
        wrong += [f"chance of {name} is {p}: expected 0 to 1" for name, p in self.chance.items() if not 0 <= p <= 1]
        unknown = [name for name in self.geometry if name not in Geometry.__dataclass_fields__]
        wrong += [f"geometry {name!r}: expected rotate_deg, shift, zoom" for name in unknown]
        wrong += [] if self.blur[0] > 0 and self.gamma[0] > 0 else ["blur and gamma: expected above 0"]
        if wrong:
            raise ConfigError("augment: " + "; ".join(wrong))

    def draws(self, seed: int, epoch: int, position: NDArray[np.int64], size: tuple[int, int]) -> list[SampledChange]:
        """Return what happens to the images at these positions of the epoch; `size` is (H, W)."""
        chance = {**CHANCES, **self.chance}
        columns = [iter(row) for row in uniform(stream_keys(seed, epoch, position), 20 + _TERMS).tolist()]
        return [self._draw(row, chance, size) for row in columns]

    def _draw(self, row: Any, chance: Mapping[str, float], size: tuple[int, int]) -> SampledChange:
        """Take the numbers of one image in a fixed order, whether a step is used or not."""

        def between(low: float, high: float) -> float:
            return low + (high - low) * float(next(row))

        happens = {name: next(row) < chance[name] for name in CHANCES}
        matrix = _matrix(Geometry(**self.geometry), [between(-1, 1) for _ in range(5)], size)
        blur = (between(*self.blur), between(*self.blur))
        bias = np.array([between(-self.bias, self.bias) for _ in range(_TERMS)])
        gamma = between(*self.gamma)
        contrast, brightness = (between(-self.tone, self.tone) for _ in range(2))
        return SampledChange(
            matrix if happens["geometry"] else None,
            blur if happens["blur"] else None,
            bias if happens["bias"] else None,
            gamma if happens["gamma"] else None,
            contrast if happens["contrast"] else 0.0,
            brightness if happens["brightness"] else 0.0,
            between(0, self.noise) if happens["noise"] else 0.0,
        )

    def __call__(
        self, images: NDArray[Any], seed: int, epoch: int, position: NDArray[np.int64], member: NDArray[np.int64]
    ) -> NDArray[Any]:
        """Return augmented images; those of one position (a bag) share their draws, but each has its own noise."""
        out = np.empty_like(images)
        height, width = images.shape[-2:]
        noise_seeds = stream_keys(seed ^ 0x6E6F, epoch, position * 65536 + member)
        for n, draw in enumerate(self.draws(seed, epoch, position, (height, width))):
            planes, target = images[n].reshape(-1, height, width), out[n].reshape(-1, height, width)
            _apply(planes, target, draw, int(noise_seeds[n]))
        return out


def _matrix(geometry: Geometry, signed: list[float], size: tuple[int, int]) -> NDArray[np.float64]:
    """Return (2, 3): source = R (S (pixel - centre) + shift) + centre, in (row, column), as RandAffine has it."""
    angle = math.radians(geometry.rotate_deg) * signed[0]
    shift = np.array([geometry.shift * size[0] * signed[1], geometry.shift * size[1] * signed[2]])
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear = turn * np.array([1 + geometry.zoom * signed[3], 1 + geometry.zoom * signed[4]])
    centre = (np.array(size) - 1) / 2
    return np.column_stack([linear, turn @ shift + centre - linear @ centre])


def _apply(planes: NDArray[Any], out: NDArray[Any], draw: SampledChange, noise_seed: int) -> None:
    """Change the planes (n, H, W) of one image into `out`, integers at every step."""
    top = np.iinfo(planes.dtype).max
    for plane, target in zip(planes, out, strict=True):
        if draw.matrix is None:
            target[...] = plane
        else:
            warp(plane, draw.matrix, out=target)
        if draw.blur is not None:
            kernels = [_gaussian(sigma) for sigma in draw.blur]
            cv2.sepFilter2D(target, -1, kernels[1], kernels[0], dst=target, borderType=cv2.BORDER_CONSTANT)
        if draw.bias is not None:
            cv2.multiply(target, _field(draw.bias, target.shape), dst=target, dtype=_depth(target))
    if draw.gamma is not None or draw.contrast or draw.brightness:
        ends = (int(out.min()), int(out.max())) if draw.gamma is not None else (0, top)
        if top == 255:
            table = _toned(np.arange(256, dtype=np.float32), draw, ends, top)
            for target in out:
                cv2.LUT(target, table, dst=target)
        else:
            out[...] = _toned(out.astype(np.float32), draw, ends, top)
    if draw.noise:
        cv2.setRNGSeed(noise_seed & 0x7FFFFFFF)  # OpenCV keeps one generator per thread
        noise = np.empty(out.shape[1:], np.int16)  # whole levels: the image is integers, so nothing is lost
        for target in out:
            cv2.randn(noise, 0.0, draw.noise * top)
            cv2.add(target, noise, dst=target, dtype=_depth(target))


def warp(
    plane: NDArray[Any], matrix: NDArray[np.float64], out: NDArray[Any] | None = None, exact: bool = False
) -> NDArray[Any]:
    """Resample a plane (H, W) by the source matrix, linearly, zeros outside; `exact` takes the nearest (masks)."""
    (a, b, row), (c, d, column) = matrix
    how = (cv2.INTER_NEAREST if exact else cv2.INTER_LINEAR) | cv2.WARP_INVERSE_MAP
    swapped = np.array([[d, c, column], [b, a, row]])  # OpenCV counts (x, y)
    return np.asarray(cv2.warpAffine(plane, swapped, plane.shape[::-1], dst=out, flags=how))


def move_boxes(boxes: NDArray[Any], matrix: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Return boxes [n 4] (top, left, bottom, right; pixels) around where `matrix` moves them, cut at the image."""
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    corners = np.asarray(boxes, np.float64)[:, [[0, 1], [0, 3], [2, 1], [2, 3]]]
    moved = corners @ inverse[:2, :2].T + inverse[:2, 2]
    hull: NDArray[np.float64] = np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1)
    limits = np.array([size[0], size[1], size[0], size[1]]) - 1.0
    return np.minimum(np.maximum(hull, 0.0), limits)


def _depth(image: NDArray[Any]) -> int:
    return int(cv2.CV_8U if image.dtype == np.uint8 else cv2.CV_16U)


def _gaussian(sigma: float) -> NDArray[np.float32]:
    """Return the Gaussian integrated over each pixel, to 4 deviations (what MONAI's GaussianSmooth takes)."""
    tail = int(max(sigma * 4.0, 0.5) + 0.5)
    edges = [math.erf((step - 0.5) / (sigma * math.sqrt(2))) for step in range(-tail, tail + 2)]
    return np.array(0.5 * np.diff(edges), np.float32)


def _field(terms: NDArray[np.float64], size: tuple[int, ...]) -> NDArray[np.float32]:
    coefficients = np.zeros((_DEGREE + 1, _DEGREE + 1))
    coefficients[np.tril_indices(_DEGREE + 1)] = terms
    rows, columns = (np.polynomial.legendre.legvander(np.linspace(-1, 1, side), _DEGREE) for side in size)
    return np.exp(rows @ coefficients @ columns.T).astype(np.float32)


def _toned(values: NDArray[np.float32], draw: SampledChange, ends: tuple[int, int], top: int) -> NDArray[Any]:
    """Return gamma between the image's ends, then contrast and brightness, rounded to the integers of `top`."""
    if draw.gamma is not None:
        low, span = ends[0], max(1, ends[1] - ends[0])
        values = np.clip((values - low) / np.float32(span), 0, 1) ** np.float32(draw.gamma) * np.float32(span) + low
    values = values * np.float32(1 + draw.contrast) + np.float32(draw.brightness * top + 0.5)
    return np.clip(values, 0, top).astype(np.uint8 if top == 255 else np.uint16)
