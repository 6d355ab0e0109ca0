"""A child process reads untrusted objects; whatever happens to it is one refusal."""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kit
import numpy as np
import pytest

from medvit.bundle.isolate import Isolated, IsolatedPool
from medvit.dicom.read import read_film
from medvit.errors import DataError, DicomRefusal


def bad_decoder(source: bytes) -> object:
    """Stands for a decoder with a hole: crashes, hangs, talks or eats memory as it is told, else reads."""
    if source == b"crash":
        os.abort()
    if source == b"hang":
        time.sleep(60)
    if source == b"eat":
        return np.ones(1 << 30, np.uint8).sum()
    if source == b"talk":
        sys.stderr.write("CANARY^NAME")
        raise RuntimeError("CANARY^NAME")
    return read_film(source)


class NoFunction:
    """Pickles here, and cannot be unpickled anywhere."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.strerror, ("not a number",)


@pytest.mark.slow
def test_a_crash_a_hang_and_a_memory_bomb_each_cost_one_refusal_and_nothing_else(
    capfd: pytest.CaptureFixture[str],
) -> None:
    good = kit.film()
    with Isolated(bad_decoder, seconds=1.5, memory_bytes=512 << 20) as read:
        _refused(read, b"eat", "E-MEMORY")
        _refused(read, b"", "E-EMPTY")
        _refused(read, b"crash", "E-CRASH")
        film = read(good)
        _refused(read, b"hang", "E-TIME")
        _refused(read, b"talk", "E-CRASH")
    np.testing.assert_array_equal(film.samples, read_film(good).samples)
    assert film.steps == read_film(good).steps
    assert "CANARY" not in "".join(capfd.readouterr())


@pytest.mark.slow
def test_threads_share_children_and_each_gets_its_own_answer() -> None:
    sources = [kit.film(kit.PHANTOM // (1 + number)) for number in range(12)]
    with IsolatedPool(read_film, 2) as read, ThreadPoolExecutor(4) as threads:
        films = list(threads.map(read, sources))
    for film, source in zip(films, sources, strict=True):
        np.testing.assert_array_equal(film.samples, read_film(source).samples)


@pytest.mark.usefixtures("unchecked")
def test_where_no_child_can_start_the_setting_that_needs_one_is_named() -> None:
    with Isolated(NoFunction()) as read, pytest.raises(DataError, match="isolate=false"):  # type: ignore[arg-type]
        read(b"")


@pytest.mark.real
@pytest.mark.slow
def test_no_real_or_hostile_file_reaches_one_gibibyte_or_five_seconds_or_ends_its_process(real_data: Path) -> None:
    sources: list[Path | bytes] = sorted((real_data / "zoo").glob("*.dcm"))
    sources += [kit.run_length_bomb(20000), kit.run_length_bomb(11000), kit.deflate_bomb(1500), kit.nested(600)]
    ends, read_rightly = [], 0
    with Isolated(read_film, seconds=5, memory_bytes=1 << 30) as read:
        for source in sources:
            try:
                read_rightly += read(source) is not None
            except DicomRefusal as refusal:
                ends += [refusal.code] if refusal.code in ("E-CRASH", "E-TIME", "E-MEMORY") else []
    assert ends == []
    assert len(sources) >= 109
    assert read_rightly >= 40


def _refused(read: Isolated, source: bytes, code: str) -> None:
    with pytest.raises(DicomRefusal) as caught:
        read(source)
    assert caught.value.code == code
