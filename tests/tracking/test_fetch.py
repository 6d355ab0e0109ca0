"""Evaluate, compare, register and export on another machine, with an MLflow server and the data set alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tracking.servers import Server, at
from whole_path import QUICK, UNCHECKED, generated

import medvit
from medvit.errors import DataError, RunError
from medvit.sync import sync
from medvit.tracking import allow_list
from medvit.tracking import run as tracking
from medvit.tracking.fetch import bring

FAST = {f"sections.{name}": False for name in ("robustness", "ood", "explain")}
FAST |= {"detail.figures": False, "bootstrap.draws": 100}
SMALL = {**QUICK, "labels.target": ["finding"], "model": "vit_pico", "model.weights": "random", "optim": "full",
         "tracking.log_model": False}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"))
    yield made
    made.kill()


@pytest.fixture(scope="module")
def trained(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[tracking.Run, Path]:
    """A run that was trained on one machine and sent, and the folder of its data set there."""
    place = tmp_path_factory.mktemp("one")
    data = generated(place, "films")
    where = {"tracking.folder": str(place / "runs"), "tracking.uri": server.uri}
    return medvit.train(**SMALL, **data, **where), place / "films"


@pytest.fixture
def other(tmp_path: Path, trained: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Another machine: an empty folder with a copy of the data set, and the settings that name the server."""
    shutil.copytree(trained[1], tmp_path / "work" / "copied", ignore=shutil.ignore_patterns("cache"))
    monkeypatch.chdir(tmp_path)
    return {"tracking.folder": "runs", "tracking.uri": server.uri}


@pytest.mark.slow
@pytest.mark.usefixtures("few_retries")
@pytest.mark.xfail(reason="open fault: the list sent names an evaluation/test.json that differs from the one there")
def test_a_run_is_evaluated_compared_registered_and_exported_where_only_the_server_has_it(
    trained: tuple[tracking.Run, Path], other: dict[str, Any], server: Server, tmp_path: Path
) -> None:
    run = trained[0]
    report = medvit.evaluate(run.id[:8], **FAST, **other)
    here = tracking.get(run.id, Path("runs"), finished=True)
    assert here.client.get_run(run.id).data.params == run.client.get_run(run.id).data.params
    assert {**here.values, **run.values} == here.values  # every number of the training, and those of the test side
    assert json.loads((here.folder / "config.json").read_text())["data"]["folder"] == str(tmp_path / "work" / "copied")
    on_its_own = medvit.evaluate(run, **FAST, **{"tracking.uri": server.uri})
    assert on_its_own.content["thresholds"] == report.content["thresholds"]
    assert on_its_own.content["tables"]["findings"] == report.content["tables"]["findings"]
    there = server.run_of(run.id, "medvit")
    assert there.data.metrics["test/auroc"] == here.values["test/auroc"]
    assert medvit.register(run.id, "from afar", **UNCHECKED, **other) == "1"
    version = server.client.get_model_version_by_alias("from afar", "candidate")
    assert (version.tags["medvit.run"], version.run_id) == (run.id, there.info.run_id)
    assert not here.client.search_registered_models()
    bundle = medvit.export(run.id, tmp_path / "bundle", **UNCHECKED, **other)
    assert (bundle.folder / "models" / "model.onnx").is_file()
    third = {**other, "tracking.folder": "third"}  # one that fetches the evaluation too, by the server's own id
    compared = medvit.compare(there.info.run_id, run.id, out="compared", **third)
    assert compared.content["tables"]
    assert sync(run.id, at(Path("third"), server.uri)) == there.info.run_id


@pytest.mark.slow
@pytest.mark.usefixtures("few_retries")
@pytest.mark.xfail(reason="open fault: the list sent names an evaluation/test.json that differs from the one there")
def test_a_file_that_is_damaged_or_lost_on_the_server_is_refused_by_name_and_nothing_is_left(
    trained: tuple[tracking.Run, Path], other: dict[str, Any], server: Server
) -> None:
    run = trained[0]
    where = {"folder": "runs", "uri": server.uri}
    (weights,) = (server.folder / "artifacts").rglob("best.safetensors")
    kept = weights.read_bytes()
    for damage, said in (
        (lambda: weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1])),
         "run/checkpoints/best.safetensors of the run is damag"),
        (weights.unlink, "run/checkpoints/best.safetensors of the run is missing"),
    ):  # fmt: skip
        damage()
        with pytest.raises(RunError, match=said):
            medvit.evaluate(run.id, **FAST, **other)
        assert not Path("runs", run.id).exists()
        weights.write_bytes(kept)
    listed = weights.parents[1] / "sha256.json"
    before = listed.read_text()
    listed.write_text(before.replace("checkpoints/best", "checkpoints/../best"))
    with pytest.raises(RunError, match=r"run/sha256\.json of the run is damaged"):
        bring(run.id, where, server.uri)
    listed.write_text(before)
    with pytest.raises(RunError, match="There is no run 'abcdef123' of medvit in the runs folder, and none on http"):
        medvit.evaluate("abcdef123", **FAST, **other)
    shutil.rmtree("work")
    with pytest.raises(DataError, match=rf"the data set films that run {run.id} was trained on \(manifest [0-9a-f]+\)"):
        medvit.evaluate(run.id, **FAST, **other)
    with pytest.raises(DataError, match=r"is not in tracking\.data_folder"):
        medvit.evaluate("latest", **FAST, **other, **{"tracking.data_folder": "nowhere"})
    medvit.evaluate("latest", **FAST, **other, **{"tracking.data_folder": str(trained[1])})


@pytest.mark.slow
@pytest.mark.usefixtures("few_retries")
def test_what_was_never_sent_with_its_weights_says_how_it_is(server: Server, runs: Path, tmp_path: Path) -> None:
    with tracking.start(runs, "films", "old") as run:
        pass
    sync(run.id, at(runs, server.uri))
    with pytest.raises(RunError, match=f"has no weights of run {run.id}.*medvit sync RUNS/{run.id}"):
        bring(run.id, {"folder": str(tmp_path / "runs")}, server.uri)


def test_settings_that_are_shared_hold_no_place() -> None:
    config = {
        "data": {"folder": "work/DOE", "root": "DOE", "name": "films", "include": ["DOE/x", "DOE.csv"], "size": [1, 2]},
        "labels": {"csv": "DOE.csv", "target": ["Größe ≥ 2 (left, +)", "effusion/thickening"], "join": "/DOE/labels"},
        "model": {"_target_": "medvit.model.vit.ViT", "weights": "~DOE", "url": "s3://DOE", "drop": 0.1, "none": None},
        "task": {"monitor": "val/auroc"},
    }
    shared = allow_list.portable(config)
    assert "DOE" not in json.dumps(shared)
    assert shared["labels"]["target"] == config["labels"]["target"]
    assert shared["task"] == config["task"]
    kept = ("_target_", "drop", "none")
    assert {key: shared["model"][key] for key in kept} == {key: config["model"][key] for key in kept}
