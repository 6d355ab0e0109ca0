"""Stored values of one object: one pinned decoder per transfer syntax, sizes checked first, bits masked and checked.

The table `CODECS` is the only choice of decoder; nothing falls back to another one. All are BSD (imagecodecs:
libjpeg-turbo 3, CharLS, OpenJPEG, libjxl) but Pillow (HPND), for reduced JPEG 2000 only. OpenJPH is three times faster
on HTJ2K, but its binding in imagecodecs 2026.3 crashes on damaged frames and wraps overshoot from white to black.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, cast

import cv2
import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray

from medvit.dicom import tags
from medvit.dicom.codec import codestream
from medvit.dicom.codec.bit_depth import Ends, checked_bits, share_beyond
from medvit.dicom.codec.reduced import decode_reduced
from medvit.dicom.elements import UNDEFINED
from medvit.dicom.limits import LIMITS, Limits, check_decoded, check_matrix, within_seconds
from medvit.dicom.pixel_description import PixelDescription, pixel_description
from medvit.errors import DicomRefusal

Array = NDArray[Any]
_NATIVE: Final = frozenset({"", *("1.2.840.10008.1.2" + end for end in ("", ".1", ".1.99", ".2"))})
_RLE_SLACK: Final = 256  # bytes a plane may decode to beyond the matrix: encoders pad


@dataclass(frozen=True)
class Codec:
    """One decoder: its name for the record, the imagecodecs module that must be there, what it can do and needs."""

    name: str
    module: str
    decode: Callable[[Any, PixelDescription, int], Array]
    shape: Callable[[memoryview], codestream.CodestreamShape] | None
    wavelet: bool = False
    working_bytes: int = 2  # a value, while one frame is decoded


def _jpeg(data: Any, m: PixelDescription, _reduce: int) -> Array:
    if m.samples == 1:
        return imagecodecs.jpeg8_decode(data)
    space = "RGB" if m.photometric == "RGB" else "YCBCR"  # as stored: no conversion on the way
    return imagecodecs.jpeg8_decode(data, colorspace=space, outcolorspace=space)


def _jpegls(data: Any, m: PixelDescription, _reduce: int) -> Array:
    """Decode beside a clock: CharLS 2.4 never comes back from some damaged frames (team-charls/charls, request 334)."""
    seconds = 2 + 1e-7 * m.rows * m.columns * m.samples  # 6 times what a sound frame takes
    return cast(Array, within_seconds(seconds, imagecodecs.jpegls_decode, data))


def _jpegxl(data: Any, m: PixelDescription, _reduce: int) -> Array:
    """Decode the JPEG it was made from, else into memory of the declared size: another is refused before it decodes."""
    jpeg = codestream.rebuilt_jpeg(data)
    if jpeg is not None:
        return _jpeg(jpeg, m, 0)
    return imagecodecs.jpegxl_decode(data, out=np.empty(m.shape[1:], f"u{max(1, m.allocated // 8)}"))


def _jpeg2k(data: Any, _m: PixelDescription, reduce: int) -> Array:
    return decode_reduced(data, reduce) if reduce else imagecodecs.jpeg2k_decode(data)


def _rle(data: Any, m: PixelDescription, _reduce: int) -> Array:
    """Decode the byte planes one by one (PS3.5 G.2); each must hold the matrix, whatever the others hold."""
    count, width = m.rows * m.columns, m.allocated // 8
    planes = []
    for piece in cast(list[Any], codestream.run_length_segments(data, m.samples * width)):
        room = np.empty(count + _RLE_SLACK, np.uint8)  # bytes of this size would cost a page fault for every 4 KiB
        plane = np.frombuffer(imagecodecs.packbits_decode(piece, out=cast(Any, room)), np.uint8)
        if plane.size < count:
            found = f"{plane.size} of {count} run-length coded bytes"
            raise DicomRefusal("E-TRUNC", found, tag="(7FE0,0010)", fix="export or copy the object again")
        planes.append(plane[:count].reshape(m.rows, m.columns))
    merged = [cv2.merge(planes[n : n + width][::-1]) for n in range(0, len(planes), width)]
    samples = [one.view(f"<u{width}").reshape(m.rows, m.columns) for one in merged]
    return np.stack(samples, -1) if m.samples > 1 else samples[0]


_JPEG = Codec("imagecodecs.jpeg8", "JPEG8", _jpeg, codestream.jpeg_shape)
_JPEGLS = Codec("imagecodecs.jpegls", "JPEGLS", _jpegls, codestream.jpeg_shape)
_JPEG2K = Codec("imagecodecs.jpeg2k", "JPEG2K", _jpeg2k, codestream.jpeg2000_shape, wavelet=True, working_bytes=4)
_JPEGXL = Codec("imagecodecs.jpegxl", "JPEGXL", _jpegxl, codestream.jpegxl_shape, working_bytes=16)
_PREFIX = "1.2.840.10008.1.2."
CODECS: Final[dict[str, Codec]] = {
    _PREFIX + "5": Codec("imagecodecs.packbits", "PACKBITS", _rle, None),
    **{_PREFIX + "4." + n: _JPEG for n in ("50", "51", "53", "55", "57", "70")},
    **{_PREFIX + "4." + n: _JPEGLS for n in ("80", "81")},
    **{_PREFIX + "4." + n: _JPEG2K for n in ("90", "91", "201", "202", "203")},  # OpenJPEG reads HTJ2K too, see above
    **{_PREFIX + "4." + n: _JPEGXL for n in ("110", "111", "112")},
}


def available(codec: Codec) -> bool:
    """Say whether the installed imagecodecs has the decoder."""
    return bool(getattr(imagecodecs, codec.module).available)


class Stored(NamedTuple):
    """Stored values [F R C] or [F R C 3], their decoder's name, and the smallest and largest where these are known.

    `precision` is what the codestream says of its bits (0: nothing), `bits` how many the values have: BitsStored, or
    fewer where the codestream has fewer, or more where it has more and the values need them.
    """

    values: Array
    decoder: str
    ends: Ends | None
    precision: int
    bits: int


def stored_frames(dataset: pydicom.Dataset, *, limits: Limits = LIMITS, reduce: int = 0) -> Stored:
    """Return the stored values of a data set read with its pixels.

    Integers are masked to BitsStored and checked against it, sign-extended, native byte order; Float and Double Float
    Pixel Data come as they are. Colour comes in the space PhotometricInterpretation names. The array may be a view of
    the file's bytes. `reduce` = n lets grey JPEG 2000 and HTJ2K be decoded at up to 1 / 2**n of each side, as far as
    the codestream has levels; other syntaxes come whole. What was unusual is appended to `dataset.notes`.
    Raises `DicomRefusal`: `E-TAG`, `E-SIZE`, `E-BITS`, `E-TRUNC`, `E-CODEC`, `E-NOPIXELS`.
    """
    m = pixel_description(dataset)
    check_matrix(m.rows, m.columns, m.samples, m.frames, limits)
    value = dataset.get_item(m.pixel_tag).value
    view = memoryview(value)
    if len(view) == 0:
        raise DicomRefusal("E-NOPIXELS", "PixelData is empty", tag="(7FE0,0010)", fix="export the object again")
    syntax = tags.text_value(dataset.file_meta, "TransferSyntaxUID")
    encapsulated = dataset.get_item(m.pixel_tag).length == UNDEFINED
    precision, name = 0, "numpy"
    if syntax in _NATIVE and not encapsulated:
        values = _native(dataset, view, m)
    elif not encapsulated:
        values = _mislabelled(dataset, view, m, syntax)
    else:
        values, name, precision = _compressed(dataset, view, m, syntax, reduce, limits)
    if m.is_float:
        return Stored(values, name, None, precision, m.stored)
    if precision > m.stored and share_beyond(values, m.stored) > limits.beyond_bits:
        m = replace(m, stored=precision, high=precision - 1)
    values, ends = checked_bits(dataset, values, m, limits.beyond_bits)
    return Stored(values, name, ends, precision, min(m.stored, precision or m.stored))


def stored_colour(dataset: pydicom.Dataset, m: PixelDescription) -> str:
    """Return the colour space of the stored values: the declared one, unless a JPEG says otherwise about itself."""
    codec = CODECS.get(tags.text_value(dataset.file_meta, "TransferSyntaxUID"))
    if m.samples != 3 or codec not in (_JPEG, _JPEGXL):
        return m.photometric
    first = codestream.frames(dataset, memoryview(dataset.get_item(m.pixel_tag).value), m.frames)[0]
    jpeg = first if codec is _JPEG else codestream.rebuilt_jpeg(first)
    said = codestream.jpeg_colour(jpeg) if jpeg else ""
    if not said or (said == "RGB") == (m.photometric == "RGB"):
        return m.photometric
    dataset.notes.append(f"W-COLOUR the JPEG holds {said}, {m.photometric} is declared")
    return said


def require_complete(dataset: pydicom.Dataset, m: PixelDescription) -> None:
    """Refuse (`E-TRUNC`) pixel data shorter than the header says, without decoding it."""
    element = dataset.get_item(m.pixel_tag)
    if element.length == UNDEFINED:
        codestream.frames(dataset, memoryview(element.value), m.frames)
    elif len(element.value) < m.native_bytes and tags.text_value(dataset.file_meta, "TransferSyntaxUID") in _NATIVE:
        raise _cut(len(element.value), m)


def _cut(have: int, m: PixelDescription) -> DicomRefusal:
    found = f"{have} of {m.native_bytes} bytes"
    return DicomRefusal("E-TRUNC", found, tag="(7FE0,0010)", fix="export or copy the object again")


def _native(dataset: pydicom.Dataset, view: memoryview, m: PixelDescription) -> Array:
    """View the bytes as the matrix (PS3.5 8.1.1, A.1-A.3) without a copy where the layout allows."""
    have = len(view)
    if have < m.native_bytes:
        raise _cut(have, m)
    if have > m.native_bytes + m.native_bytes % 2:
        dataset.notes.append(f"W-EXTRA {have - m.native_bytes} bytes after the pixels are ignored")
    if m.allocated == 1:
        bits = np.unpackbits(np.frombuffer(view, np.uint8, m.native_bytes), bitorder="little")
        return bits[: m.count].reshape(m.shape)
    little = dataset.original_encoding[1]
    kind = "f" if m.is_float else "u"
    dtype = np.dtype(f"{'<' if little else '>'}{kind}{m.allocated // 8}")
    if m.allocated == 8 and not little and dataset.get_item(m.pixel_tag).VR == "OW":
        if have % 2:
            raise DicomRefusal("E-TRUNC", "the last 16-bit word of the pixels is cut", tag="(7FE0,0010)")
        view = memoryview(np.frombuffer(view, ">u2").astype("<u2").tobytes())  # bytes of a word are swapped (PS3.5 7.3)
    values = np.frombuffer(view, dtype, m.native_bytes // dtype.itemsize)
    values = values.astype(dtype.newbyteorder("="), copy=False)
    if m.photometric == "YBR_FULL_422":
        return _full_chroma(values, m)
    if m.samples > 1 and m.planar:
        return np.moveaxis(values.reshape(m.frames, m.samples, m.rows, m.columns), 1, -1)
    return values.reshape(m.shape)


def _full_chroma(values: Array, m: PixelDescription) -> Array:
    """Repeat the chroma of YBR_FULL_422 (Y1 Y2 Cb Cr for two pixels, PS3.3 C.7.6.3.1.2)."""
    if m.columns % 2:
        found = f"{m.columns} columns in YBR_FULL_422"
        fix = "export the object again"
        raise DicomRefusal("E-COLOUR", found, allowed="an even number", tag="(0028,0011)", fix=fix)
    four = values.reshape(m.frames, m.rows, m.columns // 2, 4)
    full = np.empty((m.frames, m.rows, m.columns, 3), values.dtype)
    full[..., 0] = four[..., :2].reshape(m.frames, m.rows, m.columns)
    full[..., 1:] = np.repeat(four[..., 2:], 2, axis=2)
    return full


def _mislabelled(dataset: pydicom.Dataset, view: memoryview, m: PixelDescription, syntax: str) -> Array:
    """Read uncompressed pixels that a compressed transfer syntax was declared for, if the length is exactly right."""
    if syntax not in CODECS:  # private syntaxes may swap bytes
        raise _undecodable(syntax, None)
    if len(view) not in (m.native_bytes, m.native_bytes + m.native_bytes % 2):
        raise DicomRefusal("E-TSYNTAX", "a compressed transfer syntax without fragments", tag="(0002,0010)")
    dataset.notes.append("W-TSYNTAX a compressed transfer syntax is declared, the pixels are not compressed")
    return _native(dataset, view, m)


def _undecodable(syntax: str, codec: Codec | None) -> DicomRefusal:
    found, allowed = f"transfer syntax {tags.syntax_name(syntax)}", "one of the syntaxes medvit decodes"
    fix = f"pip install imagecodecs with {codec.module}" if codec else "convert the object to a lossless syntax"
    return DicomRefusal("E-CODEC", found, allowed=allowed, tag="(0002,0010)", fix=fix)


def _compressed(
    dataset: pydicom.Dataset, view: memoryview, m: PixelDescription, syntax: str, reduce: int, limits: Limits
) -> tuple[Array, str, int]:
    """Decode every frame with the codec of the syntax, after all are checked; return the codestreams' precision too."""
    codec = CODECS.get(syntax)
    if codec is None or not available(codec):
        raise _undecodable(syntax, codec)
    check_decoded(m.count * max(1, m.allocated // 8), limits)
    check_decoded(m.count // m.frames * codec.working_bytes, limits)
    pieces = codestream.frames(dataset, view, m.frames)
    reduce = min(reduce, *map(codestream.jpeg2000_levels, pieces)) if reduce and codec.wavelet else 0
    announced = [_announced(codec, piece, m) for piece in pieces]
    precision = max(shape.precision for shape in announced)
    values = _decoded(codec, pieces[0], m, reduce)[None]
    if m.frames > 1:
        values = _filled(values[0], (_decoded(codec, piece, m, reduce) for piece in pieces[1:]), m.frames)
    if {shape.signed for shape in announced} == {not m.signed} and m.samples == 1 and codec.wavelet:
        dataset.notes.append("W-SIGN the codestream's sign differs from PixelRepresentation")
    if not reduce:
        return values, codec.name, precision
    low = -(1 << (m.stored - 1)) if values.dtype.kind == "i" else 0  # the low-pass overshoots at edges
    return np.clip(values, low, low + (1 << m.stored) - 1), f"pillow.jpeg2k reduced by {1 << reduce}", precision


def _filled(first: Array, others: Iterable[Array], count: int) -> Array:
    """Gather frames as they are decoded, without holding each twice."""
    values = np.empty((count, *first.shape), first.dtype)
    values[0] = first
    for number, frame in enumerate(others, 1):
        if frame.dtype != values.dtype:
            raise DicomRefusal("E-CODEC", f"frames of {values.dtype} and {frame.dtype}", fix="export the object again")
        values[number] = frame
    return values


def _announced(codec: Codec, piece: memoryview, m: PixelDescription) -> codestream.CodestreamShape:
    """Return what the codestream announces, compared with the header before its decoder allocates."""
    if codec.shape is None:
        return codestream.CodestreamShape(m.rows, m.columns, m.samples, 0, m.signed)
    shape = codec.shape(piece)
    if codec is not _JPEGXL:
        codestream.require_end(piece)
    if (shape.rows, shape.columns, shape.samples or m.samples) != (m.rows, m.columns, m.samples):
        found = f"the codestream holds {shape.rows}x{shape.columns}x{shape.samples or m.samples} pixels"
        raise DicomRefusal("E-SIZE", found, allowed=f"{m.rows}x{m.columns}x{m.samples}", tag="(0028,0010)")
    if shape.precision > m.allocated:
        found, allowed = f"{shape.precision}-bit codestream", f"<= BitsAllocated {m.allocated}"
        raise DicomRefusal("E-BITS", found, allowed=allowed, tag="(0028,0100)")
    return shape


def _decoded(codec: Codec, piece: memoryview, m: PixelDescription, reduce: int) -> Array:
    """Decode one frame; whatever the C library objects to becomes `E-CODEC` without its text, which may quote bytes."""
    try:
        values = codec.decode(piece, m, reduce)
    except DicomRefusal:  # a ValueError too
        raise
    except (RuntimeError, ValueError, OSError, TypeError, MemoryError, SyntaxError) as error:
        found = f"{codec.name} cannot decode a frame ({type(error).__name__})"
        raise DicomRefusal("E-CODEC", found, tag="(7FE0,0010)", fix="export or copy the object again") from None
    side = (1 << reduce) - 1
    expected = ((m.rows + side) >> reduce, (m.columns + side) >> reduce) + ((3,) if m.samples == 3 else ())
    if values.shape != expected:
        found = f"a decoded frame of shape {values.shape}"
        raise DicomRefusal("E-SIZE", found, allowed=str(expected), tag="(0028,0010)")
    return np.asarray(values)
