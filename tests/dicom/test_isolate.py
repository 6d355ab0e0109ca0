"""A child process reads untrusted objects; whatever happens to it is one refusal."""

from __future__ import annotations

import os
import time

import kit
import numpy as np
import pytest

from medvit.dicom.isolate import IsolatedReader
from medvit.dicom.policy import FilmPolicy
from medvit.dicom.read import read_film
from medvit.errors import DicomRefusal


def bad_decoder(source: bytes, policy: FilmPolicy) -> object:
    """Stands for a decoder with a hole: crashes, hangs or eats memory as it is told, else reads."""
    if source == b"crash":
        os.abort()
    if source == b"hang":
        time.sleep(60)
    if source == b"eat":
        return np.ones(1 << 30, np.uint8).sum()
    return read_film(source, policy)


@pytest.mark.slow
def test_a_crash_a_hang_and_a_memory_bomb_each_cost_one_refusal_and_nothing_else() -> None:
    good = kit.film()
    with IsolatedReader(seconds=1.5, memory_bytes=512 << 20, read=bad_decoder) as reader:
        _refused(reader, b"eat", "E-MEMORY")
        _refused(reader, b"", "E-EMPTY")
        _refused(reader, b"crash", "E-CRASH")
        film = reader.read(good)
        _refused(reader, b"hang", "E-TIME")
    np.testing.assert_array_equal(film.samples, read_film(good).samples)
    assert film.steps == read_film(good).steps


def _refused(reader: IsolatedReader, source: bytes, code: str) -> None:
    with pytest.raises(DicomRefusal) as caught:
        reader.read(source)
    assert caught.value.code == code
