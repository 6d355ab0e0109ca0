"""One pretraining, from resolved settings to a run folder whose encoder any training can start from."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from medvit.augment.random_streams import stream_keys, uniform
from medvit.config import build
from medvit.data.datamodule import DataModule
from medvit.dataset import manifest, splits
from medvit.engine import checkpoint
from medvit.engine.build import (
    Problems,
    begin,
    build_preprocess,
    refuse_device,
    refuse_weights,
)
from medvit.engine.callbacks.overlay import Attach
from medvit.engine.callbacks.reconstructions import SaveReconstructions
from medvit.engine.callbacks.training import AverageWeights, Report
from medvit.engine.fit import by_step, data_module, leave, refuse_other_sources
from medvit.engine.guards.memory import out_of_memory_told
from medvit.engine.module import FineTuner
from medvit.engine.pipeline import refuse_wrong_steps
from medvit.engine.settings.precision import precision_of
from medvit.engine.trainer import make_trainer, training_loop
from medvit.optim.all_weights import AllWeights
from medvit.optim.plan import Plan
from medvit.pretraining.unlabelled import Unlabelled
from medvit.types import Batch

logger = logging.getLogger(__name__)
_MASKS = 0x4D41534B  # tells these draws from those of the augmentation
VALIDATION = 2**32 - 1  # the epoch of the masks of validation images, which are the same in every epoch


@dataclass(frozen=True)
class Parts:
    """What a pretraining is made of, built from its settings."""

    objective: Any
    preprocess: Any
    precision: Any


@dataclass(frozen=True)
class Pretrained:
    """What a pretraining gives: its data, the last epoch's numbers, and where its first weights came from."""

    data: DataModule
    scores: dict[str, float]
    weights: dict[str, str]


def prepare(settings: dict[str, Any]) -> Parts:
    """Seed every generator, check machine and split, and build the parts; opens no run.

    Raises:
        MedvitError: all that is wrong.
    """
    begin(settings)
    problems = Problems()
    problems.tried(lambda: refuse_device(settings["trainer"]))
    problems.tried(lambda: _refuse_split(settings["data"]))
    problems.tried(lambda: Plan.of(settings).refuse_unusable())
    backbone = problems.tried(lambda: build(settings["model"]))
    problems.tried(lambda: refuse_weights(settings, backbone) if backbone else None)
    objective = problems.tried(lambda: build(settings["objective"], backbone=backbone)) if backbone else None
    preprocess = problems.tried(lambda: build_preprocess(settings, objective))
    problems.tried(lambda: refuse_wrong_steps(preprocess) if preprocess else None)
    precision = problems.tried(lambda: precision_of(settings["trainer"], objective)) if objective else None
    problems.tell()
    return Parts(objective, preprocess, precision)


def _refuse_split(data: dict[str, Any]) -> None:
    table = manifest.read(Path(data["folder"]))
    splits.read(Path(data["folder"]), table).sides(data["fold"])


def masks(seed: int, epoch: int, names: Sequence[str], count: int) -> Tensor:
    """Return `count` uniform numbers in [0, 1) for each image [n count], from (seed, epoch, name) alone.

    So an image's mask depends neither on its batch nor on the number of devices.
    """
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names]
    place = np.frombuffer(b"".join(digests), np.int64)
    return torch.from_numpy(uniform(stream_keys(seed ^ _MASKS, epoch, place), count).astype(np.float32))


class Pretrainer(FineTuner):
    """The same training, of an objective that takes images and random numbers and gives a loss per image."""

    def __init__(self, objective: nn.Module, plan: Plan, scale: float, shift: float, seed: int) -> None:
        super().__init__(objective, Unlabelled(), AllWeights(), plan, scale, shift, seed)

    def outputs(self, batch: Batch) -> Tensor:
        """Return the loss of each unit [B 1]; of a bag, the mean over its images."""
        names, image = list(batch.uid), batch.image
        if batch.bag is not None:
            here = batch.bag.mask
            image = image[here]
            names = [f"{uid}/{place}" for uid, row in zip(names, here.tolist(), strict=True)
                     for place, there in enumerate(row) if there]  # fmt: skip
        losses: Tensor = self.network(image.float() * self.scale + self.shift, self.noise(names)).float()
        if batch.bag is None:
            return losses
        spread = losses.new_zeros(here.shape).masked_scatter(here, losses)
        return spread.sum(1, keepdim=True) / here.sum(1, keepdim=True)

    def noise(self, names: Sequence[str]) -> Tensor:
        """Return the numbers that decide what is masked of each image."""
        epoch = self.current_epoch if self.training else VALIDATION
        return masks(self.seed, epoch, names, int(np.prod(self.network.backbone.grid))).to(self.device)  # type: ignore[union-attr,arg-type]


def pretrain(
    settings: dict[str, Any],
    folder: Path,
    report: Report,
    resume: Path | None = None,
    attach: Attach | None = None,
    parts: Parts | None = None,
    steps: Report | None = None,
) -> Pretrained:
    """Pretrain an encoder as `settings` say, and leave in `folder` what a training takes on; arguments as of `fit`.

    The weights kept are those of the last epoch (the averaged ones, where there are any): the loss of a pretext task
    does not say which epoch serves best.

    Raises:
        MedvitError: settings or data that cannot be used, or a loss that is not finite.
    """
    parts = parts or prepare(settings)
    weights = dict(getattr(parts.objective.backbone, "provenance", {}))
    include = settings["include"]
    data = data_module({**settings, "data": {**settings["data"], "unit": None}}, parts.preprocess, Unlabelled(),
                       allow_test="test" in include, learn=include)  # fmt: skip
    data.setup("fit")
    module = Pretrainer(
        parts.objective, Plan.of(settings), parts.preprocess.scale, parts.preprocess.shift, settings["seed"]
    )
    module.guard.skips = settings["trainer"].get("skip_non_finite", 0)
    if resume:
        refuse_other_sources(folder, data.hashes, weights)
    leave(folder, settings, parts.objective, parts.preprocess, data, {checkpoint.WEIGHTS: weights})
    shown = SaveReconstructions(data, settings["trainer"]["overlay_every"], folder, attach)
    numbers: dict[str, float] = {}

    def keep(found: dict[str, float], epoch: int) -> None:
        numbers.update(found)
        report(found, epoch)

    validate = data.has("val")
    trainer = make_trainer(settings, parts.precision, folder, [shown, *by_step(settings, steps)], keep, validate)
    with training_loop(), out_of_memory_told(settings["trainer"]):
        trainer.fit(module, datamodule=data, ckpt_path=str(resume) if resume else None)
    _keep_last(trainer, parts.objective, folder)
    return Pretrained(data, numbers, weights)


def _keep_last(trainer: pl.Trainer, objective: nn.Module, folder: Path) -> None:
    """Write the weights as they are now, where there are averaged ones those."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, AverageWeights) and callback.ema is not None:
            callback.ema.swap(objective)
    if trainer.is_global_zero:
        checkpoint.save_weights(objective, folder / checkpoint.BEST)
    trainer.strategy.barrier()
