"""What one DICOM object may cost, checked before memory is given out (RE-04): hostile files are refused."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from medvit.errors import DicomRefusal

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Caps for one object: pixels (of all frames and samples), frames, bytes of pixels, nesting, file size, time.

    `beyond_bits` is the share of pixels above BitsStored that are clipped with a warning (`W-BITS`: a lossy codec
    overshoots, some scanners leave a few pixels of 65535); more are refused (`E-BITS`). `max_bytes` holds
    for what a decoder gives and needs, so that a small file stays below 1 GiB in all; `inflate_*` for the deflated
    transfer syntax (reading takes three times the bytes); `header_seconds` of processor time for parsing the header.
    """

    max_pixels: int = 1 << 28
    max_frames: int = 1 << 14
    max_bytes: int = 1 << 28
    inflate_ratio: int = 200
    inflate_bytes: int = 1 << 28
    depth: int = 64
    file_bytes: int = 4 << 30
    header_seconds: float = 2.0
    beyond_bits: float = 1e-3


LIMITS = Limits()


def check_file_size(size: int, limits: Limits = LIMITS) -> None:
    """Refuse an empty file (`E-EMPTY`) and one larger than `limits.file_bytes` (`E-SIZE`)."""
    if size == 0:
        raise DicomRefusal("E-EMPTY", "the file has 0 bytes", fix="export or copy the object again")
    if size > limits.file_bytes:
        raise DicomRefusal(
            "E-SIZE", f"a file of {size} bytes", allowed=f"<= {limits.file_bytes}", fix="limits.file_bytes"
        )


def check_matrix(rows: int, columns: int, samples: int, frames: int, limits: Limits = LIMITS) -> None:
    """Refuse (`E-SIZE`, `E-FRAMES`) more pixels or frames than the limits, before anything is allocated."""
    if frames > limits.max_frames:
        raise DicomRefusal("E-FRAMES", f"{frames} frames", allowed=f"<= {limits.max_frames}", tag="(0028,0008)")
    pixels = rows * columns * samples * frames
    if pixels > limits.max_pixels:
        found = f"{rows}x{columns} pixels x {samples} samples x {frames} frames = {pixels} > max_pixels"
        raise DicomRefusal(
            "E-SIZE", found, allowed=f"<= {limits.max_pixels}", tag="(0028,0010)", fix="limits.max_pixels"
        )


def check_decoded(size: int, limits: Limits = LIMITS) -> None:
    """Refuse (`E-SIZE`) compressed pixels that would take more than `limits.max_bytes` bytes."""
    if size > limits.max_bytes:
        found = f"{size} bytes to decode"
        raise DicomRefusal("E-SIZE", found, allowed=f"<= {limits.max_bytes}", tag="(0028,0010)", fix="limits.max_bytes")


def inflate(packed: memoryview, limits: Limits = LIMITS) -> bytearray:
    """Inflate a deflated data set (PS3.5 A.5) within the ratio and byte caps; `E-INFLATE` beyond them or if broken."""
    cap = min(limits.inflate_bytes, max(len(packed), 4096) * limits.inflate_ratio)
    machine, out = zlib.decompressobj(-zlib.MAX_WBITS), bytearray()
    try:
        piece: bytes | memoryview = packed
        while piece and not machine.eof:
            out += machine.decompress(piece, _CHUNK)
            if len(out) > cap:
                found = f"{len(packed)} deflated bytes give more than {cap}"
                which = "inflate_bytes" if cap == limits.inflate_bytes else "inflate_ratio"
                raise DicomRefusal(
                    "E-INFLATE", found, allowed=f"{which} <= {getattr(limits, which)}", fix=f"limits.{which}"
                )
            piece = machine.unconsumed_tail
        out += machine.flush()
    except zlib.error:
        raise DicomRefusal("E-INFLATE", "the deflated data set is damaged", fix="export the object again") from None
    if not machine.eof:
        raise DicomRefusal("E-TRUNC", "the deflated data set ends early", fix="export or copy the object again")
    return out


class Deadline:
    """A clock that refuses (`E-TIME`) when parsing one header takes longer than `limits.header_seconds`.

    It counts processor time of the thread that made it: what else the machine does, and slow disks, refuse no film.
    """

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.seconds = limits.header_seconds
        self._end = time.thread_time() + limits.header_seconds

    def check(self) -> None:
        """Raise `E-TIME` once the time is over."""
        if time.thread_time() > self._end:
            raise DicomRefusal("E-TIME", "the header takes too long to parse", allowed=f"<= {self.seconds} s")


def within_seconds(seconds: float, work: Callable[[Any], Any], data: Any) -> Any:
    """Return `work(data)`, made in a thread of its own that is left behind after `seconds` of processor time.

    For decoders that may never come back. A thread cannot be ended: it costs a core until the process ends.

    Raises:
        DicomRefusal: `E-TIME`; and whatever `work` raises.
    """
    if not hasattr(time, "pthread_getcpuclockid"):
        return work(data)  # macOS cannot read the clock of another thread
    clock: list[int] = []
    answer: list[Any] = []

    def run() -> None:
        clock.append(time.pthread_getcpuclockid(threading.get_ident()))
        try:
            answer.append((work(data), None))
        except Exception as error:  # noqa: BLE001 - raised again where the answer is awaited
            answer.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    while thread.is_alive():
        if clock and time.clock_gettime(clock[0]) > seconds:
            raise DicomRefusal("E-TIME", "decoding takes too long", allowed=f"<= {seconds:.1f} s", tag="(7FE0,0010)")
        thread.join(seconds / 4)
    value, error = answer[0]
    if error is not None:
        raise error
    return value
