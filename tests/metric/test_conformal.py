from __future__ import annotations

import math

import numpy as np
import pytest

from medvit.errors import EvaluationError
from medvit.metric.calibration import sigmoid
from medvit.metric.conformal import conformal_sets, fit_conformal


def drawn(n, seed):
    random = np.random.default_rng(seed)
    y = (random.random(n) < 0.12).astype(float)  # the finding is rare: where marginal sets fail
    return y, sigmoid(random.normal(size=n) + 1.5 * y - 2.0)


@pytest.mark.parametrize("alpha", [0.1, 0.2])
def test_positives_and_negatives_are_covered_apart(alpha):
    y, p = drawn(40_000, 1)
    sets = conformal_sets(fit_conformal(*drawn(20_000, 0), alpha), p)
    assert sets[y == 1, 1].mean() == pytest.approx(1 - alpha, abs=0.02)
    assert sets[y == 0, 0].mean() == pytest.approx(1 - alpha, abs=0.02)


def test_bounds_of_nine_positives_by_hand():
    y, p = np.r_[np.ones(9), np.zeros(9)], np.r_[np.arange(1, 10), np.arange(1, 10)] / 10
    bounds = fit_conformal(y, p, 0.1)  # the 9th of 9: rank ceil(10 * 0.9)
    assert (bounds.present_from, bounds.absent_to) == (0.1, 0.9)
    assert fit_conformal(y, p, 0.2).present_from == 0.2


def test_too_few_of_an_outcome_never_rule_it_out():
    bounds = fit_conformal([1, 0, 0, 0, 0, 0, 0, 0, 0, 0], np.arange(10) / 10, 0.1)
    assert bounds.present_from == -math.inf
    assert conformal_sets(bounds, [0.0, 1.0])[:, 1].all()


def test_alpha_outside_zero_to_one_is_refused():
    with pytest.raises(EvaluationError, match=r"alpha 1\.5"):
        fit_conformal([0, 1], [0.1, 0.9], 1.5)
