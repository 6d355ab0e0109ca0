"""`medvit pretrain` as a user types it: settings that are refused, data without labels, volumes and slices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whole_path import generated, words

import medvit
from medvit.config import conf_dir
from medvit.config_check import preflight
from medvit.errors import ConfigError, RunError
from medvit.pretrain import check
from medvit.tracking import run as runs

QUICK = {"trainer": {"epochs": 1, "batch_size": 8, "workers": 0, "progress_bar": False, "overlay_every": 1},
         "objective.decoder": {"width": 16, "depth": 1, "heads": 2}}  # fmt: skip
FILMS = {"model.image_size": [32, 32], "model.patch_size": [8, 8], "model.depth": 2}


def problems(*given: str) -> list[str]:
    return preflight(conf_dir(), "pretrain", list(given), check)


def test_the_test_side_is_refused_and_needs_a_second_word(tmp_path: Path) -> None:
    for name in ("manifest.parquet", "splits.parquet"):
        (tmp_path / name).touch()
    own = ["data=folder", f"data.folder={tmp_path}"]
    (told,) = problems(*own, "include=[train,test]")
    assert "images of the test side would be learnt from before they are tested on; leave test out" in told
    assert problems(*own, "include=[train,val,test]", "data.allow_leaks=true") == []
    assert problems(*own) == []  # labels.target of conf/data/folder.yaml need not be given


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["include=[trian]"], "include=['trian']: expected some of train, val, test; did you mean 'train'?"),
        (["include=[]"], "include=[]: expected at least one side"),
        (["data.unit=study"], "data.unit=study: pretraining looks at each image by itself"),
        (["data.sampler=weighted"], "data.sampler=weighted: it weights labels, and pretraining reads none"),
        (["optim.plan.lr=0"], "optim.plan.lr=0: expected 1e-12 and more"),
        (["objective=mea"], "objective=mea does not exist; did you mean 'mae'?"),
        (["objective.rato=0.5"], "'objective.rato' is not a setting; did you mean 'objective.ratio'?"),
        (["optim=lora"], "Could not override 'optim'"),
        (["optimizer=sdg"], "optimizer=sdg does not exist; did you mean 'sgd'?"),
        (["scheduler=plateau", "scheduler.monitor=val/auroc"], "scheduler.monitor=val/auroc: pretraining has val/loss"),
        (["scheduler=plateau", "include=[train,val]"], "scheduler.monitor=val/loss: with include=[train,val] no side"),
        (["tracking.register=x"], "tracking.register, tracking.log_model: pretraining logs and registers no model"),
        (["task=binary"], "Could not override 'task'"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_read(given: list[str], said: str) -> None:
    (found,) = problems(*given)
    assert found.startswith(said)


def test_the_recipe_of_masked_autoencoding_serves_the_pretraining_and_the_training_after_it(tmp_path: Path) -> None:
    from medvit.train import check as of_training

    for name in ("manifest.parquet", "splits.parquet"):
        (tmp_path / name).touch()
    words = ["experiment=cxr_mae", f"data.folder={tmp_path}"]
    assert problems(*words, "trainer.epochs=200") == []
    assert preflight(conf_dir(), "train", [*words, "labels.values={normal: 0, pneumonia: 1}"], of_training) == []


def test_labels_given_to_a_pretraining_are_refused_as_not_read(tmp_path: Path) -> None:
    found = problems("data=folder", f"data.folder={tmp_path}", "labels.target=[finding]")
    assert found[0].startswith("labels.target is read by `python -m medvit.")


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated films indexed and split without a label table."""
    from medvit.phantom.films import write_films

    place = tmp_path_factory.mktemp("unlabelled")
    write_films(place / "raw", patients=16, seed=5)
    medvit.index(place / "raw" / "dicom", place / "data", workers=1)
    medvit.split(place / "data")
    return place / "data"


def asked(folder: Path, place: Path, **more: Any) -> dict[str, Any]:
    return {**QUICK, "data": "folder", "data.folder": str(folder), "tracking.folder": str(place), **more}


@pytest.mark.parametrize("objective", words("objective"))
def test_an_indexed_set_without_labels_is_pretrained_on_and_the_run_says_what_it_was(
    objective: str, unlabelled: Path, tmp_path: Path
) -> None:
    run = medvit.pretrain(**asked(unlabelled, tmp_path / "runs", objective=objective, **FILMS))
    assert run.status == "FINISHED"
    assert {"train/loss", "val/loss", "train/lr"} <= set(run.values)
    files = run.artifacts()
    assert {"config.json", "hashes.json", "environment.json", "augmentation.png"} <= set(files)
    assert [name for name in files if name.startswith("reconstructions/epoch_001_")]
    params = run.client.get_run(run.id).data.params
    assert (params["objective.ratio"], params["include"]) == ("0.75", '["train"]')
    backbone = medvit.vit(weights=run.folder, image_size=(32, 32))
    assert backbone.provenance["family"] == "medvit-run"
    with pytest.raises(RunError, match=r"was started by medvit\.pretrain: resume it there"):
        medvit.train(resume=run.id, tracking__folder=tmp_path / "runs")


def test_a_pretraining_goes_on_from_another_and_remembers_whom_that_had_seen(unlabelled: Path, tmp_path: Path) -> None:
    place = tmp_path / "runs"
    first = medvit.pretrain(**asked(unlabelled, place, **FILMS))
    (first.folder / "seen_patients.json").write_text(json.dumps(["somebody else"]))
    other = {"model.weights": str(first.folder), "optimizer": "sgd", "scheduler": "one_cycle"}
    second = medvit.pretrain(**asked(unlabelled, place, **FILMS, **other))
    params = second.client.get_run(second.id).data.params
    assert (params["optimizer._target_"], params["optimizer.momentum"]) == ("torch.optim.SGD", "0.9")
    assert params["scheduler._target_"].endswith("OneCycleLR")
    assert not {"optim.plan.betas", "optim.plan.warmup_epochs"} & set(params)
    with pytest.raises(ConfigError, match=r"optim.plan.betas=\[0.8, 0.9\] is not used by SGD: leave it out"):
        medvit.pretrain(**asked(unlabelled, place, **FILMS, optimizer="sgd", **{"optim.plan.betas": [0.8, 0.9]}))
    assert second.labels["medvit.weights.family"] == "medvit-run"
    assert "somebody else" in json.loads((second.folder / "seen_patients.json").read_text())
    assert runs.get("latest", place).id == second.id


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["volume", "slices"])
def test_volumes_and_their_slices_are_pretrained_on(kind: str, tmp_path: Path) -> None:
    data = generated(tmp_path, "heads")
    model = {"model": "vit_pico_3d", "model.image_size": [16, 16, 16]} if kind == "volume" else FILMS
    size = {"preprocess.size": [4, 32, 32]} if kind == "slices" else {}
    run = medvit.pretrain(**{**QUICK, **data, **model, **size, "preprocess": kind, "augment": "crop",
                             "tracking.folder": str(tmp_path / "runs"), "trainer.batch_size": 4})  # fmt: skip
    assert np.isfinite(list(run.values.values())).all()
    assert [name for name in run.artifacts() if name.startswith("reconstructions/")]
    tuned = medvit.train(**{**data, **model, **size, "preprocess": kind, "labels.target": ["finding"],
                            "bag": "study" if kind == "slices" else "none", "model.weights": str(run.folder),
                            "trainer": {**QUICK["trainer"], "overlay_every": 0}, "task": "binary",
                            "tracking.folder": str(tmp_path / "runs")})  # fmt: skip
    assert tuned.status == "FINISHED"
