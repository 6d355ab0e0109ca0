"""Siemens mosaics: all slices of one time point as tiles of one image, placed by the CSA header."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pydicom

from medvit.dicom import tags
from medvit.errors import DicomRefusal
from medvit.series.csa import read_csa
from medvit.series.geometry import normal_of
from medvit.series.private_elements import Private
from medvit.series.slices import Slice, classic, required

_FIELDS = frozenset({"NumberOfImagesInMosaic", "SliceNormalVector"})
_FIX = "convert the series with dcm2niix"


def is_mosaic(dataset: pydicom.Dataset) -> bool:
    """Say whether an object holds tiles: ImageType MOSAIC or VFRAME, or a private count of tiles above 1."""
    if {"MOSAIC", "VFRAME"} & {word.upper() for word in tags.text_values(dataset, "ImageType")}:
        return True
    private = Private(dataset)
    counts = (
        private.number(0x0019, 0x0A, "SIEMENS MR HEADER", "US"),
        private.number(0x0065, 0x50, "Image Private Header", "DS"),
    )
    return any(count is not None and count > 1 for count in counts)


def tiles(dataset: pydicom.Dataset, source: int, tolerance: float) -> list[Slice]:
    """Return one record per tile, in the order the scanner gives (row by row from the top left).

    The position in the header is the corner of a plane as large as the mosaic, around the first slice's centre; each
    next slice lies SpacingBetweenSlices further along SliceNormalVector. `E-MOSAIC` where any of this is missing or
    odd, and for mosaics of other makers.
    """
    fields = _csa(dataset)
    whole = classic(dataset, source)
    count = int(_floats(fields, "NumberOfImagesInMosaic", 1)[0])
    direction = np.array(_floats(fields, "SliceNormalVector", 3))
    gap = required(dataset, "SpacingBetweenSlices", 1)[0]
    side = math.ceil(math.sqrt(max(count, 1)))
    rows, columns = whole.shape[0] // side, whole.shape[1] // side
    if count < 1 or gap <= 0 or (rows * side, columns * side) != whole.shape:
        raise _refuse(f"{count} tiles do not fit {whole.shape[0]}x{whole.shape[1]} pixels, {gap:g} mm apart")
    along_row, along_column = np.array(whole.orientation[:3]), np.array(whole.orientation[3:])
    if abs(float(direction @ normal_of(whole.orientation, tolerance))) < 1 - 10 * tolerance:
        raise _refuse("SliceNormalVector is not the normal of ImageOrientationPatient")
    corner = np.array(whole.position)
    corner += along_row * whole.spacing[1] * (whole.shape[1] - columns) / 2
    corner += along_column * whole.spacing[0] * (whole.shape[0] - rows) / 2
    return [
        replace(
            whole,
            shape=(rows, columns),
            position=tuple(map(float, corner + direction * gap * index)),
            corner=(index // side * rows, index % side * columns),
        )
        for index in range(count)
    ]


def _csa(dataset: pydicom.Dataset) -> dict[str, list[str]]:
    element = Private(dataset).element(0x0029, 0x10, "SIEMENS CSA HEADER")
    if element is None:
        raise _refuse("a mosaic without the Siemens header that places its tiles")
    return read_csa(bytes(element.value), _FIELDS)


def _floats(fields: dict[str, list[str]], name: str, count: int) -> list[float]:
    texts = fields.get(name, [])
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        numbers = []
    if len(numbers) < count or not np.isfinite(numbers).all():
        raise _refuse(f"the CSA header gives no {name}")
    return numbers[:count]


def _refuse(found: str) -> DicomRefusal:
    return DicomRefusal("E-MOSAIC", found, tag="(0029,1010)", fix=_FIX)
