"""The tutorials are notebooks: every cell runs, from top to bottom, in a kernel of its own."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import jupytext
import pandas as pd
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
QUICK = {  # what stands in the page, and what the test puts there, so that it ends within a minute or two
    "patients, epochs = 500, 38": "patients, epochs = 24, 1",
    "epochs = 45\n": "epochs = 1\n",
    "bootstrap__draws=1000": "bootstrap__draws=100",
}


def execute(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run the page's cells in `folder` and return what they print; an error of a cell is raised."""
    text = (ROOT / "docs" / "tutorials" / page).read_text(encoding="utf-8")
    for shown, quick in QUICK.items():
        text = text.replace(shown, quick)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("MEDVIT_PSEUDO_KEY_FILE", str(folder / "pseudonym.key"))
    monkeypatch.setenv("IPYTHONDIR", str(folder / ".ipython"))
    monkeypatch.setenv("JUPYTER_ALLOW_INSECURE_WRITES", "1")
    notebook = jupytext.reads(text, fmt="md")
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(folder)}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) >= 6
    return ["".join(out.get("text", "") for out in cell.outputs if out.get("name") == "stdout") for cell in cells]


@pytest.mark.slow
def test_the_tutorial_on_generated_films_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = execute("generated_films.md", tmp_path, monkeypatch)
    assert (tmp_path / "tutorial_bundle" / "models" / "model.onnx").is_file()
    printed = "".join(said)
    assert "AUROC" in printed
    report = Path(re.findall(r"^(\S+report\.html)$", printed, re.MULTILINE)[-1])
    assert (tmp_path / report).is_file()


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
    said = "".join(execute("real_films.md", tmp_path, monkeypatch))
    assert f"films of {len(patients)} patients" in said
    assert (tmp_path / "real_bundle" / "SHA256SUMS").is_file()
