"""The store of a runs folder: several processes at once, folders that are copied or moved, a database that is busy."""

from __future__ import annotations

import json
import platform
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from medvit.errors import RunError
from medvit.file_lock import locked
from medvit.tracking import run as tracking
from medvit.tracking import run_lock, store


def evaluated(run: tracking.Run, auroc: float) -> None:
    run.json({"auroc": auroc}, "evaluation/test.json")


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder made once: MLflow takes seconds to lay out its database."""
    folder = tmp_path_factory.mktemp("store") / "runs"
    store.open_client(folder)
    return folder


def test_what_is_written_in_a_copied_runs_folder_leaves_the_original_as_it_was(laid_out: Path, tmp_path: Path) -> None:
    """The evaluation of a copied run overwrote that of the original: MLflow keeps absolute addresses."""
    with tracking.start(laid_out, "films", "copied") as run:
        evaluated(run, 0.9)
    place = laid_out / "artifacts" / run.id / "artifacts" / "evaluation" / "test.json"
    before = place.read_bytes()
    shutil.copytree(laid_out, tmp_path / "copy")
    copied = tracking.get(run.id, tmp_path / "copy")
    evaluated(copied, 0.1)
    assert place.read_bytes() == before
    assert json.loads(copied.fetch("evaluation/test.json", tmp_path / "out").read_text()) == {"auroc": 0.1}
    addresses = [copied.client.get_run(run.id).info.artifact_uri, tracking.get(run.id, laid_out).client.get_run(run.id)
                 .info.artifact_uri]  # fmt: skip
    assert addresses == [f"{folder.as_uri()}/artifacts/{run.id}/artifacts" for folder in (tmp_path / "copy", laid_out)]


def test_a_moved_runs_folder_is_read_and_trained_in_as_before(laid_out: Path, tmp_path: Path) -> None:
    shutil.copytree(laid_out, tmp_path / "here")
    with tracking.start(tmp_path / "here", "films", "moved") as run:
        evaluated(run, 0.8)
    (tmp_path / "here").rename(tmp_path / "there")
    moved = tracking.get(run.id, tmp_path / "there")
    assert json.loads(moved.fetch("evaluation/test.json", tmp_path / "out").read_text()) == {"auroc": 0.8}
    with tracking.start(tmp_path / "there", "films", "next") as following:
        evaluated(following, 0.7)
    assert not (tmp_path / "here").exists()
    with closing(sqlite3.connect(tmp_path / "there" / "mlflow.db")) as database:
        assert str(tmp_path / "here") not in "".join(database.iterdump())


def test_a_database_that_another_process_has_locked_is_waited_for(
    laid_out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """MLflow gives up after 20 s: the training died and its run stayed RUNNING. Here its wait is cut to nothing."""
    from sqlalchemy import sql

    plain = sql.text
    monkeypatch.setattr(sql, "text", lambda words: plain(words.replace("timeout = 20000", "timeout = 1")))
    with tracking.start(laid_out, "films", "busy") as run:
        other = sqlite3.connect(laid_out / "mlflow.db", check_same_thread=False)
        other.execute("BEGIN EXCLUSIVE")
        threading.Timer(2, lambda: (other.rollback(), other.close())).start()
        begun = time.monotonic()
        run.metrics({"val/auroc": 0.9}, 3)
    assert 1 < time.monotonic() - begun < 15
    assert caplog.text.count("mlflow.db is locked by another process") == 1
    assert [(point.value, point.step) for point in run.client.get_metric_history(run.id, "val/auroc")] == [(0.9, 3)]
    assert run.status == "FINISHED"


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("runs", "tracking.folder=runs holds no mlflow.db"),
        ("site_b/runs-2026", "tracking.folder=site_b/runs-2026 holds no mlflow.db"),
        ("Doe^Jane/runs", "the folder of tracking.folder holds no mlflow.db"),
        ("patient 1/runs", "the folder of tracking.folder holds no mlflow.db"),
        ("8812345/runs", "the folder of tracking.folder holds no mlflow.db"),
    ],
)
def test_an_error_names_the_runs_folder_but_where_it_could_name_a_patient(
    folder: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a checkout has runs of its own after `make train`
    with pytest.raises(RunError) as told:
        tracking.get("latest", Path(folder))
    assert str(told.value).startswith(said)


def test_a_lock_is_freed_when_its_holder_is_killed(tmp_path: Path) -> None:
    code = "import sys, time, pathlib; from medvit.file_lock import locked\n"
    code += "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(BlockingIOError), locked(tmp_path / "lock", wait=False):
        pass
    holder.kill()
    holder.wait()
    with locked(tmp_path / "lock", wait=False):
        pass


def training(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """Start a process that holds a run as a training does, and return it with the run's id."""
    code = "import sys, time, pathlib; from medvit.tracking import run, run_lock\n"
    code += "one = run.start(pathlib.Path(sys.argv[1]), 'films', 'long')\n"
    code += "with run_lock.held(one.folder), one: print(one.id, flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_a_run_whose_process_was_killed_is_closed_by_the_next_command_and_one_that_lives_is_not(
    laid_out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """kill -9 left the run RUNNING for ever."""
    process, run = training(laid_out)
    try:
        assert tracking.get(run, laid_out).status == "RUNNING"
        assert "no process holds it" not in caplog.text
    finally:
        process.kill()
        process.wait()
    lock = laid_out / run / ".training.lock"
    here = lock.read_text()
    assert platform.node() not in here
    lock.write_text("another machine")
    assert tracking.get(run, laid_out).status == "RUNNING"
    lock.write_text(here)
    assert tracking.get(run, laid_out).status == "KILLED"
    assert tracking.get(run, laid_out).status == "KILLED"
    assert [one.message for one in caplog.records if "no process holds it" in one.message] == [
        f"run {run} was RUNNING and no process holds it: it was killed, and is KILLED now"
    ]
    with run_lock.held(laid_out / run), tracking.get(run, laid_out) as resumed:
        assert tracking.get(run, laid_out).status == resumed.status == "RUNNING"


def test_a_run_that_no_lock_is_known_of_is_left_as_it_is(laid_out: Path) -> None:
    run = tracking.start(laid_out, "films", "of an earlier version")
    assert tracking.get(run.id, laid_out).status == "RUNNING"
    (run.folder / ".training.lock").touch()  # made, and not held yet
    assert tracking.get(run.id, laid_out).status == "RUNNING"
    run.finish()


@pytest.mark.slow
def test_ten_processes_that_start_in_a_new_runs_folder_all_get_their_run(tmp_path: Path) -> None:
    """Four of five died, and a half-made database stayed for ever."""
    code = "import sys, pathlib; from medvit.tracking import run\n"
    code += "with run.start(pathlib.Path('runs'), 'films', sys.argv[1]) as one:\n"
    code += "  for step in range(20): one.metrics({'val/auroc': 0.5}, step)"
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(n)], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        for n in range(10)
    ]
    said = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0] * 10, said
    client = store.open_client(tmp_path / "runs")
    runs = client.search_runs([item.experiment_id for item in client.search_experiments()])
    assert sorted(run.info.run_name for run in runs) == list("0123456789")
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {len(client.get_metric_history(run.info.run_id, "val/auroc")) for run in runs} == {20}
