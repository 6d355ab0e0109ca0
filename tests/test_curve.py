"""`medvit curve`: nested subsets of the training side alone, one test side, runs below one run, resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from whole_path import QUICK, generated

import medvit
from medvit import curve as command
from medvit.config import conf_dir
from medvit.config_check import preflight
from medvit.config_words import readable
from medvit.curve import check
from medvit.dataset import manifest, splits
from medvit.errors import ConfigError, RunError, SplitError
from medvit.tracking import run as runs

STARTS: dict[str, Any] = {"mean": {}, "attention": {"pool": "attention"}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("curve")


def asked(place: Path, **more: Any) -> dict[str, Any]:
    small = {"model.image_size": [32, 32], "model.patch_size": [8, 8], "model.depth": 1, "model": "vit_pico"}
    shared = {**QUICK, **generated(place, "films"), **small, "labels.target": ["finding"]}
    return {"train": shared, "starts": STARTS, "shares": [0.5, 1.0], "seeds": [0], "bootstrap.draws": 100,
            "tracking.folder": str(place / "runs"), **more}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["shares=[0,2]"], "shares=[0, 2]: expected some shares of the training patients, each above 0 and at most 1"),
        (["seeds=[1,1]"], "seeds=[1, 1]: expected different whole numbers from 0"),
        (["split=train"], "split=train: expected test or val"),
        (["least_steps=0"], "least_steps=0: expected 1 and more, or null"),
        (["bootstrap.draws=10"], "bootstrap.draws=10: expected 100 and more"),
        (["starts={}"], "starts={}: expected names with their settings of medvit.train"),
        (["starts={a: {subset.share: 0.1}}"], "starts.a: subset.share=0.1 is for the curve to set"),
        (["train={data: phantom_cxr, seed: 3}"], "train: seed=3 is for the curve to set"),
        (["starts={a: {}, b: {optim: lorra}}"], "starts.b: optim=lorra does not exist; did you mean 'lora'?"),
        (["starts={a: {}, b: {optim: lora}}"], "starts.b: optim: Lora adapts a pretrained encoder"),
    ],
)
def test_what_is_wrong_is_told_by_the_name_of_its_start(given: list[str], said: str) -> None:
    words = given if any(word.startswith("starts") for word in given) else ["starts={a: {}}", *given]
    (found,) = preflight(conf_dir(), "curve", readable(words), check)
    assert found.startswith(said)


def test_a_share_too_small_for_the_labels_is_refused_with_all_others_and_leaves_no_run(place: Path) -> None:
    with pytest.raises(SplitError) as told:
        medvit.curve(**asked(place, shares=[0.01, 0.2, 1.0], seeds=[0, 1]))
    *lines, advice = str(told.value).splitlines()
    assert [line[:30] for line in lines[:2]] == [f"share 0.01, seed {seed}: 1 patients, "[:30] for seed in (0, 1)]
    assert all("expected 2 or more of each" in line for line in lines)
    assert not [line for line in lines if line.startswith("share 1,")]
    assert advice.startswith("give larger shares")
    assert not (place / "runs").exists()


def test_starts_of_other_tasks_are_refused(place: Path) -> None:
    with pytest.raises(ConfigError, match="starts: they differ in data, labels, task"):
        medvit.curve(**asked(place, starts={"a": {}, "b": {"labels.target": ["other"], "data.name": "other"}}))


def test_epochs_rise_until_a_small_share_has_its_steps(place: Path) -> None:
    from medvit.config import settings_of

    settings = settings_of("curve", asked(place, least_steps=7), check)
    steps = {}
    for job in command._jobs(settings):
        epochs = command._own(settings, job).get("trainer.epochs", 1)
        steps[job.share] = epochs * -(-job.units // QUICK["trainer.batch_size"])
        assert steps[job.share] - 7 < -(-job.units // QUICK["trainer.batch_size"])
    assert min(steps.values()) >= 7


def test_the_steps_of_a_small_share_are_those_of_its_units_where_a_unit_is_several_images(place: Path) -> None:
    from medvit.config import settings_of

    given = asked(place, least_steps=50, starts={"whole": {}})
    given["train"] |= {"data.unit": "patient", "bag": "study"}
    settings = settings_of("curve", given, check)
    (job,) = (each for each in command._jobs(settings) if each.share == 1.0)
    assert job.units == job.patients < QUICK["trainer.batch_size"]  # one step an epoch, though more images than that
    assert command._own(settings, job)["trainer.epochs"] == 50


@pytest.fixture(scope="module")
def done(place: Path) -> Any:
    return medvit.curve(**asked(place))


def children(done: Any) -> dict[str, str]:
    """Return the ids of the finished trainings by start, share and seed."""
    return {
        " ".join(
            [run.client.get_run(run.id).info.run_name.partition(",")[0], params["subset.share"], params["seed"]]
        ): run.id
        for run, params in runs.children(done)
        if run.status == "FINISHED"
    }


def seen(done: Any, name: str) -> set[str]:
    return set(json.loads((done.folder.parent / children(done)[name] / "seen_patients.json").read_text()))


@pytest.mark.slow
def test_subsets_are_nested_of_the_training_side_alone_and_alike_for_every_start(done: Any, place: Path) -> None:
    sides = splits.read(place / "films", manifest.read(place / "films")).sides()
    half, whole = seen(done, "mean 0.5 0"), seen(done, "mean 1.0 0")
    assert half < whole == set(sides.index[sides == "train"])
    assert len(half) == round(len(whole) / 2)
    assert seen(done, "attention 0.5 0") == half


@pytest.mark.slow
def test_the_trainings_stand_below_one_run_that_holds_table_and_figure(done: Any) -> None:
    assert sorted(children(done)) == ["attention 0.5 0", "attention 1.0 0", "mean 0.5 0", "mean 1.0 0"]
    assert {"curve.csv", "curve.md", "curve.png", "curve.svg"} <= set(done.artifacts())
    assert {"test/auroc_mean", "test/auroc_attention", "test/auroc_mean_low"} <= set(done.values)
    steps = [point.step for point in done.client.get_metric_history(done.id, "test/auroc_mean")]
    assert steps == [len(seen(done, "mean 0.5 0")), len(seen(done, "mean 1.0 0"))]
    assert done.status == "FINISHED"


@pytest.mark.slow
def test_the_table_says_what_scikit_learn_says_of_the_predictions(done: Any) -> None:
    table = pd.read_csv(done.folder / "curve.csv")
    for name, run in children(done).items():
        start, share, _ = name.split()
        said = pd.read_parquet(done.folder.parent / run / "evaluation_test" / "predictions.parquet")
        said = said[said["split"] == "test"]
        row = table[(table["start"] == start) & (table["share"] == float(share))]
        assert row["auroc"].item() == pytest.approx(roc_auc_score(said["target.finding"], said["logit.finding"]))
    gain = table[(table["start"] == "attention") & (table["share"] == 1.0)]["gain"].item()
    both = table[table["share"] == 1.0].set_index("start")["auroc"]
    assert gain == pytest.approx(both["attention"] - both["mean"])
    assert {name.rpartition(",")[0] for name in table["start"]} >= {"pixel ridge", "pixel logistic regression"}
    assert np.isfinite(table["auroc"].astype(float)).all()


@pytest.mark.slow
def test_a_stopped_curve_goes_on_with_what_is_not_trained(
    done: Any, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = children(done)
    gone = before.pop("attention 1.0 0")
    done.client.set_terminated(gone, "FAILED")
    (done.folder.parent / gone / "checkpoints" / "last.ckpt").unlink()
    trained: list[float] = []
    train = command.train
    monkeypatch.setattr(
        command, "train", lambda asked, given: (trained.append(asked["subset"]["share"]), train(asked, given))[1]
    )
    again = medvit.curve(resume=done.id, **{"tracking.folder": str(place / "runs")})
    assert again.id == done.id
    assert trained == [1.0]
    after = children(again)
    assert after.pop("attention 1.0 0") != gone
    assert after == before
    with pytest.raises(RunError, match=r"a resumed curve keeps its settings: give resume=\w+ without shares=\[0\.5\]"):
        medvit.curve(resume=done.id, shares=[0.5], **{"tracking.folder": str(place / "runs")})
    with pytest.raises(RunError, match="is no curve"):
        medvit.curve(resume=before["mean 1.0 0"], **{"tracking.folder": str(place / "runs")})
