"""Thresholds chosen by a rule on validation predictions, and the rates they give.

An image is positive at a threshold if its score is at least the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvit.errors import EvaluationError
from medvit.metric.bootstrap import Draws, wilson
from medvit.metric.ranking import Ranking, checked, ratio, weight_rows

Array = NDArray[np.float64]
Rule = Literal["sensitivity", "specificity", "youden", "cost"]
RATES = ("sensitivity", "specificity", "ppv", "npv", "lr_positive", "lr_negative")


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A threshold on the score and the rule that chose it; `reached` is False where no threshold keeps the rule."""

    threshold: float
    rule: str
    value: float | None
    lower_confidence: bool
    sensitivity: float
    specificity: float
    reached: bool


@dataclass(frozen=True, slots=True)
class RuleSpec:
    """A rule for operating points.

    `rule`: "sensitivity" or "specificity" (at least `value`, in (0, 1)), "youden" (no value), or "cost" (`value` > 0 is
    how many false positives one missed positive is worth). `lower_confidence`: the lower end of the one-sided
    `level` patient-bootstrap interval must keep the rule, not the estimate itself; for "youden" and "cost" the
    threshold whose lower bound (of the benefit) is best.
    """

    rule: Rule = "youden"
    value: float | None = None
    lower_confidence: bool = False
    level: float = 0.95

    def __post_init__(self) -> None:
        problems = []
        if self.rule not in get_args(Rule):
            problems.append(f"operating point rule {self.rule!r}; expected one of {', '.join(get_args(Rule))}")
        if self.rule in ("sensitivity", "specificity") and not (self.value is not None and 0.0 < self.value < 1.0):
            problems.append(f"rule {self.rule} needs a value between 0 and 1, found {self.value}")
        if self.rule == "cost" and not (self.value is not None and 0.0 < self.value < float("inf")):
            problems.append(f"rule cost needs a value above 0, found {self.value}")
        if self.rule == "youden" and self.value is not None:
            problems.append(f"rule youden takes no value, found {self.value}; leave it out")
        if not 0.5 < self.level < 1.0:
            problems.append(f"level {self.level}; expected between 0.5 and 1")
        if problems:
            raise EvaluationError("; ".join(problems))


def choose_threshold(target: ArrayLike, score: ArrayLike, spec: RuleSpec, draws: Draws | None = None) -> OperatingPoint:
    """Return the threshold the rule picks on these predictions; `draws` (of the same images) for lower confidence.

    The threshold lies midway between the lowest score called positive and the next lower one, so that rounding on
    another machine cannot turn that image over. Fixed sensitivity takes the highest threshold that keeps it (best
    specificity), fixed specificity the lowest;
    ties of Youden and cost go to the higher sensitivity.

    Raises:
        EvaluationError: one outcome is missing, or lower confidence is asked without draws.
    """
    y, p = checked(target, score)
    if not 0 < y.sum() < y.size:
        raise EvaluationError(
            f"an operating point needs both outcomes; found {int(y.sum())} positives and {int((1 - y).sum())} negatives"
        )
    ranking = Ranking(y, p)
    sensitivity, specificity = (side[0] for side in _rates_by_threshold(ranking, None))
    goals = (sensitivity, specificity)
    if spec.lower_confidence:
        if draws is None:
            raise EvaluationError("a lower-confidence operating point needs patient draws of the same images")
        goals = _lower(ranking, spec, draws)
    index, reached = _pick(spec, *goals, prevalence=float(y.mean()))
    return OperatingPoint(
        threshold=_between(ranking.score, index),
        rule=spec.rule,
        value=spec.value,
        lower_confidence=spec.lower_confidence,
        sensitivity=float(sensitivity[index]),
        specificity=float(specificity[index]),
        reached=reached,
    )


def rates(target: ArrayLike, score: ArrayLike, threshold: float, weight: ArrayLike | None = None) -> Array:
    """Return sensitivity, specificity, PPV, NPV, LR+ and LR- per draw [D 6]; NaN where there is nothing to divide.

    `weight` is [n] or [D n]. LR+ is infinite at specificity 1, LR- at specificity 0: draws without it would lose the
    upper end of the interval.
    """
    hit, miss, false, right = confusion(target, score, threshold, weight).T
    sensitivity, specificity = ratio(hit, hit + miss), ratio(right, right + false)
    columns = (
        sensitivity,
        specificity,
        ratio(hit, hit + false),
        ratio(right, right + miss),
        _likelihood(sensitivity, 1.0 - specificity),
        _likelihood(1.0 - sensitivity, specificity),
    )
    return np.stack(columns, axis=1)


def confusion(target: ArrayLike, score: ArrayLike, threshold: float, weight: ArrayLike | None = None) -> Array:
    """Return true positives, false negatives, false positives and true negatives per draw [D 4]."""
    y, p = checked(target, score)
    called = p >= threshold
    cells = np.stack([(y == 1) & called, (y == 1) & ~called, (y == 0) & called, (y == 0) & ~called], axis=1)
    result: Array = weight_rows(weight, y.size) @ cells.astype(np.float64)
    return result


def _likelihood(above: Array, below: Array) -> Array:
    """Return above / below; infinite where only `below` is 0, NaN where both are."""
    return np.where((above > 0) & (below == 0), np.inf, ratio(above, below))


def _between(score: Array, index: int) -> float:
    """Return a threshold that calls `score[index]` and above positive, and nothing below it."""
    if index == 0:
        return float(score[0])
    middle = float((score[index - 1] + score[index]) / 2.0)
    return middle if middle > score[index - 1] else float(score[index])


def _rates_by_threshold(ranking: Ranking, weight: ArrayLike | None) -> tuple[Array, Array]:
    """Return sensitivity and specificity at every distinct score as threshold, ascending, each [D G]."""
    positive, negative = ranking.groups(weight)
    called, total = np.cumsum(positive[:, ::-1], axis=1)[:, ::-1], positive.sum(axis=1, keepdims=True)
    below = np.cumsum(negative, axis=1) - negative
    return ratio(called, total), ratio(below, negative.sum(axis=1, keepdims=True))


def _lower(ranking: Ranking, spec: RuleSpec, draws: Draws) -> tuple[Array, Array]:
    """Return the lower bounds of sensitivity and specificity at every threshold.

    The bootstrap's bound, but never above Wilson's on the number of patients: eight patients who were all found do not
    show a sensitivity of 1, though every draw of them does. For "youden" and "cost" both bounds are added up as if they
    held together, which is a little too careful.
    """
    size = ranking.start.size
    sample = draws.apply(lambda weight: np.concatenate(_rates_by_threshold(ranking, weight), axis=1))
    low = np.nanquantile(sample, 1.0 - spec.level, axis=0)
    code, bounds = draws.code[ranking.order], []
    for side, outcome, resampled in zip(
        _rates_by_threshold(ranking, None), (1, 0), (low[:size], low[size:]), strict=True
    ):
        patients = np.unique(code[ranking.target == outcome]).size
        careful = np.array([wilson(share * patients, patients, 2.0 * spec.level - 1.0)[0] for share in side[0]])
        bounds.append(np.minimum(resampled, careful))
    return bounds[0], bounds[1]


def _pick(spec: RuleSpec, sensitivity: Array, specificity: Array, prevalence: float) -> tuple[int, bool]:
    """Return the index of the threshold (ascending) and whether the rule is kept there."""
    last = sensitivity.size - 1
    if spec.rule == "sensitivity":
        kept = np.flatnonzero(sensitivity >= (spec.value or 0.0))
        return (int(kept[-1]), True) if kept.size else (0, False)
    if spec.rule == "specificity":
        kept = np.flatnonzero(specificity >= (spec.value or 0.0))
        return (int(kept[0]), True) if kept.size else (last, False)
    worth = 1.0 if spec.rule == "youden" else (spec.value or 0.0) * prevalence / (1.0 - prevalence)
    benefit = worth * sensitivity + specificity
    return int(np.argmax(benefit)), True
