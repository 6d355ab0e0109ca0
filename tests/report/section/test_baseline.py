from __future__ import annotations

import numpy as np
import pytest

from medvit.errors import EvaluationError
from medvit.evaluation.protocol import evaluate_predictions
from medvit.metric.ranking import auroc
from medvit.report.page import Extras
from medvit.report.section.baseline import BaselineSide, shortcut_baselines


def known(table, seed, planted=6.0):
    """Films with a brighter patch where there is a pneumonia."""
    films = np.random.default_rng(seed).normal(100, 20, (len(table), 60, 60))
    films[:, 20:30, 20:30] += planted * table["target.pneumonia"].fillna(0).to_numpy()[:, None, None]
    return BaselineSide(table["uid"].tolist(), np.clip(films, 0, 255).astype(np.uint8), table)


def test_baselines_go_from_images_and_facts_to_the_report(tmp_path, make_table, make_spec):
    train, test = make_table("train", n=300), make_table("test")
    train.loc[:9, "target.pneumonia"] = np.nan
    train["view"] = np.where(train["target.pneumonia"] == 1, "AP", "PA")  # a shortcut that the metadata give away
    test["view"] = np.where(test["target.pneumonia"] == 1, "AP", "PA")
    made = shortcut_baselines(known(train, 0), known(test, 1), ("pneumonia",))
    report = evaluate_predictions(make_table("val"), test, make_spec(), tmp_path, extras=Extras(baselines=made))
    rows = {row["baseline"]: row for row in report.tables["baselines"].rows}
    assert list(rows) == [
        "pixel ridge, 48×48", "pixel 1-nearest neighbour", "metadata only (age_years, sex, view, manufacturer)"
    ]  # fmt: skip
    assert rows["pixel ridge, 48×48"]["auroc"].value > 0.7
    assert rows["metadata only (age_years, sex, view, manufacturer)"]["auroc"].value > 0.99
    assert rows["metadata only (age_years, sex, view, manufacturer)"]["verdict"] == "worse"


def test_test_labels_are_never_read(make_table):
    train, test = make_table("train"), make_table("test")
    blind = test.drop(columns="target.pneumonia")
    seen = shortcut_baselines(known(train, 0), known(test, 1), ("pneumonia",))
    films = known(test, 1).images
    unseen = shortcut_baselines(known(train, 0), BaselineSide(test["uid"].tolist(), films, blind), ("pneumonia",))
    for name, table in seen.items():
        assert table.equals(unseen[name])
        assert 0 <= auroc(test["target.pneumonia"], table["score.pneumonia"]) <= 1


def test_a_finding_with_one_outcome_has_no_baseline_and_rows_must_match(make_table):
    train, test = make_table("train"), make_table("test")
    made = shortcut_baselines(
        BaselineSide(train["uid"].tolist(), None, train.assign(**{"target.pneumonia": 0.0})),
        BaselineSide(test["uid"].tolist(), None, test),
        ("pneumonia",),
    )
    assert [list(table.columns) for table in made.values()] == [["uid"]]
    with pytest.raises(EvaluationError, match=r"rows differ: \[199, 200\]"):
        shortcut_baselines(BaselineSide(train["uid"].tolist()[1:], None, train), known(test, 1), ("pneumonia",))
    with pytest.raises(EvaluationError, match="one split only"):
        shortcut_baselines(BaselineSide(train["uid"].tolist(), None, train), known(test, 1), ("pneumonia",))


def test_images_smaller_than_the_usual_side_are_taken_as_they_are(make_table):
    train, test = (known(make_table(split), seed) for split, seed in (("train", 0), ("test", 1)))
    small = [BaselineSide(side.uid, side.images[:, ::2, ::2][:, :28, :28], side.table) for side in (train, test)]
    assert "pixel ridge, 28×28" in shortcut_baselines(*small, ("pneumonia",))
