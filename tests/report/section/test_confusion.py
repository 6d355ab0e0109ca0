"""The most probable class: counts by hand, the baseline on the same draws, and nothing for other tasks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medvit.prediction.predictions import prepare
from medvit.report.section.confusion import confusion, most_probable

CLASSES = ("a", "b", "c")
TRUTH = np.array([0, 0, 0, 0, 1, 1, 2, 2])
SAID = np.array([0, 0, 0, 1, 1, 1, 0, 2])  # 3 of 4, 2 of 2, 1 of 2


@pytest.fixture
def sample(make_table, make_spec):
    table = make_table("test", n=8, names=CLASSES).assign(patient=[f"p{k}" for k in range(8)])
    logits, target = 3.0 * np.eye(3)[SAID], np.eye(3)[TRUTH]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for k, name in enumerate(CLASSES):
        table[f"logit.{name}"], table[f"prob.{name}"] = logits[:, k], probabilities[:, k]
        table[f"target.{name}"] = target[:, k]
    table.loc[7, [f"target.{name}" for name in CLASSES]] = np.nan  # its label is not known
    return prepare(table, make_spec(CLASSES, "multiclass"), "test")


def scored(sample, said):
    scores = np.eye(3)[said]
    return pd.DataFrame({"uid": sample.table["uid"], **{f"score.{n}": scores[:, k] for k, n in enumerate(CLASSES)}})


def test_accuracy_and_balanced_accuracy_are_those_counted_by_hand(sample):
    row = most_probable(sample, {}).rows[0]
    assert row["units"] == 7
    assert row["accuracy"].value == pytest.approx(5 / 7)
    assert row["balanced"].value == pytest.approx((3 / 4 + 1 + 0) / 3)
    assert row["accuracy"].low < 5 / 7 < row["accuracy"].high


def test_a_baseline_that_says_the_same_differs_by_nothing_in_any_draw(sample):
    row = most_probable(sample, {"twin": scored(sample, SAID)}).rows[1]
    assert (row["gain"].value, row["gain"].low, row["gain"].high) == (0.0, 0.0, 0.0)
    assert row["verdict"] == "not told apart"


def test_a_baseline_that_is_always_wrong_is_beaten_by_the_whole_accuracy(sample):
    table = most_probable(sample, {"wrong": scored(sample, (TRUTH + 1) % 3)})
    model, wrong = table.rows
    assert wrong["accuracy"].value == 0.0
    assert wrong["gain"].value == pytest.approx(model["accuracy"].value)
    assert (wrong["gain"].low, wrong["verdict"]) == (model["accuracy"].low, "better")


def test_a_baseline_without_a_score_for_every_class_is_left_out(sample):
    assert len(most_probable(sample, {"partial": scored(sample, SAID).drop(columns="score.c")}).rows) == 1


def test_the_confusion_table_counts_units_by_truth_and_by_what_was_said(sample):
    table = confusion(sample)
    assert [[row[f"said.{name}"] for name in CLASSES] for row in table.rows] == [[3, 1, 0], [0, 2, 0], [1, 0, 0]]


def test_findings_that_do_not_exclude_each_other_have_neither_table(make_table, make_spec):
    several = prepare(make_table("test", names=("a", "b")), make_spec(("a", "b")), "test")
    assert most_probable(several, {}).rows == confusion(several).rows == []
