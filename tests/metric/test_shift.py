from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from medvit.metric import shift

RANDOM = np.random.default_rng(0)


@given(st.lists(st.integers(0, 6), min_size=2, max_size=30), st.lists(st.integers(0, 6), min_size=2, max_size=30))
def test_the_distance_of_numbers_is_kolmogorov_and_smirnovs(one, other):
    side = np.r_[np.zeros(len(one)), np.ones(len(other))][None]
    found = shift.kolmogorov_smirnov(np.r_[one, other].astype(float))(side)[0]
    assert found == pytest.approx(ks_2samp(one, other).statistic, abs=1e-12)


def test_standardised_differences_by_hand():
    one, other = np.array([1.0, 3.0]), np.array([4.0, 8.0])  # means 2 and 6, variances 1 and 4
    weight = np.ones((1, 2))
    found = shift.standardised_difference(shift.mean_and_variance(one)(weight), shift.mean_and_variance(other)(weight))
    assert found[0] == pytest.approx(4 / np.sqrt(2.5))
    flat = shift.mean_and_variance(np.ones(2))(weight)
    assert np.isnan(shift.standardised_difference(flat, flat)[0])


def test_weights_count_like_repeated_units():
    values, weight = RANDOM.normal(size=5), np.array([[2.0, 0, 1, 3, 0]])
    repeated = np.repeat(values, weight[0].astype(int))
    np.testing.assert_allclose(
        shift.mean_and_variance(values)(weight)[0], [repeated.mean(), repeated.var()], atol=1e-12
    )


def test_the_stability_index_by_hand_and_with_an_empty_bin():
    p, q = np.array([[0.5, 0.5]]), np.array([[0.8, 0.2]])
    assert shift.stability_index(p, q)[0] == pytest.approx(0.3 * np.log(1.6) - 0.3 * np.log(0.4))
    assert np.isfinite(shift.stability_index(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]))[0])


def test_variation_is_half_the_sum_of_differences():
    bins, side = np.array([0, 0, 1, 1, 2, 2]), np.array([[0.0, 0, 0, 1, 1, 1]])
    assert shift.total_variation(bins, 3)(side)[0] == pytest.approx(2 / 3)


def test_patients_dealt_whole_keep_their_five_percent():
    """Ten images a patient, all alike: dealing images would call every second set different."""
    small = 0
    for number in range(200):
        random = np.random.default_rng(number)
        patient = np.repeat(np.arange(40), 10)
        values = np.repeat(random.normal(size=40), 10)
        second = np.repeat(random.permutation(np.repeat([False, True], 20)), 10)
        small += shift.permutation_test(shift.kolmogorov_smirnov(values), patient, second, 199, 0) <= 0.05
    assert 2 <= small <= 20


def test_a_true_shift_is_found():
    values, second = np.r_[RANDOM.normal(size=80), RANDOM.normal(1.2, 1, 80)], np.repeat([False, True], 80)
    assert shift.permutation_test(shift.kolmogorov_smirnov(values), np.arange(160), second, 999, 0) <= 0.002
