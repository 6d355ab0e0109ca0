"""Child processes with a memory cap and a time cap for decoding untrusted files (RE-05, SE-16).

Decoders are C libraries; a crafted frame can crash one. Here that kills a child, costs one refusal, and the next object
gets a new child. What a child prints is thrown away, as it may hold a name. This is a cap on accidents, no jail: a
child has the rights of its user and answers by pickle. The memory cap is Linux's; on Windows the child is
multiprocessing's, which imports the user's own script again.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from medvit.errors import DataError, DicomRefusal, MedvitError

SECONDS, MEMORY_BYTES = 30.0, 2 << 30
Work = Callable[[Any], Any]
_CHILD = (
    "from multiprocessing.connection import Connection; from medvit.bundle.isolate import serve; serve(Connection({}))"
)
_SPAWNS = os.name == "nt"  # where a child inherits no open files by their number
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_STARTING = threading.Lock()


class Isolated:
    """Calls `work` on one source after another in a child process that is started again whenever it dies.

    work: a function of one argument that can be pickled, as can what it returns. seconds: what one object may take.
    memory_bytes: what the child may map beyond its start. Use as a context manager. A call raises the `MedvitError`
    that `work` raises in the child, `DicomRefusal` with `E-CRASH`, `E-TIME` or `E-MEMORY` for the child's end, and
    `DataError` where no child can be started.
    """

    def __init__(self, work: Work, *, seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES) -> None:
        self.seconds, self.memory_bytes, self._work = seconds, memory_bytes, work
        self._child: subprocess.Popen[bytes] | SpawnProcess | None = None
        self._pipe: Connection[Any, Any] | None = None

    def __call__(self, source: Any) -> Any:
        """Return `work(source)`, made in the child."""
        pipe = self._started()
        try:
            pipe.send(source)
            if not pipe.poll(self.seconds):
                self.close()
                raise DicomRefusal("E-TIME", "decoding takes too long", allowed=f"<= {self.seconds:g} s")
            answer = pipe.recv()
        except (EOFError, OSError):
            self.close()
            raise DicomRefusal("E-CRASH", "the decoder crashed on this object", fix="do not trust its source") from None
        if isinstance(answer, MedvitError):
            if isinstance(answer, DicomRefusal) and answer.code == "E-TIME":
                self.close()  # a decoder may still be at it
            raise answer
        return answer

    def close(self) -> None:
        """End the child."""
        if self._child is not None and self._pipe is not None:
            self._pipe.close()
            self._child.kill()
            self._child.join() if isinstance(self._child, SpawnProcess) else self._child.wait()
        self._child = self._pipe = None

    def __enter__(self) -> Isolated:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _started(self) -> Connection[Any, Any]:
        """Start the child if there is none; its start does not count against `seconds`.

        A plain interpreter rather than multiprocessing's: that would run the user's own script again in the child.
        """
        if self._pipe is not None:
            return self._pipe
        ours, theirs = Pipe()
        with _STARTING, theirs:
            self._child = _spawned(theirs) if _SPAWNS else _executed(theirs)
        self._pipe = ours
        try:
            ours.send((self._work, self.memory_bytes))
            ours.recv()
        except (EOFError, OSError):
            self.close()
            raise DataError("No child process for untrusted files can be started here. Give isolate=false.") from None
        return ours


class IsolatedPool:
    """Several such children behind one call, which threads may share."""

    def __init__(self, work: Work, workers: int, *, seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES) -> None:
        self._children = [Isolated(work, seconds=seconds, memory_bytes=memory_bytes) for _ in range(workers)]
        self._idle: SimpleQueue[Isolated] = SimpleQueue()
        for child in self._children:
            self._idle.put(child)

    def __call__(self, source: Any) -> Any:
        """Return `work(source)`, made in the next idle child; raises as `Isolated` does."""
        child = self._idle.get()
        try:
            return child(source)
        finally:
            self._idle.put(child)

    def __enter__(self) -> IsolatedPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children:
            child.close()


def _executed(pipe: Connection[Any, Any]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - this interpreter and a constant
        [sys.executable, "-c", _CHILD.format(pipe.fileno())],
        pass_fds=[pipe.fileno()],
        env={**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _spawned(pipe: Connection[Any, Any]) -> SpawnProcess:
    child = multiprocessing.get_context("spawn").Process(target=_serve_quietly, args=(pipe,), daemon=True)
    child.start()
    return child


def _serve_quietly(pipe: Connection[Any, Any]) -> None:
    os.environ.update(_ONE_THREAD)  # what reads it is imported with the work
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nowhere, standard)
    serve(pipe)


def serve(pipe: Connection[Any, Any]) -> None:
    """Answer the parent's requests, in the child, until it closes the pipe."""
    work, memory_bytes = pipe.recv()
    _cap_memory(memory_bytes)
    pipe.send("ready")
    while True:
        try:
            source = pipe.recv()
        except EOFError:
            return
        try:
            answer = work(source)
        except MedvitError as error:
            answer = error
        except MemoryError:
            answer = DicomRefusal("E-MEMORY", "decoding needs too much memory", allowed=f"<= {memory_bytes} bytes")
        pipe.send(answer)


def _cap_memory(memory_bytes: int) -> None:
    """Cap the address space at what is mapped now plus `memory_bytes`, where the system says what is mapped (Linux)."""
    mapped = Path("/proc/self/statm")
    if mapped.exists():
        import resource  # not on Windows

        cap = int(mapped.read_text().split()[0]) * mmap.PAGESIZE + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (cap, cap))
