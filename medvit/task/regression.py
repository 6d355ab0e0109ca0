"""Regression of a quantity with a unit, such as bone age in months."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from medvit.config_words import nearest
from medvit.errors import ConfigError, DataError
from medvit.task.base import Array, Task
from medvit.task.label import label_numbers
from medvit.task.library_loss import criterion_of, setting_of
from medvit.task.loss import REGRESSION_LOSSES, masked_mean, zero_masked_targets

if TYPE_CHECKING:
    import pandas as pd


class Regression(Task):
    """`label` in the manifest holds a number between `low` and `high` in `unit`, or nothing (missing).

    The network works in standard deviations of the training labels; targets, probabilities (here: values) and scores
    are in the unit. `loss` is huber, l1, mse or a loss of a library, of the standardised values. Raises ConfigError for
    another loss, or `low` not below `high`.
    """

    kind: ClassVar[str] = "regression"
    monitor = "val/mae"
    mode = "min"

    def __init__(
        self, label: str, unit: str = "", loss: Any = "huber", low: float | None = None, high: float | None = None
    ) -> None:
        word = isinstance(loss, str)
        if word and loss not in REGRESSION_LOSSES:
            raise ConfigError(
                f"task.loss={loss!r} is unknown; expected huber, l1 or mse{nearest(loss, REGRESSION_LOSSES)}"
            )
        if low is not None and high is not None and low >= high:
            raise ConfigError(f"task.low={low} must be below task.high={high}")
        self.criterion = None if word else criterion_of(loss, 1, values=True)
        said = setting_of(self.criterion, loss)
        super().__init__((label,), {"label": label, "unit": unit, "loss": said, "low": low, "high": high})
        self.unit, self.word = unit, loss
        self.low, self.high = -np.inf if low is None else low, np.inf if high is None else high

    def encode(self, frame: pd.DataFrame) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the values [n 1] in the unit; a missing label has weight 0."""
        values = label_numbers(
            frame, self.names, self._number, f"numbers from {self.low:g} to {self.high:g} {self.unit}".rstrip()
        )
        known = np.isfinite(values)
        return np.where(known, values, 0).astype(np.float32), known.astype(np.float32)

    def count(self, frame: pd.DataFrame) -> dict[str, dict[str, int]]:
        """Return the rows with and without a value."""
        known = int(self.encode(frame)[1].sum())
        return {self.names[0]: {"known": known, "missing": len(frame) - known}}

    def fit(self, frame: pd.DataFrame) -> None:
        """Take mean and standard deviation of the training rows.

        Raises:
            DataError: fewer than two different values.
        """
        target, weight = self.encode(frame)
        values = target[weight > 0].astype(np.float64)
        if len(np.unique(values)) < 2:
            raise DataError(
                f"label {self.names[0]}: {len(values)} training rows with {len(np.unique(values))} different values; "
                "a regression needs at least two. Check the label column and the split."
            )
        self.fitted = {"mean": float(values.mean()), "std": float(values.std())}

    def loss(
        self,
        logits: Float[Tensor, "B K"],
        target: Float[Tensor, "B K"],
        weight: Float[Tensor, "B K"],
        epoch: int = 0,  # noqa: ARG002 (the same in every epoch)
    ) -> Float[Tensor, ""]:
        """Return the mean of the chosen loss of the standardised values over the rows that count."""
        mean, std = self._scale()
        wanted = (zero_masked_targets(target, weight) - mean) / std
        if self.criterion is not None:
            found: Tensor = self.criterion(logits, wanted, weight)
            return found
        return masked_mean(REGRESSION_LOSSES[self.word](logits.float(), wanted, reduction="none"), weight)

    def probabilities_numpy(self, logits: NDArray[Any]) -> Array:
        """Return the values in the unit, fp64 [n 1]."""
        mean, std = self._scale()
        return np.asarray(logits, np.float64) * std + mean

    def truth(self, target: NDArray[Any], weight: NDArray[Any]) -> Array:
        """Return the values in the unit, NaN where missing."""
        return np.where(np.asarray(weight) > 0, np.asarray(target, np.float64), np.nan)

    def scores(self, probabilities: NDArray[Any], target: NDArray[Any], weight: NDArray[Any]) -> dict[str, float]:
        """Return mean absolute and root mean square error in the unit, R2 and n."""
        truth = self.truth(target, weight)[:, 0]
        known = np.isfinite(truth)
        y, error = truth[known], np.asarray(probabilities, np.float64)[known, 0] - truth[known]
        out = {f"n/{self.names[0]}": float(known.sum())}
        if len(y):
            out |= {"mae": float(np.abs(error).mean()), "rmse": float(np.sqrt((error**2).mean()))}
            if y.var() > 0:
                out["r2"] = 1.0 - float((error**2).mean() / y.var())
        return out

    def _scale(self) -> tuple[float, float]:
        if not self.fitted:
            raise ConfigError("task regression is scaled by the training labels: call task.fit first")
        return self.fitted["mean"], self.fitted["std"]

    def _number(self, word: str) -> float | None:
        try:
            value = float(word)
        except ValueError:
            return None
        return value if np.isfinite(value) and self.low <= value <= self.high else None
