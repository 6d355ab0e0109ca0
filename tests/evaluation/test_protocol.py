from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from medvit.errors import EvaluationError
from medvit.evaluation.protocol import evaluate_predictions, freeze_thresholds, open_predictions
from medvit.metric.operating_point import RuleSpec
from medvit.prediction.spec import Detail
from medvit.prediction.thresholds import read


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, make_table, make_spec):
    out = tmp_path_factory.mktemp("report")
    return evaluate_predictions(make_table("val"), make_table("test"), make_spec(detail=Detail()), out), out


def test_the_test_set_is_not_opened_before_the_thresholds_are_written(tmp_path, make_table, make_spec):
    seen = []

    def opened():
        seen.append((tmp_path / "thresholds.json").is_file())
        return make_table("test")

    evaluate_predictions(make_table("val"), opened, make_spec(), tmp_path)
    assert seen == [True]


def test_swapped_thresholds_are_refused_and_the_test_set_stays_closed(tmp_path, make_table, make_spec):
    frozen = freeze_thresholds(make_table("val"), make_spec(), tmp_path)
    other = freeze_thresholds(make_table("val"), make_spec(points=(RuleSpec("sensitivity", 0.9),)), tmp_path / "b")
    file = tmp_path / "thresholds.json"

    def closed():
        raise AssertionError("the test set was opened")

    arguments = {"spec": make_spec(), "out": tmp_path / "out", "frozen": file, "recorded": frozen.hash}
    file.write_text((tmp_path / "b" / "thresholds.json").read_text())
    with pytest.raises(EvaluationError, match="not those recorded with the model"):
        evaluate_predictions(make_table("val"), closed, **arguments)
    with pytest.raises(EvaluationError, match=r"frozen with other settings \(points\)"):
        evaluate_predictions(make_table("val"), closed, **{**arguments, "recorded": other.hash})
    content = json.loads(file.read_text())
    content["points"]["pneumonia"][0]["threshold"] += 0.01
    file.write_text(json.dumps(content))
    with pytest.raises(EvaluationError, match="changed after it was written"):
        evaluate_predictions(make_table("val"), closed, **arguments)
    file.write_text("{}")
    with pytest.raises(EvaluationError, match="damaged"):
        evaluate_predictions(make_table("val"), closed, **arguments)
    file.unlink()
    with pytest.raises(EvaluationError, match="is missing"):
        evaluate_predictions(make_table("val"), closed, **arguments)
    assert not (tmp_path / "out").exists()


def test_thresholds_of_another_validation_set_are_refused(tmp_path, make_table, make_spec):
    freeze_thresholds(make_table("val", seed=1), make_spec(), tmp_path)
    with pytest.raises(EvaluationError, match="another validation set"):
        evaluate_predictions(
            make_table("val"), make_table("test"), make_spec(), tmp_path / "out", frozen=tmp_path / "thresholds.json"
        )


def test_a_recorded_hash_must_be_met_by_what_validation_decides_now(tmp_path, make_table, make_spec):
    recorded = freeze_thresholds(make_table("val"), make_spec(), tmp_path).hash
    evaluate_predictions(make_table("val"), make_table("test"), make_spec(), tmp_path, recorded=recorded)
    changed = make_table("val")
    changed["logit.pneumonia"] *= 1.01
    changed["prob.pneumonia"] = 1 / (1 + np.exp(-changed["logit.pneumonia"]))
    with pytest.raises(EvaluationError, match="test set stays closed"):
        evaluate_predictions(changed, make_table("test"), make_spec(), tmp_path, recorded=recorded)


def test_the_predictions_file_reproduces_every_number_bit_for_bit(evaluated, tmp_path, make_spec):
    report, out = evaluated
    validation, test = open_predictions(out / "predictions.parquet")
    again = evaluate_predictions(validation, test, make_spec(detail=Detail()), tmp_path, frozen=out / "thresholds.json")
    assert again.content == report.content
    assert {file.stem for file in (out / "figures").iterdir()} == {each["name"] for each in report.content["figures"]}
    assert len(report.content["figures"]) == 6
    for name in ("report.json", "report.html", "thresholds.json"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()
    for file in [*(out / "tables").iterdir(), *(out / "figures").iterdir()]:
        assert (tmp_path / file.parent.name / file.name).read_bytes() == file.read_bytes()


def test_the_order_of_the_rows_changes_no_bit(evaluated, tmp_path, make_table, make_spec):
    mixed = [make_table(split).sample(frac=1, random_state=3) for split in ("val", "test")]
    tables = evaluate_predictions(*mixed, make_spec(), tmp_path).content["tables"]
    assert tables == evaluated[0].content["tables"]


def test_the_predictions_file_holds_calibrated_probabilities(evaluated):
    report, out = evaluated
    table = pd.read_parquet(out / "predictions.parquet")
    slope = read(out / "thresholds.json").calibration["pneumonia"].slope
    np.testing.assert_allclose(
        table["calibrated.pneumonia"], 1 / (1 + np.exp(-slope * table["logit.pneumonia"])), atol=1e-15
    )
    assert set(table["split"]) == {"val", "test"}
    assert report.content["thresholds"] == read(out / "thresholds.json").hash


def test_a_leaking_test_set_leaves_no_report(tmp_path, make_table, make_spec):
    leaking = make_table("test")
    leaking.loc[0, "patient"] = make_table("val").loc[0, "patient"]
    with pytest.raises(EvaluationError, match="shares 1 patients with validation"):
        evaluate_predictions(make_table("val"), leaking, make_spec(), tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["thresholds.json"]


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_without_positives_has_nothing_to_measure(tmp_path, make_table, make_spec, split):
    tables = {name: make_table(name) for name in ("val", "test")}
    tables[split]["target.pneumonia"] = 0.0
    with pytest.raises(EvaluationError, match=rf"{split}: no finding has both .*pneumonia 0 of 200"):
        evaluate_predictions(tables["val"], tables["test"], make_spec(), tmp_path)


def test_a_folder_that_cannot_be_written_is_named_as_such(tmp_path, make_table, make_spec):
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match="out cannot be written"):
        freeze_thresholds(make_table("val"), make_spec(), tmp_path / "file")


def test_a_file_that_is_no_predictions_file_is_refused(tmp_path):
    with pytest.raises(EvaluationError, match="does not exist"):
        open_predictions(tmp_path / "nothing.parquet")
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(EvaluationError, match="cannot be read"):
        open_predictions(tmp_path / "text.parquet")


def test_a_column_that_only_one_side_has_is_reported_alike_from_the_file(tmp_path, make_table, make_spec):
    val, test = make_table("val").assign(**{"table.site": "north"}), make_table("test").drop(columns="sex")
    first = evaluate_predictions(val, test, make_spec(), tmp_path / "a")
    file = tmp_path / "a" / "predictions.parquet"
    again = evaluate_predictions(
        *open_predictions(file), make_spec(), tmp_path / "b", frozen=tmp_path / "a" / "thresholds.json"
    )
    assert again.content == first.content
    shift = {(row["what"], row["value"]): row["test"] for row in first.tables["shift"].rows}
    assert shift["table.site", "unknown"] == shift["sex", "unknown"] == 1.0
    assert not {row["column"] for row in first.tables["subgroups"].rows} & {"sex", "table.site"}
