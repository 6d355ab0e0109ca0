"""From a plan and its data sets to one volume: decode, cut tiles, rescale each slice, place, resample if asked to."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from medvit.dicom import tags
from medvit.dicom.codec.decode import stored_frames
from medvit.dicom.facts import read_facts
from medvit.dicom.limits import LIMITS
from medvit.dicom.read import modality_values
from medvit.errors import DicomRefusal
from medvit.series.plan import Plan
from medvit.series.policy import SeriesPolicy
from medvit.series.resample import straighten
from medvit.series.slices import Rescale, Slice
from medvit.types import Facts, Volume

_LARGEST = 1e28  # times 32 bits is still finite in float32
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def fill(plan: Plan, datasets: dict[int, pydicom.Dataset], policy: SeriesPolicy) -> Volume:
    """Return the volume of a plan; `datasets` by source index, read with their pixels.

    Refuses what decoding refuses (`E-TRUNC`, `E-BITS`, `E-CODEC`, ...), naming the file.
    """
    first = plan.slices[0]
    values = np.empty((len(plan.slices), *first.shape), np.float32)
    decoders: Counter[str] = Counter()
    floors: list[np.float32] = []
    open_source, stored = -1, np.empty(0)
    for index, one in enumerate(plan.slices):
        if one.source != open_source:
            stored, decoder = _decode(datasets, one, policy)
            open_source = one.source
            decoders[decoder] += 1
        top, left = one.corner
        plane = stored[one.frame, top : top + one.shape[0], left : left + one.shape[1]]
        _rescaled(plane, one.rescale, policy, values[index])
        padding = _padding(datasets[one.source], plane)
        if padding is not None:
            floors.append(values[index][padding].min())
            values[index][padding] = np.nan
    affine = plan.stack.affine(first.orientation, first.spacing)
    steps = [*plan.steps, *(f"decode {name}" for name in sorted(decoders)), _rescale_step(plan.slices, policy)]
    if floors:
        steps.append(_fill_padding(values, floors))
    warnings = list(plan.warnings)
    if any(one.rescale.philips for one in plan.slices):
        kind = "DV, as displayed" if policy.philips == "displayed" else "FP, floating point"
        warnings.append(f"W-PHILIPS private scaling (2005,100E) present; values are {kind}")
    if not (plan.stack.even and plan.stack.straight):
        values, affine = straighten(values, plan.stack, affine)
        steps.append(f"resample linearly to {len(values)} even slices along the normal")
        warnings.append("W-RESAMPLED the slices were not evenly spaced along the normal")
    warnings += sorted({note for source in set(plan.files) for note in datasets[source].notes})
    facts = _facts(datasets[first.source], first, len(values))
    return Volume(values, affine, facts, plan.key, plan.files, tuple(steps), tuple(warnings))


def _decode(datasets: dict[int, pydicom.Dataset], one: Slice, policy: SeriesPolicy) -> tuple[NDArray[Any], str]:
    """Return the stored values [F R C] of a slice's object, through a modality LUT if there is one, in luminance."""
    dataset = datasets[one.source]
    try:
        stored, decoder = stored_frames(dataset, limits=replace(LIMITS, beyond_bits=policy.beyond_bits))[:2]
        if "ModalityLUTSequence" in dataset:
            stored = modality_values(dataset, stored)
    except DicomRefusal as refusal:
        found = f"file {one.source + 1}: {refusal.found}"
        raise DicomRefusal(refusal.code, found, allowed=refusal.allowed, tag=refusal.tag, fix=refusal.fix) from None
    if stored.ndim == 4:
        stored = stored @ _LUMINANCE if one.identity.photometric == "RGB" else stored[..., 0]
    return stored, decoder


def _padding(dataset: pydicom.Dataset, plane: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Return where a plane holds padding (PS3.3 C.7.5.1.1.2), None if it holds none."""
    if plane.dtype.kind == "f":
        if not np.isfinite(plane).all():
            raise DicomRefusal("E-CONST", "voxels that are not finite numbers", tag="(7FE0,0008)")
        return None
    signed = plane.dtype.kind == "i"
    value = tags.padding_value(dataset, signed=signed)
    if value is None:
        return None
    limit = tags.integer16(dataset, "PixelPaddingRangeLimit", value, signed=signed)
    padded: NDArray[np.bool_] = (plane >= min(value, limit)) & (plane <= max(value, limit))
    return padded if padded.any() else None


def _fill_padding(values: NDArray[np.float32], floors: list[np.float32]) -> str:
    """Give the voxels marked NaN the darkest value of the volume, or their own if that is darker; say what was done."""
    empty = np.isnan(values)
    share = float(empty.mean())
    if share == 1:
        raise DicomRefusal("E-CONST", "every voxel is padding", allowed="an image", tag="(0028,0120)")
    floor = min(float(np.nanmin(values)), float(min(floors)))
    values[empty] = floor
    return f"padding filled with {floor:.9g} share={share:.4f}"


def _rescaled(plane: NDArray[Any], rescale: Rescale, policy: SeriesPolicy, out: NDArray[np.float32]) -> None:
    """Write stored * slope + intercept into `out`, without a temporary array (PS3.3 C.11.1.1.2)."""
    slope, intercept = _numbers(rescale, policy)
    if slope == 1:
        out[...] = plane
    else:
        np.multiply(plane, slope, out=out, casting="unsafe")
    if intercept:
        out += np.float32(intercept)


def _numbers(rescale: Rescale, policy: SeriesPolicy) -> tuple[float, float]:
    """Return slope and intercept: DV as in the header, or Philips' FP = DV / (slope x scale slope).

    Refuses (`E-TAG`) what would make infinite values of float32.
    """
    slope, intercept = rescale.slope, rescale.intercept
    if policy.philips != "displayed" and rescale.philips is not None:
        divisor = rescale.slope * rescale.philips[0]
        slope, intercept = (slope / divisor, intercept / divisor) if divisor else (np.inf, np.inf)
    if not (abs(slope) <= _LARGEST and abs(intercept) <= _LARGEST):
        found = f"and intercept are {slope:g} and {intercept:g}"
        raise tags.refuse("RescaleSlope", found, allowed=f"up to {_LARGEST:g}", fix="export the series again")
    return slope, intercept


def _rescale_step(slices: tuple[Slice, ...], policy: SeriesPolicy) -> str:
    pairs = {_numbers(one.rescale, policy) for one in slices}
    if len(pairs) > 1:
        return f"rescale per slice, {len(pairs)} pairs of slope and intercept"
    slope, intercept = next(iter(pairs))
    return f"rescale x {slope:.9g} + {intercept:.9g}"


def _facts(dataset: pydicom.Dataset, first: Slice, count: int) -> Facts:
    return replace(
        read_facts(dataset),
        rows=first.shape[0],
        columns=first.shape[1],
        frames=count,
        spacing_mm=first.spacing,
        spacing_kind="PixelSpacing",
    )
