from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from medvit.errors import EvaluationError
from medvit.metric.bootstrap import interval, intervals, p_value, patient_draws, wilson
from medvit.metric.ranking import Ranking


def mean_of(values):
    return lambda w: (w @ values) / w.sum(axis=1)


def test_every_draw_takes_as_many_patients_as_there_are_and_all_their_images():
    draws = patient_draws(["b", "a", "b", "c"], 50, seed=1)
    assert (draws.counts.sum(axis=1) == 3).all()
    weights = draws.apply(lambda w: w)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])


def test_the_draws_follow_exact_enumeration_for_four_patients():
    values = np.array([0.0, 1.0, 3.0, 7.0])
    exact = [np.mean(values[list(pick)]) for pick in itertools.product(range(4), repeat=4)]
    sample = patient_draws(list("abcd"), 40_000, seed=3).apply(mean_of(values))[:, 0]
    assert sample.mean() == pytest.approx(np.mean(exact), abs=0.02)
    assert sample.std() == pytest.approx(np.std(exact), abs=0.02)
    for value in set(exact):
        assert np.mean(np.abs(sample - value) < 1e-9) == pytest.approx(np.mean(np.abs(exact - value) < 1e-9), abs=0.01)


def test_the_order_of_the_images_changes_no_interval():
    random = np.random.default_rng(0)
    patient, values = random.integers(0, 20, 60).astype(str), random.integers(0, 9, 60).astype(float)
    turn = random.permutation(60)
    one = intervals(mean_of(values), patient_draws(patient, 300, 5))
    assert one == intervals(mean_of(values[turn]), patient_draws(patient[turn], 300, 5))


def test_slices_of_draws_give_what_one_piece_gives(monkeypatch):
    values, patient = np.arange(30.0), np.repeat(np.arange(10), 3)
    whole = patient_draws(patient, 100, 2).apply(mean_of(values))
    monkeypatch.setattr("medvit.metric.bootstrap._CELLS", 90)
    sliced = patient_draws(patient, 100, 2)
    assert sliced.counts.shape == (100, 10)
    np.testing.assert_array_equal(sliced.apply(mean_of(values)), sliced.apply(mean_of(values)))
    np.testing.assert_allclose(sliced.apply(mean_of(values)), whole, rtol=1e-13)


def test_bca_agrees_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(0).lognormal(size=40)
    ours = intervals(mean_of(values), patient_draws(np.arange(40), 20_000, 0), method="bca")[0]
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.04)
    plain = intervals(mean_of(values), patient_draws(np.arange(40), 20_000, 0))[0]
    assert ours.high > plain.high + 0.03  # skewed to the right: BCa must move


def test_an_interval_of_mostly_undefined_draws_is_refused_and_says_so():
    sample = np.r_[np.full(30, np.nan), np.linspace(0, 1, 70)]
    found = interval(0.5, sample)
    assert math.isnan(found.low)
    assert found.note == "defined in only 70 of 100 draws"
    assert interval(math.nan, sample).note == "undefined"


def test_p_is_one_without_difference_and_small_with_a_clear_one():
    assert p_value(np.zeros(1000)) == 1.0
    assert p_value(np.full(1999, 0.1)) == pytest.approx(2 / 2000)
    assert math.isnan(p_value([math.nan]))


def test_wilson_of_ten_in_ten_is_the_textbook_value():
    low, high = wilson(10, 10)
    assert (low, high) == (pytest.approx(0.7224672, abs=1e-6), 1.0)


def test_one_patient_cannot_be_resampled():
    with pytest.raises(EvaluationError, match="1 patients"):
        patient_draws(["a", "a"], 10, 0)


def test_a_few_draws_without_a_value_are_told_and_more_of_them_leave_no_interval():
    sample = np.linspace(0, 1, 1000)
    told = interval(0.5, np.where(np.arange(1000) < 10, np.nan, sample))
    assert (told.note, told.draws) == ("defined in only 990 of 1000 draws", 990)
    assert 0 < told.low < told.high < 1
    assert math.isnan(interval(0.5, np.where(np.arange(1000) < 30, np.nan, sample)).low)


def test_draws_that_are_infinite_hold_the_upper_end_of_an_interval():
    sample = np.linspace(1, 5, 1000)
    many = interval(2.0, np.where(sample > 4.7, np.inf, sample))
    assert (many.high, many.note) == (math.inf, "infinite in 75 of 1000 draws")
    few = interval(2.0, np.where(sample > 4.97, np.inf, sample))
    assert few.high == pytest.approx(interval(2.0, sample).high, abs=0.01)
    assert few.draws == 1000


@pytest.mark.slow
def test_patient_intervals_cover_and_image_intervals_do_not():
    """300 studies of 60 patients with 5 alike images each; binormal AUROC 0.7602 is the truth."""
    random = np.random.default_rng(7)
    covered = {"patient": 0, "image": 0}
    for _ in range(300):
        outcome = np.repeat(np.r_[np.zeros(30), np.ones(30)], 5)
        score = outcome + np.repeat(random.normal(size=60), 5) * np.sqrt(0.8) + random.normal(size=300) * np.sqrt(0.2)
        ranking = Ranking(outcome, score)
        for unit, codes in (("patient", np.repeat(np.arange(60), 5)), ("image", np.arange(300))):
            found = intervals(ranking.auroc, patient_draws(codes, 1000, int(random.integers(2**31))))[0]
            covered[unit] += found.low <= 0.7602499389 <= found.high
    assert 0.925 <= covered["patient"] / 300 <= 0.975
    assert covered["image"] / 300 < 0.85
