"""A table of the report: the same rows become JSON, CSV and HTML, so that every number shown can be looked up."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.metric.bootstrap import Interval, intervals, wilson
from medvit.prediction.predictions import Finding, Sample

Array = NDArray[np.float64]
Row = dict[str, Any]
NAN = float("nan")


@dataclass(frozen=True)
class Table:
    """`columns` maps keys of rows to headings; cells are words, numbers, None or intervals; `note` is printed below."""

    name: str
    title: str
    columns: Mapping[str, str]
    rows: Sequence[Row]
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return title, columns, rows and note as JSON; what has no number is null."""
        rows = [{key: plain(row.get(key)) for key in self.columns} for row in self.rows]
        return {"title": self.title, "columns": dict(self.columns), "rows": rows, "note": self.note}

    def to_csv(self) -> str:
        """Return the rows as CSV, an interval as three columns, numbers with all their digits."""
        wide = {key for row in self.rows for key in self.columns if isinstance(row.get(key), Interval)}
        heads = [
            name for key in self.columns for name in ([key, f"{key}.low", f"{key}.high"] if key in wide else [key])
        ]
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(heads)
        for row in self.rows:
            writer.writerow([cell for key in self.columns for cell in _cells(row.get(key), key in wide)])
        return stream.getvalue()


def missing(note: str) -> Interval:
    """Return a cell without a number that says why."""
    return Interval(NAN, NAN, NAN, 0, note)


def plain(value: Any) -> Any:
    """Return JSON of a cell: an interval as a mapping, NaN and infinities as null."""
    if isinstance(value, Interval):
        bounds = {"value": plain(value.value), "low": plain(value.low), "high": plain(value.high)}
        return {**bounds, "draws": value.draws, "note": value.note}
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value


def estimate(
    sample: Sample, statistic: Callable[[Array], Array], rows: NDArray[np.intp] | None = None
) -> list[Interval]:
    """Return the patient-bootstrap intervals of a statistic over `rows`, by the method of the settings."""
    boot = sample.spec.bootstrap
    return intervals(statistic, sample.draws, rows, method=boot.method, level=boot.level)


def patients(sample: Sample, rows: NDArray[np.intp]) -> int:
    """Return how many patients are behind rows."""
    return int(np.unique(sample.draws.code[rows]).size)


def patients_of_rarer_outcome(sample: Sample, found: Finding, inside: NDArray[np.bool_] | None = None) -> int:
    """Return how many patients have the rarer outcome, over the known rows of a finding that are `inside`."""
    outcome = found.target if inside is None else np.where(inside, found.target, np.nan)
    return min(patients(sample, found.rows[outcome == value]) for value in (1, 0))


def proportion(value: Interval, total: int, level: float) -> Interval:
    """Give a proportion of exactly 0 or 1 Wilson's interval: resampling cannot see what it never saw.

    `total` is the number of patients behind it.
    """
    if value.value not in (0.0, 1.0) or value.low < value.high:
        return value
    low, high = wilson(value.value * total, total, level)
    low, high = (0.0, high) if value.value == 0.0 else (low, 1.0)
    return replace(value, low=low, high=high, note=f"Wilson, {total} patients")


def _cells(value: Any, wide: bool) -> list[Any]:
    if isinstance(value, Interval):
        known = math.isfinite(value.value)
        return [repr(value.value) if known else value.note, *(_number(bound) for bound in (value.low, value.high))]
    return [_number(value), "", ""] if wide else [_number(value)]


def _number(value: Any) -> Any:
    if isinstance(value, (float, np.floating)):
        return repr(float(value)) if math.isfinite(value) else ""
    return "" if value is None else value
