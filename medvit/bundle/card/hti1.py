"""The 31 source attributes of a predictive decision support intervention: 45 CFR 170.315(b)(11)(iv)(B), HTI-1."""

from __future__ import annotations

from medvit.bundle.card.facts import NEEDS, Facts, Number

_ATTRIBUTES = (
    ("1.i", "Name and contact of the developer", "developer contact"),
    ("1.ii", "Funding source of the technical implementation", "funding"),
    ("1.iii", "Value that is the output", "=output"),
    ("1.iv", "Kind of output", "=kind"),
    ("2.i", "Intended use", "intended_use"),
    ("2.ii", "Intended patient population", "population"),
    ("2.iii", "Intended users", "users"),
    ("2.iv", "Intended decision-making role", "decision_role"),
    ("3.i", "Tasks, situations or populations it is cautioned against", "out_of_scope"),
    ("3.ii", "Known risks, inappropriate settings and uses, limitations", "risks"),
    ("4.i", "Inclusion and exclusion criteria of the training data", "training_data"),
    ("4.ii", "Demographic and social variables used as input", "=inputs"),
    ("4.iii", "Demographic representativeness of the training data", "demographics"),
    ("4.iv", "Relevance of the training data to the setting of use", "relevance"),
    ("5.i", "Approach to fair output", "fairness"),
    ("5.ii", "Approaches to manage, reduce or eliminate bias", "bias_mitigation"),
    ("6.i", "Source and setting of external validation", "external_data"),
    ("6.ii", "Party that did the external testing", "external_party"),
    ("6.iii", "Demographic representativeness of the external data", "external_demographics"),
    ("6.iv", "Process of external validation", "external_process"),
    ("7.i", "Validity in test data of the source of the training data", "=validity"),
    ("7.ii", "Fairness in test data of the source of the training data", "=equity"),
    ("7.iii", "Validity in external data", "external_validity"),
    ("7.iv", "Fairness in external data", "external_fairness"),
    ("7.v", "References to evaluations of outcomes", "outcomes"),
    ("8.i", "Process and frequency by which validity is monitored", "monitoring"),
    ("8.ii", "Validity in local data", "local_validity"),
    ("8.iii", "Process and frequency by which fairness is monitored", "fairness_monitoring"),
    ("8.iv", "Fairness in local data", "local_fairness"),
    ("9.i", "Process and frequency of updates", "updates"),
    ("9.ii", "Frequency of corrections once risks are identified", "corrections"),
)


def attributes(facts: Facts) -> list[tuple[str, str, str]]:
    """Return number, attribute and text of all 31; what neither run nor authors say "needs author"."""
    return [(number, what, _text(facts, source)) for number, what, source in _ATTRIBUTES]


def _text(facts: Facts, source: str) -> str:
    if source.startswith("="):
        return _derived(facts, source[1:]) or NEEDS
    found = [facts.author[key] for key in source.split() if key in facts.author]
    return "; ".join(found) if len(found) == len(source.split()) else "; ".join([*found, NEEDS])


def _derived(facts: Facts, what: str) -> str:
    if what == "output":
        return "; ".join(
            f"{name}: {meaning.get('text', name)}" for name, meaning in facts.labels["definitions"].items()
        )
    if what == "kind":
        return kind(facts)
    if what == "inputs":
        return "None: the input of the network is the image alone."
    return "; ".join(map(told, facts.numbers() if what == "validity" else facts.subgroups()))


def kind(facts: Facts) -> str:
    """Return what kind of output the task gives, "" where labels do not say."""
    task = facts.labels.get("task", "")
    kinds = {"regression": "prediction: a measured value", "ordinal": "classification: a probability per grade"}
    return kinds.get(task, "classification: a probability per finding") if task else ""


def told(number: Number) -> str:
    """Return a number as a sentence holds it: "AUROC, opacity: 0.912 (95 % 0.850 to 0.951)"."""
    bounds = "" if number.low is None or number.high is None else f" (95 % {number.low:.3f} to {number.high:.3f})"
    return f"{number.metric}, {number.finding}: {number.value:.3f}{bounds}"
