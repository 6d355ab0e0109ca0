"""Grey scale of a film: luminance of colour objects; clipped to what is shown, padding black."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pydicom
from numpy.typing import NDArray

from medvit.dicom.codec.decode import stored_colour
from medvit.dicom.intensity import lookup_table_of
from medvit.dicom.pixel_description import PixelDescription
from medvit.dicom.policy import FilmPolicy
from medvit.errors import DicomRefusal

Array = NDArray[Any]
_GREY = ("MONOCHROME1", "MONOCHROME2")
_STRIP = 1 << 17  # samples that go through all steps at once, and stay in the cache meanwhile


def luminance(
    dataset: pydicom.Dataset, stored: Array, m: PixelDescription, policy: FilmPolicy, steps: list[str]
) -> tuple[Array, PixelDescription]:
    """Return grey values [R C] and their description; grey passes untouched, colour needs `allow_rgb: luminance`.

    RGB and palettes: 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601, PS3.3 C.7.6.3.1.2); YBR: its Y. Raises `E-COLOUR`.
    """
    if m.photometric in _GREY:
        return stored, m
    if policy.allow_rgb == "refuse":
        found = f"{m.photometric} not accepted as a film"
        raise DicomRefusal(
            "E-COLOUR", found, allowed="MONOCHROME1, MONOCHROME2", tag="(0028,0004)", fix="allow_rgb: luminance"
        )
    photometric = stored_colour(dataset, m)
    steps.append(f"luminance of {photometric}")
    if m.photometric == "PALETTE COLOR":
        stored, m = _palette(dataset, stored, m)
    elif photometric.startswith("YBR_FULL"):
        return np.ascontiguousarray(stored[..., 0]), replace(m, samples=1, photometric="MONOCHROME2")
    if stored.dtype not in (np.uint8, np.uint16):
        raise DicomRefusal("E-COLOUR", f"colour of {m.allocated} bits", allowed="8 or 16", tag="(0028,0100)")
    grey = cv2.cvtColor(np.ascontiguousarray(stored), cv2.COLOR_RGB2GRAY)
    return grey, replace(m, samples=1, photometric="MONOCHROME2")


def _palette(dataset: pydicom.Dataset, stored: Array, m: PixelDescription) -> tuple[Array, PixelDescription]:
    """Look the colours up in the three palettes (PS3.3 C.7.6.3.1.5, C.7.6.3.1.6)."""
    planes, bits = [], 8
    for colour in ("Red", "Green", "Blue"):
        table = lookup_table_of(dataset, signed=False, prefix=f"{colour}PaletteColorLookupTable")
        planes.append(table(stored))
        bits = table.bits
    image = np.stack(planes, axis=-1)
    return (image.astype(np.uint8) if bits == 8 else image), replace(m, samples=3, stored=bits, signed=False)


def to_grey_scale(
    samples: Array, ends: tuple[float, float], line: tuple[float, float], keep: Array | None, stored: int
) -> tuple[Array, float, float]:
    """Return samples [R C] clipped to those that display in [0, 1], with the scale and the offset of their display.

    `ends` bound the samples that are no padding, `line` is (scale, offset), `keep` is False at padding, which becomes
    black (where the window begins below the smallest integer, that integer). The falling scale of unsigned samples is
    turned into a rising one by mirroring them inside `stored` bits: the same display values, and a film and its
    negative hold equal integers, so that whatever rounds later rounds both alike. In place where memory is writable.
    """
    scale, offset = line
    below, above = _shown(samples.dtype, scale, offset)
    mirrored = scale < 0 and samples.dtype in (np.uint8, np.uint16)
    if keep is None and not mirrored and below <= ends[0] and ends[1] <= above:
        return samples, scale, offset
    black = samples.dtype.type(below if scale > 0 else above)
    low, high = samples.dtype.type(below), samples.dtype.type(above)
    top = _top(samples, ends, high, keep, stored) if mirrored else None
    out = samples if samples.flags.writeable else np.empty_like(samples)
    step = max(1, _STRIP // max(1, samples.shape[1]))
    for first in range(0, len(samples), step):
        strip, done = samples[first : first + step], out[first : first + step]
        np.clip(strip, low, high, out=done)
        if keep is not None:
            done[~keep[first : first + step]] = black
        if top is not None:
            np.subtract(top, done, out=done)
    return (out, scale, offset) if top is None else (out, -scale, offset + scale * int(top))


def _shown(dtype: np.dtype[Any], scale: float, offset: float) -> tuple[float, float]:
    """Return the first and the last sample that displays in [0, 1]; integers may lie one beyond."""
    black, white = -offset / scale, (1.0 - offset) / scale
    low, high = min(black, white), max(black, white)
    if dtype.kind == "f":
        return low, high
    info = np.iinfo(dtype)
    return max(float(np.floor(low + 1e-9)), float(info.min)), min(float(np.ceil(high - 1e-9)), float(info.max))


def _top(samples: Array, ends: tuple[float, float], high: Any, keep: Array | None, stored: int) -> Any:
    """Return what samples are mirrored inside: `stored` bits, or all bits where clipped ones lie beyond (a table's)."""
    top = (1 << stored) - 1
    largest = high if keep is not None else min(ends[1], high)  # padding becomes black, which is `high` here
    if largest > top and keep is None:
        largest = min(int(samples.max()), int(high))  # the ends of a curve are bounds only
    return samples.dtype.type(np.iinfo(samples.dtype).max if largest > top else top)
