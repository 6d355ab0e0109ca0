"""The model card of a bundle: what is known is filled in, what is not is said to be missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LICENCE = """No licence to these weights has been stated by their makers: ask them before using or passing them on.
The weights were learnt from patient images; treat them as data close to personal data.
"""


def card(name: str, labels: Mapping[str, Any], provenance: Mapping[str, Any], metrics: Mapping[str, float]) -> str:
    """Return the card as Markdown. `metrics` are the run's `test/...` values, with intervals where they were logged."""
    lines = [f"# {name}", "", "**Research only. NOT FOR DIAGNOSTIC USE.**", "", "## What it says", ""]
    lines += ["| output | meaning |", "|---|---|"]
    lines += [f"| {output} | {meaning.get('text', output)} |" for output, meaning in labels["definitions"].items()]
    lines += ["", "## How well, on the test split", ""]
    tested = {key: value for key, value in sorted(metrics.items()) if key.startswith("test/")}
    if tested:
        lines += ["| metric | value |", "|---|---|", *(f"| {key[5:]} | {value:.4g} |" for key, value in tested.items())]
    else:
        lines += ["Not evaluated on a test split: **this is a draft**."]
    code = provenance.get("code", {})
    lines += ["", "## Where it comes from", "", f"- run: {provenance.get('run_id', 'unknown')}"]
    lines += [f"- code: {code.get('commit') or 'an installed package'}"]
    if code.get("dirty"):
        lines += ["- **the code had changes that no commit holds**"]
    lines += [f"- sha256 of {key}: {value}" for key, value in sorted(provenance.get("hashes", {}).items())]
    if told := provenance.get("determinism"):
        lines += [f"- trained again with the same settings: {told}"]
    lines += _starting_weights(provenance.get("weights") or {})
    lines += ["", "## What the authors must add", ""]
    lines += [
        "Intended users and setting, population, known failures, licence of the data and of the starting weights."
    ]
    return "\n".join(lines) + "\n"


def _starting_weights(weights: Mapping[str, str]) -> list[str]:
    """Return what is known of the checkpoint a training began with, and what its licence forbids."""
    told = {
        "starting weights": weights.get("weights"),
        "their licence": weights.get("licence"),
        "**their licence forbids**": weights.get("forbids"),
        "they were pretrained on": weights.get("pretrained_on"),
        "their source": weights.get("citation"),
    }
    return [f"- {key}: {value}" for key, value in told.items() if value]
