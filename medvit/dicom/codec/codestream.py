"""What a compressed frame says about itself before it is decoded, and which fragments make a frame (PS3.5 A.4)."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Final, NamedTuple

import imagecodecs
import pydicom

from medvit.dicom import tags
from medvit.errors import DicomRefusal

_ITEM: Final = 0xFFFEE000
_START = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ", b"\xff\x0a")


class CodestreamShape(NamedTuple):
    """The size a codestream announces: what the decoder would allocate."""

    rows: int
    columns: int
    samples: int
    precision: int
    signed: bool


def jpeg_shape(data: memoryview) -> CodestreamShape:
    """Return the size from the frame header (SOFn, or SOF55 of JPEG-LS) of a JPEG codestream (ISO 10918-1 B.2.2)."""
    pos, end = 2, len(data)
    while pos + 4 <= end:
        if data[pos] != 0xFF:
            break
        marker = data[pos + 1]
        if marker == 0xFF:
            pos += 1
            continue
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            if pos + 10 > end:
                break
            precision, rows, columns, samples = struct.unpack_from(">BHHB", data, pos + 4)
            return CodestreamShape(rows, columns, samples, precision, signed=False)
        pos += 2 + int(struct.unpack_from(">H", data, pos + 2)[0])
    raise DicomRefusal("E-CODEC", "a compressed frame has no JPEG frame header", fix="export the object again")


def jpeg_colour(data: memoryview) -> str:
    """Return "YBR_FULL" or "RGB" where a JPEG's JFIF or Adobe marker says so (ISO 10918-5, 10918-6), else ""."""
    pos = 2
    while pos + 16 <= len(data) and data[pos] == 0xFF and 0xE0 <= data[pos + 1] <= 0xFE:
        if data[pos + 1] == 0xE0 and bytes(data[pos + 4 : pos + 8]) == b"JFIF":
            return "YBR_FULL"
        if data[pos + 1] == 0xEE and bytes(data[pos + 4 : pos + 9]) == b"Adobe":
            return "YBR_FULL" if data[pos + 15] == 1 else "RGB"
        pos += 2 + int(struct.unpack_from(">H", data, pos + 2)[0])
    return ""


def jpeg2000_shape(data: memoryview) -> CodestreamShape:
    """Return the size from the SIZ marker of a JPEG 2000 or HTJ2K codestream, bare or in a box (ISO 15444-1 A.5.1)."""
    at = bytes(data[:4096]).find(b"\xff\x4f\xff\x51")
    if at < 0 or at + 43 > len(data):
        raise DicomRefusal("E-CODEC", "a compressed frame has no JPEG 2000 header", fix="export the object again")
    right, bottom, left, top = struct.unpack_from(">IIII", data, at + 8)
    samples, depth = struct.unpack_from(">HB", data, at + 40)
    return CodestreamShape(bottom - top, right - left, samples, (depth & 0x7F) + 1, signed=bool(depth & 0x80))


def jpegxl_shape(data: memoryview) -> CodestreamShape:
    """Return size and precision from a JPEG XL header, bare or in a box (ISO 18181-1 D.2, D.3); samples are 0: unread.

    Precision is 0 where an intrinsic size, a preview or an animation stands before it, or the samples are floats.
    """
    head = bytes(data[:4096])
    start = 0
    if head[:4] == b"\0\0\0\x0c":
        start = head.find(b"jxlc") + 4 if b"jxlc" in head else head.find(b"jxlp") + 8
    if head[start : start + 2] != b"\xff\x0a":
        raise DicomRefusal("E-CODEC", "a compressed frame has no JPEG XL header", fix="export the object again")
    bits, at = int.from_bytes(head[start + 2 : start + 34], "little"), 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        return bits >> (at - count) & ((1 << count) - 1)

    eighths = take(1)

    def side() -> int:
        return (1 + take(5)) * 8 if eighths else 1 + take((9, 13, 18, 30)[take(2)])

    rows, ratio = side(), take(3)
    over, under = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio]
    columns = rows * over // under if ratio else side()
    precision = 8
    if not take(1):  # not all of the metadata is the default
        if take(1):  # extra fields
            take(3)
            if take(1) or take(1) or take(1):
                return CodestreamShape(rows, columns, 0, 0, signed=False)
        precision = 0 if take(1) else (8, 10, 12, -1)[take(2)]
        precision = 1 + take(6) if precision < 0 else precision
    return CodestreamShape(rows, columns, 0, precision, signed=False)


def rebuilt_jpeg(data: memoryview) -> memoryview | None:
    """Return the JPEG that a JPEG XL frame was made from, byte for byte, None if it was made from pixels.

    libjxl's pixels differ from those of the JPEG's decoder by up to 2 levels (15 in colour): equal films would not be
    equal. Source: ISO 18181-2, box `jbrd`.
    """
    whole = bytes(data)
    return memoryview(imagecodecs.jpegxl_decode_jpeg(whole, numthreads=1)) if b"jbrd" in whole else None


def jpeg2000_levels(data: memoryview) -> int:
    """Return the number of decomposition levels from the COD marker (ISO 15444-1 A.6.1)."""
    head = bytes(data[: 1 << 16])
    pos = head.find(b"\xff\x4f\xff\x51") + 2
    while pos >= 2 and pos + 10 <= len(head) and head[pos] == 0xFF and head[pos + 1] != 0x93:
        if head[pos + 1] == 0x52:
            return head[pos + 9]
        pos += 2 + int.from_bytes(head[pos + 2 : pos + 4], "big")
    raise DicomRefusal("E-CODEC", "a compressed frame has no JPEG 2000 coding style", fix="export the object again")


def run_length_segments(data: memoryview, count: int) -> list[memoryview]:
    """Return the `count` segments of a run-length coded frame (PS3.5 G.5); `E-CODEC` unless its header places them."""
    offsets = struct.unpack_from("<16I", data) if len(data) >= 64 else (0,)
    ends = (*offsets[1 : count + 1], len(data))
    if offsets[0] == count and ends[0] == 64 and all(a < b for a, b in pairwise(ends)):
        return [data[a:b] for a, b in pairwise(ends)]
    found = f"a run-length header that does not place {count} segments in {len(data)} bytes"
    raise DicomRefusal("E-CODEC", found, tag="(7FE0,0010)", fix="export the object again")


def require_end(data: memoryview) -> None:
    """Refuse (`E-TRUNC`) a JPEG, JPEG-LS or JPEG 2000 frame without its end marker: libjpeg would fill it with grey."""
    if b"\xff\xd9" not in bytes(data[-256:]).rstrip(b"\0")[-4:]:  # up to two bytes of padding of any value
        found = "a compressed frame does not end with its end marker"
        raise DicomRefusal("E-TRUNC", found, tag="(7FE0,0010)", fix="export or copy the object again")


def frames(dataset: pydicom.Dataset, value: memoryview, count: int) -> list[memoryview]:
    """Split encapsulated pixel data into `count` frames: by the offset tables, else by one fragment (or start) a frame.

    Raises `E-TRUNC` when frames are missing or a fragment is cut, `E-CODEC` when fragments cannot be told apart.
    """
    offsets, fragments, starts = _fragments(value, "<" if dataset.original_encoding[1] else ">")
    if count == 1:
        return [_join(fragments)]
    if len(fragments) == count:
        return fragments
    if len(fragments) < count:
        found = f"{len(fragments)} fragments for {count} frames"
        raise DicomRefusal("E-TRUNC", found, tag="(7FE0,0010)", fix="export or copy the object again")
    extended, _ = tags.raw(dataset, "ExtendedOffsetTable")
    if extended and len(extended) == 8 * count:
        offsets = list(struct.unpack(f"<{count}Q", extended))
    if len(offsets) == count and offsets[0] == 0:
        heads = [starts.index(offset) if offset in starts else -1 for offset in offsets]
    else:
        heads = [i for i, one in enumerate(fragments) if bytes(one[:12]).startswith(_START)]
    if len(heads) != count or heads[0] != 0 or any(b <= a for a, b in pairwise(heads)):
        raise DicomRefusal("E-CODEC", f"{len(fragments)} fragments cannot be told apart into {count} frames")
    return [_join(fragments[a:b]) for a, b in zip(heads, [*heads[1:], None], strict=True)]


def _fragments(value: memoryview, order: str) -> tuple[list[int], list[memoryview], list[int]]:
    """Return the basic offset table, the fragments, and where each starts, counted from the first fragment's item."""
    head, pos, items, places = struct.Struct(order + "HHI"), 0, [], []
    while pos + 8 <= len(value):
        group, number, length = head.unpack_from(value, pos)
        if group << 16 | number != _ITEM:
            break
        if pos + 8 + length > len(value):
            found = f"{len(value) - pos - 8} of {length} bytes of a fragment"
            raise DicomRefusal("E-TRUNC", found, tag="(7FE0,0010)", fix="export or copy the object again")
        items.append(value[pos + 8 : pos + 8 + length])
        places.append(pos)
        pos += 8 + length
    if len(items) < 2:
        raise DicomRefusal("E-NOPIXELS", "the compressed pixel data holds no fragment", tag="(7FE0,0010)")
    table = items[0]
    offsets = list(struct.unpack(f"{order}{len(table) // 4}I", table[: len(table) // 4 * 4]))
    return offsets, items[1:], [place - places[1] for place in places[1:]]


def _join(parts: list[memoryview]) -> memoryview:
    return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))
