"""Thresholds frozen on validation: calibration, operating points, conformal bounds (EV-04).

Written as thresholds.json with a hash over its content, before any test prediction is opened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medvit.atomic_file import replace_file
from medvit.errors import EvaluationError
from medvit.metric.calibration import Calibrator, fit, fit_softmax, sigmoid
from medvit.metric.conformal import Conformal, fit_conformal
from medvit.metric.operating_point import OperatingPoint, choose_threshold
from medvit.prediction.predictions import Sample, calibration_input, log_odds
from medvit.prediction.spec import EvaluationSpec

SCHEMA = "medvit.thresholds/1"


@dataclass(frozen=True)
class FrozenThresholds:
    """The decisions of validation, per finding; a finding without both outcomes has no points and no bounds."""

    calibration: dict[str, Calibrator]
    points: dict[str, tuple[OperatingPoint, ...]]
    conformal: dict[str, Conformal]
    content: dict[str, Any]
    hash: str


def freeze(validation: Sample) -> FrozenThresholds:
    """Return everything that validation decides; the same predictions and settings give the same hash."""
    spec, calibration = validation.spec, _calibrate(validation)
    points: dict[str, tuple[OperatingPoint, ...]] = {}
    bounds: dict[str, Conformal] = {}
    for name in spec.names if spec.kind != "regression" else ():
        found = validation.finding(name, calibration)
        if not found.both:
            continue
        draws = type(validation.draws)(validation.draws.counts, validation.draws.code[found.rows])
        points[name] = tuple(choose_threshold(found.target, found.probability, rule, draws) for rule in spec.points)
        bounds[name] = fit_conformal(found.target, found.probability, spec.detail.alpha)
    positives = {name: int(np.nansum(validation.target[:, k])) for k, name in enumerate(spec.names)}
    content = {
        "schema": SCHEMA,
        "decides": decides(spec),
        "calibration": {name: scale.to_json() for name, scale in calibration.items()},
        "points": {name: [asdict(point) for point in many] for name, many in points.items()},
        "conformal": {name: _plain(bound._asdict()) for name, bound in bounds.items()},
        "validation": {
            "digest": validation.digest,
            "units": len(validation.table),
            "patients": int(np.unique(validation.patient.astype(str)).size),
            "positives": {} if spec.kind == "regression" else positives,
        },
    }
    return _from_content(content)


def write(frozen: FrozenThresholds, folder: Path) -> Path:
    """Write thresholds.json into `folder` and return its place."""
    file = folder / "thresholds.json"
    text = json.dumps({**frozen.content, "hash": frozen.hash}, indent=1, allow_nan=False)
    replace_file(file, lambda draft: draft.write_text(text + "\n"))
    return file


def read(file: Path, recorded: str | None = None) -> FrozenThresholds:
    """Return the decisions of a thresholds.json; `recorded` is the hash that the run or the checkpoint keeps.

    Raises:
        EvaluationError: no such file, not ours, changed after it was written, or not the one recorded.
    """
    try:
        content = json.loads(file.read_text())
        found = content.pop("hash")
        frozen = _from_content(content)
    except FileNotFoundError as error:
        raise EvaluationError("thresholds.json is missing; freeze the thresholds on validation first") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvaluationError(
            f"thresholds.json is damaged or not of schema {SCHEMA}; evaluate the run again"
        ) from error
    if frozen.hash != found:
        raise EvaluationError(
            f"thresholds.json was changed after it was written: it says {found[:12]} and holds {frozen.hash[:12]}; "
            "thresholds may not be tuned by hand. Freeze them on validation again"
        )
    refuse_other(frozen, recorded)
    return frozen


def refuse_other(frozen: FrozenThresholds, recorded: str | None) -> None:
    """Refuse thresholds whose hash is not the one recorded with the model.

    Raises:
        EvaluationError: the hashes differ.
    """
    if recorded is not None and frozen.hash != recorded:
        raise EvaluationError(
            f"these thresholds ({frozen.hash[:12]}) are not those recorded with the model ({recorded[:12]}): the "
            "validation predictions, the settings or the file changed after training. The test set stays closed"
        )


def _calibrate(validation: Sample) -> dict[str, Calibrator]:
    spec, names = validation.spec, validation.spec.names
    if spec.calibration == "none" or spec.kind == "regression":
        return {name: Calibrator() for name in names}
    raw = log_odds(spec.kind, validation.base)
    if spec.kind in ("binary", "multilabel"):
        known = np.isfinite(validation.target)
        return {
            name: fit(validation.target[known[:, k], k], raw[known[:, k], k], spec.calibration)
            for k, name in enumerate(names)
        }
    # One temperature for all outputs: exclusive classes still sum to 1, and the steps of a grade still fall.
    rows = np.isfinite(validation.target).all(axis=1)
    if spec.kind == "multiclass":
        scale = fit_softmax(validation.target[rows], validation.base[rows])
    else:
        scale = fit(validation.target[rows].ravel(), raw[rows].ravel(), "temperature")
    return dict.fromkeys(names, scale)


def calibrated(table: pd.DataFrame, spec: EvaluationSpec, calibration: Mapping[str, Calibrator]) -> pd.DataFrame:
    """Return the table of images with the columns `calibrated.<name>` added or replaced."""
    base = calibration_input(table, spec)
    if spec.kind == "regression":
        columns = {f"calibrated.{name}": base[:, k] for k, name in enumerate(spec.names)}
    else:
        columns = {
            f"calibrated.{name}": sigmoid(log_odds(spec.kind, base, calibration[name])[:, k])
            for k, name in enumerate(spec.names)
        }
    return table.assign(**columns)


def decides(spec: EvaluationSpec) -> dict[str, Any]:
    """Return the settings that thresholds depend on; subgroups and the look of the report are not among them."""
    whole = spec.to_json()
    keys = ("kind", "names", "points", "aggregate", "bootstrap", "calibration")
    settings: dict[str, Any] = _plain({**{key: whole[key] for key in keys}, "alpha": spec.detail.alpha})
    return settings


def refuse_unfit(frozen: FrozenThresholds, validation: Sample) -> None:
    """Refuse thresholds that were frozen with other settings or on another validation set.

    Raises:
        EvaluationError: what differs.
    """
    wanted, held = decides(validation.spec), frozen.content["decides"]
    if wanted != held:
        other = [key for key in wanted if wanted[key] != held.get(key)]
        told = "; ".join(f"{key} {json.dumps(held.get(key))}, now {json.dumps(wanted[key])}" for key in other)
        raise EvaluationError(
            f"thresholds.json was frozen with other settings ({', '.join(other)}): {told}. Give the frozen ones, or "
            "evaluate the run anew: python -m medvit.evaluate run=RUN_ID"
        )
    if frozen.content["validation"]["digest"] != validation.digest:
        raise EvaluationError(
            "thresholds.json was frozen on another validation set than the one given: rows, patients or labels of "
            "validation changed, or the file is of another run. Evaluate the run again"
        )


def _from_content(content: Mapping[str, Any]) -> FrozenThresholds:
    if content["schema"] != SCHEMA:
        raise ValueError(content["schema"])
    bounds = {
        name: Conformal(**{key: _number(value) for key, value in bound.items()})
        for name, bound in content["conformal"].items()
    }
    return FrozenThresholds(
        calibration={name: Calibrator(**scale) for name, scale in content["calibration"].items()},
        points={name: tuple(OperatingPoint(**point) for point in many) for name, many in content["points"].items()},
        conformal=bounds,
        content=dict(content),
        hash=hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest(),
    )


def _plain(value: Any) -> Any:
    """Return JSON that reads back equal: tuples as lists, infinities as words."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and np.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value


def _number(value: Any) -> Any:
    return float(value) if value in ("inf", "-inf") else value
