"""From logits to probabilities, calibrated probabilities and decisions. Plain JSON settings, numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.errors import BundleError

Array = NDArray[np.float64]
_FINDINGS = ("sigmoid", "softmax", "corn", "cumulative")


def activation(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the logits of a task (its `to_json()`) become probabilities: a name and, for a quantity, its scale.

    Raises:
        BundleError: a kind of task the exported runtime does not know.
    """
    kind = task["kind"]
    if kind in {"binary", "multilabel"}:
        return {"name": "sigmoid"}
    if kind == "multiclass":
        return {"name": "softmax"}
    if kind == "ordinal":
        return {"name": task["settings"]["loss"]}
    if kind == "regression":
        fitted = task["fitted"]
        return {"name": "affine", "scale": fitted["std"], "shift": fitted["mean"], "unit": task["settings"]["unit"]}
    raise BundleError(f"A task of kind {kind!r} cannot be exported yet.")


def from_frozen(content: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (thresholds, calibration) per name from the thresholds.json that evaluation froze on validation.

    The first operating point of each finding decides; a finding without one has no threshold.
    """
    thresholds = {
        name: {**points[0], "score": "calibrated", "chosen_on": content["validation"], "others": points[1:]}
        for name, points in content["points"].items()
        if points
    }
    return thresholds, dict(content["calibration"])


@dataclass(frozen=True)
class Decider:
    """Says what logits [n K] mean.

    `calibration` is per name `{slope, intercept}`, as evaluation froze it on validation: sigmoid(slope * x + intercept)
    of the log odds x; for classes that exclude each other the class's share of softmax(slope * logits + intercept).
    `thresholds` is per name `{threshold, score}` with score "calibrated" or "probability"; at or above is "present".
    """

    names: tuple[str, ...]
    activation: Mapping[str, Any]
    calibration: Mapping[str, Mapping[str, Any]]
    thresholds: Mapping[str, Mapping[str, Any]]

    def probabilities(self, logits: NDArray[Any]) -> Array:
        """Return probabilities, or the values of a quantity in its unit, fp64 [n K]."""
        x = np.asarray(logits, np.float64)
        name = self.activation["name"]
        if name == "softmax":
            return _softmax(x)
        if name == "corn":
            steps: Array = np.cumprod(_sigmoid(x), axis=1, dtype=np.float64)
            return steps
        if name == "cumulative":
            falls = np.logaddexp(0.0, x[:, 1:]).cumsum(axis=1)
            return _sigmoid(x[:, :1] - np.concatenate([np.zeros_like(x[:, :1]), falls], axis=1))
        if name == "affine":
            return x * float(self.activation["scale"]) + float(self.activation["shift"])
        return _sigmoid(x)

    def calibrated(self, logits: NDArray[Any]) -> Array:
        """Return calibrated probabilities, fp64 [n K]; unchanged without a calibration (a draft) and for a quantity."""
        x, p = np.asarray(logits, np.float64), self.probabilities(logits)
        if self.activation["name"] not in _FINDINGS:
            return p
        softmax = self.activation["name"] == "softmax"
        odds = x if softmax or self.activation["name"] == "sigmoid" else _logit(p)
        for column, name in enumerate(self.names):
            fit = self.calibration.get(name)
            if fit is not None:
                scaled = float(fit["slope"]) * odds + float(fit["intercept"])
                p[:, column] = (_softmax if softmax else _sigmoid)(scaled)[:, column]
        return p

    def decisions(self, probability: Array, calibrated: Array) -> list[dict[str, str]]:
        """Return per row "present" or "absent" for each name that has a threshold."""
        rows: list[dict[str, str]] = []
        for raw, scaled in zip(probability, calibrated, strict=True):
            row = {}
            for column, name in enumerate(self.names):
                rule = self.thresholds.get(name)
                if rule is not None:
                    score = (raw if rule.get("score") == "probability" else scaled)[column]
                    row[name] = "present" if score >= float(rule["threshold"]) else "absent"
            rows.append(row)
        return rows

    def problems(self) -> list[str]:
        """Return what is missing before this may leave as more than a draft."""
        if not self.names:
            return ["labels: no output has a name"]
        if self.activation["name"] not in _FINDINGS:
            return []
        found = [f"calibration: none for {name!r}" for name in self.names if name not in self.calibration]
        return found + [f"thresholds: none for {name!r}" for name in self.names if name not in self.thresholds]


def _sigmoid(x: NDArray[Any]) -> Array:
    e = np.exp(-np.abs(np.asarray(x, np.float64)))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


def _softmax(x: NDArray[Any]) -> Array:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def _logit(p: Array) -> Array:
    kept = np.clip(p, 1e-15, 1.0 - 1e-15)
    return np.asarray(np.log(kept) - np.log1p(-kept))
