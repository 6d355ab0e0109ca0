"""Reading one film: the one fixed order of steps from stored values to display values (RE-02), each recorded.

stored values, mask of bits, modality LUT or slope, padding mask, VOI policy, polarity (once, after VOI), orientation.
Integers stay integers as long as the arithmetic is affine: window, slope and polarity become one scale and offset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pydicom
from numpy.typing import NDArray

from medvit.dicom import tags
from medvit.dicom.codec.bit_depth import Ends
from medvit.dicom.codec.decode import require_complete, stored_frames
from medvit.dicom.facts import aspect_ratio, read_facts
from medvit.dicom.grey_scale import luminance, to_grey_scale
from medvit.dicom.header import read_dataset
from medvit.dicom.intensity import (
    Modality,
    Voi,
    look_up,
    modality_of,
    percentile_bounds,
    told_range,
    voi_of,
    whole_range,
)
from medvit.dicom.limits import check_matrix
from medvit.dicom.pixel_description import PixelDescription, pixel_description
from medvit.dicom.policy import FilmPolicy, check_accepted
from medvit.dicom.storage import Source
from medvit.errors import DicomRefusal
from medvit.types import Facts, Film

Array = NDArray[Any]
_FILM_MODALITIES = frozenset({"CR", "DX", "RG", "MG", "PX", "IO", "RF", "XA"})
_NEGATIVE_SHARE = 1e-3
_TELL_BEYOND, _SHOWS_NOTHING = 0.5, 0.95  # shares of pixels beyond a window


def read_film(source: Source, policy: FilmPolicy | None = None) -> Film:
    """Read one 2-D image: `film.samples * film.scale + film.offset` is its display value, 0 black to 1 white.

    `source` is a path or the bytes of one object; memory that may be written to is worked in. `samples` [R C] are
    integers where the file has integers.
    Raises `DicomRefusal` with the codes of `header.read_dataset` and `decode.stored_frames`, and `E-FRAMES`,
    `E-COLOUR`, `E-ACCEPT`, `E-SIZE`, `E-CONST`, `E-SIGN`, `E-LUT`, `E-ORIENT`, `E-TAG`, `E-WINDOW`, `Q-PHI`.
    """
    policy = policy or FilmPolicy()
    dataset = read_dataset(source, pixels=True, force=policy.force, limits=policy.accept.limits)
    return film_of(dataset, policy)


def film_of(dataset: pydicom.Dataset, policy: FilmPolicy) -> Film:
    """Do as `read_film`, from a data set that `read_dataset` gave with its pixels; may reuse its memory."""
    m, facts = pixel_description(dataset), read_facts(dataset)
    limits = policy.accept.limits
    check_matrix(m.rows, m.columns, m.samples, m.frames, limits)
    if m.frames != 1:
        require_complete(dataset, m)
        raise DicomRefusal(
            "E-FRAMES", f"{m.frames} frames, a film has 1", allowed="1", tag="(0028,0008)", fix="read as series"
        )
    check_accepted(facts, policy.accept)
    stored, decoder, ends, precision, bits = stored_frames(dataset, limits=limits, reduce=_reduction(m, policy))
    steps = [f"stored {m.rows}x{m.columns} bits={m.stored} signed={int(m.signed)} decoder={decoder}"]
    first, declared = stored[0], m.stored
    grey, m = luminance(dataset, first, replace(m, stored=bits), policy, steps)
    modality = modality_of(dataset, signed=grey.dtype.kind == "i")
    film = _displayed(dataset, grey, ends if grey is first else None, modality, m, policy, steps)
    if precision and precision != declared and any("voi none" in step for step in steps):
        found = f"the codestream has {precision} bits, BitsStored says {declared}"
        dataset.notes.append(f"W-BITS {found}: the range is that of {bits}")
    samples = _oriented(dataset, film.samples, policy, steps)
    samples = _square(dataset, samples, facts, policy, steps)
    return replace(film, samples=samples, facts=facts, steps=tuple(steps), warnings=_warnings(dataset, facts))


def brightest(source: Source) -> float | None:
    """Return the highest modality value of a film whose declared range is mostly empty, None for any other object.

    That are signed and 32-bit values without a modality LUT. Raises `DicomRefusal` as `read_film` does.
    """
    header = read_dataset(source, pixels=False)
    deep = tags.integer16(header, "PixelRepresentation", 0) == 1 or tags.integer16(header, "BitsStored", 0) > 16
    if not deep or "ModalityLUTSequence" in header:
        return None
    dataset = read_dataset(source, pixels=True)
    samples = stored_frames(dataset).values[0]
    keep = _kept(dataset, samples, [])
    values = modality_of(dataset)(samples if keep is None else samples[keep])
    return float(values.max()) if values.size else None


def modality_values(dataset: pydicom.Dataset, stored: Array) -> NDArray[np.float32]:
    """Return the modality values of stored values of any shape, float32, by the data set's own LUT or slope."""
    return modality_of(dataset, signed=stored.dtype.kind == "i")(stored)


def _displayed(
    dataset: pydicom.Dataset,
    samples: Array,
    known: Ends | None,
    modality: Modality,
    m: PixelDescription,
    policy: FilmPolicy,
    steps: list[str],
) -> Film:
    """Modality, padding, VOI and polarity of one grey image [R C], its extremes if known; facts are still empty."""
    steps.append(modality.step)
    slope, intercept = modality.slope, modality.intercept
    keep = _kept(dataset, samples, steps)
    if modality.table is not None:
        samples, slope, intercept, known = modality.table(samples), 1.0, 0.0, None
    elif samples.dtype.kind == "f" or samples.dtype.itemsize > 2:
        samples, slope, intercept, known = modality(samples), 1.0, 0.0, None
    low, high = _extremes(samples, keep, known)
    ends = (low * slope + intercept, high * slope + intercept)
    span = (min(ends), max(ends))
    _check_sign(dataset, samples, keep, slope, intercept, span)
    radiograph = tags.text_value(dataset, "Modality") in _FILM_MODALITIES
    whole = whole_range(modality, m, span, policy.bits, signed=samples.dtype.kind == "i", positive=radiograph)
    voi = voi_of(dataset, policy, span, whole)
    if policy.voi == "percentile":
        voi = _stretch(samples, keep, slope, intercept, policy)
    elif voi is not whole:
        voi = _not_blind(dataset, voi, whole, voi.share_beyond(samples, slope, intercept, span, keep), policy)
    if voi is whole:
        dataset.notes += told_range(modality, m, voi, span, policy.bits)
    steps.append(voi.step)
    if voi.curve is None and (span[1] <= voi.low or span[0] >= voi.high):
        raise DicomRefusal("E-CONST", f"{voi.step}: every pixel is beyond it", fix="voi: none, or another window_index")
    if voi.curve is not None:
        samples = _curved(samples, slope, intercept, voi.curve)
        slope, intercept, voi, low, high = 1.0, 0.0, Voi(0.0, 65535.0, voi.step), 0.0, 65535.0
    scale = slope / (voi.high - voi.low)
    offset = (intercept - voi.low) / (voi.high - voi.low)
    inverted = _inverted(dataset, m)
    steps.append(f"polarity={'inverted' if inverted else 'as stored'}")
    if inverted:
        scale, offset = -scale, 1.0 - offset
    return Film(*to_grey_scale(samples, (low, high), (scale, offset), keep, m.stored), Facts())


def _kept(dataset: pydicom.Dataset, samples: Array, steps: list[str]) -> Array | None:
    """Return where a pixel is no padding (PS3.3 C.7.5.1.1.2), None if none is; the share is recorded."""
    signed = samples.dtype.kind == "i"
    value = tags.padding_value(dataset, signed=signed)
    if value is None or samples.dtype.kind == "f":
        return None
    limit = tags.integer16(dataset, "PixelPaddingRangeLimit", value, signed=signed)
    low, high = min(value, limit), max(value, limit)
    padded = samples == value if low == high else (samples >= low) & (samples <= high)
    share = float(np.count_nonzero(padded)) / padded.size
    steps.append(f"padding {low}..{high} share={share:.4f}")
    return ~padded if share else None


def _extremes(samples: Array, keep: Array | None, known: Ends | None) -> tuple[float, float]:
    """Return the smallest and largest sample that is no padding (`known` are those of all); `E-CONST` when equal."""
    inside = samples if keep is None else samples[keep]
    if known is not None and keep is None:
        low, high = map(float, known)
    elif inside.ndim == 2 and inside.dtype in (np.uint8, np.uint16, np.int16):
        low, high = cv2.minMaxLoc(inside)[:2]  # one pass
    else:
        low, high = (inside.min(), inside.max()) if inside.size else (0, 0)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DicomRefusal(
            "E-CONST", "pixels that are not finite numbers", tag="(7FE0,0008)", fix="export the object again"
        )
    if low == high:
        raise DicomRefusal("E-CONST", f"every pixel is {low:g}", allowed="an image", fix="leave the object out")
    return float(low), float(high)


def _check_sign(
    dataset: pydicom.Dataset,
    samples: Array,
    keep: Array | None,
    slope: float,
    intercept: float,
    span: tuple[float, ...],
) -> None:
    """Refuse (`E-SIGN`) a radiograph with negative modality values: unsigned data flagged signed wraps around."""
    modality = tags.text_value(dataset, "Modality")
    if span[0] >= -0.5 or samples.dtype.kind != "i" or modality not in _FILM_MODALITIES:
        return
    zero = -intercept / slope
    negative = samples < zero if slope > 0 else samples > zero
    share = np.count_nonzero(negative if keep is None else negative & keep) / samples.size
    if share > _NEGATIVE_SHARE:
        found = f"{100 * share:.2f} % of pixels negative in a {modality} image"
        raise DicomRefusal("E-SIGN", found, allowed="<= 0.1 %", tag="(0028,0103)", fix="correct PixelRepresentation")


def _not_blind(dataset: pydicom.Dataset, voi: Voi, whole: Voi, share: float, policy: FilmPolicy) -> Voi:
    """Return the window or VOI LUT, or the whole range (by policy) where nearly all pixels lie beyond it."""
    if share <= _TELL_BEYOND:
        return voi
    found = f"{100 * share:.1f} % of the pixels lie beyond {voi.step}"
    if share <= _SHOWS_NOTHING or policy.blind_window == "keep":
        dataset.notes.append(f"W-WINDOW {found}")
        return voi
    if policy.blind_window == "refuse":
        raise DicomRefusal("E-WINDOW", found, allowed="<= 95 %", tag="(0028,1050)", fix="blind_window: range, or keep")
    dataset.notes.append(f"W-WINDOW {found}: the whole range is taken")
    return whole


def _stretch(samples: Array, keep: Array | None, slope: float, intercept: float, policy: FilmPolicy) -> Voi:
    percentiles = policy.percentiles if slope > 0 else (100 - policy.percentiles[1], 100 - policy.percentiles[0])
    ends = [end * slope + intercept for end in percentile_bounds(samples, percentiles, keep)]
    low, high = min(ends), max(ends)
    if low == high:
        raise DicomRefusal("E-CONST", f"the chosen percentiles are both {low:g}", fix="widen percentiles")
    shown = "-".join(f"{p:g}" for p in policy.percentiles)
    return Voi(low, high, f"voi percentile {shown} range {low:g}..{high:g}")


def _curved(samples: Array, slope: float, intercept: float, curve: Callable[[Array], Array]) -> Array:
    """Apply a curve to stored samples, in 65536 levels."""

    def levels(stored: Array) -> Array:
        values = curve(stored.astype(np.float64) * slope + intercept)
        return np.asarray(np.rint(np.clip(values, 0, 1) * 65535).astype(np.uint16))

    return look_up(samples, levels)


def _inverted(dataset: pydicom.Dataset, m: PixelDescription) -> bool:
    """Return whether low values are white: MONOCHROME1, or PresentationLUTShape INVERSE; both together mean it once."""
    return m.photometric == "MONOCHROME1" or tags.text_value(dataset, "PresentationLUTShape") == "INVERSE"


def _oriented(dataset: pydicom.Dataset, samples: Array, policy: FilmPolicy, steps: list[str]) -> Array:
    r"""Bring a frontal film to L\F (columns to the patient's left, rows to the feet; PS3.3 C.7.6.1.1.1)."""
    words = tags.text_values(dataset, "PatientOrientation")
    if len(words) != 2 or policy.orientation == "ignore" or not all(words):
        steps.append(f"orientation {'ignored' if policy.orientation == 'ignore' else 'not stated'}")
        return samples
    row, column = words[0][:1], words[1][:1]
    if row in "FH" or column not in "FH":
        frontal = tags.text_value(dataset, "Modality") in _FILM_MODALITIES and row in "FH" and column in "LRAP"
        if frontal:
            raise DicomRefusal(
                "E-ORIENT", "a film turned by 90 degrees", allowed="L\\F", tag="(0020,0020)", fix="turn the film"
            )
        steps.append(f"orientation {row}\\{column} kept")
        return samples
    mirrored, upside_down = row == "R", column == "H"
    if (mirrored or upside_down) and policy.orientation == "refuse":
        raise DicomRefusal("E-ORIENT", f"PatientOrientation {row}\\{column}", allowed="L\\F", tag="(0020,0020)")
    steps.append(
        f"orientation {row}\\{column}{' mirrored' if mirrored else ''}{' turned upside down' if upside_down else ''}"
    )
    if mirrored or upside_down:
        samples = np.ascontiguousarray(samples[:: -1 if upside_down else 1, :: -1 if mirrored else 1])
    return samples


def _square(dataset: pydicom.Dataset, samples: Array, facts: Facts, policy: FilmPolicy, steps: list[str]) -> Array:
    """Resample non-square pixels to the finer of the two spacings, linearly; the facts keep the header's spacing."""
    ratio = aspect_ratio(dataset, facts.spacing_mm)
    if abs(ratio - 1.0) < 1e-3 or policy.accept.aspect == "keep":
        return samples
    if policy.accept.aspect == "refuse" or not 0.05 <= ratio <= 20:
        raise DicomRefusal(
            "E-SPACING", f"row/column spacing {ratio:.4g}", allowed="1", tag="(0028,0030)", fix="accept.aspect"
        )
    rows, columns = samples.shape
    size = (columns, round(rows * ratio)) if ratio > 1 else (round(columns / ratio), rows)
    steps.append(f"aspect {ratio:.4g} resampled to {size[1]}x{size[0]}")
    return np.asarray(cv2.resize(samples, size, interpolation=cv2.INTER_LINEAR))


def _reduction(m: PixelDescription, policy: FilmPolicy) -> int:
    """Return how often the side may be halved so that the film still covers `reduce_to`."""
    if policy.reduce_to is None or m.samples > 1:
        return 0
    room = min(m.rows / policy.reduce_to[0], m.columns / policy.reduce_to[1])
    return int(np.floor(np.log2(room))) if room >= 1 else 0


def _warnings(dataset: pydicom.Dataset, facts: Facts) -> tuple[str, ...]:
    found = list(dict.fromkeys(dataset.notes))
    if facts.lossy:
        ratio = tags.text_value(dataset, "LossyImageCompressionRatio")
        found.append(f"W-LOSSY ratio={ratio if ratio.replace('.', '').isdigit() else 'not stated'}")
    if facts.spacing_kind == "ImagerPixelSpacing":
        found.append("W-SPACING spacing=detector plane, not calibrated")
    return tuple(found)
