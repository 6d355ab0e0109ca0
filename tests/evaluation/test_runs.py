"""Trained runs put to the test as the command does it: their own test split, another site, several seeds."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medvit.errors import DataError, EvaluationError
from medvit.evaluate import evaluate_again, problems, spec_from

SMALL = ["data.generate.patients=40", "model.image_size=[48,48]", "model.patch_size=[8,8]", "model.depth=2",
         "trainer.epochs=1", "trainer.batch_size=8", "trainer.progress_bar=false",
         "trainer.overlay_every=0", "tracking.log_model=false"]  # fmt: skip
QUICK = ["bootstrap.draws=100", "detail.figures=false", "detail.floor=2", "sections.robustness=false",
         "sections.explain=false", "operating_point.rule=sensitivity", "operating_point.value=0.8"]  # fmt: skip


def composed(name: str, *changes: str) -> dict:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    from medvit.config import conf_dir

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return OmegaConf.to_container(compose(name, list(changes)), resolve=True)


def evaluate(*changes: str):
    from medvit.evaluation.run import evaluate_run
    from medvit.evaluation.seeds import evaluate_seeds

    settings = composed("evaluate", *QUICK, *changes)
    assert problems(settings) == []
    return (evaluate_run if settings["run"] else evaluate_seeds)(settings, spec_from)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory):
    """Two trainings that differ by their seed, in a folder that is the working directory for this module."""
    from medvit.train import train

    patch = pytest.MonkeyPatch()
    patch.chdir(tmp_path_factory.mktemp("runs"))
    yield [train(composed("train", *SMALL, f"seed={seed}")) for seed in (0, 1)]
    patch.undo()


@pytest.fixture(scope="module")
def site(runs) -> Path:
    """Another site's films, with patient numbers of its own."""
    from medvit.index import index
    from medvit.phantom.films import write_films

    write_films(Path("b/raw"), patients=30, seed=99)
    own = os.environ["MEDVIT_PSEUDO_KEY_FILE"]
    os.environ["MEDVIT_PSEUDO_KEY_FILE"] = str(Path("key-of-b").resolve())  # generated patients have the same numbers
    labels = {"csv": Path("b/raw/labels.csv"), "on": "AccessionNumber", "target": ["finding"]}
    index(Path("b/raw/dicom"), Path("b"), labels)
    os.environ["MEDVIT_PSEUDO_KEY_FILE"] = own
    return Path("b")


@pytest.mark.slow
def test_patients_are_the_unit_with_every_section_and_the_default_baselines(runs):
    report = evaluate(f"run={runs[0]}", "aggregate.unit=patient", "sections.robustness=true", "out=by_patient")
    row = report.tables["cohort"].rows[1]
    assert row["units"] == row["patients"] < row["images"]
    assert len(report.tables["baselines"].rows) == 3


@pytest.mark.slow
def test_another_site_is_judged_by_the_thresholds_of_the_first(runs, site):
    own = evaluate(f"run={runs[0]}")
    other = evaluate(f"run={runs[0]}", f"data.folder={site}", "data.name=site_b")
    assert other.content["thresholds"] == own.content["thresholds"]
    assert other.content["digest"]["test"] != own.content["digest"]["test"]
    assert len(pd.read_parquet(site / "manifest.parquet")) == other.tables["cohort"].rows[1]["images"]
    assert "pseudonyms of different keys" in other.headline[0]
    whole = {row["what"]: row for row in other.tables["shift_whole"].rows}
    assert {"prevalence of finding", "age_years", "sex", "manufacturer", "view", "intensity_mean"} <= set(whole)
    assert all(0 < row["p"] <= row["holm"] <= 1 for row in whole.values())
    assert any(row["set"] == "site_b images" for row in other.tables["ood"].rows)
    by_item = {row["item"]: row for row in other.tables["checklist"].rows if row["guideline"] == "CLAIM 2024"}
    assert "the training site" in by_item["33"]["text"]
    folder = Path("runs") / runs[0] / "evaluation_site_b"
    again = evaluate_again(folder / "predictions.parquet", composed("evaluate"), Path("again"), given=())
    assert again.content == other.content


@pytest.mark.slow
def test_another_site_is_never_judged_by_other_thresholds(runs, site):
    evaluate(f"run={runs[0]}")
    with pytest.raises(EvaluationError, match=r"frozen with other settings \(points\)"):
        evaluate(f"run={runs[0]}", f"data.folder={site}", "operating_point.value=0.9")


@pytest.mark.slow
def test_a_site_that_holds_training_films_is_refused(runs):
    with pytest.raises(EvaluationError, match=r"E-LEAK the test set shares .* patients with training"):
        evaluate(f"run={runs[0]}", "data.folder=work/phantom_cxr", "data.name=same")
    assert not (Path("runs") / runs[0] / "evaluation_same" / "report.json").exists()


def index_films(raw, folder):
    from medvit.index import index

    index(raw / "dicom", folder, {"csv": raw / "labels.csv", "on": "AccessionNumber", "target": ["finding"]})


@pytest.mark.slow
def test_training_films_under_other_names_are_refused_by_their_pixels(runs, monkeypatch):
    monkeypatch.setenv("MEDVIT_PSEUDO_KEY_FILE", str(Path("another-key").resolve()))
    index_films(Path("work/phantom_cxr/raw"), Path("renamed"))
    with pytest.raises(EvaluationError, match=r"identical pixels with validation, .* identical pixels with training"):
        evaluate(f"run={runs[0]}", "data.folder=renamed", "data.name=renamed")


@pytest.mark.slow
def test_patient_numbers_that_merely_coincide_are_refused_with_a_way_out(runs, site):
    index_films(Path("b/raw"), Path("d"))
    with pytest.raises(EvaluationError, match=r"patients with validation.* key of its own"):
        evaluate(f"run={runs[0]}", "data.folder=d", "data.name=d")


@pytest.mark.slow
def test_a_site_without_the_label_is_refused_with_the_nearest_name(runs, site):
    from medvit.index import index

    table = pd.read_csv("b/raw/labels.csv").rename(columns={"finding": "findings"})
    table.to_csv("b/other.csv", index=False)
    index(Path("b/raw/dicom"), Path("c"), {"csv": Path("b/other.csv"), "on": "AccessionNumber", "target": ["findings"]})
    with pytest.raises(DataError, match="findings"):
        evaluate(f"run={runs[0]}", "data.folder=c", "data.name=c")


@pytest.mark.slow
def test_seeds_are_reported_apart_and_as_one_model(runs):
    report = evaluate(f"runs=[{','.join(runs)}]")
    first, second, together = report.tables["seed_runs"].rows
    assert first["run"].startswith("seed 0 (")
    mean = report.tables["seeds"].rows[0]
    assert mean["mean"].value == pytest.approx((first["auroc"].value + second["auroc"].value) / 2)
    assert together["change"].value == pytest.approx(together["auroc"].value - mean["mean"].value)
    assert together["auroc"].value == pytest.approx(report.tables["findings"].rows[0]["auroc"].value)
    tables = [pd.read_parquet(f"runs/{run}/evaluation_test/predictions.parquet").set_index("uid") for run in runs]
    both = pd.read_parquet(f"runs/{runs[0]}/seeds_test/predictions.parquet").set_index("uid")
    expected = (tables[0]["logit.finding"] + tables[1]["logit.finding"]) / 2
    np.testing.assert_allclose(both["logit.finding"], expected.loc[both.index])


@pytest.mark.slow
def test_other_validation_predictions_than_those_of_the_training_are_refused(runs):
    file = Path("runs") / runs[1] / "validation.parquet"
    kept = file.read_bytes()
    table = pd.read_parquet(file)
    table.assign(**{"logit.finding": table["logit.finding"] + 1.0}).to_parquet(file)
    try:
        with pytest.raises(EvaluationError, match="changed since it was trained"):
            evaluate(f"run={runs[1]}")
    finally:
        file.write_bytes(kept)


@pytest.mark.slow
def test_thresholds_chosen_after_the_test_split_was_seen_are_told(runs):
    evaluate(f"run={runs[1]}", "out=first")
    report = evaluate(f"run={runs[1]}", "operating_point.value=0.95", "out=second")
    assert "had been evaluated before with other thresholds" in report.headline[0]


@pytest.mark.slow
def test_validation_can_be_looked_at_without_the_test_split(runs):
    report = evaluate(f"run={runs[0]}", "split=val", "out=looked")
    assert "where thresholds and scaling were chosen" in report.headline[0]
    again = evaluate_again(Path("looked/predictions.parquet"), composed("evaluate"), Path("looked-again"), given=())
    assert again.content == report.content


def test_runs_that_differ_by_more_than_their_seed_are_refused():
    from medvit.evaluation.seeds import refuse_others

    base = {"seed": 0, "model": {"width": 96}, "tracking": {"name": "a"}}
    refuse_others([base, {**base, "seed": 1, "tracking": {"name": "b"}}])
    with pytest.raises(EvaluationError, match=r"differ in model\.width"):
        refuse_others([base, {**base, "seed": 1, "model": {"width": 192}}])
    with pytest.raises(EvaluationError, match=r"\[0, 0\]"):
        refuse_others([base, dict(base)])


def test_all_that_is_wrong_with_the_request_is_told_at_once(tmp_path):
    wrong = ["run=a", "runs=[b,b]", f"data.folder={tmp_path}", "data.name=test", "split=all"]
    found = "\n".join(problems(composed("evaluate", *wrong)))
    for part in ("found run and runs", "no manifest.parquet", "data.name=test", "split=all", "two or more different"):
        assert part in found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "shape"),
    [
        ("mri_slice_bag_demo", ["preprocess.size=[4,32,32]", "model.image_size=[32,32]"]),
        ("mri_3d_demo", ["model.image_size=[16,32,32]", "preprocess.spacing_mm=8"]),
    ],
)
def test_series_are_evaluated_with_every_section(recipe, shape, tmp_path, monkeypatch):
    from medvit.train import train

    monkeypatch.chdir(tmp_path)
    small = ["data.generate.patients=40", "model.depth=1", "trainer.epochs=1", "trainer.progress_bar=false",
             "tracking.log_model=false"]  # fmt: skip
    run = train(composed("train", f"experiment={recipe}", *shape, *small))
    settings = ["bootstrap.draws=100", "detail.floor=2", "sections.images=2"]
    report = evaluate(f"run={run}", *settings, "sections.robustness=true", "sections.explain=true")
    assert len(report.tables["robustness"].rows) == 15
    assert {row["set"] for row in report.tables["ood"].rows} == {"test images", "inverted", "noise"}
    assert {"Explanation", "Failures", "Shift"} <= {section.title for section in report.sections}
    assert report.tables["baselines"].rows
    folder = Path("runs") / run / "evaluation_test"
    again = evaluate_again(folder / "predictions.parquet", composed("evaluate"), Path("again"), given=())
    assert again.content == report.content
