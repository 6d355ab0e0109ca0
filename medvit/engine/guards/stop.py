"""How a training ends when it is asked to: Ctrl-C, SIGTERM or SIGUSR1 of a scheduler, SIGHUP of a closed terminal."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from medvit.errors import Stopped

_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))  # Windows has the first two
_AGAIN_S = 0.05  # from a `Stopped` that Python threw away to the next one
_log = logging.getLogger(__name__)


@dataclass
class _Request:
    """The first signal; whether signals are heeded, whether a loop looks at them by itself, whether it was raised."""

    number: int | None = None
    heeded: bool = False
    looked_at: bool = False
    raised: bool = False

    def heed(self, number: int, _: FrameType | None) -> None:
        """Raise `Stopped`; where a loop looks at the request, let it, and raise at a second signal only."""
        first, self.number = self.number is None, self.number or number
        if first and self.looked_at:
            _log.warning(
                "%s: the checkpoint is written after this step; a second signal ends at once",
                signal.Signals(number).name,
            )
        elif first or (self.looked_at and not self.raised):  # later ones do not disturb what is being closed
            self.stop()

    def stop(self) -> None:
        self.raised = True
        raise Stopped(self.number or signal.SIGTERM)


_request = _Request()


def asked() -> int | None:
    """Return the number of the signal that asked this process to end, if one did."""
    return _request.number


def stop_if_asked() -> None:
    """Raise `Stopped` if a signal asked for it: also one whose `Stopped` got lost in a library."""
    if _request.number is not None:
        _request.stop()


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise `Stopped` in the main thread at the first of `SIGNALS`; in `looks_at_signals` after the step.

    A signal that is ignored already, as SIGHUP under nohup, stays ignored. A block in another one changes nothing.
    """
    if _request.heeded or threading.current_thread() is not threading.main_thread():
        yield
        return
    _request.number, _request.raised, _request.looked_at, _request.heeded = None, False, False, True
    before = {number: signal.getsignal(number) for number in SIGNALS}
    heeded = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in heeded:
        signal.signal(number, _request.heed)
    ignoring, sys.unraisablehook = sys.unraisablehook, _not_thrown_away
    try:
        yield
    finally:
        sys.unraisablehook = ignoring
        for number in heeded:
            signal.signal(number, before[number])
        _request.number, _request.heeded = None, False


def _not_thrown_away(ignored: sys.UnraisableHookArgs) -> None:
    """Ask again: Python drops what is raised while it frees an object or calls back from C, and training went on."""
    if not isinstance(ignored.exc_value, Stopped):
        sys.__unraisablehook__(ignored)
        return
    number, _request.number, _request.raised = ignored.exc_value.number, None, False
    again = threading.Timer(_AGAIN_S, signal.pthread_kill, (threading.main_thread().ident, number))
    again.daemon = True
    again.start()


@contextmanager
def looks_at_signals() -> Iterator[None]:
    """Let signals wait for `stop_if_asked`, which the block calls after each step."""
    stop_if_asked()
    _request.looked_at = True
    try:
        yield
    finally:
        _request.looked_at = False
    stop_if_asked()


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
    from pytorch_lightning.utilities.exceptions import SIGTERMException  # heavy, and evaluate stops without it

    try:
        yield
    except SIGTERMException as end:
        raise Stopped(signal.SIGTERM) from end
    except SystemExit as end:
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        raise end.__context__ from None
