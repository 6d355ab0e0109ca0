from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from medvit.compare import _evaluation, compare
from medvit.errors import EvaluationError, RunError
from medvit.evaluate import evaluate_again, problems, spec_from
from medvit.evaluation.protocol import evaluate_predictions
from medvit.metric.calibration import sigmoid

CONF = Path(__file__).resolve().parents[1] / "conf"


def predictions(split, seed, noise=0.0):
    random = np.random.default_rng(seed)
    y = np.tile([0.0, 1.0], 60)
    z = 3 * (y - 0.5) + random.normal(size=120) + noise * random.normal(size=120)
    return pd.DataFrame(
        {
            "uid": [f"{split}{k}" for k in range(120)], "patient": [f"{split}{k // 2}" for k in range(120)],
            "split": split, "sex": ["F", "F", "M", "M"] * 30,
            "logit.mass": z, "prob.mass": sigmoid(z), "target.mass": y,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def settings():
    files = (CONF / "evaluation" / "default.yaml", CONF / "evaluate.yaml")
    given = {key: value for file in files for key, value in yaml.safe_load(file.read_text()).items()}
    return {**given, "bootstrap": {**given["bootstrap"], "draws": 150}, "detail": {**given["detail"], "figures": False}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, settings):
    root = tmp_path_factory.mktemp("runs")
    for name, noise in (("good", 0.0), ("poor", 3.0)):
        tables = predictions("val", 1, noise), predictions("test", 2, noise)
        evaluate_predictions(*tables, spec_from(settings, "binary", ("mass",)), root / name / "evaluation_test")
    return root


def test_predictions_alone_give_the_report_again(folders, settings, tmp_path):
    first = folders / "good" / "evaluation_test"
    evaluate_again(first / "predictions.parquet", settings, tmp_path)
    assert (tmp_path / "report.json").read_bytes() == (first / "report.json").read_bytes()


def copied(evaluation, folder):
    """Copy the files of an evaluation, and return its predictions."""
    for file in evaluation.iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    return pd.read_parquet(evaluation / "predictions.parquet")


def test_predictions_of_another_test_set_than_the_report_are_refused(folders, settings, tmp_path):
    first = folders / "good" / "evaluation_test"
    table = copied(first, tmp_path)
    table[(table["split"] == "val") | (table.index % 2 == 0)].to_parquet(tmp_path / "predictions.parquet")
    with pytest.raises(EvaluationError, match=r"another test set than report\.json"):
        evaluate_again(tmp_path / "predictions.parquet", settings)
    assert not (tmp_path / "again" / "report.json").exists()


def test_labels_outside_the_policy_are_named_as_such_and_not_as_another_test_set(folders, settings, tmp_path):
    first = folders / "good" / "evaluation_test"
    table = copied(first, tmp_path)
    table.loc[table["split"] == "test", "target.mass"] = -1.0
    table.to_parquet(tmp_path / "predictions.parquet")
    with pytest.raises(EvaluationError, match=r"120 of 120 labels are outside the policy"):
        evaluate_again(tmp_path / "predictions.parquet", settings)


def test_settings_of_the_report_hold_where_none_are_given(folders, settings, tmp_path):
    first = folders / "good" / "evaluation_test"
    other = {**settings, "bootstrap": {**settings["bootstrap"], "draws": 300}, "subgroups": ["sex"]}
    again = evaluate_again(first / "predictions.parquet", other, tmp_path, given={"predictions", "subgroups"})
    assert again.content["spec"]["bootstrap"]["draws"] == 150
    assert again.content["spec"]["subgroups"] == ["sex"]


def test_another_rule_needs_new_thresholds(folders, settings, tmp_path):
    other = {**settings, "operating_point": {**settings["operating_point"], "rule": "sensitivity", "value": 0.9}}
    with pytest.raises(EvaluationError, match=r'other settings \(points\): points .*"youden".*, now .*"sensitivity"'):
        evaluate_again(folders / "good" / "evaluation_test" / "predictions.parquet", other, tmp_path)


def test_one_of_run_and_predictions_must_be_given(settings, tmp_path):
    assert problems(settings) == ["give one of run=RUN_ID, runs=[ID,ID] or predictions=FILE; found none"]
    both = {**settings, "run": "a", "predictions": str(tmp_path / "none.parquet")}
    assert len(problems(both)) == 2


def test_two_evaluated_runs_are_compared(folders, tmp_path):
    report = compare((folders / "good" / "evaluation_test", folders / "poor" / "evaluation_test"), tmp_path)
    row = report.tables["comparison"].rows[0]
    assert row["difference"].low > 0
    assert (tmp_path / "report.html").is_file()
    assert report.headline[0] == "one minus other on the same 120 units of analysis."


def test_a_run_that_was_not_evaluated_is_named(folders, tmp_path):
    with pytest.raises(RunError, match=r"other has no predictions\.parquet, thresholds\.json, report\.json"):
        compare((folders / "good" / "evaluation_test", tmp_path), tmp_path)


def test_a_report_that_cannot_be_written_says_so_without_a_path(folders, tmp_path):
    (tmp_path / "Doe").write_text("a file where the folder should be")
    pair = tuple(folders / name / "evaluation_test" for name in ("good", "poor"))
    with pytest.raises(EvaluationError, match=r"cannot be written \(.+\); give another out=DIR$") as told:
        compare(pair, tmp_path / "Doe")
    assert "Doe" not in str(told.value)


def test_compare_takes_latest_a_run_id_or_a_folder(folders, tmp_path):
    from medvit.tracking import run as tracking

    with tracking.start(tmp_path, "e", "n") as run:
        pass
    assert _evaluation("latest", {"folder": tmp_path}, "test") == (tmp_path / run.id / "evaluation_test", run.id[:8])
    assert _evaluation("good", {"folder": folders}, "test")[0] == folders / "good" / "evaluation_test"
    with pytest.raises(RunError, match=rf"no run 'typo' among the 1 runs.*{run.id}"):
        _evaluation("typo", {"folder": tmp_path}, "test")


@pytest.mark.slow
def test_both_commands_run_from_the_command_line(folders, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    file = folders / "good" / "evaluation_test" / "predictions.parquet"
    small = ["bootstrap.draws=150", "detail.figures=false"]
    again = [sys.executable, "-m", "medvit.evaluate", f"predictions={file}", f"out={tmp_path / 'a'}", *small]
    done = subprocess.run(again, capture_output=True, text=True, env=environment, cwd=CONF.parent, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a" / "report.html").is_file()
    paired = ["one=good", "other=poor", f"tracking.folder={folders}", f"out={tmp_path / 'b'}"]
    command = [sys.executable, "-m", "medvit.compare", *paired]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=CONF.parent, check=False)
    assert done.returncode == 0, done.stderr
    assert "AUROC, mass:" in done.stdout
    wrong = [sys.executable, "-m", "medvit.evaluate", f"predictions={file}", "bootstrap.draw=150"]
    done = subprocess.run(wrong, capture_output=True, text=True, env=environment, cwd=CONF.parent, check=False)
    assert done.returncode == 2
    assert "did you mean 'bootstrap.draws'" in done.stderr
