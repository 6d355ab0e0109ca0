"""Stored values to display values (PS3.4 N.2): modality, range or VOI, each with its numbers for the record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
import pydicom
from numpy.typing import NDArray

from medvit.dicom import tags
from medvit.dicom.pixel_description import PixelDescription
from medvit.dicom.policy import FilmPolicy
from medvit.errors import DicomRefusal

Array = NDArray[Any]
_WIDE_LUT = int(cv2.__version__.split(".")[0]) >= 5  # ten times faster than numpy; the values are the same


def look_up(samples: Array, function: Callable[[Array], Array]) -> NDArray[np.uint16]:
    """Return `function(samples)`, uint16, by one call for every value an 8- or 16-bit sample can have."""
    if samples.dtype.kind == "f" or samples.dtype.itemsize > 2:
        return np.asarray(function(samples), np.uint16)
    unsigned = f"u{samples.dtype.itemsize}"
    table = function(np.arange(1 << 8 * samples.dtype.itemsize, dtype=unsigned).view(samples.dtype))
    if samples.ndim == 2 and (_WIDE_LUT or samples.dtype.itemsize == 1):
        return np.asarray(cv2.LUT(samples.view(unsigned), np.asarray(table, np.uint16)))
    return np.asarray(np.take(table, samples.view(unsigned)), np.uint16)


@dataclass(frozen=True)
class LookupTable:
    """A look-up table of PS3.3 C.11: input `first` gives `values[0]`; inputs outside take the end entries."""

    first: int
    values: NDArray[np.uint16]
    bits: int

    def __call__(self, inputs: Array) -> NDArray[np.uint16]:
        """Look the inputs up; the shape stays."""
        return look_up(inputs, self._entries)

    def _entries(self, inputs: Array) -> Array:
        index = np.clip(np.rint(inputs).astype(np.int64) - self.first, 0, len(self.values) - 1)
        return np.asarray(self.values[index])

    @property
    def step(self) -> str:
        """The numbers of the table for the record."""
        return f"entries={len(self.values)} first={self.first} bits={self.bits}"


@dataclass(frozen=True)
class Modality:
    """The modality transform: `slope * stored + intercept`, or the modality LUT, which wins where both are given."""

    slope: float = 1.0
    intercept: float = 0.0
    table: LookupTable | None = None

    def __call__(self, stored: Array) -> NDArray[np.float32]:
        """Return the modality values, float32, computed without integer overflow."""
        if self.table is not None:
            return self.table(stored).astype(np.float32)
        values = stored.astype(np.float32)
        if self.slope != 1.0:
            values *= np.float32(self.slope)
        if self.intercept != 0.0:
            values += np.float32(self.intercept)
        return values

    @property
    def step(self) -> str:
        """One line for the record."""
        if self.table is not None:
            return f"modality lut {self.table.step}"
        return f"modality slope={self.slope:g} intercept={self.intercept:g}"


@dataclass(frozen=True)
class Voi:
    """What maps modality values to display: a ramp from `low` (black) to `high` (white), or a `curve` to [0, 1].

    A curve tells values apart between `inside`; a ramp does so between its ends.
    """

    low: float
    high: float
    step: str
    curve: Callable[[Array], Array] | None = None
    inside: tuple[float, float] | None = None

    def share_beyond(
        self, samples: Array, slope: float, intercept: float, span: tuple[float, float], keep: Array | None
    ) -> float:
        """Return the share of samples (`slope * sample + intercept`, within `span`) that it cannot tell apart."""
        low, high = self.inside or (self.low, self.high)
        if low <= span[0] and span[1] <= high:
            return 0.0
        first, last = sorted(((low - intercept) / slope, (high - intercept) / slope))
        beyond = (samples < first) | (samples > last)
        return float(np.mean(beyond if keep is None else beyond[keep]))


def modality_of(dataset: pydicom.Dataset, *, signed: bool = False) -> Modality:
    """Read RescaleSlope and RescaleIntercept or the Modality LUT Sequence; `signed` is the sign of the stored values.

    Works on a functional group item too. Raises `E-TAG` for a slope that is 0 or no number, `E-LUT` for a bad LUT.
    """
    tables = tags.items_of(dataset, "ModalityLUTSequence")
    if tables:
        return Modality(table=lookup_table_of(tables[0], signed=signed))
    slope = (*tags.decimals(dataset, "RescaleSlope", 1), 1.0)[0]
    intercept = (*tags.decimals(dataset, "RescaleIntercept", 1), 0.0)[0]
    if slope == 0:
        raise tags.refuse("RescaleSlope", "is 0", allowed="a finite number other than 0", fix="correct the element")
    return Modality(slope, intercept)


def lookup_table_of(item: pydicom.Dataset, *, signed: bool, prefix: str = "LUT") -> LookupTable:
    """Read LUTDescriptor and LUTData (PS3.3 C.11.1.1), or a palette's; `E-LUT` when they contradict each other."""
    numbers = [int(number) for number in _words16(item, f"{prefix}Descriptor")]
    if len(numbers) != 3:
        raise _bad_lut(f"LUTDescriptor has {len(numbers)} values", "3")
    entries, first, bits = numbers[0] or 1 << 16, numbers[1], numbers[2]
    if signed and first >= 1 << 15:
        first -= 1 << 16
    if not 8 <= bits <= 16:
        raise _bad_lut(f"LUT of {bits} bits", "8 to 16")
    data = _words16(item, f"{prefix}Data")
    if len(data) * 2 in (entries, entries + 1) and bits == 8:  # two entries of 8 bits in a word, the low byte first
        data = np.ascontiguousarray(data, "<u2").view(np.uint8)[:entries].astype(np.uint16)
    if len(data) != entries:
        raise _bad_lut(f"LUTData has {len(data)} of {entries} entries", str(entries))
    if int(data.max()) >> bits:
        raise _bad_lut(f"LUT value {int(data.max())}", f"< 2^{bits}")
    return LookupTable(first, data, bits)


def _words16(item: pydicom.Dataset, keyword: str) -> NDArray[np.uint16]:
    data, value = tags.raw(item, keyword)
    if data is None and isinstance(value, bytes):
        data = value
    if data is not None:
        order = "<" if getattr(item.get_item(keyword, keep_deferred=True), "is_little_endian", True) else ">"
        return np.frombuffer(data[: len(data) // 2 * 2], f"{order}u2").astype(np.uint16)
    numbers = [] if value is None else list(cast(Any, value)) if hasattr(value, "__iter__") else [value]
    return np.array([int(cast(Any, n)) & 0xFFFF for n in numbers], np.uint16)


def _bad_lut(found: str, allowed: str) -> DicomRefusal:
    return DicomRefusal("E-LUT", found, allowed=allowed, tag="(0028,3002)", fix="correct the look-up table")


def whole_range(
    modality: Modality, m: PixelDescription, span: tuple[float, float], bits: int | str, *, signed: bool, positive: bool
) -> Voi:
    """Return the range that is black to white without any VOI: what is declared, or `bits` where that is mostly empty.

    `span` is (min, max) of the modality values; `positive`: these are never negative (`E-SIGN`), as in radiographs;
    `bits` as in `FilmPolicy`.
    """
    if modality.table is not None:
        low, high = 0.0, float((1 << modality.table.bits) - 1)
        return Voi(low, high, f"voi none: range of the modality lut {low:g}..{high:g}")
    if m.is_float:
        return Voi(span[0], span[1], f"voi none: range of the values {span[0]:g}..{span[1]:g}")
    wide = signed or m.signed or m.stored > 16
    if wide and bits == "image":
        needed = max(1, int(np.ceil(np.log2(max(-span[0], span[1] + 1) - 1e-6))))
        low, high = (0.0 if span[0] >= -0.5 else -float(1 << needed)), float((1 << needed) - 1)
        return Voi(low, high, f"voi none: {needed} bits hold the values, range {low:g}..{high:g}")
    negative = (signed or m.signed) and not positive
    if wide and not isinstance(bits, str):
        low, high = -float(1 << bits) * negative, float((1 << bits) - 1)
        return Voi(low, high, f"voi none: {bits} bits of the data set, range {low:g}..{high:g}")
    top = (1 << (m.stored - (signed or m.signed))) - 1
    ends = [stored * modality.slope + modality.intercept for stored in (-(top + 1) * (signed or m.signed), top)]
    low, high = max(min(ends), 0.0) if wide and positive else min(ends), max(ends)
    return Voi(low, high, f"voi none: declared range {low:g}..{high:g}")


def told_range(
    modality: Modality, m: PixelDescription, whole: Voi, span: tuple[float, float], bits: int | str
) -> list[str]:
    """Return the warning (`W-RANGE`) that a range is this image's own, mostly empty, or exceeded."""
    if bits == "image" or modality.table is not None:
        return []
    if m.is_float:
        return [f"W-RANGE nothing declares a range: {span[0]:g}..{span[1]:g} is this image's own"]
    if span[1] > whole.high:
        return [f"W-RANGE values up to {span[1]:g} are above {whole.high:g} and become white"]
    if (m.signed or m.stored > 16) and 0 < span[1] < whole.high / 4:
        needed = max(8, int(span[1]).bit_length())
        return [f"W-RANGE of {whole.low:g}..{whole.high:g} only {span[1]:g} is reached; picture_bits={needed}"]
    return []


def voi_of(dataset: pydicom.Dataset, policy: FilmPolicy, span: tuple[float, float], whole: Voi) -> Voi:
    """Choose the VOI by the policy; `span` is (min, max) of the modality values, `whole` the range without any VOI.

    Raises `E-TAG` for a window that is broken, or that the policy names and the file does not have.
    """
    if policy.voi == "none":
        return whole
    if policy.voi in ("auto", "window"):
        window = _window(dataset, policy.window_index, required=policy.voi == "window")
        if window is not None:
            return window
    tables = tags.items_of(dataset, "VOILUTSequence") if policy.voi in ("auto", "lut") else []
    if policy.voi == "lut" and not tables:
        raise tags.refuse("VOILUTSequence", "missing", fix="choose voi: auto or window")
    if tables:
        table = lookup_table_of(tables[0], signed=span[0] < 0)
        top = float((1 << table.bits) - 1)
        step = f"voi lut 1 of {len(tables)} {table.step}"
        ends = (float(table.first), float(table.first + len(table.values) - 1))
        return Voi(0.0, 1.0, step, lambda values: table(values) / top, ends)
    return whole


def _window(dataset: pydicom.Dataset, index: int, *, required: bool) -> Voi | None:
    """Return window number `index` as the ramp or sigmoid of PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    centers, widths = tags.decimals(dataset, "WindowCenter"), tags.decimals(dataset, "WindowWidth")
    if not centers and not widths and not required:
        return None
    if index >= min(len(centers), len(widths)):
        found = f"has {len(centers)} centres and {len(widths)} widths, number {index} is asked for"
        raise tags.refuse("WindowCenter", found, fix="set window_index, or voi: none")
    center, width = centers[index], widths[index]
    function = tags.text_value(dataset, "VOILUTFunction") or "LINEAR"
    step = f"voi window {index + 1} of {len(centers)} center={center:g} width={width:g} {function}"
    if width < 1 if function == "LINEAR" else width <= 0:
        raise tags.refuse("WindowWidth", f"is {width:g}", allowed=">= 1", fix="correct the element, or voi: none")
    if function == "LINEAR":
        half = (width - 1) / 2
        return Voi(center - 0.5 - half, center - 0.5 + half + (0.0 if width > 1 else 1e-6), step)
    if function == "LINEAR_EXACT":
        return Voi(center - width / 2, center + width / 2, step)
    if function == "SIGMOID":
        ends = (center - 1.32 * width, center + 1.32 * width)  # where it gives 0.005 and 0.995
        return Voi(0.0, 1.0, step, lambda y: 1.0 / (1.0 + np.exp(-4.0 * (y.astype(np.float64) - center) / width)), ends)
    raise tags.refuse("VOILUTFunction", "is not one of the standard's", allowed="LINEAR, LINEAR_EXACT, SIGMOID")


def percentile_bounds(samples: Array, percentiles: tuple[float, float], keep: Array | None) -> tuple[float, float]:
    """Return two percentiles of the samples [R C], of 16-bit integers by a histogram; `keep` is False at padding."""
    if samples.dtype.kind == "f" or samples.dtype.itemsize > 2:
        low, high = np.percentile(samples if keep is None else samples[keep], percentiles)
        return float(low), float(high)
    bias = (
        1 << 15
        if samples.dtype.kind == "i" and samples.dtype.itemsize == 2
        else 128
        if samples.dtype.kind == "i"
        else 0
    )
    levels = 1 << samples.dtype.itemsize * 8
    unsigned = samples.view(f"u{samples.dtype.itemsize}") ^ samples.dtype.type(0).view(f"u{samples.dtype.itemsize}")
    if bias:
        unsigned = unsigned ^ np.array(bias, unsigned.dtype)
    mask = None if keep is None else keep.astype(np.uint8)
    counts = cv2.calcHist([np.ascontiguousarray(unsigned)], [0], mask, [levels], [0, levels]).ravel().astype(np.float64)
    ranks = np.array(percentiles) / 100 * (counts.sum() - 1)
    low, high = np.searchsorted(np.cumsum(counts), ranks, side="right")
    return float(int(low) - bias), float(int(high) - bias)
