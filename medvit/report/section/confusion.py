"""Multiclass tables: accuracy of the most probable class and the confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvit.metric.ranking import ratio
from medvit.prediction.predictions import Sample
from medvit.report.section.cohort import baseline_scores, gain_over
from medvit.report.table import Row, Table, estimate

Array = NDArray[np.float64]
MODEL = "the model"


def most_probable(test: Sample, given: Mapping[str, pd.DataFrame]) -> Table:
    """Return accuracy and balanced accuracy of the most probable class, of the model and of baselines, paired.

    `given` as in `cohort.baselines`; one without a score for every class is left out. No rows for other tasks.
    """
    rows: list[Row] = []
    known, names = _known(test), test.spec.names
    if test.spec.kind == "multiclass" and known.size:
        truth = test.target[known].argmax(axis=1)
        ours = test.base[known].argmax(axis=1) == truth
        rows.append({"who": MODEL, **_rates(test, ours, truth, known)})
        for baseline, table in given.items():
            if all(f"score.{name}" in table for name in names):
                scores = np.stack([baseline_scores(test, baseline, table, name)[known] for name in names], axis=1)
                theirs = scores.argmax(axis=1) == truth
                rows.append({"who": baseline, **_rates(test, theirs, truth, known), **_gain(test, ours, theirs, known)})
    columns = {"who": "Said by", "units": "n", "accuracy": "Accuracy", "balanced": "Balanced accuracy",
               "gain": "Accuracy of the model minus this", "p": "p", "verdict": "The model is"}  # fmt: skip
    note = (
        "The class with the highest probability, no threshold. Same split, same patients, paired draws. Accuracy "
        "follows the mix of classes in this test set; balanced accuracy is the mean of the shares right per class."
    )
    return Table("classes", "The most probable class", columns, rows, note)


def confusion(test: Sample) -> Table:
    """Return how many units of each class were taken for which; no rows for other tasks."""
    known, names = _known(test), test.spec.names
    rows: list[Row] = []
    if test.spec.kind == "multiclass" and known.size:
        truth, said = test.target[known].argmax(axis=1), test.base[known].argmax(axis=1)
        for k, name in enumerate(names):
            counts = np.bincount(said[truth == k], minlength=len(names))
            rows.append({"truth": name, **{f"said.{other}": int(n) for other, n in zip(names, counts, strict=True)}})
    columns = {"truth": "Truth", **{f"said.{name}": f"Taken for {name}" for name in names if rows}}
    return Table("confusion", "What was taken for what", columns, rows, "Counts of units of analysis.")


def _known(test: Sample) -> NDArray[np.intp]:
    return np.flatnonzero(np.isfinite(test.target).all(axis=1))


def _rates(test: Sample, right: NDArray[np.bool_], truth: NDArray[np.intp], known: NDArray[np.intp]) -> Row:
    of_class = (truth[:, None] == np.unique(truth)).astype(float)

    def rates(weight: Array) -> Array:
        shares = ratio(weight @ (of_class * right[:, None]), weight @ of_class)
        return np.stack([ratio(weight @ right.astype(float), weight.sum(axis=1)), shares.mean(axis=1)], axis=1)

    accuracy, balanced = estimate(test, rates, known)
    return {"units": known.size, "accuracy": accuracy, "balanced": balanced}


def _gain(test: Sample, ours: NDArray[np.bool_], theirs: NDArray[np.bool_], known: NDArray[np.intp]) -> Row:
    apart = ours.astype(float) - theirs.astype(float)

    def mean(weight: Array) -> Array:
        return ratio(weight @ apart, weight.sum(axis=1))[:, None]

    drawn = test.draws.apply(mean, known)[:, 0]
    return gain_over(float(apart.mean()), drawn, test.spec.bootstrap.level)
