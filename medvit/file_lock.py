"""A lock on a file, by which processes of one machine or file system wait for each other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
_AGAIN_S, _BEYOND = 0.1, 1 << 30  # a byte beyond the content: Windows lets nobody else write what is locked


@contextmanager
def locked(file: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock `file`, which is made where it is not there; the system frees it however the process ends.

    Raises:
        BlockingIOError: another process holds it, and `wait` is false.
        OSError: the file cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as handle:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        else:
            _lock_on_windows(handle, wait)
        yield


def _lock_on_windows(handle: IO[str], wait: bool) -> None:
    import msvcrt

    while True:
        handle.seek(_BEYOND)
        try:
            return msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, no-any-return]
        except OSError:
            if not wait:
                raise BlockingIOError(f"{handle.name} is locked") from None
        time.sleep(_AGAIN_S)
