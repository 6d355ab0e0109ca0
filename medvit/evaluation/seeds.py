"""Evaluate trainings that differ by their seed alone: their spread, and their mean as one model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from medvit.config_known import flat
from medvit.errors import EvaluationError

if TYPE_CHECKING:
    from medvit.engine.checkpoint import TrainedRun
    from medvit.prediction.spec import EvaluationSpec
    from medvit.report.page import Report

_FREE = (
    "seed",
    "task.seed",
    "tracking.",
    "resume",
    "trainer.progress_bar",
    "trainer.workers",
    "trainer.prefetch",
    "trainer.pin",
)  # may differ
SpecOf = Callable[[dict[str, Any], str, tuple[str, ...]], "EvaluationSpec"]


def evaluate_seeds(settings: dict[str, Any], spec_of: SpecOf) -> Report:
    """Evaluate every run of `settings["runs"]` that is not evaluated like this yet, and report on them together.

    The report is about the ensemble (mean of logits) and has a section on the spread over seeds. Its folder is
    `seeds_<split>` of the first run, or `out`; it is attached to the first run as `report/seeds_<split>/`.

    Raises:
        RunError: no such run. EvaluationError: runs that differ by more than the seed, or of unequal test sets.
    """
    from medvit.engine.checkpoint import load_run
    from medvit.evaluation import archive, protocol
    from medvit.evaluation.seed_spread import seeds
    from medvit.prediction.predictions import prepare
    from medvit.report.comparison import Side
    from medvit.tracking import run as tracking

    place, split = Path(settings["tracking"]["folder"]), settings["split"]
    runs = [tracking.get(name, place, finished=True) for name in settings["runs"]]
    trained = [load_run(run.folder) for run in runs]
    refuse_others([each.settings for each in trained])
    task = trained[0].task
    spec = spec_of(settings, task.kind, tuple(task.names))
    folders = [evaluated(run.id, settings, spec, spec_of) for run in runs]
    names = [f"seed {each.settings['seed']} ({run.id[:8]})" for each, run in zip(trained, runs, strict=True)]
    sides = [Side(*protocol.sample_of(folder, spec, split), name) for folder, name in zip(folders, names, strict=True)]
    tables = [protocol.open_predictions(folder / protocol.PREDICTIONS, split) for folder in folders]
    validation = ensemble([each for each, _ in tables], trained[0])
    test = ensemble([opened() for _, opened in tables], trained[0])
    out = Path(settings["out"]) if settings["out"] else place / runs[0].id / f"seeds_{split}"
    frozen = protocol.freeze_thresholds(validation, spec, out)
    together = seeds(sides, Side(prepare(test, spec, split), frozen, "ensemble"))
    held = archive.load_archive(folders[0])
    origin = {**held.provenance, "run": ", ".join(run.id for run in runs), "selection": _selection(len(runs), task)}
    if "about" in origin:
        origin["about"] = {**origin["about"], "Run": f"mean of {len(runs)} runs: {origin['run']}"}
    extras = replace(held, provenance=origin, sections=(together,))
    report = protocol.evaluate_predictions(validation, test, spec, out, frozen=out / "thresholds.json",
                                           recorded=frozen.hash, extras=extras, split=split)  # fmt: skip
    for file in sorted(path for path in out.rglob("*") if path.is_file()):
        runs[0].artifact(file, f"report/seeds_{split}/{file.relative_to(out).as_posix()}")
    return report


def ensemble(tables: Sequence[pd.DataFrame], trained: TrainedRun) -> pd.DataFrame:
    """Return predictions whose logits are the mean of the tables', which must be of the same images.

    Raises:
        EvaluationError: the tables are about different images.
    """
    first = tables[0].sort_values("uid", ignore_index=True)
    columns = [f"logit.{name}" for name in trained.task.names]
    stacked = []
    for table in tables:
        ordered = table.sort_values("uid", ignore_index=True)
        if not ordered["uid"].equals(first["uid"]):
            raise EvaluationError("the runs predicted different images; a mean needs one split for all")
        stacked.append(ordered[columns].to_numpy(np.float64))
    logits = np.mean(stacked, axis=0)
    probabilities = np.asarray(trained.task.probabilities_numpy(logits), np.float64)
    made = {f"logit.{name}": logits[:, k] for k, name in enumerate(trained.task.names)}
    made |= {f"prob.{name}": probabilities[:, k] for k, name in enumerate(trained.task.names)}
    return first.assign(**made)


def refuse_others(settings: Sequence[Mapping[str, Any]]) -> None:
    """Refuse runs that differ by more than their seed, or not by their seed.

    Raises:
        EvaluationError: the settings that differ, or the seed that stands twice.
    """
    plain = [{key: value for key, value in flat(each) if not isinstance(value, dict)} for each in settings]
    keys = sorted({key for each in plain for key in each if not key.startswith(_FREE)})
    other = [key for key in keys if len({json.dumps(each.get(key)) for each in plain}) > 1]
    if other:
        raise EvaluationError(
            f"the runs differ in {', '.join(other[:8])}{' ...' if len(other) > 8 else ''}; a spread over seeds needs "
            "the same settings but for the seed. Compare different settings with python -m medvit.compare"
        )
    drawn = [each["seed"] for each in settings]
    if len(set(drawn)) < len(drawn):
        raise EvaluationError(f"the runs have the seeds {drawn}: a seed that stands twice tells nothing of chance")


def evaluated(run: str, settings: dict[str, Any], spec: EvaluationSpec, spec_of: SpecOf) -> Path:
    """Return the evaluation folder of a run, evaluating it (without the sections that need images) where needed."""
    from medvit.evaluation import protocol
    from medvit.evaluation.run import evaluate_run
    from medvit.report.table import plain

    folder = protocol.evaluation_folder(Path(settings["tracking"]["folder"]), run, settings["split"])
    report = folder / "report.json"
    if not report.is_file() or json.loads(report.read_text("utf-8"))["spec"] != plain(spec.to_json()):
        none = {**settings["sections"], "robustness": False, "ood": False, "explain": False}
        evaluate_run({**settings, "out": None, "sections": none}, spec_of, run)
    return folder


def _selection(count: int, task: Any) -> str:
    return f"The epoch with the best {task.monitor} on validation in each of {count} trainings; none was left out."
