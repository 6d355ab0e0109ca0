from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from medvit.bundle.acceptance import check, envelope, problems
from medvit.errors import DicomRefusal
from medvit.types import Facts

SEEN = Facts(
    modality="DX",
    sop_class="DX",
    view="PA",
    body_part="CHEST",
    rows=2000,
    columns=1800,
    spacing_mm=(0.15, 0.15),
    age_years=42.0,
)
TRAINING = pd.DataFrame(
    {
        "modality": ["CR", "DX"],
        "sop_class": ["CR", "DX"],
        "view": ["PA", ""],
        "body_part": ["CHEST", "CHEST"],
        "rows": [1500, 3000],
        "columns": [1500, 3000],
        "spacing_row_mm": [0.1, 0.2],
        "age_years": [21.0, 77.0],
    }
)


def test_the_training_images_lie_inside_their_own_envelope() -> None:
    limits = envelope(TRAINING)
    check(SEEN, limits)
    check(
        replace(SEEN, modality="CR", sop_class="CR", view="", rows=3000, spacing_mm=(0.2, 0.2), age_years=77.0), limits
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"modality": "CT"}, "modality is CT, allowed CR or DX tag=(0008,0060)"),
        ({"view": "LL"}, "view is LL, allowed not given or PA"),
        ({"body_part": "HAND"}, "body_part is HAND, allowed CHEST"),
        ({"rows": 60}, "rows is 60, allowed 750 to 6000"),
        ({"spacing_mm": (1.5, 1.5)}, "spacing_mm is 1.5"),
        ({"age_years": 4.0}, "age_years is 4, allowed 15 to 85"),
        ({"age_years": None}, "age_years is not given"),
        ({"burned_in": "yes"}, "burned_in is yes, allowed no or unknown"),
    ],
)
def test_what_the_model_never_saw_is_refused_with_the_fact_and_the_limit(change, said) -> None:
    with pytest.raises(DicomRefusal, match="E-ACCEPT") as told:
        check(replace(SEEN, **change), envelope(TRAINING))
    assert said in str(told.value)
    assert told.value.tag


def test_all_reasons_come_at_once() -> None:
    with pytest.raises(DicomRefusal) as told:
        check(replace(SEEN, modality="CT", body_part="HAND", rows=10), envelope(TRAINING))
    assert told.value.tag == "(0008,0060); (0018,0015); (0028,0010)"


def test_a_limit_taken_out_is_not_checked() -> None:
    limits = {key: limit for key, limit in envelope(TRAINING).items() if key != "age_years"}
    check(replace(SEEN, age_years=3.0), limits)


def test_a_free_text_of_fewer_than_three_patients_is_no_limit_and_none_is_ever_shown() -> None:
    views = pd.DataFrame({"view": ["PA", "SMITH", "SMITH", "SUPINE", "SUPINE", "SUPINE"], "patient": list("aabcde")})
    assert envelope(views)["view"] == ["PA", "SUPINE"]
    assert envelope(pd.DataFrame({"view": ["SMITH"], "patient": ["a"]}))["view"] == [""]
    check(Facts(view="SUPINE"), envelope(views))
    with pytest.raises(DicomRefusal) as told:
        check(Facts(view="SMITH", body_part="JONES"), {**envelope(views), "body_part": ["CHEST"]})
    assert str(told.value).count("is of no known name") == 2
    assert "SMITH" not in str(told.value)
    assert "JONES" not in str(told.value)


def test_a_model_of_pictures_refuses_dicom_and_one_of_dicom_refuses_pictures_in_one_sentence() -> None:
    """It said "modality CR; sop_class CR; ... allowed=not given; not given" before."""
    pictures = envelope(pd.DataFrame({name: ["", ""] for name in ("modality", "sop_class", "view", "body_part")}))
    check(Facts(rows=64, columns=64), pictures)
    with pytest.raises(
        DicomRefusal, match=r"a DICOM object \(DX\), trained on PNG, JPEG or NIfTI files, never on DICOM"
    ):
        check(SEEN, pictures)
    with pytest.raises(DicomRefusal, match=r"no DICOM header, trained on DICOM objects \(CR or DX\)"):
        check(Facts(rows=2000, columns=1800), envelope(TRAINING))


def test_what_a_manifest_holds_of_the_oldest_and_of_burned_in_text_is_inside_its_envelope() -> None:
    """A manifest caps ages at 90: a model refused the patient of 97 it was trained on; likewise burned-in text."""
    limits = envelope(TRAINING.assign(age_years=90.0, burned_in=["yes", "unknown"]))
    check(replace(SEEN, age_years=97.0, burned_in="yes"), limits)


def test_limits_that_no_check_could_use_are_all_named() -> None:
    assert problems({**envelope(TRAINING), "unlike": {"warn": 1.0, "refuse": 3}}) == []
    wrong = {"veiw": ["PA"], "view": "PA", "rows": {"min": 5}, "age_years": {"min": 9, "max": 3}, "unlike": {"at": 2}}
    found = problems(wrong)
    assert [problem.partition(":")[0] for problem in found] == [f"acceptance.{name}" for name in wrong]
    assert "one of modality" in found[0]
