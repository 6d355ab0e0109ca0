"""The card as CHAI's Applied Model Card: XML of github.com/coalition-for-health-ai/mc-schema, version 0.2."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree as ET

from medvit.bundle.card.facts import NEEDS, Facts, Number
from medvit.bundle.card.hti1 import kind

NAMESPACE = "https://mc.chai.org/v0.2/schema.xsd"


def chai_xml(facts: Facts) -> str:
    """Return the card as XML; elements that neither run nor authors fill say "needs author"."""
    root = ET.Element("AppliedModelCard", {"xmlns": NAMESPACE})
    _fill(root, _card(facts))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _fill(parent: ET.Element, children: Any) -> None:
    """Add a text, a mapping of elements in the schema's order, or a list of (name, content) that may repeat."""
    if isinstance(children, str):
        parent.text = "".join(sign for sign in children if sign >= " " or sign in "\n\t")  # XML 1.0 has no others
        return
    for name, content in children.items() if isinstance(children, dict) else children:
        _fill(ET.SubElement(parent, name), content)


def _card(facts: Facts) -> dict[str, Any]:
    said, outputs = facts.said, ", ".join(facts.labels["definitions"])
    release = {
        "ReleaseStage": "Research only, not for diagnostic use" + ("" if facts.report else "; draft, not evaluated"),
        "ReleaseDate": facts.report.get("about", {}).get("Evaluated", "not evaluated"),
        "ReleaseVersion": str(facts.provenance.get("run_id", "unknown")),
        "GlobalAvailability": said("availability"),
        "RegulatoryApproval": facts.author.get("regulatory", "None stated: research only, no medical device."),
    }
    summary = facts.author.get("summary", f"Says of a radiology image: {outputs or 'nothing defined'}.")
    words = [("Keyword", word) for word in ("radiology", "DICOM", *facts.labels["definitions"])]
    scope = " ".join(text for text in (facts.limits(), said("out_of_scope")) if text)
    return {
        "BasicInfo": {
            "ModelName": facts.name,
            "ModelDeveloper": said("developer"),
            "DeveloperContact": said("contact"),
        },
        "ReleaseInfo": release,
        "ModelSummary": {"Summary": summary, "Keywords": words},
        "UsesAndDirections": {
            "IntendedUseAndWorkflow": said("intended_use"),
            "PrimaryIntendedUsers": said("users"),
            "HowToUse": said("how_to_use"),
            "TargetedPatientPopulation": said("population"),
            "CautionedOutOfScopeSettings": scope,
        },
        "Warnings": {
            "KnownRisksAndLimitations": said("risks"),
            "KnownBiasesOrEthicalConsiderations": said("biases"),
            "ClinicalRiskLevel": said("risk_level"),
        },
        "TrustIngredients": _trust(facts, outputs),
        "KeyMetrics": _metrics(facts),
        "Resources": {"PeerReviewedPublications": said("publications"), "PatientConsentOrDisclosure": said("consent")},
        "Bibliography": said("bibliography"),
    }


def _trust(facts: Facts, outputs: str) -> dict[str, Any]:
    said = facts.said
    first = (facts.provenance.get("weights") or {}).get("weights")
    system = {
        "OutcomesAndOutputs": outputs or NEEDS,
        "ModelType": kind(facts) or NEEDS,
        **({"FoundationModels": str(first)} if first else {}),
        "InputDataSource": said("training_data"),
        "OutputAndInputDataTypes": "Input: DICOM images. Output: a number and a decision for each of the outputs.",
        "DevelopmentDataCharacterization": said("demographics"),
        "BiasMitigationApproaches": said("bias_mitigation"),
        "OngoingMaintenance": said("monitoring"),
        "Security": "No pickle on the load path; the SHA-256 of every file is checked before use.",
    }
    return {
        "AISystemFacts": system,
        "TransparencyInformation": {"FundingSource": said("funding"), "StakeholdersConsulted": said("stakeholders")},
    }


def _metrics(facts: Facts) -> dict[str, Any]:
    numbers, groups = facts.numbers(), facts.subgroups()
    cut = [number for number in numbers if number.metric.startswith(("sensitivity", "specificity"))]
    rest = [number for number in numbers if number not in cut]
    return {
        "UsefulnessUsabilityEfficacy": _metric(facts, "How well the model tells findings apart", rest),
        "FairnessEquity": _metric(facts, "Whether it does so equally well in subgroups", groups),
        "SafetyReliability": _metric(facts, "Errors at the thresholds frozen on validation", cut),
    }


def _metric(facts: Facts, goal: str, numbers: Sequence[Number]) -> dict[str, Any]:
    results = [
        ("MetricResult", {"Label": f"{number.metric}, {number.finding}", "ValueJson": _value(number)})
        for number in numbers
    ] or [("MetricResult", {"Label": "not measured", "ValueJson": json.dumps({"kind": "text", "value": NEEDS})})]
    return {
        "MetricGoal": goal,
        "Results": results,
        "Interpretation": NEEDS,
        "TestType": "Retrospective, internal test split of other patients" if facts.report else "not evaluated",
        "TestingDataDescription": facts.tested() or "not evaluated",
        "ValidationProcessAndJustification": "Thresholds and calibration were fixed on validation before the test side"
        " was opened; intervals are 95 % over patients."
        if facts.report
        else "not evaluated",
    }


def _value(number: Number) -> str:
    if number.low is None or number.high is None:
        return json.dumps({"kind": "single", "value": number.value})
    bounds = {"estimate": number.value, "lower": number.low, "upper": number.high}
    return json.dumps({"kind": "estimate_ci", **bounds, "level": 95})
