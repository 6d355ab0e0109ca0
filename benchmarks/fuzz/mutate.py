"""Input number n of a seeded stream: one seed object with a few mutations, most of them near its head or its pixels."""

from __future__ import annotations

import random
import struct

_PIXELS = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")
_LENGTHS = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
_WORDS = (
    b"US",
    b"SQ",
    b"UN",
    b"OB",
    b"\xfe\xff\x00\xe0",
    b"\xfe\xff\xdd\xe0",
    bytes([255] * 4),
    b"nan",
    b"1e999",
    b"\\",
)


def mutated(corpus: list[bytes], seed: int, number: int) -> bytes:
    """Return input `number`: the same for the same corpus, seed and number."""
    random_ = random.Random(f"{seed}/{number}")
    data = bytearray(random_.choice(corpus))
    for _ in range(random_.choice((1, 1, 2, 3, 6))):
        _one(data, random_, corpus)
    return bytes(data)


def _one(data: bytearray, random_: random.Random, corpus: list[bytes]) -> None:
    """Change `data` once, in place."""
    if not data:
        return
    at, kind = _place(data, random_), random_.randrange(12)
    if kind < 3:
        data[at] = random_.randrange(256)
    elif kind < 5:
        data[at] ^= 1 << random_.randrange(8)
    elif kind < 7:
        form = random_.choice(("<H", "<I", ">H", ">I"))
        number = random_.choice(_LENGTHS) & (0xFFFF if form[1] == "H" else 0xFFFFFFFF)
        data[at : at + struct.calcsize(form)] = struct.pack(form, number)
    elif kind == 7:
        word = random_.choice(_WORDS)
        data[at : at + len(word)] = word
    elif kind == 8:
        del data[at : at + random_.choice((1, 2, 4, 8, 64))]
    elif kind == 9:
        data[at:at] = data[at : at + random_.choice((2, 8, 64))]
    elif kind == 10:
        other = random_.choice(corpus)
        start = random_.randrange(len(other))
        piece = other[start : start + random_.choice((4, 16, 256))]
        data[at : at + len(piece)] = piece
    elif random_.random() < 0.3:
        del data[at:]


def _place(data: bytearray, random_: random.Random) -> int:
    """Return a position: anywhere, in the header, or just behind the pixel element's tag."""
    choice = random_.random()
    found = max(data.rfind(mark) for mark in _PIXELS)
    if choice < 0.4 and found >= 0:
        return min(len(data) - 1, found + int(random_.expovariate(1 / 200)))
    if choice < 0.8:
        return random_.randrange(min(len(data), found if found > 132 else 4096))
    return random_.randrange(len(data))
