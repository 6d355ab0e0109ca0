"""The numbers of a report that go to MLflow have names that MLflow and the declared list take."""

from __future__ import annotations

from types import SimpleNamespace

from medvit.evaluation.run import logged_metrics
from medvit.metric.bootstrap import Interval
from medvit.tracking.allow_list import _METRIC


def test_the_metrics_of_several_findings_and_their_mean_may_be_written_into_a_run():
    area = Interval(0.9, 0.8, 0.95, 100, "")
    names = ("Pleural thickening", "grade >= 2", "macro (2 of 2 findings)")
    rows = [{"finding": name, "auroc": area, "auprc": area} for name in names]
    found = logged_metrics(SimpleNamespace(tables={"findings": SimpleNamespace(rows=rows)}), "test")
    assert {"test/auroc_Pleural_thickening", "test/auprc_grade_ge_2.9fa677_low", "test/auroc_macro_high"} <= set(found)
    assert len(found) == 18
    assert all(_METRIC.match(name) for name in found)
