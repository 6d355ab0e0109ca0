from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from medvit.errors import EvaluationError
from medvit.metric.ood import fit, fpr_at_95
from medvit.metric.ranking import auroc

RANDOM = np.random.default_rng(0)
MIX = RANDOM.normal(size=(6, 6))
TRAIN, VALIDATION, TEST = (RANDOM.normal(size=(n, 6)) @ MIX + 3 for n in (400, 300, 300))


def test_both_distances_agree_with_their_definitions():
    found = fit(TRAIN, VALIDATION, k=20).scores(TEST)
    near = NearestNeighbors(n_neighbors=20, metric="cosine").fit(TRAIN).kneighbors(TEST)[0][:, -1]
    np.testing.assert_allclose(found["knn"], near, atol=1e-12)
    spread = np.cov(TRAIN, rowvar=False)
    spread += np.eye(6) * 1e-3 * np.trace(spread) / 6
    apart = TEST - TRAIN.mean(axis=0)
    expected = np.sqrt(np.einsum("nw,wv,nv->n", apart, np.linalg.inv(spread), apart))
    np.testing.assert_allclose(found["mahalanobis"], expected, rtol=1e-10)


@pytest.mark.parametrize("method", ["knn", "mahalanobis"])
def test_one_validation_image_in_a_hundred_lies_outside(method):
    envelope = fit(TRAIN, VALIDATION)
    assert envelope.outside(VALIDATION, method).mean() == pytest.approx(0.01, abs=0.004)
    far = TEST - 60 * MIX[0]
    assert envelope.outside(far, method).all()
    inside, outside = (envelope.scores(rows)[method] for rows in (TEST, far))
    assert fpr_at_95(inside, outside) == 0
    assert auroc(np.r_[np.zeros(300), np.ones(300)], np.r_[inside, outside]) > 0.99


def test_the_same_distribution_is_accepted_95_times_in_a_hundred():
    assert fpr_at_95(np.arange(1000), np.arange(1000)) == pytest.approx(0.95, abs=0.002)


def test_a_direction_that_never_varied_is_far_but_finite():
    flat = np.hstack([TRAIN, np.zeros((400, 1))])
    found = fit(flat, flat[:10]).scores(np.hstack([TEST, np.ones((300, 1))]))["mahalanobis"]
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("train", "validation"), [(TRAIN[:50], VALIDATION), (TRAIN, VALIDATION[:0]), (TRAIN, VALIDATION[:, :5])]
)
def test_too_few_or_other_embeddings_are_refused(train, validation):
    with pytest.raises(EvaluationError):
        fit(train, validation)
