"""Results fold by fold beside the pooled one, with what each of the two numbers means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from medvit.metric.agreement import mean_absolute_error
from medvit.metric.bootstrap import Interval
from medvit.metric.ranking import Ranking
from medvit.prediction.predictions import Sample, findings_of
from medvit.prediction.thresholds import FrozenThresholds
from medvit.report.page import Section
from medvit.report.table import Row, Table, estimate, patients

Array = NDArray[np.float64]
_NOTE = (
    "Pooled: every out-of-fold prediction in one ranking; it asks whether the models of the folds also agree on the "
    "scale, and is what this report is about. Mean of folds: the number of each fold first, then their mean; it leaves "
    "comparisons between folds out and weighs small folds like large ones. Folds share most of their training images: "
    "their spread is no standard error. Intervals resample patients."
)


def folds(sample: Sample, frozen: FrozenThresholds, fold: Mapping[str, int]) -> Section:
    """Return the section: per output the AUROC (of a measurement: mean absolute error) of each fold, mean and pooled.

    `fold` maps the uid of every image of the sample to its fold.
    """
    of_image = sample.unit.index.map(fold)
    first = dict(zip(sample.unit.to_numpy()[::-1], of_image[::-1], strict=True))
    inside = np.array([first[uid] for uid in sample.table["uid"].astype(str)])
    numbers = sorted(set(inside.tolist()))
    rows: list[Row] = []
    if sample.spec.kind == "regression":
        for k, name in enumerate(sample.spec.names):
            known = np.flatnonzero(np.isfinite(sample.target[:, k]))
            truth, said = sample.target[known, k], sample.base[known, k]
            rows += _rows(sample, name, known, inside, numbers, _errors(truth, said, inside[known], numbers))
    for found in findings_of(sample, frozen.calibration):
        areas = _areas(found.target, found.margin, inside[found.rows], numbers)
        made = _rows(sample, found.name, found.rows, inside, numbers, areas)
        for row, number in zip(made, numbers, strict=False):
            row["positives"] = int(found.target[inside[found.rows] == number].sum())
        rows += made
    what = "Mean absolute error" if sample.spec.kind == "regression" else "AUROC"
    columns = {"finding": "Finding", "fold": "Fold", "units": "n", "patients": "Patients", "positives": "Positives",
               "value": what, "spread": "SD over folds"}  # fmt: skip
    return Section("Folds", (Table("folds", "Each fold, their mean, and all pooled", columns, rows, _NOTE),))


def _areas(target: Array, margin: Array, fold: NDArray[np.int_], numbers: Sequence[int]) -> object:
    whole = Ranking(target, margin)
    parts = [(fold == number, Ranking(target[fold == number], margin[fold == number])) for number in numbers]

    def areas(weight: Array) -> Array:
        each = np.stack([ranking.auroc(weight[:, mine]) for mine, ranking in parts], axis=1)
        return np.concatenate([each, each.mean(axis=1, keepdims=True), whole.auroc(weight)[:, None]], axis=1)

    return areas


def _errors(truth: Array, said: Array, fold: NDArray[np.int_], numbers: Sequence[int]) -> object:
    def errors(weight: Array) -> Array:
        each = np.stack(
            [mean_absolute_error(truth[fold == n], said[fold == n], weight[:, fold == n]) for n in numbers], axis=1
        )
        pooled = mean_absolute_error(truth, said, weight)[:, None]
        return np.concatenate([each, each.mean(axis=1, keepdims=True), pooled], axis=1)

    return errors


def _rows(
    sample: Sample,
    name: str,
    known: NDArray[np.intp],
    inside: NDArray[np.int_],
    numbers: Sequence[int],
    measure: object,
) -> list[Row]:
    """Return a row per fold, then the mean of the folds, then all pooled."""
    values: list[Interval] = estimate(sample, measure, known)  # type: ignore[arg-type]
    alone = np.array([value.value for value in values[: len(numbers)]])
    made: list[Row] = []
    for number, value in zip(numbers, values, strict=False):
        mine = known[inside[known] == number]
        made.append({"finding": name, "fold": str(number), "units": mine.size, "patients": patients(sample, mine),
                     "value": value})  # fmt: skip
    spread = float(alone.std(ddof=1)) if len(numbers) > 1 and np.isfinite(alone).all() else None
    whole = {"finding": name, "units": known.size, "patients": patients(sample, known)}
    return [*made, {**whole, "fold": "mean of folds", "value": values[-2], "spread": spread},
            {**whole, "fold": "pooled", "value": values[-1]}]  # fmt: skip
