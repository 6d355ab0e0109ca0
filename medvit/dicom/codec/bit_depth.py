"""Bits above BitsStored: overlay planes are masked away, anything else there is a contradiction (PS3.5 8.1.1)."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pydicom
from numpy.typing import NDArray

from medvit.dicom import tags
from medvit.dicom.pixel_description import PixelDescription
from medvit.errors import DicomRefusal

Array = NDArray[Any]
Ends = tuple[int, int]


def checked_bits(
    dataset: pydicom.Dataset, values: Array, m: PixelDescription, beyond: float = 0.0
) -> tuple[Array, Ends | None]:
    """Return the values of the `stored` bits up to `high`, sign-extended where signed; `E-BITS` if others are set.

    Where at most the share `beyond` of the values has such bits, these are clipped with a note (`W-BITS`). Bits of
    overlay planes embedded in the pixels (60xx,0102) are masked with a note. Pixels equal to the padding value
    may lie outside BitsStored; the padding step finds them. The second is the smallest and the largest of the values
    where the check has met both, so that nobody has to go over them again.
    """
    signed = m.signed or values.dtype.kind == "i"  # a signed codestream is trusted over PixelRepresentation
    bits = values.dtype.itemsize * 8
    values = values.view(f"u{values.dtype.itemsize}")
    shift = m.high + 1 - m.stored
    if shift and bits > m.stored:
        values = _left_aligned(dataset, values, m, shift)
    if m.stored >= bits:
        return _as(values, signed), None
    low, top = _ends(values)
    if top >> m.stored == 0:
        if signed and top >> (m.stored - 1):
            return _extended(values, m.stored, bits), None
        return _as(values, signed), (low, top)
    return _beyond(dataset, values, m, signed, shift, beyond), None


def share_beyond(values: Array, stored: int) -> float:
    """Return the share of decoded values that do not fit into `stored` bits."""
    if stored >= values.dtype.itemsize * 8:
        return 0.0
    low = -(1 << (stored - 1)) if values.dtype.kind == "i" else 0
    return float(np.count_nonzero((values < low) | (values > low + (1 << stored) - 1)) / values.size)


def _ends(values: Array) -> Ends:
    """Return the smallest and the largest of unsigned values, in one pass where OpenCV can."""
    if values.itemsize > 2 or not values.flags.c_contiguous:
        return int(values.min()), int(values.max())
    low, high = cv2.minMaxLoc(values.reshape(-1, values.shape[-1]))[:2]
    return int(low), int(high)


def _beyond(
    dataset: pydicom.Dataset, values: Array, m: PixelDescription, signed: bool, shift: int, beyond: float
) -> Array:
    """Return values that have bits above BitsStored set, if these are overlays, copies of the sign, or padding."""
    bits = values.dtype.itemsize * 8
    overlay = _overlay_bits(dataset) >> shift
    if overlay and not int(np.bitwise_or.reduce(values, axis=None)) >> m.stored & ~(overlay >> m.stored):
        dataset.notes.append("W-OVERLAY overlay bits above BitsStored are masked")
        values = values & np.array((1 << m.stored) - 1, values.dtype)
        return _extended(values, m.stored, bits) if signed else values
    return _clipped(dataset, values, m, signed, beyond)


def _left_aligned(dataset: pydicom.Dataset, values: Array, m: PixelDescription, shift: int) -> Array:
    """Shift left-aligned values down; a set bit below them that is no overlay means that HighBit is wrong."""
    below = int(np.bitwise_or.reduce(values, axis=None)) & ((1 << shift) - 1) & ~_overlay_bits(dataset)
    if below:
        found = f"HighBit {m.high} with BitsStored {m.stored}, but bits below {shift} are in use"
        raise DicomRefusal("E-BITS", found, allowed=f"HighBit {m.stored - 1}", tag="(0028,0102)", fix="correct HighBit")
    dataset.notes.append(f"W-BITS HighBit {m.high} with BitsStored {m.stored}: shifted right by {shift}")
    return np.asarray(values >> shift)


def _as(values: Array, signed: bool) -> Array:
    return values.view(f"i{values.dtype.itemsize}") if signed else values


def _extended(values: Array, stored: int, bits: int) -> Array:
    """Copy the sign bit into the bits above it."""
    spare = bits - stored
    return (values << spare).view(f"i{bits // 8}") >> spare


def _overlay_bits(dataset: pydicom.Dataset) -> int:
    """Return the bits that overlay planes occupy in the pixels: a position, no data of their own (PS3.3 C.9.2)."""
    mask = 0
    for group in range(0x6000, 0x6020, 2):
        if (group << 16 | 0x0102) in dataset and (group << 16 | 0x3000) not in dataset:
            mask |= 1 << (tags.integer16_at(dataset, group << 16 | 0x0102, 0) & 31)
    return mask


def _clipped(dataset: pydicom.Dataset, bare: Array, m: PixelDescription, signed: bool, beyond: float) -> Array:
    """Clip the few values above BitsStored, but those of padding (the padding step finds them); refuse more of them."""
    values = _as(bare, signed)
    kept = _extended(bare, m.stored, bare.dtype.itemsize * 8) if signed else values
    outside = (bare >> m.stored != 0) & (kept != values) if signed else bare >> m.stored != 0
    padding = tags.padding_value(dataset, signed=signed)
    if padding is not None:
        kept = np.where(values == padding, values, kept)
        outside &= values != padding
    count = int(np.count_nonzero(outside))
    if not count:
        return kept
    low = -(1 << (m.stored - 1)) if signed else 0
    high = low + (1 << m.stored) - 1
    share = f"{count} of {values.size} pixels above BitsStored {m.stored}"
    if count > beyond * values.size:
        found = f"max stored {int(bare[outside].max())} > {high} (BitsStored {m.stored}), {share}"
        fix = "correct BitsStored, declare the overlay in the high bits, or raise accept.limits.beyond_bits"
        raise DicomRefusal("E-BITS", found, allowed=f"<= {high}", tag="(0028,0101)", fix=fix)
    dataset.notes.append(f"W-BITS {share} are clipped to it")
    return np.where(outside, np.clip(values, low, high), kept)
