"""Tiny generated data, and the whole path on it in one process: train, evaluate, register, export, predict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

import medvit

CONF = Path(__file__).resolve().parents[1] / "conf"
CLASSES, LEVELS = ["none", "Größe ≥ 2 (left, +)", "both"], [0, 1, 2]
TASKS: dict[str, dict[str, Any]] = {
    "binary": {"labels.target": ["finding"]},
    "multilabel": {"labels.target": ["finding", "other"]},
    "multiclass": {"labels.target": ["kind"], "task.classes": CLASSES},
    "ordinal": {"labels.target": ["grade"], "task.levels": LEVELS},
    "regression": {"labels.target": ["size"], "task.unit": "mm"},
}
SMALLER = {"width": 32, "depth": 2, "heads": 2, "mlp": 48, "depths": [1, 1, 1, 1], "widths": [8, 16, 24, 32],
           "filters": 4, "blocks": [1, 1, 1, 1, 1]}  # fmt: skip
QUICK = {"trainer.epochs": 1, "trainer.batch_size": 12, "trainer.workers": 0, "trainer.progress_bar": False,
         "trainer.overlay_every": 0, "trainer.accumulate": 1}  # fmt: skip
UNCHECKED = {"acceptance": {"age_years": None, "rows": None, "columns": None, "spacing_mm": None}}  # of few patients


def words(group: str) -> list[str]:
    """Return every word of a folder of conf/, as its files say."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def smaller(model: str) -> dict[str, Any]:
    """Return the settings that make a model of conf/model small: image, width and depth, never its kind."""
    node = yaml.safe_load((CONF / "model" / f"{model}.yaml").read_text(encoding="utf-8"))
    patch, axes = node.get("patch_size"), len(node["image_size"])
    side = 2 * patch[0] if patch else (64 if axes == 2 else 32)
    found: dict[str, Any] = {f"model.{key}": value for key, value in SMALLER.items() if node.get(key) is not None}
    if model == "monai_bundle":  # a folder of one's own: tests/model/custom/test_monai_bundle.py makes and reads them
        found["model.network"] = {"name": "SegResNet", "spatial_dims": 3, "init_filters": 8, "in_channels": 1}
    return {**found, "model.image_size": [side] * axes}


def generated(folder: Path, kind: str) -> dict[str, Any]:
    """Write 16 patients' films, or FLAIR series, index and split them, and return the settings that name the set."""
    from medvit.phantom.films import write_films
    from medvit.phantom.mr_series import write_volumes

    data = folder / kind
    if not (data / "splits.parquet").is_file():
        made = (
            write_films(data / "raw", 16, 1) if kind == "films" else write_volumes(data / "raw", 24, 1, 0.5, ["FLAIR"])
        )
        key, rows = ("AccessionNumber" if kind == "films" else "SeriesInstanceUID"), np.arange(len(made))
        made["finding"], made["other"], made["grade"] = rows % 2, rows // 2 % 2, rows % 3
        made["kind"], made["size"] = [CLASSES[row % 3] for row in rows], rows % 7 * 1.5
        table = data / "labels.csv"
        made[[key, "finding", "other", "grade", "kind", "size"]].to_csv(table, index=False)
        labels = {
            "labels.csv": str(table),
            "labels.on": key,
            "labels.target": ["finding", "other", "grade", "kind", "size"],
        }
        medvit.index(data / "raw" / "dicom", data, workers=1, **labels)
        medvit.split(data, **{"split.fractions": {"train": 0.5, "val": 0.25, "test": 0.25}})
    return {"data.folder": str(data), "data": "folder"}


def whole_path(
    folder: Path, asked: Mapping[str, Any], images: Path, *, register: bool = True
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train, evaluate, register, export and predict `images`; return the test side's predictions and the bundle's."""
    settings = {**QUICK, **asked, "tracking.folder": str(folder / "runs")}
    if asked.get("optim") == "logistic":  # it has no epochs, and says so
        del settings["trainer.epochs"]
    run = medvit.train(**settings)
    quick = {f"sections.{name}": False for name in ("robustness", "ood", "explain")}
    medvit.evaluate(run, **quick, **{"detail.figures": False, "bootstrap.draws": 100})
    if register:
        medvit.register(run, "every-word", **UNCHECKED)
    out = folder / run.id
    medvit.export(run, out / "bundle", **UNCHECKED)
    said = medvit.predict(out / "bundle", images, out / "said", isolate=False)
    return pd.read_parquet(run.folder / "evaluation_test" / "predictions.parquet"), said


def furthest(tested: pd.DataFrame, said: pd.DataFrame) -> float:
    """Return how far the bundle's numbers lie from the evaluation's, relative to them where they are above 1.

    Every unit of the test side must be there once.
    """
    both = tested.merge(said[said["status"] == "OK"], on="uid", validate="one_to_one")
    assert len(both) == len(tested)
    names = [name.removeprefix("probability.") for name in said.columns if name.startswith("probability.")]
    assert names
    theirs = [f"calibrated.{name}" if f"calibrated.{name}" in both else f"prob.{name}" for name in names]
    ours, expected = both[[f"probability.{name}" for name in names]].to_numpy(), both[theirs].to_numpy()
    return float((np.abs(ours - expected) / np.maximum(1, np.abs(expected))).max())
