"""Multiclass classification: one of several exclusive classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from medvit.errors import ConfigError, DataError
from medvit.task.base import Array, Task, binary_scores
from medvit.task.label import one_of
from medvit.task.library_loss import criterion_of, setting_of
from medvit.task.loss import cross_entropy

if TYPE_CHECKING:
    import pandas as pd

CROSS_ENTROPY = "cross_entropy"


class Multiclass(Task):
    """`label` in the manifest holds one of `classes` (their order is the order of the outputs) or nothing (missing).

    `smoothing` in [0, 1) is spread over the classes; with `balanced` a class weighs the inverse of its training count.
    `loss` is cross_entropy, which these two are of, or a loss of a library.
    Raises ConfigError for fewer than 2 classes, one that stands twice, or a smoothing outside its range.
    """

    kind: ClassVar[str] = "multiclass"
    one_label = True

    def __init__(
        self,
        label: str,
        classes: Sequence[str | int],
        smoothing: float = 0.1,
        balanced: bool = False,
        loss: Any = CROSS_ENTROPY,
    ) -> None:
        self.choice = one_of(label, classes, "classes", least=2)
        if not 0 <= smoothing < 1:
            raise ConfigError(f"task.smoothing={smoothing}: expected 0 <= smoothing < 1")
        self.criterion = None if loss == CROSS_ENTROPY else self._library_loss(loss, smoothing, balanced)
        said = setting_of(self.criterion, loss)
        settings = {
            "label": label,
            "classes": list(classes),
            "smoothing": smoothing,
            "balanced": balanced,
            "loss": said,
        }
        super().__init__(tuple(str(each) for each in classes), settings)
        self.smoothing, self.balanced = smoothing, balanced

    def _library_loss(self, loss: Any, smoothing: float, balanced: bool) -> Any:
        if isinstance(loss, str):
            raise ConfigError(
                f"task.loss={loss!r} is unknown; expected {CROSS_ENTROPY}, or a loss of torch or MONAI as "
                "task.loss={_target_: torch.nn.MultiMarginLoss}"
            )
        if not isinstance(loss, dict) and (smoothing or balanced):  # of a stored task they are what they are
            raise ConfigError(
                "task.smoothing and task.balanced are of cross_entropy, and another task.loss would not use them: give "
                "task.smoothing=0 task.balanced=false"
            )
        return criterion_of(loss, len(self.choice.words), exclusive=True)

    def encode(self, frame: pd.DataFrame) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return one-hot targets [n K]; a missing label gives a row of zeros with weight 0."""
        index = self.choice.place(frame)
        known = np.isfinite(index)
        target = np.zeros((len(index), self.outputs), np.float32)
        target[np.flatnonzero(known), index[known].astype(int)] = 1
        return target, np.repeat(known.astype(np.float32)[:, None], self.outputs, axis=1)

    def count(self, frame: pd.DataFrame) -> dict[str, dict[str, int]]:
        """Return the rows of each class, and the missing ones."""
        return self.choice.count_all(frame)

    def fit(self, frame: pd.DataFrame) -> None:
        """Count the classes of the training rows.

        Raises:
            DataError: a class without a training row.
        """
        counts = self.choice.count(frame)
        if empty := [word for word, count in counts.items() if count == 0]:
            held = [word for word in counts if word not in empty]
            raise DataError(
                f"label {self.choice.label}: no training row of {', '.join(empty)} (found: "
                f"{', '.join(held) or 'none'}). Take the class out of task.classes, or check the split."
            )
        self.fitted = {"count": list(counts.values())}

    def loss(
        self,
        logits: Float[Tensor, "B K"],
        target: Float[Tensor, "B K"],
        weight: Float[Tensor, "B K"],
        epoch: int = 0,  # noqa: ARG002 (the same in every epoch)
    ) -> Float[Tensor, ""]:
        """Return softmax cross-entropy with smoothing, or the loss that was given, averaged over the rows that count.

        Raises:
            ConfigError: `balanced`, and `fit` was not called.
        """
        if self.criterion is not None:
            found: Tensor = self.criterion(logits, target, weight)
            return found
        balance = None
        if self.balanced:
            if not self.fitted:
                raise ConfigError("task.balanced=true weighs classes by the training labels: call task.fit first")
            counts = torch.tensor(self.fitted["count"], dtype=torch.float32, device=logits.device)
            balance = counts.sum() / (len(counts) * counts)
        return cross_entropy(logits, target, weight, self.smoothing, balance)

    def probabilities_numpy(self, logits: NDArray[Any]) -> Array:
        """Return class probabilities, rows summing to 1, fp64 [n K]."""
        shifted = np.asarray(logits, np.float64)
        e = np.exp(shifted - shifted.max(axis=1, keepdims=True))
        out: Array = e / e.sum(axis=1, keepdims=True)
        return out

    def scores(self, probabilities: NDArray[Any], target: NDArray[Any], weight: NDArray[Any]) -> dict[str, float]:
        """Return accuracy, balanced accuracy and one-against-rest AUROC and AUPRC, mean and per class."""
        truth = self.truth(target, weight)
        known = np.isfinite(truth).all(axis=1)
        out = binary_scores(self.names, np.asarray(probabilities)[known], truth[known])
        if known.any():
            said, is_ = np.asarray(probabilities)[known].argmax(axis=1), truth[known].argmax(axis=1)
            out["accuracy"] = float((said == is_).mean())
            out["balanced_accuracy"] = float(np.mean([(said[is_ == k] == k).mean() for k in np.unique(is_)]))
        return out
