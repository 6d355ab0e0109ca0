from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pydicom
import pytest

from medvit.clinical.identity import NOTICE, Algorithm, headers_of, identity
from medvit.clinical.structured_report import Finding, Judged, structured_report
from medvit.errors import DicomRefusal
from medvit.phantom.films import write_films

ALGORITHM = Algorithm("chest vit", "0.1.0", "0123456789ab")
FINDINGS = [
    Finding("pneumonia", 0.8312345, 0.4, "present", ("233604007", "SCT", "Pneumonia")),
    Finding("opacity", 0.1, 0.5, "absent"),
    Finding("effusion", 0.5),
]


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sr")
    write_films(folder, patients=1)
    return min((folder / "dicom").rglob("IM*"))


@pytest.fixture(scope="module")
def report(film, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("report") / "sr.dcm"
    headers = headers_of([film])
    names = identity("sr", ALGORITHM, headers[0].StudyInstanceUID, 1)
    structured_report([Judged(headers, FINDINGS)], ALGORITHM, names).save_as(file, enforce_file_format=True)
    return file


def flat(dataset) -> list:
    found = []
    for item in dataset.get("ContentSequence", []):
        found += [item, *flat(item)]
    return found


def test_the_report_belongs_to_the_study_of_its_image_under_new_uids(film, report) -> None:
    source, made = pydicom.dcmread(film), pydicom.dcmread(report)
    assert made.StudyInstanceUID == source.StudyInstanceUID
    assert made.PatientID == source.PatientID
    assert made.SOPInstanceUID != source.SOPInstanceUID
    assert made.SeriesInstanceUID != source.SeriesInstanceUID
    assert (made.CompletionFlag, made.VerificationFlag) == ("PARTIAL", "UNVERIFIED")
    assert NOTICE in made.SeriesDescription
    referred = {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in flat(made) if item.ValueType == "IMAGE"
    }
    assert referred == {source.SOPInstanceUID}


def test_probability_decision_threshold_and_model_read_back(report) -> None:
    items = flat(pydicom.dcmread(report))
    numbers = [float(item.MeasuredValueSequence[0].NumericValue) for item in items if item.ValueType == "NUM"]
    assert numbers == pytest.approx([0.831234, 0.1, 0.5], abs=1e-6)
    said = [item.ConceptCodeSequence[0].CodeMeaning for item in items if item.ValueType == "CODE"]
    assert [word for word in said if word in {"Present", "Absent", "Indeterminate"}] == [
        "Present",
        "Absent",
        "Indeterminate",
    ]
    assert "Pneumonia" in said
    texts = [str(item.TextValue) for item in items if item.ValueType == "TEXT"]
    assert {"chest vit", "0.1.0", "bundle=0123456789ab", "threshold=0.4", NOTICE} <= set(texts)


def test_independent_tools_find_no_error(report) -> None:
    if not (shutil.which("dciodvfy") and shutil.which("dsrdump")):
        pytest.skip("needs the Debian packages dicom3tools and dcmtk")
    told = subprocess.run(["dciodvfy", str(report)], capture_output=True, text=True, check=False)
    errors = [line for line in (told.stdout + told.stderr).splitlines() if line.startswith("Error")]
    assert errors == []
    dump = subprocess.run(["dsrdump", str(report)], capture_output=True, text=True, check=False)
    assert dump.returncode == 0
    assert '"Probability")="0.831234"' in dump.stdout


def test_a_quantity_is_no_probability(film, tmp_path) -> None:
    """It was written as the probability of a finding, with a presence nobody had decided."""
    age = Finding("bone_age", 131.5, unit="months", code=("246262008", "SCT", "Bone age"))
    headers = headers_of([film])
    names = identity("sr", ALGORITHM, headers[0].StudyInstanceUID, 1)
    made = structured_report([Judged(headers, [age])], ALGORITHM, names)
    (number,) = [item for item in flat(made) if item.ValueType == "NUM"]
    assert number.ConceptNameCodeSequence[0].CodeMeaning == "Bone age"
    value = number.MeasuredValueSequence[0]
    assert (float(value.NumericValue), value.MeasurementUnitsCodeSequence[0].CodeValue) == (131.5, "mo")
    assert not [item for item in flat(made) if item.ConceptNameCodeSequence[0].CodeValue == "121052"]


def test_an_image_without_identifiers_gets_no_report(film, tmp_path) -> None:
    dataset = pydicom.dcmread(film)
    del dataset.StudyInstanceUID
    dataset.save_as(tmp_path / "anonymous")
    with pytest.raises(DicomRefusal, match="no StudyInstanceUID"):
        headers_of([tmp_path / "anonymous"])
