"""One record per 2-D slice of a series: where it lies, what it shows, when; the same for files, frames and tiles."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final, NamedTuple, cast

import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag

from medvit.dicom import tags

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
)
_B_VALUES: Final = (  # group, element, private creator, VR; PS3.6, and the makers' conformance statements
    (0x0019, 0x0C, "SIEMENS MR HEADER", "IS"),
    (0x2001, 0x03, "Philips Imaging DD 001", "FL"),
    (0x0043, 0x39, "GEMS_PARM_01", "IS"),
    (0x0065, 0x09, "Image Private Header", "FD"),
)
_BINARY: Final = {"FL": "f", "FD": "d", "US": "H"}
_GE_COMPONENT: Final = {"0": "MAGNITUDE", "1": "PHASE", "2": "REAL", "3": "IMAGINARY"}


def classic(dataset: pydicom.Dataset, source: int) -> Slice:
    """Return the record of a single-frame object; refuses (`E-TAG`) missing or broken geometry."""
    return Slice(
        source=source,
        frame=0,
        shape=(tags.short(dataset, "Rows"), tags.short(dataset, "Columns")),
        position=required(dataset, "ImagePositionPatient", 3),
        orientation=required(dataset, "ImageOrientationPatient", 6),
        spacing=pixel_spacing(dataset),
        identity=identity(dataset),
        kind=(_image_type(dataset), _echo(dataset), _b_value(dataset)),
        moments=tuple(tags.words(dataset, keyword) or None for _, keyword in MOMENTS),
        instance=_instance(dataset),
        rescale=UNCHANGED if "ModalityLUTSequence" in dataset else rescale(dataset),  # one or the other (C.11.1)
    )


def identity(dataset: pydicom.Dataset) -> Identity:
    """Return what must be equal over a volume; refuses (`E-TAG`) an object without SeriesInstanceUID."""
    series = tags.word(dataset, "SeriesInstanceUID")
    if not series:
        raise tags.refuse("SeriesInstanceUID", "missing", fix="the series of this object cannot be known")
    return Identity(
        series,
        (_bytes(dataset, "PatientID"), _bytes(dataset, "IssuerOfPatientID")),
        tags.word(dataset, "FrameOfReferenceUID"),
        tags.word(dataset, "PhotometricInterpretation"),
    )


def _bytes(dataset: pydicom.Dataset, keyword: str) -> str:
    return "\\".join(tags.words(dataset, keyword))


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
    """Return slope and intercept (PS3.3 C.7.6.16.2.9, C.11.1) and Philips' private pair; a slope of 0 is `E-TAG`."""
    slope = next(iter(tags.decimals(dataset, "RescaleSlope", 1)), 1.0)
    intercept = next(iter(tags.decimals(dataset, "RescaleIntercept", 1)), 0.0)
    if slope == 0:
        raise tags.refuse("RescaleSlope", "is 0", allowed="not 0", fix="export the series again")
    return Rescale(slope, intercept, philips_scale(dataset))


def philips_scale(dataset: pydicom.Dataset) -> Pair | None:
    """Return Philips' private scale slope (2005,100E) and intercept (2005,100D), None where they are absent or 0."""
    slope = private(dataset, 0x2005, 0x0E, "Philips MR Imaging DD 001", "FL")
    intercept = private(dataset, 0x2005, 0x0D, "Philips MR Imaging DD 001", "FL")
    return (slope, intercept or 0.0) if slope else None


def private(dataset: pydicom.Dataset, group: int, element: int, creator: str, vr: str) -> float | None:
    """Return the first number of a private element (PS3.5 7.8.1), None if it is absent or unreadable."""
    for block in range(0x10, 0x18):
        mark = BaseTag(group << 16 | block)
        if mark not in dataset:
            return None
        tag = BaseTag(group << 16 | block << 8 | element)
        if tag in dataset and _plain(dataset.get_item(mark).value) == creator:
            return _number(dataset.get_item(tag), vr)
    return None


def _plain(value: object) -> str:
    return value.decode("latin-1").strip(" \0") if isinstance(value, bytes) else str(value)


def _number(element: RawDataElement, vr: str) -> float | None:
    value = element.value
    try:
        if not isinstance(value, bytes):
            first = value if isinstance(value, (int, float, str)) else next(iter(value))
            return float(first)
        if vr in _BINARY:
            return float(struct.unpack_from(("<" if element.is_little_endian else ">") + _BINARY[vr], value)[0])
        return float(value.decode("ascii").split("\\")[0].strip(" \0"))
    except (ValueError, TypeError, StopIteration, struct.error):
        return None


def double(dataset: pydicom.Dataset, keyword: str) -> float | None:
    """Return the first number of an FD element, None if it is absent or empty; `E-TAG` if it holds something else."""
    data, value = tags.raw(dataset, keyword)
    if not data:
        return None if value is None or value == "" else float(np.ravel(cast(float, value))[0])
    if len(data) % 8:
        raise tags.refuse(keyword, "does not hold 64-bit numbers", fix="correct the element")
    order = "<" if dataset.get_item(keyword).is_little_endian else ">"
    return float(struct.unpack_from(order + "d", data)[0])


def _image_type(dataset: pydicom.Dataset) -> tuple[str, ...]:
    words = tuple(word.upper() for word in tags.words(dataset, "ImageType"))
    component = private(dataset, 0x0043, 0x2F, "GEMS_PARM_01", "IS")
    extra = _GE_COMPONENT.get(f"{component:.0f}") if component is not None else None
    return (*words, extra) if extra else words


def _echo(dataset: pydicom.Dataset) -> float | None:
    found = tags.decimals(dataset, "EchoTime") or tags.decimals(dataset, "EchoNumbers")
    return round(found[0], 3) if found else None


def _b_value(dataset: pydicom.Dataset) -> float | None:
    standard = double(dataset, "DiffusionBValue")
    if standard is not None:
        return standard
    for group, number, creator, vr in _B_VALUES:
        found = private(dataset, group, number, creator, vr)
        if found is not None:
            return found % 100_000 if creator.startswith("GEMS") else found  # GE adds 1e9 as a flag
    return None


def _instance(dataset: pydicom.Dataset) -> int | None:
    found = tags.word(dataset, "InstanceNumber")
    return int(found) if found.lstrip("+-").isdigit() else None
