"""The journal of a run holds all that MLflow gets, whatever stopped the process that wrote it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medvit.errors import RunError
from medvit.tracking import journal, store
from medvit.tracking import run as tracking
from medvit.tracking.backlog import Backlog
from medvit.tracking.journal import Journal, Reader


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("journal") / "runs"
    store.open_client(folder)
    return folder


def test_all_that_mlflow_gets_of_a_run_stands_in_its_journal_in_order(runs: Path) -> None:
    with tracking.start(runs, "films", "first", parent="a" * 32) as run:
        run.params({"seed": 3, "model": {"weights": "/data/CANARY/vit.safetensors"}})
        run.metrics({"val/auroc": 0.7, "val/KL>=2": float("nan")}, 0)
        run.tags({"medvit.manifest": "ab"})
        run.note("tested")
        run.dataset("films", "ab" * 32, "training", {"films": 12})
        run.json({"b": 1}, "tables/extra.json")
        run.view(["val/auroc"], ["seed"])
    found = journal.read(run.folder)
    assert [event.pop("event") for event in found] == [
        *("start", "status", "params", "metrics", "tags", "tags", "dataset", "artifact", "view", "status")
    ]
    times = [event.pop("at") for event in found]
    assert times == sorted(times)
    start, running, params, metrics, tags, note, dataset, artifact, _, finished = found
    assert start == {
        "run": run.id, "experiment": "films", "name": "first", "parent": "a" * 32, "schema": "medvit.journal/1"
    }  # fmt: skip
    assert (running, finished) == ({"status": "RUNNING"}, {"status": "FINISHED"})
    stored = run.client.get_run(run.id)
    assert params["values"] == stored.data.params
    assert "CANARY" not in (run.folder / journal.NAME).read_text()
    assert metrics["step"] == 0
    assert metrics["values"].keys() == stored.data.metrics.keys()
    assert metrics["values"]["val/auroc"] == 0.7
    assert "nan" in metrics["values"].values()
    assert (run.client.get_metric_history(run.id, "val/auroc")[0].timestamp) == times[3]
    assert (tags["values"], note["values"]) == ({"medvit.manifest": "ab"}, {"mlflow.note.content": "tested"})
    assert dataset == {"name": "films", "digest": "ab" * 32, "context": "training", "profile": {"films": 12}}
    assert artifact["name"] == "tables/extra.json"
    kept = tracking.artifacts_of(run.folder) / artifact["name"]
    told = subprocess.run(["sha256sum", kept], capture_output=True, text=True, check=True).stdout
    assert told.startswith(artifact["sha256"])


@pytest.mark.parametrize("torn", ['{"event": "metr', '{"event": "tags", "values": {"medvit.a": "Ö'])
def test_a_torn_last_line_is_skipped_with_a_warning_and_the_next_one_is_whole(
    torn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Journal(tmp_path).write("tags", values={"medvit.a": "1"})
    with (tmp_path / journal.NAME).open("ab") as file:
        file.write(torn.encode()[:-1])  # also in the middle of a character
    assert [event["event"] for event in journal.read(tmp_path)] == ["tags"]
    assert "line 2 of journal.jsonl is torn" in caplog.text
    Journal(tmp_path).write("status", status="KILLED")
    assert [event["event"] for event in journal.read(tmp_path)] == ["tags", "status"]


def test_a_journal_is_read_while_it_is_written_and_half_a_line_waits_for_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    book, reader = Journal(tmp_path), Reader(tmp_path)
    book.write("metrics", step=0, values={"val/auroc": 0.5})
    assert [event["step"] for event in reader.events()] == [0]
    with (tmp_path / journal.NAME).open("a") as file:
        file.write('{"event": "metrics", "at": 1, "step": ')
        file.flush()
        assert list(reader.events()) == []
        file.write('1, "values": {}}\n')
    book.write("metrics", step=2, values={})
    assert [event["step"] for event in reader.events()] == [1, 2]
    assert list(reader.events()) == []
    assert caplog.text == ""


def test_what_a_killed_process_wrote_is_all_there(tmp_path: Path) -> None:
    code = "import sys, pathlib; from medvit.tracking.journal import Journal\n"
    code += "book = Journal(pathlib.Path(sys.argv[1]))\n"
    code += (
        "for step in range(10**6): book.write('metrics', durable=False, step=step, values={}); print(step, flush=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = [int(process.stdout.readline()) for _ in range(200)]
    process.send_signal(signal.SIGKILL)
    told += [int(line) for line in process.stdout.read().splitlines()]
    process.wait()
    steps = [event["step"] for event in journal.read(tmp_path)]
    assert steps == list(range(len(steps)))
    assert len(steps) - len(told) in (0, 1)


def test_a_run_that_was_killed_is_closed_in_its_journal_too(runs: Path) -> None:
    code = "import os, sys, pathlib; from medvit.tracking import run, run_lock\n"
    code += "one = run.start(pathlib.Path(sys.argv[1]), 'films', 'long')\n"
    code += "with run_lock.held(one.folder), one: print(one.id, flush=True); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code, str(runs)], capture_output=True, text=True, check=False)
    run = tracking.get(done.stdout.strip(), runs)
    told = [event["status"] for event in journal.read(run.folder) if event["event"] == "status"]
    assert (run.status, told) == ("KILLED", ["RUNNING", "KILLED"])


def test_a_full_disk_is_a_run_error_that_says_so(runs: Path, tmp_path: Path) -> None:
    with tracking.start(runs, "films", "full") as run:
        pass
    shutil.copytree(runs, tmp_path / "runs")
    full = tracking.get(run.id, tmp_path / "runs")
    (full.folder / journal.NAME).unlink()
    (full.folder / journal.NAME).symlink_to("/dev/full")
    with pytest.raises(RunError, match=r"the journal of the run cannot be written .*No space left"):
        full.metrics({"val/auroc": 0.5}, 1)
    with pytest.raises(RunError, match="the journal of the run cannot be written"):
        full.finish("FAILED")
    assert full.status == "FAILED"


def test_lines_are_strict_json(tmp_path: Path) -> None:
    Journal(tmp_path).write("metrics", step=0, values={"val/a": journal.plain(float("inf")), "val/b": 0.1})
    (line,) = (tmp_path / journal.NAME).read_text().splitlines()

    def refuse(word: str) -> None:
        raise AssertionError(word)

    found = json.loads(line, parse_constant=refuse)
    assert {key: float(value) for key, value in found["values"].items()} == {"val/a": float("inf"), "val/b": 0.1}


def test_a_point_that_a_server_has_with_another_value_is_sent_again_and_the_same_value_is_not() -> None:
    backlog = Backlog()
    told = {"val/auroc": 0.9, "val/f1": 0.5, "val/odd": "nan", "val/high": "inf", "val/new": 0.1}
    backlog.take([{"event": "metrics", "step": 0, "at": 2, "values": told}])
    there = {"val/auroc": 0.8, "val/f1": 0.5, "val/odd": float("nan"), "val/high": 1.7976931348623157e308}
    backlog.leave_out({(name, 0): value for name, value in there.items()}, {})
    assert backlog.points == {("val/auroc", 0): (0.9, 2), ("val/new", 0): (0.1, 2)}
