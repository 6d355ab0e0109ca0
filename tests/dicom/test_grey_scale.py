"""Clip, padding and polarity of a film larger than one strip, checked against the formulas of PS3.3 written out."""

from __future__ import annotations

from pathlib import Path

import kit
import numpy as np
import pytest

from medvit.dicom.read import read_film

ROWS, COLUMNS, PADDING = 900, 400, 4000  # almost three strips


def stored() -> np.ndarray:
    """Twelve bits; row 5 and the last one are padding."""
    image = np.random.default_rng(0).integers(0, 3900, (ROWS, COLUMNS)).astype(np.uint16)
    image[[5, -1]] = PADDING
    return image


def shown(image: np.ndarray, window: tuple[float, float] | None, negative: bool) -> np.ndarray:
    """Return the display values: LINEAR of PS3.3 C.11.2.1.2 or the declared range, the polarity, padding black."""
    center, width = window or (2048.0, 4096.0)
    value = np.clip((image - (center - 0.5)) / (width - 1) + 0.5, 0, 1)
    value = 1 - value if negative else value
    return np.where(image == PADDING, 0.0, value)


@pytest.mark.parametrize("window", [None, (1500.0, 1200.0), (2000.0, 3200.0)])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_every_strip_is_clipped_padded_and_mirrored(window, photometric, tmp_path: Path):
    tags = {} if window is None else {"WindowCenter": window[0], "WindowWidth": window[1]}
    data = kit.film(stored(), PhotometricInterpretation=photometric, PixelPaddingValue=PADDING, **tags)
    (tmp_path / "film.dcm").write_bytes(data)
    films = [read_film(data), read_film(tmp_path / "film.dcm")]  # memory that is not ours, and memory that is
    assert (tmp_path / "film.dcm").read_bytes() == data
    expected = shown(stored().astype(np.float64), window, photometric == "MONOCHROME1")
    for film in films:
        assert film.scale > 0
        slack = 0.51 * film.scale if window else 1e-6  # an edge of the window between two samples is rounded outwards
        assert np.abs(film.display() - expected).max() <= slack
    assert np.array_equal(films[0].samples, films[1].samples)
