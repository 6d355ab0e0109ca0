"""Probes on cached features: what they learn, what they leave alone, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medvit.errors import DataError
from medvit.metric.ranking import auroc
from medvit.model.design import Design
from medvit.model.feature_cache import FeatureCache
from medvit.model.network import Network
from medvit.model.pool import AttentionPool
from medvit.model.vit import ViT
from medvit.optim.probe import HeadPlan, fit_head, fit_path, nested
from medvit.task.binary import Binary


def data(n: int = 80, features: int = 30, seed: int = 0):
    """Two informative features among noise; every patient has two rows."""
    rng = np.random.default_rng(seed)
    y = np.repeat(rng.integers(0, 2, n // 2), 2)
    x = rng.normal(size=(n, features)) * rng.uniform(0.1, 50, features)
    x[:, 0] += y * 2 * x[:, 0].std()
    x[:, 1] -= y * 2 * x[:, 1].std()
    return x, y.astype(float)[:, None], np.repeat(np.arange(n // 2), 2)


def test_a_head_on_cached_tokens_learns_and_leaves_the_backbone_alone(tmp_path):
    torch.manual_seed(0)
    net = Network(ViT([16, 16], [8, 8], 1, 24, 2, 2, Design()), AttentionPool(4), 1)
    y = torch.arange(40).float()[:, None] % 2
    image = torch.randn(40, 1, 16, 16) + y[:, :, None, None] * torch.linspace(-1, 1, 16)
    uids = [f"{k:032x}" for k in range(40)]
    before = {name: value.clone() for name, value in net.backbone.state_dict().items()}
    features = FeatureCache(tmp_path).get(net.backbone, "p", uids, [(tuple(uids), image)])
    means = fit_head(net, features, y, torch.ones(40, 1), Binary("x").loss, HeadPlan(epochs=30, lr=1e-2, batch_size=16))
    assert len(means) == 30
    assert means[-1] < 0.3 < means[0]
    assert all(torch.equal(before[name], value) for name, value in net.backbone.state_dict().items())
    assert auroc(y[:, 0], net.eval()(image)[:, 0].detach()) > 0.95


def test_the_same_seed_gives_the_same_head(tmp_path):
    heads = []
    for _ in range(2):
        torch.manual_seed(0)
        net = Network(ViT([16, 16], [8, 8], 1, 24, 2, 2, Design()), AttentionPool(4), 1)
        uids = [f"{k:032x}" for k in range(8)]
        features = FeatureCache(tmp_path).get(net.backbone, "p", uids, [(tuple(uids), torch.randn(8, 1, 16, 16))])
        fit_head(
            net, features, torch.eye(8)[:, :1], torch.ones(8, 1), Binary("x").loss, HeadPlan(epochs=3, batch_size=4)
        )
        heads.append(net.head.weight.detach().clone())
    assert torch.equal(*heads)


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
