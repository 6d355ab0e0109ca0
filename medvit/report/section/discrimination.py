"""Discrimination tables: AUROC and AUPRC, operating points, grades, measurements, accuracy and F1."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.metric.agreement import mean_absolute_error, quadratic_kappa
from medvit.metric.bootstrap import Interval
from medvit.metric.delong import delong, delong_interval
from medvit.metric.operating_point import RATES, OperatingPoint, confusion, rates
from medvit.metric.ranking import Ranking, ratio
from medvit.metric.sample_size import positives_needed
from medvit.prediction.predictions import Finding, Sample, findings_of
from medvit.prediction.thresholds import FrozenThresholds
from medvit.report.table import Row, Table, estimate, missing, patients, patients_of_rarer_outcome, proportion

Array = NDArray[np.float64]
_NO_RATIO = ("n/a (no false positives)", "n/a (no true negatives)")
FEW = 50  # patients with the finding below which bootstrap intervals are known to be too narrow (arXiv 2601.17103)


def findings(sample: Sample, frozen: FrozenThresholds) -> Table:
    """Return numbers, prevalence, AUROC and AUPRC per finding and their macro means, with intervals."""
    found = findings_of(sample, frozen.calibration)
    defined = [each for each in found if each.both]
    areas = _areas(sample, defined)
    rows: list[Row] = []
    for each in found:
        row = _counts(sample, each)
        if each.both:
            auroc, auprc = areas[each.name]
            row |= {"auroc": auroc, "auprc": auprc, **_delong(sample, each), "size": _size(sample, each, auroc)}
        else:
            row |= {"auroc": missing(each.absent), "auprc": missing(each.absent)}
        rows.append(row)
    if len(found) > 1:
        mean = areas.get("macro", (missing("n/a (no finding with both outcomes)"),) * 2)
        rows.append({"finding": f"macro ({len(defined)} of {len(found)} findings)", "auroc": mean[0], "auprc": mean[1]})
    columns = {
        "finding": "Finding", "units": "n", "patients": "Patients", "positives": "Positives", "unknown": "No label",
        "prevalence": "Prevalence", "auroc": "AUROC", "delong": "AUROC, DeLong interval", "auprc": "AUPRC",
        "size": "Sample size",
    }  # fmt: skip
    note = (
        "AUROC: chance that a random positive scores higher than a random negative, ties one half. AUPRC: average "
        f"precision; chance is the prevalence. {_how(sample)} DeLong: with the images of a patient as one cluster "
        "(Obuchowski 1997). The macro mean leaves out findings without positives or negatives."
    )
    return Table("findings", "Discrimination", columns, rows, note)


def operating_points(sample: Sample, frozen: FrozenThresholds) -> tuple[Table, Table]:
    """Return the rates at every threshold that validation froze, with intervals, and the counts behind them."""
    rows: list[Row] = []
    for found in findings_of(sample, frozen.calibration):
        rows += [{"finding": found.name, "threshold": point.threshold,
                  "rule": rule_name(point) + ("" if point.reached else " (not reached)"),
                  "reached": "yes" if point.reached else "no: not reachable on validation",
                  "val_sensitivity": point.sensitivity, "val_specificity": point.specificity,
                  **_rates(sample, found, point.threshold)} for point in frozen.points.get(found.name, ())]  # fmt: skip
        if found.name not in frozen.points:
            rows.append({"finding": found.name, "rule": "n/a (validation lacks one outcome)"})
    first = {"finding": "Finding", "rule": "Rule", "threshold": "Threshold"}
    heads = ("Sensitivity", "Specificity", "PPV", "NPV", "LR+", "LR−")
    counts = {"tp": "True positives", "fn": "False negatives", "fp": "False positives", "tn": "True negatives",
              "reached": "Rule kept on validation", "val_sensitivity": "Sensitivity on validation",
              "val_specificity": "Specificity on validation"}  # fmt: skip
    note = (
        "Thresholds are on the calibrated probability, chosen on validation and frozen "
        f"(sha256 {frozen.hash[:12]}) before the test set was opened; positive means at or above. A proportion of "
        "exactly 0 or 1 has Wilson's interval on its patients. Predictive values hold at this prevalence only."
    )
    return (
        Table("operating_points", "Operating points", {**first, **dict(zip(RATES, heads, strict=True))}, rows, note),
        Table("cross_table", "Cross table", {**first, **counts}, rows, "Counts of the images tested."),
    )


def annex(sample: Sample, frozen: FrozenThresholds) -> Table:
    """Return accuracy, balanced accuracy and F1 at the first operating point, set apart with the note why."""
    rows: list[Row] = []
    for name, points in frozen.points.items():
        found = sample.finding(name, frozen.calibration)
        if not found.both:
            continue

        def scores(weight: Array, found: Finding = found, cut: float = points[0].threshold) -> Array:
            hit, miss, false, right = confusion(found.target, found.probability, cut, weight).T
            balanced = (ratio(hit, hit + miss) + ratio(right, right + false)) / 2
            total = hit + miss + false + right
            return np.stack([ratio(hit + right, total), balanced, ratio(2 * hit, 2 * hit + miss + false)], axis=1)

        values = estimate(sample, scores, found.rows)
        rows.append({"finding": name, **dict(zip(("accuracy", "balanced", "f1"), values, strict=True))})
    columns = {"finding": "Finding", "accuracy": "Accuracy", "balanced": "Balanced accuracy", "f1": "F1"}
    note = (
        "Kept apart on purpose: accuracy follows the prevalence, and F1 ignores true negatives and is improper at any "
        "threshold (Van Calster et al., Lancet Digital Health 2025). Do not choose models by them."
    )
    return Table("annex", "Annex: accuracy and F1", columns, rows, note)


def grades(sample: Sample, frozen: FrozenThresholds) -> Table:
    """Return quadratic-weighted kappa and mean absolute error in levels of an ordinal task; no rows for other tasks."""
    columns = {"units": "n", "kappa": "Quadratic-weighted kappa", "mae": "Mean absolute error, levels"}
    rows: list[Row] = []
    known = np.flatnonzero(np.isfinite(sample.target).all(axis=1))
    if sample.spec.kind == "ordinal" and known.size:
        steps = [sample.finding(name, frozen.calibration) for name in sample.spec.names]
        said = np.sum([(each.raw > 0) for each in steps], axis=0).astype(float)
        truth, levels = sample.target[known].sum(axis=1), len(steps) + 1

        def agreement(weight: Array) -> Array:
            kappa = quadratic_kappa(truth, said, levels, weight)
            return np.stack([kappa, mean_absolute_error(truth, said, weight)], axis=1)

        kappa, error = estimate(sample, agreement, known)
        rows.append({"units": known.size, "kappa": kappa, "mae": error})
    return Table(
        "grades", "Agreement of grades", columns, rows, "The level said is the number of steps above one half."
    )


def measurements(sample: Sample) -> Table:
    """Return the errors of a regression per output; no rows for other tasks."""
    columns = {"finding": "Output", "units": "n", "mae": "Mean absolute error", "bias": "Mean difference",
               "spread": "SD of difference"}  # fmt: skip
    rows: list[Row] = []
    for k, name in enumerate(sample.spec.names if sample.spec.kind == "regression" else ()):
        known = np.flatnonzero(np.isfinite(sample.target[:, k]))
        apart = sample.base[known, k] - sample.target[known, k]
        if known.size == 0:
            rows.append({"finding": name, "units": 0, "mae": missing("n/a (no known value)")})
            continue

        def errors(weight: Array, apart: Array = apart) -> Array:
            total = weight.sum(axis=1)
            bias = ratio(weight @ apart, total)
            spread = np.sqrt(np.maximum(ratio(weight @ apart**2, total) - bias**2, 0.0))
            return np.stack([ratio(weight @ np.abs(apart), total), bias, spread], axis=1)

        values = estimate(sample, errors, known)
        rows.append({"finding": name, "units": known.size, **dict(zip(("mae", "bias", "spread"), values, strict=True))})
    return Table("measurements", "Measurements", columns, rows, "In the unit of the label; predicted minus true.")


def rule_name(point: OperatingPoint) -> str:
    """Return the rule of an operating point in words."""
    aim = {"sensitivity": f"sensitivity ≥ {point.value}", "specificity": f"specificity ≥ {point.value}",
           "youden": "Youden", "cost": f"cost ratio {point.value}"}[point.rule]  # fmt: skip
    return aim + (", lower confidence bound" if point.lower_confidence else "")


def _areas(sample: Sample, found: list[Finding]) -> dict[str, tuple[Interval, Interval]]:
    if not found:
        return {}
    ranked = [(Ranking(each.target, each.margin), each.rows) for each in found]

    def areas(weight: Array) -> Array:
        columns = [[r.auroc(weight[:, rows]), r.auprc(weight[:, rows])] for r, rows in ranked]
        values = np.array(columns).transpose(2, 0, 1)  # [D K 2]
        return np.concatenate([values, values.mean(axis=1, keepdims=True)], axis=1).reshape(len(weight), -1)

    values = estimate(sample, areas)
    names = [*(each.name for each in found), "macro"]
    return {name: (values[2 * k], values[2 * k + 1]) for k, name in enumerate(names)}


def _counts(sample: Sample, found: Finding) -> Row:
    row: Row = {"finding": found.name, "units": found.rows.size, "patients": patients(sample, found.rows),
                "positives": int(found.target.sum()), "unknown": len(sample.table) - found.rows.size}  # fmt: skip
    if found.rows.size:
        share = estimate(sample, lambda weight: ratio(weight @ found.target, weight.sum(axis=1)), found.rows)[0]
        row["prevalence"] = proportion(share, row["patients"], sample.spec.bootstrap.level)
    return row


def _delong(sample: Sample, found: Finding) -> Row:
    auroc, covariance = delong(found.target, found.margin, sample.patient[found.rows])
    if not np.isfinite(covariance[0, 0]):
        return {"delong": missing("n/a (too few)")}
    low, high = delong_interval(float(auroc[0]), float(covariance[0, 0]), sample.spec.bootstrap.level)
    return {"delong": Interval(float(auroc[0]), low, high, 0, "")}


def _size(sample: Sample, found: Finding, auroc: Interval) -> str:
    wanted, few = sample.spec.detail.half_width, patients_of_rarer_outcome(sample, found)
    warning = f"only {few} patients of the rarer outcome (under {FEW}): intervals are too narrow; " if few < FEW else ""
    if not 0.0 < auroc.value < 1.0:
        return warning + "no estimate at AUROC 1"
    needed = positives_needed(auroc.value, float(found.target.mean()), wanted, sample.spec.bootstrap.level)
    now = f"half width now {(auroc.high - auroc.low) / 2:.3f}" if auroc.low < auroc.high else "no interval now"
    return f"{warning}{now}; ±{wanted} needs {needed if needed is not None else 'over 10 million'} positives"


def _rates(sample: Sample, found: Finding, threshold: float) -> Row:
    if not found.rows.size:
        return {name: missing("n/a (no known label)") for name in RATES}
    y, p = found.target, found.probability
    values = estimate(sample, lambda weight: rates(y, p, threshold, weight), found.rows)
    counts = dict(zip(("tp", "fn", "fp", "tn"), (int(n) for n in confusion(y, p, threshold)[0]), strict=True))
    behind = (y == 1, y == 0, p >= threshold, p < threshold)
    empty = ("n/a (0 positives)", "n/a (0 negatives)", "n/a (none called)", "n/a (all called)")
    row, level = dict[str, Any](counts), sample.spec.bootstrap.level
    for name, value, mask, why in zip(RATES, values, (*behind, None, None), (*empty, *_NO_RATIO), strict=True):
        if not np.isfinite(value.value):
            row[name] = missing(why)
        else:
            row[name] = value if mask is None else proportion(value, patients(sample, found.rows[mask]), level)
    return row


def _how(sample: Sample) -> str:
    boot = sample.spec.bootstrap
    return (
        f"Intervals: {boot.level:.0%} by {boot.method} bootstrap over patients, {boot.draws} draws, seed {boot.seed}; "
        f"unit of analysis: {sample.spec.aggregate.unit}."
    )
