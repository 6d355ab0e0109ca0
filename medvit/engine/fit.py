"""One fit, from resolved settings to a run folder that can be evaluated, exported and resumed."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.callbacks import ModelCheckpoint

from medvit.config import build
from medvit.data import contact_sheet
from medvit.data.datamodule import DataModule
from medvit.data.sampler import Sampler
from medvit.dataset.leakage import audit_before_training
from medvit.engine import cached_features, checkpoint
from medvit.engine.build import ARCHITECTURE, Parts, describe, prepare
from medvit.engine.cached_features import CachedFeatures
from medvit.engine.callbacks import AverageWeights, EpochsFromOne, KeepBest, ReportEpoch
from medvit.engine.module import FineTuner, Plan
from medvit.engine.overlay import Attach, SaveOverlays
from medvit.engine.precision import on_gpu
from medvit.engine.predict import predict, table
from medvit.engine.stop import lightning_stops
from medvit.errors import RunError
from medvit.model.network import Network
from medvit.optim.strategy import LogisticProbe

logger = logging.getLogger(__name__)
Report = Callable[[dict[str, float], int], None]


@dataclass(frozen=True)
class Fitted:
    """What a fit gives: the best network, its validation predictions, its scores and the data it saw.

    `best_epoch` counts from 1 and `scores` are its own.
    `weights` says where the backbone's first weights came from and under which licence; empty from scratch.
    """

    network: Network
    data: DataModule
    task: Any
    preprocess: Any
    validation: pd.DataFrame
    best: float
    best_epoch: int
    scores: dict[str, float]
    weights: dict[str, str]


def fit(
    settings: dict[str, Any],
    folder: Path,
    report: Report,
    resume: Path | None = None,
    attach: Attach | None = None,
    parts: Parts | None = None,
) -> Fitted:
    """Fit a network as `settings` say, and leave in `folder` all that rebuilds it. Never reads the test side.

    Args:
        settings: the resolved config of conf/train.yaml.
        folder: the run's own folder.
        report: called once per epoch with its numbers; with those of a logistic regression beside a probe at the end.
        resume: `last.ckpt` of an earlier part of this run.
        attach: takes the pictures made on the way (file, name), such as the overlays of `trainer.overlay_every`.
        parts: what `prepare` gave for these settings just now; made here where it is not given.

    Raises:
        MedvitError: settings or data that cannot be used, a loss that is not finite, weights that do not fit.
    """
    parts = parts or prepare(settings)
    task, network, preprocess, strategy = parts.task, parts.network, parts.preprocess, parts.strategy
    weights = dict(getattr(network.backbone, "provenance", {}))
    data = data_module(settings, preprocess, task)
    cached_features.refuse_augmentation(strategy, data)
    _ready(settings, data, task)
    studies = data.units("train").frame["study"].nunique()
    strategy = strategy.choose(studies, volumes=preprocess.kind == "volume", augmented=data.augment is not None)
    strategy.refuse_epochs(settings["trainer"]["epochs"])
    settings["optim"]["strategy"] = strategy.to_json()
    strategy.prepare(network)
    plan = Plan(**settings["optim"]["plan"])
    logger.info("%s", strategy.describe(network, plan.lr, plan.weight_decay))
    module = FineTuner(network, task, strategy, plan, preprocess.scale, preprocess.shift, settings["seed"])
    if resume:
        _refuse_other_sources(folder, data.hashes, weights)
    _leave(folder, settings, module, preprocess, data, weights)
    gpu = on_gpu(settings["trainer"]["accelerator"])
    memory = cached_features.cached_features(
        strategy, network, data, describe(settings, network), "cuda" if gpu else "cpu"
    )
    frozen = None if memory is None else "backbone."
    keep = KeepBest(folder / (checkpoint.BEST if memory is None else checkpoint.BEST_HEAD), frozen)
    drawn = SaveOverlays(data.units("val"), settings["trainer"]["overlay_every"], folder, attach)
    trainer = _trainer(settings["trainer"], parts.precision, plan, folder, [keep, drawn], report)
    with warnings.catch_warnings():
        # the cache needs no workers; scores are of all devices' predictions already
        warnings.filterwarnings("ignore", message=".*(does not have many workers|LeafSpec|sync_dist=True).*")
        with lightning_stops():
            _run(trainer, module, data, memory, resume)
    if keep.best is None:
        raise RunError(f"no epoch gave {task.monitor}: the validation side needs both outcomes; enlarge it")
    if memory is not None and trainer.is_global_zero:
        checkpoint.complete(network, keep.path, folder / checkpoint.BEST)
        if not isinstance(strategy, LogisticProbe) and (scores := memory.beside(task)):
            report(scores, keep.epoch)
    trainer.strategy.barrier()
    best, validation = _predict_again(trainer, folder, module, data, memory)
    return Fitted(best, data, task, preprocess, validation, keep.best, keep.epoch + 1, keep.scores, weights)


def _ready(settings: dict[str, Any], data: DataModule, task: Any) -> None:
    """Bring the data up to date, refuse leaks between the sides, and let the task learn its class counts."""
    data.setup("fit")
    if data.cache is not None:
        allow = settings["data"].get("allow_leaks", False)
        data.hashes["leakage"] = audit_before_training(data.folder, settings["data"]["fold"], data.cache, allow)
    rows = data.units("train").frame
    task.fit(rows)
    task.log_count(rows, "train")
    task.log_count(data.units("val").frame, "val")


def _run(
    trainer: pl.Trainer, module: FineTuner, data: DataModule, memory: CachedFeatures | None, resume: Path | None
) -> None:
    """Train on images, or on the features of a frozen backbone, or solve for the head."""
    if memory is None:
        trainer.fit(module, datamodule=data, ckpt_path=str(resume) if resume else None)
        return
    module.encode = memory.features.tokens
    train, val = (memory.loader(side, trainer.global_rank, trainer.world_size) for side in ("train", "val"))
    if isinstance(module.strategy, LogisticProbe):
        memory.solve(module.network, module.task)
        trainer.validate(module, val, verbose=False)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ReportEpoch):
                callback.on_train_epoch_end(trainer, module)
    else:
        trainer.fit(module, train, val, ckpt_path=str(resume) if resume else None)


def _predict_again(
    trainer: pl.Trainer, folder: Path, module: FineTuner, data: DataModule, memory: CachedFeatures | None
) -> tuple[Network, pd.DataFrame]:
    """Return the best network as the folder rebuilds it, and its validation predictions, kept in the folder too."""
    best = checkpoint.load_run(folder).network
    device = "cuda" if trainer.strategy.root_device.type == "cuda" else "cpu"
    loader, encode = (data.val_dataloader(), None) if memory is None else (memory.loader("val"), module.encode)
    found = predict(best, loader, module.scale, module.shift, device, encode)
    validation = table(found, module.task, data.units("val").with_digests(), "val")
    if trainer.is_global_zero:
        validation.to_parquet(folder / "validation.parquet", index=False)
    return best, validation


def data_module(settings: dict[str, Any], preprocess: Any, task: Any, allow_test: bool = False) -> DataModule:
    """Return the loaders of the data set folder, as training and evaluation both use them."""
    node, trainer = settings["data"], settings["trainer"]
    return DataModule(
        Path(node["folder"]),
        preprocess,
        task,
        augment=build(settings["augment"]) if settings["augment"] else None,
        sampler=Sampler(node["sampler"], trainer.get("drop_last", False)),
        bag=node["unit"],
        workers=trainer["workers"],
        prefetch=trainer.get("prefetch", "auto"),
        pin=trainer.get("pin", "auto"),
        on_bad=node["on_bad"],
        audit_share=node["audit_share"],
        batch_size=trainer["batch_size"],
        seed=settings["seed"],
        fold=node["fold"],
        allow_test=allow_test,
    )


def _refuse_other_sources(folder: Path, now: dict[str, str], weights: dict[str, str]) -> None:
    """Refuse to go on with other images, split, preprocessing or first weights than the run began with."""
    before, begun = (
        json.loads((folder / name).read_text(encoding="utf-8")) for name in (checkpoint.HASHES, checkpoint.WEIGHTS)
    )
    changed = sorted(key for key in ("manifest", "split", "preprocess") if before.get(key) != now.get(key))
    changed += ["model.weights"] * (begun.get("sha256") != weights.get("sha256"))
    if changed:
        raise RunError(f"{', '.join(changed)} changed since this run began: restore what it was, or start a new run")


def _leave(
    folder: Path,
    settings: dict[str, Any],
    module: FineTuner,
    preprocess: Any,
    data: DataModule,
    weights: dict[str, str],
) -> None:
    """Write what rebuilds the network and says where it comes from, and a sheet of augmented films."""
    parts = {
        checkpoint.SETTINGS: settings,
        checkpoint.PREPROCESS: preprocess.to_json(),
        checkpoint.TASK: module.task.to_json(),
        ARCHITECTURE: describe(settings, module.network),
        checkpoint.HASHES: data.hashes,
        checkpoint.WEIGHTS: weights,
    }
    for name, content in parts.items():
        checkpoint.write_json(folder / name, content)
    if data.augment is not None:
        contact_sheet.write(data.units("train"), data.augment, folder / "augmentation.png")


def _trainer(
    settings: dict[str, Any], precision: Any, plan: Plan, folder: Path, first: list[pl.Callback], report: Report
) -> pl.Trainer:
    averaged = [AverageWeights(plan.ema)] if plan.ema else []
    resumable = ModelCheckpoint(folder / "checkpoints", filename="last", save_last=False, enable_version_counter=False)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)  # tips and device lists
    bar = [EpochsFromOne(leave=False)] if settings["progress_bar"] else []
    make = partial(
        pl.Trainer,
        max_epochs=settings["epochs"],
        accelerator=settings["accelerator"],
        devices=settings["devices"],
        precision=precision,
        accumulate_grad_batches=settings["accumulate"],
        gradient_clip_val=plan.clip or None,
        callbacks=[*first, *averaged, ReportEpoch(report), resumable, *bar],
        default_root_dir=folder,
        logger=False,
        num_sanity_val_steps=0,
        enable_progress_bar=bool(bar),
        enable_model_summary=False,
        use_distributed_sampler=False,
        deterministic=settings["deterministic"],
        # also inside a scheduler's job medvit starts the processes itself
        plugins=[checkpoint.WholeCheckpoints(), LightningEnvironment()],
    )
    trainer = make()
    if trainer.world_size > 1:  # a phase may leave weights without a gradient
        trainer = make(strategy="ddp_find_unused_parameters_true")
    return trainer
