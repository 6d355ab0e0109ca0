"""What a faster variant of a bundle's network costs: measured on validation images at export, and recorded.

`medvit/variants.json` of a bundle holds per variant the largest and the 99.9 % difference of a calibrated probability
from `onnxruntime_fp32`, the decisions that change, and the difference of the AUROC with its patient-bootstrap interval.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medvit.bundle.contents import Contents
from medvit.bundle.decision import Decider
from medvit.bundle.session import DEFAULT, FILES, INT8, MODEL, feed_of, open_session, unusable, write_int8
from medvit.errors import BundleError, ConfigError

if TYPE_CHECKING:
    from medvit.metric.ranking import Ranking

logger = logging.getLogger(__name__)
LIMITS = ("probability", "decisions", "auroc")
_DRAWS, _SEED = 1000, 0
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Validation:
    """Validation units: images [I C *S] and positions [I] in mm of each, truth [n K] (NaN: missing), patients [n]."""

    images: Callable[[], Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]]
    target: Array
    patient: NDArray[Any]


@dataclass(frozen=True)
class Wanted:
    """The variants a bundle is to have, what each may cost at most (see `LIMITS`), and what they are measured on."""

    names: Sequence[str]
    limits: Mapping[str, float | None]
    on: Validation


def problems(names: Sequence[str], limits: Mapping[str, Any], kind: str) -> list[str]:
    """Return what is wrong with the variants asked for, and with what they may cost, before anything is computed."""
    found = [text for name in names if (text := unusable(name))]
    found += [f"variants: {DEFAULT} is in every bundle; leave it out"] * (DEFAULT in names)
    if names and kind == "regression":
        found.append("variants are judged by probabilities, and this run predicts a quantity: leave variants out")
    wrong = sorted(set(limits) ^ set(LIMITS))
    found += [f"variants_at_most.{name}: expected {', '.join(LIMITS)}, each once" for name in wrong]
    given = {name: limits[name] for name in LIMITS if limits.get(name) is not None}
    bad = {name: limit for name, limit in given.items() if not isinstance(limit, int | float) or limit < 0}
    return found + [
        f"variants_at_most.{name}={limit!r}: expected a number of at least 0, or null" for name, limit in bad.items()
    ]


def add(models: Path, contents: Contents, wanted: Wanted) -> dict[str, Any]:
    """Write what the variants need into `models` and return what each one costs, per name.

    Raises:
        ConfigError: there is no unit.
        BundleError: a variant costs more than its limits allow: all that do, with their figures.
    """
    names = wanted.names
    if "onnxruntime_int8" in names:
        write_int8(models / MODEL, models / INT8)
    sessions = {name: open_session(models, name) for name in (DEFAULT, *names)}
    said: dict[str, list[Array]] = {name: [] for name in sessions}
    for images, position_mm in wanted.on.images():
        feed = feed_of(sessions[DEFAULT].inputs, images, position_mm)
        for name, session in sessions.items():
            said[name].append(session.run(feed)[0])
    if not said[DEFAULT]:
        raise ConfigError("variants: the run's data set has no validation unit to measure them on; leave variants out")
    logits = {name: np.stack(rows) for name, rows in said.items()}
    found = {name: cost(contents, logits[DEFAULT], logits[name], wanted.on) for name in names}
    for name, told in found.items():
        logger.info("%s: probabilities differ by up to %.2g (99.9 %%: %.2g), %d of %d decisions change, AUROC by %s",
                    name, told["probability_max"], told["probability_999"], told["decisions_changed"],
                    told["decisions"], _worst_auroc(told))  # fmt: skip
    if too_dear := [text for name, told in found.items() for text in _beyond(name, told, wanted.limits)]:
        raise BundleError(
            f"Variants cost more than variants_at_most allows: {'; '.join(too_dear)}. Leave them out of variants=, or "
            "allow more if that is acceptable. Nothing was exported."
        )
    return found


def cost(contents: Contents, reference: Array, other: Array, on: Validation) -> dict[str, Any]:
    """Return how far the logits [n K] of a variant lead away from those of the default, on the same units."""
    decider = Decider(tuple(contents.labels["names"]), contents.labels["activation"], contents.calibration,
                      contents.thresholds)  # fmt: skip
    raw, scaled = zip(*((decider.probabilities(x), decider.calibrated(x)) for x in (reference, other)), strict=True)
    apart = np.abs(scaled[1] - scaled[0])
    before, after = (decider.decisions(raw[side], scaled[side]) for side in (0, 1))
    changed = sum(one[name] != two[name] for one, two in zip(before, after, strict=True) for name in one)
    return {
        "units": len(reference),
        "patients": len(np.unique(on.patient)),
        "probability_max": float(apart.max()),
        "uncalibrated_max": float(np.abs(raw[1] - raw[0]).max()),
        "probability_999": float(np.quantile(apart, 0.999)),
        "decisions": sum(map(len, before)),
        "decisions_changed": int(changed),
        "auroc": _auroc_differences(decider.names, scaled, on),
        "versions": {name: metadata.version(name) for name in ("onnxruntime", "openvino") if _installed(name)},
    }


def _auroc_differences(names: Sequence[str], scaled: Sequence[Array], on: Validation) -> dict[str, Any]:
    """Return per finding with both outcomes: the AUROC of default and variant, and the difference with its interval."""
    from medvit.metric.bootstrap import intervals, patient_draws
    from medvit.metric.ranking import Ranking

    found: dict[str, Any] = {}
    for column, name in enumerate(names):
        truth = on.target[:, column]
        known = np.isfinite(truth)
        if len(np.unique(truth[known])) < 2 or len(np.unique(on.patient[known])) < 2:
            continue
        one, two = (Ranking(truth[known], side[known, column]) for side in scaled)
        gap = intervals(partial(_gained, one, two), patient_draws(on.patient[known], _DRAWS, _SEED))[0]
        low, high = (end if math.isfinite(end) else None for end in (gap.low, gap.high))
        default, variant = (float(each.auroc(np.ones((1, known.sum())))[0]) for each in (one, two))
        found[name] = {"default": default, "variant": variant, "difference": gap.value, "low": low, "high": high}
    return found


def _gained(one: Ranking, two: Ranking, weight: Array) -> Array:
    return two.auroc(weight) - one.auroc(weight)


def _beyond(name: str, told: Mapping[str, Any], limits: Mapping[str, float | None]) -> list[str]:
    """Return what of a variant's cost is above its limit, as sentences; a limit that is None is none."""
    share, furthest = told["decisions_changed"] / max(1, told["decisions"]), told["probability_max"]
    found = []
    if (most := limits["probability"]) is not None and not furthest <= most:
        found.append(f"{name}: a probability differs by {furthest:.2g} (probability: {most:g})")
    if (most := limits["decisions"]) is not None and share > most:
        found.append(f"{name}: {100 * share:.2g} % of the decisions change (decisions: {most:g})")
    if (most := limits["auroc"]) is None:
        return found
    for finding, each in told["auroc"].items():
        if each["low"] is None:
            found.append(f"{name}: too few patients for an interval of the AUROC of {finding} (auroc: {most:g})")
        elif -each["low"] > most:
            found.append(f"{name}: the AUROC of {finding} may be {-each['low']:.2g} lower, the end of its 95 % interval"
                         f" (auroc: {most:g})")  # fmt: skip
    return found


def _worst_auroc(told: Mapping[str, Any]) -> str:
    if not told["auroc"]:
        return "nothing that can be said: no finding has both outcomes"
    worst = min(told["auroc"].values(), key=lambda each: float(each["difference"]))
    ends = "no interval" if worst["low"] is None else f"{worst['low']:+.2g} to {worst['high']:+.2g}"
    return f"{worst['difference']:+.2g} ({ends})"


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def refuse_unmeasured(variant: str, known: Mapping[str, Any] | None) -> None:
    """Raise BundleError where a bundle has not been measured with a variant."""
    if variant != DEFAULT and variant not in (known or {}):
        there = ", ".join([DEFAULT, *(known or {})])
        raise BundleError(
            f"runtime={variant}: this bundle was not measured with it; it has {there}. Use one of these, or export "
            f"again with variants=[{variant if variant in FILES else 'openvino_bf16'}]."
        )
