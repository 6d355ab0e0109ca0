"""Reads the few fields of a Siemens CSA2 image header that place the tiles of a mosaic.

The format is not in DICOM: "SV10", four bytes, the number of fields (uint32), a check word; each field is a 64-byte
name, vm, a 4-byte VR, a type, the number of items and a check word, and each item four words (the second is its
length) and its text, padded to four bytes. All little endian (see nibabel, "Siemens format DICOM with CSA header").
"""

from __future__ import annotations

import struct
from typing import Final

from medvit.errors import DicomRefusal

_FIELD: Final = struct.Struct("<64si4siii")
_ITEM: Final = struct.Struct("<4i")
_MAX_FIELDS, _MAX_ITEMS = 1000, 10_000


def read_csa(blob: bytes, wanted: frozenset[str]) -> dict[str, list[str]]:
    """Return the non-empty texts of each field in `wanted`; `E-MOSAIC` for a header that is older or damaged."""
    if blob[:4] != b"SV10":
        raise _damaged("is not of the CSA2 kind")
    try:
        return _fields(blob, wanted)
    except struct.error:
        raise _damaged("ends early") from None


def _fields(blob: bytes, wanted: frozenset[str]) -> dict[str, list[str]]:
    count, found = struct.unpack_from("<I", blob, 8)[0], {}
    if count > _MAX_FIELDS:
        raise _damaged("has too many fields")
    pos = 16
    for _ in range(count):
        raw_name, _vm, _vr, _type, items, _check = _FIELD.unpack_from(blob, pos)
        pos += _FIELD.size
        if not 0 <= items <= _MAX_ITEMS:
            raise _damaged("has a field with an impossible number of items")
        texts = []
        for _ in range(items):
            length = _ITEM.unpack_from(blob, pos)[1]
            pos += _ITEM.size
            if length < 0 or pos + length > len(blob):
                raise _damaged("ends early")
            texts.append(_text(blob[pos : pos + length]))
            pos += (length + 3) // 4 * 4
        name = _text(raw_name)
        if name in wanted:
            found[name] = [text for text in texts if text]
    return found


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("latin-1").strip()


def _damaged(what: str) -> DicomRefusal:
    return DicomRefusal("E-MOSAIC", f"the CSA header {what}", tag="(0029,1010)", fix="convert the mosaic with dcm2niix")
