from __future__ import annotations

import numpy as np

from medvit.metric.bootstrap import interval, patient_draws
from medvit.metric.ranking import auroc
from medvit.metric.subgroup import group_auroc, group_gap, group_sensitivity


def planted(n=600, seed=0):
    """Two vendors; AUROC is 0.90 (d' = 1.81) in one and 0.80 (d' = 1.19) in the other."""
    random = np.random.default_rng(seed)
    vendor, y = np.repeat([0, 1], n), np.tile([0, 1], n)
    return vendor, y, random.normal(size=2 * n) + y * np.where(vendor == 0, 1.812, 1.190)


def test_a_planted_gap_of_a_tenth_is_found_with_an_interval_without_zero():
    vendor, y, p = planted()
    draws = patient_draws(np.arange(y.size), 1000, 1)
    values = {name: group_auroc(y, p, draws, np.flatnonzero(vendor == k)) for k, name in enumerate(("A", "B"))}
    gap = group_gap("auroc", values)
    assert (gap.worst_group, gap.best_group) == ("B", "A")
    assert 0 < gap.gap.low < 0.1 < gap.gap.high
    assert gap.worst.value == auroc(y[vendor == 1], p[vendor == 1])


def test_no_gap_is_planted_and_none_is_found():
    random = np.random.default_rng(4)
    y = np.tile([0, 1], 500)
    p, group = random.normal(size=1000) + y, random.integers(0, 2, 1000)
    draws = patient_draws(np.arange(1000), 800, 1)
    (a, da), (b, db) = (group_auroc(y, p, draws, np.flatnonzero(group == k)) for k in (0, 1))
    found = interval(a - b, da - db)
    assert found.low < 0 < found.high


def test_sensitivity_at_a_fixed_threshold_by_group():
    y, p = np.array([1, 1, 1, 1, 0]), np.array([0.9, 0.2, 0.8, 0.7, 0.1])
    draws = patient_draws(list("abcde"), 50, 0)
    value, sample = group_sensitivity(y, p, 0.5, draws, np.array([0, 1, 4]))
    assert value == 0.5
    assert sample.shape == (50,)


def test_one_group_alone_has_no_gap():
    assert group_gap("auroc", {"A": (0.9, np.ones(5)), "B": (float("nan"), np.ones(5))}) is None


def test_the_gap_has_the_level_that_was_asked():
    vendor, y, p = planted()
    draws = patient_draws(np.arange(y.size), 500, 1)
    values = {name: group_auroc(y, p, draws, np.flatnonzero(vendor == k)) for k, name in enumerate(("A", "B"))}
    wide, narrow = (group_gap("auroc", values, level).gap for level in (0.95, 0.5))
    assert narrow.high - narrow.low < 0.5 * (wide.high - wide.low)
