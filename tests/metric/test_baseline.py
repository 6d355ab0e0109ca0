from __future__ import annotations

import csv

import numpy as np
import pytest

from medvit.errors import EvaluationError
from medvit.metric.baseline import downsample, metadata_table, nearest_neighbour, ridge
from medvit.metric.ranking import auroc


def test_shrinking_is_an_average_over_area():
    image = np.arange(96 * 144.0).reshape(1, 96, 144)
    np.testing.assert_allclose(downsample(image)[0].reshape(48, 48), image[0].reshape(48, 2, 48, 3).mean(axis=(1, 3)))
    uneven = np.random.default_rng(0).random((2, 101, 57))
    np.testing.assert_allclose(downsample(uneven).mean(axis=1), uneven.mean(axis=(1, 2)))
    with pytest.raises(EvaluationError, match="48 or more"):
        downsample(np.zeros((1, 47, 60)))


@pytest.mark.parametrize("size", [80, 300])
def test_ridge_is_that_of_scikit_learn_with_leave_one_out(size):
    linear = pytest.importorskip("sklearn.linear_model")
    random = np.random.default_rng(0)
    x = random.normal(size=(size, 200))
    y = (x[:, 0] + 0.5 * random.normal(size=size) > 0).astype(float)
    new = random.normal(size=(30, 200))
    scaled = (x - x.mean(0)) / x.std(0)
    # The mean is taken off beforehand and not left out again, in both.
    model = linear.RidgeCV(alphas=[strength * size / 1000 for strength in (1, 10, 100, 1000)], fit_intercept=False).fit(
        scaled, y - y.mean()
    )
    expected = model.predict((new - x.mean(0)) / x.std(0)) + y.mean()
    np.testing.assert_allclose(ridge(x, y, new), expected, atol=1e-9)


def test_the_nearest_image_is_that_of_a_double_loop():
    random = np.random.default_rng(0)
    train, test = random.normal(size=(40, 9)), random.normal(size=(300, 9))
    y = random.integers(0, 2, 40)
    expected = [y[np.argmin([np.sum((a - b) ** 2) for b in train])] for a in test]
    np.testing.assert_array_equal(nearest_neighbour(train, y, test), expected)
    assert nearest_neighbour(np.ones((2, 3)), [0, 1], np.zeros((1, 3)))[0] == 0.5


def test_metadata_that_tells_the_label_is_found_out():
    random = np.random.default_rng(0)
    y = random.integers(0, 2, 200)
    facts = {"vendor": np.where(y + (random.random(200) < 0.1) > 0, "A", "B"), "age_years": random.normal(50, 9, 200)}
    facts["age_years"][:5] = np.nan
    train, test = metadata_table({k: v[:100] for k, v in facts.items()}, {k: v[100:] for k, v in facts.items()})
    assert train.shape == (100, 4)
    assert auroc(y[100:], ridge(train, y[:100], test)) > 0.9


def test_a_baseline_without_both_outcomes_is_refused():
    with pytest.raises(EvaluationError, match="both outcomes"):
        ridge(np.ones((3, 2)), [1, 1, 1], np.ones((1, 2)))
    with pytest.raises(EvaluationError, match="expected the same"):
        metadata_table({"sex": ["F"]}, {"age_years": [3.0]})


@pytest.mark.real
@pytest.mark.slow
def test_the_pixel_ridge_reaches_on_real_films_what_the_data_set_says(real_data):
    """labelled/cxr_pneumonia_*: AUROC about 0.976 by patient from 48 x 48 pixels alone (shared/data/README.md)."""
    import cv2

    folder = real_data / "labelled" / "cxr_pneumonia_224"
    with (folder / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    films = [cv2.imread(str(folder / row["path"]), cv2.IMREAD_GRAYSCALE) for row in rows]
    x = downsample([cv2.resize(film, (96, 96), interpolation=cv2.INTER_AREA) for film in films])
    y = np.array([row["label"] != "NORMAL" for row in rows], float)
    patients = sorted({row["patient_id"] for row in rows})
    chosen = set(np.random.default_rng(0).permutation(patients)[: len(patients) // 4].tolist())
    test = np.array([row["patient_id"] in chosen for row in rows])
    pixels, neighbour = (auroc(y[test], score(x[~test], y[~test], x[test])) for score in (ridge, nearest_neighbour))
    assert pixels == pytest.approx(0.975, abs=0.015)
    assert 0.8 < neighbour < pixels
