"""Splits: no patient on two sides, proportions kept, frozen and refused when the manifest changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvit.dataset import splits as division
from medvit.dataset.manifest import Manifest
from medvit.dataset.splits import SplitSpec
from medvit.errors import SplitError


def manifest_of(table: pd.DataFrame, digest: str = "d" * 64) -> Manifest:
    return Manifest(table.assign(uid=[f"{i:032x}" for i in range(len(table))]), Path(), digest, {})


def cohort(patients: int, seed: int, labels: int = 3) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    patient = rng.integers(0, patients, patients * 2)
    table = pd.DataFrame({"patient": [f"p{n:05d}" for n in patient], "sex": rng.choice(["F", "M"], len(patient))})
    for label in range(labels):
        sick = rng.random(patients) < 0.15 * (label + 1)
        table[f"label.{label}"] = sick[patient].astype(float)
    table["table.site"] = np.array(["a", "b", "c"])[patient % 3]
    return table


@settings(max_examples=40, deadline=None)
@given(
    patients=st.integers(12, 120),
    seed=st.integers(0, 10_000),
    strategy=st.sampled_from(["stratified", "kfold", "nested", "leave_one_out"]),
)
def test_no_patient_in_two_splits(patients: int, seed: int, strategy: str) -> None:
    manifest = manifest_of(cohort(patients, seed))
    made = division.make(manifest, SplitSpec(strategy=strategy, column="table.site", folds=4, seed=seed))
    folds = [None] if strategy == "stratified" else range(int(made.table["fold"].max()) + 1)
    for fold in folds:
        sides = {side: set(made.rows(manifest, side, fold)["patient"]) for side in division.SIDES}
        assert not sides["train"] & sides["val"]
        assert not sides["train"] & sides["test"]
        assert not sides["val"] & sides["test"]
        assert set().union(*sides.values()) == set(manifest.table["patient"])


def test_every_label_keeps_its_share_on_every_side() -> None:
    manifest = manifest_of(cohort(2000, seed=1))
    made = division.make(manifest, SplitSpec(balance=("sex", "table.site")))
    table = division.balance_table(manifest, made, ["label.0", "label.1", "label.2", "sex", "table.site"])
    shares = table[~table["column"].isin(["patients", "images"])]
    spread = shares[["train", "val", "test"]].astype(float)
    assert (spread.max(axis=1) - spread.min(axis=1)).max() < 0.03
    images = table[table["column"] == "images"].iloc[0]
    total = images["train"] + images["val"] + images["test"]
    assert abs(images["train"] / total - 0.7) < 0.02


def test_the_same_seed_gives_the_same_split_whatever_the_order_of_rows() -> None:
    table = cohort(200, seed=3)
    first = division.make(manifest_of(table), SplitSpec(seed=5))
    second = division.make(manifest_of(table.sample(frac=1, random_state=0)), SplitSpec(seed=5))
    assert first.digest == second.digest
    assert first.digest != division.make(manifest_of(table), SplitSpec(seed=6)).digest


def test_each_patient_is_tested_once_over_nested_folds() -> None:
    manifest = manifest_of(cohort(100, seed=4))
    made = division.make(manifest, SplitSpec(strategy="nested", folds=5))
    tested = [p for fold in range(5) for p in set(made.rows(manifest, "test", fold)["patient"])]
    assert sorted(tested) == sorted(set(manifest.table["patient"]))


def test_a_site_is_never_trained_on_when_it_is_left_out() -> None:
    manifest = manifest_of(cohort(90, seed=5))
    made = division.make(manifest, SplitSpec(strategy="leave_one_out", column="table.site"))
    for fold in range(3):
        test = set(made.rows(manifest, "test", fold)["table.site"])
        seen = set(made.rows(manifest, "train", fold)["table.site"]) | set(
            made.rows(manifest, "val", fold)["table.site"]
        )
        assert len(test) == 1
        assert not test & seen


def test_age_bands_and_scanners_are_balanced_when_asked() -> None:
    table = cohort(1500, seed=9)
    code = table["patient"].str[1:].astype(int)
    table["age_years"] = (code * 7919 % 95).astype(float)
    table["manufacturer"] = np.array(["ACME", "Borealis", "Cirrus", "Cirrus"])[code % 4]
    made = division.make(manifest_of(table), SplitSpec(balance=("age_years", "manufacturer")))
    table["side"] = table["patient"].map(made.sides())
    table["band"] = pd.cut(table["age_years"], [0, 18, 40, 60, 80, 200], right=False).astype(str)
    for column in ("band", "manufacturer"):
        shares = pd.crosstab(table[column], table["side"], normalize="columns")
        assert (shares.max(axis=1) - shares.min(axis=1)).max() < 0.03


def test_a_scanner_left_out_is_tested_alone_and_never_trained_on() -> None:
    table = cohort(60, seed=10)
    table["model"] = np.array(["X1", "X2"])[table["patient"].str[1:].astype(int) % 2]
    made = division.make(manifest_of(table), SplitSpec(strategy="leave_one_out", column="model"))
    seen = [set(made.rows(manifest_of(table), side, fold)["model"]) for fold in (0, 1) for side in ("train", "test")]
    assert seen == [{"X2"}, {"X1"}, {"X1"}, {"X2"}]


def test_patients_seen_after_the_cutoff_are_the_test_side_with_all_their_images() -> None:
    table = cohort(80, seed=11)
    table["table.study_year"] = 2015 + np.random.default_rng(1).integers(0, 8, len(table))
    made = division.make(manifest_of(table), SplitSpec(strategy="after", column="table.study_year", cutoff=2020))
    test = made.rows(manifest_of(table), "test")
    late = set(table.loc[table["table.study_year"] > 2020, "patient"])
    assert set(test["patient"]) == late
    assert len(test) == table["patient"].isin(late).sum()
    assert (made.rows(manifest_of(table), "train")["table.study_year"] <= 2020).all()
    assert len(made.rows(manifest_of(table), "val"))


def test_a_given_split_with_a_shared_patient_is_refused_with_the_count() -> None:
    table = cohort(50, seed=6).assign(**{"table.split": "train"})
    table.loc[table.index[::2], "table.split"] = "Testing"
    sides = table.groupby("patient")["table.split"].nunique()
    with pytest.raises(SplitError, match=f"{int((sides > 1).sum())} patients stand on two sides"):
        division.make(manifest_of(table), SplitSpec(strategy="given", column="table.split"))
    moved = division.make(manifest_of(table), SplitSpec(strategy="given", column="table.split", on_shared="to_train"))
    shared = set(sides[sides > 1].index)
    assert set(moved.table.loc[moved.table["patient"].isin(shared), "split"]) <= {"train", "val"}


def test_a_split_of_another_manifest_or_an_altered_one_is_refused(tmp_path: Path) -> None:
    manifest = manifest_of(cohort(40, seed=7))
    made = division.make(manifest, SplitSpec())
    made.write(tmp_path)
    assert division.read(tmp_path, manifest).digest == made.digest
    with pytest.raises(SplitError, match="manifest changed"):
        division.read(tmp_path, manifest_of(manifest.table, digest="e" * 64))
    made.table.loc[0, "split"] = "test" if made.table.loc[0, "split"] != "test" else "train"
    import pyarrow as pa
    import pyarrow.parquet as pq

    meta = pq.read_table(tmp_path / "splits.parquet").schema.metadata
    altered = pa.Table.from_pandas(made.table, preserve_index=False).replace_schema_metadata(meta)
    pq.write_table(altered, tmp_path / "splits.parquet")
    with pytest.raises(SplitError, match="altered"):
        division.read(tmp_path, manifest)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (SplitSpec(strategy="kfold", folds=99), "cannot make 99 folds"),
        (SplitSpec(strategy="by_luck"), "there are stratified"),
        (SplitSpec(fractions={"train": 0.5}), "sum to 1"),
        (SplitSpec(strategy="given", column="table.splt"), "did you mean 'table.site'"),
        (SplitSpec(strategy="after", column="table.site", cutoff=1), "no number"),
    ],
)
def test_an_impossible_split_says_what_to_do(spec: SplitSpec, words: str) -> None:
    with pytest.raises(SplitError, match=words):
        division.make(manifest_of(cohort(20, seed=8)), spec)


def test_an_age_in_months_is_told_by_quartile_and_grades_one_by_one() -> None:
    table = cohort(60, 3, labels=0)
    rng = np.random.default_rng(0)
    table["label.months"] = rng.uniform(0, 216, len(table)).round(1)
    table["label.grade"] = rng.choice([0.0, 2.0, 10.0], len(table))
    manifest = manifest_of(table)
    told = division.balance_table(manifest, division.make(manifest, SplitSpec()), ["label.months", "label.grade"])
    months, grades = (told[told["column"] == f"label.{name}"] for name in ("months", "grade"))
    assert len(months) == 4
    assert [float(value.strip("(").split(",")[0]) for value in months["value"]] == pytest.approx(
        [-0.001, *np.quantile(table["label.months"], [0.25, 0.5, 0.75])], abs=0.6
    )
    assert grades["value"].tolist() == ["0.0", "2.0", "10.0"]
    assert told[["train", "val", "test"]].iloc[2:6].sum().tolist() == pytest.approx([1, 1, 1])


def test_a_fold_of_a_split_without_folds_is_refused_and_not_ignored() -> None:
    manifest = manifest_of(cohort(30, 1))
    with pytest.raises(SplitError, match=r"no folds; asked for fold 3"):
        division.make(manifest, SplitSpec()).rows(manifest, "train", 3)


def test_another_split_in_the_place_of_one_is_told_and_the_same_one_is_not(tmp_path: Path, caplog) -> None:
    from medvit.dataset import manifest
    from medvit.split import split

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "read", lambda folder: manifest_of(cohort(40, 0)))
        first = split(tmp_path)
        split(tmp_path)
        assert "is replaced" not in caplog.text
        split(tmp_path, seed=1)
    assert f"another split ({first.digest[:12]}) was here and is replaced" in caplog.text


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch) -> Manifest:
    """A set of about 40 patients, which the commands read whatever the folder is."""
    from medvit.dataset import manifest

    made = manifest_of(cohort(40, 0))
    monkeypatch.setattr(manifest, "read", lambda folder: made)
    return made


@pytest.mark.parametrize(
    "asked",
    [
        {"balance": ("sex",)},
        {"seed": 7},
        {"strategy": "kfold"},
        {"fractions": {"train": 0.5, "val": 0.25, "test": 0.25}},
        {"strategy": "given", "column": "table.site"},
    ],
)
def test_an_audit_never_replaces_a_split_and_refuses_settings_that_would_change_nothing(
    indexed: Manifest, tmp_path: Path, asked: dict
) -> None:
    from medvit.split import audit, split

    frozen = split(tmp_path, seed=3)
    with pytest.raises(SplitError, match=r"is split already \(strategy=stratified, seed=3\)") as refused:
        audit(tmp_path, **asked)
    assert all(f"split.{key}=" in str(refused.value) for key in asked)
    assert "divide anew without audit first: cd " in str(refused.value)
    assert division.read(tmp_path, indexed).digest == frozen.digest


def test_settings_of_the_frozen_split_itself_are_no_contradiction(indexed: Manifest, tmp_path: Path) -> None:
    from medvit.split import _sides, split

    own = SplitSpec(strategy="kfold", folds=3, balance=("sex",), seed=2)
    frozen = split(tmp_path, **vars(own))
    for spec in (own, SplitSpec(), SplitSpec(fractions={"train": 0.7, "val": 0.1, "test": 0.2}, folds=3)):
        found = _sides(indexed, tmp_path, spec)[0]
        assert found is not None
        assert found.digest == frozen.digest


@pytest.mark.parametrize(("name", "meant"), [("Sex", "sex"), ("table.sit", "table.site")])
def test_a_column_to_balance_that_is_not_there_is_named_with_the_nearest(
    indexed: Manifest, tmp_path: Path, name: str, meant: str
) -> None:
    from medvit.split import audit, split

    words = f"split.balance: no column '{name}'; did you mean '{meant}'.*there are sex, label.0"
    for frozen in (False, True):
        for command in (split, audit):
            with pytest.raises(SplitError, match=words):
                command(tmp_path, balance=(name,))
        if not frozen:
            split(tmp_path)


def test_a_side_of_a_few_patients_is_told_with_its_count(indexed: Manifest, tmp_path: Path, caplog) -> None:
    from medvit.split import split

    split(tmp_path)
    made = division.read(tmp_path, indexed).table["split"].value_counts()
    assert f"only {made['val']} val and {made['test']} test patients" in caplog.text
    caplog.clear()
    split(tmp_path, fractions={"train": 0.4, "val": 0.3, "test": 0.3})
    assert "decides nothing" not in caplog.text


def test_a_split_with_folds_says_how_all_of_them_are_trained(indexed: Manifest) -> None:
    with pytest.raises(SplitError, match=r"folds 0 to 4; none is named; give data.fold=N.*medvit crossval"):
        division.make(indexed, SplitSpec(strategy="kfold")).sides()
