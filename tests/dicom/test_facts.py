"""The facts of a header come out in one vocabulary, and wrong ones in use are refused."""

from __future__ import annotations

import kit
import pytest

from medvit.dicom.facts import age_years, body_part, read_facts, view
from medvit.dicom.header import read_header
from medvit.errors import DicomRefusal
from medvit.types import Facts


def facts(**elements: object) -> Facts:
    return read_facts(read_header(kit.film(**elements)))


@pytest.mark.parametrize("text", ["CHEST", "Thorax", "CHEST PA", "chest_port", "CHEST, AP", "Lung", "XR CHEST 2 VIEWS"])
def test_words_for_the_chest_are_one_body_part(text: str) -> None:
    assert body_part(text) == "CHEST"


@pytest.mark.parametrize(
    ("text", "part"), [("HAND", "HAND"), ("L SPINE", "LSPINE"), ("c-spine", "CSPINE"), ("", ""), ("UFO", "UFO")]
)
def test_other_body_parts_keep_their_own_name(text: str, part: str) -> None:
    assert body_part(text) == part


@pytest.mark.parametrize(
    ("text", "name"), [("pa", "PA"), ("A.P.", "AP"), ("LLAT", "LL"), ("LATERAL", "LATERAL"), ("XYZ", "XYZ"), ("", "")]
)
def test_views_have_one_spelling(text: str, name: str) -> None:
    assert view(text) == name


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("045Y", 45),
        ("018M", 1.5),
        ("010D", 0.027),
        ("004W", 0.077),
        ("120Y", 120),
        ("121Y", None),
        ("000Y", None),
        ("45", None),
        ("", None),
        ("Y045", None),
    ],
)
def test_ages_are_years_or_unknown(text: str, years: float | None) -> None:
    assert age_years(text) == (None if years is None else pytest.approx(years, abs=1e-3))


def test_spacing_comes_with_its_kind() -> None:
    calibrated = facts(PixelSpacing=[0.2, 0.3], ImagerPixelSpacing=[0.4, 0.4])
    assert (calibrated.spacing_mm, calibrated.spacing_kind) == ((0.2, 0.3), "PixelSpacing")
    detector = facts(PixelSpacing=None, ImagerPixelSpacing=[0.4, 0.4])
    assert (detector.spacing_mm, detector.spacing_kind) == ((0.4, 0.4), "ImagerPixelSpacing")
    unknown = facts(PixelSpacing=None)
    assert (unknown.spacing_mm, unknown.spacing_kind) == (None, "none")


def test_a_broken_spacing_nobody_needs_does_no_harm() -> None:
    assert facts(ImagerPixelSpacing=b"a\\b ").spacing_mm == (0.14, 0.14)


def test_decimal_strings_beyond_sixteen_characters_keep_their_digits() -> None:
    exact = b"0.12345678901234567\\0.12345678901234567 "
    assert facts(PixelSpacing=exact).spacing_mm == (0.12345678901234567, 0.12345678901234567)


def test_the_facts_of_a_film_are_all_there() -> None:
    found = facts(
        PatientAge="045M",
        PatientSex="F",
        ImageLaterality="L",
        LossyImageCompression="01",
        BurnedInAnnotation="NO",
        ManufacturerModelName="Model",
        NumberOfFrames=1,
    )
    assert found == Facts(
        modality="DX",
        sop_class="Digital X-Ray Image Storage - For Presentation",
        view="PA",
        laterality="L",
        body_part="CHEST",
        manufacturer="Kit",
        model_name="Model",
        age_years=3.75,
        sex="F",
        rows=kit.ROWS,
        columns=kit.COLUMNS,
        frames=1,
        spacing_mm=(0.14, 0.14),
        spacing_kind="PixelSpacing",
        photometric="MONOCHROME2",
        transfer_syntax="1.2.840.10008.1.2.1",
        lossy=True,
        burned_in="no",
    )


def test_no_identifier_is_among_the_facts() -> None:
    assert "CANARY" not in repr(facts())


def test_lossy_syntaxes_are_lossy_whatever_the_flag_says() -> None:
    data = kit.compressed([kit.jpeg12()], "1.2.840.10008.1.2.4.51")
    assert read_facts(read_header(data)).lossy


@pytest.mark.parametrize("ratio", [b"0\\1 ", b"-1\\1", b"2 "])
def test_a_broken_aspect_ratio_in_use_is_refused(ratio: bytes) -> None:
    from medvit.dicom.read import read_film

    with pytest.raises(DicomRefusal, match="PixelAspectRatio"):
        read_film(kit.film(PixelSpacing=None, PixelAspectRatio=ratio))
