from __future__ import annotations

import math

import numpy as np
import pytest

from medvit.errors import EvaluationError
from medvit.metric.agreement import mean_absolute_error, quadratic_kappa
from medvit.metric.multiplicity import holm
from medvit.metric.sample_size import auroc_error, positives_needed


def test_quadratic_kappa_is_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    a = random.integers(0, 5, 80)
    b = np.clip(a + random.integers(-2, 3, 80), 0, 4)
    w = random.integers(0, 4, (3, 80))
    assert quadratic_kappa(a, b, 5)[0] == pytest.approx(metrics.cohen_kappa_score(a, b, weights="quadratic"), abs=1e-12)
    for row, found in zip(w, quadratic_kappa(a, b, 5, w), strict=True):
        theirs = metrics.cohen_kappa_score(a, b, weights="quadratic", sample_weight=row)
        assert found == pytest.approx(theirs, abs=1e-12)


def test_kappa_measures_on_the_grades_also_where_one_of_them_does_not_occur():
    """scikit-learn numbers the grades that occur: 0.901 for the same knees (findings/kappa_absent_grade.sh)."""
    knees = {(0, 0): 40, (0, 2): 8, (2, 0): 6, (2, 2): 20, (2, 3): 3, (3, 3): 12, (3, 4): 2, (4, 4): 8}
    a, b = np.array([pair for pair, n in knees.items() for _ in range(n)]).T
    by_definition = 1 - ((a - b) ** 2).mean() / ((a[:, None] - b) ** 2).mean()
    assert quadratic_kappa(a, b, 5)[0] == pytest.approx(by_definition, abs=1e-12) == pytest.approx(0.848, abs=5e-4)


def test_kappa_of_one_single_grade_is_undefined():
    assert math.isnan(quadratic_kappa([2, 2], [2, 2], 4)[0])


def test_grades_and_values_that_cannot_be_are_refused():
    with pytest.raises(EvaluationError, match="2 of 4 grades"):
        quadratic_kappa([0, 5], [0.5, 1], 5)
    with pytest.raises(EvaluationError, match="1 of 2 pairs"):
        mean_absolute_error([1, math.nan], [1, 2])


def test_mean_absolute_error_by_hand():
    assert mean_absolute_error([1, 2, 4], [1, 4, 3], [[1, 1, 1], [0, 2, 1]]) == pytest.approx([1.0, 5 / 3])


def test_holm_is_that_of_r_p_adjust_and_skips_what_was_not_tested():
    adjusted = holm([0.01, 0.04, 0.03, math.nan, 0.005, 0.5])
    np.testing.assert_allclose(adjusted, [0.04, 0.09, 0.09, math.nan, 0.025, 0.5])  # R 4.2: p.adjust(p, "holm")
    assert holm([]).size == 0


def test_the_standard_error_is_what_exponential_scores_show():
    """Hanley and McNeil's formula is exact for exponential scores: P(positive higher) = 1 / (1 + rate)."""
    random = np.random.default_rng(0)
    areas = []
    for _ in range(3000):
        positive, negative = random.exponential(5.0, 51), np.sort(random.exponential(1.0, 58))
        areas.append(np.searchsorted(negative, positive).mean() / 58)
    assert np.mean(areas) == pytest.approx(5 / 6, abs=0.003)
    assert np.std(areas) == pytest.approx(auroc_error(5 / 6, 51, 58), rel=0.04)


def test_one_positive_fewer_would_not_do():
    needed = positives_needed(0.85, 0.1, 0.03)
    negatives = lambda n: round(n * 9)  # noqa: E731
    assert 1.959964 * auroc_error(0.85, needed, negatives(needed)) <= 0.03
    assert 1.959964 * auroc_error(0.85, needed - 1, negatives(needed - 1)) > 0.03


def test_a_width_that_needs_too_many_is_said_so():
    assert positives_needed(0.7, 0.5, 1e-6) is None
    with pytest.raises(EvaluationError, match=r"auroc 1\.2, half_width 0"):
        positives_needed(1.2, 0.5, 0.0)
