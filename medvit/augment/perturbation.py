"""Fixed disturbances of test images: what a tilted film, a noisy detector or a lossy archive does to a model.

Severities are fixed and every draw follows from the image's position, so that two models meet the same disturbance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from medvit.augment.fused import warp
from medvit.augment.random_streams import stream_keys
from medvit.errors import ConfigError
from medvit.preprocess.resize import to_uint8

Plane = NDArray[Any]

SEVERITIES: dict[str, tuple[float, ...]] = {
    "rotation": (5.0, 15.0),  # degrees anticlockwise
    "noise": (0.02, 0.08),  # standard deviation, of the full range
    "contrast": (0.7, 1.4),  # factor about the image's mean
    "blur": (1.0, 2.5),  # sigma in pixels of the model's input
    "jpeg": (50.0, 10.0),  # quality
    "downscale": (2.0, 4.0),  # by this factor and back
    "polarity": (1.0,),  # black and white exchanged
    "crop": (0.9, 0.75),  # share of each side that stays, enlarged again
}
UNITS = {
    "rotation": "degrees",
    "noise": "of the range",
    "contrast": "times",
    "blur": "pixels",
    "jpeg": "quality",
    "downscale": "times",
    "polarity": "inverted",
    "crop": "of each side",
}


@dataclass(frozen=True)
class Perturbation:
    """One disturbance of integer images [n C *S], slice by slice in the last two axes; an `Augmentation`.

    Raises ConfigError for an unknown kind or a severity that is not above 0.
    """

    kind: str
    severity: float

    def __post_init__(self) -> None:
        """Check the kind and the severity."""
        if self.kind not in SEVERITIES or self.severity <= 0:
            near = get_close_matches(self.kind, SEVERITIES, 1)
            hint = f" (did you mean {near[0]}?)" if near and near[0] != self.kind else ""
            raise ConfigError(
                f"perturbation {self.kind!r}{hint} of severity {self.severity}: expected above 0, and one of "
                f"{', '.join(SEVERITIES)}"
            )

    def __call__(
        self, images: Plane, seed: int, epoch: int, position: NDArray[np.int64], member: NDArray[np.int64]
    ) -> Plane:
        """Return disturbed images of the same shape and type; only noise draws, by (seed, epoch, position, member)."""
        out = np.empty_like(images)
        height, width = images.shape[-2:]
        luck = stream_keys(seed ^ 0x7065, epoch, position * 65536 + member)
        for image, target, number in zip(images, out, luck, strict=True):
            random = np.random.default_rng(int(number))
            planes = zip(image.reshape(-1, height, width), target.reshape(-1, height, width), strict=True)
            for plane, made in planes:
                made[...] = _WAYS[self.kind](plane, self.severity, random)
        return out


def every() -> list[Perturbation]:
    """Return all disturbances at all severities, in a fixed order."""
    return [Perturbation(kind, severity) for kind, levels in SEVERITIES.items() for severity in levels]


def _rotation(plane: Plane, degrees: float, _random: Any) -> Plane:
    turn, middle = np.deg2rad(degrees), (np.array(plane.shape) - 1) / 2
    linear = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return warp(plane, np.column_stack([linear, middle - linear @ middle]))


def _noise(plane: Plane, share: float, random: np.random.Generator) -> Plane:
    return _rounded(plane + random.normal(0, share * np.iinfo(plane.dtype).max, plane.shape), plane)


def _contrast(plane: Plane, factor: float, _random: Any) -> Plane:
    mean = plane.mean()
    return _rounded((plane - mean) * factor + mean, plane)


def _blur(plane: Plane, sigma: float, _random: Any) -> Plane:
    return np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE))


def _jpeg(plane: Plane, quality: float, _random: Any) -> Plane:
    """Code as 8-bit JPEG and back; deeper images lose their low bits too, as they would."""
    deep = plane.dtype != np.uint8
    done, code = cv2.imencode(".jpg", to_uint8(plane), [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    assert done  # noqa: S101 (cannot fail for uint8)
    back = np.asarray(cv2.imdecode(code, cv2.IMREAD_GRAYSCALE))
    return back.astype(plane.dtype) * 257 if deep else back


def _downscale(plane: Plane, factor: float, _random: Any) -> Plane:
    height, width = plane.shape
    small = cv2.resize(
        plane, (max(1, round(width / factor)), max(1, round(height / factor))), interpolation=cv2.INTER_AREA
    )
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))


def _polarity(plane: Plane, _severity: float, _random: Any) -> Plane:
    return np.asarray(np.iinfo(plane.dtype).max - plane)


def _crop(plane: Plane, share: float, _random: Any) -> Plane:
    height, width = plane.shape
    rows, columns = max(1, round(height * share)), max(1, round(width * share))
    top, left = (height - rows) // 2, (width - columns) // 2
    inner = np.ascontiguousarray(plane[top : top + rows, left : left + columns])
    return np.asarray(cv2.resize(inner, (width, height), interpolation=cv2.INTER_LINEAR))


def _rounded(values: NDArray[np.float64], like: Plane) -> Plane:
    return np.clip(np.rint(values), 0, np.iinfo(like.dtype).max).astype(like.dtype.type)


_WAYS: dict[str, Callable[[Plane, float, Any], Plane]] = {
    "rotation": _rotation,
    "noise": _noise,
    "contrast": _contrast,
    "blur": _blur,
    "jpeg": _jpeg,
    "downscale": _downscale,
    "polarity": _polarity,
    "crop": _crop,
}
