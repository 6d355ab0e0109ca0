"""NIfTI files as the same volumes that DICOM gives, and a name for every kind that is none."""

from __future__ import annotations

import gzip
import struct
import zlib
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from medvit.dicom.storage import Source
from medvit.errors import DicomRefusal
from medvit.preprocess.definition import as_bytes
from medvit.types import Facts, Volume

_ONE, _TWO = frozenset({b"n+1\0", b"ni1\0"}), frozenset({b"n+2\0", b"ni2\0"})
_GREY = frozenset({2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280})  # integers and floats (nifti1.h, datatype)
_NO_GREY = {1: "1-bit", 128: "RGB", 2304: "RGBA", 32: "complex", 1792: "complex", 2048: "complex", 1536: "128-bit"}
_CIFTI = range(3000, 3100)  # intent codes of matrices over a brain's surface
_AS_NIFTI = "convert to one .nii or .nii.gz file"


class NiftiHeader(NamedTuple):
    """dim[1..n] (columns, rows, slices, steps as the file has them) and the code of the data type."""

    dims: tuple[int, ...]
    datatype: int


def is_nifti(data: bytes | memoryview) -> bool:
    """Say whether the bytes (352 or more) are a header of NIfTI-1, NIfTI-2 or Analyze 7.5, gzip or not."""
    return _plain_head(data) is not None


def nifti_header(data: bytes | memoryview) -> NiftiHeader:
    """Return the shape of a NIfTI file from its first bytes.

    Raises:
        DicomRefusal: E-IMAGE (no NIfTI, a pair of files, Analyze, CIFTI, an unknown data type, damaged sizes),
            E-COLOUR (voxels that are not one real number).
    """
    head = _plain_head(data)
    if head is None:
        raise DicomRefusal("E-IMAGE", "no NIfTI header", fix="export the volume again")
    two = head[4:8] in _TWO
    order = "<" if struct.unpack_from("<i", head)[0] in {348, 540} else ">"
    if not two and head[344:348] not in _ONE:
        fix = f"{_AS_NIFTI}; Analyze does not say which side is left"
        raise DicomRefusal("E-IMAGE", "a header of Analyze 7.5", allowed="NIfTI", fix=fix)
    if head[4:8] == b"ni2\0" or head[344:348] == b"ni1\0":
        raise DicomRefusal("E-IMAGE", "the header of a pair .hdr and .img", allowed="one file", fix=_AS_NIFTI)
    if two and struct.unpack_from(order + "i", head, 504)[0] in _CIFTI:
        raise DicomRefusal("E-IMAGE", "CIFTI: a matrix over a brain's surface", allowed="a volume")
    count, *dims = struct.unpack_from(order + ("8q" if two else "8h"), head, 16 if two else 40)
    if not 2 <= count <= 7 or min(dims[:count]) < 1:
        raise DicomRefusal("E-IMAGE", f"NIfTI with {count} dimensions", allowed="2 to 7 dimensions of 1 or more")
    datatype = struct.unpack_from(order + "h", head, 12 if two else 70)[0]
    if datatype in _NO_GREY:
        raise DicomRefusal("E-COLOUR", f"NIfTI with {_NO_GREY[datatype]} voxels", allowed="one number per voxel")
    if datatype not in _GREY:
        raise DicomRefusal("E-IMAGE", f"NIfTI with the unknown data type {datatype}", fix="export the volume again")
    return NiftiHeader(tuple(dims[:count]), datatype)


def _plain_head(data: bytes | memoryview) -> bytes | None:
    head = bytes(data[:4096])
    if head.startswith(b"\x1f\x8b"):
        try:
            head = zlib.decompressobj(wbits=31).decompress(head, 540)
        except zlib.error:
            return None
    if len(head) < 348:
        return None
    known = head[344:348] in _ONE or head[4:8] in _TWO
    order = {b"\x5c\x01\0\0": "<", b"\0\0\x01\x5c": ">"}.get(head[:4])  # the size of the header, 348
    analyze = order is not None and 1 <= struct.unpack_from(order + "h", head, 40)[0] <= 7
    return head if known or analyze else None


def read_nifti(source: Source) -> list[Volume]:
    """Read a NIfTI file as volumes (slice, row, column) with an LPS affine, one per step of a fourth axis.

    Where both place it, the sform counts, with a warning W-AFFINE if the two disagree by a millimetre or more.
    Raises DicomRefusal as `nifti_header`, and E-GEOM when neither sform nor qform places the image in the patient.
    Source: NIfTI-1.1 header (RAS axes, index order i j k); nibabel applies slope and intercept.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    data = as_bytes(source)
    nifti_header(data)
    try:
        raw = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        image = (nibabel.Nifti2Image if raw[4:6] == b"n+" else nibabel.Nifti1Image).from_bytes(raw)
        values = np.asarray(image.dataobj, dtype=np.float32)
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError) as error:
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
    told = _two_places(image, values.shape[:3])
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
            told,
        )
        for t in range(series.shape[3])
    ]


def _two_places(image: Any, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Return a warning if sform and qform put a corner of the volume at places a millimetre or more apart."""
    (sform, one), (qform, other) = image.get_sform(coded=True), image.get_qform(coded=True)
    if not (one and other):
        return ()
    corners = np.array([[*corner, 1.0] for corner in product(*((0, side - 1) for side in shape))])
    apart = float(np.linalg.norm((corners @ (sform - qform).T)[:, :3], axis=1).max())
    if apart < 1.0:
        return ()
    return (
        f"W-AFFINE sform and qform disagree by {apart:.0f} mm; the sform is used, ITK and SimpleITK take the qform",
    )
