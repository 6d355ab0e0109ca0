"""What a label is worth: test AUROC of several starts against the patients they learnt from, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvit.errors import EvaluationError
from medvit.evaluation import archive, protocol
from medvit.metric.bootstrap import Draws, interval
from medvit.metric.multiplicity import holm
from medvit.metric.ranking import Ranking
from medvit.prediction.predictions import Finding, Sample, findings_of
from medvit.report.comparison import Side, refuse_incomparable
from medvit.report.figures import Figure
from medvit.report.learning_curve import draw
from medvit.report.section.cohort import baseline_scores, gain_over
from medvit.report.table import Row, Table
from medvit.report.wording import format_estimate

Array = NDArray[np.float64]
_BASELINES = ("pixel ridge", "pixel logistic regression")


@dataclass(frozen=True)
class Point:
    """One evaluated training: its start, share, seed and number of patients, and the folder of its evaluation."""

    start: str
    share: float
    seed: int
    patients: int
    folder: Path


@dataclass(frozen=True)
class LearningCurve:
    """Table and figure of the curve, and the table as Markdown."""

    table: Table
    figure: Figure
    markdown: str


@dataclass
class _Areas:
    """Macro AUROC of the trainings of one line at one share: each value, and its bootstrap draws [D]."""

    patients: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    drawn: list[Array] = field(default_factory=list)


def learning_curve(points: Sequence[Point], split: str) -> LearningCurve:
    """Return the curve of evaluated trainings, in the order of their starts; baselines come last.

    Values are means over seeds, intervals over patients of the test side (the same draws for every line, so that
    differences are paired). Several findings: the mean over those with both outcomes.

    Raises:
        EvaluationError: evaluations of different test sets or settings.
    """
    found: dict[tuple[str, float], _Areas] = {}
    first: Side | None = None
    level = 0.95
    for point in points:
        side = _side(point, split)
        if first is None:
            first, level = side, side.sample.spec.bootstrap.level
        refuse_incomparable(first, side)
        sample = side.sample
        findings = [each for each in findings_of(sample, side.frozen.calibration) if each.both]
        if not findings:
            raise EvaluationError(f"{split}: no finding has both positives and negatives; take a larger split")
        _add(found, point.start, point, _macro(sample.draws, [(each, each.margin) for each in findings]))
        given = archive.load_archive(point.folder).baselines if point.start == points[0].start else {}
        for name, scores in given.items():
            if name.startswith(_BASELINES) and all(f"score.{each.name}" in scores for each in findings):
                _add(found, name, point, _macro(sample.draws, _scores(sample, name, scores, findings)))
    starts = list(dict.fromkeys(point.start for point in points))
    lines = [*starts, *dict.fromkeys(name for name, _ in found if name not in starts)]
    rows = [row for share in sorted({point.share for point in points}) for row in _rows(found, lines, share, level)]
    table = _table(rows, starts[0], split, level)
    return LearningCurve(table, draw(table, starts, split), _markdown(table))


def _side(point: Point, split: str) -> Side:
    import json

    from medvit.prediction.spec import from_json

    spec = from_json(json.loads((point.folder / "report.json").read_text("utf-8"))["spec"])
    return Side(*protocol.sample_of(point.folder, spec, split), point.start)


def _scores(sample: Sample, name: str, table: pd.DataFrame, findings: Sequence[Finding]) -> list[tuple[Finding, Array]]:
    return [(each, baseline_scores(sample, name, table, each.name)[each.rows]) for each in findings]


def _macro(draws: Draws, scored: Sequence[tuple[Finding, Array]]) -> tuple[float, Array]:
    """Return the mean AUROC over findings, and its draws [D]."""
    ranked = [(Ranking(found.target, score), found.rows) for found, score in scored]
    value = float(np.mean([ranking.auroc()[0] for ranking, _ in ranked]))
    return value, np.mean([draws.apply(ranking.auroc, rows)[:, 0] for ranking, rows in ranked], axis=0)


def _add(found: dict[tuple[str, float], _Areas], name: str, point: Point, area: tuple[float, Array]) -> None:
    mine = found.setdefault((name, point.share), _Areas())
    mine.patients.append(point.patients)
    mine.values.append(area[0])
    mine.drawn.append(area[1])


def _rows(found: dict[tuple[str, float], _Areas], lines: Sequence[str], share: float, level: float) -> list[Row]:
    """Return one row per line at one share; p values are Holm's over the lines beside the first."""
    base = found[lines[0], share]
    rows: list[Row] = []
    for name in lines:
        mine = found.get((name, share))
        if mine is None:  # a baseline of too few patients
            continue
        mean, drawn = float(np.mean(mine.values)), np.mean(mine.drawn, axis=0)
        row: Row = {"start": name, "share": share, "patients": round(float(np.mean(mine.patients))),
                    "trainings": len(mine.values), "auroc": interval(mean, drawn, level=level),
                    "spread": float(np.std(mine.values, ddof=1)) if len(mine.values) > 1 else None}  # fmt: skip
        if name != lines[0]:
            row |= gain_over(mean - float(np.mean(base.values)), drawn - np.mean(base.drawn, axis=0), level)
        rows.append(row)
    adjusted = holm([row.get("p", np.nan) for row in rows])
    for row, p in zip(rows, adjusted, strict=True):
        row["p"] = float(p) if np.isfinite(p) else None
    return rows


def _table(rows: list[Row], first: str, split: str, level: float) -> Table:
    columns = {"start": "Start", "share": "Share", "patients": "Training patients", "trainings": "Trainings",
               "auroc": "AUROC", "spread": "SD over seeds", "gain": f"Minus {first}", "p": "p (Holm)",
               "verdict": f"Than {first}"}  # fmt: skip
    note = (
        f"Mean over seeds (other subsets, other trainings) of the AUROC on the {split} side; intervals of {level:.0%} "
        "over its patients, differences paired by patient, p corrected over the lines of one share. The spread over "
        "seeds is another chance, and not in the intervals. Baselines learn from the same patients."
    )
    return Table("curve", "What a label is worth", columns, rows, note)


def _markdown(table: Table) -> str:
    head = ["| " + " | ".join(table.columns.values()) + " |", "|" + "---|" * len(table.columns)]
    body = ["| " + " | ".join(format_estimate(row.get(key)) for key in table.columns) + " |" for row in table.rows]
    return "\n".join([*head, *body, "", table.note, ""])
