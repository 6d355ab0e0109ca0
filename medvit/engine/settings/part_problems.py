"""What is wrong with the parts a user adds to a training: trainer, callbacks, loggers, metrics; found without torch."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from typing import Any

from medvit.config_words import nearest

GIVEN = ("callbacks", "logger", "metrics")
EXTRA = (
    *("check_val_every_n_epoch", "enable_model_summary", "gradient_clip_algorithm", "inference_mode"),
    *("min_epochs", "min_steps", "num_sanity_val_steps", "reload_dataloaders_every_n_epochs"),
    *("sync_batchnorm", "val_check_interval"),
)
"""Arguments of Lightning's Trainer that medvit hands on as they are."""

_OURS = {  # arguments of Lightning's Trainer under medvit's names
    "accumulate_grad_batches": "trainer.accumulate",
    "benchmark": "trainer.determinism=fast",
    "callbacks": "callbacks",
    "deterministic": "trainer.determinism=bitwise",
    "enable_progress_bar": "trainer.progress_bar",
    "gradient_clip_val": "optim.plan.clip",
    "log_every_n_steps": "trainer.log_every_n_steps",
    "logger": "logger",
    "max_epochs": "trainer.epochs",
}
_AVERAGE = "it edits weights behind the average that is validated and kept; that average is optim.plan.ema"
_REFUSED = {
    "StochasticWeightAveraging": _AVERAGE,
    "WeightAveraging": _AVERAGE,
    "EMAWeightAveraging": _AVERAGE,
    "ModelPruning": "it edits weights behind the average that is validated and kept",
    "BackboneFinetuning": "it freezes weights behind the strategy; optim=lp_ft trains the head first",
    "BaseFinetuning": "it freezes weights behind the strategy; optim=lp_ft trains the head first",
    "MLFlowLogger": "every run is in MLflow already: tracking",
}
_FOUND = {"BatchSizeFinder": "trainer.batch_size", "LearningRateFinder": "optim.plan.lr"}
_PACKAGES = {
    "TensorBoardLogger": ("tensorboard", "tensorboardX"),
    "WandbLogger": ("wandb",),
    "CometLogger": ("comet_ml",),
}
FINDERS = {"BatchSizeFinder": ("batch_arg_name",), "LearningRateFinder": ("attr_name", "update_attr")}
"""Callbacks of Lightning that find a setting before the training begins, and their arguments that mean nothing here."""
_PLACES = ("save_dir", "dirpath", "log_dir", "root_dir")
_SHARDED = (
    "each device would hold a part of the weights, and averaged weights, best weights and the rates of layers need all"
)
_STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")
_LESS = {"loss", "mae", "rmse", "mae_levels"}
_SCORES = {
    "binary": ("auroc", "auprc"),
    "multilabel": ("auroc", "auprc"),
    "multiclass": ("auroc", "auprc", "accuracy", "balanced_accuracy"),
    "ordinal": ("auroc", "auprc", "accuracy", "kappa", "mae_levels"),
    "regression": ("mae", "rmse", "r2"),
}


def part_problems(settings: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with conf/callbacks, logger and metrics, each with what to do."""
    found: list[str] = []
    for group in GIVEN:
        for name, node in (settings.get(group) or {}).items():
            found += _part(f"{group}.{name}", node)
    return [*found, *_optimizer(settings.get("optimizer") or {}), *_monitors(settings), *_of_one_kind(settings)]


def _optimizer(node: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is said of the optimiser that the plan says for each layer."""
    for key, plan in (("lr", "optim.plan.lr"), ("weight_decay", "optim.plan.weight_decay"), ("params", None)):
        if key in node:
            help_ = f"give {plan}, of which each layer has its share" if plan else "the strategy of optim gives them"
            yield f"optimizer.{key}={node[key]}: not read; leave it out: {help_}"


def trainer_problems(trainer: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with conf/trainer as Lightning would take it, each with what to do."""
    return [*_limits(trainer), *_words(trainer), *_extra(trainer.get("extra") or {})]


def _limits(trainer: Mapping[str, Any]) -> Iterator[str]:
    for key in ("limit_train_batches", "limit_val_batches", "overfit_batches"):
        value: Any = trainer.get(key)
        none = value is None or (key == "overfit_batches" and value == 0)
        if none or (_number(value) and (value >= 1 if isinstance(value, int) else 0 < value <= 1)):
            continue
        hint = "; validation chooses the best epoch and cannot be left out" if key == "limit_val_batches" else ""
        yield f"trainer.{key}={value}: expected a number of batches from 1, or a share above 0.0 up to 1.0{hint}"
    steps: Any = trainer.get("max_steps", -1)
    if not isinstance(steps, int) or isinstance(steps, bool) or (steps < 1 and steps != -1):
        yield f"trainer.max_steps={steps}: expected a number of steps from 1, or -1 for none"
    run: Any = trainer.get("fast_dev_run") or False
    if not isinstance(run, int) or run < 0:
        yield f"trainer.fast_dev_run={run}: expected true, false or a number of batches"


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _words(trainer: Mapping[str, Any]) -> Iterator[str]:
    time = trainer.get("max_time")
    units = {"weeks", "days", "hours", "minutes", "seconds"}
    right = re.fullmatch(r"\d+:\d\d:\d\d:\d\d", time) if isinstance(time, str) else not set(time or {}) - units
    if time is not None and not right:
        yield f'trainer.max_time={time}: expected "DD:HH:MM:SS" in quotes, or {{hours: 2, minutes: 30}}'
    profiler = trainer.get("profiler")
    if profiler not in (None, "simple", "advanced", "pytorch") and not isinstance(profiler, dict):
        yield f"trainer.profiler={profiler}: expected simple, advanced, pytorch or {{_target_: CLASS}}"
    strategy = trainer.get("strategy", "auto")
    if isinstance(strategy, dict) or strategy in _STRATEGIES:
        return
    why = f": expected {', '.join(_STRATEGIES)} or {{_target_: CLASS}}{nearest(strategy, _STRATEGIES)}"
    if str(strategy).startswith(("fsdp", "deepspeed")):
        why = f": {_SHARDED}; ddp trains models that fit one device on several"
    elif str(strategy).startswith(("ddp_spawn", "ddp_fork", "ddp_notebook")):
        why = ": medvit starts a process for each device itself; give ddp"
    yield f"trainer.strategy={strategy}{why}"


def _extra(extra: Any) -> list[str]:
    if not isinstance(extra, dict):
        return [f"trainer.extra={extra}: expected a mapping, such as {{val_check_interval: 0.5}}"]
    return [
        f"trainer.extra.{key}: "
        + (
            f"that is {_OURS[key]} here"
            if key in _OURS
            else f"not handed to Lightning's Trainer{nearest(key, EXTRA)}; it takes {', '.join(EXTRA)}"
        )
        for key in extra
        if key not in EXTRA
    ]


def _part(name: str, node: Any) -> Iterator[str]:
    """Yield what is wrong with one callback, logger or metric; null takes one away that a recipe names."""
    if node is None:
        return
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        yield f"{name}={node}: expected {{_target_: CLASS, ...}}"
        return
    kind = node["_target_"].rpartition(".")[2]
    if kind in _REFUSED:
        yield f"{name}: {kind} is not taken: {_REFUSED[kind]}"
    for key in FINDERS.get(kind, ()):
        if key in node:
            yield f"{name}.{key}: what it finds is a setting of the run ({_FOUND[kind]}); leave it out"
    packages = _PACKAGES.get(kind, ())
    if packages and not any(importlib.util.find_spec(package) for package in packages):
        yield f"{name}: {kind} needs the package {' or '.join(packages)}: pip install {packages[0]}"
    for key in _PLACES:
        if node.get(key) is not None:
            yield f"{name}.{key}: what a run writes is in the run's folder (tracking.folder); leave it out"


def _of_one_kind(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield callbacks that do what a setting of the trainer does too, or that one device cannot find for several."""
    trainer, devices = settings["trainer"], settings["trainer"].get("devices")
    several = (isinstance(devices, int) and devices > 1) or (isinstance(devices, list) and len(devices) > 1)
    for name, node in (settings.get("callbacks") or {}).items():
        kind = str((node or {}).get("_target_")).rpartition(".")[2] if isinstance(node, dict | None) else ""
        if kind == "GradientAccumulationScheduler" and trainer.get("accumulate", 1) != 1:
            said = f"callbacks.{name} and trainer.accumulate={trainer['accumulate']} say how many batches make a step"
            yield f"{said}: give trainer.accumulate=1"
        if kind == "BatchSizeFinder" and trainer.get("auto_batch"):
            yield f"callbacks.{name} and trainer.auto_batch=true both look for the size of a batch: give one"
        if kind == "LearningRateFinder" and several:
            yield f"callbacks.{name} tries rates with the batches of one device, and trainer.devices={devices} has more"


def _monitors(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield monitors that no epoch gives, and those whose mode is the wrong way round: they would stop at the best."""
    kind = settings["task"]["_target_"].split(".")[-2]
    scores = ["loss", *_SCORES.get(kind, ())]
    watching = {f"callbacks.{name}": node for name, node in (settings.get("callbacks") or {}).items()}
    for name, node in {**watching, "scheduler": settings.get("scheduler")}.items():
        monitor = node.get("monitor") if isinstance(node, dict) else None
        if monitor is None:
            continue
        side, _, rest = str(monitor).partition("/")
        score = rest.split("/")[0]
        if kind not in _SCORES or (side == "val" and rest.startswith("metrics/")):
            continue
        if side != "val" or score not in scores:
            known = ", ".join(f"val/{each}" for each in scores)
            yield f"{name}.monitor={monitor}: no number of an epoch; expected {known} or val/metrics/NAME"
        elif node.get("mode", "min") != (right := "min" if score in _LESS else "max"):
            grows = "smaller" if right == "min" else "larger"
            yield f"{name}: {monitor} is better the {grows} it is; give {name}.mode={right}"
