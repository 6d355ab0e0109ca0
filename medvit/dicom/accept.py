"""Which objects a task takes: refusals that have nothing to do with how well a file is written."""

from __future__ import annotations

from medvit.dicom.policy import Accept
from medvit.errors import DicomRefusal
from medvit.types import Facts


def check_accepted(facts: Facts, accept: Accept) -> None:
    """Refuse burned-in annotation (`Q-PHI`), small images (`E-SIZE`), and (`E-ACCEPT`) what the task does not take.

    All reasons of `E-ACCEPT` come in one message. Views: "LATERAL" in the policy takes LL and RL as well.
    """
    if facts.burned_in == "yes" and accept.burned_in == "quarantine":
        raise DicomRefusal(
            "Q-PHI",
            "BurnedInAnnotation YES: quarantined",
            tag="(0028,0301)",
            fix="remove the text, or accept.burned_in",
        )
    if min(facts.rows, facts.columns) < accept.min_side:
        found = f"{facts.rows}x{facts.columns} < min {accept.min_side}"
        raise DicomRefusal("E-SIZE", found, allowed=f">= {accept.min_side}", tag="(0028,0010)", fix="accept.min_side")
    views = accept.views + (("LL", "RL") if "LATERAL" in accept.views else ())
    problems = [
        _problem("Modality", facts.modality, accept.modalities, accept.missing),
        _problem("ViewPosition", facts.view, views, accept.missing),
        _problem("BodyPartExamined", facts.body_part, accept.body_parts, accept.missing),
    ]
    found = "; ".join(filter(None, problems))
    if found:
        raise DicomRefusal("E-ACCEPT", found, fix="leave the object out, or widen data.accept")


def _problem(name: str, value: str, allowed: tuple[str, ...], missing: str) -> str:
    if not allowed or value in allowed or (not value and missing == "accept"):
        return ""
    return f"{name} {value[:16] or 'missing'} not in {{{','.join(sorted(allowed))}}}"
