"""The runs of a crossval put together: out-of-fold predictions in one report, and the mean of the models as one run.

Every image is predicted by the models that did not learn from its patient. With strategy=kfold that fold has chosen
their best epoch; with nested and leave_one_out it was their test side, and chose nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from medvit.errors import EvaluationError
from medvit.evaluation import archive, protocol
from medvit.evaluation.seeds import SpecOf, ensemble, evaluated

if TYPE_CHECKING:
    from medvit.prediction.predictions import Sample
    from medvit.prediction.thresholds import FrozenThresholds
    from medvit.report.page import Extras, Report, Section
    from medvit.tracking.run import Run

_NO_SECTIONS = dict.fromkeys(("robustness", "ood", "explain"), False)


@dataclass(frozen=True)
class Member:
    """A finished training of a crossval; `fold` is None where the split has no folds."""

    run: Run
    fold: int | None
    seed: int


def report_on(
    parent: Run, members: Sequence[Member], strategy: str, settings: Mapping[str, Any], spec_of: SpecOf
) -> Report:
    """Report on the out-of-fold predictions of all members together, and make `parent` the run of their mean.

    strategy: of the split. settings: those of conf/evaluation and `tracking`. The report goes to the folder
    `evaluation_val` of the parent and into its artifacts, the thresholds frozen on these predictions with it.

    Raises:
        EvaluationError: a patient stands in two folds. RunError: the runs cannot be one model.
    """
    from medvit.dataset.splits import ALL_FOLDS
    from medvit.engine.checkpoint import load_run
    from medvit.engine.ensemble import write_ensemble
    from medvit.evaluation.run import logged_metrics
    from medvit.tracking import evaluation_seal

    trained = load_run(members[0].run.folder)
    spec = spec_of(dict(settings), trained.task.kind, tuple(trained.task.names))
    side = "test" if strategy in ("nested", "leave_one_out") else "val"
    asked = {**settings, "split": side, "data": {"folder": None}, "out": None, "sections": _NO_SECTIONS}
    asked["detail"] = {**asked["detail"], "figures": False}
    one = replace(spec, detail=replace(spec.detail, figures=False))
    folders = {member.run.id: evaluated(member.run.id, asked, one, spec_of) for member in members}
    pooled = out_of_fold(members, {run: _predicted(folder, side) for run, folder in folders.items()})
    folded = members[0].fold is not None
    write_ensemble(parent.folder, [m.run.folder for m in members], ALL_FOLDS if folded else None,
                   dict(settings["tracking"]), pooled)  # fmt: skip
    _seal(parent)
    out = protocol.evaluation_folder(parent.folder.parent, parent.id, "val")
    extras = _extras(parent, members, folders, strategy, pooled)
    report = protocol.evaluate_predictions(pooled, pooled, spec, out, extras=extras, split="val")
    evaluation_seal.record(parent, "val", out)
    parent.metrics(logged_metrics(report, "val"))
    return report


def out_of_fold(members: Sequence[Member], tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return one row per image, the mean of the logits over seeds, with the column `fold`, as predictions of "val".

    `tables` are the predictions of the side a member did not learn from, by its run's id.

    Raises:
        EvaluationError: an image or a patient is predicted by the models of two folds.
    """
    from medvit.engine.checkpoint import load_run

    parts = []
    for fold in dict.fromkeys(member.fold for member in members):
        mine = [member for member in members if member.fold == fold]
        table = ensemble([tables[member.run.id] for member in mine], load_run(mine[0].run.folder))
        parts.append(table.assign(fold=-1 if fold is None else fold))
    pooled = pd.concat(parts, ignore_index=True)
    folds = pooled.groupby("patient")["fold"].nunique()
    if twice := int((folds > 1).sum()) or int(pooled["uid"].duplicated().sum()):
        raise EvaluationError(
            f"E-LEAK {twice} patients or images stand in several folds: the runs are of different splits. Run crossval "
            "anew on the split as it is"
        )
    kept = [name for name in pooled.columns if not str(name).startswith("calibrated.")]
    return pooled[kept].assign(split="val").sort_values("uid", ignore_index=True)


def _predicted(folder: Path, side: str) -> pd.DataFrame:
    """Return the predictions of a side from an evaluation's folder."""
    if side == "val":
        return protocol.open_predictions(folder / protocol.PREDICTIONS, "val")[0]
    return protocol.open_predictions(folder / protocol.PREDICTIONS, side)[1]()


def _seal(parent: Run) -> None:
    """Attach hashes and environment, as a training does: what is evaluated and exported later is held to them."""
    from medvit.engine.checkpoint import ENSEMBLE, HASHES, SETTINGS
    from medvit.tracking import provenance

    settings, data = (json.loads((parent.folder / name).read_text("utf-8")) for name in (SETTINGS, HASHES))
    hashes, _ = provenance.attach(parent, settings, data)
    parent.json(json.loads((parent.folder / ENSEMBLE).read_text("utf-8")), ENSEMBLE)
    parent.dataset(settings["data"]["name"], hashes["manifest"], "training")


def _extras(
    parent: Run,
    members: Sequence[Member],
    folders: Mapping[str, Path],
    strategy: str,
    pooled: pd.DataFrame,
) -> Extras:
    held = [archive.load_archive(folders[member.run.id]) for member in members]
    seeds = list(dict.fromkeys(member.seed for member in members))
    folds = list(dict.fromkeys(member.fold for member in members))
    first = {member.fold: extras for member, extras in reversed(list(zip(members, held, strict=True)))}
    names = [name for name in held[0].baselines if all(name in extras.baselines for extras in first.values())]
    baselines = {name: pd.concat([extras.baselines[name] for extras in first.values()]) for name in names}
    origin = {**held[0].provenance, "run": ", ".join(member.run.id for member in members)}
    about = dict(origin.get("about", {}))
    what = f"{len(folds)} folds" if folds != [None] else "one split"
    what += f", {len(seeds)} seeds" if len(seeds) > 1 else ""
    about |= {"title": f"Out-of-fold evaluation: {what}", "Run": f"{parent.id}, of {len(members)} runs"}
    origin |= {"about": about, "selection": _SELECTION[_chose(strategy)]}
    caution = f"{what[0].upper()}{what[1:]}: {_CAUTION[_chose(strategy)]}"
    late = partial(_late, members=members, folders=folders, pooled=pooled, strategy=strategy)
    return replace(
        held[0], provenance=origin, baselines=baselines, train=None, sections=(), cautions=(caution,), late=late
    )


def _chose(strategy: str) -> str:
    return strategy if strategy in _CAUTION else "plain"


_CAUTION = {
    "kfold": (
        "each image is predicted by the model of the fold that did not learn from its patient. That fold's images also "
        "chose the best epoch of its model, so even the AUROC is somewhat too good."
    ),
    "nested": (
        "each image is predicted by the model whose test side its patient was on; other patients chose the epoch. Only "
        "calibration and thresholds are chosen on these predictions."
    ),
    "plain": "each image is predicted by the mean of the models. The same images chose the best epoch of each.",
}
_CAUTION["leave_one_out"] = _CAUTION["nested"]
_SELECTION = {
    "kfold": "The epoch with the best monitor on the fold that is reported on; every fold is reported.",
    "nested": "The epoch with the best monitor on an inner validation part of each fold's training side.",
    "plain": "The epoch with the best monitor on validation in each training; none was left out.",
}
_SELECTION["leave_one_out"] = _SELECTION["nested"]


def _late(
    sample: Sample,
    frozen: FrozenThresholds,
    *,
    members: Sequence[Member],
    folders: Mapping[str, Path],
    pooled: pd.DataFrame,
    strategy: str,
) -> tuple[Section, ...]:
    """Return the sections on the folds, and on the seeds: each seed's folds pooled, as one side of the comparison."""
    from medvit.evaluation.seed_spread import seeds
    from medvit.prediction import thresholds
    from medvit.prediction.predictions import prepare
    from medvit.report.comparison import Side
    from medvit.report.folds import folds

    made = []
    if members[0].fold is not None:
        made.append(folds(sample, frozen, dict(zip(pooled["uid"].astype(str), pooled["fold"], strict=True))))
    drawn = list(dict.fromkeys(member.seed for member in members))
    if len(drawn) > 1 and sample.spec.kind != "regression":
        side = "test" if strategy in ("nested", "leave_one_out") else "val"
        sides = []
        for seed in drawn:
            mine = [member for member in members if member.seed == seed]
            table = out_of_fold(mine, {m.run.id: _predicted(folders[m.run.id], side) for m in mine})
            alone = prepare(table, sample.spec, "val")
            sides.append(Side(alone, thresholds.freeze(alone), f"seed {seed}"))
        made.append(seeds(sides, Side(sample, frozen, "ensemble")))
    return tuple(made)
