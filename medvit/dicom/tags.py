"""Numbers and words out of a data set, each checked: a wrong value in use is a refusal (`E-TAG`), never a default.

Values are read from the raw bytes where pydicom has not converted them yet, whatever VR the writer declared, because
the number is what counts: decimal strings longer than 16 characters keep their digits, unused bad values do no harm.
"""

from __future__ import annotations

import functools
import math
import re
import struct
from typing import Final, cast

import pydicom
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.errors import BytesLengthException
from pydicom.tag import BaseTag

from medvit.dicom.elements import tag_of
from medvit.errors import DicomRefusal

_DAMAGE: Final = (BytesLengthException, struct.error)
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def refuse(keyword: str, found: str, *, allowed: str = "", fix: str = "") -> DicomRefusal:
    """Return the `E-TAG` refusal that names the element by its keyword and tag."""
    tag = cast(int, tag_for_keyword(keyword))
    return DicomRefusal(
        "E-TAG", f"{keyword} {found}", allowed=allowed, tag=f"({tag >> 16:04X},{tag & 0xFFFF:04X})", fix=fix
    )


def raw(dataset: pydicom.Dataset, keyword: str) -> tuple[bytes | None, object]:
    """Return (raw bytes, None) of an unconverted element, (None, value) of a converted one, (None, None) if absent."""
    return _raw_at(dataset, _tag(keyword))


@functools.cache
def _tag(keyword: str) -> BaseTag:
    """Look a keyword up once: a series asks for the same few of every slice."""
    return tag_of(cast(int, tag_for_keyword(keyword)))


def _raw_at(dataset: pydicom.Dataset, tag: int) -> tuple[bytes | None, object]:
    element = dataset.get_item(tag, keep_deferred=True)  # else an empty one is converted, whatever its VR
    if element is None:
        return None, None
    if isinstance(element, RawDataElement):
        return bytes(element.value or b""), None
    return None, element.value


def text_values(dataset: pydicom.Dataset, keyword: str) -> tuple[str, ...]:
    """Return the values of a text element without padding; () if it is absent or empty. Never for names."""
    data, value = raw(dataset, keyword)
    if data is None:
        if value is None or value == "":
            return ()
        many = value if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
        return tuple(str(one).strip() for one in cast(list[object], many))
    text = data.decode("latin-1").strip(" \0")
    return tuple([part.strip(" \0\t") for part in text.split("\\")]) if text else ()


def text_value(dataset: pydicom.Dataset, keyword: str) -> str:
    """Return the first value of a text element, "" if there is none."""
    return next(iter(text_values(dataset, keyword)), "")


def decimals(dataset: pydicom.Dataset, keyword: str, count: int | None = None) -> tuple[float, ...]:
    """Return the finite numbers of a DS or IS element; () if it is absent or empty.

    Raises `E-TAG` for anything that is not a number (PS3.5 table 6.2-1), and when `count` numbers are due.
    """
    found = text_values(dataset, keyword)
    for one in found:
        if not _NUMBER.fullmatch(one) or not math.isfinite(float(one)):
            raise refuse(keyword, f"holds {_shown(one)!r}", allowed="finite decimal numbers", fix="correct the element")
    if found and count is not None and len(found) != count:
        raise refuse(keyword, f"has {len(found)} values", allowed=f"{count} values", fix="correct the element")
    return tuple(float(one) for one in found)


def integer(dataset: pydicom.Dataset, keyword: str, default: int | None = None) -> int:
    """Return the integer of an IS element, `default` if absent; `E-TAG` if it is no integer, or due and absent."""
    found = text_value(dataset, keyword)
    if not found:
        if default is None:
            raise refuse(keyword, "missing", fix="correct the element")
        return default
    if not re.fullmatch(r"[+-]?\d{1,12}", found):
        raise refuse(keyword, f"holds {_shown(found)!r}", allowed="an integer", fix="correct the element")
    return int(found)


def integer16(dataset: pydicom.Dataset, keyword: str, default: int | None = None, *, signed: bool = False) -> int:
    """Return the 16-bit integer of a US or SS element, `default` if absent; `E-TAG` if due and absent, or broken."""
    return integer16_at(dataset, _tag(keyword), default, signed=signed)


def integer16_at(dataset: pydicom.Dataset, tag: int, default: int | None = None, *, signed: bool = False) -> int:
    """Do as `short`, by the number of the tag (for repeating groups)."""
    data, value = _raw_at(dataset, tag)
    if data is not None and len(data) >= 2:
        order = "<" if dataset.get_item(tag, keep_deferred=True).is_little_endian else ">"
        return int(struct.unpack_from(order + ("h" if signed else "H"), data)[0])
    if data is None and isinstance(value, int):
        return int(struct.unpack("<h", struct.pack("<H", value & 0xFFFF))[0]) if signed else value & 0xFFFF
    if (data is None and value is None) or data == b"":
        if default is None:
            raise refuse(name_of(tag), "missing", fix="correct the element")
        return default
    raise refuse(name_of(tag), "does not hold a 16-bit integer", fix="correct the element")


def _shown(text: str) -> str:
    """Cut a wrong value for a message and mask its letters: in a damaged header they could be a name."""
    return text if re.fullmatch(r"(?i)[+-]?(nan|inf)", text) else re.sub(r"[^0-9+\-.,]", "?", text)[:16]


def name_of(tag: int) -> str:
    """Return the keyword of a tag, or its number."""
    return keyword_for_tag(tag) or f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def items_of(dataset: pydicom.Dataset, sequence: str | int) -> list[pydicom.Dataset]:
    """Return the items of a sequence, [] if it is absent; `E-PARSE` for one that is damaged or under another VR."""
    if sequence not in dataset:
        return []
    try:
        value = dataset[sequence].value
    except (*_DAMAGE, OSError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError):
        value = None  # pydicom parses a sequence when it is first asked for, and fails in many ways
    if not isinstance(value, pydicom.Sequence):
        raise DicomRefusal("E-PARSE", "a sequence that is needed is damaged", fix="export the object again")
    return list(value)


def padding_value(dataset: pydicom.Dataset, *, signed: bool) -> int | None:
    """Return PixelPaddingValue read with the sign of the pixels, whatever VR it was written with; None if absent."""
    return integer16(dataset, "PixelPaddingValue", signed=signed) if "PixelPaddingValue" in dataset else None


def syntax_name(uid: str) -> str:
    """Return the name of a registered transfer syntax, else "private" (a raw UID could name a site)."""
    known = pydicom.uid.UID(uid)
    return f"{known.name} ({uid})" if known.name != uid else "unregistered"


def uid_name(word: str) -> str:
    """Return a registered DICOM UID by its name, any other word as it is."""
    return syntax_name(word).removesuffix(f" ({word})") if word.startswith("1.2.840.10008.") else word
