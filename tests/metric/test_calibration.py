from __future__ import annotations

import math

import numpy as np
import pytest

from medvit.errors import EvaluationError
from medvit.metric.calibration import Calibrator, brier, ece, fit, logit, recalibration, reliability, sigmoid

# By formula, so that R and netcal could be given the same numbers.
INDEX = np.arange(120)
Y = ((INDEX * 7) % 10 < 4).astype(int)
P = ((INDEX * 53) % 89 + 12 * Y + 1) / 121.0


def simulated(n, seed=0, spread=2.0):
    random = np.random.default_rng(seed)
    x = spread * random.normal(size=n)
    return (random.random(n) < sigmoid(x)).astype(float), x


def test_slope_and_intercept_are_those_of_r_glm():
    np.testing.assert_allclose(recalibration(Y, logit(P))[0], [-0.07740711726108443, 0.3641891059270563], atol=1e-12)
    platt = fit(Y, logit(P), "platt")
    assert (platt.intercept, platt.slope) == pytest.approx((-0.2502607680960813, 0.3641891059270563), abs=1e-12)
    assert fit(Y, logit(P), "temperature").slope == pytest.approx(0.4385396762756754, abs=1e-12)


@pytest.mark.parametrize(
    ("bins", "kind", "expected"),
    [
        (5, "width", 0.16239669421487607),
        (10, "width", 0.1758953168044077),
        (15, "width", 0.17024793388429751),
        (5, "mass", 0.15950413223140497),
        (10, "mass", 0.15950413223140497),
        (15, "mass", 0.1793388429752066),
    ],
)
def test_ece_is_that_of_netcal(bins, kind, expected):
    """The numbers are netcal 1.4.0's, ECE(bins, equal_intervals=kind == "width"), on these 120 probabilities."""
    assert ece(Y, P, bins=bins, kind=kind)[0] == pytest.approx(expected, abs=1e-12)


def test_ece_of_four_bins_by_hand():
    y = [0, 1, 0, 1, 1, 1, 1, 0]
    p = [0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9]
    # |0.5 - 0.15|, |0.5 - 0.35|, |1 - 0.65|, |0.5 - 0.85|, two of eight images each
    assert ece(y, p, bins=4)[0] == pytest.approx((0.35 + 0.15 + 0.35 + 0.35) / 4, abs=1e-14)


def test_brier_is_that_of_scikit_learn_and_scaled_brier_is_zero_for_the_prevalence():
    metrics = pytest.importorskip("sklearn.metrics")
    assert brier(Y, P)[0, 0] == pytest.approx(metrics.brier_score_loss(Y, P), abs=1e-14)
    assert brier(Y, np.full(120, Y.mean()))[0, 1] == pytest.approx(0.0, abs=1e-14)
    assert brier(Y, Y.astype(float))[0, 1] == 1.0


def test_perfectly_calibrated_logits_have_slope_one_and_intercept_zero():
    y, x = simulated(1_000_000)
    large, slope = recalibration(y, x)[0]
    assert abs(slope - 1.0) < 0.02
    assert abs(large) < 0.02
    assert ece(y, sigmoid(x))[0] < 0.005


def test_temperature_two_and_a_half_is_recovered():
    y, x = simulated(400_000, seed=1)
    found = fit(y, 2.5 * x, "temperature")
    assert found.temperature == pytest.approx(2.5, abs=0.02)
    np.testing.assert_allclose(found([2.5, -5.0]), sigmoid([2.5 / found.temperature, -5.0 / found.temperature]))


def test_weights_are_repetitions():
    weight = np.random.default_rng(0).integers(0, 3, (5, 120))
    for row, k in zip(weight, range(5), strict=True):
        y, p = np.repeat(Y, row), np.repeat(P, row)
        np.testing.assert_allclose(recalibration(Y, logit(P), weight)[k], recalibration(y, logit(p))[0], atol=1e-9)
        np.testing.assert_allclose(brier(Y, P, weight)[k], brier(y, p)[0], atol=1e-13)
        assert ece(Y, P, weight)[k] == pytest.approx(ece(y, p)[0], abs=1e-13)


def test_reliability_bins_of_equal_mass_hold_equal_numbers():
    predicted, observed, mass = reliability(Y, P, bins=4)
    assert mass.sum() == 120
    assert np.ptp(mass) <= 4
    assert (np.diff(predicted[0]) > 0).all()
    np.testing.assert_allclose(np.sum(observed * mass), Y.sum())


def test_separated_outcomes_have_no_slope_and_leave_the_logits_alone():
    y, x = np.array([0, 0, 0, 1, 1, 1]), np.array([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0])
    assert math.isnan(recalibration(y, x)[0, 1])
    for kind in ("temperature", "platt"):
        found = fit(y, x, kind)
        assert "separated" in found.note
        np.testing.assert_array_equal(found(x), sigmoid(x))
        assert "worse than by chance" in fit(1 - y, x, kind).note
    assert "one outcome" in fit(np.zeros(4), np.arange(4.0), "platt").note


def test_a_calibrator_survives_its_json():
    found = fit(Y, logit(P), "platt")
    assert Calibrator(**found.to_json()) == found


def test_probabilities_outside_zero_to_one_are_refused():
    with pytest.raises(EvaluationError, match=r"run from -0\.5 to 1\.2; expected 0 to 1"):
        ece([0, 1], [-0.5, 1.2])


def test_sigmoid_and_logit_do_not_overflow():
    np.testing.assert_array_equal(sigmoid([-1e4, 0.0, 1e4]), [0.0, 0.5, 1.0])
    np.testing.assert_allclose(sigmoid(logit([0.1, 0.9])), [0.1, 0.9])
