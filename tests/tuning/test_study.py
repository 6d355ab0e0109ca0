"""The study of a search: a killed worker loses nothing, several share the trials, draws do not depend on stops."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medvit.errors import ConfigError, RunError
from medvit.file_lock import locked
from medvit.tuning.space import parsed

optuna = pytest.importorskip("optuna")

from medvit.tuning import study as studies  # noqa: E402

SPACE: dict[str, Any] = {
    "optim.plan.lr": {"low": 1e-4, "high": 1e-1, "log": True},
    "model.depth": {"low": 1, "high": 12},
    "optim.plan.weight_decay": {"low": 0, "high": 1},
    "pool": {"choices": ["mean", "attention"]},
    "model.image_size": {"choices": [[32, 32], [64, 64]]},
}
BASE = {"optim": {"plan": {"lr": 1e-3, "weight_decay": 0.05}}, "model": {"depth": 4, "image_size": [32, 32]}}
HOW = studies.Sampling(seed=3, startup=4, pruning=None)


def opened(
    folder: Path, how: studies.Sampling = HOW, facts: dict[str, Any] | None = None, address: str | None = None
) -> studies.SearchStudy:
    folder.mkdir(exist_ok=True)
    with locked(folder / "lock"):
        made = studies.opened(studies.address_of(address, folder), "films", "maximize", facts or {"split": "a"}, how)
    found = studies.SearchStudy(made, parsed(SPACE)[0], BASE, how)
    found.folder = folder / "run"
    return found


def score(values: dict[str, Any]) -> float:
    return -abs(values["optim.plan.lr"] - 0.01) + 0.01 * values["model.depth"] + (values["pool"] == "mean")


def work(study: studies.SearchStudy, count: int, stop: int | None = None) -> list[dict[str, Any]]:
    """Try values up to `count` trials in all, or be killed within trial `stop` of those tried here."""
    tried: list[dict[str, Any]] = []
    while True:
        with study.next_trial(study.folder.parent / "lock", count) as trial:
            if trial is None:
                return tried
            tried.append(study.values(trial))
            study.report(trial, 0.25, 1)
            if len(tried) == stop:
                return tried
            study.complete(trial, score(tried[-1]))


def ended(study: studies.SearchStudy) -> list[dict[str, Any]]:
    return [study.values(each) for each in study.trials() if each.state.name == "COMPLETE"]


def test_values_have_the_kind_of_their_setting(tmp_path: Path) -> None:
    tried = work(opened(tmp_path), 8)
    assert all(1e-4 <= each["optim.plan.lr"] <= 1e-1 for each in tried)
    assert {type(each["model.depth"]) for each in tried} == {int}
    assert any(0 < each["optim.plan.weight_decay"] < 1 for each in tried), "low: 0, high: 1 of a rate are no integers"
    assert {tuple(each["model.image_size"]) for each in tried} == {(32, 32), (64, 64)}


def test_a_search_killed_twice_tries_the_very_values_of_one_that_was_not(tmp_path: Path) -> None:
    unbroken, broken = opened(tmp_path / "one"), opened(tmp_path / "two")
    work(unbroken, 8)
    work(broken, 8, stop=2)
    work(opened(tmp_path / "two"), 8, stop=4)
    again = opened(tmp_path / "two")
    work(again, 8)
    assert ended(again) == ended(unbroken)
    states = [each.state.name for each in again.trials()]
    assert (states.count("COMPLETE"), states.count("FAIL"), len(states)) == (8, 2, 10)
    stopped = [each for each in again.trials() if each.state.name == "FAIL"]
    retried = [each for each in again.trials() if studies.AGAIN in each.user_attrs]
    assert [each.params for each in stopped] == [each.params for each in retried]
    assert [each.user_attrs[studies.AGAIN] for each in retried] == [each.number for each in stopped]


def test_more_trials_go_on_with_the_same_draws(tmp_path: Path) -> None:
    whole, grown = opened(tmp_path / "one"), opened(tmp_path / "two")
    work(whole, 7)
    work(grown, 5)
    work(opened(tmp_path / "two"), 7)
    assert ended(grown) == ended(whole)
    other = opened(tmp_path / "three", studies.Sampling(seed=4, startup=4, pruning=None))
    work(other, 3)
    assert ended(other)[0] != ended(whole)[0]


def test_what_broke_twice_is_not_tried_a_third_time(tmp_path: Path) -> None:
    for _ in range(2):
        study = opened(tmp_path)
        with study.next_trial(tmp_path / "lock", 1) as trial:
            assert trial is not None
            study.broke(trial, "IndexError", once=True)
            broken = study.values(trial)
    assert work(study, 1) != [broken]


def test_refused_values_are_kept_away_from_and_count(tmp_path: Path) -> None:
    study = opened(tmp_path)
    with study.next_trial(tmp_path / "lock", 2) as trial:
        assert trial is not None
        study.end(trial, "diverged", "the loss is not finite")
    assert len(work(study, 2)) == 1
    assert study.trials()[0].user_attrs[studies.REASON] == "the loss is not finite"
    assert study.best() is not None


_WORKER = """
    import sys, time
    from pathlib import Path
    sys.path[:0] = {places!r}
    import test_study as shared
    study, tried = shared.opened(Path(sys.argv[1]), address=sys.argv[2] or None), 0
    while True:
        with study.next_trial(Path(sys.argv[1]) / "lock", 20) as trial:
            if trial is None:
                break
            time.sleep(0.02)
            study.complete(trial, shared.score(study.values(trial)))
            tried += 1
    print(tried)
"""


@pytest.fixture
def postgresql(tmp_path: Path) -> Iterator[str]:
    """Start a server of its own and return the address of its database."""
    pytest.importorskip("psycopg2")
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("PostgreSQL is not installed")
    with tempfile.TemporaryDirectory(prefix="medvit") as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        owner = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if owner:
            shutil.chown(folder, "postgres")

        def call(program: str, *words: str) -> None:
            subprocess.run(
                [*owner, str(programs[-1] / program), *words], check=True, cwd="/", stdout=subprocess.DEVNULL
            )

        call("initdb", "-D", f"{folder}/data", "-A", "trust", "-U", "medvit")
        options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder} -c fsync=off"
        call("pg_ctl", "-D", f"{folder}/data", "-o", options, "-l", f"{folder}/log", "-w", "start")
        try:
            yield f"postgresql+psycopg2://medvit@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "stop")


def shared_by_three(folder: Path, address: str = "") -> None:
    code = textwrap.dedent(_WORKER).format(places=[str(Path(__file__).parent)])
    call = [sys.executable, "-c", code, str(folder), address]
    workers = [subprocess.Popen(call, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    done = [int(worker.communicate(timeout=300)[0]) for worker in workers]
    study = opened(folder, address=address or None)
    assert sum(done) == 20
    assert [each.state.name for each in study.trials()] == ["COMPLETE"] * 20
    assert len({repr(each) for each in ended(study)}) == 20


@pytest.mark.slow
def test_workers_share_the_trials_and_repeat_and_lose_none(tmp_path: Path) -> None:
    shared_by_three(tmp_path / "shared")


@pytest.mark.slow
def test_workers_share_a_study_on_postgresql(tmp_path: Path, postgresql: str) -> None:
    shared_by_three(tmp_path / "shared", postgresql)


def test_a_study_of_other_facts_is_refused_by_what_changed(tmp_path: Path) -> None:
    opened(tmp_path)
    with pytest.raises(RunError, match=r"study 'films' was begun with another split: its scores would not compare"):
        opened(tmp_path, facts={"split": "b"})


@pytest.mark.parametrize("storage", ["nosuchdb://user:secret@host/x", "sqlite:////nowhere/at/all.db"])
def test_a_storage_that_cannot_be_used_is_refused_without_its_password(storage: str) -> None:
    with pytest.raises(ConfigError) as told:
        studies.opened(storage, "films", "maximize", {}, HOW)
    assert str(told.value).startswith(f"storage={storage.partition(':')[0]}://... cannot be opened")
    assert "secret" not in str(told.value)
