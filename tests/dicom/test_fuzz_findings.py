"""What the fuzzer of `benchmarks/fuzz` crashed once is refused by name now."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import bent
import kit
import numpy as np
import pytest
from kit import PHANTOM
from pydicom.uid import ExplicitVRBigEndian
from series_phantom import enhanced

from medvit.dicom.policy import FilmPolicy
from medvit.dicom.read import read_film
from medvit.errors import DicomRefusal
from medvit.series.read import read_series


def literal(plane: bytes) -> bytes:
    """A run-length coded plane without runs, of even length."""
    pieces = [plane[i : i + 128] for i in range(0, len(plane), 128)]
    coded = b"".join(bytes([len(one) - 1]) + one for one in pieces)
    return coded + b"\0" * (len(coded) % 2)


def run_length(high: bytes, low: bytes, header: tuple[int, ...] | None = None) -> bytes:
    """A film of two run-length coded planes; `header` replaces the offsets."""
    planes = literal(high), literal(low)
    places = header or (2, 64, 64 + len(planes[0]))
    return kit.compressed([struct.pack("<16I", *places, *[0] * (16 - len(places))) + b"".join(planes)], kit.RLE)


HIGH, LOW = (PHANTOM >> 8).astype(np.uint8).tobytes(), (PHANTOM & 0xFF).astype(np.uint8).tobytes()


def test_run_length_planes_are_put_together() -> None:
    np.testing.assert_array_equal(read_film(run_length(HIGH, LOW)).samples, PHANTOM)


@pytest.mark.parametrize(
    "header",
    [(2, 64, 3676950792), (2, 64, 64), (2, 66, 2000), (2, 64, 1 << 20), (3, 64, 1000, 2000), (1, 64), (0,), (2, 64, 0)],
    ids=str,
)
def test_a_run_length_header_that_points_elsewhere_is_refused(header: tuple[int, ...]) -> None:
    with pytest.raises(DicomRefusal, match="E-CODEC"):
        read_film(run_length(HIGH, LOW, header))


@pytest.mark.parametrize(
    ("high", "low"), [(HIGH, LOW[:-9]), (HIGH[:-9], LOW), (HIGH + bytes(9), LOW[:-9])], ids=["low", "high", "uneven"]
)
def test_a_run_length_plane_that_is_short_is_refused_even_if_another_one_is_long(high: bytes, low: bytes) -> None:
    with pytest.raises(DicomRefusal, match="E-TRUNC"):
        read_film(run_length(high, low))


def test_a_run_length_frame_without_a_header_is_refused() -> None:
    with pytest.raises(DicomRefusal, match="E-CODEC"):
        read_film(kit.compressed([b"\2\0\0\0" * 4], kit.RLE))


def test_an_odd_number_of_bytes_in_big_endian_words_is_refused() -> None:
    grey = (PHANTOM >> 4).astype(np.uint8)
    whole = kit.film(grey, bits=8, syntax=ExplicitVRBigEndian, PixelData=grey.tobytes() + bytes(2))
    at = whole.index(b"\x7f\xe0\x00\x10") + 8
    odd = whole[:at] + struct.pack(">I", grey.size + 1) + whole[at + 4 : -1]
    with pytest.raises(DicomRefusal, match="E-TRUNC"):
        read_film(odd, FilmPolicy())


def test_a_functional_group_under_the_vr_of_64_bit_integers_is_refused() -> None:
    odd = enhanced().replace(b"\x20\0\x13\x91SQ", b"\x20\0\x13\x91SV", 1)  # PlanePositionSequence, 26 bytes
    with pytest.raises(DicomRefusal, match="E-PARSE"):
        read_series([odd])


def test_half_chroma_over_an_odd_number_of_columns_is_refused() -> None:
    odd = bent.colour("YBR_FULL_422", bent.rgb()[:, :47], PixelData=bytes(64 * 47 * 2))
    with pytest.raises(DicomRefusal, match="E-COLOUR 47 columns"):
        read_film(odd, FilmPolicy(allow_rgb="luminance"))


def test_an_empty_lookup_table_under_no_known_vr_is_refused() -> None:
    odd = kit.film(ModalityLUTSequence=kit.lookup(bent.curve())).replace(b"\x28\0\x06\x30OW", b"\x28\0\x06\x30OG")
    with pytest.raises(DicomRefusal, match="E-"):
        read_film(odd, FilmPolicy())


@pytest.mark.parametrize("name", ["ModalityLUTSequence", "VOILUTSequence"])
def test_a_lookup_table_under_the_vr_of_text_is_refused(name: str) -> None:
    whole = kit.film(**{name: kit.lookup(bent.curve())})
    tag = struct.pack("<HH", 0x0028, 0x3000 if name[0] == "M" else 0x3010)
    with pytest.raises(DicomRefusal, match="E-PARSE"):
        read_film(whole.replace(tag + b"SQ", tag + b"UT"), FilmPolicy(voi="auto"))


def test_a_reduced_decode_does_not_load_the_parsers_of_other_formats() -> None:
    code = (
        "import sys; import kit; from medvit.dicom.policy import FilmPolicy; from medvit.dicom.read import read_film;"
        "film = read_film(kit.compressed([kit.jpeg2000(kit.PHANTOM)], kit.J2K), FilmPolicy(reduce_to=(16, 12)));"
        "assert film.samples.shape == (16, 12); assert 'PIL.FitsImagePlugin' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "dicom_cases")},
    )


def test_a_damaged_jpeg_ls_frame_that_its_decoder_never_ends_is_refused_in_time() -> None:
    frame = (
        "ffd8fff7000b0f0080008001011100ffda000801010000000000"
        + bytes(b for n in range(100) for b in (3 * n % 128, 0, 0, 0)).hex()
    )
    code = (
        "import kit; from medvit.dicom.read import read_film; from medvit.errors import DicomRefusal\n"
        f"frame = bytes.fromhex('{frame}ffd9')\n"
        "data = kit.compressed([frame], '1.2.840.10008.1.2.4.80', kit.np.zeros((128, 128), kit.np.uint16), bits=15)\n"
        "try: read_film(data)\n"
        "except DicomRefusal as refusal: assert refusal.code == 'E-TIME', refusal\n"
        "else: raise AssertionError('read')"
    )  # a process of its own, because the thread that decodes goes on
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "dicom_cases")},
    )
