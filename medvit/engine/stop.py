"""How a training ends when it is asked to: Ctrl-C, SIGTERM or SIGUSR1 of a scheduler, SIGHUP of a closed terminal."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pytorch_lightning.utilities.exceptions import SIGTERMException

from medvit.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise `Stopped` in the main thread at the first of `SIGNALS`; later ones do not disturb what is being closed.

    A signal that is ignored already, as SIGHUP under nohup, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        if not asked:
            asked.append(number)
            raise Stopped(number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    heeded = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in heeded:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in heeded:
            signal.signal(number, before[number])


@contextmanager
def signals_wait() -> Iterator[None]:
    """Let signals wait for the end of the block: what it opens is then closed by whoever holds it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def lightning_stops() -> Iterator[None]:
    """Let what stopped Lightning's loop be raised: it makes an exit with code 1, or 0, of it."""
    try:
        yield
    except SIGTERMException as end:
        raise Stopped(signal.SIGTERM) from end
    except SystemExit as end:
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        raise end.__context__ from None
