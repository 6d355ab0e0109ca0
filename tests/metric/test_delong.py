from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import numpy as np
import pytest

from medvit.errors import EvaluationError
from medvit.metric.bootstrap import patient_draws
from medvit.metric.delong import delong, delong_interval, paired_test, two_sided, unpaired_test
from medvit.metric.ranking import Ranking

# Three markers by formula, so that R could make the same numbers; the results below are pROC 1.18.0's (R 4.2).
INDEX = np.arange(120)
Y = ((INDEX * 7) % 10 < 4).astype(int)
A = (INDEX * 37) % 101 + 30 * Y
B = (INDEX * 53) % 89 + 12 * Y
C = ((INDEX * 29) % 61) // 10 + Y


def test_areas_variances_and_covariances_are_those_of_proc():
    found = delong(Y, np.stack([A, B, C]))
    expected = [
        [1.571879343718084e-03, 1.396874313865602e-04, 6.933859631093682e-05],
        [1.396874313865602e-04, 2.746532027379194e-03, 1.395904344148905e-04],
        [6.933859631093682e-05, 1.395904344148905e-04, 2.666084166683142e-03],
    ]
    np.testing.assert_allclose(found.auroc, [0.8013599537037037, 0.5839120370370370, 0.6063368055555556], atol=1e-14)
    np.testing.assert_allclose(found.covariance, expected, atol=1e-15)
    interval = delong_interval(found.auroc[1], found.covariance[1, 1])
    assert interval == pytest.approx((0.4811954868472320, 0.6866285872268419), abs=1e-13)


@pytest.mark.parametrize(
    ("one", "other", "z", "p"),
    [
        (A, B, 3.4214985616150177, 0.0006227705439880761),
        (A, C, 3.046014989842571, 0.002318962737704041),
        (B, C, -0.3129852861580933, 0.7542918409051294),
    ],
)
def test_the_paired_test_is_that_of_proc(one, other, z, p):
    found = paired_test(Y, one, other)
    assert (found.statistic, found.p) == pytest.approx((z, p), abs=1e-12)


def test_the_unpaired_test_is_that_of_proc():
    found = unpaired_test(delong(Y[:70], A[:70]), delong(Y[70:], B[70:]), (70, 50))
    assert (found.statistic, found.p) == pytest.approx((2.40910768644377926, 0.01798836814318994), abs=1e-12)


def test_the_wfns_grades_of_the_proc_paper_give_its_numbers():
    """113 patients of aSAH by grade 1 to 5 (counts only): the AUC and variance in pROC's own test files."""
    good, poor = [37, 20, 3, 8, 4], [2, 12, 1, 8, 18]
    score = np.r_[np.repeat(np.arange(1, 6), good), np.repeat(np.arange(1, 6), poor)]
    found = delong(np.r_[np.zeros(72), np.ones(41)], score)
    assert found.auroc[0] == pytest.approx(0.823678861788618, abs=1e-13)
    assert found.covariance[0, 0] == pytest.approx(0.00146991470882363, abs=1e-14)


@pytest.mark.reference
def test_every_number_of_the_proc_test_files_on_its_own_data():
    """pROC's data are GPL-3 and not kept here; `write.csv(aSAH, ...)` in R and MEDVIT_ASAH_CSV point to them."""
    file = os.environ.get("MEDVIT_ASAH_CSV", "")
    if not file:
        pytest.skip("MEDVIT_ASAH_CSV is not set")
    with Path(file).open() as stream:
        rows = list(csv.DictReader(stream))
    y = np.array([row["outcome"] == "Poor" for row in rows], float)
    wfns, ndka, s100b = (np.array([float(row[name]) for row in rows]) for name in ("wfns", "ndka", "s100b"))
    found = delong(y, np.stack([wfns, ndka, s100b]))
    covariance = found.covariance
    assert found.auroc == pytest.approx([0.823678861788618, 0.611957994579946, 0.7313685636856369], abs=1e-12)
    assert np.diag(covariance) == pytest.approx(
        [0.00146991470882363, 0.0031908105493913, 0.00266868245717244], abs=1e-12
    )
    off = [covariance[0, 1], covariance[1, 2], covariance[2, 0]]
    assert off == pytest.approx([-0.000532967856762438, -0.000756164938056579, 0.00119615567376754], abs=1e-12)
    for one, other, z, p in (
        (wfns, s100b, 2.20898359144091, 0.0271757822291882),
        (wfns, ndka, 2.79777591868904, 0.00514557970691098),
        (ndka, s100b, -1.39077002573558, 0.164295175223054),
    ):
        assert paired_test(y, one, other)[2:] == pytest.approx((z, p), abs=1e-12)
    apart = unpaired_test(delong(y, wfns), delong(y, s100b), (113, 113))
    assert apart[2:] == pytest.approx((1.43490640926908, 0.152825378808796), abs=1e-12)
    assert delong_interval(found.auroc[1], covariance[1, 1]) == pytest.approx(
        (0.501244999271703, 0.722670989888189), abs=1e-12
    )


def test_the_variance_is_that_of_the_double_loop():
    y, p = Y[:40], C[:40]
    positive, negative = p[y == 1], p[y == 0]
    won = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    expected = won.mean(1).var(ddof=1) / positive.size + won.mean(0).var(ddof=1) / negative.size
    assert delong(y, p).covariance[0, 0] == pytest.approx(expected, abs=1e-15)


def test_one_image_per_patient_is_plain_delong_and_copies_of_a_patient_add_nothing():
    names = [f"p{k}" for k in INDEX]
    np.testing.assert_allclose(delong(Y, A, names).covariance, delong(Y, A).covariance, rtol=1e-12)
    tripled = delong(np.repeat(Y, 3), np.repeat(A, 3), np.repeat(names, 3))
    np.testing.assert_allclose(tripled.covariance, delong(Y, A).covariance, rtol=1e-12)
    assert delong(np.repeat(Y, 3), np.repeat(A, 3)).covariance[0, 0] < 0.4 * tripled.covariance[0, 0]


def test_the_clustered_variance_agrees_with_the_patient_bootstrap():
    random = np.random.default_rng(0)
    patient = np.repeat(np.arange(150), 3)
    y = ((patient + np.tile([0, 0, 1], 150)) % 2).astype(float)  # both outcomes within most patients
    p = y + np.repeat(random.normal(size=150), 3) + 0.5 * random.normal(size=450)
    sample = patient_draws(patient, 3000, 1).apply(Ranking(y, p).auroc)[:, 0]
    assert math.sqrt(delong(y, p, patient).covariance[0, 0]) == pytest.approx(sample.std(), rel=0.06)


def test_equal_models_differ_by_nothing_with_p_one():
    assert paired_test(Y, A, A) == (0.0, 0.0, 0.0, 1.0)
    assert paired_test(Y, A, 2 * A + 1)[3] == 1.0


def test_one_outcome_alone_has_no_variance():
    assert math.isnan(delong(np.ones(5), np.arange(5)).auroc[0])
    assert math.isnan(delong([0, 0, 1], [1, 2, 3]).covariance[0, 0])  # one positive: its spread is unknown


def test_scores_that_are_not_numbers_are_refused():
    with pytest.raises(EvaluationError, match="1 of 3 scores"):
        delong([0, 1, 1], [0.0, math.nan, 1.0])
    with pytest.raises(EvaluationError, match="2 patients for 3 images"):
        delong([0, 1, 1], [0.0, 0.5, 1.0], ["a", "b"])


def test_two_sided_p_of_the_normal_quantile():
    assert two_sided(1.959963984540054) == pytest.approx(0.05, abs=1e-15)


def test_a_variance_of_nothing_but_rounding_has_an_interval():
    assert delong_interval(0.9, -1e-19) == (0.9, 0.9)
