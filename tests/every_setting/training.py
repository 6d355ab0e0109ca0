"""A training of seconds, and all that can be seen of it: what it learned, what it was given, what it called."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from every_setting.leaves import Setting
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from whole_path import CLASSES

import medvit
from medvit.config import conf_dir
from medvit.config_words import completed, overrides_of, readable
from medvit.errors import MedvitError

Seen = dict[str, Any]


def composed(command: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the resolved settings of a command, as Hydra composes them."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        settings: Any = completed(OmegaConf.to_container(compose(command, readable(overrides_of(given))), resolve=True))
    return dict(settings)


def digest(value: Any) -> str:
    """Return a short hash of a table or plain values."""
    if isinstance(value, pd.DataFrame):
        value = value.to_csv(index=False, float_format="%.9g")
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


class Watch:
    """Counts calls and keeps arguments of what a setting may only reach, without a change in the numbers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from medvit.data import cache, loader
        from medvit.engine import build, cached_features, fit
        from medvit.model import bag, vit

        self.calls: Counter[str] = Counter()
        self.given: dict[str, Any] = {}
        monkeypatch.setattr(build, "refuse_unexportable", lambda *_: None)  # an export for each would take minutes
        monkeypatch.setattr(pl, "Trainer", self._trainer(pl.Trainer))
        monkeypatch.setattr(loader, "tune_loader", self._kept("loader", lambda *_: None))
        monkeypatch.setattr(fit, "audit_before_training", self._kept("leaks", lambda *_: "not looked for"))
        monkeypatch.setattr(cache.Cache, "build", self._kept("cache", cache.Cache.build))
        for place in (bag, vit):
            monkeypatch.setattr(place, "checkpoint", self._counted("recomputed", place.checkpoint))
        monkeypatch.setattr(torch.nn.Module, "compile", self._counted("compiled", lambda *_, **__: None))
        for place, name in ((cache.Cache, "audit"), (cached_features, "cached_features")):
            monkeypatch.setattr(place, name, self._counted(name, getattr(place, name)))

    def _trainer(self, made: Any) -> Any:
        def make(**given: Any) -> Any:
            named = {key: value for key, value in given.items() if isinstance(value, str | int | float | list)}
            parts = [type(one).__name__ for one in named.pop("callbacks", [])]
            self.given |= {"trainer": named, "callbacks": parts}
            quiet = [one for one in given.get("callbacks", []) if not isinstance(one, pl.callbacks.ProgressBar)]
            fixed = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "callbacks": quiet}
            return made(**{**given, **fixed})

        return make

    def _kept(self, name: str, call: Any) -> Any:
        def keep(*given: Any) -> Any:
            self.given[name] = [one for one in given if isinstance(one, str | int | float)]
            return call(*given)

        return keep

    def _counted(self, name: str, call: Any) -> Any:
        def counted(*values: Any, **named: Any) -> Any:
            result = call(*values, **named)
            self.calls[name] += result if isinstance(result, int) else result is not None
            return result

        return counted


def training(given: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Train as conf/train.yaml asks with `given`, and return what can be seen of it, or how it was refused."""
    from medvit.bundle.build import labels_of
    from medvit.engine import fit
    from medvit.engine.checkpoint import BEST

    history: list[dict[str, float]] = []
    drawn: list[str] = []
    shutil.rmtree(folder, ignore_errors=True)
    with monkeypatch.context() as patched:
        watch = Watch(patched)
        try:
            done = fit.fit(
                composed("train", given),
                folder,
                lambda numbers, _: history.append(numbers),
                attach=lambda _, name: drawn.append(name),
            )
        except MedvitError as error:
            return {"refused": str(error)}
    numbers = [{key: value for key, value in one.items() if not key.startswith("time/")} for one in history]
    return {
        "weights": hashlib.sha256((folder / BEST).read_bytes()).hexdigest(),
        "history": digest(numbers),
        "validation": digest(done.validation),
        "input": (done.data.hashes["split"], done.preprocess.scale, done.preprocess.shift),
        "said of labels": labels_of(done.task.to_json(), None),
        "drawn": drawn,
        "given": watch.given,
        "calls": dict(watch.calls),
    }


def shows(setting: Setting, before: Seen, after: Seen, other: Any) -> str:
    """Return "effect", or "refused" where the setting or its value is named, or what is wrong with the case."""
    if "refused" not in after:
        return "effect" if after != before else "no effect"
    named = (setting.key.rpartition(".")[2], str(other).rpartition("/")[2], str(other).removesuffix(".0"))
    if after == before:
        return f"no effect: both are refused: {after['refused']}"
    if any(one in after["refused"] for one in named):
        return "refused"
    return f"refused without its name: {after['refused']}; before: {before.get('refused', 'not refused')}"


def films(folder: Path) -> dict[str, Any]:
    """Write, index and split films of 16 patients with labels of every kind, and return the settings that name them."""
    from medvit.phantom.films import write_films

    if not (folder / "data" / "splits.parquet").is_file():
        made = write_films(folder / "raw", 16, 1)
        _labelled(made, "AccessionNumber", folder, folder / "raw" / "dicom", **{"data.kind": "film"})
    return {"data": "folder", "data.folder": str(folder / "data"), "labels.target": ["finding"]}


def pictures(folder: Path) -> dict[str, Any]:
    """Write 16-bit PNG of films, wider than high and within a black border, and return the settings that name them."""
    from medvit.dicom.read import read_film
    from medvit.phantom.films import write_films

    if not (folder / "data" / "splits.parquet").is_file():
        write_films(folder / "raw", 16, 1)
        (folder / "png").mkdir()
        rows = []
        for number, file in enumerate(sorted((folder / "raw" / "dicom").rglob("IM*"))):
            grey = (read_film(file).display()[::2, ::2] * 900 + 100).astype(np.uint16)
            Image.fromarray(np.pad(grey, ((30, 30), (90, 90)))).save(folder / "png" / f"{number}.png")
            rows.append({"file": f"{number}.png", "patient": f"p{number // 2}"})
        named = {"labels.on": "path", "labels.column": "file", "labels.patient": "patient"}
        _labelled(pd.DataFrame(rows), "file", folder, folder / "png", **named)
    return {"data": "folder", "data.folder": str(folder / "data"), "labels.target": ["finding"]}


def heads(folder: Path) -> dict[str, Any]:
    """Write, index and split FLAIR series of 16 heads, and return the settings that name them."""
    from medvit.phantom.mr_series import write_volumes

    if not (folder / "data" / "splits.parquet").is_file():
        made = write_volumes(folder / "raw", 16, 1, 0.5, ["FLAIR"])
        _labelled(made, "SeriesInstanceUID", folder, folder / "raw" / "dicom")
    return {"data": "folder", "data.folder": str(folder / "data"), "labels.target": ["finding"]}


def _labelled(made: pd.DataFrame, on: str, folder: Path, images: Path, **settings: Any) -> None:
    rows = np.arange(len(made))
    labels = {
        "finding": rows % 2,
        "other": rows // 2 % 2,
        "grade": rows % 3,
        "kind": [CLASSES[row % 3] for row in rows],
        "size": rows % 7 * 1.5,
        "doubt": [("0", "1", "-1", "")[row % 4] for row in rows],
        "word": [("normal", "opacity")[row % 2] for row in rows],
        "side": [("train", "val", "test")[row % 3] for row in rows],
    }
    table = folder / "labels.csv"
    made.assign(**labels)[list(dict.fromkeys([on, *made.columns.intersection(["patient"]), *labels]))].to_csv(
        table, index=False
    )
    asked = {"labels.csv": str(table), "labels.on": on, "labels.target": [*labels], "workers": 1, **settings}
    medvit.index(images, folder / "data", **asked)
    medvit.split(folder / "data", **{"split.fractions": {"train": 0.5, "val": 0.25, "test": 0.25}})
