"""Multilabel classification: several findings, with missing and uncertain labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from medvit.errors import ConfigError, DataError
from medvit.metric.calibration import sigmoid
from medvit.task.base import Array, Task, binary_scores
from medvit.task.label import (
    GOLDEN,
    UNCERTAIN,
    canonical_text,
    label_numbers,
    policies,
    resolve_policy,
    soft_label_draws,
)
from medvit.task.library_loss import LibraryLoss, criterion_of, setting_of
from medvit.task.loss import LossContext

if TYPE_CHECKING:
    import pandas as pd


class Multilabel(Task):
    """`labels` in the manifest hold 0, 1, -1 (uncertain) or nothing (missing).

    `loss` is bce, pos_weight, focal, asl or ldam_drw, with its `options`, or a loss of a library. `uncertain` and
    `missing` are a policy (ignore, ones, zeros, smooth, or a range [low, high]) for all labels, or a mapping label ->
    policy with a `default`.
    A smooth label is trained as a soft target drawn per sample and epoch and never enters a metric.
    Raises ConfigError for no label or one twice, and unknown losses, options and policies.
    """

    kind: ClassVar[str] = "multilabel"

    def __init__(
        self,
        labels: Sequence[str],
        loss: Any = "bce",
        options: dict[str, Any] | None = None,
        uncertain: Any = "ignore",
        missing: Any = "ignore",
        seed: int = 0,
    ) -> None:
        if not labels or len(set(labels)) != len(labels):
            raise ConfigError(f"task.labels={list(labels)}: expected at least one label, each once")
        self.criterion = criterion_of(loss, len(labels), options)
        settings = {"labels": list(labels), "loss": setting_of(self.criterion, loss), "options": options or {}}
        super().__init__(tuple(labels), {**settings, "uncertain": uncertain, "missing": missing, "seed": seed})
        self.uncertain = policies(uncertain, self.names, "task.uncertain")
        self.missing = policies(missing, self.names, "task.missing")
        self.seed = seed
        self.words = {"0": 0.0, "1": 1.0, "-1": UNCERTAIN}

    def encode(self, frame: pd.DataFrame) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return target and weight [n K]: 0, 1, or -1 - u where the loss draws a soft target (see `draw`)."""
        raw = self._codes(frame)
        target, weight = np.empty_like(raw), np.empty_like(raw)
        for k in range(self.outputs):
            column, gone, unsure = raw[:, k], np.isnan(raw[:, k]), raw[:, k] == UNCERTAIN
            smooth = any(isinstance(policy[k], tuple) for policy in (self.uncertain, self.missing))
            start = soft_label_draws(frame, self.names[k], self.seed) if smooth else None
            column, first = resolve_policy(column, unsure, self.uncertain[k], start)
            target[:, k], second = resolve_policy(column, gone, self.missing[k], start)
            if isinstance(self.missing[k], tuple):
                target[gone, k] -= 1.0  # -2 - u: drawn from the range of missing labels
            weight[:, k] = first * second
        return target.astype(np.float32), weight.astype(np.float32)

    def count(self, frame: pd.DataFrame) -> dict[str, dict[str, int]]:
        """Return positive, negative, uncertain and missing rows per label."""
        raw = self._codes(frame)
        kinds = {"positive": raw == 1, "negative": raw == 0, "uncertain": raw == UNCERTAIN, "missing": np.isnan(raw)}
        return {n: {what: int(hits[:, k].sum()) for what, hits in kinds.items()} for k, n in enumerate(self.names)}

    def fit(self, frame: pd.DataFrame) -> None:
        """Count negatives and positives of the training rows, as the policies settle them.

        Raises:
            DataError: labels without a positive or without a negative, all in one message.
        """
        target, weight = self.encode(frame)
        if isinstance(self.criterion, LibraryLoss):
            self.criterion.refuse_partial(weight, self.names)
        truth = self.truth(target, weight)
        positive, negative = (truth == 1).sum(axis=0), (truth == 0).sum(axis=0)
        single = [
            f"label {name}: {p} positives and {n} negatives"
            for name, p, n in zip(self.names, positive, negative, strict=True)
            if p == 0 or n == 0
        ]
        if single:
            raise DataError(
                "only one class among the training rows: " + "; ".join(single) + ". Leave such labels out of the task, "
                "or check the split and the policies for missing and uncertain labels."
            )
        self.fitted = {"negative": [int(v) for v in negative], "positive": [int(v) for v in positive]}

    def loss(
        self, logits: Float[Tensor, "B K"], target: Float[Tensor, "B K"], weight: Float[Tensor, "B K"], epoch: int = 0
    ) -> Float[Tensor, ""]:
        """Return the mean of the chosen loss over the entries that count; soft targets and LDAM depend on `epoch`."""
        counts = torch.tensor([self.fitted["negative"], self.fitted["positive"]]).float() if self.fitted else None
        found: Tensor = self.criterion(logits, self.draw(target, epoch), weight, LossContext(counts, epoch))
        return found

    def draw(self, target: Float[Tensor, "B K"], epoch: int) -> Float[Tensor, "B K"]:
        """Return the targets with every soft one drawn for `epoch`, uniform in its range.

        The draw is the sample's own start moved by the golden ratio each epoch: the same on every device, for any
        batch and number of workers, and after a resume, without a generator to carry along.
        """
        out = target
        for shift, policy in ((1.0, self.uncertain), (2.0, self.missing)):
            if any(isinstance(p, tuple) for p in policy):
                ranges = [p if isinstance(p, tuple) else (0.0, 0.0) for p in policy]
                low, high = torch.tensor(ranges, device=target.device).T
                share = torch.frac(-target - shift + (epoch * GOLDEN) % 1.0)
                soft = (target <= -shift) & (target > -shift - 1)
                out = torch.where(soft, low + share * (high - low), out)
        return out

    def probabilities_numpy(self, logits: NDArray[Any]) -> Array:
        """Return the probability of each finding in [0, 1], fp64 [n K]."""
        return sigmoid(logits)

    def scores(self, probabilities: NDArray[Any], target: NDArray[Any], weight: NDArray[Any]) -> dict[str, float]:
        """Return AUROC and AUPRC, mean and per label, with n and positives per label."""
        return binary_scores(self.names, probabilities, self.truth(target, weight))

    def _codes(self, frame: pd.DataFrame) -> Array:
        words = {canonical_text(word): number for word, number in self.words.items()}
        return label_numbers(frame, self.names, words.get, self._allowed())

    def _allowed(self) -> str:
        return ", ".join(self.words).replace("-1", "-1 (uncertain)")
