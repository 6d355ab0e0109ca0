"""The few private elements that tell slices apart or place them, each looked up by its creator (PS3.5 7.8.1)."""

from __future__ import annotations

import math
import struct
from typing import Any, Final

import pydicom

from medvit.dicom.elements import tag_of

_BINARY: Final = {"FL": "f", "FD": "d", "US": "H", "SS": "h"}
_B_VALUES: Final = (  # group, element, creator, VR, as in the makers' conformance statements
    (0x0019, 0x0C, "SIEMENS MR HEADER", "IS"),
    (0x2001, 0x03, "Philips Imaging DD 001", "FL"),
    (0x0043, 0x39, "GEMS_PARM_01", "IS"),
    (0x0065, 0x09, "Image Private Header", "FD"),
)
_GE_COMPONENTS: Final = ("MAGNITUDE", "PHASE", "REAL", "IMAGINARY")
_PHILIPS: Final = "Philips MR Imaging DD 001"


def _first(element: Any, vr: str) -> float:
    value = element.value
    if not isinstance(value, bytes):
        return float(value if isinstance(value, (int, float, str)) else next(iter(value)))
    if vr in _BINARY:
        order = "<" if element.is_little_endian else ">"
        return float(struct.unpack_from(order + _BINARY[vr], value)[0])
    return float(value.decode("ascii").split("\\")[0].strip(" \0"))


class Private:
    """The private elements of one data set; an element whose block has another creator is not there."""

    def __init__(self, dataset: pydicom.Dataset) -> None:
        self.dataset = dataset
        self.blocks: dict[tuple[int, str], int] = {}
        for tag in list(dataset.keys()):  # iterating a Dataset would convert its values
            if tag & 0x1FF00 == 0x10000 and tag & 0xFF >= 0x10:  # an odd group, elements 0010 to 00FF
                creator = dataset.get_item(tag, keep_deferred=True).value
                name = creator.decode("latin-1") if isinstance(creator, bytes) else str(creator)
                self.blocks[tag >> 16, name.strip(" \0")] = tag & 0xFF

    def element(self, group: int, number: int, creator: str) -> Any:
        """Return the raw element, None if it is not there."""
        block = self.blocks.get((group, creator))
        if block is None:
            return None
        return self.dataset.get_item(tag_of(group << 16 | block << 8 | number), keep_deferred=True)

    def number(self, group: int, number: int, creator: str, vr: str) -> float | None:
        """Return the first number of an element, None if it is not there or cannot be read."""
        element = self.element(group, number, creator)
        if element is None:
            return None
        try:
            found = _first(element, vr)
        except (ValueError, TypeError, StopIteration, struct.error):
            return None
        return found if math.isfinite(found) else None

    def b_value(self) -> float | None:
        """Return the diffusion b-value in s/mm2 as Siemens, Philips, GE or United Imaging write it."""
        for group, number, creator, vr in _B_VALUES:
            found = self.number(group, number, creator, vr)
            if found is not None:
                return found % 100_000 if creator.startswith("GEMS") else found  # GE adds 1e9 as a flag
        return None

    def ge_component(self) -> str:
        """Return MAGNITUDE, PHASE, REAL or IMAGINARY as GE writes it (0043,102F), "" if it does not."""
        found = self.number(0x0043, 0x2F, "GEMS_PARM_01", "SS")
        return _GE_COMPONENTS[int(found)] if found in (0, 1, 2, 3) else ""

    def philips_scale(self) -> tuple[float, float] | None:
        """Return Philips' scale slope (2005,100E) and intercept (2005,100D), None where they are absent or 0."""
        slope = self.number(0x2005, 0x0E, _PHILIPS, "FL")
        return (slope, self.number(0x2005, 0x0D, _PHILIPS, "FL") or 0.0) if slope else None
