"""Subgroup tables: performance by group of patients, and gaps between best and worst."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvit.errors import EvaluationError
from medvit.metric.bootstrap import interval
from medvit.metric.subgroup import group_auroc, group_gap, group_sensitivity
from medvit.prediction.predictions import Finding, Sample, findings_of, near
from medvit.prediction.spec import DEFAULT_SUBGROUPS
from medvit.prediction.thresholds import FrozenThresholds
from medvit.report.table import NAN, Row, Table, missing, patients, patients_of_rarer_outcome, proportion

Array = NDArray[np.float64]
_IDENTIFIERS = ("uid", "patient", "study", "series", "split", "pixel_sha256")
_MOST = 12  # different values of a column above which numbers are cut into quarters and words refused


class Group(NamedTuple):
    """The units [n] of one value of one column."""

    column: str
    value: str
    rows: NDArray[np.intp]


def groups_of(sample: Sample) -> list[Group]:
    """Return the groups of every column asked for, or of the usual ones that are known of somebody.

    Of a usual column with too many different words the rarest are taken together.

    Raises:
        EvaluationError: a column asked for that is not there, or has too many different words.
    """
    asked = sample.spec.subgroups
    usual = [name for name in DEFAULT_SUBGROUPS if name in sample.table and _known(sample.table[name]).any()]
    columns, facts = usual if asked is None else list(asked), _facts(sample.table)
    problems = [
        f"subgroup column {name} is not in the predictions{near(name, facts)}; there are {', '.join(facts.columns)}"
        for name in columns
        if name not in sample.table
    ]
    banded = {name: _bands(name, sample.table[name]) for name in columns if name in sample.table}
    if asked is None:
        banded = {name: _rare_together(words) for name, words in banded.items()}
    problems += [
        f"subgroup column {name} has {np.unique(words).size} different values; expected {_MOST} or fewer"
        for name, words in banded.items()
        if np.unique(words).size > _MOST
    ]
    if problems:
        raise EvaluationError("; ".join(problems))
    return [
        Group(name, str(value), np.flatnonzero(words == value))
        for name, words in banded.items()
        for value in np.unique(words)
    ]


def subgroups(sample: Sample, frozen: FrozenThresholds) -> tuple[Table, Table]:
    """Return performance per group with its difference from all others, and the gaps between best and worst."""
    rows: list[Row] = []
    gaps: list[Row] = []
    everyone = groups_of(sample)
    for found in findings_of(sample, frozen.calibration):
        name = found.name
        cut = frozen.points[name][0].threshold if name in frozen.points else NAN
        measured: dict[str, dict[str, dict[str, tuple[float, Array]]]] = {}
        for group in everyone:
            row, values = _group_row(sample, found, group, cut)
            rows.append(row)
            for metric, pair in values.items():
                measured.setdefault(group.column, {}).setdefault(metric, {})[group.value] = pair
        gaps += _gap_rows(sample, name, measured)
    floor = sample.spec.detail.floor
    columns = {"finding": "Finding", "column": "By", "group": "Group", "units": "n", "patients": "Patients",
               "positives": "Positives", "auroc": "AUROC", "difference": "AUROC minus that of all others",
               "sensitivity": "Sensitivity", "specificity": "Specificity"}  # fmt: skip
    note = (
        f"A group with fewer than {floor} patients with or {floor} without the finding says insufficient (how many) "
        "and gives no number. Percentile intervals. Sensitivity and specificity at the first frozen operating point. "
        "Many groups are looked at: an interval that "
        "misses 0 here is a reason to look closer, not a proof."
    )
    gap_columns = {"finding": "Finding", "column": "By", "metric": "Metric", "worst_group": "Worst group",
                   "worst": "Its value", "best_group": "Best group", "gap": "Gap"}  # fmt: skip
    gap_note = (
        "The two groups are picked by their values on this set, so that the gap is a little too large on average."
    )
    return (
        Table("subgroups", "Subgroups", columns, rows, note),
        Table("fairness", "Gaps between groups", gap_columns, gaps, gap_note),
    )


def _group_row(sample: Sample, found: Finding, group: Group, cut: float) -> tuple[Row, dict[str, tuple[float, Array]]]:
    inside = np.isin(found.rows, group.rows)
    y = found.target[inside]
    positives, floor, level = int(y.sum()), sample.spec.detail.floor, sample.spec.bootstrap.level
    row: Row = {"finding": found.name, "column": group.column, "group": group.value, "units": y.size,
                "patients": patients(sample, found.rows[inside]), "positives": positives}  # fmt: skip
    if (few := patients_of_rarer_outcome(sample, found, inside)) < floor:
        none = missing(f"insufficient ({few})")
        return row | dict.fromkeys(("auroc", "difference", "sensitivity", "specificity"), none), {}
    draws = type(sample.draws)(sample.draws.counts, sample.draws.code[found.rows])
    here, others = np.flatnonzero(inside), np.flatnonzero(~inside)
    values = {"auroc": group_auroc(found.target, found.margin, draws, here)}
    if patients_of_rarer_outcome(sample, found, ~inside) >= floor:
        value, sampled = group_auroc(found.target, found.margin, draws, others)
        row["difference"] = interval(values["auroc"][0] - value, values["auroc"][1] - sampled, level=level)
    else:
        row["difference"] = missing("insufficient others")
    if np.isfinite(cut):
        p = found.probability
        values["sensitivity"] = group_sensitivity(found.target, p, cut, draws, here)
        # Specificity is the sensitivity of the opposite finding: negatives strictly below the threshold.
        values["specificity"] = group_sensitivity(1.0 - found.target, -p, np.nextafter(-cut, 1.0), draws, here)
    cells = {name: interval(*pair, level=level) for name, pair in values.items()}
    for name, outcome in (("sensitivity", 1.0), ("specificity", 0.0)):
        if name in cells:
            cells[name] = proportion(
                cells[name], patients(sample, found.rows[inside & (found.target == outcome)]), level
            )
    return row | cells, values


def _gap_rows(sample: Sample, finding: str, measured: dict[str, Any]) -> list[Row]:
    rows: list[Row] = []
    for column, metrics in measured.items():
        for metric in ("auroc", "sensitivity"):
            gap = group_gap(metric, metrics.get(metric, {}), sample.spec.bootstrap.level)
            if gap is not None:
                rows.append({"finding": finding, "column": column, **gap._asdict()})
    return rows


def _bands(name: str, values: pd.Series) -> NDArray[Any]:
    """Return a word per unit: decades of age, quarters of other measurements, the value itself, or "unknown"."""
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(float)
    gone = ~_known(values)
    if "age" in name.rpartition(".")[2].split("_") and np.isfinite(numbers[~gone]).all():
        decade = np.minimum(np.nan_to_num(numbers, nan=0.0) // 10 * 10, 90).astype(int)
        words = np.array([f"{low:02d}–{low + 9:02d}" if low < 90 else "90+" for low in decade], dtype=object)
    elif np.isfinite(numbers[~gone]).all() and np.unique(numbers[~gone]).size > _MOST:
        edges = np.quantile(numbers[~gone], [0.25, 0.5, 0.75])
        names = [f"1st quarter, up to {edges[0]:.4g}", f"2nd quarter, up to {edges[1]:.4g}",
                 f"3rd quarter, up to {edges[2]:.4g}", f"4th quarter, above {edges[2]:.4g}"]  # fmt: skip
        words = np.array(names, dtype=object)[np.searchsorted(edges, np.nan_to_num(numbers), side="left")]
    else:
        words = values.astype(str).str.strip().to_numpy(object)
    return np.where(gone, "unknown", words).astype(str)


def _facts(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns that say something of a unit, without identifiers and numbers of the model."""
    own = {*_IDENTIFIERS, "logit", "prob", "target", "calibrated"}
    return table[[name for name in table.columns if str(name).split(".")[0] not in own]]


def _rare_together(words: NDArray[Any]) -> NDArray[Any]:
    values, counts = np.unique(words, return_counts=True)
    if values.size <= _MOST:
        return words
    kept = values[np.argsort(-counts, kind="stable")[: _MOST - 1]]
    return np.where(np.isin(words, kept), words, f"{values.size - kept.size} others")


def _known(values: pd.Series) -> NDArray[np.bool_]:
    return values.notna().to_numpy() & (values.astype(str).str.strip() != "").to_numpy()
