"""Evaluate a trained run: predictions, shortcut baselines, and the report attached to the run."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvit.errors import EvaluationError
from medvit.metric.bootstrap import Interval
from medvit.mlflow_server import server_of
from medvit.preprocess.resize import to_uint8

if TYPE_CHECKING:
    from medvit.data.units import Units
    from medvit.engine.checkpoint import TrainedRun
    from medvit.evaluation.inference import OpenedRun
    from medvit.prediction.predictions import Sample
    from medvit.prediction.spec import EvaluationSpec
    from medvit.prediction.thresholds import FrozenThresholds
    from medvit.report.page import Extras, Report, Section
    from medvit.report.section.baseline import BaselineSide
    from medvit.tracking.run import Run

logger = logging.getLogger(__name__)
_OF_ENSEMBLE = (
    "The model is the mean of several networks, and calibration and thresholds come from predictions of single ones "
    "on images they had not learnt from: the mean is less extreme, so look at its calibration before its decisions."
)


class RunEvaluation:
    """The images of a trained run. Those of the tested side stay closed until `open_test` is called.

    `split` is "test", "val", or with `site` (the data set folder of another site) what that set is called. `baselines`
    is filled when the tested side is opened: fitted on the training side, scored on the tested side. `asked` says which
    further sections are made then (conf/evaluate.yaml: sections).
    """

    def __init__(
        self, trained: TrainedRun, split: str, asked: Mapping[str, Any] | None = None, site: Path | None = None
    ) -> None:
        from medvit.data.loading import loading_of
        from medvit.data.split_data import SplitData

        trained.data_folder()
        self.trained, self.split, self.asked, self.site = trained, split, asked or {}, site
        folder, loading = trained.settings["data"]["folder"], loading_of(trained.settings)
        self._make = partial(SplitData, folder, trained.preprocess, trained.task, **loading)
        self.home = self._make()
        self.baselines: dict[str, pd.DataFrame] = {}
        self.cautions: tuple[str, ...] = ()
        self._tested: Units | None = None
        self._opened: OpenedRun | None = None

    def train_rows(self) -> pd.DataFrame:
        """Return the manifest rows of the training side with their pixel digests, for the leakage audit."""
        return self.home.units("train").with_digests()

    def validation(self, file: Path) -> pd.DataFrame:
        """Return the run's validation predictions, with the intensity of each image where the images are as they were.

        Raises:
            EvaluationError: see `_refuse_changed`.
        """
        units = self.home.units("val")
        self._refuse_changed(self.home.hashes)
        return pd.read_parquet(file).merge(_intensity(units), on="uid", how="left", validate="one_to_one")

    def open_test(self) -> pd.DataFrame:
        """Return the predictions table of the tested side.

        Raises:
            EvaluationError: the manifest, split or preprocessing is not the one the run was trained with.
        """
        from medvit.data.loader import BatchLoader, Plan
        from medvit.engine.predict import inference_device, predict, table
        from medvit.evaluation.external_validation import external_warnings, open_external
        from medvit.evaluation.inference import with_time_left
        from medvit.model.ensemble import Ensemble
        from medvit.report.section.baseline import shortcut_baselines

        if self.site is None:
            data = self._make(allow_test=self.split == "test")
            units = data.units(self.split)
            self._refuse_changed(data.hashes)
        else:
            data = open_external(self.trained, self.site)
            units = data.units("test")
            home = [self.home.units(side) for side in ("train", "val")]
            self.cautions = external_warnings(self.trained, self.site, home, units)
        if isinstance(self.trained.network, Ensemble):
            self.cautions = (*self.cautions, _OF_ENSEMBLE)
        self._tested = units
        loader = BatchLoader(units, Plan(data.loading.batch_size))  # in order, not augmented
        steps = with_time_left(loader, f"Predicting {self.split}", -(-len(units) // data.loading.batch_size))
        found = predict(self.trained.network, steps, data.scale, data.shift, inference_device())
        if self.trained.task.kind != "regression":
            train, test = (_known(side, self.trained.task) for side in (self.home.units("train"), units))
            self.baselines.update(
                shortcut_baselines(train, test, self.trained.task.names, self.asked.get("logistic", False))
            )
        made = table(found, self.trained.task, units.with_digests(), self.split)
        return made.merge(_intensity(units), on="uid", how="left", validate="one_to_one")

    def _refuse_changed(self, hashes: Mapping[str, str]) -> None:
        changed = [key for key, value in hashes.items() if self.trained.hashes.get(key) != value]
        if changed:
            raise EvaluationError(
                f"{', '.join(changed)} changed since the run was trained; restore the data set folder or train again"
            )

    def sections(self, sample: Sample, frozen: FrozenThresholds) -> tuple[Section, ...]:
        """Return the sections asked for; the tested side is open by now.

        Raises:
            EvaluationError: the tested side is still closed.
        """
        from medvit.engine.predict import inference_device
        from medvit.evaluation.inference import OpenedRun
        from medvit.evaluation.sections import sections

        if self._tested is None:
            raise EvaluationError("the test side is closed; sections are made after the thresholds are frozen")
        train, validation = (self.home.units(side) for side in ("train", "val"))
        self._opened = OpenedRun(self.trained, train, validation, self._tested, self.split, inference_device())
        return sections(self._opened, self.asked, sample, frozen)

    def pictures(self, uids: Sequence[str]) -> Mapping[str, NDArray[np.uint8]]:
        """Return the model's view of some tested units, uint8 [H W] (of a volume: its middle slice), or beside its map.

        With the map of the likeliest output, [H 2W 3], once a method was chosen on validation.
        """
        units = self._tested
        if units is None:
            return {}
        place = {uid: number for number, uid in enumerate(units.uid)}
        mapped = self._opened is not None and self._opened.best and len(self.trained.preprocess.shape) == 3
        show = self._opened.overlay_of if self._opened is not None and mapped else _middle
        return {uid: show(units, place[uid]) for uid in uids if uid in place}


def evaluate_run(settings: dict[str, Any], spec_of: Any, run_id: str | None = None) -> Report:
    """Freeze thresholds on the run's validation predictions, open the tested side, report, and attach all of it.

    With `data.folder` the tested side is all of another site's data set; thresholds are then those of the run's own
    test evaluation, where there was one. `run_id` stands in for `settings["run"]`.

    Raises:
        RunError: no such run, or it is unfinished. EvaluationError: see `medvit.evaluation.protocol`.
    """
    from medvit.engine.checkpoint import load_run
    from medvit.evaluation import archive, protocol
    from medvit.evaluation.external_validation import frozen_before, refuse_swapped
    from medvit.tracking import evaluation_seal, uploader
    from medvit.tracking import run as tracking

    place, site = Path(settings["tracking"]["folder"]), settings["data"]["folder"]
    split = settings["data"]["name"] if site else settings["split"]
    run = tracking.get(run_id or settings["run"], place, finished=True)
    trained = load_run(run.folder)
    spec: EvaluationSpec = spec_of(settings, trained.task.kind, tuple(trained.task.names))
    evaluation = RunEvaluation(trained, split, settings["sections"], Path(site) if site else None)
    out = Path(settings["out"]) if settings["out"] else protocol.evaluation_folder(place, run.id, split)
    file = run.folder / "validation.parquet"
    logger.info("run %s (%s): %s of %s", run.id[:8], run.client.get_run(run.id).info.run_name,
                "all" if site else f"side {split}", split if site else trained.settings["data"]["name"])  # fmt: skip
    refuse_swapped(run, file)
    with tempfile.TemporaryDirectory() as folder:
        before = frozen_before(run, Path(folder))
        frozen = before[0] if before and site else None
        recorded = before[1] if before and site else None
        extras = _extras(evaluation, run, before)
        archive.set_aside(out, settings["sections"], given=bool(settings["out"]))
        report = protocol.evaluate_predictions(
            evaluation.validation(file), evaluation.open_test, spec, out, recorded=recorded, frozen=frozen,
            extras=extras, split=split,
        )  # fmt: skip
    evaluation_seal.record(run, split, out)
    run.metrics(logged_metrics(report, split))
    uploader.follow(run.folder, server_of(settings["tracking"]))
    return report


def _extras(evaluation: RunEvaluation, run: Run, before: tuple[Path, str] | None) -> Extras:
    """Return what the report holds besides predictions; cautions follow once the tested side is open."""
    from medvit.evaluation.checklist_answers import about, checklist_answers, label_words
    from medvit.report.page import Extras
    from medvit.report.wording import class_name
    from medvit.tracking import provenance

    trained = evaluation.trained
    origin: dict[str, Any] = {"run": run.id, **trained.hashes, **provenance.code()}
    origin |= checklist_answers(trained, run, evaluation.home.units("train"))
    classes = label_words(trained)
    named = ", ".join(class_name(name, classes) for name in trained.task.names)
    origin |= {"classes": classes, "about": about(trained, run, evaluation.split, evaluation.site is not None, named)}
    if evaluation.site is not None:
        origin["external"] = (
            f"All images of the data set “{evaluation.split}”, which the model never saw; calibration and thresholds "
            "come from the validation split of the training site."
        )

    def warned(frozen: FrozenThresholds) -> tuple[str, ...]:
        if before is None or evaluation.site is not None or evaluation.split != "test" or frozen.hash == before[1]:
            return evaluation.cautions
        late = (
            f"This test split had been evaluated before with other thresholds ({before[1][:12]}): those used here were "
            "not fixed before it was first seen."
        )
        return (*evaluation.cautions, late)

    return Extras(
        origin,
        evaluation.baselines,
        evaluation.train_rows(),
        evaluation.pictures,
        late=evaluation.sections,
        warned=warned,
    )


def _known(units: Units, task: Any) -> BaselineSide:
    """Return what the shortcut baselines may see of one side: facts, labels, and the middle image of every unit."""
    from medvit.report.section.baseline import BaselineSide

    truth = task.truth(units.target, units.weight)
    labels = {f"target.{name}": truth[:, column] for column, name in enumerate(task.names)}
    images = np.stack([_middle(units, number) for number in range(len(units))])
    return BaselineSide(list(units.uid), images, units.frame.assign(**labels))


def _intensity(units: Units) -> pd.DataFrame:
    """Return mean and standard deviation of the middle image of every unit, 0 black to 1 white, with its uid."""
    from medvit.evaluation.inference import middle_plane

    planes = [middle_plane(units, number) for number in range(len(units))]
    rows = [(plane.mean() / np.iinfo(plane.dtype).max, plane.std() / np.iinfo(plane.dtype).max) for plane in planes]
    mean, spread = np.array(rows, np.float64).T
    return pd.DataFrame({"uid": units.uid, "intensity_mean": mean, "intensity_std": spread})


def _middle(units: Units, number: int) -> NDArray[np.uint8]:
    """Return the middle image of a unit as uint8 [H W]."""
    from medvit.evaluation.inference import middle_plane

    return to_uint8(middle_plane(units, number))


def logged_metrics(report: Report, split: str) -> dict[str, float]:
    """Return the numbers the MLflow page shows, with their intervals; of another site as `external/<site>_...`."""
    findings = report.tables.get("findings")
    place = f"{split}/" if split in {"test", "val", "external"} else f"external/{split}_"
    rows = findings.rows if findings else []
    found: dict[str, float] = {}
    for row in rows:
        for metric in ("auroc", "auprc"):
            value = row.get(metric)
            name = f"{place}{metric}" if len(rows) == 1 else f"{place}{metric}_{_word(row['finding'])}"
            if isinstance(value, Interval) and np.isfinite(value.value):
                found |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
    return found


def _word(finding: str) -> str:
    """Return a finding's name as MLflow takes it; the mean over findings, "macro (3 of 3 findings)", is "macro"."""
    from medvit.tracking.allow_list import mlflow_name

    name = "macro" if finding.startswith("macro (") else finding
    return mlflow_name(re.sub(r"[ /]+", "_", name))
