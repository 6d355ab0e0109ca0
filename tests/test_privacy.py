"""No identifier of a patient in anything that is written: the canary of the real set is searched in every byte."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from tests.test_pipeline import medvit

FILMS = 60


def holding(folder: Path, word: bytes) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and word in path.read_bytes()]


@pytest.mark.real
@pytest.mark.slow
def test_no_byte_of_a_patients_header_is_written_anywhere(tmp_path: Path, real_data: Path) -> None:
    """Index, split, train, evaluate, register, export and predict on real films whose identifying tags hold CANARY."""
    source = real_data / "labelled" / "cxr_pneumonia_dicom"
    table = pd.read_csv(source / "labels.csv", dtype=str)
    patients = table.groupby("finding")["PatientID"].unique().map(lambda ids: list(ids)[: FILMS // 2]).explode()
    chosen = table[table["PatientID"].isin(set(patients))].groupby("PatientID").head(2)
    work = tmp_path / "work"
    for accession in chosen.itertuples():
        place = source / "dicom" / accession.PatientID / accession.AccessionNumber[1:]
        shutil.copytree(place, tmp_path / "films" / place.name)
    chosen.to_csv(tmp_path / "labels.csv", index=False)
    assert holding(tmp_path / "films", b"CANARY"), "the films hold no canary: the test would prove nothing"
    labels = ["labels.csv=labels.csv", "labels.on=AccessionNumber", "labels.target=[finding]"]
    medvit(tmp_path, "index", "data.root=films", "data.folder=work/set", *labels, "report=true")
    medvit(tmp_path, "split", "data.folder=work/set")
    recipe = ["experiment=cxr_from_scratch", "data.folder=work/set", "tracking.folder=work/runs"]
    recipe.append("labels.values={normal: 0, pneumonia: 1}")
    small = ["model.image_size=[64,64]", "model.depth=2", "trainer.epochs=2", "trainer.progress_bar=false"]
    medvit(tmp_path, "train", *recipe, *small)
    runs = "tracking.folder=work/runs"
    medvit(tmp_path, "evaluate", "run=latest", runs, "bootstrap.draws=100")
    medvit(tmp_path, "register", "run=latest", "name=films", "alias=candidate", runs)
    medvit(tmp_path, "export", "run=latest", "out=work/bundle", runs)
    done = medvit(tmp_path, "predict", "bundle=work/bundle", "input=films", "out=work/predictions")
    assert holding(work, b"CANARY") == []
    assert holding(work, chosen["PatientID"].iloc[0].encode()) in ([], ["set/manifest.parquet"])
    assert "CANARY" not in done.stdout + done.stderr
    assert (work / "runs" / "mlflow.db").stat().st_size > 0
