"""The predictions table: checked, aggregated to the unit of analysis, and split into findings.

One row per image: `uid`, `patient`, `study`, `series`, `split`, `logit.<name>`, `prob.<name>`, `target.<name>` (0, 1,
or NaN for a label that is missing or left out by the task's policy; a value for a regression), and header facts.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvit.errors import EvaluationError
from medvit.metric.bootstrap import Draws, patient_draws
from medvit.metric.calibration import Calibrator, logit, sigmoid
from medvit.prediction.aggregate import aggregate
from medvit.prediction.spec import EvaluationSpec

Array = NDArray[np.float64]
_SAME = 1e-5  # probability and logit of one row may differ by fp32 rounding, not by another activation


@dataclass(frozen=True)
class Finding:
    """One finding's known rows: `rows` [n] in the sample, `target` 0/1, logits as given and calibrated."""

    name: str
    rows: NDArray[np.intp]
    target: Array
    raw: Array
    margin: Array

    @property
    def probability(self) -> Array:
        """Return the calibrated probability [n]."""
        return sigmoid(self.margin)

    @property
    def both(self) -> bool:
        """Say whether there are positives and negatives."""
        return 0 < float(self.target.sum()) < self.target.size

    @property
    def absent(self) -> str:
        """Say why a metric is n/a: which outcome is missing."""
        return "n/a (0 positives)" if self.target.sum() == 0 else "n/a (0 negatives)"


@dataclass(frozen=True)
class Sample:
    """One split at the unit of analysis: a row per unit in `table`, `base` logits and `target` [n K], patient draws.

    `unit` says of every image (index: its uid, sorted) which unit it belongs to, `mixed` is how many units have images
    of unequal labels, `digest` tells the images and labels from those of any other set.
    """

    table: pd.DataFrame
    base: Array
    target: Array
    draws: Draws
    unit: pd.Series
    mixed: int
    spec: EvaluationSpec
    digest: str

    @property
    def images(self) -> int:
        """Return how many images there were before aggregation."""
        return len(self.unit)

    @property
    def patient(self) -> NDArray[Any]:
        """Return the patient of each unit [n]."""
        return self.table["patient"].to_numpy()

    def finding(self, name: str, calibration: Mapping[str, Calibrator]) -> Finding:
        """Return one finding with its known rows and calibrated logits."""
        k = self.spec.names.index(name)
        rows = np.flatnonzero(np.isfinite(self.target[:, k]))
        scale = calibration[name]
        raw, scaled = log_odds(self.spec.kind, self.base), log_odds(self.spec.kind, self.base, scale)
        return Finding(name, rows, self.target[rows, k], raw[rows, k], scaled[rows, k])


def log_odds(kind: str, base: Array, scale: Calibrator | None = None) -> Array:
    """Return log odds of each output [n K] after scaling; for exclusive classes, class k against all others."""
    slope, intercept = (1.0, 0.0) if scale is None else (scale.slope, scale.intercept)
    scaled = slope * base + intercept
    if kind != "multiclass":
        return scaled
    odds = np.empty_like(scaled)
    for k in range(scaled.shape[1]):
        others = np.delete(scaled, k, axis=1)
        top = others.max(axis=1)
        odds[:, k] = scaled[:, k] - top - np.log(np.exp(others - top[:, None]).sum(axis=1))
    return odds


def findings_of(sample: Sample, calibration: Mapping[str, Calibrator]) -> list[Finding]:
    """Return every finding of a sample; none for a regression."""
    return [] if sample.spec.kind == "regression" else [sample.finding(name, calibration) for name in sample.spec.names]


def read_predictions(source: pd.DataFrame | Path) -> pd.DataFrame:
    """Return the table, from memory or from a parquet file.

    Raises:
        EvaluationError: there is no such file, or it is no parquet file.
    """
    if isinstance(source, pd.DataFrame):
        return source
    if not source.is_file():
        raise EvaluationError("the predictions file does not exist; give predictions=FILE.parquet written by evaluate")
    try:
        return pd.read_parquet(source)
    except (OSError, ValueError) as error:
        raise EvaluationError(
            "the predictions file cannot be read as parquet; it is damaged or another format"
        ) from error


def digest(table: pd.DataFrame, names: tuple[str, ...]) -> str:
    """Return the sha256 of a test set: its images, patients and labels, whatever the order and the model."""
    columns = ["uid", "patient", *(f"target.{name}" for name in names)]
    ordered = table[columns].sort_values("uid", kind="stable")
    text = "\n".join("|".join(_plain(value) for value in row) for row in ordered.itertuples(index=False))
    return hashlib.sha256(text.encode()).hexdigest()


def prepare(table: pd.DataFrame, spec: EvaluationSpec, split: str) -> Sample:
    """Return the checked sample of one split, sorted by unit so that the order of the file changes no bit.

    Raises:
        EvaluationError: columns are missing, images stand twice, logits are not finite, labels are outside the policy,
            rows belong to another split, or there are fewer than two patients; all in one message.
    """
    problems = problems_of(table, spec, split)
    if problems:
        raise EvaluationError(f"{split} predictions cannot be used: " + "; ".join(problems))
    table, mark = table.sort_values("uid", kind="stable").reset_index(drop=True), digest(table, spec.names)
    base = calibration_input(table, spec)
    target = np.stack([table[f"target.{name}"].to_numpy(np.float64) for name in spec.names], axis=1)
    mixed, by = 0, "uid" if spec.aggregate.unit == "image" else spec.aggregate.unit
    unit = pd.Series(table[by].astype(str).to_numpy(), index=table["uid"].astype(str))
    if by != "uid":
        table, base, target, mixed = aggregate(table, base, target, spec)
    boot = spec.bootstrap
    draws = patient_draws(table["patient"].to_numpy(), boot.draws, boot.seed)
    return Sample(table, base, target, draws, unit, mixed, spec, mark)


def problems_of(table: pd.DataFrame, spec: EvaluationSpec, split: str) -> list[str]:
    """Return everything wrong with a predictions table, without identifiers."""
    value = "logit" if spec.kind != "regression" else "prob"
    needed = ["uid", "patient", *(f"{part}.{name}" for name in spec.names for part in (value, "prob", "target"))]
    if spec.aggregate.unit in ("study", "series"):
        needed.append(spec.aggregate.unit)
    if missing := [name for name in dict.fromkeys(needed) if name not in table.columns]:
        return [f"column {name} is missing{near(name, table)}" for name in missing]
    if table.empty:
        return ["the table has no rows"]
    problems = []
    if twice := int(table["uid"].duplicated().sum()):
        problems.append(
            f"{twice} of {len(table)} rows repeat an image that is there already; expected one row per image"
        )
    if empty := int(table[["uid", "patient"]].isna().any(axis=1).sum()):
        problems.append(f"{empty} rows have no uid or no patient")
    if "split" in table.columns and (other := sorted(set(table["split"].dropna().astype(str)) - {split})):
        problems.append(f"rows of split {', '.join(other)} among those of {split}")
    if table["patient"].nunique() < 2:
        problems.append(f"{table['patient'].nunique()} patient; an interval needs at least 2")
    return problems + _value_problems(table, spec, value)


def near(name: str, table: pd.DataFrame) -> str:
    """Return a hint with the closest column name, or nothing."""
    close = difflib.get_close_matches(name, [str(column) for column in table.columns], 1)
    return f" (did you mean {close[0]}?)" if close else ""


def _value_problems(table: pd.DataFrame, spec: EvaluationSpec, value: str) -> list[str]:
    problems = []
    for name in spec.names:
        x, target = (
            pd.to_numeric(table[f"{part}.{name}"], errors="coerce").to_numpy(float) for part in (value, "target")
        )
        if bad := np.flatnonzero(~np.isfinite(x)).tolist():
            problems.append(
                f"{value}.{name}: {len(bad)} of {len(x)} are NaN or infinite (first: row {bad[0] + 1}); expected "
                "finite numbers: the training went wrong, or the file was changed"
            )
        words = table[f"target.{name}"].notna().to_numpy() & np.isnan(target)
        allowed = np.isnan(target) | np.isfinite(
            target if spec.kind == "regression" else np.where(np.isin(target, (0, 1)), 0, np.inf)
        )
        if outside := int((words | ~allowed).sum()):
            expected = (
                "numbers or empty"
                if spec.kind == "regression"
                else "0, 1 or empty; resolve uncertain labels by the task"
            )
            problems.append(f"target.{name}: {outside} of {len(x)} labels are outside the policy; expected {expected}")
    if spec.kind != "regression":
        p = table[[f"prob.{name}" for name in spec.names]].apply(pd.to_numeric, errors="coerce")
        if outside := int((~((p >= -_SAME) & (p <= 1 + _SAME))).any(axis=1).sum()):
            problems.append(f"{outside} of {len(p)} rows have a prob that is no number from 0 to 1")
    return problems or [*_activation_problems(table, spec), *_target_problems(table, spec)]


def _target_problems(table: pd.DataFrame, spec: EvaluationSpec) -> list[str]:
    """Say what is wrong with targets that depend on each other: exclusive classes, and the steps of a grade."""
    if spec.kind not in ("multiclass", "ordinal"):
        return []
    target = table[[f"target.{name}" for name in spec.names]].to_numpy(float)
    gone = np.isnan(target)
    right = (target.sum(axis=1) == 1) if spec.kind == "multiclass" else (np.diff(target, axis=1) <= 0).all(axis=1)
    wrong = int((~(right | gone.all(axis=1))).sum())
    what = {"multiclass": "no or several classes; expected exactly one, or all empty",
            "ordinal": "steps that rise (a higher grade without the lower one) or are partly empty"}  # fmt: skip
    return [f"{wrong} rows have {what[spec.kind]}"] * bool(wrong)


def _activation_problems(table: pd.DataFrame, spec: EvaluationSpec) -> list[str]:
    if spec.kind not in ("binary", "multilabel", "multiclass"):
        return []
    base = np.stack([table[f"logit.{name}"].to_numpy(float) for name in spec.names], axis=1)
    found = np.stack([table[f"prob.{name}"].to_numpy(float) for name in spec.names], axis=1)
    apart = np.abs(sigmoid(log_odds(spec.kind, base)) - found)
    if apart.max() <= _SAME:
        return []
    return [f"prob and logit disagree by up to {apart.max():.2g}; expected the {spec.kind} activation"]


def calibration_input(table: pd.DataFrame, spec: EvaluationSpec) -> Array:
    """Return what calibration works on [n K]: logits, log odds of an ordinal task's steps, values of a regression."""
    part = "logit" if spec.kind in ("binary", "multilabel", "multiclass") else "prob"
    base = np.stack([table[f"{part}.{name}"].to_numpy(np.float64) for name in spec.names], axis=1)
    return logit(base) if spec.kind == "ordinal" else base


def _plain(value: Any) -> str:
    return str(value) if isinstance(value, str) else "" if pd.isna(value) else repr(float(value))
