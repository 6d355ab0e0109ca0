from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvit.errors import EvaluationError
from medvit.metric.ranking import Ranking, auprc, auroc, macro, pr_curve, roc_curve

tables = st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.integers(1, 4)), min_size=2, max_size=25).filter(
    lambda rows: 0 < sum(r[0] for r in rows) < len(rows)
)


def columns(rows):
    y, p, w = (np.array(c, float) for c in zip(*rows, strict=True))
    return y, p / 6, w


@settings(max_examples=50, deadline=None)
@given(tables)
def test_auroc_is_the_share_of_pairs_ranked_rightly(rows):
    y, p, w = columns(rows)
    won = total = 0.0
    for i in np.flatnonzero(y == 1):
        for j in np.flatnonzero(y == 0):
            total += w[i] * w[j]
            won += w[i] * w[j] * (1.0 if p[i] > p[j] else 0.5 if p[i] == p[j] else 0.0)
    assert auroc(y, p, w) == pytest.approx(won / total, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(tables)
def test_auprc_is_the_sum_of_recall_steps_times_precision(rows):
    y, p, w = columns(rows)
    total, before, area = np.sum(w * y), 0.0, 0.0
    for threshold in sorted(set(p), reverse=True):
        hit = sum(wi for yi, pi, wi in zip(y, p, w, strict=True) if yi and pi >= threshold)
        called = sum(wi for pi, wi in zip(p, w, strict=True) if pi >= threshold)
        area += (hit - before) / total * (hit / called)
        before = hit
    assert auprc(y, p, w) == pytest.approx(area, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_areas_and_curves_agree_with_scikit_learn(seed, tied):
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(seed)
    y = np.r_[0, 1, random.integers(0, 2, 60)]
    p = random.normal(size=62)
    p = np.round(p, 1) if tied else p
    w = random.integers(1, 5, 62)
    assert auroc(y, p, w) == pytest.approx(metrics.roc_auc_score(y, p, sample_weight=w), abs=1e-12)
    assert auprc(y, p, w) == pytest.approx(metrics.average_precision_score(y, p, sample_weight=w), abs=1e-12)
    false, hit, cut = metrics.roc_curve(y, p, drop_intermediate=False)
    threshold, fpr, tpr = roc_curve(y, p)
    np.testing.assert_array_equal(threshold, cut)
    np.testing.assert_allclose(np.c_[fpr, tpr], np.c_[false, hit], atol=1e-12)
    precision, recall, _ = metrics.precision_recall_curve(y, p)
    _, ours_recall, ours_precision = pr_curve(y, p)
    np.testing.assert_allclose(np.c_[ours_recall, ours_precision][::-1], np.c_[recall, precision][:-1], atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(tables, st.randoms())
def test_the_order_of_the_rows_changes_no_bit(rows, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert auroc(*columns(rows)) == auroc(*columns(shuffled))
    assert auprc(*columns(rows)) == auprc(*columns(shuffled))


def test_a_draw_counts_an_image_as_often_as_it_was_drawn():
    random = np.random.default_rng(0)
    y, p, w = random.integers(0, 2, 40), random.normal(size=40), random.integers(0, 4, (7, 40))
    ranking = Ranking(y, p)
    for row, area, precision in zip(w, ranking.auroc(w), ranking.auprc(w), strict=True):
        assert area == auroc(np.repeat(y, row), np.repeat(p, row))
        assert precision == pytest.approx(auprc(np.repeat(y, row), np.repeat(p, row)), abs=1e-14)


def test_binormal_scores_one_deviation_apart_reach_the_closed_form():
    q = np.array([NormalDist().inv_cdf((k + 0.5) / 2000) for k in range(2000)])
    y = np.r_[np.zeros(2000), np.ones(2000)]
    assert auroc(y, np.r_[q, q + 1]) == pytest.approx(0.760250, abs=1e-4)


@pytest.mark.parametrize("y", [[0, 0, 0], [1, 1, 1], []])
def test_one_outcome_alone_has_no_area(y):
    assert math.isnan(auroc(y, np.arange(len(y))))
    assert math.isnan(auprc(y, np.arange(len(y))))


def test_macro_leaves_undefined_findings_out_and_counts_them():
    assert macro([0.5, float("nan"), 0.7]) == (pytest.approx(0.6), 2, 3)
    value, known, total = macro([float("nan")])
    assert math.isnan(value)
    assert (known, total) == (0, 1)


def test_a_missing_label_with_weight_zero_is_left_out():
    assert auroc([0, 1, math.nan], [0.1, 0.2, 0.0], [1, 1, 0]) == 1.0


def test_all_mistakes_of_one_input_are_named_together():
    with pytest.raises(EvaluationError, match=r"(?s)1 of 3 targets are neither 0 nor 1.*2 of 3 scores are NaN"):
        auroc([0, 1, 2], [0.1, math.nan, math.inf])
    with pytest.raises(EvaluationError, match="shape"):
        auroc([0, 1], [0.1])
    with pytest.raises(EvaluationError, match="negative"):
        auroc([0, 1], [0.1, 0.2], [1, -1])
