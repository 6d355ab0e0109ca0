"""Spread of results over training seeds, apart from the sampling of patients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medvit.errors import EvaluationError
from medvit.metric.bootstrap import interval
from medvit.metric.ranking import Ranking
from medvit.report.comparison import Side, refuse_incomparable
from medvit.report.page import Section
from medvit.report.table import Row, Table, estimate, missing

Array = NDArray[np.float64]


def seeds(sides: Sequence[Side], ensemble: Side | None = None) -> Section:
    """Return a section for `Extras.sections`: mean AUROC over seeds with its patient interval, and the SD over seeds.

    `ensemble` is the mean of the runs as one model; its difference from the mean AUROC is paired by patient.

    Raises:
        EvaluationError: fewer than two seeds, or runs of different test sets or questions.
    """
    if len(sides) < 2:
        raise EvaluationError(f"{len(sides)} run; a spread over seeds needs at least 2, better 3 or more")
    for side in (*sides[1:], *([ensemble] if ensemble else [])):
        refuse_incomparable(sides[0], side)
    spread, single = list[Row](), list[Row]()
    for name in sides[0].sample.spec.names:
        rows = _finding(name, sides, ensemble)
        spread.append(rows[0])
        single += rows[1:]
    columns = {"finding": "Finding", "runs": "Runs", "mean": "Mean AUROC", "spread": "SD over seeds", "low": "Lowest",
               "high": "Highest"}  # fmt: skip
    note = "The interval is over patients, the SD over training seeds: two kinds of chance that are not added up here."
    each = {"finding": "Finding", "run": "Run", "auroc": "AUROC", "change": "Minus the mean of the runs"}
    told = (
        "Ensemble: the mean of the runs' logits as one model, calibrated and with thresholds of its own on validation; "
        "the rest of this report is about it. Differences are paired by patient."
    )
    return Section(
        "Seeds",
        (Table("seeds", "Seeds", columns, spread, note), Table("seed_runs", "Each run", each, single, told)),
    )


def _finding(name: str, sides: Sequence[Side], ensemble: Side | None) -> list[Row]:
    """Return the row of the mean of one finding, then one row per run, then the ensemble's."""
    sample = sides[0].sample
    found = [side.sample.finding(name, side.frozen.calibration) for side in sides]
    if not found[0].both:
        return [{"finding": name, "runs": len(sides), "mean": missing(found[0].absent)}]
    everyone = [*sides, ensemble] if ensemble else list(sides)
    ranked = [Ranking(found[0].target, side.sample.finding(name, side.frozen.calibration).margin) for side in everyone]
    count, rows = len(sides), found[0].rows

    def areas(weight: Array) -> Array:
        each = np.stack([ranking.auroc(weight) for ranking in ranked], axis=1)
        return np.concatenate([each[:, :count].mean(axis=1, keepdims=True), each], axis=1)

    values = estimate(sample, areas, rows)
    drawn, level = sample.draws.apply(areas, rows), sample.spec.bootstrap.level
    alone = np.array([value.value for value in values[1 : count + 1]])
    first: Row = {"finding": name, "runs": count, "mean": values[0], "spread": float(alone.std(ddof=1)),
                  "low": float(alone.min()), "high": float(alone.max())}  # fmt: skip
    others: list[Row] = [
        {"finding": name, "run": side.name, "auroc": value,
         "change": interval(value.value - values[0].value, drawn[:, k] - drawn[:, 0], level=level)}
        for k, (side, value) in enumerate(zip(everyone, values[1:], strict=True), start=1)
    ]  # fmt: skip
    return [first, *others]
