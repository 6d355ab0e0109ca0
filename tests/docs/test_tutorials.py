"""The tutorials are notebooks: every cell runs, in a kernel of its own, and prints what the page shows."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import tutorial_outputs

ROOT = Path(__file__).resolve().parents[2]
QUICK = {  # what stands in the page, and what the test puts there, so that it ends within a minute or two
    "patients, epochs = 500, 38": "patients, epochs = 24, 1",
    "epochs = 45  # 12 for a first look\n": "epochs = 1\n",
    "patients, epochs = 120, 8": "patients, epochs = 24, 1",
    "bootstrap__draws=1000": "bootstrap__draws=100",
}


def execute(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the page's cells in `folder` and return what they print; the words of each must be those of the page."""
    text = (ROOT / "docs" / "tutorials" / page).read_text(encoding="utf-8")
    for full, quick in QUICK.items():
        text = text.replace(full, quick)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(folder / ".ipython"))
    monkeypatch.setenv("JUPYTER_ALLOW_INSECURE_WRITES", "1")
    cells = tutorial_outputs.execute(text, folder)
    said, shown = [tutorial_outputs.printed(cell) for cell in cells], tutorial_outputs.shown(page)
    if any(shown):
        assert [first_words(text) for text in said] == [first_words(text) for text in shown]
    return "\n".join(said)


def first_words(text: str) -> list[str]:
    """Return the words of the first line, without numbers, paths and names that each run makes anew.

    With few films a number may be "insufficient (n)".
    """
    line = text.partition("\n")[0].replace("insufficient", "")
    return re.findall(r"(?<![\w/.-])[A-Za-z]{3,}(?![\w/.-])", line)


def test_the_tutorial_on_generated_films_shows_what_its_cells_print_and_draw() -> None:
    assert sum(bool(text) for text in tutorial_outputs.shown("generated_films.md")) >= 6
    drawn = re.findall(r"\(\.\./images/(\S+\.png)\)", (ROOT / "docs/tutorials/generated_films.md").read_text())
    assert drawn
    assert all((ROOT / "docs" / "images" / name).is_file() for name in drawn)


@pytest.mark.slow
def test_the_tutorial_on_generated_films_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = execute("generated_films.md", tmp_path, monkeypatch)
    assert (tmp_path / "tutorial_bundle" / "models" / "model.onnx").is_file()
    assert "AUROC" in printed
    report = Path(re.findall(r"^(\S+report\.html)$", printed, re.MULTILINE)[-1])
    assert (tmp_path / report).is_file()


@pytest.mark.slow
def test_the_tutorial_for_users_of_monai_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = execute("from_monai.md", tmp_path, monkeypatch)
    assert (tmp_path / "from_monai_bundle" / "models" / "model.onnx").is_file()
    assert "MONAI (1, 64, 64)" in printed
    assert "medvit (1, 64, 64)" in printed
    assert printed.count("loss ") >= 1


@pytest.mark.slow
@pytest.mark.real
def test_the_tutorial_on_real_films_runs_from_top_to_bottom(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, few = real_data / "labelled" / "cxr_pneumonia_dicom", tmp_path / "labelled" / "cxr_pneumonia_dicom"
    labels = pd.read_csv(source / "labels.csv")
    patients = sorted(labels["PatientID"].unique())[:60]
    for patient in patients:
        shutil.copytree(source / "dicom" / patient, few / "dicom" / patient)
    labels[labels["PatientID"].isin(patients)].to_csv(few / "labels.csv", index=False)
    monkeypatch.setenv("MEDVIT_REAL_DATA", str(tmp_path))
    said = execute("real_films.md", tmp_path, monkeypatch)
    assert f"films of {len(patients)} patients" in said
    assert (tmp_path / "real_bundle" / "SHA256SUMS").is_file()
