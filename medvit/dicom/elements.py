"""The walk over the data elements of one DICOM data set (PS3.5 section 7), without recursion and within the limits.

pydicom parses nested sequences recursively and reads values nobody asks for. This walk finds where each top-level
element lies, never descends deeper than the limit, and leaves every value undecoded: names stay bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag

from medvit.dicom.limits import LIMITS, Deadline, Limits
from medvit.errors import DicomRefusal

UNDEFINED: Final = 0xFFFFFFFF
PIXELS: Final = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_META_GROUP: Final = range(0x0002, 0x0003)
_BEFORE_PIXELS: Final = range(0x7FE0)
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_SHORT = b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()
_PLAIN: Final = {vr: (vr.decode(), 8) for vr in _SHORT} | {vr: (vr.decode(), 12) for vr in _LONG - {b"SQ", b"UN"}}


Raw = dict[BaseTag, RawDataElement]


@lru_cache(1 << 16)
def tag_of(number: int) -> BaseTag:
    """Return one object per tag: pydicom's tags are compared in Python wherever they are not the same object."""
    return BaseTag(number)


class Element(NamedTuple):
    """Where one top-level element lies: `start`/`stop` bound its value, without a closing delimiter."""

    tag: BaseTag
    vr: str | None
    length: int
    start: int
    stop: int
    implicit: bool

    @property
    def head(self) -> int:
        """Where its tag stands."""
        return self.start - (12 if self.vr and self.vr.encode() in _LONG else 8)

    @property
    def is_plain(self) -> bool:
        """Whether the walk passes over its value without a look."""
        return self.vr not in (None, "SQ", "UN")


@dataclass(frozen=True)
class Encoding:
    """How a data set is written: implicit or explicit VR, little or big endian."""

    implicit: bool
    little: bool

    @property
    def order(self) -> str:
        """The struct prefix of the byte order."""
        return "<" if self.little else ">"


class NeedMoreBytes(Exception):
    """The head of the file ends inside an element and the reader has to read on; a signal, never seen by a user."""


class Walker:
    """Walks the elements of `view` (the whole data set or its head) and says where each one is."""

    def __init__(self, view: memoryview, encoding: Encoding, limits: Limits = LIMITS, *, whole: bool = True) -> None:
        self.view, self.encoding, self.limits, self.whole = view, encoding, limits, whole
        self._deadline = Deadline(limits)
        self._short = struct.Struct(encoding.order + "HHHH")
        self._implicit = struct.Struct(encoding.order + "HHI")
        self._long = struct.Struct(encoding.order + "I")
        self._explicit = struct.Struct(encoding.order + "HH2sHI")

    def meta(self, start: int) -> tuple[Raw, int]:
        """Return the elements of group 0002 from `start`, undecoded, and where the data set starts."""
        found: list[Element] = []
        pos = self._plain(start, found, _META_GROUP)
        while pos + 8 <= len(self.view) and bytes(self.view[pos : pos + 2]) == b"\x02\0":
            element, pos = self.one(pos)
            found.append(element)
        return raw_elements(self, found)[0], pos

    def read(self, start: int, *, pixels: bool) -> tuple[Raw, Element | None]:
        """Return the elements before the pixels, undecoded, and the pixel element, None if there is none."""
        return raw_elements(self, self.top_level(start, pixels=pixels))

    def top_level(self, start: int, *, pixels: bool) -> list[Element]:
        """List the top-level elements from `start`, up to and with the pixel data (unmeasured if not `pixels`).

        A value that runs over the end of a whole file is cut there; the caller compares `length` with `stop - start`.
        Raises `E-DEPTH`, `E-TIME`, `E-PARSE`; `NeedMoreBytes` when only the head of the file is in the buffer.
        """
        found: list[Element] = []
        pos, end = start, len(self.view)
        while (pos := self._plain(pos, found, _BEFORE_PIXELS)) + 8 <= end:
            element, pos = self.one(pos, pixels=pixels)
            if element.tag in (_ITEM_END, _SEQUENCE_END):  # stray delimiters after a sequence: harmless padding
                continue
            found.append(element)
            if len(found) % 512 == 0:
                self._deadline.check()
            if element.tag in PIXELS:
                self._deadline.check()
                return found
        if not self.whole:
            raise NeedMoreBytes
        self._deadline.check()
        return found

    def one(self, pos: int, *, pixels: bool = True) -> tuple[Element, int]:
        """Return the top-level element at `pos` and the position after it; pixel data is not measured if not asked."""
        tag, vr, length, start, implicit = self._head(pos, self.encoding.implicit)
        if tag in PIXELS and not pixels:
            stop = after = start + (length > 0)
        else:
            stop, after = self._extent(tag, vr, length, start, implicit)
            if length == UNDEFINED and tag not in PIXELS:  # only a sequence may be closed by a delimiter (PS3.5 6.2.2)
                vr, implicit = "SQ", implicit or vr == "UN"
        return Element(tag_of(tag), vr, length, start, stop, implicit), after

    def _plain(self, pos: int, found: list[Element], groups: range) -> int:
        """Append explicit elements of `groups` from `pos` while they are whole and no sequences; return the end.

        A short cut through `one`, which takes the rest.
        """
        view, end, unpack = self.view, len(self.view), self._explicit.unpack_from
        make = tuple.__new__  # a named tuple's own is a Python function, and a series has 30,000 elements
        while pos + 12 <= end and not self.encoding.implicit:
            group, number, letters, short, long = unpack(view, pos)
            vr, head = _PLAIN.get(letters, ("", 0))
            length = short if head == 8 else long
            start = pos + head
            stop = start + length
            if not head or length == UNDEFINED or stop > end or group not in groups:
                break
            found.append(make(Element, (tag_of(group << 16 | number), vr, length, start, stop, False)))
            pos = stop
            if len(found) % 512 == 0:
                self._deadline.check()
        return pos

    def _head(self, pos: int, all_implicit: bool) -> tuple[int, str | None, int, int, bool]:
        """Read tag, VR, length, start of value and whether the element is implicit, at `pos`."""
        view = self.view
        if pos + 12 > len(view) and not self.whole:
            raise NeedMoreBytes
        group, number, length = self._implicit.unpack_from(view, pos)
        tag = group << 16 | number
        if all_implicit or group == 0xFFFE:
            return tag, None, length, pos + 8, True
        vr = bytes(view[pos + 4 : pos + 6])
        if vr in _LONG:
            if pos + 12 > len(view):
                raise DicomRefusal("E-PARSE", "the header ends inside an element", fix="export the object again")
            return tag, vr.decode("ascii"), self._long.unpack_from(view, pos + 8)[0], pos + 12, False
        if b"AA" <= vr <= b"ZZ" and vr[1:2].isalpha():
            return tag, vr.decode("ascii"), self._short.unpack_from(view, pos)[3], pos + 8, False
        return tag, None, length, pos + 8, True  # some writers switch to implicit VR half way (PS3.5 6.2.2 Note)

    def _extent(self, tag: int, vr: str | None, length: int, value: int, implicit: bool) -> tuple[int, int]:
        """Return where the value stops and where the next element starts."""
        end = len(self.view)
        if length != UNDEFINED:
            stop = value + length
            if stop > end:
                if not self.whole:
                    raise NeedMoreBytes
                if tag not in PIXELS:
                    raise DicomRefusal("E-TRUNC", f"the header ends inside an element, {stop - end} bytes are missing")
                stop = end
            if vr == "SQ" or (vr in (None, "UN") and length >= 16 and self._tag_at(value) == _ITEM):
                self._check_nesting(value, stop, implicit)
            return stop, stop
        if tag in PIXELS:
            return self._fragments_end(value)
        return self._sequence(value, None, implicit or vr == "UN")

    def _check_nesting(self, value: int, stop: int, implicit: bool) -> None:
        """Walk a sequence of known length only when it holds enough item tags to be too deep."""
        item = struct.pack(self.encoding.order + "HH", 0xFFFE, 0xE000)
        if bytes(self.view[value:stop]).count(item) > self.limits.depth:
            self._sequence(value, stop, implicit)

    def _tag_at(self, pos: int) -> int:
        if pos + 8 > len(self.view):
            if not self.whole:
                raise NeedMoreBytes
            raise DicomRefusal("E-TRUNC", "the header ends inside a sequence", fix="export or copy the object again")
        group, number, _ = self._implicit.unpack_from(self.view, pos)
        return int(group << 16 | number)

    def _sequence(self, pos: int, stop: int | None, implicit: bool) -> tuple[int, int]:
        """Walk a sequence from its first item; `stop` is its end, None if it is closed by a delimiter.

        `stack` holds the ends of the open sequences and items, alternately: the walk needs no recursion.
        """
        stack: list[int | None] = [stop]
        steps = 0
        while True:
            steps += 1
            if steps % 512 == 0:
                self._deadline.check()
            while stack and (closing := stack[-1]) is not None and pos >= closing:
                stack.pop()
            if not stack:
                return pos, pos
            tag = self._tag_at(pos)
            if tag in (_ITEM_END, _SEQUENCE_END):
                stack.pop()
                if not stack:
                    return pos, pos + 8
                pos += 8
            elif len(stack) % 2 == 0:
                pos = self._inside_item(pos, stack, implicit)
            else:
                pos = self._open_item(pos, stack)

    def _open_item(self, pos: int, stack: list[int | None]) -> int:
        if self._tag_at(pos) != _ITEM:
            raise DicomRefusal(
                "E-PARSE", "a sequence holds something that is not an item", fix="export the object again"
            )
        length = self._implicit.unpack_from(self.view, pos)[2]
        stack.append(None if length == UNDEFINED else pos + 8 + length)
        return pos + 8

    def _inside_item(self, pos: int, stack: list[int | None], implicit: bool) -> int:
        tag, vr, length, value, _ = self._head(pos, implicit)
        if length == UNDEFINED or vr == "SQ" or (vr is None and length >= 8 and self._starts_item(value, length)):
            if len(stack) // 2 >= self.limits.depth:
                found = f"sequences nested deeper than {self.limits.depth}"
                raise DicomRefusal("E-DEPTH", found, allowed=f"<= {self.limits.depth}", fix="limits.depth")
            if tag in PIXELS and length == UNDEFINED:  # an icon image
                return self._fragments_end(value)[1]
            stack.append(None if length == UNDEFINED else value + length)
            return value
        if value + length > len(self.view):
            if not self.whole:
                raise NeedMoreBytes
            raise DicomRefusal("E-TRUNC", "the header ends inside a sequence", fix="export or copy the object again")
        return value + length

    def _starts_item(self, value: int, length: int) -> bool:
        return value + length <= len(self.view) and self._tag_at(value) == _ITEM

    def _fragments_end(self, pos: int) -> tuple[int, int]:
        """Walk the fragments of encapsulated pixel data (PS3.5 A.4); a file that ends before its delimiter is cut."""
        end = len(self.view)
        while pos + 8 <= end:
            group, number, length = self._implicit.unpack_from(self.view, pos)
            tag = group << 16 | number
            if tag == _SEQUENCE_END:
                return pos, pos + 8
            if tag != _ITEM or pos + 8 + length > end:
                break
            pos += 8 + length
        if not self.whole:
            raise NeedMoreBytes
        found = "the compressed pixel data is not closed by a delimiter"
        raise DicomRefusal("E-TRUNC", found, tag="(7FE0,0010)", fix="export or copy the object again")


def raw_elements(walker: Walker, elements: list[Element]) -> tuple[Raw, Element | None]:
    """Return elements by tag, their values copied out of the file, and apart from them the last one if it is pixels."""
    last = elements[-1] if elements and elements[-1].tag in PIXELS else None  # nothing after them is read
    before = elements[:-1] if last else elements
    head, little = bytes(walker.view[: before[-1].stop if before else 0]), walker.encoding.little
    make = tuple.__new__  # as in `Walker._plain`; the last two fields: raw, not buffered
    return {
        tag: make(RawDataElement, (tag, vr, length, head[start:stop], start, implicit, little, True, False))
        for tag, vr, length, start, stop, implicit in before
    }, last
