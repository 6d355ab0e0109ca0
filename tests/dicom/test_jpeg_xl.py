"""JPEG XL that holds a JPEG (PS3.5 A.4.13): the film is that of the JPEG, pixel by pixel."""

from __future__ import annotations

import imagecodecs
import kit
import numpy as np
import pytest
from kit import PHANTOM

from medvit.dicom.policy import FilmPolicy
from medvit.dicom.read import read_film


@pytest.mark.parametrize("syntax", ["111", "112"])
@pytest.mark.parametrize("level", [50, 85, 100])
def test_a_jpeg_recompressed_as_jpeg_xl_gives_the_pixels_of_the_jpeg(syntax: str, level: int) -> None:
    noisy = np.random.default_rng(1).integers(0, 255, (64, 48)).astype(np.uint8) // 2 + (PHANTOM >> 5).astype(np.uint8)
    jpeg = imagecodecs.jpeg8_encode(noisy, level=level)
    film = read_film(kit.compressed([jpeg], "1.2.840.10008.1.2.4.50", noisy, bits=8))
    again = imagecodecs.jpegxl_encode_jpeg(jpeg)
    assert not np.array_equal(imagecodecs.jpegxl_decode(again), film.samples)  # why the JPEG is rebuilt
    recompressed = read_film(kit.compressed([again], "1.2.840.10008.1.2.4." + syntax, noisy, bits=8))
    assert np.array_equal(recompressed.samples, film.samples)


def test_a_colour_jpeg_recompressed_as_jpeg_xl_gives_the_grey_of_the_jpeg() -> None:
    ramp = (PHANTOM >> 4).astype(np.uint8)
    colour = np.stack([ramp, np.full_like(ramp, 90), ramp[::-1]], -1)
    jpeg = imagecodecs.jpeg8_encode(colour, level=90)
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": "YBR_FULL_422", "PlanarConfiguration": 0}
    policy = FilmPolicy(allow_rgb="luminance")
    grey = [
        read_film(kit.compressed([frame], "1.2.840.10008.1.2.4." + syntax, colour, bits=8, **tags), policy).samples
        for frame, syntax in ((jpeg, "50"), (imagecodecs.jpegxl_encode_jpeg(jpeg), "111"))
    ]
    assert np.array_equal(*grey)
