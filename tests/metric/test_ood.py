from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from sklearn.neighbors import NearestNeighbors

from medvit.errors import EvaluationError
from medvit.metric import ood
from medvit.metric.ood import METHODS, Features, fit_envelope, fit_gaussian, fpr_at_95, pixel_statistics
from medvit.metric.ranking import auroc

RANDOM = np.random.default_rng(0)
MIX = RANDOM.normal(size=(6, 6))
PLAIN = RANDOM.normal(size=(4, 4))


def some(n: int) -> Features:
    return Features(RANDOM.normal(size=(n, 4)) @ PLAIN - 2, RANDOM.normal(size=(n, 6)) @ MIX + 3)


TRAIN, VALIDATION, TEST = some(400), some(300), some(300)


def films(count: int, seed: int) -> np.ndarray:
    """Bright middle, dark borders, grain: all of one kind."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[-1:1:64j, -1:1:64j]
    shape = np.exp(-2 * (rows**2 + random.uniform(0.6, 1.6, (count, 1, 1)) * columns**2))
    grain = np.stack([gaussian_filter(random.normal(size=(64, 64)), 1.2) for _ in range(count)])
    return np.clip(200 * shape + 12 * grain, 0, 255).astype(np.uint8)


def test_distances_agree_with_their_definitions():
    found = fit_envelope(TRAIN, VALIDATION, k=20)
    near = NearestNeighbors(n_neighbors=20, metric="cosine").fit(TRAIN.vector).kneighbors(TEST.vector)[0][:, -1]
    middle, limit = found.scales["knn"]
    np.testing.assert_allclose(found.scores(TEST)["knn"] * (limit - middle) + middle, near, atol=1e-12)
    spread, weight = np.diag(TRAIN.vector.std(axis=0)), 0.1
    correlation = (1 - weight) * np.corrcoef(TRAIN.vector, rowvar=False) + weight * np.eye(6)
    apart = TEST.vector - TRAIN.vector.mean(axis=0)
    expected = np.einsum("nw,wv,nv->n", apart, np.linalg.inv(spread @ correlation @ spread), apart)
    np.testing.assert_allclose(fit_gaussian(TRAIN.vector).distance(TEST.vector) ** 2, expected, rtol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_one_validation_image_in_a_hundred_lies_beyond_the_limit(method):
    envelope = fit_envelope(TRAIN, VALIDATION)
    assert (envelope.scores(VALIDATION)[method] > 1).mean() == pytest.approx(0.01, abs=0.004)
    far = Features(TEST.statistics + 60 * PLAIN[0], TEST.vector - 60 * MIX[0])
    inside, outside = (envelope.scores(rows)[method] for rows in (TEST, far))
    assert (outside > 1).all()
    assert fpr_at_95(inside, outside) == 0
    assert auroc(np.r_[np.zeros(300), np.ones(300)], np.r_[inside, outside]) > 0.99


@pytest.mark.parametrize("change", ["statistics", "vector"])
def test_together_sees_what_only_one_distance_sees(change):
    moved = TEST._replace(**{change: getattr(TEST, change) + 40})
    assert (fit_envelope(TRAIN, VALIDATION).scores(moved)["together"] > 1).all()


def test_statistics_tell_a_negative_and_noise_from_films_of_one_kind():
    train, validation, proper = (films(n, seed) for n, seed in ((300, 1), (200, 2), (200, 3)))
    noise = np.random.default_rng(4).integers(0, 256, proper.shape).astype(np.uint8)
    trained = fit_gaussian(pixel_statistics(train))
    own = ood.fit_scale(trained.distance(pixel_statistics(validation)))
    inside, *foreign = (own(trained.distance(pixel_statistics(each))) for each in (proper, 255 - proper, noise))
    assert (inside > 1).mean() < 0.04
    assert all(fpr_at_95(inside, scores) == 0 for scores in foreign)


def test_statistics_do_not_depend_on_the_depth_of_the_integers_or_on_the_neighbours():
    eight = films(600, 5)
    deep = eight.astype(np.uint16) * 257
    np.testing.assert_allclose(pixel_statistics(deep), pixel_statistics(eight), atol=1e-5)
    np.testing.assert_allclose(pixel_statistics(eight)[555], pixel_statistics(eight[555:556])[0], atol=1e-10)


def test_the_part_without_network_survives_json():
    envelope = fit_envelope(TRAIN, VALIDATION)
    text = json.dumps(ood.pixels_to_json(envelope.pixels, envelope.scales["pixels"]))
    pixels, own = ood.pixels_from_json(json.loads(text))
    scores = own(pixels.distance(TEST.statistics))
    np.testing.assert_array_equal(scores, envelope.scores(TEST)["pixels"])


def test_the_same_distribution_is_accepted_95_times_in_a_hundred():
    assert fpr_at_95(np.arange(1000), np.arange(1000)) == pytest.approx(0.95, abs=0.002)


def test_a_feature_that_never_varied_is_far_but_finite():
    flat = np.hstack([TRAIN.vector, np.zeros((400, 1))])
    found = fit_gaussian(flat).distance(np.hstack([TEST.vector, np.ones((300, 1))]))
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        (Features(*(part[:50] for part in TRAIN)), VALIDATION),
        (TRAIN, Features(*(part[:0] for part in VALIDATION))),
        (TRAIN, VALIDATION._replace(vector=VALIDATION.vector[:, :5])),
        (TRAIN._replace(statistics=TRAIN.statistics * np.nan), VALIDATION),
    ],
)
def test_too_few_or_other_features_are_refused(train, validation):
    with pytest.raises(EvaluationError):
        fit_envelope(train, validation)
