"""Trainer, callbacks, loggers and metrics that cannot be used: all told before torch is imported and before a run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from medvit.config import conf_dir
from medvit.config_check import preflight
from medvit.config_words import readable
from medvit.engine.settings.part_problems import EXTRA, GIVEN, part_problems, trainer_problems
from medvit.train import check

WORDS = {group: sorted(p.stem for p in conf_dir().glob(f"{group}/*.yaml") if p.stem != "none") for group in GIVEN}
STOP = "callbacks=early_stopping callbacks.early_stopping"


def told(given: str) -> list[str]:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        settings = OmegaConf.to_container(compose("train", readable(given.split(" "))), resolve=True)
    return [*trainer_problems(settings["trainer"]), *part_problems(settings)]


@pytest.mark.parametrize(
    "given",
    [
        "+trainer.max_steps=10",
        "trainer.max_steps=10 trainer.limit_train_batches=0.5 trainer.limit_val_batches=2",
        "+trainer.fast_dev_run=true",
        "trainer.fast_dev_run=3",
        "trainer.overfit_batches=1 trainer.detect_anomaly=true trainer.profiler=simple",
        "trainer.max_time='00:00:30:00'",
        "trainer.max_time={hours:2}",
        "trainer.strategy=ddp",
        "trainer.extra={val_check_interval:0.5}",
        "callbacks=[early_stopping,lr_monitor] logger=csv metrics=[auroc,f1]",
        f"{STOP}.monitor=val/auroc callbacks.early_stopping.mode=max callbacks.early_stopping.patience=2",
        f"{STOP}.monitor=val/metrics/f1 callbacks.early_stopping.mode=max metrics=f1",
        "callbacks=early_stopping ++callbacks.early_stopping=null",
    ],
)
def test_what_users_of_lightning_type_is_taken(given: str) -> None:
    assert preflight(conf_dir(), "train", readable(given.split(" ")), check) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("trainer.max_steps=0", "trainer.max_steps=0: expected a number of steps from 1"),
        ("trainer.limit_val_batches=0", "validation chooses the best epoch and cannot be left out"),
        ("trainer.limit_train_batches=1.5", "expected a number of batches from 1, or a share above 0.0 up to 1.0"),
        ("trainer.max_time=2h", 'expected "DD:HH:MM:SS" in quotes'),
        ("trainer.profiler=cpu", "expected simple, advanced, pytorch"),
        ("trainer.strategy=fsdp", "each device would hold a part of the weights, and averaged weights"),
        ("trainer.strategy=ddp_spawn", "medvit starts a process for each device itself; give ddp"),
        ("trainer.strategy=dpp", "did you mean 'ddp'?"),
        ("+trainer.extra.max_epochs=3", "trainer.extra.max_epochs: that is trainer.epochs here"),
        ("optimizer=sgd +optimizer.lr=0.1", "optimizer.lr=0.1: not read; leave it out: give optim.plan.lr"),
        ("+optimizer.weight_decay=0.1", "optimizer.weight_decay=0.1: not read; leave it out: give optim.plan.weight_d"),
        ("+trainer.extra.log_every_n_steps=1", "log_every_n_steps: that is trainer.log_every_n_steps here"),
        ("+trainer.extra.benchmark=true", "trainer.extra.benchmark: that is trainer.determinism=fast here"),
        ("+trainer.extra.deterministic=true", "trainer.extra.deterministic: that is trainer.determinism=bitwise here"),
        ("+trainer.extra.plugins=3", "trainer.extra.plugins: not handed to Lightning's Trainer"),
        ("+callbacks.mine=3", "callbacks.mine=3: expected {_target_: CLASS, ...}"),
        (
            f"{STOP}.monitor=val/f1",
            "val/f1: no number of an epoch; expected val/loss, val/auroc, val/auprc or val/metr",
        ),
        ("callbacks=accumulation trainer.accumulate=2", "give trainer.accumulate=1"),
        ("callbacks=lr_finder trainer.devices=2", "tries rates with the batches of one device"),
        (
            "callbacks=lr_finder +callbacks.lr_finder.attr_name=lr",
            "a setting of the run (optim.plan.lr)",
        ),
        ("callbacks=batch_size_finder +callbacks.batch_size_finder.batch_arg_name=size", "(trainer.batch_size); leave"),
        (f"{STOP}.monitor=train/loss", "no number of an epoch"),
        (f"{STOP}.monitor=val/auroc", "val/auroc is better the larger it is; give callbacks.early_stopping.mode=max"),
        ("scheduler=plateau scheduler.mode=max", "val/loss is better the smaller it is; give scheduler.mode=min"),
        ("logger=csv +logger.csv.save_dir=/tmp", "what a run writes is in the run's folder"),
    ],
)
def test_what_cannot_be_used_is_told_with_what_to_do(given: str, said: str) -> None:
    (found,) = told(given)
    assert said in found


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("callbacks.StochasticWeightAveraging", "edits weights behind the average that is validated and kept"),
        ("callbacks.EMAWeightAveraging", "that average is optim.plan.ema"),
        ("callbacks.ModelPruning", "edits weights behind the average"),
        ("callbacks.BackboneFinetuning", "optim=lp_ft trains the head first"),
        ("loggers.MLFlowLogger", "every run is in MLflow already"),
    ],
)
def test_parts_of_lightning_that_work_against_the_run_are_refused_by_name(kind: str, said: str) -> None:
    group = "logger" if "Logger" in kind else "callbacks"
    target = f"pytorch_lightning.{kind}"
    (found,) = told(f"+{group}.mine={{_target_:{target}}} trust=[{target}]")
    assert found.startswith(f"{group}.mine: {kind.split('.')[1]} is not taken")
    assert said in found


def test_a_logger_whose_package_is_missing_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, find=importlib.util.find_spec: (
        None if name in {"wandb", "tensorboard", "tensorboardX"} else find(name)))  # fmt: skip
    assert told("logger=[wandb,tensorboard]") == [
        "logger.wandb: WandbLogger needs the package wandb: pip install wandb",
        "logger.tensorboard: TensorBoardLogger needs the package tensorboard or tensorboardX: pip install tensorboard",
    ]


def test_all_of_it_is_told_at_once() -> None:
    words = ["trainer.max_steps=0", "trainer.strategy=fsdp", "callbacks=early_stopping", "trainer.profiler=x"]
    assert len(told(" ".join([*words, "callbacks.early_stopping.monitor=val/x"]))) == 4


def test_what_medvit_hands_on_is_an_argument_of_lightnings_trainer() -> None:
    import inspect

    import pytorch_lightning as pl

    assert set(EXTRA) < set(inspect.signature(pl.Trainer).parameters)


def test_settings_of_an_earlier_version_have_none_of_it() -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        settings = OmegaConf.to_container(compose("train"), resolve=True)
    for group in (*GIVEN, "optimizer", "scheduler"):
        del settings[group]
    old = ("epochs", "batch_size", "accumulate", "precision", "accelerator", "devices")
    settings["trainer"] = {key: settings["trainer"][key] for key in old}
    assert [*trainer_problems(settings["trainer"]), *part_problems(settings)] == []
    assert Path(conf_dir() / "callbacks" / "none.yaml").is_file()
