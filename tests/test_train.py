"""What `python -m medvit.train` does before it fits: the generated set, and the settings of a resumed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from medvit import generated, resume
from medvit.config import conf_dir
from medvit.config_check import preflight
from medvit.errors import ConfigError, DataError, RunError
from medvit.resume import as_it_was, earlier_part, record_extension, unfinished
from medvit.run_lifecycle import stopped as told_of_stopped
from medvit.tracking.run_lock import held
from medvit.train import _title, _used, check, train


def settings(*words: str) -> Any:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return OmegaConf.to_container(compose("train", list(words)), resolve=True)


def stopped(folder: Path, *words: str) -> Any:
    """A run that was stopped after its first epoch."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    (folder / "config.json").write_text(json.dumps(settings(*words)))
    return SimpleNamespace(id="r1", folder=folder)


def test_a_resumed_run_keeps_its_settings_and_refuses_others(tmp_path: Path) -> None:
    """`resume=... trainer.epochs=50` was taken without a word and trained to the old number of epochs."""
    run = stopped(tmp_path, "trainer.epochs=8", "optim=auto")
    kept = json.loads((tmp_path / "config.json").read_text())
    assert as_it_was(run, settings(), ["resume=r1", "tracking.folder=elsewhere"]) == kept
    again = ["trainer.epochs=8", "optim=auto"]
    assert as_it_was(run, settings(*again, "resume=r1"), [*again, "resume=r1"]) == kept
    with pytest.raises(RunError, match=r"1 of those given here differ, the first trainer\.epochs: give resume=r1"):
        as_it_was(run, settings("trainer.epochs=50", "optim=auto"), ["resume=r1", "trainer.epochs=50", "optim=auto"])


def test_more_epochs_are_an_explicit_word_and_recorded(tmp_path: Path) -> None:
    told: dict[str, str] = {}
    run = stopped(tmp_path / "r1", "trainer.epochs=8")
    run.artifacts, run.tags = list, told.update
    longer = as_it_was(run, settings("extend=12"), ["resume=r1", "extend=12"])
    assert longer["trainer"]["epochs"] == 12
    assert record_extension(run, longer)["trainer"]["epochs"] == 8, "MLflow takes no second value of a parameter"
    assert told == {"medvit.extended": "8 to 12 epochs"}
    (run.folder / "config.json").write_text(json.dumps(longer))
    as_it_was(run, settings("extend=12"), ["resume=auto", "extend=12"])  # as a requeued job says it again
    with pytest.raises(ConfigError, match="extend=9: run r1 has 12 epochs already"):
        as_it_was(run, settings("extend=9"), ["resume=r1", "extend=9"])
    run.artifacts = lambda: ["evaluation/test.json"]
    with pytest.raises(RunError, match="extend=20: run r1 was evaluated already"):
        as_it_was(run, settings("extend=20"), ["resume=r1", "extend=20"])
    whole = stopped(tmp_path / "r2", "scheduler=one_cycle")
    with pytest.raises(ConfigError, match="the schedule of run r1 is as long as its training"):
        as_it_was(whole, settings("extend=99"), ["resume=r1", "extend=99"])
    told_of = [resume.problems({"resume": None, "extend": value})[0] for value in (5, "all")]
    assert "is for a run that is resumed" in told_of[0]
    assert "expected the number of epochs" in told_of[1]


def test_resume_auto_takes_the_newest_stopped_run_of_the_same_settings(tmp_path: Path, monkeypatch: Any) -> None:
    status = {"r1": "KILLED", "r2": "KILLED", "r3": "FAILED"}
    monkeypatch.setattr("medvit.tracking.run.get", lambda name, _: SimpleNamespace(id=name, status=status[name]))
    assert unfinished(settings(), tmp_path) is None
    (tmp_path / "mlflow.db").touch()
    for age, (name, seed) in enumerate({"r3": 1, "r2": 0, "r1": 0}.items()):
        run = stopped(tmp_path / name, f"seed={seed}", "tracking.folder=elsewhere", "model.weights=null")
        os.utime(run.folder / "config.json", (1000 - age, 1000 - age))
    assert unfinished(settings("resume=auto", "model.weights=random"), tmp_path) == "r2"
    assert unfinished(settings("seed=1", "resume=auto", "extend=70"), tmp_path) == "r3"
    assert unfinished(settings("seed=2"), tmp_path) is None
    status["r2"] = "FINISHED"
    assert unfinished(settings(), tmp_path) is None, "an older run of the same settings is not what was stopped"
    assert earlier_part(settings("seed=2", "resume=auto"), [], tmp_path)[0] is None


def test_a_generated_set_is_made_once_and_other_settings_or_versions_of_it_are_told(tmp_path: Path) -> None:
    """`data.generate.patients=1000` was ignored where a set of 500 stood already."""
    given = settings("data.generate.patients=24", f"data.folder={tmp_path}/d", f"data.root={tmp_path}/d/raw/dicom",
                     f"data.generate.folder={tmp_path}/d/raw", f"labels.csv={tmp_path}/d/raw/labels.csv")  # fmt: skip
    data, labels = given["data"], given["labels"]
    assert generated.wanted(data)
    generated.make(data, labels)
    before = (tmp_path / "d" / "splits.parquet").stat().st_mtime_ns
    generated.make(data, labels)
    assert (tmp_path / "d" / "splits.parquet").stat().st_mtime_ns == before
    made = tmp_path / "d" / "raw" / "phantom.json"
    now = made.read_text()
    made.write_text(json.dumps({**json.loads(now), "version": 1}))
    with pytest.raises(DataError, match=r"'version': 1.*asked for .*'version': 2.*choose another"):
        generated.make(data, labels)
    made.write_text(now)
    data["generate"]["patients"] = 25
    with pytest.raises(DataError, match=r"patients=25 \(there: 24\); remove the folder"):
        generated.make(data, labels)


@pytest.mark.slow
def test_a_generated_set_that_three_ask_for_at_once_is_made_once(tmp_path: Path) -> None:
    """Two of the three died."""
    code = "import sys; from medvit import generated; from tests.test_train import settings\n"
    code += "given = settings('data.generate.patients=24'); generated.make(given['data'], given['labels'])"
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    asked = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.PIPE
        )
        for _ in range(3)
    ]
    said = [process.communicate()[1] for process in asked]
    assert [process.returncode for process in asked] == [0, 0, 0], said
    assert len(pd.read_parquet(tmp_path / "work" / "phantom_cxr" / "splits.parquet")) == 24


def test_rates_that_make_no_course_are_told_before_training() -> None:
    assert check(settings("optim.plan.lr=0")) == ["optim.plan.lr=0: expected 1e-12 and more"]
    (told,) = check(settings("optim.plan.lr=1.0e-7"))
    assert told == "optim.plan.final_lr=1e-06: expected at most optim.plan.lr=1e-07"
    assert check(settings("optim=logistic", "model.weights=random")) == []


def test_a_recipe_with_a_training_plan_takes_the_head_that_is_solved_for(tmp_path: Path) -> None:
    """`optim=logistic` with a recipe ended in a KeyError; the recipe's plan and epochs trained nothing."""
    (tmp_path / "manifest.parquet").touch()
    (tmp_path / "splits.parquet").touch()
    words = ["experiment=cxr_from_scratch", "optim=logistic", "model.weights=random", f"data.folder={tmp_path}"]
    assert preflight(conf_dir(), "train", words, check) == []
    used = _used(settings(*words), words)
    assert used["optim"]["plan"] == {}
    assert used["trainer"]["epochs"] == 1
    assert settings("experiment=cxr_from_scratch")["optim"]["plan"]["lr"] == 1e-3
    with pytest.raises(ConfigError, match=r"optim\.plan\.lr=3 is not used by optim=logistic"):
        _used(settings(*words), [*words, "optim.plan.lr=3"])


def test_ctrl_c_while_lightning_trains_is_ctrl_c_and_another_exit_is_left_alone() -> None:
    import pytorch_lightning as pl
    from pytorch_lightning.demos.boring_classes import BoringModel

    from medvit.engine.guards.stop import lightning_stops

    class Stop(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            raise KeyboardInterrupt

    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt), lightning_stops():
            pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=[Stop()], **quiet).fit(BoringModel())
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning ignores further ones from now on
    with pytest.raises(SystemExit, match="7"), lightning_stops():
        sys.exit(7)


def test_a_run_that_was_stopped_early_is_started_anew() -> None:
    run: Any = SimpleNamespace(id="r1", folder=Path("nowhere"))
    assert told_of_stopped(run, "train") == "run r1 is stopped before its first checkpoint was written; start a new one"


def test_a_stopped_run_says_how_it_goes_on(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    told, line = told_of_stopped(stopped(tmp_path / "my runs" / "r1"), "train").split("\n")
    assert told == "run r1 is stopped; this goes on at its last checkpoint:"
    assert line == f"cd {tmp_path} && {sys.executable} -m medvit.train resume=r1 'tracking.folder=my runs'"


def test_a_run_that_is_being_trained_is_not_resumed_beside(tmp_path: Path) -> None:
    """A second process went on with it: 80 points stood twice."""
    run = tmp_path / "r1"
    with held(run), pytest.raises(RunError, match="run r1 is still training"), held(run):
        pass
    with held(run):
        pass


def test_a_copy_that_torchrun_started_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.delenv("MEDVIT_RUN", raising=False)
    with pytest.raises(ConfigError, match=r"LOCAL_RANK=1: torchrun .* give trainer.devices=N"):
        train(settings())


def test_a_run_without_a_name_is_called_by_data_model_and_strategy() -> None:
    from medvit.optim.strategy import Lora

    chosen = Lora()  # as optim=auto did
    assert _title(settings("optim=auto"), chosen) == "phantom_cxr vit Lora seed 0"
