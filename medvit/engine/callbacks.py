"""Lightning callbacks: averaged weights (EMA), best checkpoint, metrics per epoch to the tracker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

from medvit.engine.checkpoint import save_weights
from medvit.engine.module import FineTuner
from medvit.errors import RunError
from medvit.optim.ema import EMA


class KeepBest(pl.Callback):
    """Write the weights of the best validation epoch, the averaged ones where there are any.

    Must stand before `AverageWeights` in the list, which puts the raw weights back when validation ends. `without` as
    in `save_weights`: a backbone that never changes is not written again and again.
    """

    def __init__(self, path: Path, without: str | None = None) -> None:
        self.path, self.without, self.epoch = path, without, -1
        self.best: float | None = None
        self.scores: dict[str, float] = {}  # of the best epoch

    def on_validation_end(self, trainer: pl.Trainer, pl_module: FineTuner) -> None:  # type: ignore[override]
        """Compare this epoch with the best so far; raises RunError where the task's monitor has no value."""
        if trainer.sanity_checking:
            return
        if pl_module.task.monitor not in trainer.callback_metrics:
            raise RunError(
                f"the first epoch gave no {pl_module.task.monitor}: the validation side needs both outcomes; enlarge it"
            )
        value = float(trainer.callback_metrics[pl_module.task.monitor])
        sign = 1 if pl_module.task.mode == "max" else -1
        if self.best is None or sign * value > sign * self.best:
            self.best, self.epoch = value, trainer.current_epoch
            self.scores = {key: float(score) for key, score in trainer.callback_metrics.items() if key[:4] == "val/"}
            if trainer.is_global_zero:
                save_weights(pl_module.network, self.path, self.without)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know."""
        return {"best": self.best, "epoch": self.epoch, "scores": self.scores}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what an earlier part of the run knew."""
        self.best, self.epoch = state_dict["best"], state_dict["epoch"]
        self.scores = state_dict.get("scores", {})  # 0.1 kept none


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


class ReportEpoch(pl.Callback):
    """Hand the numbers of each epoch to `report(metrics, epoch)` in one call."""

    def __init__(self, report: Callable[[dict[str, float], int], None]) -> None:
        self.report = report  # not `log`: Lightning puts its own function there

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: FineTuner) -> None:  # type: ignore[override]
        """Report after validation of the epoch; a module's own hook of this name would come too late for its loss."""
        numbers = {key: float(value) for key, value in trainer.callback_metrics.items()} | pl_module.epoch_numbers()
        if trainer.is_global_zero:
            self.report(numbers, trainer.current_epoch)
