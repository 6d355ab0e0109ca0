"""A bundle as a model in MLflow's registry: logged, registered, loaded by alias, nothing pickled, nothing private."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from medvit.bundle.runtime import Runtime
from medvit.errors import RunError
from medvit.tracking import evaluation_seal, model, store
from medvit.tracking import run as tracking


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("registry") / "runs"
    store.open_client(folder)
    return folder


@pytest.fixture
def run(runs, bundle):
    """A finished run that looks as training leaves it."""
    with tracking.start(runs, "films", "candidate") as started:
        (started.folder / "checkpoints").mkdir()
        shutil.copy(bundle / "models" / "model.safetensors", started.folder / "checkpoints" / "best.safetensors")
        (started.folder / "hashes.json").write_text(json.dumps({"manifest": "ab" * 32, "split": "cd" * 32}))
    return started


@pytest.fixture
def report(tmp_path):
    (tmp_path / "report" / "tables").mkdir(parents=True)
    (tmp_path / "report" / "report.json").write_text('{"headline": []}')
    (tmp_path / "report" / "report.html").write_text("<h1>report</h1>")
    (tmp_path / "report" / "tables" / "overall.csv").write_text("metric,value\n")
    (tmp_path / "report" / "thresholds.json").write_text(json.dumps({"hash": "ef" * 32}))
    return tmp_path / "report"


def test_a_registered_model_predicts_from_dicom_bytes(bundle, films, runs, run) -> None:
    import mlflow

    logged = model.log(run, bundle, "test opacity", ("opacity",), films[0].read_bytes())
    version = model.register(run, logged.model_id, "opacity", "candidate", {"medvit.bundle": "x"})
    assert version == "1"
    assert model.of_run(run) == logged.model_id
    mlflow.set_tracking_uri(store.store_uri(runs))
    try:
        loaded = mlflow.pyfunc.load_model("models:/opacity@candidate")
        found = loaded.predict(pd.DataFrame({"dicom": [film.read_bytes() for film in films[:3]] + [b"no dicom"]}))
    finally:
        mlflow.set_tracking_uri(None)
    expected = [result.probability["opacity"] for result in Runtime(bundle).predict(films[:3])]
    assert found["probability.opacity"].tolist()[:3] == expected
    assert found["status"].tolist() == ["OK", "OK", "OK", "REJECTED"]
    assert found["code"].iloc[3] == "E-NOTDICOM"
    assert loaded.metadata.signature.inputs.input_names() == ["dicom"]
    _answers_in_json(loaded, films[0].read_bytes(), expected[0])


def _answers_in_json(loaded, film, expected):
    """One refused film gave NaN, which is no JSON, and films in `inputs` and `instances` were refused as text."""
    from mlflow.pyfunc.scoring_server import invocations

    good, bad = (base64.b64encode(content).decode() for content in (film, b"no dicom"))
    for asked in (
        {"inputs": {"dicom": [good, bad]}},
        {"instances": [{"dicom": good}, {"dicom": bad}]},
        {"dataframe_split": {"columns": ["dicom"], "data": [[good], [bad]]}},
    ):
        answer = invocations(json.dumps(asked), "application/json", loaded, loaded.metadata.get_input_schema())
        first, second = json.loads(answer.response, parse_constant=pytest.fail)["predictions"]
        assert (first["status"], first["probability.opacity"]) == ("OK", expected), asked
        assert (second["status"], second["code"], second["probability.opacity"]) == ("REJECTED", "E-NOTDICOM", None)


def test_the_stored_model_holds_no_pickle_and_no_place(bundle, films, runs, run) -> None:
    model.log(run, bundle, "test opacity", ("opacity",), films[0].read_bytes())
    stored = [path for path in (runs / "artifacts" / "models").rglob("*") if path.is_file()]
    assert [path.name for path in stored].count("model.onnx") >= 1
    for file in stored:
        assert file.suffix not in {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib"}, file.name
        assert str(bundle.parent).encode() not in file.read_bytes(), file.name


def test_a_model_brings_its_code_along_and_asks_for_nothing_that_no_index_has(bundle, films, run, tmp_path) -> None:
    """It asked for medvit==0.1.0, which is on no index; the module is read in a fresh process, from elsewhere."""
    logged = model.log(run, bundle, "test opacity", ("opacity",), films[0].read_bytes())
    place = Path(run.client.get_logged_model(logged.model_id).artifact_location.removeprefix("file://"))
    wanted = {line.partition("==")[0] for line in (place / "requirements.txt").read_text().split()}
    assert "medvit" not in wanted
    code = f"""
import sys, mlflow.pyfunc, pandas
loaded = mlflow.pyfunc.load_model({str(place)!r})
import medvit
print(medvit.__file__)
print(loaded.predict(pandas.DataFrame({{"dicom": [open({str(films[0])!r}, "rb").read()]}}))["probability.opacity"][0])
print(*sorted({{name.partition(".")[0] for name in sys.modules}} & {{"torch", "monai", "pytorch_lightning", "hydra"}}))
"""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env, check=True
    )
    file, probability, *heavy = done.stdout.split("\n")
    assert Path(file).is_relative_to(place / "code")
    assert float(probability) == Runtime(bundle).predict(films[:1])[0].probability["opacity"]
    assert "".join(heavy) == ""


def test_a_run_without_a_model_says_so(run) -> None:
    with pytest.raises(RunError, match="logged no model"):
        model.of_run(run)


def test_only_what_was_evaluated_may_leave(run, report) -> None:
    with pytest.raises(RunError, match=f"medvit.evaluate run={run.id} split=test"):
        evaluation_seal.check(run)
    evaluation_seal.record(run, "test", report)
    assert {"report/test/report.html", "report/test/tables/overall.csv", "evaluation/test.json"} <= set(run.artifacts())
    assert evaluation_seal.check(run)["hash"] == "ef" * 32
    weights = run.folder / "checkpoints" / "best.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(RunError, match="not what was evaluated: weights changed"):
        evaluation_seal.check(run)
    weights.write_bytes(good)
    (run.folder / "hashes.json").write_text(json.dumps({"manifest": "00" * 32, "split": "cd" * 32}))
    with pytest.raises(RunError, match="manifest changed"):
        evaluation_seal.check(run)


def test_a_name_mlflow_does_not_take_is_a_run_error(bundle, run) -> None:
    logged = model.log(run, bundle, "test opacity", ("opacity",))
    with pytest.raises(RunError, match="nothing is registered; name='a/b:c'"):
        model.register(run, logged.model_id, "a/b:c", "candidate")


@pytest.mark.parametrize("alias", ["latest", "Latest", "v1", "V12", "", "a b"])
def test_an_alias_that_mlflow_keeps_or_refuses_leaves_no_version_behind(bundle, runs, run, alias) -> None:
    from medvit.register import register

    logged = model.log(run, bundle, "test opacity", ("opacity",))
    with pytest.raises(RunError, match=f"nothing is registered; alias='{alias}'"):
        model.register(run, logged.model_id, "pneu monia", alias)
    with pytest.raises(RunError, match="nothing is registered"):
        register(run.id, "pneu monia", alias, runs)
    assert run.client.search_model_versions("name = 'pneu monia'") == []
    assert not run.client.search_registered_models("name = 'pneu monia'")
