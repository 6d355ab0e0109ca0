"""The process beside a training that mirrors its journal to an MLflow server, and how the training starts and ends it.

The training never waits for it: it writes its journal, and this process (`python -m medvit.tracking.uploader RUN_DIR
URI`) reads that. Only after the run is closed there is a wait, a short one, and where the server has not got all by
then, a line that says how it gets the rest.
"""

from __future__ import annotations

import logging
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from medvit.command_line import anywhere, command_line
from medvit.errors import RunError
from medvit.file_lock import locked
from medvit.tracking.backlog import Backlog
from medvit.tracking.evaluation_seal import WEIGHTS
from medvit.tracking.journal import NAME, Reader, read
from medvit.tracking.mirror import Mirror, Unreachable, answers, state
from medvit.tracking.run import Run

logger = logging.getLogger("medvit.tracking.uploader")  # also when it runs as __main__
LOCK = ".mirror.lock"  # in the folder of a run: one process at a time sends it
_EVERY_S, _PAUSE_S = 1.0, (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)  # between looks at the journal; after each failure
_START_S, _IDLE_S, _LONGEST_S = 30.0, 5.0, 60.0  # how long an ended run waits: for its start, for progress, in all
NO_START = "journal.jsonl of the run has no beginning: the run is of an earlier version, and is not sent to a server"
_BYTES_PER_S = 5e6  # at which weights are given time to arrive
_NICE = 5  # where all cores are busy, the training goes first
_PACKAGES = Path(__file__).parents[2]


@contextmanager
def mirrored(folder: Path, uri: str | None) -> Iterator[None]:
    """Mirror the run of a folder to the server at `uri` while it goes on, by a process of its own; None: to none."""
    if uri is None:
        yield
        return
    logger.info("the run is mirrored to %s", uri)
    process = _start(folder, uri)
    try:
        yield
    finally:
        _end(process, folder, uri)


def follow(folder: Path, uri: str | None) -> None:
    """Bring the server up to date with what was added to a run that is over; None: the server it went to, if any."""
    uri = uri or state(folder).get("uri")
    if uri and (folder / NAME).is_file():
        _end(_start(folder, uri), folder, uri)


def send_all(folder: Path, uri: str, events: Iterable[dict[str, Any]], experiment: str | None = None) -> str:
    """Send a whole run, but for what the server has, and return its id there.

    Raises:
        RunError: the server does not answer or refuses it, or another process is sending it.
    """
    backlog = Backlog()
    backlog.take(events)
    if not backlog.start:
        raise RunError(NO_START)
    try:
        with locked(folder / LOCK, wait=False):
            mirror = Mirror(folder, uri, experiment)
            mirror.send(backlog)
    except BlockingIOError:
        raise RunError("another process sends this run already: wait for the end of its training") from None
    return mirror.run


def run_there(run: Run, uri: str) -> Run:
    """Return a run as the server has it, for what is written there alone: after all of it was sent.

    Raises:
        RunError: see `send_all`.
    """
    own = send_all(run.folder, uri, read(run.folder))
    there = Mirror(run.folder, uri)
    with answers(uri):
        info = there.client.get_run(own).info
    return Run(there.client, own, info.experiment_id, run.folder)


def _start(folder: Path, uri: str) -> subprocess.Popen[bytes]:
    """Start the process; a signal for the training's group (Ctrl-C) does not reach it."""
    path = os.pathsep.join([str(_PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(  # noqa: S603 (a fixed program with arguments of our own)
        [sys.executable, "-m", "medvit.tracking.uploader", str(folder), uri],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""},
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes], folder: Path, uri: str) -> None:
    """Wait until all is sent, as long as that goes on; then say what is missing, and leave it to `medvit sync`."""
    if process.stdin:
        with suppress(OSError):  # it is gone already
            process.stdin.write(b"end\n")  # closed alone it might stay open in the processes that read images
            process.stdin.close()
    begun = moved = time.monotonic()
    last, weights = state(folder), folder / WEIGHTS
    more = weights.stat().st_size / _BYTES_PER_S if weights.is_file() else 0  # one file: nothing moves meanwhile
    try:
        while process.poll() is None:
            now, found = time.monotonic(), state(folder)
            if found != last:
                last, moved = found, now
            started = last.get("process") == process.pid
            idle = _IDLE_S + more if started else _START_S
            if (started and last["error"]) or now - moved > idle or now - begun > _LONGEST_S + more:
                break
            time.sleep(0.05)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
    if process.returncode:
        line = anywhere(command_line("sync", {"run": str(folder.resolve()), "tracking.uri": uri}))
        logger.warning("%s has not got all of the run, which is whole here; this sends the rest:\n%s", uri, line)


def upload(folder: Path, uri: str) -> int:
    """Mirror a run until standard input ends, as also when its training dies; return 0 where all of it is sent."""
    reader, backlog, failures, told = Reader(folder), Backlog(), 0, False
    ended = False
    mirror = Mirror(folder, uri, retries="0")
    mirror.save(0)
    while True:
        backlog.take(reader.events())
        if backlog.start.get("parent"):  # folds, trials: many, and few are opened elsewhere; `medvit sync` sends them
            backlog.files.clear()
        try:
            if backlog and backlog.start:
                mirror.send(backlog)
            elif backlog:
                raise RunError(NO_START)
            failures, told = 0, False
            if ended and not backlog:
                return 0
        except Unreachable as error:
            mirror.save(len(backlog), str(error))
            if not told:
                logger.warning("%s: the run goes on, and what is missing there is sent when it is back", error)
            told, failures = True, failures + 1
            if ended:
                return 1
        pause = _PAUSE_S[min(failures, len(_PAUSE_S)) - 1] if failures else _EVERY_S
        ended = ended or _ended(pause)


def main() -> None:
    """Run the process; what the server refuses for good ends it with one line."""
    if hasattr(os, "nice"):  # not on Windows
        os.nice(_NICE)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    folder, uri = Path(sys.argv[1]), sys.argv[2]
    # of a file store's own client, say: its text may hold anything
    sys.excepthook = lambda kind, *_: logger.warning("%s: %s (the run is kept here)", uri, kind.__name__)
    with ExitStack() as held:
        while True:  # an earlier part of the run may have left a process that waits for an answer
            try:
                held.enter_context(locked(folder / LOCK, wait=False))
                break
            except BlockingIOError:
                if _ended(_EVERY_S):
                    logger.warning("another process sends this run to its server already")
                    sys.exit(1)
        try:
            sys.exit(upload(folder, uri))
        except RunError as error:
            Mirror(folder, uri).save(1, str(error))
            logger.warning("%s (the run is kept here)", error)
            sys.exit(1)


def _ended(wait: float) -> bool:
    """Wait, and say whether the training is over meanwhile, in whatever way."""
    return bool(select.select([sys.stdin], [], [], wait)[0])


if __name__ == "__main__":
    main()
