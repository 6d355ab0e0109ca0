"""One fit, from resolved settings to a run folder that can be evaluated, exported and resumed."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl

from medvit.config import build
from medvit.data import contact_sheet
from medvit.data.datamodule import DataModule
from medvit.data.loading import loading_of
from medvit.data.sampler import Sampler
from medvit.dataset.leakage import seen_patients
from medvit.dataset.leakage.audit import audit_before_training, seen_in_pretraining
from medvit.engine import cached_features, checkpoint, pipeline
from medvit.engine.build import ARCHITECTURE, Parts, describe, prepare, seen_before
from medvit.engine.cached_features import CachedFeatures
from medvit.engine.callbacks.overlay import Attach, SaveOverlays
from medvit.engine.callbacks.step_curves import StepCurves
from medvit.engine.callbacks.training import KeepBest, Report, ReportEpoch
from medvit.engine.guards import determinism, memory
from medvit.engine.module import FineTuner
from medvit.engine.predict import predict, table
from medvit.engine.settings.precision import on_gpu
from medvit.engine.trainer import make_trainer, training_loop
from medvit.errors import RunError
from medvit.model.network import Network
from medvit.optim.plan import Plan
from medvit.optim.strategy import LogisticProbe

logger = logging.getLogger(__name__)
_EVERY_N_STEPS = 10  # of runs begun before it was a setting


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
    steps: Report | None = None,
) -> Fitted:
    """Fit a network as `settings` say, and leave in `folder` all that rebuilds it. Never reads the test side.

    Args:
        settings: the resolved config of conf/train.yaml.
        folder: the run's own folder.
        report: called once per epoch with its numbers; with those of a logistic regression beside a probe at the end.
        resume: the checkpoint of an earlier part of this run to go on from.
        attach: takes the pictures made on the way (file, name), such as the overlays of `trainer.overlay_every`.
        parts: what `prepare` gave for these settings just now; made here where it is not given.
        steps: called with the numbers of a step, every `trainer.log_every_n_steps` of them; None: never.

    Raises:
        MedvitError: settings or data that cannot be used, a loss that is not finite, weights that do not fit.
    """
    parts = parts or prepare(settings)
    task, network, preprocess, strategy = parts.task, parts.network, parts.preprocess, parts.strategy
    weights = dict(getattr(network.backbone, "provenance", {}))
    data = data_module(settings, preprocess, task)
    pipeline.tell(preprocess, data.augment, data.folder, settings["data"]["fold"])
    _ready(settings, data, task, weights)
    settings["optim"]["strategy"] = strategy.to_json()
    strategy.prepare(network)
    plan = Plan.of(settings)
    logger.info("determinism: %s", determinism.described(settings["trainer"]))
    logger.info("%s", strategy.describe(network, plan.lr, plan.weight_decay))
    module = FineTuner(network, task, strategy, plan, preprocess.scale, preprocess.shift, settings["seed"])
    module.curves, module.guard.skips = parts.curves, settings["trainer"].get("skip_non_finite", 0)
    if resume:
        refuse_other_sources(folder, data.hashes, weights)
    order = pipeline.described(preprocess, data.augment)
    more = {checkpoint.TASK: task.to_json(), checkpoint.WEIGHTS: weights, checkpoint.PIPELINE: order}
    leave(folder, settings, network, preprocess, data, more)
    gpu = on_gpu(settings["trainer"]["accelerator"])
    features = cached_features.cached_features(
        strategy, network, data, describe(settings, network), "cuda" if gpu else "cpu"
    )
    keep = _keep_best(folder, settings, frozen=features is not None)
    drawn = SaveOverlays(data.units("val"), settings["trainer"]["overlay_every"], folder, attach)
    trainer = make_trainer(settings, parts.precision, folder, [keep, drawn, *by_step(settings, steps)], report)
    with training_loop(by_steps=not isinstance(strategy, LogisticProbe)):
        _run(trainer, module, data, features, resume, settings["trainer"])
    if keep.best is None:
        raise RunError(f"no epoch gave {task.monitor}: the validation side needs both outcomes; enlarge it")
    if features is not None and trainer.is_global_zero:
        checkpoint.complete(network, keep.path, folder / checkpoint.BEST)
        if not isinstance(strategy, LogisticProbe) and (scores := features.beside(task)):
            report(scores, keep.epoch)
    trainer.strategy.barrier()
    best, validation = _predict_again(trainer, folder, module, data, features)
    return Fitted(best, data, task, preprocess, validation, keep.best, keep.epoch + 1, keep.scores, weights)


def _keep_best(folder: Path, settings: dict[str, Any], *, frozen: bool) -> KeepBest:
    """Return what keeps the best weights: of a frozen backbone, whose features are cached, the head alone."""
    patience = settings["trainer"].get("patience")
    if frozen:
        return KeepBest(folder / checkpoint.BEST_HEAD, "backbone.", patience)
    return KeepBest(folder / checkpoint.BEST, None, patience)


def by_step(settings: dict[str, Any], report: Report | None) -> list[StepCurves]:
    """Return the callback that gives curves by step; none where nobody takes them, or the settings ask for none."""
    every = settings["trainer"].get("log_every_n_steps", _EVERY_N_STEPS)
    return [StepCurves(report, every)] if report is not None and every else []


def _ready(settings: dict[str, Any], data: DataModule, task: Any, weights: dict[str, str]) -> None:
    """Bring the data up to date, refuse leaks between the sides, and let the task learn its class counts."""
    fold, allow = settings["data"]["fold"], settings["data"].get("allow_leaks", False)
    before = seen_patients.audit(data.folder, fold, seen_before(settings), allow)
    data.setup("fit")
    if data.cache is not None:
        told = audit_before_training(data.folder, fold, data.cache, allow)
        data.hashes["leakage"] = seen_patients.joined(told, before)
        if seen := seen_in_pretraining(settings["data"]["name"], weights.get("pretrained_on", "")):
            logger.warning("leakage audit: %s", seen)
            data.hashes["leakage"] += f"; {seen}"
    rows = data.units("train").frame
    task.fit(rows)
    task.log_count(rows, "train")
    task.log_count(data.units("val").frame, "val")


def _run(
    trainer: pl.Trainer,
    module: FineTuner,
    data: DataModule,
    features: CachedFeatures | None,
    resume: Path | None,
    asked: dict[str, Any],
) -> None:
    """Train on images, or on the features of a frozen backbone, or solve for the head; `asked`: conf/trainer."""
    start = str(resume) if resume else None
    if features is None:
        need = memory.need_of(module.network, module.plan, data.preprocess.shape, trainer.precision)
        memory.tell(need, asked, memory.free_bytes(trainer.strategy.root_device))
        with memory.out_of_memory_told(asked):
            trainer.fit(module, datamodule=data, ckpt_path=start)
        return
    module.encode = features.features.tokens
    train, val = (features.loader(side, trainer.global_rank, trainer.world_size) for side in ("train", "val"))
    if isinstance(module.strategy, LogisticProbe):
        features.solve(module.network, module.task)
        trainer.validate(module, val, verbose=False)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ReportEpoch):
                callback.on_train_epoch_end(trainer, module)
    else:
        trainer.fit(module, train, val, ckpt_path=start)


def _predict_again(
    trainer: pl.Trainer, folder: Path, module: FineTuner, data: DataModule, features: CachedFeatures | None
) -> tuple[Network, pd.DataFrame]:
    """Return the best network as the folder rebuilds it, and its validation predictions, kept in the folder too.

    Tokens are cached in fp16: what calibration and thresholds are fitted on comes from the images, as in the bundle.
    """
    best = checkpoint.load_run(folder).network
    device = "cuda" if trainer.strategy.root_device.type == "cuda" else "cpu"
    exact = features is not None and features.features.summary
    loader, encode = (features.loader("val"), module.encode) if features and exact else (data.val_dataloader(), None)
    found = predict(best, loader, module.scale, module.shift, device, encode)
    validation = table(found, module.task, data.units("val").with_digests(), "val")
    if trainer.is_global_zero:
        validation.to_parquet(folder / "validation.parquet", index=False)
    return best, validation


def data_module(settings: dict[str, Any], preprocess: Any, task: Any, **more: Any) -> DataModule:
    """Return the loaders of the data set folder, as a training uses them; `more` are further fields of `Loading`."""
    node = settings["data"]
    return DataModule(
        Path(node["folder"]),
        preprocess,
        task,
        augment=build(settings["augment"]) if settings["augment"] else None,
        sampler=Sampler(node["sampler"], settings["trainer"].get("drop_last", False)),
        **loading_of(settings),
        **more,
    )


def refuse_other_sources(folder: Path, now: dict[str, str], weights: dict[str, str]) -> None:
    """Refuse to go on with other images, split, preprocessing or first weights than the run began with."""
    before, begun = (
        json.loads((folder / name).read_text(encoding="utf-8")) for name in (checkpoint.HASHES, checkpoint.WEIGHTS)
    )
    changed = sorted(key for key in ("manifest", "split", "preprocess") if before.get(key) != now.get(key))
    changed += ["model.weights"] * (begun.get("sha256") != weights.get("sha256"))
    if changed:
        raise RunError(f"{', '.join(changed)} changed since this run began: restore what it was, or start a new run")


def leave(
    folder: Path, settings: dict[str, Any], network: Any, preprocess: Any, data: DataModule, more: dict[str, Any]
) -> None:
    """Write what rebuilds the network and says where it comes from and whom it has seen, and a sheet of changed images.

    `more`: further files as JSON, by name.
    """
    parts = {
        checkpoint.SETTINGS: settings,
        checkpoint.PREPROCESS: preprocess.to_json(),
        ARCHITECTURE: describe(settings, network),
        checkpoint.HASHES: data.hashes,
        **more,
    }
    for name, content in parts.items():
        checkpoint.write_json(folder / name, content)
    seen_patients.write(folder, data.units("train").frame["patient"], seen_before(settings))
    if data.augment is not None:
        contact_sheet.write(data.units("train"), data.augment, folder / "augmentation.png")
