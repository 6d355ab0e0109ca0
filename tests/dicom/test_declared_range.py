"""Signed and 32-bit films without a window: as bright as declared or as the set says, never as one pixel says."""

from __future__ import annotations

import kit
import numpy as np
import pytest
from kit import PHANTOM

from medvit.dataset import manifest
from medvit.dataset.picture_range import picture_bits
from medvit.dicom.policy import FilmPolicy
from medvit.dicom.read import read_film
from medvit.index import index
from medvit.preprocess import from_json
from medvit.preprocess.film import FilmPreprocess

TEN = (PHANTOM >> 2).astype(np.int16)  # 0 to 1023
HOT = TEN.copy()
HOT[30, 20] = 1024  # one pixel more


def mean(stored: np.ndarray, bits: int = 12, policy: FilmPolicy | None = None) -> float:
    return float(read_film(kit.film(stored, bits=bits), policy).display().mean())


@pytest.mark.parametrize("bits", [12, 16])
def test_one_pixel_does_not_change_the_brightness_of_a_signed_film(bits: int) -> None:
    declared = (1 << (bits - 1)) - 1
    assert mean(TEN, bits) == pytest.approx(TEN.mean() / declared, abs=1e-5)
    assert mean(HOT, bits) == pytest.approx(mean(TEN, bits), abs=1e-3)  # it was halved by the one pixel
    assert mean(HOT, bits, FilmPolicy(bits="image")) == pytest.approx(
        mean(TEN, bits, FilmPolicy(bits="image")) / 2, rel=0.01
    )


def test_the_bits_of_the_set_are_the_range_of_each_of_its_signed_films() -> None:
    policy = FilmPolicy(bits=10)
    assert mean(TEN, 16, policy) == pytest.approx(TEN.mean() / 1023, abs=1e-5)
    assert mean(HOT, 16, policy) == pytest.approx(np.minimum(HOT, 1023).mean() / 1023, abs=1e-5)


def test_one_pixel_does_not_change_the_brightness_of_a_32_bit_film() -> None:
    wide, hot = PHANTOM.astype(np.uint32), PHANTOM.astype(np.uint32)
    hot[30, 20] = 1 << 20
    policy = FilmPolicy(bits=12)
    assert mean(wide, 32, policy) == pytest.approx(PHANTOM.mean() / 4095, abs=1e-5)
    assert mean(hot, 32, policy) == pytest.approx(mean(wide, 32, policy), abs=1e-3)


def test_a_declared_range_that_is_mostly_empty_is_told_with_what_would_fit() -> None:
    told = [note for note in read_film(kit.film(TEN, bits=16)).warnings if note.startswith("W-RANGE")]
    assert told == ["W-RANGE of 0..32767 only 1023 is reached; picture_bits=10"]
    assert not any(note.startswith("W-RANGE") for note in read_film(kit.film(TEN, bits=11)).warnings)


def test_a_signed_image_that_may_be_negative_keeps_its_zero_in_the_middle() -> None:
    film = read_film(kit.film(TEN, bits=11, Modality="OT"))
    assert film.display()[-1, -1] == pytest.approx(1024 / 2047, abs=1e-4)  # a stored 0


def test_the_index_decides_once_for_the_set_and_the_preprocessing_keeps_it(tmp_path, monkeypatch) -> None:
    (tmp_path / "set").mkdir()
    for number in range(120):
        stored = HOT if number == 7 else TEN
        data = kit.film(stored, bits=16, SOPInstanceUID=f"1.2.3.{number}")
        (tmp_path / "set" / f"{number}.dcm").write_bytes(data)
    index(tmp_path / "set", tmp_path / "out")
    found = manifest.task_hint(tmp_path / "out")["picture_bits"]
    assert found == 10  # one of 120 films needs 11
    preprocess = from_json(FilmPreprocess(size=(64, 48), picture_bits=found).to_json())
    mean_of_hot = preprocess.prepare(kit.film(HOT, bits=16)).pixels.mean() / 255
    assert mean_of_hot == pytest.approx(TEN.mean() / 1023, abs=3e-3)


def test_films_that_declare_their_range_need_no_decision(tmp_path) -> None:
    (tmp_path / "film.dcm").write_bytes(kit.film())
    assert picture_bits([tmp_path / "film.dcm"], 1) is None
