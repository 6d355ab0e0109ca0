"""A DICOM file may begin as a TIFF (PS3.10 7.1, dual-personality files): it is read as DICOM, as the index read it."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest

from medvit.preprocess import FilmPreprocess


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_film_whose_preamble_makes_it_a_tiff_too_keeps_its_polarity(tmp_path: Path, order: str) -> None:
    from medvit.phantom.films import write_films

    write_films(tmp_path / "films", patients=3)
    films = [pydicom.dcmread(path) for path in sorted((tmp_path / "films" / "dicom").rglob("IM*"))]
    film = next(film for film in films if film.PhotometricInterpretation == "MONOCHROME1")
    film.save_as(tmp_path / "plain.dcm")
    plain = (tmp_path / "plain.dcm").read_bytes()
    stored = np.frombuffer(film.PixelData, np.uint16).astype(f"{order}u2").tobytes()
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entries = [(256, 4, film.Columns), (257, 4, film.Rows), (258, 4, 16), (259, 4, 1), (262, 4, 1),
               (273, 4, len(plain)), (277, 4, 1), (278, 4, film.Rows), (279, 4, len(stored))]  # fmt: skip
    directory = struct.pack(f"{order}H", len(entries))
    directory += b"".join(struct.pack(f"{order}HHII", tag, kind, 1, value) for tag, kind, value in entries)
    both = bytearray(plain + stored + directory + bytes(4))
    both[:8] = mark + struct.pack(f"{order}I", len(plain) + len(stored))
    tiff = cv2.imdecode(np.frombuffer(bytes(both), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(tiff, film.pixel_array)  # it is a TIFF, of the stored values, without polarity

    head = bytearray(plain)
    head[:8] = both[:8]
    preprocess = FilmPreprocess(size=(64, 64))
    expected = preprocess.integers(plain)
    np.testing.assert_array_equal(preprocess.integers(bytes(head)), expected)
    (tmp_path / "both.dcm").write_bytes(head)
    np.testing.assert_array_equal(preprocess.integers(tmp_path / "both.dcm"), expected)
