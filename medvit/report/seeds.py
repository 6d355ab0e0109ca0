"""The same training repeated with other seeds: what chance in training does, apart from chance in patients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medvit.errors import EvaluationError
from medvit.metric.ranking import Ranking
from medvit.report.comparison import Side, refuse_unlike
from medvit.report.evaluation import Section
from medvit.report.table import Row, Table, estimate, missing

Array = NDArray[np.float64]


def seeds(sides: Sequence[Side]) -> Section:
    """Return a section for `Extras.sections`: mean AUROC over seeds with its patient interval, and the SD over seeds.

    Raises:
        EvaluationError: fewer than two seeds, or runs of different test sets or questions.
    """
    if len(sides) < 2:
        raise EvaluationError(f"{len(sides)} run; a spread over seeds needs at least 2, better 3 or more")
    for side in sides[1:]:
        refuse_unlike(sides[0], side)
    sample, rows = sides[0].sample, list[Row]()
    for name in sample.spec.names:
        found = [side.sample.finding(name, side.frozen.calibration) for side in sides]
        if not found[0].both:
            rows.append({"finding": name, "runs": len(sides), "mean": missing(found[0].absent)})
            continue
        ranked = [Ranking(each.target, each.margin) for each in found]

        def mean(weight: Array, ranked: list[Ranking] = ranked) -> Array:
            return np.asarray(np.mean([each.auroc(weight) for each in ranked], axis=0), np.float64)

        values = np.array([each.auroc()[0] for each in ranked])
        rows.append({"finding": name, "runs": len(sides), "mean": estimate(sample, mean, found[0].rows)[0],
                     "spread": float(values.std(ddof=1)), "low": float(values.min()),
                     "high": float(values.max())})  # fmt: skip
    columns = {"finding": "Finding", "runs": "Runs", "mean": "Mean AUROC", "spread": "SD over seeds", "low": "Lowest",
               "high": "Highest"}  # fmt: skip
    note = "The interval is over patients, the SD over training seeds: two kinds of chance that are not added up here."
    return Section("Seeds", (Table("seeds", "Seeds", columns, rows, note),))
