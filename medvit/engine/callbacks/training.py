"""Lightning callbacks: averaged weights (EMA), best checkpoint, metrics per epoch to the tracker."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from medvit.engine.callbacks.epoch_logger import EpochLogger
from medvit.engine.checkpoint import weights_of, write_weights
from medvit.engine.module import FineTuner
from medvit.errors import RunError
from medvit.optim.ema import EMA

logger = logging.getLogger(__name__)
Report = Callable[[dict[str, float], int], None]
_KNOWN = ("train/", "val/", "test/", "time/", "system/", "external/")  # what tracking takes


class KeepBest(pl.Callback):
    """Write the weights of the best validation epoch, the averaged ones where there are any.

    Must stand before `AverageWeights` in the list, which puts the raw weights back when validation ends. `without` as
    in `save_weights`: a backbone that never changes is not written again and again. `patience`: training ends after so
    many epochs without a better one. Where the disk is full, the weights wait in memory for room.
    """

    def __init__(self, path: Path, without: str | None = None, patience: int | None = None) -> None:
        self.path, self.without, self.patience, self.epoch = path, without, patience, -1
        self.best: float | None = None
        self.scores: dict[str, float] = {}  # of the best epoch
        self._waiting: dict[str, Tensor] = {}  # weights of the best epoch that could not be written yet
        self._written: dict[str, Any] = {}  # the state that belongs to the file

    def on_train_start(self, trainer: pl.Trainer, pl_module: FineTuner) -> None:  # type: ignore[override]  # noqa: ARG002
        """End a resumed run that had no patience left."""
        self._end_where_due(trainer, trainer.current_epoch)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: FineTuner) -> None:  # type: ignore[override]
        """Compare this epoch with the best so far; raises RunError where the task's monitor has no value."""
        if trainer.sanity_checking:
            return
        monitor, mode = self._watched(trainer, pl_module.task)
        value = float(trainer.callback_metrics[monitor])
        sign = 1 if mode == "max" else -1
        if self.best is None or sign * value > sign * self.best:
            self.best, self.epoch = value, trainer.current_epoch
            self.scores = {key: float(score) for key, score in trainer.callback_metrics.items() if key[:4] == "val/"}
            self._waiting = weights_of(pl_module.network, self.without) if trainer.is_global_zero else {}
        self._write(last=trainer.state.fn != TrainerFn.FITTING)
        self._end_where_due(trainer, trainer.current_epoch + 1)

    def on_train_end(self, trainer: pl.Trainer, pl_module: FineTuner) -> None:  # type: ignore[override]  # noqa: ARG002
        """Write what waited for room on the disk; raises RunError where there is still none."""
        self._write(last=True)

    def _end_where_due(self, trainer: pl.Trainer, epochs: int) -> None:
        if self.patience is not None and self.best is not None and epochs - self.epoch - 1 >= self.patience:
            logger.info("no better epoch for %d: training ends (trainer.patience)", self.patience)
            trainer.should_stop = True

    def _write(self, last: bool = False) -> None:
        if self._waiting:
            try:
                write_weights(self._waiting, self.path)
            except OSError as error:
                said = f"the weights of epoch {self.epoch + 1}, the best so far, cannot be written ({error})"
                if last:
                    raise RunError(f"{said}: make room on the disk, and resume the run") from error
                logger.warning("%s: they wait in memory, and training goes on; free some space", said)
                return
        self._waiting = {}
        self._written = {"best": self.best, "epoch": self.epoch, "scores": self.scores}

    def _watched(self, trainer: pl.Trainer, task: Any) -> tuple[str, str]:
        """Return the task's monitor; the loss where a few batches alone are validated and do not give it."""
        if task.monitor in trainer.callback_metrics:
            return task.monitor, task.mode
        limit = trainer.limit_val_batches  # 1 is one batch, 1.0 all of them
        if isinstance(limit, float) and limit == 1.0:
            raise RunError(
                f"the first epoch gave no {task.monitor}: the validation side needs both outcomes; enlarge it"
            )
        if self.best is None:
            logger.warning(
                "the validation batches asked for (limit_val_batches, overfit_batches or fast_dev_run) give no %s: "
                "the epoch of least val/loss is kept",
                task.monitor,
            )
        return "val/loss", "min"

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know: of the file, should later weights still wait for room."""
        return self._written or {"best": None, "epoch": -1, "scores": {}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what an earlier part of the run knew."""
        self.best, self.epoch = state_dict["best"], state_dict["epoch"]
        self.scores = state_dict.get("scores", {})  # 0.1 kept none
        self._written = {"best": self.best, "epoch": self.epoch, "scores": self.scores}


class AverageWeights(pl.Callback):
    """Follow the weights by an exponential moving average and validate with it."""

    def __init__(self, decay: float) -> None:
        self.decay, self.step = decay, 0
        self.ema: EMA | None = None
        self._restored: dict[str, Any] | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: FineTuner) -> None:  # type: ignore[override]  # noqa: ARG002
        """Begin the average at the first weights, or where the resumed run left it."""
        self.ema = EMA(pl_module.network, self.decay)
        if self._restored is not None:
            self.ema.load_state_dict(self._restored)

    def on_train_start(self, trainer: pl.Trainer, pl_module: FineTuner) -> None:  # type: ignore[override]  # noqa: ARG002
        """Count from here: a resumed run knows its steps only now."""
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: FineTuner, *_: Any) -> None:  # type: ignore[override]
        """Move the average one step, where the optimiser made one: batches may only add to a gradient."""
        if self.ema is not None and trainer.global_step > self.step:
            self.ema.update(pl_module.network)
            self.step = trainer.global_step

    def on_validation_start(self, trainer: pl.Trainer, pl_module: FineTuner) -> None:  # type: ignore[override]
        """Put the averaged weights in."""
        if self.ema is not None and not trainer.sanity_checking:
            self.ema.swap(pl_module.network)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: FineTuner) -> None:  # type: ignore[override]
        """Put the raw weights back."""
        if self.ema is not None and not trainer.sanity_checking:
            self.ema.swap(pl_module.network)

    def state_dict(self) -> dict[str, Any]:
        """Return the average."""
        return self.ema.state_dict() if self.ema is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the average of an earlier part of the run until the network is there."""
        self._restored = state_dict or None


class EpochsFromOne(RichProgressBar):
    """Lightning's progress bar, which counts epochs from 0, with the first one as 1."""

    def _get_train_description(self, current_epoch: int) -> str:
        return f"{f'Epoch {current_epoch + 1}/{self.trainer.max_epochs}':{len(self.validation_description)}}"


class LastStep(pl.Callback):
    """End training after `steps` steps of the optimiser with a validation, also in the middle of an epoch."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:  # type: ignore[override]
        """Ask for the end; Lightning's own would come without a validation."""
        if trainer.global_step >= self.steps:
            trainer.should_stop = True


class ReportEpoch(pl.Callback):
    """Hand the numbers of each epoch to `report(metrics, epoch)` in one call, and to the loggers the user added.

    `collected` holds what other callbacks logged.
    """

    def __init__(self, report: Report, collected: EpochLogger | None = None) -> None:
        self.report = report  # not `log`: Lightning puts its own function there
        self.collected = collected
        self._validated = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Remember that the numbers of the validation side are of this epoch."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: FineTuner) -> None:  # type: ignore[override]
        """Report after validation of the epoch; a module's own hook of this name would come too late for its loss."""
        own = pl_module.epoch_numbers()
        numbers = {key: float(value) for key, value in trainer.callback_metrics.items()} | own
        if self.collected is not None:
            numbers |= {key: value for key, value in self.collected.latest.items() if key not in numbers}
        for each in trainer.loggers:
            if each is not self.collected:
                each.log_metrics(own, trainer.global_step)
        kept = {key: value for key, value in numbers.items() if self._validated or not key.startswith("val/")}
        self._validated = False
        if trainer.is_global_zero:
            told = {key if key.startswith(_KNOWN) else f"train/{key}": value for key, value in kept.items()}
            self.report(told, trainer.current_epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return what was logged in this epoch so far."""
        latest = self.collected.latest if self.collected is not None else {}
        return {"validated": self._validated, "logged": {key: float(value) for key, value in latest.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what an earlier part of the run logged."""
        self._validated = state_dict["validated"]
        if self.collected is not None:
            self.collected.latest |= state_dict["logged"]
