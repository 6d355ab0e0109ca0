"""PNG, JPEG and NIfTI files as the same Film and Volume that DICOM gives."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from medvit.dicom.storage import Source
from medvit.errors import DicomRefusal
from medvit.preprocess.definition import as_bytes
from medvit.types import Facts, Film, Volume

_DEPTHS = (8, 10, 12, 14, 16)  # bits of what films are made with; a picture says only 8 or 16
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*", b"BM")


def is_picture(data: bytes | memoryview) -> bool:
    """Say whether the bytes (132 or more) begin like a PNG, JPEG, TIFF or BMP and are no DICOM behind it."""
    return bytes(data[:8]).startswith(_PICTURES) and bytes(data[128:132]) != b"DICM"


def is_nifti(data: bytes | memoryview) -> bool:
    """Say whether the bytes are a NIfTI-1 or NIfTI-2 file, gzip or not (magic at byte 344 or 4)."""
    head = bytes(data[:352])
    if head[:2] == b"\x1f\x8b":
        try:
            head = zlib.decompressobj(wbits=31).decompress(data, 352)
        except zlib.error:
            return False
    return head[344:348] in {b"n+1\x00", b"ni1\x00"} or head[4:8] in {b"n+2\x00", b"ni2\x00"}


def read_picture(source: Source) -> Film:
    """Read a PNG, JPEG, TIFF or BMP as a grey film: 8 or 16 bits, 0 black; colour is turned to grey with a warning.

    Of 16 bits those that are used are the range (8, 10, 12, 14 or 16), with a warning where these are not all: 12 bits
    would else leave a sixteenth of the grey levels. EXIF rotation is ignored (pixels stay as stored).
    Raises DicomRefusal E-IMAGE, E-CONST.
    """
    data = as_bytes(source)
    stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if stored is None:
        raise DicomRefusal(
            "E-IMAGE",
            f"{len(data)} bytes that do not decode",
            allowed="PNG, JPEG, TIFF, BMP",
            fix="export the image again",
        )
    if stored.dtype not in (np.uint8, np.uint16):
        raise DicomRefusal("E-IMAGE", f"samples of type {stored.dtype}", allowed="8 or 16 bits unsigned")
    samples, warnings = _grey(stored)
    if samples.min() == samples.max():
        raise DicomRefusal("E-CONST", f"every pixel is {int(samples.max())}", fix="exclude the image")
    stored_bits, highest = 8 * samples.itemsize, int(samples.max())
    bits = next(depth for depth in _DEPTHS if highest < 1 << depth)
    if bits < stored_bits:
        warnings += (f"W-RANGE of {stored_bits} bits {bits} are used and taken as the whole range",)
    facts = Facts(rows=samples.shape[0], columns=samples.shape[1], photometric="MONOCHROME2")
    return Film(samples, 1.0 / ((1 << bits) - 1), 0.0, facts, (f"picture of {bits} bits",), warnings)


def _grey(stored: NDArray[Any]) -> tuple[NDArray[Any], tuple[str, ...]]:
    if stored.ndim == 2:
        return stored, ()
    colour = stored[..., :3]
    dropped = ("W-ALPHA an alpha channel was dropped",) if stored.shape[2] == 4 else ()
    if stored.shape[2] < 3 or (
        np.array_equal(colour[..., 0], colour[..., 1]) and np.array_equal(colour[..., 1], colour[..., 2])
    ):
        return np.ascontiguousarray(stored[..., 0]), dropped
    grey = cv2.cvtColor(np.ascontiguousarray(colour), cv2.COLOR_BGR2GRAY)
    return np.asarray(grey), ("W-COLOUR a colour image was turned to grey", *dropped)


def read_nifti(source: Source) -> list[Volume]:
    """Read a NIfTI file as volumes (slice, row, column) with an LPS affine, one per step of a fourth axis.

    Raises DicomRefusal E-IMAGE, and E-GEOM when neither sform nor qform places the image in the patient.
    Source: NIfTI-1.1 header (RAS axes, index order i j k); nibabel applies slope and intercept.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    data = as_bytes(source)
    try:
        raw = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        image = (nibabel.Nifti2Image if raw[4:6] == b"n+" else nibabel.Nifti1Image).from_bytes(raw)
        values = np.asarray(image.dataobj, dtype=np.float32)
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError) as error:
        raise DicomRefusal(
            "E-IMAGE", f"a NIfTI that does not read ({type(error).__name__})", fix="export the volume again"
        ) from error
    if not (int(image.header["sform_code"]) or int(image.header["qform_code"])):
        raise DicomRefusal(
            "E-GEOM", "sform and qform codes 0", allowed="a code above 0", fix="convert again with orientation kept"
        )
    if values.ndim not in {3, 4} or not np.isfinite(values).all():
        raise DicomRefusal(
            "E-IMAGE", f"shape {values.shape}, finite {bool(np.isfinite(values).all())}", allowed="3 or 4 axes, finite"
        )
    affine = (np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine)[:, [2, 1, 0, 3]]
    facts = Facts(rows=values.shape[1], columns=values.shape[0])
    series = values[..., None] if values.ndim == 3 else values
    return [
        Volume(
            np.ascontiguousarray(series[..., t].T),
            affine,
            facts,
            "" if values.ndim == 3 else f"t={t}",
            (0,),
            ("nifti",),
        )
        for t in range(series.shape[3])
    ]
