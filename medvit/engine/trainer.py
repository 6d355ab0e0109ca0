"""Lightning's Trainer as the settings of a run say: medvit's own callbacks, and those of the user."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from medvit.config import build
from medvit.engine.callbacks.checkpoints import SaveCheckpoints
from medvit.engine.callbacks.epoch_logger import EpochLogger
from medvit.engine.callbacks.training import AverageWeights, EpochsFromOne, LastStep, Report, ReportEpoch
from medvit.engine.checkpoint_file import WholeCheckpoints
from medvit.engine.extensions import callbacks_of, loggers_of
from medvit.engine.guards import determinism
from medvit.engine.guards.stop import lightning_stops, looks_at_signals
from medvit.errors import ConfigError
from medvit.optim.plan import Plan

_AS_LIGHTNING = ("max_time", "limit_train_batches", "limit_val_batches", "overfit_batches", "detect_anomaly")
_COMPUTE = ("torch", "pytorch-lightning", "numpy", "medvit")
_OF_A_PART = ("resume", "extend", "tracking", "trust")  # settings of a part of a run
_PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}


def make_trainer(
    settings: Mapping[str, Any],
    precision: Any,
    folder: Path,
    first: list[pl.Callback],
    report: Report,
    validate: bool = True,
) -> pl.Trainer:
    """Return the trainer of a run that writes into `folder`; `first` are callbacks that stand before the averaging.

    Raises:
        ConfigError: callbacks, loggers, a strategy or a profiler that cannot be used.
    """
    node, plan = settings["trainer"], Plan.of(settings)
    added, loggers = callbacks_of(settings, folder), loggers_of(settings, folder)
    collected = EpochLogger() if added else None
    averaged = [AverageWeights(plan.ema)] if plan.ema else []
    last = [LastStep(steps)] if (steps := node.get("max_steps", -1)) > 0 else []
    resumable = SaveCheckpoints(folder, node.get("checkpoint_minutes", 10), made_of(settings))
    own_bar = node["progress_bar"] and not any(isinstance(each, ProgressBar) for each in added)
    bar = [EpochsFromOne(leave=False)] if own_bar else []
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)  # tips and device lists
    make = partial(
        pl.Trainer,
        max_epochs=node["epochs"],
        max_steps=steps,
        accelerator=node["accelerator"],
        devices=node["devices"],
        precision=precision,
        accumulate_grad_batches=node["accumulate"],
        gradient_clip_val=plan.clip or None,
        callbacks=[*first, *averaged, *last, *added, ReportEpoch(report, collected), resumable, *bar],
        default_root_dir=folder,
        logger=[*([collected] if collected else []), *loggers] or False,
        enable_progress_bar=node["progress_bar"],
        use_distributed_sampler=False,
        **determinism.switches(determinism.level_of(node)),
        log_every_n_steps=node.get("log_every_n_steps") or 50,  # of loggers that a user adds
        fast_dev_run=node.get("fast_dev_run") or False,
        profiler=profiler_of(node, folder),
        # also inside a scheduler's job medvit starts the processes itself
        plugins=[WholeCheckpoints(), LightningEnvironment()],
        **{"num_sanity_val_steps": 0, "enable_model_summary": False, **(node.get("extra") or {})},
        **({key: node[key] for key in _AS_LIGHTNING if key in node} | ({} if validate else {"limit_val_batches": 0})),
    )
    trainer = make(strategy=strategy_of(node))
    if trainer.world_size > 1 and node.get("strategy", "auto") == "auto":
        # a phase may leave weights without a gradient
        trainer = make(strategy="ddp_find_unused_parameters_true")
    # Lightning's handlers write, and talk to other processes, inside the handler; medvit's set a flag
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer


def made_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return what all parts of a resumed run have in common: settings, as a hash, and versions of what computes."""
    told = {key: value for key, value in settings.items() if key not in _OF_A_PART}
    told["trainer"] = {key: value for key, value in settings["trainer"].items() if key != "epochs"}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    return {"settings": digest, **{name: version(name) for name in _COMPUTE}}


@contextmanager
def training_loop(by_steps: bool = True) -> Iterator[None]:
    """Let signals end Lightning's loop, after a step if there are any; leave out hints of its that do not hold."""
    with warnings.catch_warnings():
        # the cache needs no workers; scores are of all devices' predictions already
        warnings.filterwarnings(
            "ignore", message=".*(does not have many workers|LeafSpec|sync_dist=True|You requested to overfit).*"
        )
        with lightning_stops(), looks_at_signals() if by_steps else nullcontext():
            yield


def strategy_of(trainer: Mapping[str, Any]) -> Any:
    """Return the word, or the strategy of a node, which must keep all weights on every device; raises ConfigError."""
    asked = trainer.get("strategy", "auto")
    if not isinstance(asked, dict):
        return asked
    made = build(asked)
    if not isinstance(made, DDPStrategy | SingleDeviceStrategy):
        kind = "shards the weights" if isinstance(made, Strategy) else "is no strategy of pytorch_lightning"
        raise ConfigError(
            f"trainer.strategy: {asked['_target_']} {kind}; expected a DDPStrategy or SingleDeviceStrategy"
        )
    return made


def profiler_of(trainer: Mapping[str, Any], folder: Path) -> Profiler | None:
    """Return the profiler, which writes into the run's folder; raises ConfigError."""
    asked = trainer.get("profiler")
    place = {"dirpath": str(folder), "filename": "profile"}
    if not isinstance(asked, dict):
        return None if asked is None else _PROFILERS[asked](**place)
    made = build(asked, **place)
    if not isinstance(made, Profiler):
        raise ConfigError(f"trainer.profiler: {asked['_target_']} is no profiler of pytorch_lightning")
    return made
