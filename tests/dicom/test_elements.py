"""The short cut over plain elements finds what the full walk finds, whatever the bytes and wherever they end."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from medvit.dicom.elements import Encoding, NeedMoreBytes, Walker
from medvit.errors import DicomRefusal

VRS = [b"LO", b"DS", b"US", b"FD", b"OB", b"OW", b"UT", b"UN", b"SQ", b"ZZ", b"\0\0"]
LONG = {b"OB", b"OW", b"UT", b"UN", b"SQ"}
ELEMENT = st.tuples(
    st.integers(0x0008, 0x0030) | st.sampled_from([0x7FE0, 0xFFFE]),
    st.integers(0, 0xFFFF),
    st.sampled_from(VRS),
    st.binary(max_size=12),
    st.sampled_from([0, 0, 0, 2, 0xFFFF0000]),  # how far the length lies
)


def encoded(elements: list, order: str) -> bytes:
    parts = []
    for group, number, vr, value, lie in elements:
        length = len(value) + lie
        if vr in LONG:
            head = struct.pack(order + "HH2sHI", group, number, vr, 0, length)
        elif vr == b"\0\0":
            head = struct.pack(order + "HHI", group, number, length)
        else:
            head = struct.pack(order + "HH2sH", group, number, vr, length & 0xFFFF)
        parts.append(head + value)
    return b"".join(parts)


def outcome(data: bytes, encoding: Encoding, *, whole: bool, plain: bool) -> object:
    walker = Walker(memoryview(data), encoding, whole=whole)
    if not plain:
        walker._plain = lambda pos, found, groups: pos
    try:
        return walker.top_level(0, pixels=True)
    except DicomRefusal as refusal:
        return str(refusal)
    except NeedMoreBytes:
        return "more"


@given(st.lists(ELEMENT, max_size=8), st.integers(0, 200), st.booleans(), st.booleans())
@settings(max_examples=400, deadline=None)
def test_plain_elements_are_found_as_by_the_full_walk(elements, kept, little, whole):
    data = encoded(elements, "<" if little else ">")[:kept]
    encoding = Encoding(implicit=False, little=little)
    found = outcome(data, encoding, whole=whole, plain=True)
    assert found == outcome(data, encoding, whole=whole, plain=False)
