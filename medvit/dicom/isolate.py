"""Reading untrusted objects in a child process with a memory cap and a time cap (RE-05, SE-16).

Decoders are C libraries; a crafted frame can crash one. Here that kills a child, costs one refusal, and the next object
gets a new child. POSIX only for the memory cap.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from medvit.dicom.policy import FilmPolicy
from medvit.dicom.read import read_film
from medvit.errors import DicomRefusal
from medvit.types import Film

Reader = Callable[[Any, FilmPolicy], Any]


class IsolatedReader:
    """Reads films one after another in a child process that is started again whenever it dies.

    `seconds` is the time one object may take, `memory_bytes` what the child may allocate beyond its start. Use as a
    context manager. Raises `DicomRefusal` as `read` does, and `E-CRASH`, `E-TIME` and `E-MEMORY` for the child's end.
    """

    def __init__(
        self,
        policy: FilmPolicy | None = None,
        *,
        seconds: float = 30.0,
        memory_bytes: int = 2 << 30,
        read: Reader = read_film,
    ) -> None:
        self.policy, self.seconds, self.memory_bytes, self._read = policy or FilmPolicy(), seconds, memory_bytes, read
        self._context = multiprocessing.get_context("spawn")
        self._child: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None

    def read(self, source: Path | bytes) -> Film:
        """Read one film as `read_film` does, in the child."""
        pipe = self._started()
        try:
            pipe.send(source)
            if not pipe.poll(self.seconds):
                self.close()
                raise DicomRefusal("E-TIME", "decoding takes too long", allowed=f"<= {self.seconds:g} s")
            result = pipe.recv()
        except (EOFError, OSError):
            self.close()
            raise DicomRefusal("E-CRASH", "the decoder crashed on this object", fix="do not trust its source") from None
        if isinstance(result, DicomRefusal):
            raise result
        return result  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the child."""
        if self._child is not None and self._pipe is not None:
            self._pipe.close()
            self._child.kill()
            self._child.join()
        self._child = self._pipe = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _started(self) -> Connection:
        """Start the child if there is none; its start does not count against `seconds`."""
        if self._pipe is None:
            ours, theirs = self._context.Pipe()
            arguments = (theirs, self._read, self.policy, self.memory_bytes)
            self._child = self._context.Process(target=_serve, args=arguments, daemon=True)
            self._child.start()
            theirs.close()
            self._pipe = ours
            ours.recv()
        return self._pipe


def _serve(pipe: Connection, read: Reader, policy: FilmPolicy, memory_bytes: int) -> None:
    """Answer requests in the child until the pipe closes."""
    _cap_memory(memory_bytes)
    pipe.send("ready")
    while True:
        try:
            source = pipe.recv()
        except EOFError:
            return
        try:
            answer = read(source, policy)
        except DicomRefusal as refusal:
            answer = refusal
        except MemoryError:
            answer = DicomRefusal("E-MEMORY", "decoding needs too much memory", allowed=f"<= {memory_bytes} bytes")
        pipe.send(answer)


def _cap_memory(memory_bytes: int) -> None:
    """Cap the address space at what is mapped now plus `memory_bytes` (not on Windows)."""
    try:
        import resource
    except ImportError:
        return
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + memory_bytes, mapped + memory_bytes))
