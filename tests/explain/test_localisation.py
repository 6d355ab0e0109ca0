from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvit.errors import EvaluationError
from medvit.explain.localisation import SCORES, Annotation, box_mask, centre_prior, dilate_mm, score, summary

BOX = box_mask((20, 30), [[4, 6], [9, 15]])


def test_a_map_that_is_the_box_scores_one():
    assert score(BOX, Annotation(BOX, (1.0, 1.0), "a")) == dict.fromkeys(SCORES, 1.0)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_even_map_scores_the_share_of_the_area(value):
    found = score(np.full(BOX.shape, value), Annotation(BOX, (1.0, 1.0), "a"), tolerance_mm=0)
    assert found == {name: pytest.approx(60 / 600) for name in SCORES}


def test_a_peak_counts_within_the_tolerance_in_mm_and_not_beyond():
    peak = np.zeros((20, 30))
    peak[13, 6] = 1  # four rows below the box: 4 x 0.5 mm
    truth = Annotation(BOX, (0.5, 2.0), "a")
    assert score(peak, truth, tolerance_mm=2.0)["pointing"] == 1
    assert score(peak, truth, tolerance_mm=1.9)["pointing"] == 0


def test_the_tolerance_is_that_of_the_field():
    assert Annotation(np.ones((224, 224), bool), (0.14, 0.14), "a").tolerance_mm == pytest.approx(2.1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 6), st.sampled_from([(1.0, 1.0), (0.7, 1.9), (1.0, 2.0, 0.5)]))
def test_within_equals_a_count_over_all_pairs(seed, tolerance, spacing):
    random = np.random.default_rng(seed)
    mask = random.random((6, 7, 5)[: len(spacing)]) < 0.1
    places = np.stack(np.indices(mask.shape), -1) * np.array(spacing)
    expected = np.zeros(mask.shape, bool)
    for place in places[mask]:
        expected |= np.sqrt(((places - place) ** 2).sum(-1)) <= tolerance + 1e-9
    np.testing.assert_array_equal(dilate_mm(mask, spacing, tolerance), expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_the_best_overlap_equals_a_search_over_all_thresholds(seed):
    random = np.random.default_rng(seed)
    values, mask = random.integers(0, 5, (5, 6)).astype(float), random.random((5, 6)) < 0.4
    mask[0, 0] = True
    values[1, 1] = 1
    brute = max(((values >= t) & mask).sum() / ((values >= t) | mask).sum() for t in np.unique(values))
    assert score(values, Annotation(mask, (1.0, 1.0), "a"))["iou"] == pytest.approx(brute)


def test_the_centre_prior_peaks_in_the_middle_of_an_image():
    prior = centre_prior((9, 11))
    assert np.unravel_index(prior.argmax(), prior.shape) == (4, 5)
    assert prior[4, 5] == 1


def test_intervals_are_over_patients_not_images():
    hits = np.repeat(np.arange(20) % 2.0, 10)
    images = summary({"pointing": hits}, [str(k) for k in range(200)])["pointing"]
    patients = summary({"pointing": hits}, [str(k // 10) for k in range(200)])["pointing"]
    assert images.value == patients.value == 0.5
    assert patients.high - patients.low > 2.5 * (images.high - images.low)


def test_boxes_and_maps_that_do_not_fit_are_refused():
    with pytest.raises(EvaluationError, match="covers no pixel"):
        box_mask((20, 30), [[25, 3], [28, 9]])
    with pytest.raises(EvaluationError, match="expected one shape"):
        score(np.ones((5, 5)), Annotation(BOX, (1.0, 1.0), "a"))
    with pytest.raises(EvaluationError, match="finite"):
        score(np.full(BOX.shape, np.nan), Annotation(BOX, (1.0, 1.0), "a"))
