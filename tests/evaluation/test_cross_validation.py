"""Folds and seeds together: whom a prediction is about, what is pooled, what is averaged, and the mean as a model."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from predictions_tables import make_spec, make_table

from medvit.config_check import preflight
from medvit.errors import ConfigError, EvaluationError, RunError, SplitError, Stopped

KFOLD = ["split.strategy=kfold", "split.folds=2"]
SMALL = {"model": {"image_size": [32, 32], "patch_size": [8, 8], "depth": 1}, "trainer__epochs": 1,
         "trainer__batch_size": 8, "trainer__progress_bar": False, "trainer__overlay_every": 0,
         "trainer__accelerator": "cpu", "bootstrap__draws": 100, "detail__figures": False,
         "labels": {"target": ["finding"], "values": {"normal": 0, "opacity": 1}}}  # fmt: skip


SECTIONS = ("robustness", "ood", "explain")


def pairwise(target: np.ndarray, score: np.ndarray) -> float:
    """The area under the ROC curve by counting pairs."""
    pairs = [(p > n) + (p == n) / 2 for p, n in product(score[target == 1], score[target == 0])]
    return float(np.mean(pairs))


def test_each_fold_their_mean_and_all_pooled_are_the_counted_pairs() -> None:
    from medvit.prediction import thresholds
    from medvit.prediction.predictions import prepare
    from medvit.report.folds import folds

    table = make_table("val", n=90)
    fold = table["patient"].map({p: k % 3 for k, p in enumerate(sorted(set(table["patient"])))})
    table["logit.pneumonia"] += fold * 2.0  # models whose scales differ: pooling must see it, the mean must not
    table["prob.pneumonia"] = 1 / (1 + np.exp(-table["logit.pneumonia"]))
    sample = prepare(table, make_spec(), "val")
    (made,) = folds(sample, thresholds.freeze(sample), dict(zip(table["uid"], fold, strict=True))).tables
    each = [pairwise(part["target.pneumonia"].to_numpy(), part["logit.pneumonia"].to_numpy())
            for _, part in table.groupby(fold)]  # fmt: skip
    found = {row["fold"]: row["value"] for row in made.rows}
    assert [found[str(k)].value for k in range(3)] == pytest.approx(each)
    assert found["mean of folds"].value == pytest.approx(np.mean(each))
    whole = pairwise(table["target.pneumonia"].to_numpy(), table["logit.pneumonia"].to_numpy())
    assert found["pooled"].value == pytest.approx(whole)
    assert whole < np.mean(each)
    assert found["pooled"].low < whole < found["pooled"].high
    assert sum(row["positives"] for row in made.rows if "positives" in row) == table["target.pneumonia"].sum()


def test_a_patient_in_two_folds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from medvit.engine import checkpoint
    from medvit.evaluation.cross_validation import Member, out_of_fold

    task = SimpleNamespace(names=("pneumonia",), probabilities_numpy=lambda logits: 1 / (1 + np.exp(-logits)))
    monkeypatch.setattr(checkpoint, "load_run", lambda _: SimpleNamespace(task=task))
    members = [Member(SimpleNamespace(id=str(k), folder=Path()), k, 0) for k in range(2)]  # type: ignore[arg-type]
    one, other = make_table("val", n=40), make_table("val", n=40).assign(uid=lambda t: "x" + t["uid"])
    with pytest.raises(EvaluationError, match=r"E-LEAK \d+ patients or images stand in several folds"):
        out_of_fold(members, {"0": one, "1": other})
    whole = out_of_fold(members, {"0": one, "1": other.assign(patient=lambda t: "x" + t["patient"])})
    assert len(whole) == 80
    assert set(whole["split"]) == {"val"}


def test_all_folds_together_leave_only_the_side_set_aside_and_are_never_trained_on() -> None:
    from medvit.dataset.splits import ALL_FOLDS, Splits
    from medvit.engine.build import _studies

    table = pd.DataFrame({"patient": list("abcd"), "split": ["train", "train", "train", "test"],
                          "fold": [0, 1, 0, -1], "inner": 0})  # fmt: skip
    splits = Splits(table, "m", {"strategy": "kfold"})
    assert splits.folds == 2
    assert splits.sides(ALL_FOLDS).tolist() == ["train", "train", "train", "test"]
    manifest = SimpleNamespace(table=pd.DataFrame({"uid": list("1234"), "patient": list("abcd")}))
    rows = {side: splits.rows(manifest, side, ALL_FOLDS)["uid"].tolist() for side in ("train", "val", "test")}  # type: ignore[arg-type]
    assert rows == {"train": ["1", "2", "3"], "val": ["1", "2", "3"], "test": ["4"]}
    with pytest.raises(SplitError, match=r"folds 0 to 1; asked for fold two"):
        splits.sides("two")
    with pytest.raises(ConfigError, match=r"data\.fold=all"):
        _studies({"fold": ALL_FOLDS, "folder": "nowhere"}, None)


def test_a_regression_member_is_put_on_the_scale_of_the_first() -> None:
    from medvit.engine.ensemble import on_scale

    head, own, first = torch.nn.Linear(3, 1), {"mean": 50.0, "std": 10.0}, {"mean": 40.0, "std": 8.0}
    vector = torch.randn(5, 3)
    state = {f"head.{key}": value.detach() for key, value in head.state_dict().items()}
    moved = on_scale(state, own, first)
    said = vector @ moved["head.weight"].T + moved["head.bias"]
    torch.testing.assert_close(said * first["std"] + first["mean"], head(vector).detach() * own["std"] + own["mean"])
    assert on_scale(state, {"count": [1]}, {"count": [2]}) is state


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("folds=[0,0]", "folds=[0, 0]: expected different whole numbers"),
        ("seeds=[a]", "seeds=['a']: expected different whole numbers"),
        ("data.fold=1", "give folds=[...] for some of them"),
        ("extend=9", "extend=9: the folds of a crossval keep their length"),
        ("tracking.register=x", "tracking.register: a crossval registers nothing"),
        ("seeds=[0,1] seed=3", "seed is used with seeds=null alone"),
        ("operating_point.rule=best", "operating point rule 'best'"),
        ("trainer.epohcs=1", "trainer.epochs"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_heavy(given: str, told: str) -> None:
    from medvit.config import conf_dir
    from medvit.crossval import check

    (found,) = preflight(conf_dir(), "crossval", given.split(), check)
    assert told in found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films of 40 patients, split into two folds and a test side in `folds`, and plainly in `plain`."""
    import medvit
    from medvit.phantom.films import write_films

    folder = tmp_path_factory.mktemp("crossval")
    write_films(folder / "raw", patients=40, seed=3)
    for name, words in (("folds", {"split.strategy": "kfold", "split.folds": 2}), ("plain", {})):
        asked = {"csv": str(folder / "raw" / "labels.csv"), "on": "AccessionNumber", "target": ["finding"]}
        medvit.index(folder / "raw" / "dicom", folder / name, labels=asked, workers=1)
        medvit.split(folder / name, **words)
    return folder


@pytest.mark.slow
def test_folds_are_stopped_resumed_pooled_and_tested_as_one_model(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import medvit
    from medvit import crossval as command
    from medvit.tracking import run as runs

    monkeypatch.chdir(place)
    asked = {"data": "folder", "data__folder": "folds", **SMALL}
    fit, started = command.train, []

    def stops(settings: dict, given: object = ()) -> str:
        started.append(settings["data"]["fold"])
        if len(started) == 2:
            raise KeyboardInterrupt
        return fit(settings, given)

    monkeypatch.setattr(command, "train", stops)
    with pytest.raises(Stopped, match=r"medvit.crossval resume=\w{32}"):
        medvit.crossval(**asked)
    (parent,) = (file.parent.name for file in Path("runs").glob("*/crossval.json"))
    assert runs.get(parent, Path("runs")).status == "KILLED"
    with pytest.raises(RunError, match="keeps its settings"):
        medvit.crossval(resume=parent, trainer__epochs=2)
    run, report = medvit.crossval(resume=parent)
    assert (run.id, run.status, started) == (parent, "FINISHED", [0, 1, 1])
    children = runs.children(run)
    assert sorted(params["data.fold"] for _, params in children) == ["0", "1"]
    assert not any(child.client.get_run(child.id).outputs.model_outputs for child, _ in children)
    assert {child.client.get_run(child.id).info.run_name for child, _ in children} == {
        f"folds vit Full fold {fold} seed 0" for fold in (0, 1)
    }
    own = pd.concat([pd.read_parquet(child.folder / "validation.parquet") for child, _ in children])
    assert not own["uid"].duplicated().any()
    expected = pairwise(own["target.finding"].to_numpy(), own["logit.finding"].to_numpy())
    assert report.tables["findings"].rows[0]["auroc"].value == pytest.approx(expected)
    assert run.values["val/auroc"] == pytest.approx(expected)
    assert "also chose the best epoch" in report.headline[0]
    tested = medvit.evaluate(run, bootstrap__draws=100, detail__figures=False, sections__robustness=False)
    assert tested.content["thresholds"] == report.content["thresholds"]  # frozen out of fold, used on the test side
    assert "mean of several networks" in tested.headline[0]
    table = pd.read_parquet(Path("runs") / parent / "evaluation_test" / "predictions.parquet").query("split == 'test'")
    alone = []
    for child, _ in children:
        medvit.evaluate(child, bootstrap__draws=100, detail__figures=False, sections=dict.fromkeys(SECTIONS, False))
        own = pd.read_parquet(child.folder / "evaluation_test" / "predictions.parquet").query("split == 'test'")
        alone.append(own.set_index("uid")["logit.finding"])
    np.testing.assert_allclose(table.set_index("uid")["logit.finding"], sum(alone) / 2, atol=1e-5)


@pytest.mark.slow
def test_seeds_of_a_plain_split_are_averaged_and_their_spread_is_told(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import medvit

    monkeypatch.chdir(place)
    with pytest.raises(ConfigError, match="this split has no folds"):
        medvit.crossval(data="folder", data__folder="plain", **SMALL)
    run, report = medvit.crossval(data="folder", data__folder="plain", seeds=[0, 1], **SMALL)
    members = json.loads((run.folder / "ensemble.json").read_text())["members"]
    assert [(one["fold"], one["seed"]) for one in members] == [(None, 0), (None, 1)]
    tables = [pd.read_parquet(Path("runs") / one["run"] / "validation.parquet").set_index("uid") for one in members]
    mean = (tables[0]["logit.finding"] + tables[1]["logit.finding"]) / 2
    areas = [pairwise(t["target.finding"].to_numpy(), t["logit.finding"].to_numpy()) for t in tables]
    row = report.tables["seeds"].rows[0]
    assert (row["low"], row["high"]) == pytest.approx((min(areas), max(areas)))
    expected = pairwise(tables[0]["target.finding"].to_numpy(), mean.to_numpy())
    assert report.tables["findings"].rows[0]["auroc"].value == pytest.approx(expected)
