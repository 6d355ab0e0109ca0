"""Who trains a run: a lock in its folder, freed by the system however the process ends, and runs that nobody holds."""

from __future__ import annotations

import hashlib
import logging
import platform
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from medvit.errors import RunError
from medvit.file_lock import locked
from medvit.tracking.journal import Journal

logger = logging.getLogger(__name__)
_LOCK = ".training.lock"  # in the folder of a run; holds the machine that has it, or had it last


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run's folder while it is trained, for this process alone.

    Raises:
        RunError: another process holds it.
    """
    with ExitStack() as lock:
        try:
            lock.enter_context(locked(folder / _LOCK, wait=False))
        except BlockingIOError:
            raise RunError(
                f"run {folder.name} is still training: wait for its end, or stop it before resume="
            ) from None
        (folder / _LOCK).write_text(_machine(), encoding="utf-8")
        yield


def is_held(folder: Path) -> bool:
    """Return whether a process trains in a run's folder."""
    if not folder.is_dir():
        return False
    with ExitStack() as alone:
        try:
            alone.enter_context(locked(folder / _LOCK, wait=False))
        except BlockingIOError:
            return True
    return False


def close_abandoned(client: Any, database: Path) -> None:
    """End as KILLED each run that is RUNNING and that no process holds: its process was killed, or the power failed.

    Only runs of this machine are judged: whether another one still holds a lock cannot be told on every file system.
    """
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as store:
        asked = "SELECT run_uuid FROM runs WHERE status = 'RUNNING' AND lifecycle_stage = 'active'"
        running = [run for (run,) in store.execute(asked)]
    for run in running:
        lock = database.parent / run / _LOCK
        if not lock.is_file() or lock.read_text(encoding="utf-8") != _machine():
            continue
        with ExitStack() as alone:
            try:
                alone.enter_context(locked(lock, wait=False))
            except BlockingIOError:
                continue
            if client.get_run(run).info.status == "RUNNING":  # it may have ended since it was listed
                with suppress(OSError):  # a folder that may only be read
                    Journal(lock.parent).write("status", status="KILLED")
                client.set_terminated(run, "KILLED")
                logger.warning("run %s was RUNNING and no process holds it: it was killed, and is KILLED now", run)


def _machine() -> str:
    """Return what tells this machine from others that may write the same folder; no name of it."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:16]
