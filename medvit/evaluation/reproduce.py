"""Make the report of an earlier evaluation again from its folder: no model, no images, no GPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from medvit.errors import EvaluationError
from medvit.evaluation import archive, protocol
from medvit.prediction.predictions import digest, problems_of
from medvit.prediction.spec import EvaluationSpec, from_json
from medvit.prediction.thresholds import read
from medvit.report.page import Report

SpecOf = Callable[[str, tuple[str, ...]], EvaluationSpec]


def reproduce(predictions: Path, spec_of: SpecOf, out: Path, given: Collection[str] | None = None) -> Report:
    """Report on a predictions.parquet with the thresholds.json beside it, into `out`.

    `spec_of` makes the settings from the kind of task and its names. With `given`, only these top-level settings of
    them are used; the others are those of the report.json beside the predictions.

    Raises:
        EvaluationError: a file that is missing or damaged, thresholds that were changed or frozen with other settings,
            or predictions of another test set than that of the report.json.
    """
    folder = predictions.parent
    file = folder / "thresholds.json"
    task = read(file).content["decides"]
    spec, before = spec_of(task["kind"], tuple(task["names"])), _report_of(folder)
    if given is not None and before:
        asked = {"points" if key == "operating_point" else key for key in given}
        earlier = from_json(before["spec"]).to_json()
        spec = from_json({**earlier, **{key: value for key, value in spec.to_json().items() if key in asked}})
    split = protocol.tested_split(predictions)
    validation, test = protocol.open_predictions(predictions, split)
    opened, extras = partial(_same, test, spec, split, before), archive.load_archive(folder)
    return protocol.evaluate_predictions(validation, opened, spec, out, frozen=file, extras=extras, split=split)


def _report_of(folder: Path) -> dict[str, Any]:
    """Return the report.json of an evaluation folder, {} where there is none."""
    file = folder / "report.json"
    try:
        found: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise EvaluationError("report.json beside the predictions is damaged; evaluate the run again") from error
    return found


def _same(test: Callable[[], pd.DataFrame], spec: EvaluationSpec, split: str, before: dict[str, Any]) -> pd.DataFrame:
    """Open the tested set of a predictions file; refuse another one than that of the report beside it."""
    table = test()
    usable = not problems_of(table, spec, split)  # else told by what checks them
    if before and usable and digest(table, spec.names) != before["digest"]["test"]:
        raise EvaluationError(
            "the predictions are of another test set than report.json beside them: rows, patients or labels differ; "
            "evaluate the run again"
        )
    return table
