"""A run on an MLflow server is that of the journal, whatever happens to the server, and training never waits."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tracking.servers import Server, at
from whole_path import QUICK, generated

import medvit
from medvit.errors import RunError
from medvit.sync import sync
from medvit.tracking import journal, uploader
from medvit.tracking import run as tracking
from medvit.tracking.run import Run

pytestmark = pytest.mark.usefixtures("few_retries")
POINTS = 12


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"))
    yield made
    made.kill()


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    """The same one for all tests: it takes seconds to start."""
    yield running
    running.misbehave()


def told(run: Run, first: int = 0, last: int = POINTS) -> None:
    """Write what a training writes."""
    if first == 0:
        run.params({"seed": 3, "optim": {"lr": 0.1}})
        run.tags({"medvit.commit": "ab12"})
    for step in range(first, last):
        run.metrics({"train/loss": 1 / (step + 1), "val/auroc": step / 100}, step)


def same(server: Server, run: Run) -> Any:
    """Compare the server's run with the local store's, which medvit wrote itself, and return it."""
    here, there = run.client.get_run(run.id), server.run_of(run.id)
    assert there.data.params == here.data.params
    assert there.info.status == here.info.status
    assert there.info.run_name == here.info.run_name
    assert {k: v for k, v in there.data.tags.items() if k != "medvit.run"} == here.data.tags
    for name in here.data.metrics:
        kept = [(one.step, one.value) for one in run.client.get_metric_history(run.id, name)]
        assert str(server.history(there)[name]) == str(kept)  # nan is not equal to itself
    assert server.files(there) == run.artifacts()
    assert there.inputs.dataset_inputs[:1] == [] or there.inputs.dataset_inputs[0].dataset.name == "films"
    return there


@pytest.mark.slow
def test_a_run_is_on_its_server_when_it_is_over_with_everything_and_nothing_private(
    server: Server, runs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tracking.start(runs, "films", "whole")
    with uploader.mirrored(run.folder, server.uri), run:
        told(run)
        run.metrics({"val/odd": float("nan"), "val/high": float("inf")})
        run.note("best of all")
        run.dataset("films", "ab" * 32, "training")
        run.json({"b": 1}, "report/test/report.json")
        run.view(["val/auroc"], ["seed"])
    there = same(server, run)
    assert (there.info.status, len(server.history(there)["val/auroc"])) == ("FINISHED", POINTS)
    assert there.info.start_time == journal.read(run.folder)[0]["at"]
    assert there.info.user_id in ("", "unknown", None)
    assert "mlflow.sharedViewState.medvit" in server.client.get_experiment(there.info.experiment_id).tags
    assert capfd.readouterr().err == ""
    run.json({"b": 2}, "report/test/report.json")  # evaluated again
    run.metrics({"test/auroc": 0.9})
    uploader.follow(run.folder, None)  # to the server it went to
    got = server.client.download_artifacts(same(server, run).info.run_id, "report/test/report.json")
    assert json.loads(Path(got).read_text()) == {"b": 2}


@pytest.mark.slow
def test_no_point_is_lost_or_doubled_where_the_server_is_killed_in_the_middle_and_comes_back(
    server: Server, runs: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tracking.start(runs, "films", "killed server")
    with uploader.mirrored(run.folder, server.uri), run:
        told(run, 0, 5)
        until(lambda: server.history(server.run_of(run.id)).get("val/auroc", []) != [])
        server.kill()
        told(run, 5, POINTS)
        run.json({}, "report.json")
        until(lambda: "nothing answers there" in capfd.readouterr().err)
    assert run.status == "FINISHED"
    (said,) = [each.message for each in caplog.records if each.levelno == logging.WARNING]
    assert said.startswith(f"{server.uri} has not got all of the run, which is whole here; this sends the rest:\n")
    assert said.endswith(f" -m medvit.sync run={run.folder} tracking.uri={server.uri}")
    server.start()
    for _ in range(2):  # the second time there is nothing left
        there = sync(str(run.folder), at(runs, server.uri))
        assert same(server, run).info.run_id == there
    assert sync(run.id, at(runs, "")) == there


def until(there: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if there():
                return
        except (ValueError, AttributeError):
            pass
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")


@pytest.mark.slow
def test_a_killed_process_leaves_a_run_that_sync_sends_and_closes_also_from_a_copy(
    server: Server, runs: Path, tmp_path: Path
) -> None:
    run = tracking.start(runs, "films", "killed")
    run.__enter__()
    told(run, 0, 3)
    with (run.folder / journal.NAME).open("a") as file:
        file.write('{"event": "metrics", "at": 1, "st')  # torn by the kill
    (run.folder / ".training.lock").write_text(machine())
    sync(str(run.folder), at(runs, server.uri))
    there = same(server, run)
    assert (there.info.status, len(server.history(there)["train/loss"])) == ("KILLED", 3)
    resumed = tracking.get(run.id, runs)
    with resumed:
        told(resumed, 2, POINTS)  # the third epoch again: it was stopped within the next
    sync(run.id, at(runs, server.uri))
    there = server.run_of(run.id)
    assert there.info.status == "FINISHED"
    assert server.history(there)["train/loss"] == [(step, 1 / (step + 1)) for step in range(POINTS)]


def machine() -> str:
    from medvit.tracking import run_lock

    return run_lock._machine()


@pytest.mark.slow
def test_children_stand_below_their_parent_on_the_server_too(server: Server, runs: Path) -> None:
    with tracking.start(runs, "films", "parent") as parent:
        pass
    with tracking.start(runs, "films", "child", parent.id) as child:
        pass
    sync(child.id, at(runs, server.uri))
    sync(parent.id, at(runs, server.uri))
    sync(child.id, at(runs, server.uri))
    there = server.run_of(child.id)
    assert there.data.tags["mlflow.parentRunId"] == server.run_of(parent.id).info.run_id


@pytest.mark.parametrize("token", ["wrong", ""])
@pytest.mark.slow
def test_a_wrong_token_is_one_line_that_names_the_variables_and_the_right_one_is_nowhere_to_be_read(
    token: str, server: Server, runs: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any, caplog: Any
) -> None:
    server.misbehave(token="right-SECRET")  # noqa: S106
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", token)
    run = tracking.start(runs, "films", f"token {token}")
    if token:  # once by a whole training
        with uploader.mirrored(run.folder, server.uri), run:
            told(run, 0, 2)
        assert run.status == "FINISHED"
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith(f"{server.uri}: it refuses the credentials (401); give MLFLOW_TRACKING_TOKEN")
    with pytest.raises(RunError, match=r"refuses the credentials \(401\)"):
        sync(run.id, at(runs, server.uri))
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "right-SECRET")
    there = sync(run.id, at(runs, server.uri))
    server.misbehave()
    assert server.client.get_run(there).info.run_name == f"token {token}"
    written = [file for top in (runs, server.folder) for file in top.rglob("*") if file.is_file()]
    assert not [file for file in written if b"SECRET" in file.read_bytes() and file.name != "faults.json"]
    assert "SECRET" not in caplog.text


@pytest.mark.slow
def test_an_experiment_or_run_that_was_deleted_there_is_one_line_and_another_experiment_is_taken(
    server: Server, runs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.client.delete_experiment(server.client.create_experiment("gone"))
    run = tracking.start(runs, "gone", "into nothing")
    with uploader.mirrored(run.folder, server.uri), run:
        told(run, 0, 2)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"{server.uri}: the experiment 'gone' was deleted there; restore it there, or give another")
    assert run.status == "FINISHED"
    there = sync(run.id, at(runs, server.uri) | {"experiment": "another"})
    assert server.run_of(run.id, "another").info.run_id == there
    server.client.delete_run(there)
    with pytest.raises(RunError, match="the run was deleted there"):
        sync(run.id, at(runs, server.uri) | {"experiment": "another"})


@pytest.mark.slow
def test_a_disk_that_is_full_at_the_server_costs_nothing_that_sync_does_not_send(server: Server, runs: Path) -> None:
    with tracking.start(runs, "films", "full") as run:
        told(run, 0, 3)
        run.json({}, "report.json")
    server.misbehave(status=500, of="PUT")  # as MLflow answers where an artifact cannot be written
    with pytest.raises(RunError, match="it answers 500"):
        sync(run.id, at(runs, server.uri))
    server.misbehave()
    sync(run.id, at(runs, server.uri))
    same(server, run)


@pytest.mark.slow
def test_a_training_is_on_the_server_that_the_environment_names_and_its_token_nowhere(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.misbehave(token="right-SECRET")  # noqa: S106
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "right-SECRET")
    asked = {**QUICK, **generated(tmp_path, "films"), "labels.target": ["finding"], "model": "vit_pico",
             "model.weights": "random", "optim": "auto", "trainer.log_every_n_steps": 1}  # fmt: skip
    run = medvit.train(**asked, **{"tracking.folder": str(tmp_path / "runs"), "tracking.log_model": False})
    server.misbehave()
    there = server.run_of(run.id, "medvit")
    assert there.info.status == "FINISHED"
    by_step = {"train/step/loss", "train/step/lr", "train/step/gradient_norm", "time/step/data_wait"}
    assert {"val/auroc", "train/loss", *by_step} <= there.data.metrics.keys()
    assert there.info.run_name.endswith(" vit Probe seed 0")
    shaped = {"recipe": "none", "checkpoint.id": "random", "pool._target_": "medvit.model.pool.MeanPool", "seed": "0",
              "data.fold": "None", "chosen.strategy._target_": "medvit.optim.strategy.Probe"}  # fmt: skip
    assert shaped.items() <= there.data.params.items()
    assert re.match(r"[0-9a-f]{40}|\d", there.data.params["commit"])
    assert [name for name in server.files(there) if not name.startswith("run/")] == run.artifacts()
    assert {"run/checkpoints/best.safetensors", "run/sha256.json"} <= set(server.files(there))
    assert {"config.json", "environment.json"} <= set(server.files(there))
    written = [file for top in (tmp_path, server.folder) for file in top.rglob("*") if file.is_file()]
    assert not [file.name for file in written if b"SECRET" in file.read_bytes() and file.name != "faults.json"]
