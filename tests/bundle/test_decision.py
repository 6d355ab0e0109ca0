from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medvit.bundle.decision import Decider, activation, from_frozen
from medvit.errors import BundleError

LOGITS = hnp.arrays(np.float64, (4, 3), elements=st.floats(-30, 30))
NAMES = ("a", "b", "c")
TASKS = [
    {"kind": "multilabel", "names": ["a", "b", "c"], "settings": {"labels": ["a", "b", "c"]}},
    {
        "kind": "multiclass",
        "names": ["a", "b", "c"],
        "settings": {"label": "x", "classes": ["a", "b", "c"]},
        "fitted": {},
    },
    {"kind": "ordinal", "names": ["a", "b", "c"], "settings": {"label": "x", "levels": [0, 1, 2, 3], "loss": "corn"}},
    {
        "kind": "ordinal",
        "names": ["a", "b", "c"],
        "settings": {"label": "x", "levels": [0, 1, 2, 3], "loss": "cumulative"},
    },
    {
        "kind": "regression",
        "names": ["x"],
        "settings": {"label": "x", "unit": "months"},
        "fitted": {"mean": 9.0, "std": 2.0},
    },
]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task["kind"] + task["settings"].get("loss", ""))
def test_the_runtime_reads_logits_as_the_task_does(task) -> None:
    from medvit.task import from_json

    logits = np.random.default_rng(0).normal(0, 5, (50, len(task["names"])))
    decider = Decider(tuple(task["names"]), activation({"fitted": {}, **task}), {}, {})
    theirs = from_json({"fitted": {}, **task}).probabilities_numpy(logits)
    np.testing.assert_allclose(decider.probabilities(logits), theirs, rtol=0, atol=1e-12)


def test_an_unknown_kind_of_task_is_refused() -> None:
    with pytest.raises(BundleError, match="survival"):
        activation({"kind": "survival"})


def test_platt_scaling_by_hand() -> None:
    decider = Decider(("a",), {"name": "sigmoid"}, {"a": {"slope": 0.5, "intercept": -1.0}}, {})
    assert decider.calibrated(np.array([[3.0]]))[0, 0] == pytest.approx(1 / (1 + math.exp(-0.5)), abs=1e-15)


def test_a_temperature_of_two_on_three_classes_by_hand() -> None:
    same = {name: {"slope": 0.5, "intercept": 0.0} for name in NAMES}
    decider = Decider(NAMES, {"name": "softmax"}, same, {})
    found = decider.calibrated(np.log(np.array([[1.0, 4.0, 25.0]])))  # half the logits: 1, 2, 5 out of 8
    np.testing.assert_allclose(found, [[1 / 8, 2 / 8, 5 / 8]], rtol=1e-14)


@given(LOGITS)
def test_calibrated_classes_still_sum_to_one(logits) -> None:
    same = {name: {"slope": 1.7, "intercept": 0.0} for name in NAMES}
    np.testing.assert_allclose(
        Decider(NAMES, {"name": "softmax"}, same, {}).calibrated(logits).sum(axis=1), 1, rtol=1e-12
    )


@given(LOGITS)
def test_a_slope_of_one_and_no_intercept_change_nothing(logits) -> None:
    same = {name: {"slope": 1.0, "intercept": 0.0} for name in NAMES}
    for kind in ("sigmoid", "softmax", "corn", "cumulative"):
        decider = Decider(NAMES, {"name": kind}, same, {})
        np.testing.assert_allclose(decider.calibrated(logits), decider.probabilities(logits), atol=1e-12)


def test_at_the_threshold_a_finding_is_present() -> None:
    decider = Decider(("a",), {"name": "sigmoid"}, {}, {"a": {"threshold": 0.5}})
    p = np.array([[0.5], [np.nextafter(0.5, 0)]])
    assert decider.decisions(p, p) == [{"a": "present"}, {"a": "absent"}]


def test_the_first_operating_point_of_evaluation_decides() -> None:
    content = {
        "points": {"a": [{"threshold": 0.3, "rule": "sensitivity"}, {"threshold": 0.6, "rule": "youden"}], "b": []},
        "calibration": {"a": {"slope": 1.2, "intercept": 0.1}, "b": {"slope": 1.0, "intercept": 0.0}},
        "validation": {"units": 40},
    }
    thresholds, calibration = from_frozen(content)
    assert thresholds["a"]["threshold"] == 0.3
    assert thresholds["a"]["others"][0]["rule"] == "youden"
    assert "b" not in thresholds
    assert Decider(("a", "b"), {"name": "sigmoid"}, calibration, thresholds).problems() == ["thresholds: none for 'b'"]
