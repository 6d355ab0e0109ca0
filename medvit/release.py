"""What `train`, `register` and `export` publish of a run: files, tags, model in MLflow; the bundle behind the gate."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medvit.engine.guards import determinism
from medvit.errors import BundleError, ConfigError, DataError, RunError
from medvit.mlflow_server import server_of

if TYPE_CHECKING:
    from medvit.bundle.build import Exported
    from medvit.bundle.contents import Contents
    from medvit.bundle.parity import Trained
    from medvit.bundle.runtime import Source
    from medvit.bundle.variants import Validation, Wanted
    from medvit.data.units import Units
    from medvit.engine.checkpoint import TrainedRun
    from medvit.engine.fit import Fitted
    from medvit.tracking.model import Logged
    from medvit.tracking.run import Run

logger = logging.getLogger(__name__)
ONNX = "network.onnx"  # in a run's folder: the best network as it was traced, for register and export
SAMPLES = 16  # films, or series, that the parity gate looks at


@dataclass(frozen=True)
class Release:
    """A run made ready to leave: network and preprocessing, the contents of its bundle, and files for the gate."""

    run: Run
    trained: Trained
    contents: Contents
    samples: Sequence[Source]
    variants: Wanted | None = None

    def write(self, out: Path, draft: bool = False) -> Exported:
        """Write the bundle through the parity gate; see `medvit.bundle.build.export`."""
        from medvit.bundle.build import export

        return export(self.trained, self.contents, self.samples, out, draft, self.variants)


def prepare(run_id: str, runs: Path, options: dict[str, Any], draft: bool = False) -> Release:
    """Return the release of a finished run; without `draft` its evaluation must match its weights and data.

    `options` may hold `name`, `licence` (text), `definitions`, `acceptance`, `card` (see conf/export.yaml), `samples`
    (a folder of DICOM files for the gate, in place of validation images of the run's own data set), and `variants` with
    `variants_at_most` (see `medvit.bundle.variants`).

    Raises:
        RunError: no such run, unfinished, or (without `draft`) not evaluated or changed since.
        DataError: the data set the run was trained on is no longer there or has changed.
        ConfigError: `definitions`, `acceptance`, `card` or `variants` that no bundle can use.
    """
    from medvit.bundle import variants
    from medvit.bundle.acceptance import problems
    from medvit.bundle.build import draft_contents, evaluated_contents, with_card
    from medvit.bundle.card.facts import author_texts
    from medvit.engine.checkpoint import PREPROCESS, load_run
    from medvit.preprocess.steps import not_exportable
    from medvit.tracking import evaluation_seal, provenance
    from medvit.tracking import run as tracking
    from medvit.tracking.fetch import bring

    author = author_texts(options.get("card"))
    where = {**(options.get("tracking") or {}), "folder": runs}
    run = tracking.get(bring(run_id, where, server_of(where)), runs, finished=True)
    steps = json.loads((run.folder / PREPROCESS).read_text(encoding="utf-8")).get("steps") or {}
    if lost := not_exportable(steps):  # before an evaluation is asked for, which opens the test side
        raise BundleError(
            f"This run cannot be exported: {'; '.join(lost)}. Train with transforms of MONAI, or without, to export."
        )
    thresholds = None if draft else evaluation_seal.check(run)
    loaded = load_run(run.folder)
    _refuse_other_units(loaded.settings["data"].get("unit"), thresholds or {})
    asked = options.get("acceptance") or {}
    names, dear = options.get("variants") or [], options.get("variants_at_most") or {}
    wrong = problems({key: limit for key, limit in asked.items() if limit is not None})
    if wrong := wrong + (variants.problems(names, dear, loaded.task.kind) if names else []):
        raise ConfigError("; ".join(wrong))
    images = _Images(loaded.data_folder(), loaded.settings, loaded.hashes)
    origin = {
        "run_id": run.id,
        "hashes": evaluation_seal.state(run),
        "weights": loaded.weights,
        "determinism": determinism.described(loaded.settings.get("trainer", {})),
        **provenance.environment(),
    }
    name = options.get("name") or f"{loaded.settings['data'].get('name') or 'medvit'} {run.id[:8]}"
    contents = draft_contents(
        name,
        loaded.preprocess.to_json(),
        loaded.task.to_json(),
        images.side("train"),
        origin,
        options.get("definitions"),
        _unlike([images.units(side, loaded) for side in ("train", "val")]),
    )
    if thresholds is not None:
        contents = evaluated_contents(contents, thresholds)
    limits = {**contents.acceptance, **asked}
    contents = replace(contents, acceptance={key: limit for key, limit in limits.items() if limit is not None})
    metrics, report = ({}, {}) if draft else (run.values, evaluation_seal.report(run))
    contents = with_card(contents, metrics, report, author)
    if options.get("licence"):
        contents = replace(contents, licence=f"{options['licence']}\n")
    trained = _trained(run, loaded)
    samples = samples_in(options.get("samples"), loaded.preprocess) or images.samples()
    wanted = variants.Wanted(names, dear, images.validation(loaded)) if names else None
    return Release(run, trained, contents, samples, wanted)


def _refuse_other_units(unit: str | None, thresholds: Mapping[str, Any]) -> None:
    """Refuse what a bundle would answer for other units than the run: it judges one film or one series at a time."""
    if unit is not None:
        raise BundleError(
            f"This run judges a whole {unit} at once (data.unit={unit}); a bundle judges one film or series. "
            "Train with data.unit=null to export."
        )
    judged = thresholds.get("decides", {}).get("aggregate", {}).get("unit", "image")
    if judged != "image":
        raise BundleError(
            f"The thresholds of this run are for the whole {judged} (aggregate.unit={judged}); a bundle judges one film"
            " or series. Evaluate with aggregate.unit=image to export."
        )


class _Images:
    """The images a run was trained on, as its manifest and split say, which must not have changed."""

    def __init__(self, folder: Path, settings: dict[str, Any], hashes: dict[str, str]) -> None:
        from medvit.dataset import manifest, splits

        self.folder, self.fold, self.subset = folder, settings["data"].get("fold"), settings.get("subset")
        self.manifest = manifest.read(self.folder)
        self.splits = splits.read(self.folder, self.manifest)
        found = {"manifest": self.manifest.digest, "split": self.splits.digest}
        changed = [key for key, value in found.items() if hashes.get(key, value) != value]
        if changed:
            raise DataError(
                f"The {' and '.join(changed)} in data.folder changed since the run. Restore them, or train again."
            )

    def side(self, split: str) -> Any:
        """Return the manifest rows of one side of the split; of the training side those that were learnt from."""
        from medvit.dataset.subset import learnt

        return learnt(self.splits.rows(self.manifest, split, self.fold), self.subset if split == "train" else None)

    def units(self, split: str, loaded: TrainedRun) -> Units:
        """Return the images of one side as they are cached for this run."""
        from medvit.data.cache import Cache
        from medvit.data.units import Units

        rows, folder = self.side(split), self.folder / "cache"
        cache = Cache.build(rows, self.manifest.root, loaded.preprocess, folder, on_bad="exclude")
        return Units(cache, np.arange(len(cache)), loaded.task)

    def validation(self, loaded: TrainedRun) -> Validation:
        """Return the validation units as the network takes them, with their truth and patients."""
        from medvit.bundle.variants import Validation

        units = self.units("val", loaded)

        def images() -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
            for (row,) in units.members:
                yield loaded.preprocess.normalise(units.cache.gather([int(row)])), units.cache.position_mm(int(row))

        truth = loaded.task.truth(units.target, units.weight)
        return Validation(images, truth, units.frame["patient"].to_numpy())

    def samples(self) -> list[Source]:
        """Return files of some validation images, spread over all of them: never of the test side."""
        from medvit.preprocess import VolumeFiles

        rows = self.side("val")
        chosen = rows.iloc[:: max(1, len(rows) // SAMPLES)].head(SAMPLES)
        films = [[self.manifest.root / name for name in names] for names in chosen["files"]]
        keys, kinds = chosen["volume_key"], chosen["kind"]
        return [
            VolumeFiles(f, key) if kind == "volume" else f[0] for f, key, kind in zip(films, keys, kinds, strict=True)
        ]


def publish_training(run: Run, fitted: Fitted, settings: dict[str, Any]) -> None:
    """Attach to a run that was just fitted what a reviewer needs, and its best network as a model that reads DICOM."""
    from medvit.engine.checkpoint import PIPELINE
    from medvit.tracking import provenance
    from medvit.tracking.tags import checkpoint_tags

    hashes, environment = provenance.attach(run, settings, fitted.data.hashes)
    run.artifact(run.folder / PIPELINE)
    sheet = run.folder / "augmentation.png"
    if sheet.is_file():
        run.artifact(sheet)
    title = settings["data"]["name"]
    for context in ("training", "validation"):
        run.dataset(title, hashes["manifest"], context)
    if fitted.weights:
        run.json(fitted.weights, "weights.json")
        run.tags(checkpoint_tags(fitted.weights))
    if settings["tracking"].get("log_model", True):
        _publish_model(run, fitted, settings, {"run_id": run.id, "hashes": hashes, **environment})
    run.note(
        f"{title}: best {fitted.task.monitor} {fitted.best:.4f} on validation, epoch {fitted.best_epoch}. "
        f"Not tested yet.\n\nTest it: `python -m medvit.evaluate run={run.id} tracking.folder=DIR` "
        "(DIR: the folder of this mlflow.db)"
    )
    shown = ["data.name", "model.width", "model.depth", "optim.plan.lr", "trainer.epochs"]
    run.view(["test/auroc", fitted.task.monitor, "val/loss"], shown)


def _publish_model(run: Run, fitted: Fitted, settings: dict[str, Any], origin: dict[str, Any]) -> None:
    """Log the best network as the run's model, and register it where that is asked for."""
    from medvit.bundle.build import draft_contents
    from medvit.preprocess.steps import not_exportable
    from medvit.tracking import model

    unit, register = settings["data"]["unit"], settings["tracking"]["register"]
    if unit is not None:
        logger.warning("no model in MLflow%s: a bundle judges one film or series, this run a %s",
                       ", nothing registered" if register else "", unit)  # fmt: skip
        return
    if lost := not_exportable(fitted.preprocess.steps):
        logger.warning("no model in MLflow%s: %s", ", nothing registered" if register else "", "; ".join(lost))
        return
    rows = fitted.data.units("train").frame
    origin = {**origin, "weights": fitted.weights, "determinism": determinism.described(settings["trainer"])}
    trained = _trained(run, fitted)
    contents = draft_contents(
        f"{settings['data']['name']} {run.id[:8]}",
        fitted.preprocess.to_json(),
        fitted.task.to_json(),
        rows,
        origin,
        unlike=_unlike([fitted.data.units(side) for side in ("train", "val")]),
    )
    logged = publish_draft(run, trained, contents)
    if register:
        model.register(run, logged.model_id, register, "draft")


def _trained(run: Run, of: TrainedRun | Fitted) -> Trained:
    """Return the best network of a run, adapters merged, with what a bundle of it is made and checked by."""
    from medvit.bundle.golden import generated_cases
    from medvit.bundle.parity import Trained
    from medvit.model.lora import merge

    cases = generated_cases(of.preprocess)
    return Trained(merge(of.network), of.preprocess, of.task.probabilities_numpy, cases, run.folder / ONNX)


def _unlike(sides: Sequence[Units]) -> dict[str, Any]:
    """Return what a bundle needs to know images unlike those of the training side, the limits from validation."""
    from medvit.bundle.ood import fit_statistics
    from medvit.evaluation.ood import statistics_of

    return fit_statistics(*(statistics_of(side) for side in sides))


def publish_draft(run: Run, trained: Trained, contents: Contents) -> Logged:
    """Log a network that was just trained as the run's model, its bundle marked DRAFT: the end of `train`."""
    from medvit.bundle.build import write_draft

    with tempfile.TemporaryDirectory() as folder:
        return publish(run, trained, contents, write_draft(trained, contents, Path(folder) / "bundle"))


def publish(run: Run, trained: Trained, contents: Contents, bundle: Path) -> Logged:
    """Log a bundle as the run's model, with a generated film as example; return its id and address."""
    from medvit.tracking import model

    sample = trained.golden[0][0] if trained.golden and trained.preprocess.kind == "film" else None
    return model.log(run, bundle, contents.name, tuple(contents.labels["names"]), sample)


def samples_in(folder: str | None, preprocess: Any) -> list[Source]:
    """Return the films or volumes below a folder that can be read; none when no folder was given.

    Raises:
        RunError: the folder is not there. DataError: it holds no file.
    """
    from medvit.clinical.units import units_in

    if not folder:
        return []
    if not Path(folder).is_dir():
        raise RunError("samples: no such folder. Give samples=DIR with DICOM files.")
    return [unit.source for unit in units_in(Path(folder), preprocess) if unit.refusal is None]
