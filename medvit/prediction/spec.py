"""Settings of an evaluation, frozen and JSON-able."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from medvit.errors import EvaluationError
from medvit.metric.bootstrap import Method
from medvit.metric.operating_point import RuleSpec

Kind = Literal["binary", "multilabel", "multiclass", "ordinal", "regression"]
Unit = Literal["image", "series", "study", "patient"]
Pooling = Literal["mean", "max", "first"]
Scaling = Literal["none", "temperature", "platt"]
DEFAULT_SUBGROUPS = ("sex", "age_years", "manufacturer", "view", "table.site")


@dataclass(frozen=True, slots=True)
class Aggregation:
    """From images to the unit a prediction is about: mean or max of the logits, or the first image by uid."""

    unit: Unit = "image"
    rule: Pooling = "mean"


@dataclass(frozen=True, slots=True)
class Resampling:
    """The bootstrap over patients: `method` is "percentile" or "bca", `level` in (0.5, 1)."""

    draws: int = 2000
    seed: int = 0
    method: Method = "percentile"
    level: float = 0.95


@dataclass(frozen=True, slots=True)
class Detail:
    """Numbers a report depends on.

    `floor`: least positives and negatives of a subgroup; `alpha` of the conformal sets; `bins` of the ECE;
    `decision`: thresholds of the decision curve (from, to, how many); `half_width`: for the sample-size line;
    `figures`: False leaves the drawing out, which is most of the time of a small report.
    """

    floor: int = 10
    alpha: float = 0.1
    bins: int = 15
    decision: tuple[float, float, int] = (0.01, 0.6, 60)
    half_width: float = 0.02
    figures: bool = True


@dataclass(frozen=True, slots=True)
class EvaluationSpec:
    """Everything that decides a report besides the predictions.

    `kind` and `names` are the task's; `points` are rules for operating points, the first one is used for subgroups;
    `subgroups` are columns of the predictions (None: those of sex, age, vendor, view and site that are there);
    `policy` says in words how missing and uncertain labels were treated.
    """

    kind: Kind
    names: tuple[str, ...]
    points: tuple[RuleSpec, ...] = (RuleSpec(),)
    aggregate: Aggregation = field(default_factory=Aggregation)
    bootstrap: Resampling = field(default_factory=Resampling)
    calibration: Scaling = "temperature"
    subgroups: tuple[str, ...] | None = None
    detail: Detail = field(default_factory=Detail)

    def __post_init__(self) -> None:
        words = (
            ("kind", self.kind, get_args(Kind)),
            ("aggregate.unit", self.aggregate.unit, get_args(Unit)),
            ("aggregate.rule", self.aggregate.rule, get_args(Pooling)),
            ("bootstrap.method", self.bootstrap.method, get_args(Method)),
            ("calibration", self.calibration, get_args(Scaling)),
        )
        problems = [_unknown(*word) for word in words if word[1] not in word[2]]
        if not self.names or len(set(self.names)) != len(self.names):
            problems.append(f"names {list(self.names)}; expected one different name per output")
        if self.kind in ("multiclass", "ordinal", "regression") and self.aggregate.rule == "max":
            problems.append(f"aggregate.rule max means nothing for a {self.kind} task; use mean or first")
        if self.kind in ("multiclass", "ordinal") and self.calibration == "platt":
            problems.append(f"calibration platt is for yes-or-no findings; use temperature for a {self.kind} task")
        if self.kind != "regression" and not self.points:
            problems.append("no operating point; expected at least one rule, such as youden")
        problems += self._number_problems()
        if problems:
            raise EvaluationError("; ".join(problems))

    def _number_problems(self) -> list[str]:
        low, high, count = self.detail.decision
        checks = (
            (self.bootstrap.draws >= 100, f"bootstrap.draws {self.bootstrap.draws}; expected 100 or more"),
            (0.5 < self.bootstrap.level < 1, f"bootstrap.level {self.bootstrap.level}; expected between 0.5 and 1"),
            (self.detail.floor >= 2, f"detail.floor {self.detail.floor}; expected 2 or more"),
            (0 < self.detail.alpha < 1, f"detail.alpha {self.detail.alpha}; expected between 0 and 1"),
            (self.detail.bins >= 2, f"detail.bins {self.detail.bins}; expected 2 or more"),
            (
                0 < low < high < 1 and count >= 2,
                f"detail.decision {self.detail.decision}; expected 0 < from < to < 1, 2 or more",
            ),
            (0 < self.detail.half_width < 0.5,
             f"detail.half_width {self.detail.half_width}; expected between 0 and 0.5"),
        )  # fmt: skip
        return [text for good, text in checks if not good]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON that `from_json` reads back."""
        return asdict(self)


def from_json(data: Mapping[str, Any]) -> EvaluationSpec:
    """Return the settings that `EvaluationSpec.to_json` wrote, or that a config gives.

    Raises:
        EvaluationError: unknown keys, with the nearest valid one, or values out of range.
    """
    parts = {"aggregate": Aggregation, "bootstrap": Resampling, "detail": Detail}
    values = _known(EvaluationSpec, data, "")
    for name, part in parts.items():
        if name in values:
            inner = _known(part, values[name], f"{name}.")
            values[name] = part(**{key: tuple(v) if isinstance(v, list) else v for key, v in inner.items()})
    if "points" in values:
        values["points"] = tuple(RuleSpec(**_known(RuleSpec, rule, "points.")) for rule in values["points"])
    for name in ("names", "subgroups"):
        if isinstance(values.get(name), Sequence) and not isinstance(values[name], str):
            values[name] = tuple(values[name])
    return EvaluationSpec(**values)


def _known(part: Any, data: Mapping[str, Any], where: str) -> dict[str, Any]:
    valid = list(part.__dataclass_fields__)
    wrong = [_unknown(where + str(key), key, valid) for key in data if key not in valid]
    if wrong:
        raise EvaluationError("; ".join(wrong))
    return dict(data)


def _unknown(where: str, found: Any, valid: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(found), valid, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{where}: {found!r} is not one of {', '.join(valid)}{hint}"
