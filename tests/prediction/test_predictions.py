from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medvit.errors import EvaluationError
from medvit.metric.calibration import Calibrator, sigmoid
from medvit.prediction.predictions import digest, log_odds, prepare
from medvit.prediction.spec import Aggregation, EvaluationSpec, from_json


def spoilt(table, **columns):
    return table.assign(**columns)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.drop(columns="logit.pneumonia"), "column logit.pneumonia is missing"),
        (lambda t: t.rename(columns={"target.pneumonia": "target.pneumona"}), r"did you mean target\.pneumona\?"),
        (lambda t: pd.concat([t, t.iloc[:3]]), "3 of 203 rows repeat an image"),
        (lambda t: t.assign(**{"logit.pneumonia": t["logit.pneumonia"].where(t.index != 16)}), r"1 of 200 .*row 17"),
        (lambda t: t.assign(**{"target.pneumonia": -1.0}), "200 of 200 labels are outside the policy"),
        (lambda t: t.assign(**{"target.pneumonia": "yes"}), "200 of 200 labels are outside the policy"),
        (lambda t: t.assign(**{"prob.pneumonia": 0.5}), "prob and logit disagree"),
        (lambda t: t.assign(**{"prob.pneumonia": t["prob.pneumonia"].where(t.index != 3)}), "1 of 200 rows .* 0 to 1"),
        (lambda t: t.assign(split="train"), "rows of split train among those of test"),
        (lambda t: t.assign(patient="one"), "1 patient; an interval needs at least 2"),
        (lambda t: t.iloc[:0], "no rows"),
    ],
)
def test_predictions_that_cannot_be_used_say_why(make_table, make_spec, spoil, message):
    with pytest.raises(EvaluationError, match=message):
        prepare(spoil(make_table("test")), make_spec(), "test")


def test_all_problems_of_a_table_stand_in_one_message_without_identifiers(make_table, make_spec):
    bad = pd.concat([make_table("test"), make_table("test").iloc[:1]]).assign(**{"target.pneumonia": 3.0})
    with pytest.raises(EvaluationError) as caught:
        prepare(bad, make_spec(), "test")
    assert "repeat an image" in str(caught.value)
    assert "outside the policy" in str(caught.value)
    assert "test-p" not in str(caught.value)


def test_the_digest_tells_test_sets_apart_but_not_orders_or_models(make_table):
    table = make_table("test")
    names = ("pneumonia",)
    assert digest(table, names) == digest(
        table.sample(frac=1, random_state=1).assign(**{"logit.pneumonia": 0.0}), names
    )
    flipped = table.assign(**{"target.pneumonia": 1 - table["target.pneumonia"]})
    assert len({digest(t, names) for t in (table, flipped, table.iloc[1:])}) == 3


@pytest.mark.parametrize(("rule", "expected"), [("mean", [0.0, 5.0]), ("max", [3.0, 5.0]), ("first", [-3.0, 5.0])])
def test_images_are_brought_to_studies_by_the_stated_rule(make_spec, rule, expected):
    logits = np.array([-3.0, 3.0, 5.0])
    table = pd.DataFrame(
        {
            "uid": ["a", "b", "c"], "patient": ["p", "p", "q"], "study": ["s", "s", "t"], "view": ["PA", "AP", "PA"],
            "age_years": [3.0, 3.0, 4.0], "logit.x": logits, "prob.x": sigmoid(logits), "target.x": [0.0, 1.0, np.nan],
        }
    )  # fmt: skip
    found = prepare(table, make_spec(("x",), aggregate=Aggregation("study", rule)), "test")
    assert found.base[:, 0].tolist() == expected
    assert found.target[0, 0] == 1.0  # present if on any image
    assert np.isnan(found.target[1, 0])
    assert (found.images, len(found.table), found.mixed) == (3, 2, 1)
    assert found.table["view"].tolist() == ["mixed", "PA"]
    assert found.table["age_years"].tolist() == [3.0, 4.0]


def test_a_study_of_two_patients_is_refused(make_table, make_spec):
    table = make_table("test").assign(study="one")
    with pytest.raises(EvaluationError, match="1 of 1 study units belong to several patients"):
        prepare(table, make_spec(aggregate=Aggregation("study")), "test")


def test_margins_of_exclusive_classes_are_the_log_odds_of_softmax():
    z = np.random.default_rng(0).normal(size=(20, 4)) * 5
    p = np.exp(z / 2) / np.exp(z / 2).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(sigmoid(log_odds("multiclass", z, Calibrator("temperature", 0.5))), p, atol=1e-14)


def test_a_class_table_that_is_not_one_hot_is_refused(make_table, make_spec):
    table = make_table("test", names=("a", "b"))
    z = table[["logit.a", "logit.b"]].to_numpy()
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    table = table.assign(**{"prob.a": p[:, 0], "prob.b": p[:, 1], "target.a": 1.0, "target.b": 1.0})
    with pytest.raises(EvaluationError, match="200 rows have no or several classes"):
        prepare(table, make_spec(("a", "b"), "multiclass"), "test")


def test_a_row_with_some_of_its_classes_unknown_is_refused(make_table, make_spec):
    table = make_table("test", names=("a", "b"))
    p = 1 / (1 + np.exp(table["logit.b"] - table["logit.a"]))
    table = table.assign(**{"prob.a": p, "prob.b": 1 - p, "target.a": 1.0, "target.b": 0.0})
    prepare(table, make_spec(("a", "b"), "multiclass"), "test")
    table.loc[:4, "target.a"] = np.nan
    with pytest.raises(EvaluationError, match="5 rows have no or several classes"):
        prepare(table, make_spec(("a", "b"), "multiclass"), "test")
    table.loc[:4, "target.b"] = np.nan
    assert np.isnan(prepare(table, make_spec(("a", "b"), "multiclass"), "test").target[:5]).all()


def test_grades_whose_steps_rise_or_whose_probabilities_are_none_are_refused(make_table, make_spec):
    table, spec = make_table("test", names=("low", "high")), make_spec(("low", "high"), "ordinal")
    table = table.assign(**{"target.low": 1.0, "target.high": 0.0})
    prepare(table, spec, "test")
    with pytest.raises(EvaluationError, match=r"200 rows have steps that rise"):
        prepare(table.assign(**{"target.low": 0.0, "target.high": 1.0}), spec, "test")
    with pytest.raises(EvaluationError, match=r"200 of 200 rows have a prob that is no number from 0 to 1"):
        prepare(table.assign(**{"prob.low": 1.5}), spec, "test")


def test_settings_survive_json_and_unknown_ones_name_the_nearest(make_spec):
    spec = make_spec(("a", "b"), subgroups=("sex",))
    assert from_json(spec.to_json()) == spec
    with pytest.raises(EvaluationError, match=r"did you mean draws\?"):
        from_json({**spec.to_json(), "bootstrap": {"draw": 3}})


@pytest.mark.usefixtures("unchecked")
def test_settings_that_contradict_each_other_are_named_together():
    with pytest.raises(EvaluationError) as caught:
        EvaluationSpec("multiclass", ("a", "a"), aggregate=Aggregation("film", "max"), calibration="platt")
    for part in ("one different name", "'film' is not one of", "max means nothing", "platt"):
        assert part in str(caught.value)
