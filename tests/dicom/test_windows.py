"""A stored window that hides the film: told above half of the pixels, not used above 95 %, as the policy says."""

from __future__ import annotations

import kit
import numpy as np
import pytest
from kit import PHANTOM, SHOWN

from medvit.dicom.policy import FilmPolicy
from medvit.dicom.read import read_film
from medvit.errors import DicomRefusal


def told(film) -> list[str]:
    return [note for note in film.warnings if note.startswith("W-WINDOW")]


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_a_window_that_hides_nearly_all_pixels_gives_way_to_the_range(function: str) -> None:
    film = read_film(kit.film(WindowCenter=20000, WindowWidth=4, VOILUTFunction=function))
    assert film.display().mean() == pytest.approx(SHOWN.mean(), abs=1e-4)  # was 0, or a refusal
    assert len(told(film)) == 1
    assert "100.0 % of the pixels" in told(film)[0]
    assert "whole range" in told(film)[0]


def test_a_window_at_the_top_that_whitens_a_fraction_of_the_film_gives_way_as_well() -> None:
    film = read_film(kit.film(WindowCenter=4090, WindowWidth=3))
    assert film.display().mean() == pytest.approx(SHOWN.mean(), abs=1e-4)


def test_a_voi_lut_beside_the_values_gives_way_as_well() -> None:
    lut = kit.lookup(np.arange(4096, dtype=np.uint16) * 16, first=20000)
    assert read_film(kit.film(VOILUTSequence=lut)).display().mean() == pytest.approx(SHOWN.mean(), abs=1e-4)


def test_a_window_that_hides_more_than_half_is_used_and_told_and_one_that_hides_less_is_not_told() -> None:
    narrow = read_film(kit.film(WindowCenter=2048, WindowWidth=1000))
    share = np.mean((PHANTOM < 1548) | (PHANTOM > 2547))
    assert 0.5 < share < 0.95
    assert told(narrow) == [
        f"W-WINDOW {100 * share:.1f} % of the pixels lie beyond voi window 1 of 1 center=2048 width=1000 LINEAR"
    ]
    assert narrow.display().mean() == pytest.approx(np.clip((PHANTOM - 2047.5) / 999 + 0.5, 0, 1).mean(), abs=1e-3)
    assert told(read_film(kit.film(WindowCenter=2048, WindowWidth=3000))) == []


def test_padding_is_no_pixel_that_a_window_hides() -> None:
    padded = PHANTOM.copy()
    padded[:, :40] = 9
    tags = {"PixelPaddingValue": 9, "WindowCenter": 2048, "WindowWidth": 4000}
    assert told(read_film(kit.film(padded, **tags))) == []


def test_the_policy_keeps_or_refuses_a_window_that_hides_nearly_all() -> None:
    data = kit.film(WindowCenter=4090, WindowWidth=4)
    kept = read_film(data, FilmPolicy(blind_window="keep"))
    assert kept.display().mean() < 0.3 * SHOWN.mean()
    assert len(told(kept)) == 1
    with pytest.raises(DicomRefusal, match="E-WINDOW"):
        read_film(data, FilmPolicy(blind_window="refuse"))
