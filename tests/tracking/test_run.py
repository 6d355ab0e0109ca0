from __future__ import annotations

import getpass
import json
import os
import shlex
import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from medvit.errors import RunError
from medvit.tracking import allow_list, provenance, saved_view, store
from medvit.tracking import run as tracking

CANARY = "CANARY"
CONFIG = {
    "seed": 3,
    "model": {"_target_": "medvit.model.vit.ViT", "width": 192, "weights": f"/data/{CANARY}^ANNA/vit.safetensors"},
    "data": {"folder": f"work/{CANARY}", "root": CANARY, "size": [224, 224]},
    "task": {"names": ["pneumonia"], "monitor": "val/auroc"},
    "hydra": {"run": {"dir": CANARY}},
    "label_note": CANARY,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder made once: MLflow takes seconds to lay out its database."""
    folder = tmp_path_factory.mktemp("tracking") / "runs"
    store.open_client(folder)
    return folder


def test_a_run_keeps_what_it_was_given(runs, tmp_path) -> None:
    with tracking.start(runs, "films", "first") as run:
        run.params(CONFIG)
        for epoch, value in enumerate((0.7, 0.9, 0.8)):
            run.metrics({"val/auroc": value}, epoch)
        run.tags({"medvit.manifest": "ab" * 32})
        run.dataset("films", "ab" * 32, "training", {"films": 12})
        run.json({"b": 1}, "tables/extra.json")
    again = tracking.get(run.id, runs, finished=True)
    assert again.values == {"val/auroc": 0.8}
    assert [point.value for point in again.client.get_metric_history(run.id, "val/auroc")] == [0.7, 0.9, 0.8]
    assert again.labels == {"medvit.manifest": "ab" * 32}
    assert json.loads(again.fetch("tables/extra.json", tmp_path).read_text()) == {"b": 1}
    stored = again.client.get_run(run.id)
    assert stored.data.params["model.width"] == "192"
    assert stored.data.params["data.size"] == "[224, 224]"
    assert stored.data.params["task.monitor"] == "val/auroc"
    assert stored.inputs.dataset_inputs[0].dataset.digest == ("ab" * 32)[:32]


def test_the_latest_run_is_the_last_that_finished_where_a_finished_one_is_asked_for(runs) -> None:
    """A training that failed at once stood between `run=latest` and the model that was meant."""
    with tracking.start(runs, "films", "good") as good:
        pass
    with pytest.raises(KeyError), tracking.start(runs, "films", "bad") as bad:
        raise KeyError
    assert tracking.get("latest", runs, finished=True).id == good.id
    assert tracking.get("latest", runs).id == bad.id


def test_the_latest_run_is_the_one_that_ended_last_so_the_mean_of_folds_and_not_a_fold(runs) -> None:
    with tracking.start(runs, "films", "crossval") as parent:
        time.sleep(0.01)
        with tracking.start(runs, "films", "fold 0", parent.id):
            pass
        time.sleep(0.01)
    assert tracking.get("latest", runs, finished=True).id == parent.id


def test_no_path_user_host_or_undeclared_setting_reaches_the_store(runs) -> None:
    with tracking.start(runs, "films", "private") as run:
        run.params(CONFIG)
        run.json(allow_list.redacted(CONFIG), "config.json")
    stored = run.client.get_run(run.id)
    assert stored.data.params["model.weights"] == allow_list.WITHHELD
    assert not [key for key in stored.data.params if key.startswith(("hydra", "label_note"))]
    assert {"mlflow.user", "mlflow.source.name"}.isdisjoint(stored.data.tags)
    assert stored.info.user_id in {"unknown", "", None}
    everything = b"".join(file.read_bytes() for file in runs.rglob("*") if file.is_file())
    assert CANARY.encode() not in everything
    host = socket.gethostname().encode()
    written = json.dumps([stored.data.params, stored.data.tags, provenance.environment()]).encode()
    assert len(host) < 4 or host not in written
    assert f'"{getpass.getuser()}"'.encode() not in written


def test_an_error_fails_the_run_and_ctrl_c_kills_it(runs) -> None:
    with pytest.raises(ZeroDivisionError), tracking.start(runs, "films", "fails") as failed:
        _ = 1 / 0
    with pytest.raises(KeyboardInterrupt), tracking.start(runs, "films", "stops") as killed:
        raise KeyboardInterrupt
    assert (failed.status, killed.status) == ("FAILED", "KILLED")
    with pytest.raises(RunError, match="is FAILED, not FINISHED"):
        tracking.get(failed.id, runs, finished=True)


def test_other_settings_in_a_resumed_run_and_a_lost_file_are_run_errors(runs, tmp_path) -> None:
    with tracking.start(runs, "films", "resumed") as run:
        run.params({"seed": 1})
        run.params({"seed": 1})
        with pytest.raises(RunError, match="a resumed run must keep its settings"):
            run.params({"seed": 2})
    with pytest.raises(RunError, match="an artifact cannot be written"):
        run.artifact(tmp_path / "not there.csv", "tables/x.csv")


def test_an_unknown_run_names_the_nearest(runs) -> None:
    with tracking.start(runs, "films", "near") as run:
        pass
    wrong = run.id[:-1] + ("0" if run.id[-1] != "0" else "1")
    with pytest.raises(RunError, match=f"Nearest: .*{run.id}"):
        tracking.get(wrong, runs)
    with pytest.raises(RunError, match="There is no run 'abc'"):
        tracking.get("abc", runs)


def test_a_run_is_meant_by_the_first_characters_of_its_id_unless_another_begins_alike(runs, monkeypatch) -> None:
    with tracking.start(runs, "films", "short") as run:
        pass
    assert tracking.get(run.id[:8], runs, finished=True).id == run.id
    with pytest.raises(RunError, match=f"There is no run '{run.id[:5]}'.* Nearest: {run.id}"):
        tracking.get(run.id[:5], runs)  # five are too few
    alike = run.id[:10] + "0" * 22
    with closing(sqlite3.connect(runs / "mlflow.db")) as database, database:  # ids are MLflow's to give
        columns = [name for _, name, *_ in database.execute("PRAGMA table_info(runs)")]
        copied = ", ".join(f"'{alike}'" if name == "run_uuid" else f'"{name}"' for name in columns)
        database.execute(f"INSERT INTO runs SELECT {copied} FROM runs WHERE run_uuid = ?", (run.id,))  # noqa: S608
    with pytest.raises(RunError) as told:
        tracking.get(run.id[:10], runs)
    assert f"{run.id} (short)" in str(told.value)
    assert f"{alike} (short)" in str(told.value)
    assert tracking.get(run.id[:12], runs).id == run.id


def test_latest_without_a_finished_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(KeyError), tracking.start(tmp_path, "films", "bad") as bad:
        raise KeyError
    with pytest.raises(RunError, match=f"None of the 1 runs of the folder is FINISHED. The latest is {bad.id} .FAILED"):
        tracking.get("latest", tmp_path, finished=True)


def test_a_folder_without_runs_says_so(tmp_path) -> None:
    with pytest.raises(RunError, match="holds no mlflow"):
        tracking.get("0" * 32, tmp_path)


def test_a_runs_folder_that_cannot_be_made_is_a_run_error(tmp_path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RunError, match="cannot be written"):
        tracking.start(tmp_path / "file" / "runs", "films", "x")


def test_a_damaged_database_is_a_run_error(tmp_path) -> None:
    (tmp_path / "mlflow.db").write_bytes(os.urandom(4096))
    with pytest.raises(RunError, match="cannot be opened"):
        store.open_client(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["model.pkl", "last.ckpt", "/etc/passwd.txt", "../up.csv", "a/../b.csv", "manifest.parquet", "x/.hidden.csv"],
)
def test_an_artifact_of_another_kind_is_refused(name) -> None:
    with pytest.raises(RunError, match="may not be written"):
        allow_list.check_artifact(name)


def test_an_undeclared_metric_or_tag_is_refused() -> None:
    with pytest.raises(RunError, match="loss"):
        allow_list.check_metrics({"loss": 1.0, "val/auroc": 0.5})
    with pytest.raises(RunError, match="tag"):
        allow_list.check_tags({"medvit.place": "/data/x"})


SIGNED = ["KL>=2", "KL>2", "KL<2", "KL=2", "Age (years)", "Age [years]", "a, b", "T1+C", "Ödem", "Odem", "a//b", "../a"]


def test_class_names_with_signs_brackets_and_umlauts_are_metrics_that_stay_apart(runs) -> None:
    given = {f"val/auroc/{name}": number / 100 for number, name in enumerate(SIGNED)}
    with tracking.start(runs, "films", "signs") as run:
        run.params({"task": {"values": dict.fromkeys(SIGNED, 1)}})
        run.metrics(given)
    stored = run.values
    assert {stored[allow_list.mlflow_name(key)] for key in given} == set(given.values())
    assert len(stored) == len(run.client.get_run(run.id).data.params) == len(SIGNED)
    assert allow_list.mlflow_name("val/auroc/KL>=2").startswith("val/auroc/KL_ge_2.")
    assert allow_list.mlflow_name("val/auroc/Lung Opacity") == "val/auroc/Lung Opacity"


def test_the_hash_of_a_configuration_ignores_key_order_only() -> None:
    one = provenance.json_sha256({"a": 1, "b": [1, 2]})
    assert one == provenance.json_sha256({"b": [1, 2], "a": 1})
    assert one != provenance.json_sha256({"a": 1, "b": [2, 1]})
    # sha256 of the seven bytes {"a":1}, given by sha256sum
    assert provenance.json_sha256({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"


def test_the_command_that_opens_mlflow_is_one_a_shell_takes_also_where_folders_have_blanks() -> None:
    words = shlex.split(saved_view.command("my runs"))
    assert words[0] == "MLFLOW_DISABLE_TELEMETRY=true"
    assert Path(words[1]).is_file()
    assert words[2:5] == ["ui", "--backend-store-uri", "sqlite:///my runs/mlflow.db"]
