"""The evaluation report: tables and figures from predictions, as JSON, CSV, PNG and one HTML page that opens offline.

A section is a function over the test sample that returns tables and figures; sections made elsewhere (robustness,
out-of-distribution, localisation) come as finished `Section`s in `Extras` and are printed in the order given.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medvit.dataset.leakage.audit import leaks_allowed
from medvit.errors import EvaluationError
from medvit.metric.bootstrap import Interval
from medvit.prediction.predictions import Sample
from medvit.prediction.thresholds import FrozenThresholds
from medvit.report import checklist, figures
from medvit.report.figures import Figure
from medvit.report.section import cohort, confusion, discrimination, failures, probability, subgroups
from medvit.report.section.failures import Pictures
from medvit.report.section.headline import headline, leaks
from medvit.report.section.shift import shift
from medvit.report.table import Row, Table, plain
from medvit.report.wording import class_name, format_estimate, full_precision

SCHEMA = "medvit.report/1"


@dataclass(frozen=True)
class Section:
    """Part of the page. Tables named in `hidden` go to JSON and CSV only: hundreds of rows nobody reads on paper."""

    title: str
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    text: str = ""
    hidden: tuple[str, ...] = ()
    pictures: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Extras:
    """What a report can hold besides predictions; every part may be left out.

    `provenance`: plain values (run, digests, model, data, labels, ... see `checklist.FROM_PROVENANCE`), no paths; its
    "about" stands under the title, its "classes" holds the label table's words for absence and presence of a finding;
    `baselines`: name -> table with `uid` and `score.<finding>`; `train`: `uid`, `patient` of the training images;
    `pictures`: uids -> uint8 arrays for the failure gallery; `sections`: finished sections of other modules, whose
    tables named robustness, ood, localisation, faithfulness or seeds also answer checklist items; `late` makes more of
    them from the opened test sample and the frozen thresholds;
    `answers`: an author's answers to checklist items, by "CLAIM 2024 5"; `cautions`: sentences that come before every
    number, `warned` makes more of them once the tested set is open; `split`: what the tested set is called.
    """

    provenance: Mapping[str, Any] = field(default_factory=dict)
    baselines: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    train: pd.DataFrame | None = None
    pictures: Pictures | None = None
    sections: tuple[Section, ...] = ()
    answers: Mapping[str, str] = field(default_factory=dict)
    late: Callable[[Sample, FrozenThresholds], tuple[Section, ...]] | None = None
    cautions: tuple[str, ...] = ()
    warned: Callable[[FrozenThresholds], tuple[str, ...]] | None = None
    split: str = "test"


@dataclass(frozen=True)
class Report:
    """Everything a report says: `headline` sentences, sections, and `content`, which is report.json.

    `about`: model, data set, run and dates, printed under the title; `labels`: finding -> words for absent and present.
    """

    headline: Sequence[str]
    sections: Sequence[Section]
    content: dict[str, Any]
    title: str = "Evaluation report"
    about: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def tables(self) -> dict[str, Table]:
        """Return all tables by name."""
        return {table.name: table for section in self.sections for table in section.tables}


def make_report(test: Sample, validation: Sample, frozen: FrozenThresholds, extras: Extras | None = None) -> Report:
    """Return the report of one test set.

    Raises:
        EvaluationError: shared patients, a missing group column, or a baseline of another test set.
    """
    extras = extras or Extras()
    *body, annex = _sections(test, validation, frozen, extras)
    body += [*extras.sections, annex]
    tables = {table.name: table for section in body for table in section.tables}
    facts = checklist.facts(test, frozen, tables, extras.provenance)
    items = checklist.checklist(facts, extras.answers)
    source = _provenance(test, validation, frozen, extras)
    body += [Section("Provenance", (source,)), Section("Reporting checklists", (items,))]
    labels = extras.provenance.get("classes", {})
    numbers = headline(test, tables, extras.split, labels)
    head = [*leaks(tables["audit"], extras.provenance), *extras.cautions, *numbers]
    about = dict(extras.provenance.get("about", {}))
    title = about.pop("title", Report.title)
    content = {
        "schema": SCHEMA,
        "title": title,
        "about": about,
        "headline": head,
        "spec": plain(test.spec.to_json()),
        "thresholds": frozen.hash,
        "digest": {"test": test.digest, "validation": validation.digest},
        "tables": {table.name: table.to_json() for section in body for table in section.tables},
        "figures": [
            {"name": figure.name, "title": figure.title, "caption": figure.caption}
            for section in body
            for figure in section.figures
        ],
    }
    return Report(head, body, content, title, about, labels)


def audit(test: Sample, validation: Sample, extras: Extras) -> Table:
    """Return the leakage audit of the tested set; raises EvaluationError where it shares what no setting allowed."""
    known = None if extras.split == "val" else validation
    allowed, external = leaks_allowed(extras.provenance), "external" in extras.provenance
    return cohort.audit(test, known, extras.train, allowed, external)


def write(report: Report, folder: Path) -> Path:
    """Write report.json, report.html, tables/*.csv and figures/*.png into `folder`; return the page's place.

    Raises:
        EvaluationError: the folder cannot be written.
    """
    try:
        return _write(report, folder)
    except OSError as error:
        raise EvaluationError(f"the report cannot be written ({error.strerror}); give another out=DIR") from error


def _write(report: Report, folder: Path) -> Path:
    for part in ("tables", "figures"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for name, table in report.tables.items():
        (folder / "tables" / f"{name}.csv").write_text(table.to_csv(), "utf-8")
    for section in report.sections:
        for figure in section.figures:
            (folder / "figures" / f"{figure.name}.png").write_bytes(figure.png)
    text = json.dumps(report.content, indent=1, allow_nan=False, ensure_ascii=False)
    (folder / "report.json").write_text(text + "\n", "utf-8")
    page = folder / "report.html"
    page.write_text(html(report), "utf-8")
    return page


def html(report: Report) -> str:
    """Return the page: no script, no outside address, figures inside."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    filters: dict[str, Any] = {
        "bounds": lambda value: value.bounds,
        "cell": format_estimate,
        "exact": full_precision,
        "svg": _svg,
        "slug": _slug,
        "class_name": class_name,
    }
    environment.filters.update(filters)
    source = resources.files("medvit.report").joinpath("templates/evaluation.html").read_text("utf-8")
    return environment.from_string(source).render(report=report)


def _sections(test: Sample, validation: Sample, frozen: FrozenThresholds, extras: Extras) -> list[Section]:
    itself = extras.split == "val"
    audited = audit(test, validation, extras)  # first: a leaking test set must not give a number
    by_group, gaps = subgroups.subgroups(test, frozen)
    areas, failed = discrimination.findings(test, frozen), failures.failures(test, frozen)
    curve, scaled = probability.reliability_curve(test, frozen), probability.calibration(test, frozen)
    benefit, shares = probability.decision_curve(test, frozen), probability.histograms(test, frozen)
    drawn = _figures(test, frozen, {table.name: table for table in (areas, by_group, curve, benefit, shares)})
    asked = discrimination.grades(test, frozen), discrimination.measurements(test), confusion.confusion(test)
    return [
        Section("Who was tested", (cohort.cohort(test, validation, extras.split), audited)),
        Section("Discrimination", (areas, *asked), drawn["area"]),
        Section("Operating points", discrimination.operating_points(test, frozen)),
        Section("Calibration", (scaled, curve, shares), drawn["calibration"], hidden=(curve.name, shares.name)),
        Section(
            "Clinical usefulness",
            (benefit, probability.conformal(test, frozen)),
            drawn["decision"],
            hidden=("decision",),
        ),
        Section("Subgroups and fairness", (by_group, gaps), drawn["forest"]),
        Section(
            "Shortcut baselines",
            (cohort.baselines(test, frozen, extras.baselines), confusion.most_probable(test, extras.baselines)),
        ),
        Section("Shift", () if itself else shift(test, validation, extras.split)),
        Section("Failures", (failed,), hidden=("failures",), pictures=failures.pictures(failed, extras.pictures)),
        Section("Annex", (discrimination.annex(test, frozen),)),
    ]


def _figures(test: Sample, frozen: FrozenThresholds, tables: Mapping[str, Table]) -> dict[str, tuple[Figure, ...]]:
    if not test.spec.detail.figures:
        return dict.fromkeys(("area", "calibration", "decision", "forest"), ())
    rows = tables["findings"].rows
    overall = {row["finding"]: row["auroc"] for row in rows if isinstance(row["auroc"], Interval)}
    return {
        "area": _some(figures.roc(test, frozen), figures.pr(test, frozen)),
        "calibration": _some(figures.calibration(tables["reliability"]), figures.histograms(tables["histogram"])),
        "decision": _some(figures.decision(tables["decision"])),
        "forest": _some(figures.forest(tables["subgroups"], overall)),
    }


def _provenance(test: Sample, validation: Sample, frozen: FrozenThresholds, extras: Extras) -> Table:
    given = {str(key): value for key, value in extras.provenance.items() if key != "about"}
    ours = {
        "report schema": SCHEMA,
        "test set sha256": test.digest,
        "validation set sha256": validation.digest,
        "thresholds sha256": frozen.hash,
        "numpy": np.__version__,
    }
    rows = [{"what": key, "value": json.dumps(plain(value)) if isinstance(value, (dict, list)) else str(value)}
            for key, value in {**given, **ours}.items()]  # fmt: skip
    return Table("provenance", "Provenance", {"what": "What", "value": "Value"}, rows)


def _some(*drawn: Figure | None) -> tuple[Figure, ...]:
    return tuple(figure for figure in drawn if figure is not None)


def _svg(text: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text.lower())
