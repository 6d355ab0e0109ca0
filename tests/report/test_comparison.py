from __future__ import annotations

import numpy as np
import pytest

from medvit.errors import EvaluationError
from medvit.evaluation.seed_spread import seeds
from medvit.metric.calibration import sigmoid
from medvit.metric.delong import paired_test
from medvit.metric.operating_point import RuleSpec
from medvit.prediction.predictions import prepare
from medvit.prediction.spec import Resampling
from medvit.prediction.thresholds import freeze
from medvit.report.comparison import Side, compare

NAMES = ("pneumonia", "effusion", "rare")


@pytest.fixture(scope="module")
def side(make_table, make_spec):
    def made(name="a", noise=0.0, split="test", seed=0, names=NAMES, **more):
        tables = [make_table(part, names=names, seed=seed) for part in ("val", split)]
        for table in tables:
            for finding in names[:1]:
                table[f"logit.{finding}"] += noise * np.random.default_rng(3).normal(size=len(table))
                table[f"prob.{finding}"] = sigmoid(table[f"logit.{finding}"])
        tables[1]["target.rare"] = 0.0
        spec = make_spec(names, **more)
        samples = prepare(tables[0], spec, "val"), prepare(tables[1], spec, split)
        return Side(samples[1], freeze(samples[0]), name)

    return made


def test_a_run_compared_with_itself_differs_by_nothing_with_p_one(side):
    report = compare(side(), side("b"))
    for name in ("comparison", "comparison_points", "comparison_groups"):
        rows = [row for row in report.content["tables"][name]["rows"] if row.get("p") is not None]
        assert rows
        for row in rows:
            assert (row["difference"]["value"], row["difference"]["low"], row["difference"]["high"]) == (0.0, 0.0, 0.0)
            assert (row["p"], row["holm"]) == (1.0, 1.0)
            assert row.get("delong") in (None, 1.0)


def test_a_rule_that_only_one_run_has_is_named_and_the_others_are_still_paired(side):
    more = side("more", points=(RuleSpec("sensitivity", 0.9), RuleSpec()))
    rows = [row for row in compare(side("plain"), more).tables["comparison_points"].rows if row["finding"] == NAMES[0]]
    assert [row.get("metric") for row in rows] == ["sensitivity", "specificity", None]
    assert rows[2]["difference"].note == "n/a (only more has this rule)"


def test_a_noisier_model_is_found_worse_on_its_finding_only(side):
    clear, noisy = side(), side("noisy", noise=4.0)
    rows = {(row["finding"], row["metric"]): row for row in compare(clear, noisy).tables["comparison"].rows}
    worse, same = rows["pneumonia", "AUROC"], rows["effusion", "AUROC"]
    assert worse["difference"].low > 0
    assert worse["holm"] == pytest.approx(2 * worse["p"])  # two findings with a test; the third is n/a
    assert same["p"] == 1.0
    a, b = (each.sample.finding("pneumonia", each.frozen.calibration) for each in (clear, noisy))
    assert worse["delong"] == paired_test(a.target, a.margin, b.margin, clear.sample.patient).p
    assert rows["pneumonia", "Brier"]["difference"].high < 0


def test_the_pairing_makes_the_interval_of_the_difference_narrow(side):
    row = compare(side(), side("b", noise=0.3)).tables["comparison"].rows[0]
    assert row["difference"].high - row["difference"].low < 0.5 * (row["one"].high - row["one"].low)


def test_a_finding_without_positives_is_not_compared(side):
    rows = compare(side(), side("b")).tables["comparison"].rows
    rare = [row for row in rows if row["finding"] == "rare"]
    assert [row["difference"].note for row in rare] == ["n/a (0 positives)"]


def test_models_of_different_test_sets_questions_or_settings_are_refused(side):
    with pytest.raises(EvaluationError, match="the test sets differ: 200 and 200 units, 200 in common"):
        compare(side(), side("b", seed=1))
    with pytest.raises(EvaluationError, match="0 in common"):
        compare(side(), side("b", split="other"))
    with pytest.raises(EvaluationError, match="different questions: pneumonia, effusion, rare and pneumonia, rare"):
        compare(side(), side("b", names=("pneumonia", "rare")))
    with pytest.raises(EvaluationError, match="different bootstrap"):
        compare(side(), side("b", bootstrap=Resampling(draws=300)))


def test_each_model_is_taken_at_its_own_threshold_of_the_same_rule(side):
    points = (RuleSpec("youden"), RuleSpec("sensitivity", 0.9))
    rows = compare(side(points=points), side("b", noise=1.0, points=points)).tables["comparison_points"].rows
    assert {row["rule"] for row in rows} == {"Youden", "sensitivity ≥ 0.9"}
    assert {row["metric"] for row in rows} == {"sensitivity", "specificity"}


def test_the_spread_over_seeds_is_told_apart_from_the_interval_over_patients(side):
    section = seeds([side(), side("b", noise=1.0), side("c", noise=2.0)])
    row = section.tables[0].rows[0]
    values = [compare(side(), side("b", noise=n)).tables["comparison"].rows[0]["other"].value for n in (0.0, 1.0, 2.0)]
    assert row["mean"].value == pytest.approx(np.mean(values))
    assert row["spread"] == pytest.approx(np.std(values, ddof=1))
    assert row["mean"].low < row["mean"].value < row["mean"].high
    assert section.tables[0].rows[1]["spread"] == 0.0
    with pytest.raises(EvaluationError, match="at least 2"):
        seeds([side()])
