"""What PNG, JPEG, TIFF and NIfTI files say about their size, from their first bytes alone."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from medvit.dicom import storage
from medvit.dicom.storage import Source
from medvit.errors import DicomRefusal
from medvit.types import Facts

HEAD = 1 << 12
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG start of frame markers (ISO 10918-1 table B.1)
_NO_GREY = {128: "RGB", 2304: "RGBA", 32: "complex", 1792: "complex", 2048: "complex"}  # NIfTI-1 datatype codes


def kind_of(head: bytes) -> str:
    """Return "picture", "nifti" or "" by the signature of the first 352 bytes or more."""
    if head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        return "picture"
    return "nifti" if _nifti_header(head) is not None else ""


def read_facts(path: Path, head: bytes) -> Facts:
    """Return the matrix (and frames) of a PNG, JPEG or NIfTI file; nothing else is known of it.

    Raises DicomRefusal `E-IMAGE` when the header is damaged.
    """
    header = _nifti_header(head)
    try:
        if header is not None:
            columns, rows, *more = _nifti_dims(header)
            return Facts(rows=rows, columns=columns, frames=more[0] if more else 1, photometric="MONOCHROME2")
        rows, columns = _png_shape(head) if head.startswith(b"\x89PNG") else _jpeg_shape(path)
    except (struct.error, IndexError) as error:
        raise DicomRefusal("E-IMAGE", "the header is damaged or ends early", fix="export the image again") from error
    if rows < 1 or columns < 1:
        raise DicomRefusal("E-IMAGE", f"{rows}x{columns} pixels", fix="export the image again")
    return Facts(rows=rows, columns=columns, photometric="MONOCHROME2")


def nifti_steps(source: Source) -> int:
    """Return how many volumes a NIfTI file holds (dim[4]), 0 for another file; DicomRefusal `E-IMAGE`, `E-IO`."""
    head = storage.load(source, HEAD).view if isinstance(source, Path) else source[:HEAD]
    header = _nifti_header(bytes(head))
    if header is None:
        return 0
    dims = _nifti_dims(header)
    return dims[3] if len(dims) > 3 else 1


def _nifti_header(head: bytes) -> bytes | None:
    if head.startswith(b"\x1f\x8b"):
        try:
            head = zlib.decompressobj(wbits=31).decompress(head, 1024)
        except zlib.error:
            return None
    known = head[344:348] in {b"n+1\0", b"ni1\0"} or head[4:8] in {b"n+2\0", b"ni2\0"}
    return head if known else None


def _nifti_dims(header: bytes) -> tuple[int, ...]:
    """Return dim[1..n] (columns, rows, slices, steps as the file has them): NIfTI-1 at byte 40, NIfTI-2 at 16."""
    two = header[4:8] in {b"n+2\0", b"ni2\0"}
    little = struct.unpack_from("<i", header)[0] in {348, 540}
    order = "<" if little else ">"
    count, *dims = struct.unpack_from(order + ("8q" if two else "8h"), header, 16 if two else 40)
    if not 2 <= count <= 7 or min(dims[:count]) < 1:
        raise DicomRefusal("E-IMAGE", f"NIfTI with {count} dimensions", allowed="2 to 7 dimensions of 1 or more")
    datatype = struct.unpack_from(order + "h", header, 12 if two else 70)[0]
    if datatype in _NO_GREY:
        raise DicomRefusal("E-COLOUR", f"NIfTI with {_NO_GREY[datatype]} voxels", allowed="one number per voxel")
    return tuple(dims[:count])


def _png_shape(head: bytes) -> tuple[int, int]:
    columns, rows = struct.unpack_from(">II", head, 16)
    return rows, columns


def _jpeg_shape(path: Path) -> tuple[int, int]:
    """Walk the segments up to the start of frame; a large EXIF block may stand before it."""
    with path.open("rb") as file:
        file.seek(2)
        while True:
            marker = file.read(4)
            if marker[0] != 0xFF:
                raise IndexError
            length = struct.unpack(">H", marker[2:4])[0]
            if marker[1] in _FRAMES:
                rows, columns = struct.unpack(">HH", file.read(5)[1:5])
                return rows, columns
            file.seek(length - 2, 1)
