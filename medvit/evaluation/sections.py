"""Report sections that need the network: robustness, out-of-distribution, explanation.

They are made after the thresholds are frozen and the test side is open. What is measured on validation (which method
explains, where the limits of the distances lie) is not touched by the test side.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from medvit.augment import perturbation
from medvit.engine.predict import table
from medvit.evaluation.explanation import explanation_sections
from medvit.evaluation.inference import OpenedRun, with_time_left
from medvit.evaluation.ood import ood_section
from medvit.metric.bootstrap import interval
from medvit.metric.ranking import Ranking
from medvit.prediction.predictions import Sample, findings_of, prepare
from medvit.prediction.thresholds import FrozenThresholds
from medvit.report.page import Section
from medvit.report.table import Row, Table

_log = logging.getLogger(__name__)


def sections(
    opened: OpenedRun, asked: Mapping[str, Any], sample: Sample, frozen: FrozenThresholds
) -> tuple[Section, ...]:
    """Return the sections that `asked` (conf/evaluate.yaml: sections) turns on."""
    opened.trained.network.to(opened.device).eval()
    made: list[Section] = []
    if asked["robustness"]:
        _log.info("disturbed test images (sections.robustness=false leaves them out)")
        made.append(robustness(opened, sample, frozen))
    if asked["ood"]:
        _log.info("images unlike training (sections.ood=false leaves them out)")
        made.append(ood_section(opened))
    if asked["explain"]:
        _log.info("maps and how far to believe them: the longest part (sections.explain=false leaves it out)")
        made += explanation_sections(opened, list(asked["methods"]), int(asked["images"]), asked.get("permuted"))
    return tuple(made)


def robustness(opened: OpenedRun, sample: Sample, frozen: FrozenThresholds) -> Section:
    """Measure how the AUROC changes under fixed disturbances of the test images, paired over the same patients."""
    rows: list[Row] = []
    whole = {f.name: (f, Ranking(f.target, f.margin)) for f in findings_of(sample, frozen.calibration) if f.both}
    drawn = {name: sample.draws.apply(ranking.auroc, f.rows)[:, 0] for name, (f, ranking) in whole.items()}
    boot = sample.spec.bootstrap
    ways = perturbation.every() if whole else ()
    for way in with_time_left(ways, "Disturbed images", len(ways)):
        found = opened.predict_units(opened.trained.network, opened.test, way)
        moved = prepare(table(found, opened.trained.task, opened.test.frame, opened.split), sample.spec, opened.split)
        for name, (before, ranking) in whole.items():
            after = Ranking(before.target, moved.finding(name, frozen.calibration).margin)
            change = sample.draws.apply(after.auroc, before.rows)[:, 0] - drawn[name]
            value = float(after.auroc()[0] - ranking.auroc()[0])
            severity = f"{way.severity:g} {perturbation.UNITS[way.kind]}"
            moved_by = interval(value, change, level=boot.level)
            rows.append({"finding": name, "kind": way.kind, "severity": severity, "auroc": float(after.auroc()[0]),
                         "change": moved_by})  # fmt: skip
    columns = {"finding": "Finding", "kind": "Disturbance", "severity": "Severity", "auroc": "AUROC",
               "change": "Change of AUROC"}  # fmt: skip
    note = "Fixed severities on the model's input; percentile intervals of the paired change, patients resampled."
    return Section("Robustness", (Table("robustness", "Disturbed test images", columns, rows, note),))
