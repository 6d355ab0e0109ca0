"""The model card as Markdown: what is known is filled in, what is not is said to be missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medvit.bundle.card.facts import Facts, Number
from medvit.bundle.card.hti1 import attributes, told

LICENCE = """No licence to these weights has been stated by their makers: ask them before using or passing them on.
The weights were learnt from patient images; treat them as data close to personal data.
"""
_HUB_METRICS = {"AUROC": "roc_auc", "AUPRC": "average_precision", "mean absolute error": "mae"}


def card(facts: Facts) -> str:
    """Return the card as Markdown with Hugging Face's front matter; its numbers are the sealed ones of the test."""
    parts = [["# " + facts.name, "", "**Research only. NOT FOR DIAGNOSTIC USE.**"], _uses(facts), _outputs(facts)]
    parts += [_tested(facts), _subgroups(facts.subgroups()), _origin(facts), _hti1(facts)]
    return _front_matter(facts) + "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def shortened(text: str, most: int = 5000) -> str:
    """Return a card without front matter and, beyond `most` characters (MLflow's column), without its last sections."""
    body = text.split("---\n", 2)[-1] if text.startswith("---\n") else text
    if len(body) <= most:
        return body
    more = "The whole card is docs/README.md of the bundle, among the files of this model."
    room = most - len(more) - 2
    while len(body) > room and "\n\n## " in body:
        body = body.rpartition("\n\n## ")[0]
    return f"{body[:room]}\n\n{more}"


def _front_matter(facts: Facts) -> str:
    import yaml  # type: ignore[import-untyped]

    licence = facts.author.get("license")
    named = {"license": licence} if licence else {"license": "other", "license_name": "see-license-file"}
    first = (facts.provenance.get("weights") or {}).get("weights", "")
    content: dict[str, Any] = {**named, "license_link": "LICENSE", "library_name": "medvit"}
    content |= {"pipeline_tag": "image-classification"} if facts.labels.get("task") != "regression" else {}
    content |= {"base_model": first} if first.count("/") == 1 and " " not in first else {}
    content["tags"] = ["medvit", "medical-imaging", "radiology", "dicom", "onnx", "research-only"]
    if numbers := facts.numbers():
        data = facts.report.get("about", {}).get("Data set", "test split")
        result = {
            "task": {"type": "image-classification"},
            "dataset": {"type": "private", "name": data, "split": "test"},
            "metrics": [_hub_metric(number) for number in numbers],
        }
        content["model-index"] = [{"name": facts.name, "results": [result]}]
    return f"---\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)}---\n"


def _hub_metric(number: Number) -> dict[str, Any]:
    kind = _HUB_METRICS.get(number.metric, number.metric.split(" (")[0].replace(" ", "_"))
    found: dict[str, Any] = {"type": kind, "name": f"{number.metric}, {number.finding}", "value": number.value}
    interval = {"level": 0.95, "low": number.low, "high": number.high}
    return found if number.low is None else {**found, "args": interval}


def _uses(facts: Facts) -> list[str]:
    headings = {
        "Intended use": "intended_use",
        "Users": "users",
        "Patients": "population",
        "Not for": "out_of_scope",
        "Risks and limits": "risks",
        "Developer": "developer",
        "Contact": "contact",
    }
    lines = [f"- **{heading}**: {_line(facts.said(key))}" for heading, key in headings.items()]
    return ["## Use", "", *lines, *([f"- **Accepted images**: {_line(facts.limits())}"] if facts.limits() else [])]


def _outputs(facts: Facts) -> list[str]:
    rows = [f"| {_cell(name)} | {_cell(one.get('text', name))} |" for name, one in facts.labels["definitions"].items()]
    return ["## What it says", "", "| output | meaning |", "|---|---|", *rows]


def _tested(facts: Facts) -> list[str]:
    lines, numbers = ["## How well, on the test split", ""], facts.numbers()
    logged = {key: value for key, value in sorted(facts.metrics.items()) if key.startswith("test/")}
    if numbers:
        who = facts.tested()
        lines += [
            *([f"{who}.", ""] if who else []),
            "| finding | metric | value | 95 % interval |",
            "|---|---|---|---|",
        ]
        return lines + [
            f"| {_cell(one.finding)} | {one.metric} | {one.value:.4g} | {_interval(one)} |" for one in numbers
        ]
    if logged:
        return [
            *lines,
            "| metric | value |",
            "|---|---|",
            *(f"| {key[5:]} | {value:.4g} |" for key, value in logged.items()),
        ]
    return [*lines, "Not evaluated on a test split: **this is a draft**."]


def _interval(number: Number) -> str:
    return "" if number.low is None or number.high is None else f"{number.low:.4g} to {number.high:.4g}"


def _subgroups(groups: Sequence[Number]) -> list[str]:
    return ["## Subgroups of the test split", "", *(f"- {told(number)}" for number in groups)] if groups else []


def _origin(facts: Facts) -> list[str]:
    provenance, code = facts.provenance, facts.provenance.get("code", {})
    lines = ["## Where it comes from", "", f"- run: {provenance.get('run_id', 'unknown')}"]
    lines += [f"- code: {code.get('commit') or 'an installed package'}"]
    if code.get("dirty"):
        lines += ["- **the code had changes that no commit holds**"]
    lines += [f"- sha256 of {key}: {value}" for key, value in sorted(provenance.get("hashes", {}).items())]
    if again := provenance.get("determinism"):
        lines += [f"- trained again with the same settings: {again}"]
    return lines + _starting_weights(provenance.get("weights") or {})


def _starting_weights(weights: Mapping[str, str]) -> list[str]:
    """Return what is known of the checkpoint a training began with, and what its licence forbids."""
    known = {
        "starting weights": weights.get("weights"),
        "their licence": weights.get("licence"),
        "**their licence forbids**": weights.get("forbids"),
        "they were pretrained on": weights.get("pretrained_on"),
        "their source": weights.get("citation"),
    }
    return [f"- {key}: {value}" for key, value in known.items() if value]


def _hti1(facts: Facts) -> list[str]:
    rows = [f"| {number} | {what} | {_cell(text)} |" for number, what, text in attributes(facts)]
    title = "## Source attributes of HTI-1 (45 CFR 170.315(b)(11)(iv)(B))"
    return [title, "", "| | attribute | of this model |", "|---|---|---|", *rows]


def _line(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")
