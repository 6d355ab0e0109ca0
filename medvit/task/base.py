"""Base of every task: labels to numbers, logits to loss, probabilities and scores."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)
Array = NDArray[np.float64]


class Task(ABC):
    """One question asked of an image; `names` has one entry per logit, target and probability column.

    `fit` learns class counts (or a scale) from the training rows; what it learns is in `fitted`, plain JSON, and
    `settings` are the constructor's arguments, so that `medvit.task.from_json(task.to_json())` is the same task.
    `monitor` and `mode` say which score picks the best epoch; `one_label` that all columns are of one label's values.
    """

    kind: ClassVar[str]
    one_label: ClassVar[bool] = False
    monitor: str = "val/auroc"
    mode: str = "max"

    def __init__(self, names: tuple[str, ...], settings: dict[str, Any]) -> None:
        self.names, self.settings = names, settings
        self.fitted: dict[str, Any] = {}

    @property
    def outputs(self) -> int:
        """Number of logits the network must give."""
        return len(self.names)

    @abstractmethod
    def encode(self, frame: pd.DataFrame) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return target and weight [n K] of manifest rows; weight 0 where a label is missing or ignored.

        Raises:
            DataError: a label column that is not there, or a value the task does not know (E-LABEL).
        """

    @abstractmethod
    def count(self, frame: pd.DataFrame) -> dict[str, dict[str, int]]:
        """Return how many rows each label has of each kind, to be logged."""

    @abstractmethod
    def fit(self, frame: pd.DataFrame) -> None:
        """Learn class counts or scale from the training rows.

        Raises:
            DataError: a label that has one value only: nothing could be learnt or measured.
        """

    @abstractmethod
    def loss(
        self, logits: Float[Tensor, "B K"], target: Float[Tensor, "B K"], weight: Float[Tensor, "B K"], epoch: int = 0
    ) -> Float[Tensor, ""]:
        """Return the mean loss over the entries that count."""

    @abstractmethod
    def probabilities_numpy(self, logits: NDArray[Any]) -> Array:
        """Return what the logits say, fp64 [n K]: probabilities, or values in the label's unit for a regression."""

    def probabilities(self, logits: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        """Return the same as `probabilities_numpy`, as a tensor on the logits' device."""
        values = self.probabilities_numpy(logits.detach().cpu().double().numpy())
        return torch.from_numpy(values).to(logits.device, torch.float32)

    @abstractmethod
    def scores(self, probabilities: NDArray[Any], target: NDArray[Any], weight: NDArray[Any]) -> dict[str, float]:
        """Return the scores over a whole split, masked, with `n/<name>` per label; undefined ones are left out."""

    def truth(self, target: NDArray[Any], weight: NDArray[Any]) -> Array:
        """Return the targets a metric may use, fp64 [n K]: NaN where missing, ignored or a soft guess."""
        known = (np.asarray(weight) > 0) & (np.asarray(target) >= 0)
        return np.where(known, np.asarray(target, np.float64), np.nan)

    def to_json(self) -> dict[str, Any]:
        """Return what rebuilds the task, plain JSON."""
        return {"kind": self.kind, "names": list(self.names), "settings": self.settings, "fitted": self.fitted}

    def log_count(self, frame: pd.DataFrame, split: str) -> None:
        """Write one line per label: how many rows of `split` have which value."""
        for name, numbers in self.count(frame).items():
            line = ", ".join(f"{number} {what}" for what, number in numbers.items())
            logger.info("%s, label %s: %s", split, name, line)


def binary_scores(names: tuple[str, ...], p: NDArray[Any], truth: Array) -> dict[str, float]:
    """Return AUROC and AUPRC per column and their means over the columns that have both outcomes, with n.

    `truth` [n K] is 0, 1 or NaN (left out). `scored` is the number of columns behind the means.
    """
    from medvit.metric.ranking import auprc, auroc

    out: dict[str, float] = {}
    for k, name in enumerate(names):
        known = np.isfinite(truth[:, k])
        y, q = truth[known, k], np.asarray(p, np.float64)[known, k]
        out[f"n/{name}"], out[f"positives/{name}"] = float(known.sum()), float(y.sum())
        if 0 < y.sum() < len(y):
            out[f"auroc/{name}"], out[f"auprc/{name}"] = auroc(y, q), auprc(y, q)
    for metric in ("auroc", "auprc"):
        values = [value for key, value in out.items() if key.startswith(f"{metric}/")]
        if values:
            out[metric] = float(np.mean(values))
    out["scored"] = float(sum(key.startswith("auroc/") for key in out))
    return out
