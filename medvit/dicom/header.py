"""From a file or bytes to a pydicom data set: signature, meta information, encoding, limits, and what is no image.

The only way into a DICOM object for the rest of medvit. Values stay undecoded until somebody asks for one, so a name is
never decoded, logged or compared, and a broken element that nobody needs stops nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, cast

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.uid import UID

from medvit.dicom import storage, tags
from medvit.dicom.elements import Element, Encoding, NeedMoreBytes, Walker
from medvit.dicom.header_reuse import HeaderReuse
from medvit.dicom.limits import LIMITS, Limits, check_file_size, inflate
from medvit.dicom.storage import Source
from medvit.errors import DicomRefusal

DEFLATED: Final = "1.2.840.10008.1.2.1.99"
IMPLICIT: Final = "1.2.840.10008.1.2"
BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
DIRECTORY: Final = "1.2.840.10008.1.3.10"
_HEAD_BYTES = 1 << 16
_META = Encoding(implicit=False, little=True)
_KINDS = (
    (b"\xff\xd8", "FF D8 (JPEG)"),
    (b"\x89PNG", "89 PNG"),
    (b"<", "'<' (HTML or XML)"),
    (b"PK\x03\x04", "PK (zip)"),
    (b"\x1f\x8b", "1F 8B (gzip)"),
    (b"%PDF", "%PDF"),
    (b"II*\0", "II* (TIFF)"),
    (b"MM\0*", "MM* (TIFF)"),
)
_POLYGLOTS = (
    (b"MZ", "MZ"),
    (b"\x7fELF", "ELF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
# a preamble of TIFF is legitimate in dual-personality slides (PS3.10 7.1), and still worth a word
_NO_IMAGE_MODALITIES = frozenset(
    {"SR", "PR", "KO", "RTSTRUCT", "RTPLAN", "RTRECORD", "ECG", "EPS", "HD", "REG", "FID", "DOC", "AU", "PLAN"}
)
_STANDARD = "1.2.840.10008."
_MAKERS = (("1.3.12.2.1107.", "Siemens"), ("1.3.46.670589.", "Philips"), ("1.2.840.113619.", "GE"))


def read_dataset(
    source: Source, *, pixels: bool, force: bool = False, limits: Limits = LIMITS, alike: HeaderReuse | None = None
) -> pydicom.Dataset:
    """Read one DICOM object; with `pixels=False` only the head of the file is read.

    The result is a `pydicom.Dataset` with `file_meta` and a list `notes` of one-line warnings (`W-` codes). Its pixel
    data is a memoryview into the file's bytes: take it through `decode.stored_frames` only. `force` reads an object
    without preamble or transfer syntax (PS3.10 7.1). `alike` remembers what the objects of a series have in common.
    Raises `DicomRefusal`: `E-IO`, `E-EMPTY`, `E-SIZE`, `E-CHANGED`, `E-NOTDICOM`, `E-TAG`, `E-INFLATE`, `E-PARSE`,
    `E-TRUNC`, `E-DEPTH`, `E-TIME`, `E-NOPIXELS`, and `I-SKIP` for what is no image (SR, DICOMDIR, ...).
    """
    head = None if pixels else _HEAD_BYTES
    while True:
        view, whole = _load(source, head, limits)
        try:
            return _parse(view, whole, pixels, force, limits, alike)
        except NeedMoreBytes:
            head = None if head is None or head > 1 << 22 else head * 16


def read_header(source: Source, *, force: bool = False, limits: Limits = LIMITS) -> pydicom.Dataset:
    """Read the header of one object, without its pixels; as `read_dataset(pixels=False)`."""
    return read_dataset(source, pixels=False, force=force, limits=limits)


def _load(source: Source, head: int | None, limits: Limits) -> tuple[memoryview, bool]:
    """Return the bytes (all, or the first `head`) and whether they are all."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        check_file_size(len(source), limits)
        return memoryview(source), True
    found = storage.load(Path(source), head, limits)
    return found.view, len(found.view) == found.stat.st_size


def _parse(
    view: memoryview, whole: bool, pixels: bool, force: bool, limits: Limits, alike: HeaderReuse | None
) -> pydicom.Dataset:
    notes: list[str] = []
    start = _signature(view, force, notes)
    meta, start = _meta(view, start, limits, whole)
    syntax = tags.text_value(meta, "TransferSyntaxUID")
    if tags.text_value(meta, "MediaStorageSOPClassUID") == DIRECTORY:
        raise DicomRefusal("I-SKIP", "SOP class Media Storage Directory (DICOMDIR); its paths are not followed")
    if not syntax and not force:
        raise tags.refuse("TransferSyntaxUID", "missing", fix="read with force=true, the encoding is then guessed")
    if syntax == DEFLATED:
        if not whole:
            raise NeedMoreBytes
        view, start = memoryview(inflate(view[start:], limits)), 0
    encoding = _encoding(view, start, syntax, notes)
    walker = Walker(view, encoding, limits, whole=whole)
    raw, last = alike.read(walker, start, pixels=pixels) if alike else walker.read(start, pixels=pixels)
    if last and pixels:
        value = cast(Any, view[last.start : last.stop])
        raw[last.tag] = RawDataElement(
            last.tag, last.vr, last.length, value, last.start, last.implicit, encoding.little
        )
    dataset = pydicom.Dataset(raw)
    dataset.file_meta = meta
    dataset.set_original_encoding(encoding.implicit, encoding.little)
    dataset.notes = notes
    _require_image(dataset, last)
    return dataset


def _signature(view: memoryview, force: bool, notes: list[str]) -> int:
    """Return where the meta information starts, after a look at the preamble (PS3.10 7.1; SE-17)."""
    if len(view) >= 132 and bytes(view[128:132]) == b"DICM":
        for magic, name in _POLYGLOTS:
            if bytes(view[: len(magic)]) == magic:
                notes.append(f"W-PREAMBLE the preamble starts like a {name} file; never execute or copy it")
        return 132
    for magic, name in _KINDS:
        if bytes(view[:64]).lstrip()[: len(magic)] == magic:
            raise DicomRefusal("E-NOTDICOM", f"starts with {name}", allowed="a DICOM Part 10 file")
    looks_like = len(view) >= 8 and bytes(view[:4]) in {
        b"\x02\0\0\0",
        b"\x02\0\x10\0",
        b"\x08\0\0\0",
        b"\x08\0\x05\0",
        b"\x08\0\x08\0",
        b"\x08\0\x16\0",
        b"\0\x08\0\0",
        b"\0\x08\0\x05",
    }
    if force and looks_like:
        notes.append("W-PREAMBLE no preamble and no DICM mark; read because force is set")
        return 0
    fix = "read with force=true" if looks_like else ""
    raise DicomRefusal("E-NOTDICOM", "no DICM mark at byte 128", allowed="a DICOM Part 10 file", fix=fix)


def _meta(view: memoryview, start: int, limits: Limits, whole: bool) -> tuple[pydicom.dataset.FileMetaDataset, int]:
    """Read group 0002, always explicit VR little endian; return it and where the data set starts."""
    raw, start = Walker(view, _META, limits, whole=whole).meta(start)
    return pydicom.dataset.FileMetaDataset(raw), start


def _encoding(view: memoryview, start: int, syntax: str, notes: list[str]) -> Encoding:
    """Return the encoding the transfer syntax declares, or, with `W-TSYNTAX`, the one the first element shows."""
    declared = Encoding(implicit=syntax == IMPLICIT, little=syntax != BIG_ENDIAN)
    if len(view) < start + 8:
        return declared
    vr = bytes(view[start + 4 : start + 6])
    explicit = b"AA" <= vr <= b"ZZ" and vr.isalpha()
    big = explicit and int.from_bytes(view[start : start + 2], "little") >= 0x0100 and view[start] == 0
    shown = Encoding(implicit=not explicit, little=not big)
    if shown == declared or not syntax:
        return shown
    notes.append("W-TSYNTAX the data set is not encoded as its transfer syntax says; read as it is")
    return shown


def _require_image(dataset: pydicom.Dataset, pixels: Element | None) -> None:
    """Refuse what has no pixel data: `I-SKIP` if its class never has, or is a maker's own, else `E-NOPIXELS`."""
    described = any(keyword in dataset for keyword in ("Rows", "Columns", "BitsAllocated"))
    if described and pixels and pixels.stop > pixels.start:
        return
    uid = UID(tags.text_value(dataset, "SOPClassUID"))
    modality = tags.text_value(dataset, "Modality")
    name = uid.name if uid.name != uid else ""
    if modality in _NO_IMAGE_MODALITIES or (name and "Image" not in name):
        raise DicomRefusal("I-SKIP", f"SOP class {name or 'of modality ' + modality}, it holds no image")
    if uid and not uid.startswith(_STANDARD) and not pixels:
        maker = next((maker for root, maker in _MAKERS if uid.startswith(root)), "a maker")
        raise DicomRefusal("I-SKIP", f"private SOP class of {maker}, it holds no image")
    found = "no PixelData"
    if pixels:
        found = "PixelData is empty" if described else "PixelData without Rows, Columns and BitsAllocated"
    raise DicomRefusal("E-NOPIXELS", found, tag="(7FE0,0010)", fix="export the object again")
