"""123 of 123: every case of the list of bad inputs is in a table of cases, or says where it is tested."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pandas as pd
import pytest

from medvit.index import index
from medvit.phantom import films as phantom

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "dicom_cases"))
import cases  # noqa: E402 - lies beside the tests that run it
import series_cases  # noqa: E402

DOCUMENT = (ROOT / "docs" / "reference" / "silent-errors.md").read_text(encoding="utf-8")
ROWS = {line.split("|")[1].strip(): line for line in DOCUMENT.splitlines() if re.match(r"\| B\d{3}\S* \|", line)}
OF_DATA = {f"B{number:03d}" for number in range(106, 124)}


def named_tests(row: str) -> list[tuple[Path, str]]:
    return [(ROOT / path, name) for path, name in re.findall(r"`(tests/\S+\.py)::(\w+)`", row)]


def test_every_case_from_b001_to_b105_is_in_a_table_that_tests_run() -> None:
    run = {case.id for case in cases.CASES} | set(series_cases.CASES)
    assert {name[:4] for name in run} == {f"B{number:03d}" for number in range(1, 106)}
    assert run <= set(ROWS), "the page lists every case that is run"


def test_medvit_is_never_wrong_on_the_page() -> None:
    run = [case.id for case in cases.CASES] + list(series_cases.CASES)
    assert {ROWS[name].split("|")[3].strip() for name in run} == {"right"}


@pytest.mark.parametrize("case", sorted(OF_DATA))
def test_every_case_of_data_sets_names_tests_that_exist(case: str) -> None:
    found = named_tests(ROWS[case])
    assert found
    for path, name in found:
        there = {one.name for one in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if hasattr(one, "name")}
        assert name in there, f"{path.name} has no {name}"


def test_two_patient_ids_that_the_table_knows_as_one_person_are_one_patient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    films = tmp_path / "set"
    table = phantom.write_films(films, patients=4, seed=2)
    persons = {patient: f"person-{number // 2}" for number, patient in enumerate(sorted(set(table["PatientID"])))}
    table.assign(person=table["PatientID"].map(persons)).to_csv(tmp_path / "labels.csv", index=False)
    spec = {"csv": tmp_path / "labels.csv", "target": ["finding"], "patient": "person"}
    by_header, by_table = index(films / "dicom", tmp_path / "a"), index(films / "dicom", tmp_path / "b", spec)
    assert by_header.table["patient"].nunique() == 4
    assert by_table.table["patient"].nunique() == 2
    pairs = pd.Series(by_table.table["patient"].to_numpy(), by_header.table["patient"].to_numpy())
    assert (pairs.groupby(level=0).nunique() == 1).all()
