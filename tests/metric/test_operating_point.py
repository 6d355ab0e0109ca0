from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvit.errors import EvaluationError
from medvit.metric.bootstrap import intervals, patient_draws
from medvit.metric.operating_point import RuleSpec, choose_threshold, confusion, rates

# A hand-made ROC: scores 1 to 10, positives at 4, 6, 8, 9, 10.
SCORE = np.arange(1, 11) / 10
TARGET = np.array([0, 0, 0, 1, 0, 1, 0, 1, 1, 1])


@pytest.mark.parametrize(
    ("spec", "threshold", "sensitivity", "specificity"),
    [
        (RuleSpec("sensitivity", 0.8), 0.55, 0.8, 0.8),
        (RuleSpec("sensitivity", 0.81), 0.35, 1.0, 0.6),
        (RuleSpec("specificity", 0.9), 0.75, 0.6, 1.0),
        (RuleSpec("specificity", 0.6), 0.35, 1.0, 0.6),
        (RuleSpec("youden"), 0.35, 1.0, 0.6),  # 0.6 three times: the highest sensitivity wins
        (RuleSpec("cost", 5.0), 0.35, 1.0, 0.6),
        (RuleSpec("cost", 0.2), 0.75, 0.6, 1.0),
    ],
)
def test_each_rule_picks_its_threshold_on_a_hand_made_roc(spec, threshold, sensitivity, specificity):
    point = choose_threshold(TARGET, SCORE, spec)
    assert (point.threshold, point.sensitivity, point.specificity) == pytest.approx(
        (threshold, sensitivity, specificity)
    )
    assert point.reached


def test_lower_confidence_is_more_careful_than_the_estimate():
    random = np.random.default_rng(0)
    y = random.integers(0, 2, 300)
    p = random.normal(size=300) + 1.5 * y
    draws = patient_draws(np.arange(300), 500, 0)
    plain = choose_threshold(y, p, RuleSpec("sensitivity", 0.9))
    careful = choose_threshold(y, p, RuleSpec("sensitivity", 0.9, lower_confidence=True), draws)
    assert careful.threshold < plain.threshold
    assert careful.sensitivity > plain.sensitivity >= 0.9
    sample = draws.apply(lambda w: rates(y, p, careful.threshold, w)[:, 0])
    assert np.quantile(sample, 0.05) >= 0.9
    specific = choose_threshold(y, p, RuleSpec("specificity", 0.9, lower_confidence=True), draws)
    assert specific.specificity > choose_threshold(y, p, RuleSpec("specificity", 0.9)).specificity


def test_few_patients_who_were_all_found_do_not_prove_a_sensitivity():
    y, p = np.r_[np.ones(8), np.zeros(200)], np.r_[np.linspace(0.6, 0.9, 8), np.linspace(0.0, 0.7, 200)]
    careful = RuleSpec("sensitivity", 0.9, lower_confidence=True)
    assert not choose_threshold(y, p, careful, patient_draws(np.arange(208), 300, 0)).reached
    many = choose_threshold(np.repeat(y, 20), np.repeat(p, 20), careful, patient_draws(np.arange(4160), 300, 0))
    assert many.reached
    alike = choose_threshold(
        np.repeat(y, 20), np.repeat(p, 20), careful, patient_draws(np.repeat(np.arange(208), 20), 300, 0)
    )
    assert not alike.reached  # copies of eight patients are still eight patients


def test_rates_of_a_two_by_two_table_by_hand():
    y, p = np.r_[np.ones(10), np.zeros(20)], np.r_[np.ones(8), np.zeros(2), np.ones(5), np.zeros(15)]
    np.testing.assert_array_equal(confusion(y, p, 0.5)[0], [8, 2, 5, 15])
    np.testing.assert_allclose(rates(y, p, 0.5)[0], [0.8, 0.75, 8 / 13, 15 / 17, 3.2, 0.2 / 0.75], atol=1e-14)


def test_a_rate_without_a_denominator_is_not_a_number():
    found = rates([0, 0, 1], [0.1, 0.2, 0.3], 0.9)[0]
    assert math.isnan(found[2])  # PPV: nothing was called positive
    assert math.isnan(found[4])  # LR+: specificity is 1, and nothing was found either


def test_a_likelihood_ratio_over_nothing_is_infinite_and_opens_its_interval():
    assert rates([0, 0, 1], [0.1, 0.2, 0.9], 0.5)[0, 4] == math.inf  # no false positive
    assert rates([0, 1, 1], [0.9, 0.2, 0.9], 0.5)[0, 5] == math.inf  # no true negative
    y, p = np.repeat([0.0, 1.0], 50), np.r_[np.full(48, 0.1), 0.9, 0.9, np.full(40, 0.9), np.full(10, 0.1)]
    found = intervals(lambda w: rates(y, p, 0.5, w)[:, 4], patient_draws(np.arange(100), 400, 0))[0]
    assert found.value == pytest.approx(0.8 / 0.04)
    assert found.low < found.value < found.high == math.inf


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=4, max_size=30), st.floats(0.05, 0.95))
def test_no_other_threshold_keeps_the_sensitivity_with_more_specificity(rows, wanted):
    y, p = (np.array(c, float) for c in zip(*rows, strict=True))
    if not 0 < y.sum() < y.size:
        return
    point = choose_threshold(y, p, RuleSpec("sensitivity", wanted))
    best = max(rates(y, p, t)[0, 1] for t in p if rates(y, p, t)[0, 0] >= wanted)
    assert point.specificity == pytest.approx(best, abs=1e-12)
    assert point.sensitivity >= wanted


def test_rounding_on_another_machine_turns_no_image_over():
    y, p = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.9])
    threshold = choose_threshold(y, p, RuleSpec()).threshold
    assert threshold == pytest.approx(0.4)
    np.testing.assert_array_equal(rates(y, p.astype(np.float32) - 1e-6, threshold), rates(y, p, threshold))
    close = np.array([0.5, np.nextafter(0.5, 1.0)])
    assert choose_threshold([0, 1], close, RuleSpec()).threshold == close[1]


@pytest.mark.usefixtures("unchecked")
def test_a_rule_names_everything_wrong_with_it():
    with pytest.raises(EvaluationError, match=r"rule 'f1'; expected one of sensitivity.*level 2"):
        RuleSpec("f1", level=2)
    with pytest.raises(EvaluationError, match="needs a value between 0 and 1, found None"):
        RuleSpec("sensitivity")
    with pytest.raises(EvaluationError, match="takes no value"):
        RuleSpec("youden", 0.5)
    with pytest.raises(EvaluationError, match="above 0"):
        RuleSpec("cost", -1)


def test_one_outcome_cannot_choose_a_threshold():
    with pytest.raises(EvaluationError, match="found 0 positives and 3 negatives"):
        choose_threshold([0, 0, 0], [0.1, 0.2, 0.3], RuleSpec())
    with pytest.raises(EvaluationError, match="needs patient draws"):
        choose_threshold(TARGET, SCORE, RuleSpec(lower_confidence=True))
