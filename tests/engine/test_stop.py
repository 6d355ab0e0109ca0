"""A training that is asked to end, as a real process: its exit code, its run in MLflow, and what it leaves."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from medvit.engine.checkpoint import WholeCheckpoints
from medvit.errors import Stopped
from medvit.tracking import run as runs
from tests.test_pipeline import SMALL, medvit


def test_a_checkpoint_is_written_beside_its_place_whatever_tmpdir_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning writes into TMPDIR and copies: of 35 kills with TMPDIR on another file system 8 tore the checkpoint."""
    place = tmp_path / "checkpoints" / "last.ckpt"
    monkeypatch.setenv("TMPDIR", str(tmp_path / "not there"))
    WholeCheckpoints().save_checkpoint({"epoch": 1}, place)

    def torn(_: Any, draft: Path) -> None:
        assert draft.parent == place.parent
        draft.write_bytes(b"half")
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(Stopped):
        WholeCheckpoints().save_checkpoint({"epoch": 2}, place)
    assert torch.load(place, weights_only=True) == {"epoch": 1}
    assert [file.name for file in place.parent.iterdir()] == ["last.ckpt"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where a short training was done: its data set and cache are there."""
    folder = tmp_path_factory.mktemp("stop")
    medvit(folder, "train", *SMALL, "trainer.epochs=1")
    return folder


BEFORE, EPOCHS, PUBLISHING = "config.json", "checkpoints/last.ckpt", "validation.parquet"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "phase"),
    [
        *((signal.SIGTERM, BEFORE), (signal.SIGTERM, EPOCHS), (signal.SIGTERM, PUBLISHING)),
        *((signal.SIGUSR1, BEFORE), (signal.SIGHUP, EPOCHS), (signal.SIGUSR1, PUBLISHING), (signal.SIGINT, EPOCHS)),
    ],
)
def test_a_signal_in_any_phase_ends_with_its_exit_code_and_closes_the_run(
    work: Path, number: signal.Signals, phase: str
) -> None:
    """SIGTERM ended with exit code 0 and FAILED; SIGUSR1 and SIGHUP, and any of them early or late, left RUNNING."""
    known = set((work / "runs").glob("*/"))
    epochs = "trainer.epochs=1" if phase == PUBLISHING else "trainer.epochs=200"
    process = subprocess.Popen(
        [sys.executable, "-m", "medvit.train", *SMALL, epochs], cwd=work, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "MEDVIT_PSEUDO_KEY_FILE": str(work / "keys" / "pseudonym.key")},
    )  # fmt: skip
    new: set[Path] = set()
    while process.poll() is None and not any((folder / phase).is_file() for folder in new):
        new = set((work / "runs").glob("*/")) - known
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + number, said
    (folder,) = new
    assert runs.get(folder.name, work / "runs").status == "KILLED"
    told = [line for line in said.splitlines() if "stopped" in line or "interrupted" in line]
    assert len(told) == 1, said
    assert "Traceback" not in said
    assert ("resume=" in said) == (folder / EPOCHS).is_file()
    assert not [file for file in folder.rglob(".*") if file.name != ".training.lock"]
    if number == signal.SIGINT:
        assert re.search(rf"python -m medvit\.train resume={folder.name}", said)


@pytest.mark.slow
def test_a_job_of_a_scheduler_with_several_tasks_trains(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning took `#SBATCH --ntasks=4` for its own processes, and the training ended as an internal error."""
    for name, value in {"NTASKS": "4", "JOB_ID": "7", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURM_JOB_NAME", "films")
    medvit(work, "train", *SMALL, "trainer.epochs=1")
