"""Logistic regression along a path: what it chooses, what it leaves alone, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.errors import DataError
from medvit.metric.ranking import auroc
from medvit.optim.probe import fit_path, nested


def data(n: int = 80, features: int = 30, seed: int = 0):
    """Two informative features among noise; every patient has two rows."""
    rng = np.random.default_rng(seed)
    y = np.repeat(rng.integers(0, 2, n // 2), 2)
    x = rng.normal(size=(n, features)) * rng.uniform(0.1, 50, features)
    x[:, 0] += y * 2 * x[:, 0].std()
    x[:, 1] -= y * 2 * x[:, 1].std()
    return x, y.astype(float)[:, None], np.repeat(np.arange(n // 2), 2)


def test_the_path_equals_scikit_learns_own_regression_at_the_chosen_strength():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y, patients = data()
    fitted = fit_path(x, y, patients)
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=fitted.strength[0], max_iter=5000, tol=1e-8))
    reference.fit(x, y[:, 0])
    np.testing.assert_allclose(fitted.logits(x)[:, 0], reference.decision_function(x), atol=2e-2)


def test_noise_chooses_a_strong_penalty_and_signal_a_weak_one():
    x, y, patients = data(200)
    noise = np.random.default_rng(1).normal(size=x.shape)
    assert fit_path(noise, y, patients).strength[0] < fit_path(x[:, :2], y, patients).strength[0]


def test_missing_labels_change_nothing():
    x, y, patients = data()
    more_x, more_y = np.vstack([x, 1e3 + x[:9]]), np.vstack([y, np.full((9, 1), np.nan)])
    more = fit_path(more_x, more_y, np.r_[patients, 900 + np.arange(9)])
    few = fit_path(x, y, patients)
    np.testing.assert_array_equal(more.coef, few.coef)


def test_classes_that_exclude_each_other_are_fitted_together():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 90)
    x = rng.normal(size=(90, 6)) + 3 * np.eye(3, 6)[label]
    fitted = fit_path(x, np.eye(3)[label], np.arange(90), exclusive=True)
    assert fitted.coef.shape == (3, 6)
    assert (fitted.logits(x).argmax(1) == label).mean() > 0.9


def test_nested_folds_judge_noise_as_noise_though_it_can_be_fitted():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 200)), (rng.permutation(80) % 2).astype(float)[:, None]
    held = nested(x, y, np.arange(80))
    assert np.isfinite(held).all()
    assert 0.25 < auroc(y[:, 0], held[:, 0]) < 0.75


def test_patients_never_stand_on_both_sides():
    """Rows of one patient are copies with a label of their own draw: a leak would show as an AUROC near 1."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(40), 4)
    x = rng.normal(size=(40, 30))[patients] + 1e-3 * rng.normal(size=(160, 30))
    y = rng.integers(0, 2, 40).astype(float)[patients][:, None]
    assert auroc(y[:, 0], nested(x, y, patients)[:, 0]) < 0.75


def test_too_few_patients_are_refused_with_the_number():
    x = data(10)[0]
    with pytest.raises(DataError, match="has 1 patients"):
        fit_path(x, (np.arange(10) == 3).astype(float)[:, None], np.arange(10))
    with pytest.raises(DataError, match="rarest of 1 values"):
        fit_path(x, np.ones((10, 1)), np.arange(10))


def test_two_classes_that_exclude_each_other_are_told_apart_out_of_fold():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 60)
    x = rng.normal(size=(60, 5)) + 3 * label[:, None]
    held = nested(x, np.eye(2)[label], np.arange(60), exclusive=True)
    assert held.shape == (60, 2)
    assert (held.argmax(1) == label).mean() > 0.9
