"""How many bits the values have: what the codestream says against BitsStored, and the few pixels beyond either."""

from __future__ import annotations

import imagecodecs
import jpeg_ls as charls
import kit
import numpy as np
import pytest
from kit import J2K, PHANTOM, SHOWN
from numpy.typing import NDArray

from medvit.dicom.policy import Accept, FilmPolicy
from medvit.dicom.read import read_film
from medvit.errors import DicomRefusal

JPEG, JPEG12, LOSSLESS = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.70"
JPEGXL, JPEGLS, HTJ2K = (f"1.2.840.10008.1.2.4.{number}" for number in (110, 80, 201))


def lossless_jpeg(image: NDArray, bits: int) -> bytes:
    return imagecodecs.ljpeg_encode(image, bitspersample=bits)


def jpeg_ls(image: NDArray) -> bytes:
    """One frame of 12 bits by CharLS, which highdicom brings; imagecodecs' encoder knows 8 and 16 alone."""
    rows, columns = image.shape
    return bytes(
        charls.encode_pixel_data(image.tobytes(), rows=rows, columns=columns, samples_per_pixel=1, bits_stored=12)
    )


def high_throughput(image: NDArray) -> bytes:
    """One frame of 12 bits: OpenJPH writes 16, so SIZ (ISO 15444-1 A.5.1) is set to 12 and the level shift with it."""
    frame = bytearray(imagecodecs.htj2k_encode(image + np.uint16((1 << 15) - (1 << 11)), reversible=True))
    place = frame.index(b"\xff\x51") + 40
    assert frame[place] == 15
    frame[place] = 11
    return bytes(frame)


ENCODED = {
    J2K: kit.jpeg2000,
    LOSSLESS: lambda image: lossless_jpeg(image, 12),
    JPEG12: kit.jpeg12,
    JPEGXL: lambda image: imagecodecs.jpegxl_encode(image, lossless=True, bitspersample=12),
    JPEGLS: jpeg_ls,
    HTJ2K: high_throughput,
}


@pytest.mark.parametrize("syntax", ENCODED)
@pytest.mark.parametrize("bits", [14, 16])
def test_a_codestream_of_12_bits_is_shown_over_12_bits_whatever_bits_stored_says(syntax: str, bits: int) -> None:
    film = read_film(kit.compressed([ENCODED[syntax](PHANTOM)], syntax, bits=bits))
    assert film.display().mean() == pytest.approx(SHOWN.mean(), abs=2e-3)  # was a sixteenth of it under 16 bits
    if syntax != JPEG12:
        np.testing.assert_array_equal(film.samples, PHANTOM)
    told = f"W-BITS the codestream has 12 bits, BitsStored says {bits}: the range is that of 12"
    assert [note for note in film.warnings if "W-BITS" in note] == [told]


def test_a_jpeg_of_8_bits_under_bits_stored_12_is_shown_over_8_bits() -> None:
    eight = (PHANTOM >> 4).astype(np.uint8)
    film = read_film(kit.compressed([imagecodecs.jpeg8_encode(eight, level=100)], JPEG, PHANTOM, bits=12))
    assert film.display().mean() == pytest.approx(eight.mean() / 255, abs=2e-3)
    assert any("8 bits, BitsStored says 12" in note for note in film.warnings)


def test_a_codestream_of_16_bits_that_uses_only_bits_stored_is_shown_over_bits_stored() -> None:
    frame = imagecodecs.jpeg2k_encode(PHANTOM, level=0, codecformat="j2k", reversible=True)
    film = read_film(kit.compressed([frame], J2K, bits=12))
    assert film.display().mean() == pytest.approx(SHOWN.mean(), abs=1e-6)
    assert any("16 bits, BitsStored says 12: the range is that of 12" in note for note in film.warnings)


def test_a_codestream_that_needs_more_bits_than_bits_stored_is_shown_over_its_own() -> None:
    wide = PHANTOM * 16
    frame = imagecodecs.jpeg2k_encode(wide, level=0, codecformat="j2k", reversible=True)
    film = read_film(kit.compressed([frame], J2K, bits=12))
    assert film.display().mean() == pytest.approx(wide.mean() / 65535, abs=1e-6)
    assert any("the range is that of 16" in note for note in film.warnings)


def test_a_window_speaks_for_itself_whatever_the_codestream_has() -> None:
    film = read_film(kit.compressed([kit.jpeg2000(PHANTOM)], J2K, bits=16, WindowCenter=2048, WindowWidth=4096))
    assert film.display().mean() == pytest.approx(SHOWN.mean(), abs=1e-3)
    assert not any("W-BITS" in note for note in film.warnings)


def test_the_overshoot_of_a_lossy_codec_is_clipped_with_a_word_and_more_of_it_is_refused() -> None:
    few = PHANTOM.copy()
    few[20, 30:33] = 4100
    film = read_film(kit.film(few))
    assert film.display().max() == 1.0
    assert film.display().mean() == pytest.approx(np.minimum(few, 4095).mean() / 4095, abs=1e-6)
    assert "W-BITS 3 of 3072 pixels above BitsStored 12 are clipped to it" in film.warnings
    with pytest.raises(DicomRefusal, match="max stored 4100 > 4095"):
        read_film(kit.film(few), FilmPolicy(accept=Accept.of({"limits": {"beyond_bits": 0}})))
    few[20, 30:34] = 4100
    with pytest.raises(DicomRefusal, match="4 of 3072 pixels"):
        read_film(kit.film(few))


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("shape", [(64, 48), (40, 60), (37, 61), (512, 512)])
def test_the_header_of_jpeg_xl_gives_its_size_and_bits(shape: tuple[int, int], bits: int) -> None:
    from medvit.dicom.codec.codestream import jpegxl_shape

    image = (np.arange(shape[0] * shape[1]).reshape(shape) % (1 << bits)).astype(np.uint8 if bits == 8 else np.uint16)
    for container in (False, True):
        data = imagecodecs.jpegxl_encode(image, lossless=True, bitspersample=bits, usecontainer=container)
        found = jpegxl_shape(memoryview(data))
        assert (found.rows, found.columns, found.precision) == (*shape, bits)
