"""Puts the cases to a reader, each in a child process, and hears its warnings."""

from __future__ import annotations

import logging
import os
import resource
import sys
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from benchmarks.silent_errors.adapters import READERS, Block, Picture
from benchmarks.silent_errors.score import CRASHED, NONE, Item, items, kit, series_cases, verdict

MEMORY, SECONDS = 6 << 30, 300


USUAL: dict[bool, set[str]] = {}  # what this process says about a plain film (True) or series: no warning of a case


class Heard(logging.Handler):
    """Remembers whether anything was logged as a warning or worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep its text."""
        self.messages.append(record.getMessage())


@contextmanager
def listening(said: list[str]):
    """Append the block's warnings: Python's, those logged, and lines with WARNING on the file descriptor of stderr."""
    heard, kept = Heard(), os.dup(2)
    logging.getLogger().addHandler(heard)
    with warnings.catch_warnings(record=True) as caught, tempfile.TemporaryFile() as errors:
        warnings.simplefilter("always")
        os.dup2(errors.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            logging.getLogger().removeHandler(heard)
            errors.seek(0)
            said += [str(one.message) for one in caught if issubclass(one.category, UserWarning)] + heard.messages
            said += [line for line in errors.read().decode(errors="replace").splitlines() if "WARNING" in line]


def judge(reader: str, id_: str) -> str:
    """Read one case with one reader, here, and return the verdict."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    item, adapter, said = items()[id_], READERS[reader](), []
    with tempfile.TemporaryDirectory() as folder:
        path = item.write(Path(folder))
        with listening(said):
            try:
                answer = adapter.film(path, item.case.policy) if item.is_film else adapter.series(path)
            except BaseException:  # noqa: BLE001 - whatever its class, a panic of Rust included: a refusal
                answer = None
    return verdict(item, _with_warning(answer, bool(set(said) - USUAL[item.is_film])))


def _with_warning(answer: Picture | list[Block] | None, said: bool) -> Picture | list[Block] | None:
    if answer is None or not said:
        return answer
    if isinstance(answer, Picture):
        return replace(answer, warned=True)
    return [replace(one, warned=True) for one in answer]


def asked(reader: str, item: Item) -> bool:
    """Whether the case is put to the reader: it reads such objects, and needs no setting that only medvit has."""
    return hasattr(READERS[reader], "film" if item.is_film else "series") and (
        reader == "medvit" or not item.needs_policy
    )


def control(reader: str) -> None:
    """Load the reader and read a plain film and a plain series: one that cannot is not installed, and not scored."""
    adapter = READERS[reader]()
    with tempfile.TemporaryDirectory() as folder:
        film, series = Path(folder) / "film.dcm", Path(folder) / "series"
        film.write_bytes(kit.film())
        series.mkdir()
        for number, data in enumerate(series_cases.stack()):
            (series / f"{number:03d}.dcm").write_bytes(data)
        for is_film, path in ((True, film), (False, series)):
            read = getattr(adapter, "film" if is_film else "series", None)
            said: list[str] = []
            with listening(said):
                if read:
                    read(*((path, {}) if is_film else (path,)))
            USUAL[is_film] = set(said)


def _started(reader: str) -> ProcessPoolExecutor:
    """Start a child process with the reader loaded; its start does not count against a case."""
    pool = ProcessPoolExecutor(1, get_context("spawn"))
    pool.submit(control, reader).result()
    return pool


def column(reader: str, table: dict[str, Item]) -> dict[str, str]:
    """Return the verdict of every case for one reader, in a child process that is started again if it dies."""
    pool, verdicts = None, {}
    for id_, item in table.items():
        if not asked(reader, item):
            verdicts[id_] = NONE
            continue
        pool = pool or _started(reader)
        try:
            verdicts[id_] = pool.submit(judge, reader, id_).result(timeout=SECONDS)
        except (BrokenProcessPool, TimeoutError):
            for process in list(pool._processes.values()):  # the pool offers no kill
                process.kill()
            pool.shutdown(wait=False, cancel_futures=True)
            pool, verdicts[id_] = None, CRASHED
        print("." if verdicts[id_] != CRASHED else id_, end="", file=sys.stderr, flush=True)
    print(f" {reader}", file=sys.stderr)
    if pool:
        pool.shutdown()
    return verdicts
