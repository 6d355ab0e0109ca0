"""What pictures and NIfTI files say about their size, from their headers alone."""

from __future__ import annotations

from pathlib import Path

from medvit.dicom import storage
from medvit.dicom.storage import Source
from medvit.errors import DicomRefusal
from medvit.preprocess.nifti import is_nifti, nifti_header
from medvit.preprocess.picture import is_picture, picture_header
from medvit.types import Facts

HEAD = 1 << 12


def kind_of(head: bytes) -> str:
    """Return "picture", "nifti" or "" by the signature of the first 352 bytes or more."""
    return "picture" if is_picture(head) else "nifti" if is_nifti(head) else ""


def read_facts(path: Path, head: bytes) -> Facts:
    """Return the matrix (and frames) of a picture or a NIfTI file; nothing else is known of it.

    Raises DicomRefusal `E-IMAGE`, `E-FRAMES`, `E-COLOUR`: see `picture_header` and `nifti_header`.
    """
    if is_picture(head):
        with path.open("rb") as file:
            picture = picture_header(file)
        if min(picture.rows, picture.columns) < 1:
            raise DicomRefusal("E-IMAGE", f"{picture.rows}x{picture.columns} pixels", fix="export the image again")
        return Facts(rows=picture.rows, columns=picture.columns, photometric="MONOCHROME2")
    columns, rows, *more = nifti_header(head).dims
    return Facts(rows=rows, columns=columns, frames=more[0] if more else 1, photometric="MONOCHROME2")


def nifti_steps(source: Source) -> int:
    """Return how many volumes a NIfTI file holds (dim[4]), 0 for another file; see `nifti_header` for refusals."""
    head = bytes(storage.load(source, HEAD).view if isinstance(source, Path) else source[:HEAD])
    if not is_nifti(head):
        return 0
    dims = nifti_header(head).dims
    return dims[3] if len(dims) > 3 else 1
