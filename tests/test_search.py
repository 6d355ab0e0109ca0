"""`medvit search`: ranges checked before anything is trained, trials below one run, killed, resumed, shared."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from whole_path import QUICK, generated

import medvit
from medvit.config import conf_dir, settings_by
from medvit.config_check import preflight
from medvit.config_words import overrides_of, readable
from medvit.errors import RunError
from medvit.search_check import check, space_of
from medvit.tracking import run as runs

optuna = pytest.importorskip("optuna")

LR = "optim.plan.lr: {low: 1e-4, high: 1e-2, log: true}"
TRAIN = "train={data: phantom_cxr}"
ROOT = Path(__file__).resolve().parents[1]


MIXED: dict[str, Any] = {
    "optim.plan.lr": {"choices": [1e-3, 3e-2, 1e30]},  # the last one diverges
    "pool": {"choices": ["mean", "attention"]},
    "optim": {"choices": ["scratch", "logistic"]},  # and this one has no use for a rate
}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["trials=0"], ["trials=0: expected 1 and more"]),
        (["sampler.seed=-1", "pruning.startup=0"], ["sampler.seed=-1: expected 0 and more", "pruning.startup=0: expe"]),
        (["storage=search.db"], ["storage=search.db: expected an address such as postgresql+psycopg2://USER@HOST/"]),
        (["space={}"], ["space={}: expected names of settings of medvit.train with their ranges"]),
        (["space={optim.plan.lr: 0.1}"], ["space.optim.plan.lr: found 0.1, expected a range or choices"]),
        (["space={optim.plan.lr: {low: 1, hihg: 2}}"], ["space.optim.plan.lr: 'hihg' is no part of a range; did you"]),
        (["space={optim.plan.lr: {low: 1}}"], ["space.optim.plan.lr: high missing"]),
        (["space={optim.plan.lr: {low: 0.1, high: 0.1}}"], ["space.optim.plan.lr: low=0.1, high=0.1: the range is em"]),
        (["space={optim.plan.lr: {low: 2, high: 1}}"], ["space.optim.plan.lr: low=2, high=1: the range is empty or r"]),
        (
            ["space={optim.plan.lr: {low: 0, high: 1, log: true}}"],
            ["space.optim.plan.lr: low=0: a range with log: true"],
        ),
        (["space={model.depth: {low: 1, high: 3, step: 5}}"], ["space.model.depth: step=5: expected a number above 0"]),
        (["space={pool: {choices: [mean]}}"], ["space.pool: choices=['mean']: expected two and more different value"]),
        (["space={pool: {low: mean, high: cls}}"], ["space.pool: low=mean, high=cls, step=None: expected numbers; "]),
        (["space={pool: {choices: [mean, attn]}}"], ["space.pool: pool=attn does not exist; did you mean 'attention'"]),
        (["space={optim.plan.lrr: {low: 1, high: 2}}"], ["space.optim.plan.lrr: 'optim.plan.lrr' is not a setting"]),
        (
            ["space={model.depth: {low: 0.5, high: 2.5}}"],
            ["space.model.depth: model.depth=0.5 (float) is n", "space.model.depth: model.depth=2.5"],
        ),
        (["space={data.folder: {choices: [a, b]}}"], ["space.data.folder: trials are compared on the same data"]),
        (["space={seed: {low: 0, high: 9}}"], ["space.seed: trials are compared on the same data and question"]),
        (["train={data: phantom_cxr, optim.plan.lr: 0.1}"], ["space.optim.plan.lr: train gives optim.plan.lr too"]),
        (["train={data: phantom_cxr, tracking.name: a}"], ["train: tracking.name is for the search to set; leave it"]),
        (["train={data: phantom_cxr, trainer.devices: 2}"], ["train: trainer.devices=2: a trial trains on one device"]),
        (
            ["trials=0", "train={optim: lorra}", "space={pool: {choices: [mean, attn]}, optim.plan.lr: 3}"],
            ["trials=0", "space.optim.plan.lr: found 3", "train: optim=lorra does not exist", "space.pool: pool=attn"],
        ),
    ],
)
def test_all_that_is_wrong_is_told_at_once_by_the_name_of_its_range(given: list[str], said: list[str]) -> None:
    named = [word.partition("=")[0] for word in given]
    base = [word for word in (TRAIN, f"space={{{LR}}}") if word.partition("=")[0] not in named]
    found = preflight(conf_dir(), "search", readable([*base, *given]), check)
    assert len(found) == len(said)
    assert all(one.startswith(start) for one, start in zip(found, said, strict=True)), found


def test_a_value_that_needs_one_of_another_setting_is_no_mistake() -> None:
    space = "space={optim: {choices: [scratch, lp_ft]}, optim.strategy.probe_epochs: {low: 1, high: 3}}"
    train = "train={data: phantom_cxr, model.weights: runs/none}"
    found = preflight(conf_dir(), "search", readable([train, space]), check)
    assert [each for each in found if "probe_epochs" in each] == []


@pytest.mark.parametrize("file", sorted((conf_dir() / "search_space").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_recipe_carries_ranges_that_its_training_takes(file: Path) -> None:
    assert (conf_dir() / "experiment" / file.name).is_file()
    train = f"train={{experiment: {file.stem}, data.folder: nowhere, labels.values: {{normal: 0, pneumonia: 1}}}}"
    by_recipe, by_word = (settings_by("search", [train, *word]) for word in ([], [f"search_space={file.stem}"]))
    assert space_of(by_recipe) == by_word["space"]
    wrong = preflight(conf_dir(), "search", readable([train]), check)
    assert wrong
    assert all(
        told.startswith(("train: data.folder=nowhere has no manifest", "train: model.weights=")) for told in wrong
    )


def test_without_optuna_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from medvit import search_check

    monkeypatch.setattr(search_check, "find_spec", lambda name: None)
    (told,) = preflight(conf_dir(), "search", readable([TRAIN, f"space={{{LR}}}"]), check)
    assert told.endswith("which is not installed: pip install 'medvit[search]'")


def test_tables_name_no_folder_of_this_machine(tmp_path: Path) -> None:
    from medvit.search_result import _searched
    from medvit.tuning import study as studies
    from medvit.tuning.space import parsed

    space = {"model.weights": {"choices": ["/home/a.person/mae", "/home/a.person/dino"]}, "pool": MIXED["pool"]}
    how = studies.Sampling(0, 2, None)
    made = studies.opened(studies.address_of(None, tmp_path), "films", "maximize", {}, how)
    study = studies.SearchStudy(made, parsed(space)[0], {}, how)
    study.folder = tmp_path
    with study.next_trial(tmp_path / "lock", 1) as trial:
        assert trial is not None
        assert study.values(trial)["model.weights"].startswith("/home/a.person/")
        study.complete(trial, 0.5)
    told = _searched(study, study.trials()[0]).values
    assert told["model.weights"] in {"choice 1", "choice 2"}
    assert told["pool"] in {"mean", "attention"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search")


def asked(place: Path, **more: Any) -> dict[str, Any]:
    small = {
        "model.image_size": [32, 32],
        "model.patch_size": [8, 8],
        "model.depth": 1,
        "model": "vit_pico",
        "model.weights": "random",
    }
    shared = {**QUICK, **generated(place, "films"), **small, "labels.target": ["finding"], "trainer.epochs": 2}
    return {"train": shared, "tracking.folder": str(place / "runs"), "sampler.startup": 3,
            "pruning.startup": 1, "pruning.warmup_epochs": 0, **more}  # fmt: skip


@pytest.fixture(scope="module")
def done(place: Path) -> Any:
    return medvit.search(**asked(place, space=MIXED, trials=10))


def study_of(done: Any) -> Any:
    (name,) = {
        each.study_name for each in optuna.get_all_study_summaries(storage(done)) if each.user_attrs["run"] == done.id
    }
    return optuna.load_study(study_name=name, storage=storage(done))


def storage(done: Any) -> str:
    return f"sqlite:///{done.folder.parent / 'search.db'}"


@pytest.mark.slow
def test_a_diverged_or_refused_trial_ends_itself_and_not_the_search(done: Any) -> None:
    table = pd.read_csv(done.folder / "search.csv")
    assert len(table) == 10
    outcomes = table.set_index("outcome")
    assert {"complete", "diverged", "refused"} <= set(table["outcome"])
    assert set(outcomes.loc[["diverged"], "optim.plan.lr"]) == {1e30}
    assert set(outcomes.loc[["refused"], "optim"]) == {"logistic"}
    assert outcomes.loc[["diverged"], "reason"].str.contains("not finite").all()
    assert outcomes.loc[["refused"], "reason"].str.startswith("optim.plan.lr is not set by default").all()
    assert done.status == "FINISHED"


@pytest.mark.slow
def test_trials_stand_below_one_run_with_their_number_values_and_end(done: Any) -> None:
    table = pd.read_csv(done.folder / "search.csv").set_index("run", drop=False)
    children = {run.id: (run, params) for run, params in runs.children(done)}
    assert set(children) == set(table["run"].dropna())
    for key, (run, params) in children.items():
        row = table.loc[key]
        assert run.labels["medvit.trial"] == str(row["trial"])
        assert run.labels["medvit.trial_outcome"] == row["outcome"]
        assert float(params["optim.plan.lr"]) == row["optim.plan.lr"]
        wanted = {"complete": "FINISHED", "pruned": "KILLED"}.get(row["outcome"], "FAILED")
        assert run.status == wanted
        assert not list((run.folder / "checkpoints").glob("*.ckpt"))
        if row["outcome"] == "complete":
            history = run.client.get_metric_history(run.id, "val/auroc")
            assert row["score"] == max(point.value for point in history) == run.values["val/score"]
    assert {"search.csv", "search.md", "search.svg", "search.png"} <= set(done.artifacts())
    assert str(done.folder.parents[1]) not in (done.folder / "search.md").read_text("utf-8")
    params = done.client.get_run(done.id).data.params
    assert (params["sampler.seed"], params["space.pool.choices"]) == ("0", '["mean", "attention"]')
    best = table[table["outcome"] == "complete"].sort_values(["score", "trial"], ascending=[False, True]).iloc[0]
    assert (done.labels["medvit.best_trial"], done.labels["medvit.best_run"]) == (str(best["trial"]), best["run"])
    assert done.values["val/score"] == best["score"]


@pytest.mark.slow
def test_no_trial_opens_the_test_side(done: Any, place: Path) -> None:
    folders = [run.folder for run, _ in runs.children(done)]
    assert not [name for folder in folders for name in folder.iterdir() if "test" in name.name]
    seen = {key for run, _ in runs.children(done) for key in run.values}
    assert not [key for key in seen if key.startswith("test/")]


@pytest.mark.slow
def test_the_same_command_again_trains_nothing_and_a_larger_number_goes_on(
    done: Any, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medvit import search_trial as command

    trained: list[str] = []
    train = command.train
    monkeypatch.setattr(
        command, "train", lambda asked, *rest: (trained.append(asked["tracking"]["name"]), train(asked, *rest))[1]
    )
    assert medvit.search(**asked(place, space=MIXED, trials=10)).id == done.id
    assert trained == []
    again = medvit.search(**asked(place, space=MIXED, trials=11))
    assert again.id == done.id
    assert len(study_of(done).trials) == 11
    assert len(trained) <= 1  # none where the last one is refused


@pytest.mark.slow
def test_the_command_of_the_best_trains_the_same_again_when_pasted(done: Any) -> None:
    line = (done.folder / "best.txt").read_text(encoding="utf-8")
    pasted = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, cwd="/")
    assert pasted.returncode == 0, pasted.stderr[-2000:]
    again = runs.get("latest", done.folder.parent, finished=True)
    best = runs.get(done.labels["medvit.best_run"], done.folder.parent)
    assert again.id != best.id
    assert again.values["val/auroc"] == best.values["val/auroc"]
    assert again.values["train/loss"] == best.values["train/loss"]


@pytest.mark.slow
def test_what_needs_a_network_is_told_the_best_trial_of_a_search(done: Any) -> None:
    best = done.labels["medvit.best_run"]
    with pytest.raises(RunError, match=f"is a search, which has no network of its own; its best trial is run={best}"):
        medvit.evaluate(done)


@pytest.mark.slow
def test_where_no_trial_comes_to_its_end_all_reasons_are_told(place: Path) -> None:
    space = {"optim.plan.lr": {"choices": [1e30, 2e30]}, "pool": MIXED["pool"]}
    with pytest.raises(RunError) as told:
        medvit.search(**asked(place, space=space, trials=2))
    first, *reasons = str(told.value).splitlines()
    assert first.startswith("none of the 2 trials came to its end; change train or space:")
    assert all("diverged: the loss or its gradient is not finite" in reason for reason in reasons)


def called(place: Path, count: int, study: str, **more: Any) -> list[str]:
    space = {"optim.plan.lr": {"low": 1e-4, "high": 3e-2, "log": True}, "pool": MIXED["pool"]}
    given = asked(place, space=space, trials=count, pruning=None, study=study)
    given["train"] |= {name.removeprefix("train."): value for name, value in more.items()}
    return [each for each in overrides_of(given) if not each.startswith("pruning.")]


def where() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def started(place: Path, words: list[str]) -> subprocess.Popen[str]:
    call = [sys.executable, "-m", "medvit.search", *words]
    return subprocess.Popen(call, env=where(), cwd=place, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def study_called(place: Path, name: str) -> Any:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{place / 'runs' / 'search.db'}")


def wait_for(look: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    until = time.monotonic() + 300
    while not (found := look()):
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < until
        time.sleep(0.1)
    return found


def complete(place: Path) -> int:
    try:
        with sqlite3.connect(f"file:{place / 'runs' / 'search.db'}?mode=ro", uri=True) as database:
            query = "SELECT count(*) FROM trials JOIN studies USING (study_id) WHERE study_name='killed' AND state=?"
            return int(database.execute(query, ["COMPLETE"]).fetchone()[0])
    except sqlite3.OperationalError:
        return 0


@pytest.mark.slow
def test_a_search_asked_to_end_says_how_it_goes_on_and_its_trial_goes_on_at_its_checkpoint(place: Path) -> None:
    generated(place, "films")
    words = called(place, 1, "asked to end", **{"train.trainer.epochs": 40})
    before = set(place.glob("runs/*/checkpoints/last.ckpt"))
    process = started(place, words)
    (checkpoint,) = wait_for(lambda: set(place.glob("runs/*/checkpoints/last.ckpt")) - before, process)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 128 + signal.SIGTERM, said[-2000:]
    *_, told, line = said.strip().splitlines()
    assert told == "the search is stopped; the same command goes on:"
    again = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, cwd="/", env=where())
    assert again.returncode == 0, again.stderr[-2000:]
    study = study_called(place, "asked to end")
    assert [each.state.name for each in study.trials] == ["FAIL", "COMPLETE"]
    assert [*study.trials[1].intermediate_values] == [*range(1, 41)]
    parent = runs.get(study.user_attrs["run"], place / "runs")
    ((child, _),) = runs.children(parent)
    assert child.folder == checkpoint.parents[1]
    assert (child.status, parent.status) == ("FINISHED", "FINISHED")


def killed_after(process: subprocess.Popen[str], place: Path, count: int) -> None:
    wait_for(lambda: complete(place) >= count, process)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_search_of_twenty_trials_killed_twice_with_three_workers_loses_and_repeats_none(place: Path) -> None:
    generated(place, "films")
    words = called(place, 20, "killed")
    killed_after(started(place, words), place, 4)
    first, second, third = (started(place, words) for _ in range(3))
    killed_after(first, place, 9)  # the others go on, with the trial of the killed one too
    for process in (second, third):
        said = process.communicate(timeout=600)[0]
        assert process.returncode == 0, said[-3000:]
    study = study_called(place, "killed")
    states = [each.state.name for each in study.trials]
    assert states.count("COMPLETE") == 20
    assert set(states) <= {"COMPLETE", "FAIL"}
    done = [json.dumps(each.params, sort_keys=True) for each in study.trials if each.state.name == "COMPLETE"]
    assert len(set(done)) == 20
    failed = {each.number for each in study.trials if each.state.name == "FAIL"}
    assert failed == {each.user_attrs["again"] for each in study.trials if "again" in each.user_attrs}
    parent = runs.get(study.user_attrs["run"], place / "runs")
    assert parent.status == "FINISHED"
    ended = [run for run, _ in runs.children(parent) if run.status == "FINISHED"]
    assert len(ended) == 20
    assert shlex.split((parent.folder / "best.txt").read_text(encoding="utf-8"))[:2] == ["cd", str(place)]


@pytest.mark.slow
def test_a_server_shows_the_trials_below_their_search_as_the_runs_folder_does(place: Path, tmp_path: Path) -> None:
    from tracking.servers import Server

    server = Server(tmp_path / "server")
    try:
        space = {"optim.plan.lr": {"low": 1e-4, "high": 3e-2, "log": True}, "pool": MIXED["pool"]}
        where = {"tracking.uri": server.uri, "tracking.folder": str(tmp_path / "runs")}
        done = medvit.search(**asked(place, space=space, trials=3, **where))
        there = server.run_of(done.id, "medvit")
        assert there.info.status == "FINISHED"
        assert there.data.tags["medvit.best_run"] == done.labels["medvit.best_run"]
        assert "search.csv" in server.files(there)
        for run, _ in runs.children(done):
            child = server.run_of(run.id, "medvit")
            assert child.data.tags["mlflow.parentRunId"] == there.info.run_id
            assert child.info.status == run.status
            assert child.data.tags["medvit.trial_outcome"] == run.labels["medvit.trial_outcome"]
    finally:
        server.kill()
