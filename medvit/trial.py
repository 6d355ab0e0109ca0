"""A trained run put to the test: its predictions, the baselines it has to beat, and the report attached to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvit.errors import EvaluationError
from medvit.metric.bootstrap import Interval

if TYPE_CHECKING:
    from medvit.data.datamodule import DataModule
    from medvit.data.units import Units
    from medvit.engine.checkpoint import TrainedRun
    from medvit.report.baseline import Known
    from medvit.report.evaluation import Report, Section
    from medvit.report.frozen import Frozen
    from medvit.report.predictions import Sample
    from medvit.report.spec import EvaluationSpec
    from medvit.trial_bench import Bench


class Trial:
    """The images of a trained run. Those of the test side stay closed until `open_test` is called.

    `baselines` is filled when the test side is opened: fitted on the training side, scored on the test side. `asked`
    says which further sections are made then (conf/evaluate.yaml: sections).
    """

    def __init__(self, trained: TrainedRun, split: str, asked: Mapping[str, Any] | None = None) -> None:
        from medvit.engine.fit import data_module

        self.trained, self.split, self.asked = trained, split, asked or {}
        parts = trained.settings, trained.preprocess, trained.task
        self.closed = data_module(*parts)
        self._opened: DataModule | None = None
        self._open: Callable[[], DataModule] = lambda: data_module(*parts, allow_test=split == "test")
        self.baselines: dict[str, pd.DataFrame] = {}
        self._bench: Bench | None = None

    def train_rows(self) -> pd.DataFrame:
        """Return the manifest rows of the training side, for the leakage audit."""
        return self.closed.units("train").frame

    def open_test(self) -> pd.DataFrame:
        """Return the predictions table of the test side.

        Raises:
            EvaluationError: the manifest, split or preprocessing is not the one the run was trained with.
        """
        from medvit.engine.predict import predict, table
        from medvit.report.baseline import shortcut_baselines

        data = self._opened = self._open()
        data.setup()
        changed = [key for key, value in data.hashes.items() if self.trained.hashes.get(key) != value]
        if changed:
            raise EvaluationError(
                f"{', '.join(changed)} changed since the run was trained; restore the data set folder or train again"
            )
        loader = data.test_dataloader() if self.split == "test" else data.val_dataloader()
        found = predict(self.trained.network, loader, data.scale, data.shift, _device())
        units = data.units(self.split)
        if self.trained.task.kind in {"binary", "multilabel"}:
            train, test = (_known(side, self.trained.task) for side in (data.units("train"), units))
            self.baselines.update(shortcut_baselines(train, test, self.trained.task.names))
        return table(found, self.trained.task, units.frame, self.split)

    def sections(self, sample: Sample, frozen: Frozen) -> tuple[Section, ...]:
        """Return the sections asked for; the test side is open by now.

        Raises:
            EvaluationError: the test side is still closed.
        """
        from medvit.trial_bench import Bench
        from medvit.trial_sections import sections

        if self._opened is None:
            raise EvaluationError("the test side is closed; sections are made after the thresholds are frozen")
        train, validation, test = (self._opened.units(side) for side in ("train", "val", self.split))
        self._bench = Bench(self.trained, train, validation, test, self.split, _device())
        return sections(self._bench, self.asked, sample, frozen)

    def pictures(self, uids: Sequence[str]) -> Mapping[str, NDArray[np.uint8]]:
        """Return the model's view of some test units, uint8 [H W] (of a volume: its middle slice), or beside its map.

        With the map of the likeliest output, [H 2W 3], once a method was chosen on validation.
        """
        if self._opened is None:
            return {}
        units = self._opened.units(self.split)
        place = {uid: number for number, uid in enumerate(units.uid)}
        mapped = self._bench is not None and self._bench.best and len(self.trained.preprocess.shape) == 3
        show = self._bench.shown if self._bench is not None and mapped else _middle
        return {uid: show(units, place[uid]) for uid in uids if uid in place}


def evaluate_run(settings: dict[str, Any], spec_of: Any) -> Report:
    """Freeze thresholds on the run's validation predictions, open the test side, report, and attach all of it.

    Raises:
        RunError: no such run, or it is unfinished. EvaluationError: see `medvit.report.protocol`.
    """
    from medvit.engine.checkpoint import load_run
    from medvit.report import protocol
    from medvit.report.evaluation import Extras
    from medvit.tracking import evaluated, provenance
    from medvit.tracking import run as tracking

    place, split = Path(settings["tracking"]["folder"]), settings["split"]
    run = tracking.get(settings["run"], place, finished=True)
    trained = load_run(run.folder)
    spec: EvaluationSpec = spec_of(settings, trained.task.kind, tuple(trained.task.names))
    trial = Trial(trained, split, settings["sections"])
    origin = {"run": run.id, **trained.hashes, **provenance.code(), **_sentences(trained, provenance.packages())}
    extras = Extras(origin, trial.baselines, trial.train_rows(), trial.pictures, late=trial.sections)
    out = Path(settings["out"]) if settings["out"] else protocol.evaluation_folder(place, run.id, split)
    validation = pd.read_parquet(run.folder / "validation.parquet")
    report = protocol.evaluate_predictions(validation, trial.open_test, spec, out, extras=extras, split=split)
    evaluated.record(run, split, out)
    run.metrics(_headline(report, split))
    return report


def _sentences(trained: TrainedRun, packages: dict[str, str]) -> dict[str, str]:
    """Return what a reviewer's checklist asks of the model and its training, in words."""
    settings, step = trained.settings, trained.preprocess.to_json()
    plan, trainer, network = settings["optim"]["plan"], settings["trainer"], trained.network
    count = sum(parameter.numel() for parameter in network.parameters())
    optim = settings["optim"]["strategy"]["_target_"].rpartition(".")[2]
    weights = settings["model"].get("weights")
    return {
        "data": f"Data set {settings['data']['name']}, manifest {trained.hashes['manifest'][:12]}.",
        "preprocess": ", ".join(f"{key} {value}" for key, value in step.items()),
        "labels": f"Task {trained.task.kind}: {', '.join(trained.task.names)}, from the label table of the manifest.",
        "model": f"{type(network.backbone).__name__} of width {network.backbone.width}, {count:,} parameters.",
        "weights": f"Started from {weights}." if weights else "Trained from scratch.",
        "training": f"AdamW, {optim}, learning rate {plan['lr']}, {trainer['epochs']} epochs of batch "
        f"{trainer['batch_size']}, augmented by the preset of the run's configuration.",
        "selection": f"The epoch with the best {trained.task.monitor} on the validation split.",
        "software": ", ".join(f"{name} {version}" for name, version in packages.items() if version),
        "pseudonym": "Identifiers are replaced by keyed HMAC-SHA256 pseudonyms before anything is stored.",
    }


def _known(units: Units, task: Any) -> Known:
    """Return what the shortcut baselines may see of one side: facts, labels, and the middle image of every unit."""
    from medvit.report.baseline import Known

    truth = task.truth(units.target, units.weight)
    labels = {f"target.{name}": truth[:, column] for column, name in enumerate(task.names)}
    images = np.stack([_middle(units, number) for number in range(len(units))])
    return Known(list(units.uid), images, units.frame.assign(**labels))


def _middle(units: Units, number: int) -> NDArray[np.uint8]:
    """Return the middle image of a unit as uint8 [H W]."""
    image = units.cache.gather(units.members[number])
    plane = image[len(image) // 2, 0]
    while plane.ndim > 2:
        plane = plane[len(plane) // 2]
    shown: NDArray[np.uint8] = plane if plane.dtype == np.uint8 else (plane >> 8).astype(np.uint8)
    return shown


def _headline(report: Report, split: str) -> dict[str, float]:
    """Return the numbers the MLflow page shows, with their intervals."""
    findings = report.tables.get("findings")
    rows = findings.rows if findings else []
    found: dict[str, float] = {}
    for row in rows:
        for metric in ("auroc", "auprc"):
            value = row.get(metric)
            name = f"{split}/{metric}" if len(rows) == 1 else f"{split}/{metric}_{row['finding']}"
            if isinstance(value, Interval) and np.isfinite(value.value):
                found |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
    return found


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
