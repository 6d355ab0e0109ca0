"""Ordinal classification: grades with an order, such as Kellgren-Lawrence 0 to 4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from medvit.config_words import nearest
from medvit.errors import ConfigError, DataError
from medvit.metric.calibration import sigmoid
from medvit.task.base import Array, Task, binary_scores
from medvit.task.label import one_of
from medvit.task.loss import ORDINAL_LOSSES

if TYPE_CHECKING:
    import pandas as pd


class Ordinal(Task):
    """`label` in the manifest holds one of `levels`, lowest first, or nothing (missing).

    One output per step between levels; its probability is P(level is this or higher), falling from output to output,
    so each column is also a yes-or-no finding ("KL>=2"). `loss` is corn (conditional probabilities multiplied) or
    cumulative (one scale with ordered thresholds).
    Raises ConfigError for fewer than 3 levels, one that stands twice, or another loss.
    """

    kind: ClassVar[str] = "ordinal"
    one_label = True
    monitor = "val/kappa"

    def __init__(self, label: str, levels: Sequence[str | int], loss: Any = "corn") -> None:
        self.choice = one_of(label, levels, "levels", least=3)
        if not isinstance(loss, str) or loss not in ORDINAL_LOSSES:
            raise ConfigError(
                f"task.loss={loss!r} is unknown, and what the outputs of grades mean follows from the loss; expected "
                f"corn or cumulative{nearest(loss, ORDINAL_LOSSES)}"
            )
        settings = {"label": label, "levels": list(levels), "loss": loss}
        super().__init__(tuple(f"{label}>={each}" for each in levels[1:]), settings)
        self.word = loss

    def encode(self, frame: pd.DataFrame) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the steps reached [n K]: 1 where the level is above step k; a missing label has weight 0."""
        level = self.choice.place(frame)
        known = np.isfinite(level)
        target = (np.where(known, level, 0)[:, None] > np.arange(self.outputs)).astype(np.float32)
        return target, np.repeat(known.astype(np.float32)[:, None], self.outputs, axis=1)

    def count(self, frame: pd.DataFrame) -> dict[str, dict[str, int]]:
        """Return the rows of each level, and the missing ones."""
        return self.choice.count_all(frame)

    def fit(self, frame: pd.DataFrame) -> None:
        """Count the levels of the training rows.

        Raises:
            DataError: one level only, or a lowest or highest level without a training row: a step nobody takes.
        """
        counts = self.choice.count(frame)
        numbers = list(counts.values())
        if numbers[0] == 0 or numbers[-1] == 0:
            raise DataError(
                f"label {self.choice.label}: training rows per level are {counts}; the lowest and the highest level "
                "need at least one. Take it out of task.levels, or check the split."
            )
        self.fitted = {"count": numbers}

    def loss(
        self,
        logits: Float[Tensor, "B K"],
        target: Float[Tensor, "B K"],
        weight: Float[Tensor, "B K"],
        epoch: int = 0,  # noqa: ARG002 (the same in every epoch)
    ) -> Float[Tensor, ""]:
        """Return the mean of the chosen loss over the entries that count."""
        return ORDINAL_LOSSES[self.word](logits, target, weight)

    def probabilities_numpy(self, logits: NDArray[Any]) -> Array:
        """Return P(level > k), fp64 [n K], never rising along k."""
        x = np.asarray(logits, np.float64)
        if self.word == "corn":
            steps: Array = np.cumprod(sigmoid(x), axis=1, dtype=np.float64)
            return steps
        falls = np.logaddexp(0.0, x[:, 1:]).cumsum(axis=1)
        return sigmoid(x[:, :1] - np.concatenate([np.zeros_like(x[:, :1]), falls], axis=1))

    def levels(self, probabilities: NDArray[Any]) -> NDArray[np.int64]:
        """Return the level [n] as an index: the number of steps with P above one half (the median level)."""
        above: NDArray[np.int64] = (np.asarray(probabilities) > 0.5).sum(axis=1, dtype=np.int64)
        return above

    def scores(self, probabilities: NDArray[Any], target: NDArray[Any], weight: NDArray[Any]) -> dict[str, float]:
        """Return quadratic-weighted kappa, accuracy, mean absolute error in levels, and AUROC per step."""
        truth = self.truth(target, weight)
        known = np.isfinite(truth).all(axis=1)
        out = binary_scores(self.names, np.asarray(probabilities)[known], truth[known])
        said, is_ = self.levels(np.asarray(probabilities)[known]), truth[known].sum(axis=1).astype(np.int64)
        if len(is_):
            out["accuracy"] = float((said == is_).mean())
            out["mae_levels"] = float(np.abs(said - is_).mean())
            chance = float(said.var() + is_.var() + (said.mean() - is_.mean()) ** 2)  # mean square over all pairs
            if chance > 0:
                out["kappa"] = 1.0 - float(((said - is_) ** 2).mean()) / chance
        return out
