"""Tables of who was tested: counts, shift from validation or from the training site, leakage audit, baselines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvit.errors import EvaluationError
from medvit.metric.bootstrap import p_value
from medvit.metric.ranking import Ranking
from medvit.metric.subgroup import difference
from medvit.report.frozen import Frozen
from medvit.report.predictions import Sample, findings_of
from medvit.report.table import Row, Table, estimate, missing

Array = NDArray[np.float64]
_WORDS = ("sex", "manufacturer", "view", "modality", "photometric", "table.site")
_NUMBERS = ("age_years", "intensity_mean", "intensity_std")
_MOST_WORDS = 8


def cohort(test: Sample, validation: Sample) -> Table:
    """Return images, units, patients and labels of both splits."""
    rows: list[Row] = []
    for name, sample in (("validation", validation), ("test", test)):
        known = np.isfinite(sample.target)
        rows.append({"split": name, "images": sample.images, "units": len(sample.table),
                     "patients": int(np.unique(sample.patient.astype(str)).size),
                     "complete": int(known.all(axis=1).sum()), "unknown": int((~known).sum()),
                     "mixed": sample.mixed})  # fmt: skip
    columns = {"split": "Split", "images": "Images", "units": "Units of analysis", "patients": "Patients",
               "complete": "All labels known", "unknown": "Labels missing or left out",
               "mixed": "Units with images of unequal labels"}  # fmt: skip
    unit, rule = test.spec.aggregate.unit, test.spec.aggregate.rule
    how = "each image by itself" if unit == "image" else f"{unit}, {rule} of the logits; present if on any image"
    note = (
        f"Unit of analysis: {how}. A missing, uncertain or ignored label is left out of every number of its finding; "
        "it is never counted as negative unless the task's policy says zeros."
    )
    return Table("cohort", "Who was tested", columns, rows, note)


def shift(test: Sample, validation: Sample) -> Table:
    """Return how the test set differs from validation: prevalence, age, sex, vendor, view, intensity."""
    rows: list[Row] = []
    if test.spec.kind != "regression":
        for k, name in enumerate(test.spec.names):
            sides = [side.target[np.isfinite(side.target[:, k]), k] for side in (validation, test)]
            if all(side.size for side in sides):
                before, after = (float(side.mean()) for side in sides)
                rows.append(_shift_row("prevalence", name, before, after))
    for column in _NUMBERS:
        if column in validation.table and column in test.table:
            numbers = [pd.to_numeric(side.table[column], errors="coerce").dropna() for side in (validation, test)]
            if all(len(side) > 1 for side in numbers):
                apart = float(np.sqrt((numbers[0].var() + numbers[1].var()) / 2))
                before, after = (float(side.mean()) for side in numbers)
                rows.append(_shift_row(column, "mean", before, after, (after - before) / apart if apart else None))
    for column in _WORDS:
        if column in validation.table and column in test.table:
            shares = [_shares(side.table[column]) for side in (validation, test)]
            words = sorted(set(shares[0]) | set(shares[1]), key=lambda word: -max(s.get(word, 0.0) for s in shares))
            rows += [_shift_row(column, w, shares[0].get(w, 0.0), shares[1].get(w, 0.0)) for w in words[:_MOST_WORDS]]
    columns = {"what": "What", "value": "Value", "validation": "Validation", "test": "Test", "change": "Difference",
               "standardised": "Standardised difference"}  # fmt: skip
    note = (
        "Shares and means. Standardised difference: difference over the pooled standard deviation; above 0.1 in size "
        "the sets differ in a way that may show in the results."
    )
    return Table("shift", "Shift between validation and test", columns, rows, note)


def audit(test: Sample, validation: Sample, train: pd.DataFrame | None) -> Table:
    """Return what test shares with training and validation: nothing, or the evaluation is refused.

    `train` has one row per training image with `uid` and `patient`, and `pixel_sha256` if the manifest keeps it.

    Raises:
        EvaluationError: a patient, image or identical pixels on both sides.
    """
    sides = {"validation": validation.table, **({} if train is None else {"training": train})}
    rows: list[Row] = []
    for name, other in sides.items():
        for column, what in (
            ("patient", "patients"),
            ("study", "studies"),
            ("uid", "images"),
            ("pixel_sha256", "identical pixels"),
        ):
            if column in other and column in test.table and (column != "uid" or test.spec.aggregate.unit == "image"):
                shared = len(set(other[column].dropna().astype(str)) & set(test.table[column].dropna().astype(str)))
                rows.append({"side": name, "what": what, "shared": shared})
    if leaks := [f"{row['shared']} {row['what']} with {row['side']}" for row in rows if row["shared"]]:
        raise EvaluationError(
            f"the test set shares {', '.join(leaks)}; a result on it would flatter the model. Split by patient again"
        )
    columns = {"side": "Test against", "what": "What", "shared": "Shared"}
    absent = "" if train is not None else " The training rows were not given: only validation was checked."
    return Table("audit", "Leakage audit", columns, rows, "Anything above 0 stops the evaluation." + absent)


def baselines(test: Sample, frozen: Frozen, given: Mapping[str, pd.DataFrame]) -> Table:
    """Return the AUROC of shortcut baselines on the same units and how much the model is better, paired.

    `given` maps a baseline's name to a table with `uid` (of the unit) and `score.<finding>` for every unit.

    Raises:
        EvaluationError: a baseline without a score for every unit.
    """
    rows: list[Row] = []
    level = test.spec.bootstrap.level
    for found in findings_of(test, frozen.calibration) if given else ():
        name = found.name
        if not found.both:
            rows.append({"finding": name, "baseline": "all", "auroc": missing(found.absent)})
            continue
        model = Ranking(found.target, found.margin)
        for baseline, table in given.items():
            if f"score.{name}" not in table:
                continue
            other = Ranking(found.target, _scores(test, baseline, table, name)[found.rows])

            def pair(weight: Array, model: Ranking = model, other: Ranking = other) -> Array:
                ours, theirs = model.auroc(weight), other.auroc(weight)
                return np.stack([ours, theirs, ours - theirs], axis=1)

            values = estimate(test, pair, found.rows)
            sampled = test.draws.apply(pair, found.rows)[:, 2]
            gain = difference(values[2].value, sampled, level)
            verdict = "better" if gain.low > 0 else "worse" if gain.high < 0 else "not told apart"
            rows.append({"finding": name, "baseline": baseline, "auroc": values[1], "model": values[0], "gain": gain,
                         "p": p_value(sampled), "verdict": verdict})  # fmt: skip
    columns = {"finding": "Finding", "baseline": "Baseline", "auroc": "Its AUROC", "model": "AUROC of the model",
               "gain": "Model minus baseline", "p": "p", "verdict": "The model is"}  # fmt: skip
    note = (
        "Same split, same patients, paired draws. A model that does not beat what pixels at 48 × 48 or the metadata "
        "alone give has not been shown to have learnt anything about the finding."
    )
    return Table("baselines", "Shortcut baselines", columns, rows, note)


def _scores(test: Sample, baseline: str, table: pd.DataFrame, name: str) -> Array:
    scores = table.set_index(table["uid"].astype(str))[f"score.{name}"]
    aligned = scores.reindex(test.table["uid"].astype(str)) if scores.index.is_unique else scores.iloc[:0]
    if len(aligned) != len(test.table) or aligned.isna().any():
        raise EvaluationError(
            f"baseline {baseline} has {len(scores)} scores for {name}, the test set {len(test.table)} units; "
            "expected exactly one per unit, of the same test set"
        )
    values: Array = aligned.to_numpy(np.float64)
    return values


def _shares(values: pd.Series) -> dict[str, float]:
    words = values.fillna("").astype(str).str.strip().replace("", "unknown")
    return {str(word): float(share) for word, share in words.value_counts(normalize=True).items()}


def _shift_row(what: str, value: str, before: float, after: float, standardised: float | None = None) -> Row:
    if standardised is None and what not in _NUMBERS:
        spread = np.sqrt((before * (1 - before) + after * (1 - after)) / 2)
        standardised = float((after - before) / spread) if spread > 0 else None
    return {"what": what, "value": value, "validation": before, "test": after, "change": after - before,
            "standardised": standardised}  # fmt: skip


def counted(test: Sample) -> dict[str, Any]:
    """Return the numbers a headline needs: images, units and patients of the test set."""
    return {"images": test.images, "units": len(test.table), "patients": int(np.unique(test.patient.astype(str)).size)}
