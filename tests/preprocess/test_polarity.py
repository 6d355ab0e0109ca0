"""A film and its negative, each truthfully labelled, are the same picture: equal tensors, bit for bit."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medvit.phantom.films import write_films
from medvit.preprocess.film import FilmPreprocess


def negative(data: bytes) -> bytes:
    """Return the same film stored with the other photometric interpretation."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    stored = dataset.pixel_array
    dataset.PixelData = (2**dataset.BitsStored - 1 - stored).astype(stored.dtype).tobytes()
    mirrored = {"MONOCHROME1": ("MONOCHROME2", "IDENTITY"), "MONOCHROME2": ("MONOCHROME1", "INVERSE")}
    dataset.PhotometricInterpretation, dataset.PresentationLUTShape = mirrored[dataset.PhotometricInterpretation]
    if "WindowCenter" in dataset:
        dataset.WindowCenter = 2**dataset.BitsStored - float(dataset.WindowCenter)  # PS3.3 C.11.2.1.2 is not symmetric
    out = io.BytesIO()
    dataset.save_as(out)
    return out.getvalue()


@pytest.mark.parametrize("settings", [{"size": (96, 96)}, {"size": (224, 224), "dtype": "uint16"}])
def test_polarity_twins_give_equal_tensors(settings: dict, tmp_path: Path) -> None:
    preprocess = FilmPreprocess(**settings)
    write_films(tmp_path / "films", patients=6)
    for path in sorted((tmp_path / "films" / "dicom").rglob("IM*")):
        assert np.array_equal(preprocess(path.read_bytes()), preprocess(negative(path.read_bytes())))
