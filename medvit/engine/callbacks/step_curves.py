"""Lightning callback: curves by step of the optimiser, beside the numbers of each epoch."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
import torch

from medvit.engine.callbacks.training import Report
from medvit.engine.module import FineTuner


class StepCurves(pl.Callback):
    """Every `every` steps, report loss, learning rate, gradient norm, speed, and the share of time that batches took.

    The loss is the mean over the batches since the last point, the norm that of the last step before clipping. Numbers
    are of the first device; a GPU is waited for once per point. Validation is no part of the time.
    """

    def __init__(self, report: Report, every: int) -> None:
        self.report = report
        self.every = every
        self._clear()

    def _clear(self) -> None:
        self._losses: list[torch.Tensor] = []
        self._units, self._waited, self._busy = 0, 0.0, 0.0
        self._at: float | None = None  # when the last batch was done, or the epoch began

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: FineTuner) -> None:  # type: ignore[override]  # noqa: ARG002
        """Count the wait for the first batch from here."""
        self._at = time.monotonic()

    def on_train_batch_start(self, *_: Any) -> None:  # type: ignore[override]
        """Note how long the batch was waited for."""
        now = time.monotonic()
        self._waited += now - (self._at or now)
        self._at = now

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: FineTuner, *_: Any) -> None:  # type: ignore[override]
        """Count the batch, and report a point where one is due."""
        now = time.monotonic()
        self._busy += now - (self._at or now)
        self._at = now
        if pl_module.last_batch is not None:
            loss, units = pl_module.last_batch
            self._losses.append(loss)
            self._units += units
        if trainer.global_step and trainer.global_step % self.every == 0 and not trainer.fit_loop._should_accumulate():
            self._tell(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: FineTuner) -> None:  # type: ignore[override]  # noqa: ARG002
        """Leave validation out of the time; what waits within an epoch ends here."""
        self._at = None

    def _tell(self, trainer: pl.Trainer, module: FineTuner) -> None:
        took = self._waited + self._busy
        point = {
            "train/step/lr": float(module.rate),
            "time/step/units_per_s": self._units / took if took else 0.0,
            "time/step/data_wait": self._waited / took if took else 0.0,
        }
        if self._losses:
            point["train/step/loss"] = float(torch.stack(self._losses).mean())
        if module.gradient_norm is not None:
            point["train/step/gradient_norm"] = float(module.gradient_norm)
        at = self._at
        self._clear()
        self._at = at
        if trainer.is_global_zero:
            self.report(point, trainer.global_step)
