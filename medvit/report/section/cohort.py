"""Cohort tables: counts, leakage audit, shortcut baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvit.errors import EvaluationError
from medvit.metric.bootstrap import interval, p_value
from medvit.metric.ranking import Ranking
from medvit.prediction.aggregate import APART
from medvit.prediction.predictions import Sample, findings_of
from medvit.prediction.thresholds import FrozenThresholds
from medvit.report.table import Row, Table, estimate, missing

Array = NDArray[np.float64]
_OWN_SPLIT = "Split by patient again; python -m medvit.split data.folder=DIR audit=true shows what is shared"
_OTHER_SITE = (
    "Take them out of that data set. Where patient numbers of two sites merely coincide, index that site with a key of "
    "its own (MEDVIT_PSEUDO_KEY_FILE)"
)


def cohort(test: Sample, validation: Sample, called: str = "test") -> Table:
    """Return images, units, patients and labels of both splits."""
    rows: list[Row] = []
    for name, sample in (("validation", validation), (called, test))[called == "val" :]:
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


def audit(
    test: Sample, validation: Sample | None, train: pd.DataFrame | None, allowed: str = "", external: bool = False
) -> Table:
    """Return what test shares with training and validation: nothing, or the evaluation is refused.

    `validation` is None where it is what was tested. `train` has one row per training unit with `uid` and `patient`,
    and where it is known `pixel_sha256`: the digests of the unit's images, parted by "|". `allowed`: the sentence of a
    run that was trained in spite of leaks; what is shared is then told instead. `external`: the set is another site's.

    Raises:
        EvaluationError: `E-LEAK` a patient, image or identical pixels on both sides, and not `allowed`.
    """
    sides = {} if validation is None else {"validation": validation.table}
    sides |= {} if train is None else {"training": train}
    rows: list[Row] = []
    for name, other in sides.items():
        for column, what in (
            ("patient", "patients"),
            ("study", "studies"),
            ("uid", "images"),
            ("pixel_sha256", "identical pixels"),
        ):
            if column in other and column in test.table and (column != "uid" or test.spec.aggregate.unit == "image"):
                shared = len(_values(other[column]) & _values(test.table[column]))
                rows.append({"side": name, "what": what, "shared": shared})
    leaks = describe_leaks(rows)
    if leaks and not allowed:
        remedy = _OTHER_SITE if external else _OWN_SPLIT
        raise EvaluationError(f"E-LEAK the test set shares {leaks}; a result on it would flatter the model. {remedy}")
    columns = {"side": "Test against", "what": "What", "shared": "Shared"}
    note = f"{allowed}. The results flatter the model." if leaks else "Anything above 0 stops the evaluation."
    absent = "" if train is not None else " The training rows were not given: only validation was checked."
    return Table("audit", "Leakage audit", columns, rows, note + absent)


def describe_leaks(rows: Sequence[Row]) -> str:
    """Return in words what the rows of the audit say is shared, "" where nothing is."""
    return ", ".join(f"{row['shared']} {row['what']} with {row['side']}" for row in rows if row["shared"])


def _values(column: pd.Series) -> set[str]:
    """Return the values of a column; a unit of several images has theirs parted by `APART`."""
    return set(column.dropna().astype(str).str.split(APART, regex=False).explode())


def baselines(test: Sample, frozen: FrozenThresholds, given: Mapping[str, pd.DataFrame]) -> Table:
    """Return the AUROC of shortcut baselines on the same units and how much the model is better, paired.

    `given` maps a baseline's name to a table with `uid` and `score.<finding>` of every image.

    Raises:
        EvaluationError: a baseline without a score for every image.
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
            other = Ranking(found.target, baseline_scores(test, baseline, table, name)[found.rows])

            def pair(weight: Array, model: Ranking = model, other: Ranking = other) -> Array:
                ours, theirs = model.auroc(weight), other.auroc(weight)
                return np.stack([ours, theirs, ours - theirs], axis=1)

            values = estimate(test, pair, found.rows)
            sampled = test.draws.apply(pair, found.rows)[:, 2]
            rows.append({"finding": name, "baseline": baseline, "auroc": values[1], "model": values[0],
                         **gain_over(values[2].value, sampled, level)})  # fmt: skip
    columns = {"finding": "Finding", "baseline": "Baseline", "auroc": "Its AUROC", "model": "AUROC of the model",
               "gain": "Model minus baseline", "p": "p", "verdict": "The model is"}  # fmt: skip
    note = (
        "Same split, same patients, paired draws. A model that does not beat what coarse pixels or the metadata "
        "alone give has not been shown to have learnt anything about the finding."
    )
    return Table("baselines", "Shortcut baselines", columns, rows, note)


def gain_over(value: float, drawn: Array, level: float) -> Row:
    """Return what the model gains over a baseline (`gain`, `p`, `verdict`), from the value and its paired draws."""
    gain = interval(value, drawn, level=level)
    verdict = "better" if gain.low > 0 else "worse" if gain.high < 0 else "not told apart"
    return {"gain": gain, "p": p_value(drawn), "verdict": verdict}


def baseline_scores(test: Sample, baseline: str, table: pd.DataFrame, name: str) -> Array:
    """Return the scores of a baseline for one finding, a score for every unit in their order.

    Scores are of images; those of a unit are pooled by the rule that pools the model's.
    """
    scores = table.set_index(table["uid"].astype(str))[f"score.{name}"]
    aligned = scores.reindex(test.unit.index) if scores.index.is_unique else scores.iloc[:0]
    if len(aligned) != test.images or aligned.isna().any():
        raise EvaluationError(
            f"baseline {baseline} has {len(scores)} scores for {name}, the test set {test.images} images; "
            "expected exactly one per image, of the same test set"
        )
    pooled = aligned.groupby(test.unit.to_numpy()).agg(test.spec.aggregate.rule)
    values: Array = pooled.loc[test.table["uid"].astype(str)].to_numpy(np.float64)
    return values
