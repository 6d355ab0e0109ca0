"""Curves per epoch by metrics of torchmetrics: computed once on all validation predictions, beside the task's scores.

What torchmetrics does with labels that have one outcome, with logits, batches and several processes is kept from it
(docs/how-to/training_parts.md has the table). The report's numbers and the choice of the best epoch are the task's.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.classification import BinaryPrecisionRecallCurve

from medvit.config import build, class_of
from medvit.errors import ConfigError

_TASKS = {"binary": "binary", "multilabel": "multilabel", "multiclass": "multiclass", "ordinal": "multiclass"}
_MISSING = -1
_FOREIGN = (
    TypeError,
    ValueError,
    RuntimeError,
    KeyError,
    AttributeError,
    IndexError,
    NotImplementedError,
    AssertionError,
)
_ROWS = 24


class EpochMetrics:
    """Metrics by name, for one task.

    A mean over labels or classes (`average: macro`) is the mean of those that have both outcomes; torchmetrics counts
    the others as 0. Missing labels are left out. Raises ConfigError for a metric of another task, all in one message.
    """

    def __init__(self, nodes: Mapping[str, Any], task: Any) -> None:
        self.task = task
        self.nodes = {name: node for name, node in nodes.items() if node is not None}
        problems = []
        for name, node in self.nodes.items():
            try:
                _refuse_other_task(name, node, task.kind)
                self._try(name)
            except ConfigError as error:
                problems.append(str(error) if str(error).startswith("metrics.") else f"metrics.{name}: {error}")
        if problems:
            raise ConfigError("\n".join(problems))

    def values(self, probabilities: NDArray[Any], truth: NDArray[Any]) -> dict[str, float]:
        """Return each metric of a whole side, and of each label where it gives several; undefined ones are left out.

        `probabilities` and `truth` [n K] are those of the task, truth being NaN where it is missing.
        """
        found: dict[str, float] = {}
        for name, node in self.nodes.items():
            values = self._value(name, node, np.asarray(probabilities, np.float64), np.asarray(truth, np.float64))
            found |= {key: value for key, value in values.items() if np.isfinite(value)}
        return found

    def _value(self, name: str, node: Mapping[str, Any], p: NDArray[Any], truth: NDArray[Any]) -> dict[str, float]:
        given, target, scored, labels = self._arranged(p, truth)
        metric = self._made(name, node, len(labels), missing=bool((target == _MISSING).any()))
        mean = getattr(metric, "average", None) == "macro"
        if mean:
            metric = self._made(name, {**node, "average": "none"}, len(labels), bool((target == _MISSING).any()))
        ranks = isinstance(metric, BinaryPrecisionRecallCurve)  # of one outcome torchmetrics gives 0
        if not len(target) or (ranks and not scored[0]):
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # labels of one outcome: they are left out below
            metric.update(given, target)
            value = metric.compute()
        if not isinstance(value, Tensor) or value.ndim > 1 or (value.ndim == 1 and len(value) != len(labels)):
            raise ConfigError(
                f"metrics.{name}: {node['_target_']} gives no number, or one per label; a curve or a table is none"
            )
        numbers = value.detach().double().cpu().numpy()
        if numbers.ndim == 0:
            return {name: float(numbers)}
        kept = {f"{name}/{label}": float(n) for label, n, use in zip(labels, numbers, scored, strict=True) if use}
        return {name: float(np.mean(list(kept.values())))} if mean and kept else {} if mean else kept

    def _arranged(
        self, p: NDArray[Any], truth: NDArray[Any]
    ) -> tuple[Tensor, Tensor, NDArray[np.bool_], tuple[str, ...]]:
        """Return what torchmetrics takes, which labels have both outcomes, and their names."""
        names: tuple[str, ...] = self.task.names
        if self.task.kind == "multilabel":
            target = np.where(np.isnan(truth), _MISSING, truth).astype(np.int64)
            scored = (truth == 1).any(axis=0) & (truth == 0).any(axis=0)
            return torch.from_numpy(p), torch.from_numpy(target), scored, names
        known = np.isfinite(truth).all(axis=1)
        p, truth = p[known], truth[known]
        if self.task.kind in {"multiclass", "ordinal"}:
            steps = self.task.kind == "ordinal"
            target = truth.sum(axis=1) if steps else truth.argmax(axis=1)
            if steps:  # P(level > k) to P(level = k)
                above = np.hstack([np.ones((len(p), 1)), p, np.zeros((len(p), 1))])
                p = np.clip(above[:, :-1] - above[:, 1:], 0.0, 1.0)
                names = tuple(str(level) for level in self.task.settings["levels"])
            held = np.bincount(target.astype(np.int64), minlength=len(names))
            return torch.from_numpy(p), torch.from_numpy(target.astype(np.int64)), (held > 0) & (held < len(p)), names
        target = truth[:, 0] if self.task.kind == "regression" else truth[:, 0].astype(np.int64)
        return torch.from_numpy(p[:, 0]), torch.from_numpy(target), np.array([len(np.unique(target)) > 1]), names

    def _made(self, name: str, node: Mapping[str, Any], labels: int, missing: bool) -> Any:
        kind = node["_target_"].rpartition(".")[2]
        takes = inspect.signature(class_of(dict(node))).parameters
        own: dict[str, Any] = {"task": _TASKS.get(self.task.kind), "num_labels": labels, "num_classes": labels}
        if missing:
            own["ignore_index"] = _MISSING
            if "ignore_index" not in takes:
                raise ConfigError(
                    f"metrics.{name}: {kind} cannot leave missing labels out; choose another, or task.missing"
                )
        if self.task.kind in {"binary", "regression"}:
            own["num_classes"] = own["num_labels"] = None
        filled = {key: value for key, value in own.items() if value is not None and key in takes and key not in node}
        # every process has all predictions already: joined again, each would count several times
        alone: dict[str, Any] = (
            {"sync_on_compute": False} if any(p.kind is p.VAR_KEYWORD for p in takes.values()) else {}
        )
        return build(dict(node), **filled, **alone)

    def _try(self, name: str) -> None:
        """Compute one metric on made-up predictions of the task; raises ConfigError with the metric's complaint."""
        rng, outputs = np.random.default_rng(0), self.task.outputs
        kind = self.task.kind
        if kind == "multiclass":
            p, truth = rng.dirichlet(np.ones(outputs), _ROWS * outputs), np.tile(np.eye(outputs), (_ROWS, 1))
        elif kind == "ordinal":
            p = np.sort(rng.random((_ROWS * (outputs + 1), outputs)))[:, ::-1]
            truth = np.tile(np.tri(outputs + 1, outputs, -1), (_ROWS, 1))
        else:
            p = rng.random((_ROWS, outputs))
            truth = (
                p + rng.random(p.shape) if kind == "regression" else np.arange(p.size).reshape(p.shape) // outputs % 2
            )
        try:
            self._value(name, self.nodes[name], p, np.asarray(truth, np.float64))
        except _FOREIGN as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(
                f"metrics.{name}: {self.nodes[name]['_target_']} cannot measure this task: {error}"
            ) from error


def _refuse_other_task(name: str, node: Mapping[str, Any], kind: str) -> None:
    """Raise ConfigError for a metric of torchmetrics that measures another kind of task."""
    if not re.fullmatch(r"[\w.-]+", name):
        raise ConfigError(f"metrics.{name}: expected a name of letters, digits, '_', '-' and '.'")
    metric, target = class_of(dict(node)), node["_target_"].rpartition(".")[2]
    if not metric.__module__.startswith("torchmetrics."):
        return
    family = metric.__module__.split(".")[1]
    wanted = re.match("Binary|Multiclass|Multilabel", target)
    measures = wanted[0].lower() if wanted else "a classification" if family == "classification" else f"a {family}"
    right = measures == _TASKS.get(kind, "a regression") or (measures == "a classification" and kind in _TASKS)
    if not right:
        raise ConfigError(f"metrics.{name}: {target} measures {measures} task, and this task is {kind}; choose another")
