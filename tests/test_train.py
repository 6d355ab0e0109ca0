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

from medvit import generated
from medvit.config import conf_dir
from medvit.config_check import preflight
from medvit.errors import ConfigError, DataError, RunError
from medvit.train import _alone, _as_it_was, _stopped, _title, _used, check


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
    assert _as_it_was(run, settings(), ["resume=r1", "tracking.folder=elsewhere"]) == kept
    again = ["trainer.epochs=8", "optim=auto"]
    assert _as_it_was(run, settings(*again, "resume=r1"), [*again, "resume=r1"]) == kept
    with pytest.raises(RunError, match=r"1 of those given here differ, the first trainer\.epochs: give resume=r1"):
        _as_it_was(run, settings("trainer.epochs=50", "optim=auto"), ["resume=r1", "trainer.epochs=50", "optim=auto"])


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

    from medvit.engine.stop import lightning_stops

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
    assert _stopped(run) == "run r1 is stopped before its first epoch was done; start a new one"


def test_a_stopped_run_says_how_it_goes_on(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    told, line = _stopped(stopped(tmp_path / "my runs" / "r1")).split("\n")
    assert told == "run r1 is stopped; this goes on at its last finished epoch:"
    assert line == f"cd {tmp_path} && {sys.executable} -m medvit.train resume=r1 'tracking.folder=my runs'"


def test_a_run_that_is_being_trained_is_not_resumed_beside(tmp_path: Path) -> None:
    """A second process went on with it: 80 points stood twice."""
    run: Any = SimpleNamespace(id="r1", folder=tmp_path)
    with _alone(run), pytest.raises(RunError, match="run r1 is still training"), _alone(run):
        pass
    with _alone(run):
        pass


def test_a_run_without_a_name_is_called_by_data_model_and_strategy() -> None:
    assert _title(settings("optim=lora")) == "phantom_cxr vit Lora"
