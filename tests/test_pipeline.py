"""The whole path as a user types it: train, evaluate, register, export, predict, on generated films."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

SMALL = [
    "data.generate.patients=24",
    "model.image_size=[64,64]",
    "model.depth=2",
    "trainer.epochs=2",
    "trainer.batch_size=8",
    "trainer.progress_bar=false",
]


def medvit(folder: Path, command: str, *settings: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", f"medvit.{command}", *settings],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, f"medvit.{command} ended with {done.returncode}\n{done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr
    return done


RUNS = "tracking.folder=my runs"


def pasted(line: str) -> subprocess.CompletedProcess[str]:
    """Run a printed line in a new shell, which starts elsewhere and has no Python on its path."""
    environment = {**os.environ, "PATH": "/usr/bin:/bin"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(["bash", "-c", line], cwd="/", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{line}\n{done.stderr[-3000:]}"
    return done


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A small run in a runs folder whose name has a blank, and what its training printed."""
    folder = tmp_path_factory.mktemp("path")
    return folder, medvit(folder, "train", *SMALL, RUNS).stdout


@pytest.fixture(scope="module")
def trained(fitted: tuple[Path, str]) -> Path:
    return fitted[0]


@pytest.mark.slow
def test_the_whole_path_runs_from_generated_dicom_to_predictions_by_the_printed_lines(fitted: tuple[Path, str]) -> None:
    trained, said_by_train = fitted
    line = re.search(r"test it: +(.*)", said_by_train)
    assert line
    pasted(f"{line[1]} bootstrap.draws=100")
    look = re.search(r"look at it: +(.*)", said_by_train)
    assert look
    assert f"sqlite:///{trained / 'my runs' / 'mlflow.db'}" in shlex.split(look[1])
    said_by_register = medvit(trained, "register", "run=latest", "name=films", "alias=candidate", RUNS).stdout
    python = next(one for one in said_by_register.splitlines() if one.startswith("import medvit"))
    pasted(f"{sys.executable} -c {shlex.quote(f'{python}; assert model.metadata.run_id')}")
    any_age = "acceptance={age_years: null}"  # of 24 patients the youngest may be in the test split
    said_by_export = medvit(trained, "export", "run=latest", "out=bundle", any_age, RUNS).stdout
    line = re.search(r"Use it: (.*)", said_by_export)
    assert line
    pasted(line[1].replace("=DIR", "=work/phantom_cxr/raw/dicom").replace("NEW_DIR", "predictions"))
    said = pd.read_csv(trained / "predictions" / "predictions.csv")
    tested = pd.read_parquet(next(trained.glob("my runs/*/evaluation_test/predictions.parquet")))
    both = said.merge(tested, on="uid")
    assert len(both) == len(tested)
    assert (both["probability.finding"] - both["calibrated.finding"]).abs().max() < 1e-5
    assert not list((trained / "bundle").rglob("*.p*kl*"))


@pytest.mark.slow
def test_training_opens_no_test_film(trained: Path) -> None:
    settings = json.loads(next(trained.glob("my runs/*/config.json")).read_text(encoding="utf-8"))
    manifest = pd.read_parquet(trained / settings["data"]["folder"] / "manifest.parquet")
    splits = pd.read_parquet(trained / settings["data"]["folder"] / "splits.parquet")
    side = manifest["patient"].map(splits.set_index("patient")["split"])
    validation = pd.read_parquet(next(trained.glob("my runs/*/validation.parquet")))
    assert set(validation["uid"]) == set(manifest.loc[side == "val", "uid"])


@pytest.mark.slow
def test_a_run_that_was_not_evaluated_is_neither_registered_nor_exported(tmp_path: Path) -> None:
    medvit(tmp_path, "train", *SMALL, "trainer.epochs=1", RUNS)
    run = next(tmp_path.glob("my runs/*/config.json")).parent.name
    first = f"Evaluate it first: python -m medvit.evaluate run={run} split=test 'tracking.folder=my runs'"
    assert first in medvit(tmp_path, "register", "run=latest", "name=x", RUNS, code=5).stderr
    assert first in medvit(tmp_path, "export", "run=latest", "out=bundle", RUNS, code=5).stderr
    assert not (tmp_path / "bundle").exists()


@pytest.mark.slow
def test_a_run_that_was_killed_and_resumed_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    long = [*SMALL, "trainer.epochs=8"]
    medvit(tmp_path, "train", *long, "tracking.folder=whole")
    killed = subprocess.Popen([sys.executable, "-m", "medvit.train", *long, "tracking.folder=broken"], cwd=tmp_path)
    while killed.poll() is None and not list(tmp_path.glob("broken/*/checkpoints/last.ckpt")):
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    run = next(tmp_path.glob("broken/*/checkpoints/last.ckpt")).parents[1].name
    assert not (tmp_path / "broken" / run / "validation.parquet").exists(), "killed too late to test anything"
    medvit(tmp_path, "train", *long, "tracking.folder=broken", f"resume={run}")
    first, second = (
        load_file(next((tmp_path / name).glob("*/checkpoints/best.safetensors"))) for name in ("whole", "broken")
    )
    assert all((first[name] == second[name]).all() for name in first)
