"""Evaluation protocol: freeze thresholds on validation, record their hash, then open the test set once (EV-04)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medvit.errors import EvaluationError
from medvit.evaluation import archive
from medvit.prediction import thresholds
from medvit.prediction.predictions import Sample, prepare, read_predictions
from medvit.prediction.spec import EvaluationSpec, from_json
from medvit.prediction.thresholds import FrozenThresholds
from medvit.report.page import Extras, Report, audit, make_report, write
from medvit.report.section.subgroups import groups_of

logger = logging.getLogger(__name__)
Source = pd.DataFrame | Path
PREDICTIONS = "predictions.parquet"


def evaluation_folder(runs: Path, run: str, split: str = "test") -> Path:
    """Return where the evaluation of a run is kept: `evaluate` writes it there, `compare` and `register` look there."""
    return runs / run / f"evaluation_{split}"


def freeze_thresholds(validation: Source, spec: EvaluationSpec, out: Path) -> FrozenThresholds:
    """Fit calibration and operating points on validation predictions and write `out`/thresholds.json.

    Raises:
        EvaluationError: predictions that cannot be used, see `predictions.prepare`.
    """
    frozen = thresholds.freeze(_answerable(prepare(read_predictions(validation), spec, "val"), "val"))
    _written(frozen, out)
    return frozen


def evaluate_predictions(
    validation: Source,
    test: Source | Callable[[], pd.DataFrame],
    spec: EvaluationSpec,
    out: Path,
    *,
    recorded: str | None = None,
    frozen: Path | None = None,
    extras: Extras | None = None,
    split: str = "test",
) -> Report:
    """Evaluate one test set and write the whole report, the thresholds and the predictions into `out`.

    `test` may be a function: it is called only after thresholds.json is written and its hash is the one `recorded` with
    the model. `frozen` is a thresholds.json from training or from a bundle; without it validation decides now.

    Raises:
        EvaluationError: swapped thresholds, predictions that cannot be used, or a test set that leaks; nothing of the
            report is written then.
    """
    began = time.monotonic()
    val_table = read_predictions(validation)
    val = _answerable(prepare(val_table, spec, "val"), "val")
    if split in ("test", "val"):  # of one data set with validation: a column is missing in both or in none
        groups_of(val)
    decided = thresholds.freeze(val) if frozen is None else thresholds.read(frozen, recorded)
    if frozen is not None:
        thresholds.refuse_unfit(decided, val)
    thresholds.refuse_other(decided, recorded)
    file = _written(decided, out)
    opened = test() if callable(test) else read_predictions(test)
    opened = _aligned(opened, val_table)
    sample = _answerable(prepare(opened, spec, split), split)
    val = replace(val, table=_aligned(val.table, sample.table))
    extras = replace(extras or Extras(), split=split)
    groups_of(sample), audit(sample, val, extras)  # what refuses comes before the sections that take minutes
    if extras.warned is not None:
        extras = replace(extras, cautions=(*extras.cautions, *extras.warned(decided)))
    if extras.late is not None:
        extras = replace(extras, sections=(*extras.sections, *extras.late(sample, decided)))
    report = make_report(sample, val, decided, extras)
    decided = thresholds.read(file, decided.hash)  # still the same file after the test set was seen
    tables = [(opened, split)] if split == "val" else [(val_table, "val"), (opened, split)]
    _save(report, out, tables, decided, extras)
    seconds = time.monotonic() - began
    said = "%d images, %d draws: report written in %.1f s: %s"
    logger.info(said, sample.images, spec.bootstrap.draws, seconds, out / "report.html")
    return report


def _aligned(table: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the columns only the other has, empty: as both come back from one file."""
    return table.reindex(columns=[*table.columns, *(name for name in other.columns if name not in table.columns)])


def tested_split(file: Path) -> str:
    """Return what the tested set of a predictions.parquet is called: the split beside validation, or "val" alone.

    Raises:
        EvaluationError: no such file, no `split` column, or several tested sets.
    """
    found = set(_read(file, columns=["split"])["split"]) - {"val"}
    if len(found) > 1:
        raise EvaluationError(
            f"the predictions hold {len(found)} tested sets: {', '.join(sorted(found))}; expected one"
        )
    return str(found.pop()) if found else "val"


def open_predictions(file: Path, split: str = "test") -> tuple[pd.DataFrame, Callable[[], pd.DataFrame]]:
    """Return the validation rows of a predictions.parquet, and a function that opens its test rows.

    Raises:
        EvaluationError: no such file, no `split` column, or no rows of validation.
    """
    if not file.is_file():
        raise EvaluationError("the predictions file does not exist; give predictions=FOLDER/predictions.parquet")
    return _rows(file, "val"), lambda: _rows(file, split)


def sample_of(folder: Path, spec: EvaluationSpec, split: str = "test") -> tuple[Sample, FrozenThresholds]:
    """Return the test sample and the frozen thresholds of an evaluation that was written into `folder`."""
    return prepare(_rows(folder / PREDICTIONS, split), spec, split), thresholds.read(folder / "thresholds.json")


def _answerable(sample: Sample, split: str) -> Sample:
    """Refuse a split on which no finding has both outcomes: there is nothing to measure."""
    if sample.spec.kind != "regression":
        known = [column[np.isfinite(column)] for column in sample.target.T]
        if not any(0 < column.sum() < column.size for column in known):
            counts = ", ".join(
                f"{name} {int(column.sum())} of {column.size}"
                for name, column in zip(sample.spec.names, known, strict=True)
            )
            raise EvaluationError(
                f"{split}: no finding has both positives and negatives (positives: {counts}); take a larger split"
            )
    return sample


def _rows(file: Path, split: str) -> pd.DataFrame:
    rows = _read(file, filters=[("split", "==", split)])
    if rows.empty:
        raise EvaluationError(f"the predictions file has no rows of split {split}")
    return rows


def _read(file: Path, **part: Any) -> pd.DataFrame:
    try:
        return pd.read_parquet(file, **part)
    except (OSError, ValueError, KeyError) as error:
        raise EvaluationError(
            "the predictions file cannot be read; expected a parquet table with a column split, as evaluate writes it"
        ) from error


def _written(frozen: FrozenThresholds, out: Path) -> Path:
    for name, points in frozen.points.items():
        for point in points:
            if not point.reached:
                logger.warning("%s: no threshold keeps the rule %s on validation", name, point.rule)
    try:
        return thresholds.write(frozen, out)
    except OSError as error:
        raise EvaluationError(f"out cannot be written ({error.strerror}); give another out=DIR") from error


def _save(
    report: Report, out: Path, tables: list[tuple[pd.DataFrame, str]], frozen: FrozenThresholds, extras: Extras
) -> None:
    settings = from_json(report.content["spec"])
    both = pd.concat(
        [thresholds.calibrated(table.assign(split=split), settings, frozen.calibration) for table, split in tables]
    )
    try:
        write(report, out)
        both.to_parquet(out / PREDICTIONS, index=False)
        archive.save_archive(extras, out)
    except OSError as error:
        raise EvaluationError(f"the report cannot be written ({error.strerror}); give another out=DIR") from error
