"""Two models on the same test set: paired differences with intervals and p values, per finding, group and threshold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.errors import EvaluationError
from medvit.metric.bootstrap import interval, p_value
from medvit.metric.calibration import brier
from medvit.metric.delong import paired_test
from medvit.metric.multiplicity import holm
from medvit.metric.operating_point import rates
from medvit.metric.ranking import Ranking
from medvit.prediction.predictions import Finding, Sample
from medvit.prediction.thresholds import FrozenThresholds
from medvit.report.page import Report, Section
from medvit.report.section.discrimination import rule_name
from medvit.report.section.subgroups import groups_of
from medvit.report.table import Row, Table, missing, patients_of_rarer_outcome, plain
from medvit.report.wording import format_estimate

Array = NDArray[np.float64]
SCHEMA = "medvit.comparison/1"


@dataclass(frozen=True)
class Side:
    """One model's test sample, what its validation froze, and the name it goes by in the tables."""

    sample: Sample
    frozen: FrozenThresholds
    name: str


def compare(one: Side, other: Side) -> Report:
    """Return the comparison of two evaluations as a report; differences are `one` minus `other`.

    The settings of the bootstrap, the aggregation and the subgroups are those of `one`, and must be those of `other`.

    Raises:
        EvaluationError: the test sets or the findings differ.
    """
    refuse_incomparable(one, other)
    areas, points, by_group = _areas(one, other), _points(one, other), _groups(one, other)
    source = Table("provenance", "Provenance", {"what": "What", "value": "Value"}, [
        {"what": "one", "value": one.name}, {"what": "other", "value": other.name},
        {"what": "test set sha256", "value": one.sample.digest},
        {"what": "thresholds sha256 of one", "value": one.frozen.hash},
        {"what": "thresholds sha256 of other", "value": other.frozen.hash},
    ])  # fmt: skip
    sections = [
        Section("Per finding", (areas,)),
        Section("Per operating point", (points,)),
        Section("Per subgroup", (by_group,)),
        Section("Provenance", (source,)),
    ]
    head = [f"{one.name} minus {other.name} on the same {len(one.sample.table)} units of analysis."]
    head += [
        f"AUROC, {row['finding']}: {format_estimate(row['difference'])}, p = {format_estimate(row['p'])}"
        f" (Holm {format_estimate(row['holm'])})."
        for row in areas.rows
        if row["metric"] == "AUROC" and "p" in row
    ]
    content = {
        "schema": SCHEMA,
        "headline": head,
        "spec": plain(one.sample.spec.to_json()),
        "digest": {"test": one.sample.digest},
        "tables": {table.name: table.to_json() for section in sections for table in section.tables},
        "figures": [],
    }
    return Report(head, sections, content, "Comparison of two models")


def refuse_incomparable(one: Side, other: Side) -> None:
    """Refuse two evaluations that are not about the same question on the same test set, drawn alike.

    Raises:
        EvaluationError: what differs.
    """
    first, second = one.sample, other.sample
    if first.spec.names != second.spec.names or first.spec.kind != second.spec.kind:
        raise EvaluationError(
            f"the models answer different questions: {', '.join(first.spec.names)} and {', '.join(second.spec.names)}"
        )
    if first.spec.kind == "regression":
        raise EvaluationError("a regression has no AUROC to compare; compare the errors in its report")
    if first.digest != second.digest:
        shared = len(set(first.table["uid"]) & set(second.table["uid"]))
        raise EvaluationError(
            f"the test sets differ: {len(first.table)} and {len(second.table)} units, {shared} in common, or their "
            "labels differ. Two models can be compared on the same images and labels only; evaluate both on one set"
        )
    if first.spec.bootstrap != second.spec.bootstrap or first.spec.aggregate != second.spec.aggregate:
        raise EvaluationError("the two evaluations were given different bootstrap or aggregation settings")


def _pairs(one: Side, other: Side) -> list[tuple[Finding, Finding]]:
    return [
        (one.sample.finding(name, one.frozen.calibration), other.sample.finding(name, other.frozen.calibration))
        for name in one.sample.spec.names
    ]


def _areas(one: Side, other: Side) -> Table:
    rows: list[Row] = []
    sample, rankings = one.sample, {}
    for a, b in _pairs(one, other):
        if not a.both:
            rows.append({"finding": a.name, "metric": "AUROC", "difference": missing(a.absent)})
            continue
        ranked = rankings[a.name] = (Ranking(a.target, a.margin), Ranking(b.target, b.margin))
        test = paired_test(a.target, a.margin, b.margin, sample.patient[a.rows])
        rows.append({"finding": a.name, "metric": "AUROC", "delong": test.p,
                     **_difference(sample, [r.auroc for r in ranked], a.rows)})  # fmt: skip
        rows.append({"finding": a.name, "metric": "AUPRC", **_difference(sample, [r.auprc for r in ranked], a.rows)})
        scores = [_brier(a), _brier(b)]
        rows.append({"finding": a.name, "metric": "Brier", **_difference(sample, scores, a.rows)})
    for metric in ("AUROC", "AUPRC", "Brier"):
        _correct([row for row in rows if row["metric"] == metric])
    columns = {"finding": "Finding", "metric": "Metric", "one": one.name, "other": other.name,
               "difference": "Difference", "p": "p, bootstrap", "holm": "p, Holm over findings",
               "delong": "p, DeLong"}  # fmt: skip
    boot = sample.spec.bootstrap
    note = (
        f"Paired: each of the {boot.draws} draws of patients (seed {boot.seed}) is used for both models; "
        f"{boot.level:.0%} percentile intervals. Brier: lower is better. DeLong: a patient's images are one cluster."
    )
    return Table("comparison", "Per finding", columns, rows, note)


def _points(one: Side, other: Side) -> Table:
    rows: list[Row] = []
    for a, b in _pairs(one, other):
        left, right = ({rule_name(p): p for p in side.frozen.points.get(a.name, ())} for side in (one, other))
        for rule in dict.fromkeys([*left, *right]) if a.both else ():
            if rule not in left or rule not in right:
                alone = missing(f"n/a (only {(one if rule in left else other).name} has this rule)")
                rows.append({"finding": a.name, "rule": rule, "difference": alone})
                continue
            for k, metric in enumerate(("sensitivity", "specificity")):
                sides = [_rate(a, left[rule].threshold, k), _rate(b, right[rule].threshold, k)]
                rows.append({"finding": a.name, "rule": rule, "metric": metric,
                             **_difference(one.sample, sides, a.rows)})  # fmt: skip
    _correct(rows)
    columns = {"finding": "Finding", "rule": "Rule", "metric": "Metric", "one": one.name, "other": other.name,
               "difference": "Difference", "p": "p, bootstrap", "holm": "p, Holm over this table"}  # fmt: skip
    note = "Each model at its own frozen threshold of the same rule."
    return Table("comparison_points", "Per operating point", columns, rows, note)


def _groups(one: Side, other: Side) -> Table:
    rows: list[Row] = []
    floor, groups = one.sample.spec.detail.floor, groups_of(one.sample)
    for a, b in _pairs(one, other):
        for group in groups:
            inside = np.flatnonzero(np.isin(a.rows, group.rows))
            y = a.target[inside]
            row: Row = {"finding": a.name, "column": group.column, "group": group.value, "units": y.size,
                        "positives": int(y.sum())}  # fmt: skip
            if (few := patients_of_rarer_outcome(one.sample, a, np.isin(a.rows, group.rows))) < floor:
                rows.append(row | {"difference": missing(f"insufficient ({few})")})
                continue
            ranked = [Ranking(y, side.margin[inside]).auroc for side in (a, b)]
            rows.append(row | _difference(one.sample, ranked, a.rows[inside]))
    _correct(rows)
    columns = {"finding": "Finding", "column": "By", "group": "Group", "units": "n", "positives": "Positives",
               "one": one.name, "other": other.name, "difference": "Difference of AUROC", "p": "p, bootstrap",
               "holm": "p, Holm over this table"}  # fmt: skip
    return Table("comparison_groups", "Per subgroup", columns, rows)


def _difference(sample: Sample, pair: Sequence[Callable[[Array], Array]], rows: NDArray[np.intp]) -> Row:
    """Return both values, their paired difference with its interval, and its p value."""
    one, other = pair

    def both(weight: Array) -> Array:
        left, right = one(weight), other(weight)
        return np.stack([left, right, left - right], axis=1)

    level, point, drawn = sample.spec.bootstrap.level, sample.draws.point(both, rows), sample.draws.apply(both, rows)
    cells = [interval(point[k], drawn[:, k], level=level) for k in range(3)]
    return {**dict(zip(("one", "other", "difference"), cells, strict=True)), "p": p_value(drawn[:, 2])}


def _correct(rows: list[Row]) -> None:
    """Add Holm's correction over the rows that hold a test."""
    adjusted = holm([row.get("p", np.nan) for row in rows])
    for row, p in zip(rows, adjusted, strict=True):
        row["holm"] = float(p)


def _brier(found: Finding) -> Callable[[Array], Array]:
    return lambda weight: brier(found.target, found.probability, weight)[:, 0]


def _rate(found: Finding, threshold: float, column: int) -> Callable[[Array], Array]:
    def rate(weight: Array) -> Array:
        values: Any = rates(found.target, found.probability, threshold, weight)[:, column]
        return np.asarray(values, np.float64)

    return rate
