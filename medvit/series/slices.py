"""One record per 2-D slice of a series: where it lies, what it shows, when; the same for files, frames and tiles."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass, field
from typing import Final, NamedTuple, cast

import numpy as np
import pydicom

from medvit.dicom import tags
from medvit.series.private_elements import Private

Pair = tuple[float, float]
Kind = tuple[tuple[str, ...], float | None, float | None]  # image type, echo time in ms, b-value in s/mm2


class Identity(NamedTuple):
    """What all slices of one volume must share; compared, never shown."""

    series: str
    patient: tuple[str, str]
    frame_of_reference: str
    photometric: str


class Rescale(NamedTuple):
    """values = stored * slope + intercept; `philips` is the private (scale slope, scale intercept) if there is one."""

    slope: float = 1.0
    intercept: float = 0.0
    philips: Pair | None = None


UNCHANGED: Final = Rescale()


@dataclass(frozen=True, slots=True)
class Slice:
    """One slice: frame `frame` of source `source`, cut at pixel `corner` (row, column) where it is a tile of a mosaic.

    `position` and `orientation` in LPS mm and `spacing` (row, column) in mm as in PS3.3 C.7.6.2; `shape` (rows,
    columns). `kind` always tells volumes apart; `moments` (see `MOMENTS`) only where positions repeat.
    """

    source: int
    frame: int
    shape: tuple[int, int]
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: Pair
    identity: Identity = field(repr=False)
    kind: Kind
    moments: tuple[object, ...] = ()
    instance: int | None = None
    rescale: Rescale = UNCHANGED
    corner: tuple[int, int] = (0, 0)


MOMENTS: Final = (
    ("t", "TemporalPositionIdentifier"),
    ("t", "TemporalPositionIndex"),
    ("trigger", "TriggerTime"),
    ("ti", "InversionTime"),
    ("flip", "FlipAngle"),
    ("t", "AcquisitionNumber"),
    ("direction", "DiffusionGradientOrientation"),
    ("t", "AcquisitionDateTime"),
    ("t", "AcquisitionTime"),
    ("t", "InstanceNumber"),  # of enhanced objects, one for each time point
)


def classic(dataset: pydicom.Dataset, source: int) -> Slice:
    """Return the record of a single-frame object; refuses (`E-TAG`) missing or broken geometry."""
    private = Private(dataset)
    has_lut = "ModalityLUTSequence" in dataset  # then there is no slope (PS3.3 C.11.1)
    return Slice(
        source=source,
        frame=0,
        shape=(tags.integer16(dataset, "Rows"), tags.integer16(dataset, "Columns")),
        position=required(dataset, "ImagePositionPatient", 3),
        orientation=required(dataset, "ImageOrientationPatient", 6),
        spacing=pixel_spacing(dataset),
        identity=identity(dataset),
        kind=(_image_type(dataset, private), _echo(dataset), _b_value(dataset, private)),
        moments=tuple(tags.text_values(dataset, keyword) or None for _, keyword in MOMENTS),
        instance=whole_number(dataset, "InstanceNumber"),
        rescale=UNCHANGED if has_lut else rescale(dataset)._replace(philips=private.philips_scale()),
    )


def identity(dataset: pydicom.Dataset) -> Identity:
    """Return what must be equal over a volume; refuses (`E-TAG`) an object without SeriesInstanceUID."""
    series = tags.text_value(dataset, "SeriesInstanceUID")
    if not series:
        raise tags.refuse("SeriesInstanceUID", "missing", fix="the series of this object cannot be known")
    return Identity(
        series,
        (_whole(dataset, "PatientID"), _whole(dataset, "IssuerOfPatientID")),
        tags.text_value(dataset, "FrameOfReferenceUID"),
        tags.text_value(dataset, "PhotometricInterpretation"),
    )


def _whole(dataset: pydicom.Dataset, keyword: str) -> str:
    return "\\".join(tags.text_values(dataset, keyword))


def required(dataset: pydicom.Dataset, keyword: str, count: int) -> tuple[float, ...]:
    """Return the `count` numbers of a geometry element, from the raw string (PS3.5 6.2); `E-TAG` without them."""
    found = tags.decimals(dataset, keyword, count)
    if not found:
        raise tags.refuse(keyword, "missing", fix="export the series again with its geometry")
    return found


def pixel_spacing(dataset: pydicom.Dataset) -> Pair:
    """Return (row, column) spacing in mm (PS3.3 10.7.1.3); `E-TAG` unless both are positive."""
    row, column = required(dataset, "PixelSpacing", 2)
    if row <= 0 or column <= 0:
        raise tags.refuse("PixelSpacing", f"is {row:g}\\{column:g}", allowed="> 0 mm", fix="correct the element")
    return row, column


def rescale(dataset: pydicom.Dataset) -> Rescale:
    """Return slope and intercept (PS3.3 C.7.6.16.2.9, C.11.1), 1 and 0 if absent; a slope of 0 is `E-TAG`."""
    slope = next(iter(tags.decimals(dataset, "RescaleSlope", 1)), 1.0)
    intercept = next(iter(tags.decimals(dataset, "RescaleIntercept", 1)), 0.0)
    if slope == 0:
        raise tags.refuse("RescaleSlope", "is 0", allowed="not 0", fix="export the series again")
    return Rescale(slope, intercept)


def binary(dataset: pydicom.Dataset, keyword: str, code: str = "d") -> float | None:
    """Return the first number of an FD (code "d") or UL ("I") element, None if it is absent; `E-TAG` if broken."""
    data, value = tags.raw(dataset, keyword)
    if data is None:
        found = None if value is None or value == "" else float(np.ravel(cast(float, value))[0])
    else:
        order = "<" if dataset.get_item(keyword, keep_deferred=True).is_little_endian else ">"
        if len(data) % struct.calcsize(order + code):
            raise tags.refuse(keyword, "does not hold binary numbers", fix="correct the element")
        found = float(struct.unpack_from(order + code, data)[0]) if data else None
    if found is not None and not math.isfinite(found):
        raise tags.refuse(keyword, "is not finite", allowed="a finite number", fix="correct the element")
    return found


def _image_type(dataset: pydicom.Dataset, private: Private) -> tuple[str, ...]:
    return tuple(word.upper() for word in (*tags.text_values(dataset, "ImageType"), private.ge_component()) if word)


def _echo(dataset: pydicom.Dataset) -> float | None:
    found = tags.decimals(dataset, "EchoTime") or tags.decimals(dataset, "EchoNumbers")
    return round(found[0], 3) if found else None


def _b_value(dataset: pydicom.Dataset, private: Private) -> float | None:
    standard = binary(dataset, "DiffusionBValue")
    return private.b_value() if standard is None else standard


def whole_number(dataset: pydicom.Dataset, keyword: str) -> int | None:
    """Return the integer of an IS element that nothing depends on, None if it is absent or no integer."""
    found = tags.text_value(dataset, keyword)
    return int(found) if re.fullmatch(r"[+-]?[0-9]{1,12}", found) else None
