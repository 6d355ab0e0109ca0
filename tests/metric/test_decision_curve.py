from __future__ import annotations

import numpy as np
import pytest

from medvit.errors import EvaluationError
from medvit.metric.decision_curve import net_benefit, treat_all

# dcurves 1.1.7, df_binary.csv, cancerpredmarker: events and others at or above each threshold (counts only).
CUT = [0.05, 0.10, 0.20, 0.30]
EVENTS, OTHERS = [96, 87, 75, 62], [320, 193, 98, 49]


def table():
    """Return 105 events and 645 others with one probability per interval between the thresholds."""
    middle = [0.02, 0.07, 0.15, 0.25, 0.6]
    p = [np.repeat(middle, -np.diff([total, *above, 0])) for total, above in ((105, EVENTS), (645, OTHERS))]
    return np.r_[np.ones(105), np.zeros(645)], np.concatenate(p)


def test_net_benefit_is_that_of_dcurves():
    y, p = table()
    expected = [0.105543859649123, 0.0874074074074074, 0.0673333333333333, 0.0546666666666667]
    np.testing.assert_allclose(net_benefit(y, p, CUT)[0], expected, atol=1e-12)
    np.testing.assert_allclose(treat_all(y, CUT)[0], [0.0947368, 0.0444444, -0.075, -0.228571], atol=1e-6)


def test_a_yes_or_no_predictor_is_that_of_dcurves():
    y = np.r_[np.ones(105), np.zeros(645)]
    history = np.r_[np.arange(105) < 24, np.arange(645) < 91].astype(float)
    assert net_benefit(y, history, [0.10])[0, 0] == pytest.approx(0.018519, abs=1e-6)


def test_a_probability_on_the_threshold_is_acted_on_and_weights_are_repetitions():
    y, p = np.array([1, 0, 1, 0]), np.array([0.5, 0.5, 0.2, 0.8])
    assert net_benefit(y, p, [0.5])[0, 0] == pytest.approx((1 - 2) / 4)
    weight = np.array([[2, 0, 1, 1], [1, 1, 1, 1]])
    found = net_benefit(y, p, [0.1, 0.5], weight)
    np.testing.assert_allclose(found[0], net_benefit(np.repeat(y, weight[0]), np.repeat(p, weight[0]), [0.1, 0.5])[0])


@pytest.mark.parametrize("cut", [0.0, 1.0])
def test_thresholds_of_certainty_are_refused(cut):
    with pytest.raises(EvaluationError, match="inside 0 to 1"):
        net_benefit([0, 1], [0.2, 0.3], [cut])
