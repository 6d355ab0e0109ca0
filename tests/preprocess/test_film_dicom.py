"""Real DICOM objects through the film preprocessing: turned films, oblong pixels, reduced decodes, and the way back."""

from __future__ import annotations

import io

import numpy as np
import pytest
from pydicom.uid import ExplicitVRLittleEndian

from medvit.phantom import dicom_objects
from medvit.preprocess import FilmPreprocess

DX = "1.2.840.10008.5.1.4.1.1.1.1"


def dicom(pixels, photometric="MONOCHROME2", **attributes):
    dataset = dicom_objects.make_dataset(
        DX, dicom_objects.uid("film", str(sorted(attributes))), {"Modality": "DX", **attributes}
    )
    dicom_objects.set_pixels(dataset, pixels.astype(np.uint16), 12, photometric)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def spot(shape=(300, 260), at=(60, 200)):
    pixels = np.full(shape, 200, np.uint16)
    pixels[at[0] : at[0] + 10, at[1] : at[1] + 10] = 4000
    return pixels


def found_at(pre, data):
    """Where the brightest place of the model's input lies on the stored matrix."""
    placement = pre.place(pre.read(data))
    integers = pre.integers(data)[0].astype(np.float32)
    rows, columns = np.nonzero(integers > integers.max() * 0.8)
    return placement.to_original(np.array([rows.mean(), columns.mean()])), placement.map_to_original(integers)


@pytest.mark.parametrize("orientation", [["L", "F"], ["R", "F"], ["L", "H"], ["R", "H"]])
def test_a_turned_film_leads_back_to_its_stored_pixels(orientation):
    data = dicom(spot(), PatientOrientation=orientation)
    point, back = found_at(FilmPreprocess(size=(150, 150)), data)
    assert np.allclose(point, [64.5, 204.5], atol=2)
    assert back.shape == (300, 260)
    assert back[60:70, 200:210].min() > 2 * back[20:50, 20:50].max()


@pytest.mark.parametrize(
    "attributes",
    [{"PixelSpacing": ["0.28", "0.14"]}, {"PixelSpacing": ["0.14", "0.28"]}, {"PixelAspectRatio": ["2", "1"]}],
)
def test_oblong_pixels_become_square_and_lead_back(attributes):
    """A square film of oblong pixels fills a square canvas, and the spot is found where it was stored."""
    tall = "PixelSpacing" in attributes and attributes["PixelSpacing"][0] == "0.14"
    shape, at = ((560, 280), (300, 100)) if tall else ((280, 560), (100, 300))
    pre = FilmPreprocess(size=(140, 140))
    data = dicom(spot(shape, at), **attributes)
    assert pre.place(pre.read(data)).inner == (140, 140)
    point, back = found_at(pre, data)
    assert np.allclose(point, [at[0] + 4.5, at[1] + 4.5], atol=4)
    assert back.shape == shape


def test_monochrome1_and_2_give_the_same_input():
    pixels = np.random.default_rng(0).integers(0, 4096, (280, 300))
    pre = FilmPreprocess(size=(64, 64))
    assert np.array_equal(pre.integers(dicom(pixels)), pre.integers(dicom(4095 - pixels, "MONOCHROME1")))


@pytest.mark.real
def test_every_training_film_enters_the_same_from_path_and_bytes(real_data):
    root = real_data / "labelled" / "cxr_pneumonia_dicom"
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix not in {".csv", ".md", ".txt"})
    pre = FilmPreprocess()
    for path in files[:: max(1, len(files) // 25)]:
        integers = pre.integers(path)
        assert integers.shape == (1, 224, 224)
        assert np.array_equal(integers, pre.integers(path.read_bytes()))
        assert 20 < integers.mean() < 235
