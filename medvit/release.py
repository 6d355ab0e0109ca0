"""What leaves a run: everything `export` and `register` share, from a run's id to a bundle that passed the gate."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medvit.errors import DataError, RunError

if TYPE_CHECKING:
    from medvit.data.units import Units
    from medvit.engine.checkpoint import TrainedRun
    from medvit.engine.fit import Fitted
    from medvit.export.build import Exported, Trained
    from medvit.export.bundle import Contents
    from medvit.tracking.model import Logged
    from medvit.tracking.run import Run

_TOLD = ("family", "weights", "revision", "sha256", "licence", "citation")  # of a checkpoint, as tags of the run
SAMPLES = 16  # films, or series, that the parity gate looks at


@dataclass(frozen=True)
class Release:
    """A run made ready to leave: network and preprocessing, the contents of its bundle, and files for the gate."""

    run: Run
    trained: Trained
    contents: Contents
    samples: Sequence[Path | list[Path]]

    def write(self, out: Path, draft: bool = False) -> Exported:
        """Write the bundle through the parity gate; see `medvit.export.build.export`."""
        from medvit.export.build import export

        return export(self.trained, self.contents, self.samples, out, draft)


def prepare(run_id: str, runs: Path, options: dict[str, Any], draft: bool = False) -> Release:
    """Return the release of a finished run; without `draft` its evaluation must match its weights and data.

    `options` may hold `name`, `licence` (text), `definitions` and `acceptance` (see conf/export.yaml), and `samples`
    (a folder of DICOM files for the gate, in place of validation images of the run's own data set).

    Raises:
        RunError: no such run, unfinished, or (without `draft`) not evaluated or changed since.
        DataError: the data set the run was trained on is no longer there or has changed.
    """
    from medvit.engine.checkpoint import load_run
    from medvit.export.build import Trained, draft_contents, evaluated_contents
    from medvit.model.lora import merge
    from medvit.tracking import evaluated, provenance
    from medvit.tracking import run as tracking

    run = tracking.get(run_id, runs, finished=True)
    thresholds = None if draft else evaluated.check(run)
    loaded = load_run(run.folder)
    images = _Images(loaded.settings["data"], loaded.hashes)
    origin = {"run_id": run.id, "hashes": evaluated.state(run), "weights": loaded.weights, **provenance.environment()}
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
        contents = evaluated_contents(contents, thresholds, run.values)
    limits = {**contents.acceptance, **(options.get("acceptance") or {})}
    contents = replace(contents, acceptance={key: limit for key, limit in limits.items() if limit is not None})
    if options.get("licence"):
        contents = replace(contents, licence=f"{options['licence']}\n")
    cases = generated_films() if loaded.preprocess.kind == "film" else ()
    trained = Trained(merge(loaded.network), loaded.preprocess, loaded.task.probabilities_numpy, cases)
    return Release(run, trained, contents, samples_in(options.get("samples")) or images.samples())


class _Images:
    """The images a run was trained on, as its manifest and split say, which must not have changed."""

    def __init__(self, data: dict[str, Any], hashes: dict[str, str]) -> None:
        from medvit.data import manifest, splits

        self.folder = Path(data["folder"])
        self.manifest = manifest.read(self.folder)
        self.splits = splits.read(self.folder, self.manifest)
        self.fold = data.get("fold")
        found = {"manifest": self.manifest.digest, "split": self.splits.digest}
        changed = [key for key, value in found.items() if hashes.get(key, value) != value]
        if changed:
            raise DataError(
                f"The {' and '.join(changed)} in data.folder changed since the run. Restore them, or train again."
            )

    def side(self, split: str) -> Any:
        """Return the manifest rows of one side of the split."""
        return self.splits.rows(self.manifest, split, self.fold)

    def units(self, split: str, loaded: TrainedRun) -> Units:
        """Return the images of one side as they are cached for this run."""
        from medvit.data.cache import Cache
        from medvit.data.units import Units

        rows, folder = self.side(split), self.folder / "cache"
        cache = Cache.build(rows, self.manifest.root, loaded.preprocess, folder, on_bad="exclude")
        return Units(cache, np.arange(len(cache)), loaded.task)

    def samples(self) -> list[Path | list[Path]]:
        """Return files of some validation images, spread over all of them: never of the test side."""
        rows = self.side("val")
        chosen = rows.iloc[:: max(1, len(rows) // SAMPLES)].head(SAMPLES)
        units = [[self.manifest.root / name for name in names] for names in chosen["files"]]
        return [unit[0] if len(unit) == 1 else unit for unit in units]


def publish_fit(run: Run, fitted: Fitted, settings: dict[str, Any]) -> None:
    """Attach to a run that was just fitted what a reviewer needs, and its best network as a model that reads DICOM."""
    from medvit.export.build import Trained, draft_contents
    from medvit.model.lora import merge
    from medvit.tracking import model, provenance, view
    from medvit.tracking.declared import redacted

    sealed = {"validation": provenance.file_sha256(run.folder / "validation.parquet")}  # thresholds will come from it
    hashes, environment = provenance.hashes(settings, **fitted.data.hashes, **sealed), provenance.environment()
    for name, content in (("config", redacted(settings)), ("environment", environment), ("hashes", hashes)):
        run.json(content, f"{name}.json")
    sheet = run.folder / "augmentation.png"
    if sheet.is_file():
        run.artifact(sheet)
    title = settings["data"]["name"]
    for context in ("training", "validation"):
        run.dataset(title, hashes["manifest"], context)
    if fitted.weights:
        run.json(fitted.weights, "weights.json")
        run.tags(_weights_tags(fitted.weights))
    origin = {"run_id": run.id, "hashes": hashes, "weights": fitted.weights, **environment}
    rows = fitted.data.units("train").frame
    parts = fitted.preprocess.to_json(), fitted.task.to_json(), rows, origin
    cases = generated_films() if fitted.preprocess.kind == "film" else ()
    trained = Trained(merge(fitted.network), fitted.preprocess, fitted.task.probabilities_numpy, cases)
    contents = draft_contents(
        f"{title} {run.id[:8]}", *parts, unlike=_unlike([fitted.data.units(side) for side in ("train", "val")])
    )
    logged = publish_draft(run, trained, contents)
    if settings["tracking"]["register"]:
        model.register(run, logged.model_id, settings["tracking"]["register"], "draft")
    run.note(
        f"{title}: best {fitted.task.monitor} {fitted.best:.4f} on validation, epoch {fitted.best_epoch}. "
        f"Not tested yet.\n\nTest it: `python -m medvit.evaluate run={run.id}`"
    )
    shown = ["data.name", "model.width", "model.depth", "optim.plan.lr", "trainer.epochs"]
    view.save(run.client, run.experiment_id, ["test/auroc", fitted.task.monitor, "val/loss"], shown)


def _weights_tags(weights: Mapping[str, str]) -> dict[str, str]:
    """Return tags that say where the first weights came from; a hub id's slash is written --, as in the store."""
    plain = {key: re.sub(r"[^\w .,:;+=()@-]+", " ", weights[key].replace("/", "--"))[:200] for key in _TOLD}
    return {f"medvit.weights.{'id' if key == 'weights' else key}": value for key, value in plain.items() if value}


def _unlike(sides: Sequence[Units]) -> dict[str, Any]:
    """Return what a bundle needs to know images unlike those of the training side, the limits from validation."""
    from medvit.export.unlike import fitted
    from medvit.trial.ood import statistics_of

    return fitted(*(statistics_of(side) for side in sides))


def publish_draft(run: Run, trained: Trained, contents: Contents) -> Logged:
    """Log a network that was just trained as the run's model, its bundle marked DRAFT: the end of `train`."""
    from medvit.export.build import write_draft

    with tempfile.TemporaryDirectory() as folder:
        return publish(run, trained, contents, write_draft(trained, contents, Path(folder) / "bundle"))


def publish(run: Run, trained: Trained, contents: Contents, bundle: Path) -> Logged:
    """Log a bundle as the run's model, with a generated film as example; return its id and address."""
    from medvit.tracking import model

    sample = trained.golden[0][0] if trained.golden else None
    return model.log(run, bundle, contents.name, tuple(contents.labels["names"]), sample)


def samples_in(folder: str | None) -> list[Path | list[Path]]:
    """Return the files below a folder; none when no folder was given.

    Raises:
        RunError: the folder is not there or empty.
    """
    if not folder:
        return []
    found = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    if not found:
        raise RunError("samples: the folder is not there or holds no file. Give samples=DIR with DICOM files.")
    return list(found)


def generated_films(count: int = 4) -> list[list[bytes]]:
    """Return generated chest films as DICOM bytes, one file each: golden cases and MLflow's input example."""
    from medvit.dicom.phantom import write_films

    with tempfile.TemporaryDirectory() as folder:
        write_films(Path(folder) / "films", patients=count)
        files = sorted((Path(folder) / "films" / "dicom").rglob("IM*"))
        return [[file.read_bytes()] for file in files[:count]]
