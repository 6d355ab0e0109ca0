"""Which items of CLAIM 2024, TRIPOD+AI and STARD-AI the report fills by itself, and which need an author.

The items are in checklist.json, in our words; `fill` names the fact that answers one, empty where only an author can.
A fact that is not at hand leaves its items to the author: nothing is filled with a promise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from medvit.prediction.predictions import Sample
from medvit.prediction.thresholds import FrozenThresholds
from medvit.report.table import Row, Table

AUTO, AUTHOR, NOT_APPLICABLE = "auto-filled", "needs author", "n/a"
# What only the run knows; given as provenance under these keys (a sentence, or a mapping that is printed).
FROM_PROVENANCE = (
    "data", "criteria", "preprocess", "labels", "model", "weights", "training", "selection", "software", "materials",
    "pseudonym", "imbalance", "partition",
)  # fmt: skip


def checklist(facts: Mapping[str, str], answers: Mapping[str, str] | None = None) -> Table:
    """Return every item with its state and what fills it; `answers` are an author's, by "GUIDELINE ITEM"."""
    written = answers or {}
    rows: list[Row] = []
    for item in json.loads(resources.files("medvit.report").joinpath("checklist.json").read_text("utf-8")):
        text = written.get(f"{item['guideline']} {item['item']}") or facts.get(item["fill"], "")
        state = NOT_APPLICABLE if text.startswith("n/a") else AUTO if text else AUTHOR
        rows.append({"guideline": item["guideline"], "item": item["item"], "what": item["what"], "state": state,
                     "text": text})  # fmt: skip
    filled = sum(row["state"] == AUTO for row in rows)
    columns = {"guideline": "Guideline", "item": "Item", "what": "Asks for", "state": "State", "text": "Answer"}
    note = (
        f"{filled} of {len(rows)} items filled ({filled / len(rows):.0%}). Items are paraphrased; cite the originals."
    )
    return Table("checklist", "Reporting checklists", columns, rows, note)


def facts(
    test: Sample, frozen: FrozenThresholds, tables: Mapping[str, Table], provenance: Mapping[str, Any]
) -> dict[str, str]:
    """Return the sentences that answer items, from the tables that were made and from the run's provenance."""
    known = {key: _sentence(provenance[key]) for key in FROM_PROVENANCE if provenance.get(key)}
    return {**_measured(test, tables), **_methods(test, frozen), **_external(provenance), **_parts(tables), **known}


def _measured(test: Sample, tables: Mapping[str, Table]) -> dict[str, str]:
    spec, boot = test.spec, test.spec.bootstrap
    names = ", ".join(spec.names)
    size = f"{len(test.table)} {spec.aggregate.unit} units of {len(set(test.patient))} patients"
    return {
        "title": f"Draft: evaluation of a deep-learning model for {names} in radiology images.",
        "abstract": f"Draft of the results: on {size}, see the headline, with {boot.level:.0%} intervals.",
        "subset": f"Test split only: {size}. Aggregation: {spec.aggregate.unit}, {spec.aggregate.rule}.",
        "flow": f"Table “{tables['cohort'].title}”: images, units, patients and missing labels per split.",
        "events": f"Table “{tables['findings'].title}”: n, patients and positives per finding.",
        "internal": "Performance on the held-out test split, opened once, after thresholds were frozen.",
        "performance": "Tables “Discrimination”, “Operating points” and “Calibration”, each number with its interval.",
        "crosstab": "Table “Operating points”: TP, FN, FP, TN per finding and threshold.",
        "ensemble": "None: one model answers.",
    }


def _methods(test: Sample, frozen: FrozenThresholds) -> dict[str, str]:
    spec, boot = test.spec, test.spec.bootstrap
    return {
        "missing": "A missing or ignored label is left out of its finding, in training and here; counts are given.",
        "input": "The image is the only input; no predictor was chosen or assessed by hand.",
        "blinding": "The index test is automatic: it had no access to clinical data or to the reference standard.",
        "metrics": "AUROC, AUPRC, rates at frozen thresholds, calibration, net benefit, probability histograms.",
        "uncertainty": f"{boot.level:.0%} {boot.method} intervals over patients, {boot.draws} draws, seed {boot.seed}; "
        "DeLong with patients as clusters; Holm where models are compared.",
        "clusters": "Images of a patient are resampled together in every interval.",
        "thresholds": f"Chosen on validation, frozen (sha256 {frozen.hash[:12]}) before the test set was opened.",
        "output": f"Calibrated probability per {spec.aggregate.unit} (scaling on validation: {spec.calibration}).",
        "updating": "n/a: nothing was refitted on the test set.",
        "sample_size": f"Post hoc: positives needed for ±{spec.detail.half_width} per finding (Hanley and McNeil).",
        "indeterminate": f"Conformal sets at alpha {spec.detail.alpha}: share of uncertain and empty sets.",
    }


def _external(provenance: Mapping[str, Any]) -> dict[str, str]:
    site = provenance.get("external")
    return {"external": _sentence(site) if site else "n/a: this report is on the internal test split."}


def _parts(tables: Mapping[str, Table]) -> dict[str, str]:
    """Return what a section answers, if it is there and not empty."""
    answers = {
        "subgroups": {"subgroups": "Table “Subgroups”, with n and intervals; insufficient where too few."},
        "fairness": {"fairness": "Table “Gaps between groups”: worst group, gaps of AUROC and sensitivity."},
        "shift": {"shift": "Table “Shift between validation and test”.",
                  "demographics": "Table “Shift between validation and test”: sex, age, vendor, view in both splits.",
                  "acquisition": "Table “Shift between validation and test”: modality, view, vendor by header.",
                  "centres": "Table “Shift between validation and test”: site, where the manifest has one."},
        "audit": {"disjoint": "By patient; table “Leakage audit”: nothing shared, or the leak allowed is named.",
                  "partition": "By patient, frozen with a hash before training; see provenance."},
        "baselines": {"benchmark": "Table “Shortcut baselines”: pixels and metadata alone, same split, paired."},
        "failures": {"failures": "Worst false positives and negatives per finding, by pseudonym."},
        "robustness": {"robustness": "Section “Robustness”: change of AUROC per perturbation and severity."},
        "localisation": {"explanation": "Section “Localisation”: maps scored against annotations."},
        "faithfulness": {"explanation": "Section “Explanation”: faithfulness and sanity of the maps."},
        "seed_runs": {"ensemble": "Mean of the logits of the trainings in table “Each run”; their spread in “Seeds”."},
        "ood": {"refusals": "Inputs unlike the training data are scored and refused; see that section."},
    }  # fmt: skip
    found: dict[str, str] = {}
    for name, texts in answers.items():
        if name in tables and tables[name].rows:
            found |= texts
    return found


def _sentence(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {each}" for key, each in value.items())
    return str(value)
