"""A training that is asked to end, as a real process: its exit code, its run in MLflow, and what it leaves."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medvit.engine.guards import stop
from medvit.errors import Stopped
from medvit.tracking import run as runs
from tests.test_pipeline import SMALL, medvit


def test_the_second_signal_ends_at_once_what_the_first_one_lets_end_its_step() -> None:
    with stop.stopped_by_signals(), stop.looks_at_signals():
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked() == signal.SIGTERM
        with pytest.raises(Stopped) as end:
            signal.raise_signal(signal.SIGUSR1)  # SIGINT is ignored in what a shell starts in the background
        signal.raise_signal(signal.SIGTERM)  # a third does not disturb what is being closed
        assert end.value.number == signal.SIGTERM
        with pytest.raises(Stopped):
            stop.stop_if_asked()
        stop._request.number = None
    assert stop.asked() is None


class Freed:
    """An object that is freed while a signal arrives, as thousands are during imports."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGUSR1)


def test_a_signal_that_falls_where_python_throws_errors_away_ends_the_process_all_the_same() -> None:
    """What is raised in a `__del__` or a callback from C is dropped: the signal was gone, later ones were ignored."""

    def free() -> None:
        thing = Freed()
        del thing
        time.sleep(10)

    with stop.stopped_by_signals(), pytest.raises(Stopped) as end:
        free()
    assert end.value.number == signal.SIGUSR1


def test_a_signal_whose_error_a_library_swallowed_ends_the_training_at_its_next_step() -> None:
    with stop.stopped_by_signals():
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGUSR1)
        with pytest.raises(Stopped), stop.looks_at_signals():
            pass


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
        *((signal.SIGTERM, BEFORE), (signal.SIGTERM, EPOCHS), (signal.SIGTERM, PUBLISHING), (signal.SIGUSR1, BEFORE)),
        *((signal.SIGHUP, EPOCHS), (signal.SIGUSR1, PUBLISHING), (signal.SIGINT, EPOCHS)),
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
    )  # fmt: skip
    new: set[Path] = set()
    while process.poll() is None and not any((folder / phase).is_file() for folder in new):
        new = set((work / "runs").glob("*/")) - known
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=300)
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


@pytest.mark.slow
def test_the_job_of_the_slurm_page_puts_itself_back_into_the_queue_and_goes_on(work: Path, tmp_path: Path) -> None:
    """With a stand-in for `scontrol` that writes down what it was asked, and this Python for `python`."""
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "slurm.md").read_text(encoding="utf-8")
    script = page.split("```text\n")[1].split("```")[0]
    train = re.search(r"python -m medvit\.train .*?resume=auto", script, re.DOTALL)
    assert train
    words = " ".join([*SMALL, "trainer.epochs=12", "tracking.folder=jobs", "resume=auto"])
    script = script.replace(train[0], f"python -m medvit.train {words}")
    script = re.sub(r"export MEDVIT_PSEUDO_KEY_FILE=\S+", "", script)
    for name, text in {"scontrol": f'echo "$@" >> {tmp_path}/asked', "python": f'exec {sys.executable} "$@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "77"}
    job = subprocess.Popen(["bash", "-c", script], cwd=work, env=env, stderr=subprocess.PIPE, text=True)
    while job.poll() is None and not list(work.glob(f"jobs/*/{EPOCHS}")):
        time.sleep(0.01)
    job.send_signal(signal.SIGUSR1)
    _, said = job.communicate(timeout=300)
    assert job.returncode == 128 + signal.SIGUSR1, said
    assert (tmp_path / "asked").read_text().split() == ["requeue", "77"]
    subprocess.run(["bash", "-c", script], cwd=work, env=env, check=True, timeout=300)
    (run,) = [file.parent.name for file in work.glob("jobs/*/config.json")]
    assert runs.get(run, work / "jobs").status == "FINISHED"
    assert (tmp_path / "asked").read_text().split() == ["requeue", "77"]
