"""Colour objects where a grey film is expected: refused, or turned into their luminance when the policy says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pydicom
from numpy.typing import NDArray

from medvit.dicom.decode import stored_colour
from medvit.dicom.intensity import table_of
from medvit.dicom.matrix import Matrix
from medvit.dicom.policy import FilmPolicy
from medvit.errors import DicomRefusal

Array = NDArray[Any]
_GREY = ("MONOCHROME1", "MONOCHROME2")


def luminance(
    dataset: pydicom.Dataset, stored: Array, m: Matrix, policy: FilmPolicy, steps: list[str]
) -> tuple[Array, Matrix]:
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


def _palette(dataset: pydicom.Dataset, stored: Array, m: Matrix) -> tuple[Array, Matrix]:
    """Look the colours up in the three palettes (PS3.3 C.7.6.3.1.5, C.7.6.3.1.6)."""
    planes, bits = [], 8
    for colour in ("Red", "Green", "Blue"):
        table = table_of(dataset, signed=False, prefix=f"{colour}PaletteColorLookupTable")
        planes.append(table(stored))
        bits = table.bits
    image = np.stack(planes, axis=-1)
    return (image.astype(np.uint8) if bits == 8 else image), replace(m, samples=3, stored=bits, signed=False)
