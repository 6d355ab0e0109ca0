"""Who was learnt from before stands in the run, and is looked for on the sides of a later split."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from medvit.dataset import manifest, splits
from medvit.dataset.leakage import seen_patients
from medvit.dataset.leakage.audit import ALLOWED
from medvit.errors import SplitError


@pytest.fixture
def frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A split of six patients: a to c train, d val, e and f test."""
    table = pd.DataFrame({"patient": list("abcdef"), "split": ["train"] * 3 + ["val"] + ["test"] * 2, "fold": -1})
    made = splits.Splits(table, "m", {"strategy": "stratified"})
    monkeypatch.setattr(manifest, "read", lambda folder: None)
    monkeypatch.setattr(splits, "read", lambda folder, table: made)
    return tmp_path


def seen(folder: Path, patients: str, earlier: str = "") -> frozenset[str]:
    seen_patients.write(folder, patients, earlier)
    return seen_patients.read(folder)


def test_weights_that_saw_training_patients_or_strangers_alone_are_clean(frozen: Path) -> None:
    assert seen_patients.audit(frozen, None, seen(frozen, "abxyz"), allow=False) == ""
    assert seen_patients.audit(frozen, None, seen_patients.read(frozen / "nowhere"), allow=False) == ""


def test_weights_that_saw_a_test_patient_are_refused_unless_leaks_are_allowed(frozen: Path) -> None:
    """A pretraining on fold 0 has seen the test patients of fold 1."""
    known = seen(frozen, "ae", earlier="d")  # whom a pretraining before the pretraining saw counts too
    with pytest.raises(
        SplitError, match="E-LEAK the weights it starts from have learnt from 1 patients of the val side"
    ):
        seen_patients.audit(frozen, None, known, allow=False)
    told = seen_patients.audit(frozen, None, known, allow=True)
    assert told.startswith(ALLOWED)
    assert "1 patients of the test side" in told
    assert seen_patients.joined("no exact leak", told).startswith(ALLOWED)


def test_weights_that_saw_a_validation_patient_are_told(frozen: Path, caplog: pytest.LogCaptureFixture) -> None:
    told = seen_patients.audit(frozen, None, seen(frozen, "abcd"), allow=False)
    assert told == "the weights it starts from have learnt from 1 patients of the val side"
    assert told in caplog.text
    assert seen_patients.joined("no exact leak", told) == f"no exact leak; {told}"
