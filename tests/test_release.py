"""From a run's id to what leaves it: only an evaluated run, unchanged, through the parity gate."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medvit.errors import BundleError, ConfigError, DataError, RunError

ROOT = Path(__file__).resolve().parents[1]
MODEL = {
    "_target_": "medvit.model.backbone.vit",
    "weights": None,
    "image_size": [48, 48],
    "patch_size": [16, 16],
    "in_channels": 1,
    "width": 32,
    "depth": 2,
    "heads": 2,
}
THRESHOLDS = {
    "schema": "medvit.thresholds/1",
    "calibration": {"opacity": {"kind": "temperature", "slope": 0.9, "intercept": 0.0, "images": 9, "note": ""}},
    "points": {
        "opacity": [{"threshold": 0.4, "rule": "youden", "value": None, "sensitivity": 0.9, "specificity": 0.8}]
    },
    "validation": {"units": 9, "patients": 5},
    "hash": "ef" * 32,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with films, their manifest and split, and the runs of one training."""
    from medvit.dataset import manifest, splits
    from medvit.dicom.read import read_film
    from medvit.phantom.films import write_films

    place = tmp_path_factory.mktemp("release")
    write_films(place / "raw", patients=12, seed=2)
    rows = []
    for number, file in enumerate(sorted((place / "raw" / "dicom").rglob("IM*"))):
        patient = file.parts[-3]
        names = {"uid": f"{number:032x}", "patient": patient, "study": file.parts[-2], "series": f"{number}"}
        same = {"kind": "film", "files": [str(file.relative_to(place / "raw"))], "volume_key": ""}
        facts = manifest.fact_columns(read_film(file).facts)
        rows.append({**names, **same, **facts, "label.opacity": number % 2})
    made = manifest.write(pd.DataFrame(rows), place / "raw", place / "data")
    splits.make(made, splits.SplitSpec(fractions={"train": 0.5, "val": 0.25, "test": 0.25})).write(place / "data")
    return place


@pytest.fixture(scope="module")
def run(place: Path) -> Any:
    """A run as training leaves it, with random weights."""
    import torch

    from medvit.dataset import manifest, splits
    from medvit.engine import checkpoint
    from medvit.engine.build import ARCHITECTURE, build_network, describe
    from medvit.preprocess import FilmPreprocess
    from medvit.task.binary import Binary
    from medvit.tracking import run as tracking

    torch.manual_seed(0)
    settings = {
        "data": {"name": "phantom", "folder": str(place / "data"), "fold": None},
        "model": MODEL,
        "pool": {"_target_": "medvit.model.pool.ClsPool"},
        "bag": None,
        "optim": {"strategy": {"_target_": "medvit.optim.strategy.Full", "head": 10.0}},
        "trust": [],
    }
    network, preprocess = build_network(settings, 1), FilmPreprocess(size=(48, 48))
    made = manifest.read(place / "data")
    hashes = {
        "manifest": made.digest,
        "split": splits.read(place / "data", made).digest,
        "preprocess": preprocess.digest,
    }
    with tracking.start(place / "runs", "films", "one") as started:
        run = started
        run.metrics({"test/auroc": 0.5})
        parts = {
            checkpoint.SETTINGS: settings,
            checkpoint.PREPROCESS: preprocess.to_json(),
            checkpoint.TASK: Binary("opacity").to_json(),
            checkpoint.HASHES: hashes,
            ARCHITECTURE: describe(settings, network),
        }
        for name, content in parts.items():
            checkpoint.write_json(run.folder / name, content)
        checkpoint.save_weights(network, run.folder / checkpoint.BEST)
    return run


@pytest.fixture(scope="module")
def evaluated(run: Any, place: Path) -> Any:
    from medvit.tracking import evaluation_seal

    folder = run.folder / "evaluation_test"
    folder.mkdir()
    (folder / "report.json").write_text("{}")
    (folder / "thresholds.json").write_text(json.dumps(THRESHOLDS))
    evaluation_seal.record(run, "test", folder)
    return run


def command(module: str, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd, capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip


def test_a_run_that_was_not_evaluated_does_not_leave(run, place) -> None:
    from medvit.release import prepare

    with pytest.raises(RunError, match=f"python -m medvit.evaluate run={run.id}"):
        prepare(run.id, place / "runs", {})


def test_as_a_draft_it_may_and_says_so(run, place, tmp_path) -> None:
    from medvit.bundle.runtime import Runtime
    from medvit.release import prepare

    release = prepare(run.id, place / "runs", {}, draft=True)
    done = release.write(tmp_path / "out", draft=True)
    assert done.parity.images > 0
    assert Runtime(tmp_path / "out").predict([release.samples[0]])[0].draft
    with pytest.raises(BundleError, match="thresholds: none for 'opacity'"):
        release.write(tmp_path / "other")


def test_the_gate_looks_at_validation_images_only(run, place) -> None:
    from medvit.dataset import manifest, splits
    from medvit.release import prepare

    made = manifest.read(place / "data")
    side = splits.read(place / "data", made).rows(made, "val")
    allowed = {place / "raw" / name for names in side["files"] for name in names}
    assert set(prepare(run.id, place / "runs", {}, draft=True).samples) <= allowed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"acceptance": {"veiw": ["PA"]}}, "acceptance.veiw: expected one of modality"),
        ({"acceptance": {"age_years": {"min": 18}}}, "acceptance.age_years: expected {min: NUMBER"),
        ({"definitions": {"opactiy": {"text": "x"}}}, "definitions.opactiy: expected one of opacity"),
        ({"definitions": {"opacity": {"code": "123"}}}, "definitions.opacity"),
    ],
)
def test_options_that_no_bundle_can_use_are_refused(run, place, options, said) -> None:
    from medvit.release import prepare

    with pytest.raises(ConfigError, match=re.escape(said)):
        prepare(run.id, place / "runs", options, draft=True)


def test_a_run_that_judges_studies_and_thresholds_for_studies_do_not_leave(run, place) -> None:
    from medvit.engine import checkpoint
    from medvit.release import prepare
    from medvit.tracking import evaluation_seal

    file = run.folder / checkpoint.SETTINGS
    good = json.loads(file.read_text())
    file.write_text(json.dumps(good | {"data": {**good["data"], "unit": "study"}}))
    with pytest.raises(BundleError, match="judges a whole study at once"):
        prepare(run.id, place / "runs", {}, draft=True)
    file.write_text(json.dumps(good))
    patch = pytest.MonkeyPatch()
    patch.setattr(evaluation_seal, "check", lambda _: {**THRESHOLDS, "decides": {"aggregate": {"unit": "patient"}}})
    with pytest.raises(BundleError, match="thresholds of this run are for the whole patient"):
        prepare(run.id, place / "runs", {})
    patch.undo()


@pytest.mark.slow
def test_export_register_and_predict_by_command(evaluated, place) -> None:
    done = command("medvit.export", place, f"run={evaluated.id}", "out=bundle", "name=chest")
    assert done.returncode == 0, done.stderr
    assert "training and bundle differ by at most" in done.stdout
    done = command("medvit.predict", place, "bundle=bundle", "input=raw/dicom", "out=results")
    assert done.returncode in {0, 10}, done.stderr
    table = pd.read_csv(place / "results" / "predictions.csv")
    good = table[table["status"] == "OK"]
    assert len(good) > 0.8 * len(table)
    assert np.array_equal(good["decision.opacity"] == "present", good["probability.opacity"] >= 0.4)
    done = command("medvit.register", place, f"run={evaluated.id}", "name=chest", "alias=candidate")
    assert done.returncode == 0, done.stderr
    assert "chest version 1, alias candidate" in done.stdout
    wrong = command("medvit.export", place, "run=" + "0" * 32, "out=other")
    assert wrong.returncode == 5
    assert f"The latest is {evaluated.id}" in wrong.stderr


def test_a_data_set_that_was_moved_is_named_as_such(run, place) -> None:
    from medvit.engine.checkpoint import load_run
    from medvit.evaluation.run import RunEvaluation
    from medvit.release import prepare

    (place / "data").rename(place / "moved")
    try:
        with pytest.raises(DataError, match="is not where it was"):
            prepare(run.id, place / "runs", {}, draft=True)
        with pytest.raises(DataError, match="is not where it was"):
            RunEvaluation(load_run(run.folder), "test")
    finally:
        (place / "moved").rename(place / "data")


def test_a_changed_data_set_is_refused(evaluated, place) -> None:
    from medvit.dataset import manifest, splits
    from medvit.release import prepare

    good = {name: (place / "data" / name).read_bytes() for name in ("manifest.parquet", "splits.parquet")}
    made = manifest.read(place / "data")
    table = made.table.assign(**{"label.opacity": 1 - made.table["label.opacity"]})
    other = manifest.write(table, place / "raw", place / "data")
    splits.make(other, splits.SplitSpec(fractions={"train": 0.5, "val": 0.25, "test": 0.25})).write(place / "data")
    with pytest.raises(DataError, match="manifest and split in data"):
        prepare(evaluated.id, place / "runs", {})
    for name, data in good.items():
        (place / "data" / name).write_bytes(data)


def test_findings_without_a_code_are_named_at_export() -> None:
    from medvit.bundle.build import labels_of
    from medvit.export import uncoded_findings

    task = {"kind": "multilabel", "names": ["pneumonia", "effusion"], "settings": {}, "fitted": {}}
    known = {"pneumonia": {"text": "a pneumonia", "code": ["233604007", "SCT", "Pneumonia"]}}
    assert uncoded_findings(labels_of(task, known)).startswith("No code for effusion: ")
    known["effusion"] = {"text": "an effusion", "code": ["60046008", "SCT", "Pleural effusion"]}
    assert uncoded_findings(labels_of(task, known)) == ""
