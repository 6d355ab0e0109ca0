"""Distribution shift between validation and the tested set: prevalence, age, sex, vendor, view, intensity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvit.metric import shift as spread
from medvit.metric.bootstrap import interval
from medvit.metric.multiplicity import holm
from medvit.prediction.predictions import Sample
from medvit.report.table import Row, Table

Array = NDArray[np.float64]
WORDS = ("sex", "manufacturer", "view", "modality", "photometric", "table.site")
NUMBERS = ("age_years", "intensity_mean", "intensity_std")
_MOST_WORDS, _DEALT, _BINS = 8, 1000, 10


class Covariate(NamedTuple):
    """One column in both sets: rows [n] of each sample where it is known, its numbers or bins there, names of bins."""

    name: str
    rows: Sequence[NDArray[np.intp]]
    values: Sequence[Array]
    bins: Sequence[NDArray[np.intp]]
    words: list[str]

    @property
    def numeric(self) -> bool:
        """Say whether it is a number, not a word."""
        return self.name in NUMBERS


def shift(test: Sample, validation: Sample, called: str = "test") -> tuple[Table, Table]:
    """Return shares and means of both sets with their differences, and how differently each column is spread."""
    rows: list[Row] = []
    whole: list[Row] = []
    for column in _columns(test, validation):
        rows += _rows(column, validation, test)
        whole.append(_whole(column, validation, test))
    for row, p in zip(whole, holm([row["p"] for row in whole]), strict=True):
        row["holm"] = float(p)
    columns = {"what": "What", "value": "Value", "validation": "Validation", "test": called.capitalize(),
               "change": "Difference", "standardised": "Standardised difference"}  # fmt: skip
    note = (
        "Shares and means, intervals by resampling the patients of both sets. Standardised difference: difference over "
        "the pooled standard deviation; above 0.1 in size the sets differ in a way that may show in the results. "
        "Intensity: of the model's input, 0 black to 1 white, over each image."
    )
    kinds = {"what": "What", "distance": "Largest difference of the distributions", "psi": "Stability index (PSI)",
             "p": "p", "holm": "p, Holm"}  # fmt: skip
    told = (
        "Distance: of numbers Kolmogorov and Smirnov's, of words half the sum of differences of shares; p by dealing "
        f"whole patients to the two sets at random {_DEALT} times. PSI in {_BINS} bins of validation: by convention "
        "little below 0.1, much above 0.25; it is above 0 by chance in small sets, and so is its interval."
    )
    return (
        Table("shift", f"Shift between validation and {called}", columns, rows, note),
        Table("shift_whole", "How differently each is spread", kinds, whole, told),
    )


def _columns(test: Sample, validation: Sample) -> Iterator[Covariate]:
    sides = (validation, test)
    for k, name in enumerate(test.spec.names if test.spec.kind != "regression" else ()):
        known = [np.flatnonzero(np.isfinite(side.target[:, k])) for side in sides]
        if all(rows.size for rows in known):
            values = [side.target[rows, k] for side, rows in zip(sides, known, strict=True)]
            bins = [each.astype(np.intp) for each in values]
            yield Covariate(f"prevalence of {name}", known, values, bins, ["", "present"])
    for name in (*NUMBERS, *WORDS):
        if not all(name in side.table for side in sides):
            continue
        if name in NUMBERS:
            numbers = [pd.to_numeric(side.table[name], errors="coerce").to_numpy(np.float64) for side in sides]
            known = [np.flatnonzero(np.isfinite(each)) for each in numbers]
            if all(rows.size > 1 for rows in known):
                values = [each[rows] for each, rows in zip(numbers, known, strict=True)]
                edges = np.unique(np.quantile(values[0], np.linspace(0, 1, _BINS + 1)[1:-1]))
                bins = [np.searchsorted(edges, each, side="right") for each in values]
                yield Covariate(name, known, values, bins, [""] * (edges.size + 1))
            continue
        texts = [side.table[name].fillna("").astype(str).str.strip().replace("", "unknown") for side in sides]
        words = sorted(set(texts[0]) | set(texts[1]))
        bins = [np.searchsorted(words, text.to_numpy(str)) for text in texts]
        yield Covariate(name, [np.arange(len(t)) for t in texts], [b.astype(float) for b in bins], bins, words)


def _rows(column: Covariate, validation: Sample, test: Sample) -> list[Row]:
    """Return one row for a number, one per word (the commonest) for words."""
    if column.numeric:
        return [_row(column.name, "mean", column, column.values, validation, test)]
    share = [np.bincount(bins, minlength=len(column.words)) / bins.size for bins in column.bins]
    commonest = np.argsort(-np.maximum(*share), kind="stable")[:_MOST_WORDS]
    return [
        _row(column.name, column.words[k], column, [(bins == k).astype(float) for bins in column.bins],
             validation, test)
        for k in commonest if column.words[k]
    ]  # fmt: skip


def _row(what: str, value: str, column: Covariate, numbers: Sequence[Array], validation: Sample, test: Sample) -> Row:
    level = test.spec.bootstrap.level
    points, drawn = _both((validation, test), [spread.mean_and_variance(each) for each in numbers], column.rows)
    before, after = float(points[0][0, 0]), float(points[1][0, 0])
    apart = drawn[1][:, 0] - drawn[0][:, 0]
    scaled = interval(
        float(spread.standardised_difference(*points)[0]), spread.standardised_difference(*drawn), level=level
    )
    return {"what": what, "value": value, "validation": before, "test": after,
            "change": interval(after - before, apart, level=level),
            "standardised": scaled if np.isfinite(scaled.value) else None}  # fmt: skip


def _both(
    sides: tuple[Sample, Sample], statistics: Sequence[spread.Statistic], rows: Sequence[NDArray[np.intp]]
) -> tuple[list[Array], list[Array]]:
    """Return the statistic [1 M] and its draws [D M] of both sets, one set's turned so that they are not the same."""
    each = list(zip(sides, statistics, rows, strict=True))
    drawn = [side.draws.apply(of, mine) for side, of, mine in each]
    return [side.draws.point(of, mine)[None] for side, of, mine in each], [drawn[0], drawn[1][::-1]]


def _whole(column: Covariate, validation: Sample, test: Sample) -> Row:
    level, seed, count = test.spec.bootstrap.level, test.spec.bootstrap.seed, len(column.words)
    sides = (validation, test)
    point, drawn = _both(sides, [spread.proportions(bins, count) for bins in column.bins], column.rows)
    patient = np.concatenate([side.patient[rows].astype(str) for side, rows in zip(sides, column.rows, strict=True)])
    second = np.repeat([False, True], [rows.size for rows in column.rows])
    values, bins = np.concatenate(column.values), np.concatenate(column.bins)
    distance = spread.kolmogorov_smirnov(values) if column.numeric else spread.total_variation(bins, count)
    psi = float(spread.stability_index(*point)[0])
    return {"what": column.name, "distance": float(distance(second[None].astype(float))[0]),
            "psi": interval(psi, spread.stability_index(*drawn), level=level),
            "p": spread.permutation_test(distance, patient, second, _DEALT, seed)}  # fmt: skip
