"""MR series get one name whatever the vendor or the technician wrote, and nothing else of what they wrote."""

from __future__ import annotations

import kit
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvit.dicom.facts import read_facts
from medvit.dicom.header import read_header
from medvit.dicom.mr_sequence import SEQUENCES, sequence


def series(**elements: object) -> pydicom.Dataset:
    dataset = pydicom.Dataset()
    for keyword, value in {"Modality": "MR", **elements}.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.mark.parametrize(
    ("text", "name"),
    [
        # descriptions as they stand in public collections (TCIA brain and prostate sets, OASIS, IXI, fastMRI, MRNet)
        *(("t1_mprage_sag_p2_iso", "T1"), ("Ax T1 SE", "T1"), ("SAG T1 FLAIR", "T1"), ("3D SPGR BRAVO", "T1")),
        *(("t1_fl2d_tra_dark-fluid", "T1"), ("T1W_TSE_SAG", "T1"), ("AX T1 PRE GD", "T1")),
        *(("AX T1 POST GD", "T1C"), ("t1_se_tra_KM", "T1C"), ("T1CE", "T1C"), ("COR T1 +C", "T1C"), ("T1c", "T1C")),
        *(("Ax T2 PROPELLER", "T2"), ("t2_tse_tra_512", "T2"), ("SAG STIR", "T2"), ("T2W_FFE", "T2")),
        *(("AX T2 FLAIR", "FLAIR"), ("t2_tirm_tra_dark-fluid", "FLAIR"), ("3D_Brain_VIEW_FLAIR_SHC", "FLAIR")),
        *(("ep2d_diff_b1000", "DWI"), ("DWI_b0_b1000", "DWI"), ("Ax DTI 30 dir", "DWI"), ("TRACEW", "DWI")),
        *(("ep2d_diff_ADC", "ADC"), ("Apparent Diffusion Coefficient (mm2/s)", "ADC"), ("eADC", "ADC")),
        *(("PD_TSE_COR", "PD"), ("SAG PD FS", "PD"), ("pd_tse_fs_cor", "PD")),
        *(("SWI_Images", "SWI"), ("AX T2* GRE", "SWI"), ("SWAN", "SWI"), ("t2_star_gre", "SWI")),
        *(("localizer", "other"), ("PLACEHOLDER", "other"), ("", "other")),
    ],
)
def test_a_description_names_the_sequence(text: str, name: str) -> None:
    assert sequence(series(SeriesDescription=text)) == name


@pytest.mark.parametrize(
    ("timing", "name"),
    [
        # (scanning sequence, TR, TE, TI) of protocols: IXI T1/T2/PD, ADNI MPRAGE, a routine FLAIR
        (("GR", 9.8, 4.6, None), "T1"),
        (("SE", 8178, 100, None), "T2"),
        (("SE", 8178, 8, None), "PD"),
        (("IR", 9000, 120, 2400), "FLAIR"),
        (("SE", 500, 14, None), "T1"),
        (("GR", 600, 20, None), "other"),
        (("SE", None, 14, None), "other"),
    ],
)
def test_where_the_description_is_silent_the_timing_speaks(timing, name) -> None:
    kind, repetition, echo, inversion = timing
    numbers = {"RepetitionTime": repetition, "EchoTime": echo, "InversionTime": inversion}
    given_ = {key: str(value) for key, value in numbers.items() if value is not None}
    assert sequence(series(ScanningSequence=kind, **given_)) == name


def test_a_contrast_agent_makes_t1_enhanced_unless_the_description_says_before() -> None:
    assert sequence(series(SeriesDescription="AX T1", ContrastBolusAgent="GADAVIST")) == "T1C"
    assert sequence(series(SeriesDescription="AX T1 PRE", ContrastBolusAgent="GADAVIST")) == "T1"
    assert sequence(series(SeriesDescription="AX T1", ContrastBolusAgent="NONE")) == "T1"
    assert sequence(series(SeriesDescription="AX T2", ContrastBolusAgent="GADAVIST")) == "T2"


def test_an_adc_map_is_known_by_its_image_type() -> None:
    derived = series(SeriesDescription="ep2d_diff_3scan", ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "ADC"])
    assert sequence(derived) == "ADC"


@given(st.text(max_size=40))
def test_nothing_but_the_vocabulary_comes_out_whatever_stands_in_the_header(text: str) -> None:
    assert sequence(series(SeriesDescription=text.replace("\\", " "))) in SEQUENCES


def test_films_have_none_and_facts_carry_it() -> None:
    assert read_facts(read_header(kit.film())).sequence == ""
    assert read_facts(read_header(kit.film(Modality="MR", SeriesDescription="t2_tse_tra"))).sequence == "T2"
