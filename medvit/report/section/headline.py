"""Headline of the report: warnings, who was tested, and each main number with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medvit.dataset.leakage.audit import leaks_allowed
from medvit.prediction.predictions import Sample
from medvit.report.section import cohort
from medvit.report.table import Table
from medvit.report.wording import class_name, format_estimate

_FEW = 3  # findings up to which the headline names each


def headline(
    test: Sample, tables: Mapping[str, Table], split: str = "test", labels: Mapping[str, Sequence[str]] | None = None
) -> list[str]:
    """Return the sentences a reader must see first, each number with its interval; `labels` as in `class_name`."""
    called = {row["finding"]: class_name(row["finding"], labels or {}) for row in tables["findings"].rows}
    few = len(test.spec.names) <= _FEW
    patients = len(set(test.patient.astype(str)))
    begin = "Measured on the validation split itself, where thresholds and scaling were chosen: too good."
    lines = [begin] * (split == "val") + [
        f"Tested on {test.images} images of {patients} patients ({len(test.table)} units of analysis)."
    ]
    areas = [row for row in tables["findings"].rows if math.isfinite(row["auroc"].value)]
    if not few:
        ranked = sorted(areas[:-1], key=lambda row: row["auroc"].value)
        areas = [areas[-1], *ranked[-1:], *ranked[:-1][:1]]  # macro, best, worst
    lines += [f"AUROC, {called[row['finding']]}: {format_estimate(row['auroc'])}." for row in areas]
    lines += [
        f"{called[row['finding']]} at the frozen threshold {row['threshold']:.3f} ({row['rule']}): sensitivity "
        f"{format_estimate(row['sensitivity'])}, specificity {format_estimate(row['specificity'])}."
        for row in tables["operating_points"].rows
        if few and "sensitivity" in row
    ]
    lines += [
        f"{row['finding']}: mean absolute error {format_estimate(row['mae'])}." for row in tables["measurements"].rows
    ]
    lines += [f"Quadratic-weighted kappa {format_estimate(row['kappa'])}." for row in tables["grades"].rows]
    lines += [
        f"Accuracy of the most probable class{_of(row)}: {format_estimate(row['accuracy'])}."
        for row in tables["classes"].rows
    ]
    rows = [{**row, "finding": called[row["finding"]]} for row in tables["baselines"].rows if "gain" in row]
    return lines + _against_baselines(rows, test, few)


def _of(row: Mapping[str, Any]) -> str:
    """Return whose accuracy it is, with the paired difference where it is a baseline's."""
    if "gain" not in row:
        return ""
    return f" by “{row['who']}” (the model's minus it {format_estimate(row['gain'])}, {row['verdict']})"


def _against_baselines(rows: Sequence[Mapping[str, Any]], test: Sample, few: bool) -> list[str]:
    if not rows and test.spec.kind != "regression":
        return ["No shortcut baseline was given: whether the model beats plain pixels or metadata is not shown."]
    if few:
        return [
            f"{row['finding']}, AUROC minus that of “{row['baseline']}”: {format_estimate(row['gain'])},"
            f" {row['verdict']}."
            for row in rows
        ]
    lines = []
    for name in dict.fromkeys(row["baseline"] for row in rows):
        verdicts = [row["verdict"] for row in rows if row["baseline"] == name]
        better, worse = verdicts.count("better"), verdicts.count("worse")
        lines.append(f"Against “{name}”: better on {better} of {len(verdicts)} findings, worse on {worse}.")
    return lines


def leaks(audited: Table, provenance: Mapping[str, Any]) -> list[str]:
    """Return the sentence that comes before every number where leaks were allowed by a setting of the training."""
    shared = cohort.describe_leaks(audited.rows)
    return [f"{leaks_allowed(provenance)}. The test set shares {shared}: every number flatters."] * bool(shared)
