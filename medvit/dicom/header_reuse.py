"""Headers of one series are nearly the same: what stood at the same place in an earlier one is not read again."""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np

from medvit.dicom.elements import Element, Raw, Walker, raw_elements
from medvit.errors import DicomRefusal

_LONGEST: Final = 1 << 20  # bytes of a header that is remembered
_MANY: Final = 8  # headers that are remembered: a number with one more digit moves all that follows


class HeaderReuse:
    """Reads the headers of one series and remembers the last few, each with another layout."""

    def __init__(self) -> None:
        self._known: deque[_Header] = deque(maxlen=_MANY)

    def read(self, walker: Walker, start: int, *, pixels: bool) -> tuple[Raw, Element | None]:
        """Return what `Walker.read` returns, or raise what it raises."""
        for header in self._known:
            raw = header.taken_over(walker, start)
            if raw is not None:
                return raw, walker.one(header.pixels.head, pixels=pixels)[0]
        elements = walker.top_level(start, pixels=pixels)
        raw, last = raw_elements(walker, elements)
        if last is not None and _may_be_remembered(walker, start, elements, raw):
            self._known.appendleft(_Header(walker, start, elements, raw))
        return raw, last


def _may_be_remembered(walker: Walker, start: int, elements: list[Element], raw: Raw) -> bool:
    """Say no if a header is implicit (any value may open a sequence), or long, or has a tag twice.

    Also if its walk depends on what follows it: a damaged sequence may point beyond the header.
    """
    *before, pixels = elements
    if walker.encoding.implicit or pixels.start - start > _LONGEST or len(raw) != len(before):
        return False
    alone = Walker(walker.view[: pixels.start], walker.encoding, walker.limits)
    try:
        return alone.top_level(start, pixels=False)[:-1] == before
    except DicomRefusal:
        return False


class _Header:
    """The bytes of one header up to its pixels.

    The walk looks at the heads of elements and into sequences, never at plain values. So where nothing but plain values
    differs, it finds the same elements at the same places.
    """

    def __init__(self, walker: Walker, start: int, elements: list[Element], raw: Raw) -> None:
        self.start, self.encoding, self.elements, self.raw = start, walker.encoding, elements, raw.copy()
        self.pixels = elements[-1]
        self.bytes = np.array(walker.view[start : self.pixels.start])
        self.tail = bytes(walker.view[self.pixels.head : self.pixels.start])
        self.stops = np.array([one.stop for one in elements]) - start
        self.values = np.array([one.start if one.is_plain else one.stop for one in elements]) - start

    def taken_over(self, walker: Walker, start: int) -> Raw | None:
        """Return the elements before the pixels of another header; None unless only plain values differ."""
        view = walker.view
        if (start, walker.encoding) != (self.start, self.encoding):
            return None
        if view[self.pixels.head : self.pixels.start] != self.tail:  # most other layouts end here
            return None
        changed = np.flatnonzero(np.frombuffer(view, np.uint8, len(self.bytes), start) != self.bytes)
        owner = np.searchsorted(self.stops, changed, side="right")
        if (changed < self.values[owner]).any():
            return None
        raw = self.raw.copy()
        for index in set(owner.tolist()):
            tag, _, _, begin, stop, _ = self.elements[index]
            raw[tag] = raw[tag]._replace(value=bytes(view[begin:stop]))
        return raw
