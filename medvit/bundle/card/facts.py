"""What a card is written from: the run's own facts, the sealed test numbers, and what only its authors know."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medvit.errors import ConfigError

NEEDS = "needs author"
AUTHOR = {
    "developer": "who made the model",
    "contact": "how to reach them",
    "funding": "who paid for its development",
    "license": "identifier of the licence on Hugging Face, for example cc-by-nc-4.0",
    "summary": "what the model is, in a few sentences",
    "availability": "where it may be had",
    "regulatory": "clearances, or that there are none",
    "intended_use": "what it is for, and where in the work",
    "users": "who shall use it",
    "how_to_use": "how its output shall be read",
    "population": "patients it is for",
    "decision_role": "whether it informs, augments or replaces a decision",
    "out_of_scope": "tasks, situations and patients it is not for",
    "risks": "known risks, inappropriate uses and limits",
    "biases": "known biases and ethical considerations",
    "risk_level": "clinical risk level",
    "training_data": "source, inclusion and exclusion criteria of the training data",
    "demographics": "who is represented in the training data",
    "relevance": "how near the training data are to the place of use",
    "fairness": "how fair output was sought",
    "bias_mitigation": "what was done against bias",
    "external_data": "source and setting of external validation",
    "external_party": "who validated externally",
    "external_demographics": "who is represented in the external data",
    "external_process": "how it was validated externally",
    "external_validity": "performance in external data",
    "external_fairness": "fairness in external data",
    "outcomes": "evaluations of its effect on outcomes of patients",
    "monitoring": "how and how often validity is watched",
    "local_validity": "performance in local data",
    "fairness_monitoring": "how and how often fairness is watched",
    "local_fairness": "fairness in local data",
    "updates": "how and how often it is updated",
    "corrections": "how often performance is corrected once risks are found",
    "stakeholders": "who was asked",
    "publications": "peer-reviewed publications",
    "consent": "consent of the patients, or disclosure to them",
    "bibliography": "references",
}
"""The texts of authors that a card has room for, as `card` of `export` and `register` takes them."""


@dataclass(frozen=True)
class Number:
    """A sealed test number of one finding with its 95 % interval; None where it has none."""

    finding: str
    metric: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Facts:
    """Everything a card says; `report` is the sealed report.json of the test side, {} before evaluation."""

    name: str
    labels: Mapping[str, Any]
    provenance: Mapping[str, Any]
    metrics: Mapping[str, float] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    acceptance: Mapping[str, Any] = field(default_factory=dict)
    author: Mapping[str, str] = field(default_factory=dict)

    def said(self, key: str) -> str:
        """Return the authors' text, or that it is missing."""
        return self.author.get(key) or NEEDS

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Return the rows of a table of the sealed report."""
        found: list[dict[str, Any]] = self.report.get("tables", {}).get(table, {}).get("rows", [])
        return found

    def numbers(self) -> list[Number]:
        """Return the headline numbers of the test side: discrimination, agreement, error, operating points."""
        wanted = {
            "findings": {"auroc": "AUROC", "auprc": "AUPRC"},
            "grades": {"kappa": "weighted kappa", "mae": "mean absolute error"},
            "measurements": {"mae": "mean absolute error", "bias": "bias"},
            "operating_points": {"sensitivity": "sensitivity", "specificity": "specificity"},
        }
        found: list[Number] = []
        for table, columns in wanted.items():
            for row in self.rows(table):
                rule = f" ({row['rule']}, threshold {row['threshold']:.3g})" if "rule" in row else ""
                found += _numbers(row, columns, row.get("finding", "grade"), rule)
        return found

    def subgroups(self) -> list[Number]:
        """Return the AUROC of every subgroup of the test side that is large enough for one."""
        rows = self.rows("subgroups")
        return [
            number
            for row in rows
            for number in _numbers(row, {"auroc": "AUROC"}, row["finding"], f", {row['column']} {row['group']}")
        ]

    def tested(self) -> str:
        """Return who was tested, "" before evaluation."""
        cohort = [row for row in self.rows("cohort") if row.get("split") != "validation"]
        if not cohort:
            return ""
        who = f"{cohort[0]['images']} images of {cohort[0]['patients']} patients"
        source = self.report.get("about", {}).get("Data set", "")
        return f"{who}; {source}" if source else who

    def limits(self) -> str:
        """Return in words what images are refused before the network sees them, "" where nothing is."""
        told = [
            f"{key.replace('_', ' ')}: {_limit(limit)}"
            for key, limit in sorted(self.acceptance.items())
            if key != "unlike"
        ]
        return f"Refused unless within the limits of the training images ({'; '.join(told)})." if told else ""


def _limit(limit: Any) -> str:
    if isinstance(limit, Mapping):
        return " to ".join(f"{value:g}" for value in limit.values() if isinstance(value, int | float))
    return ", ".join(str(one) or "none" for one in limit) if isinstance(limit, list | tuple) else str(limit)


def _numbers(row: Mapping[str, Any], columns: Mapping[str, str], finding: str, more: str) -> Iterator[Number]:
    for key, metric in columns.items():
        cell = row.get(key)
        cell = cell if isinstance(cell, Mapping) else {"value": cell}
        if cell.get("value") is not None:
            yield Number(finding, metric + more, float(cell["value"]), cell.get("low"), cell.get("high"))


def author_texts(given: Mapping[str, Any] | str | Path | None) -> dict[str, str]:
    """Return the authors' texts from a mapping, or from a YAML file that holds one.

    Raises:
        ConfigError: no such file, no mapping, or keys and values that no card has; all are named.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        given = _read(Path(given))
    problems = []
    for key, text in given.items():
        if key not in AUTHOR:
            near = difflib.get_close_matches(str(key), AUTHOR, 1)
            problems.append(f"card.{key}: no such text; " + (f"did you mean {near[0]}?" if near else _known()))
        elif text is not None and (not isinstance(text, str) or not text.strip()):
            problems.append(f"card.{key}: expected a text ({AUTHOR[key]}), found {text!r}")
    if problems:
        raise ConfigError("; ".join(problems))
    return {str(key): text.strip() for key, text in given.items() if text is not None}


def _known() -> str:
    return f"known are {', '.join(AUTHOR)}"


def _read(file: Path) -> Mapping[str, Any]:
    import yaml  # type: ignore[import-untyped]

    asked = "expected a YAML file with texts of authors, e.g. a line `intended_use: ...`"
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"card: the file cannot be read ({type(error).__name__}); {asked}") from error
    if not isinstance(found, Mapping):
        raise ConfigError(f"card: the file holds no mapping; {asked}; {_known()}")
    return found
