"""Lightning's finders of batch size and learning rate, and `trainer.auto_batch`, on copies before a training begins.

What they find becomes a setting of the run, as if it had been given: the training that follows, and a resumed one, is
that of a run that was told these numbers, for no trial step leaves a trace in weights, averages or draws.
"""

from __future__ import annotations

import copy
import inspect
import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import BatchSizeFinder
from pytorch_lightning.utilities.memory import garbage_collection_cuda, is_oom_error
from pytorch_lightning.utilities.seed import isolate_rng
from torch import nn

from medvit.config import build
from medvit.data.datamodule import DataModule
from medvit.engine.build import Parts
from medvit.engine.callbacks.training import AverageWeights
from medvit.engine.fit import data_module
from medvit.engine.guards.memory import advice, smaller
from medvit.engine.module import FineTuner
from medvit.engine.settings.part_problems import FINDERS
from medvit.engine.trainer import training_loop
from medvit.errors import ConfigError, OutOfMemory, RunError
from medvit.optim.plan import Plan
from medvit.optim.strategy import Probe

logger = logging.getLogger(__name__)


def find(settings: dict[str, Any], parts: Parts) -> None:
    """Set `trainer.batch_size` and `optim.plan.lr` of `settings` to what the finders among the callbacks find.

    With `trainer.auto_batch` the batch is halved until a step fits, and `trainer.accumulate` grows with it.

    Raises:
        ConfigError: features are cached, so that no image goes through the network.
        RunError: nothing fits into the memory, or the losses show no rate.
    """
    nodes = {node["_target_"].rpartition(".")[2]: node for node in (settings.get("callbacks") or {}).values() if node}
    nodes = {kind: nodes[kind] for kind in FINDERS if kind in nodes}  # the rate is found with the batches of the size
    auto = settings["trainer"].get("auto_batch", False)
    if not (nodes or auto) or settings["trainer"].get("fast_dev_run"):
        return
    if isinstance(parts.strategy, Probe) and parts.strategy.cache_gib > 0:
        asked = " and ".join([*nodes, *["trainer.auto_batch"] * auto])
        raise ConfigError(
            f"{asked}: the backbone is frozen and its features are cached, where batches cost no memory to speak of "
            "and a rate is quickly tried; leave it out, or choose another optim"
        )
    data = data_module(settings, parts.preprocess, copy.deepcopy(parts.task))
    data.setup("fit")
    data.task.fit(data.units("train").frame)  # type: ignore[attr-defined]
    with isolate_rng(), training_loop(), tempfile.TemporaryDirectory() as folder:
        trial = _Trials(settings, parts, data, Path(folder))
        if auto:
            _halve_until_it_fits(settings["trainer"], trial.fits, parts.network)
        if "BatchSizeFinder" in nodes:
            settings["trainer"]["batch_size"] = _batch_size(
                nodes["BatchSizeFinder"], trial.fits, len(data.units("train"))
            )
            logger.info("trainer.batch_size=%d, found by BatchSizeFinder", settings["trainer"]["batch_size"])
        if "LearningRateFinder" in nodes:
            settings["optim"]["plan"]["lr"] = trial.rate(nodes["LearningRateFinder"])
            logger.info("optim.plan.lr=%g, found by LearningRateFinder", settings["optim"]["plan"]["lr"])


def _halve_until_it_fits(trainer: dict[str, Any], fits: Callable[[int, int], bool], network: nn.Module) -> None:
    """Set `batch_size` and `accumulate` to the largest batch that fits and makes the same steps."""
    asked = trainer["batch_size"]
    while not fits(trainer["batch_size"], 2):  # the second step has the state of the optimiser beside it
        if (less := smaller(trainer["batch_size"], trainer["accumulate"])) is None:
            raise OutOfMemory(f"trainer.auto_batch: {advice(1, 1)}")
        trainer["batch_size"], trainer["accumulate"] = less
    if trainer["batch_size"] == asked:
        return
    told = f"trainer.batch_size={trainer['batch_size']} trainer.accumulate={trainer['accumulate']}"
    logger.info("%s: %d images do not fit into the memory (trainer.auto_batch)", told, asked)
    if any(isinstance(each, nn.modules.batchnorm._BatchNorm) for each in network.modules()):
        logger.warning("its batch normalisation takes statistics of %d images now", trainer["batch_size"])


def _batch_size(node: Mapping[str, Any], fits: Callable[[int, int], bool], most: int) -> int:
    """Return the largest size that was tried and fits, up to `most`, by the arguments of a BatchSizeFinder.

    Lightning's own search returns a size it never tried where `max_val` or the trials end it.
    """
    given = {key: value for key, value in node.items() if key != "_target_"}
    how = inspect.signature(BatchSizeFinder).bind(**given)
    how.apply_defaults()
    mode, steps, size, trials, _, margin, limit = how.arguments.values()
    most, best, fails = min(most, limit), 0, 0
    size = min(size, most)
    for _ in range(trials):
        if fits(size, steps):
            best = size
        else:
            fails = size
        following = (best + fails) // 2 if fails else min(2 * best, most)
        if following == best or (best and fails and mode == "power"):
            break
        size = following
    if not best:
        raise RunError(f"BatchSizeFinder: {fails} images of a step do not fit into the memory; take a smaller model")
    return max(1, int(best * (1 - margin))) if mode == "binsearch" and fails else best


class _Trials:
    """Trainings of a few steps, each on a fresh copy of the network and on one device."""

    def __init__(self, settings: Mapping[str, Any], parts: Parts, data: DataModule, folder: Path) -> None:
        self.settings, self.parts, self.data, self.folder = settings, parts, data, folder

    def fits(self, size: int, steps: int) -> bool:
        """Say whether `steps` steps with `size` images fit into the memory."""
        self.data.loading = replace(self.data.loading, batch_size=size)
        garbage_collection_cuda()
        try:
            self._trainer(steps).fit(self._module(FineTuner), datamodule=self.data)
        except RuntimeError as error:
            if not is_oom_error(error):
                raise
            logger.info("BatchSizeFinder: %d images do not fit", size)
            return False
        return True

    def rate(self, node: Mapping[str, Any]) -> float:
        """Return the rate of the plan at which the loss falls fastest, to three digits."""
        self.data.loading = replace(self.data.loading, batch_size=self.settings["trainer"]["batch_size"])
        finder = build(dict(node))
        finder._early_exit = True  # as Lightning's Tuner has it
        self._trainer(node.get("num_training_steps", 100), finder).fit(self._module(_RateTrial), datamodule=self.data)
        found = None if finder.optimal_lr is None else finder.optimal_lr.suggestion()
        if found is None:
            raise RunError("LearningRateFinder: too few finite losses to tell a rate; give optim.plan.lr=...")
        return float(f"{found:.3g}")

    def _module(self, kind: type[FineTuner]) -> FineTuner:
        network, strategy = copy.deepcopy(self.parts.network), self.parts.strategy
        strategy.prepare(network)
        pre, plan = self.parts.preprocess, Plan.of(self.settings)
        return kind(network, self.data.task, strategy, plan, pre.scale, pre.shift, self.settings["seed"])

    def _trainer(self, steps: int, *callbacks: pl.Callback) -> pl.Trainer:
        node, plan = self.settings["trainer"], Plan.of(self.settings)
        return pl.Trainer(
            max_steps=steps,
            accelerator=node["accelerator"],
            devices=1 if node["devices"] == "auto" or isinstance(node["devices"], int) else node["devices"][:1],
            precision=self.parts.precision,
            accumulate_grad_batches=node["accumulate"],
            gradient_clip_val=plan.clip or None,
            callbacks=[*([AverageWeights(plan.ema)] if plan.ema else []), *callbacks],
            default_root_dir=self.folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
        )


class _RateTrial(FineTuner):
    """A training in which every group keeps its multiple of a rate that Lightning sets for all."""

    lr = 0.0  # where Lightning puts what it found

    def configure_optimizers(self) -> Any:
        """Keep the multiples of the groups, and make optimiser and schedule as a training does."""
        made = super().configure_optimizers()
        groups = made["optimizer"].param_groups
        self._multiples = [group.get("initial_lr", group["lr"]) / self.plan.lr for group in groups]
        return made

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Step with the groups' multiples of the rate that is set."""
        groups = optimizer.param_groups
        rates = [group["lr"] for group in groups]
        for group, multiple in zip(groups, self._multiples, strict=True):
            group["lr"] = group["lr"] * multiple
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
