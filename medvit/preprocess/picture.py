"""PNG, JPEG, TIFF and BMP files as the same Film that DICOM gives."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any, NamedTuple, cast

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from medvit.dicom.storage import Source
from medvit.errors import DicomRefusal
from medvit.preprocess.definition import as_bytes
from medvit.types import Facts, Film

DEPTHS = (8, 10, 12, 14, 16)  # bits of what films are made with
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*", b"BM")
_COLUMNS, _ROWS, _ORIENTATION, _PHOTOMETRIC, _SUBFILE = (
    256,
    257,
    274,
    262,
    254,
)  # tags of TIFF 6.0; EXIF has the first too
_REDUCED_PAGE = 1  # bit of the subfile type: a smaller copy of another page
_WHITE_IS_ZERO = 0
_DAMAGED = (  # what Pillow raises for damaged headers, beside OSError
    *(UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError, TypeError, LookupError, EOFError),
    struct.error,
)
_UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {  # EXIF 2.32, tag 274
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: np.rot90,
}


class PictureHeader(NamedTuple):
    """What a picture says of itself: rows and columns as it is to be seen, and how its samples are to be taken.

    `deep`: 16 bits a sample. `significant` is sBIT of such a PNG, how many bits the samples had; None: it is not said.
    """

    rows: int
    columns: int
    format: str
    orientation: int
    white_is_zero: bool
    deep: bool
    significant: int | None


def is_picture(data: bytes | memoryview) -> bool:
    """Say whether the bytes (132 or more) begin like a PNG, JPEG, TIFF or BMP and are no DICOM behind it."""
    return bytes(data[:8]).startswith(_PICTURES) and bytes(data[128:132]) != b"DICM"


def picture_header(file: io.BufferedIOBase) -> PictureHeader:
    """Read the header of an open picture; raises DicomRefusal E-IMAGE, E-FRAMES (a TIFF of several whole pages)."""
    try:
        with Image.open(cast(IO[bytes], file), formats=("PNG", "JPEG", "TIFF", "BMP")) as image:
            kind, tags = str(image.format), cast(Any, getattr(image, "tag_v2", {}))
            rows, columns = int(tags.get(_ROWS, image.height)), int(tags.get(_COLUMNS, image.width))
            exif = image.getexif() if kind in {"JPEG", "MPO"} else {}  # of a PNG it would decode the image
            orientation = int(tags.get(_ORIENTATION) or exif.get(_ORIENTATION) or 1)
            white_is_zero = kind == "TIFF" and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
            deep = str(image.mode).startswith("I;16")
            pages = 1 + sum(_whole_page(image, page) for page in range(1, _pages(image, kind)))
    except (*_DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        found = f"a picture whose header does not read ({type(error).__name__})"
        raise DicomRefusal("E-IMAGE", found, allowed="PNG, JPEG, TIFF, BMP", fix="export the image again") from None
    if pages > 1:
        raise DicomRefusal("E-FRAMES", f"a TIFF of {pages} pages", allowed="1", fix="write each page as its own file")
    significant = None
    if kind == "PNG":
        deep, significant, orientation = _png_words(file)
    if orientation not in _UPRIGHT:
        orientation = 1
    if orientation > 4:
        rows, columns = columns, rows
    return PictureHeader(rows, columns, kind, orientation, white_is_zero, deep, significant)


def _pages(image: Any, kind: str) -> int:
    return int(image.n_frames) if kind == "TIFF" else 1


def _whole_page(image: Any, page: int) -> bool:
    image.seek(page)
    return not int(image.tag_v2.get(_SUBFILE, 0)) & _REDUCED_PAGE


def _png_words(file: io.BufferedIOBase) -> tuple[bool, int | None, int]:
    """Return whether a PNG has 16 bits, the most that its sBIT then says of a channel, and its EXIF orientation.

    Source: W3C PNG (third edition), 11.3; eXIf may stand behind the pixels, which are not read.
    """
    file.seek(0)
    deep, significant, orientation = file.read(33)[24:25] == b"\x10", None, 1
    while len(start := file.read(8)) == 8:
        length, name = int.from_bytes(start[:4], "big"), start[4:]
        if name not in {b"sBIT", b"eXIf"}:
            file.seek(length + 4, io.SEEK_CUR)
            continue
        body = file.read(length + 4)[:-4]
        if name == b"sBIT" and deep and body:
            significant = max(body[:3])
        elif name == b"eXIf":
            exif = Image.Exif()
            with suppress(*_DAMAGED):  # a damaged one says nothing
                exif.load(body)
                orientation = int(exif.get(_ORIENTATION, 1))
    return deep, significant, orientation


def read_picture(source: Source, bits: int | str = "declared") -> Film:
    """Read a picture upright as a grey film: 8 or 16 bits, 0 black; colour is turned to grey with a warning.

    bits: which values of 16 bits are white. "declared": what the file says (sBIT), else 65535, with a warning where
    far less is used; a number: so many bits, where the file itself says nothing; "image": the bits that this image's
    own values need, as medvit 0.1 did (its runs and bundles go on so).

    Raises:
        DicomRefusal: E-IMAGE, E-FRAMES, E-CONST.
    """
    data = as_bytes(source)
    head = picture_header(io.BytesIO(data))
    stored = _decoded(data, head)
    if stored.dtype not in (np.uint8, np.uint16):
        raise DicomRefusal("E-IMAGE", f"samples of type {stored.dtype}", allowed="8 or 16 bits unsigned")
    samples, warnings = _grey(_UPRIGHT[head.orientation](stored))
    if samples.min() == samples.max():
        raise DicomRefusal("E-CONST", f"every pixel is {int(samples.max())}", fix="exclude the image")
    if head.orientation != 1:
        warnings += (f"W-ORIENT orientation {head.orientation} of the file is applied",)
    top, told = (255, ()) if samples.dtype == np.uint8 else _white(samples, head.significant, bits)
    if head.white_is_zero:
        samples = top - np.minimum(samples, samples.dtype.type(top))
    facts = Facts(rows=samples.shape[0], columns=samples.shape[1], photometric="MONOCHROME2")
    step = f"picture, white at {top}{', stored as white is zero' if head.white_is_zero else ''}"
    return Film(np.ascontiguousarray(samples), 1.0 / top, 0.0, facts, (step,), (*warnings, *told))


def _decoded(data: bytes | memoryview, head: PictureHeader) -> NDArray[Any]:
    """Decode as stored: without EXIF rotation, without inverting."""
    try:
        if head.format == "TIFF":
            stored = imagecodecs.tiff_decode(bytes(data), index=0)
            return np.asarray(stored[..., ::-1] if stored.ndim == 3 and stored.shape[2] == 3 else stored)
        flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
        picture: Any = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except (RuntimeError, ValueError, MemoryError, cv2.error):
        picture = None
    if picture is None:
        found = f"{len(data)} bytes that do not decode"
        raise DicomRefusal("E-IMAGE", found, allowed="PNG, JPEG, TIFF, BMP", fix="export the image again")
    return np.asarray(picture)


def _white(samples: NDArray[Any], significant: int | None, bits: int | str) -> tuple[int, tuple[str, ...]]:
    """Return the value of 16 bits that is white, and what has to be told."""
    highest = int(samples.max())
    needed = next(depth for depth in DEPTHS if highest < 1 << depth)
    if bits == "image":
        told = (f"W-RANGE of 16 bits {needed} are used and taken as the whole range",) * (needed < 16)
        return (1 << needed) - 1, told
    if significant is not None:
        return _of_significant(samples, significant, highest)
    if isinstance(bits, int):
        top = (1 << min(bits, 16)) - 1
        above = float(np.mean(samples > top)) if highest > top else 0.0
        return top, (f"W-RANGE {100 * above:.2g} % of the pixels are above {bits} bits and become white",) * (above > 0)
    fix = f"preprocess.picture_bits={needed} takes these as the whole range"
    return 65535, (f"W-RANGE of 16 bits {needed} are used; {fix}",) * (needed < 14)


def _of_significant(samples: NDArray[Any], significant: int, highest: int) -> tuple[int, tuple[str, ...]]:
    """Tell samples that were scaled up to 16 bits, as the standard of PNG asks, from those that were left as they were.

    Scaled ones repeat their upper bits below, or have zeros there, in every pixel.
    """
    spare = 16 - significant
    upper = samples >> spare
    repeated = (upper << spare) | (upper >> max(0, significant - spare))
    if np.array_equal(samples, repeated) or np.array_equal(samples, upper << spare):
        return 65535, ()
    if highest < 1 << significant:
        return (1 << significant) - 1, ()
    raise DicomRefusal(
        "E-IMAGE", f"sBIT says {significant} bits, a pixel is {highest}", fix="export the image with the right sBIT"
    )


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
