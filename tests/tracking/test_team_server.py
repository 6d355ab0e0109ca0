"""`mlflow server` as a group runs it: on PostgreSQL, with log-ins, artifacts in S3 (moto's stand-in); started here.

MEDVIT_S3 names a folder of packages with moto and boto3 (.ci/run): boto3 wants an older python-dateutil than the rest.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
from tracking.servers import at

from medvit.errors import RunError
from medvit.sync import sync
from medvit.tracking import run as tracking
from medvit.tracking import uploader
from medvit.tracking.run import Run

PASSWORD = "right-SECRET-of-admin"  # noqa: S105
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_retries")]


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The address of a database of its own."""
    pytest.importorskip("psycopg", reason="PostgreSQL needs psycopg: pip install 'medvit[server]'")
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    place, port = Path(tempfile.mkdtemp(prefix="medvit-postgres-")), free_port()  # pytest closes its own to other users
    as_user = []
    if getpass.getuser() == "root":  # PostgreSQL refuses to run as root
        if shutil.which("runuser") is None:
            pytest.skip("PostgreSQL does not run as root, and there is no runuser")
        as_user = ["runuser", "-u", "postgres", "--"]
        shutil.chown(place, "postgres")
    bin_folder, data = programs[-1], place / "data"
    subprocess.run([*as_user, bin_folder / "initdb", "-D", data, "-U", "medvit", "--auth=trust", "--no-sync"],
                   check=True, capture_output=True, cwd="/")  # fmt: skip
    options = f"-p {port} -h 127.0.0.1 -k {place} -F"
    control = [*as_user, bin_folder / "pg_ctl", "-D", data, "-w", "-o", options, "-l", place / "log"]
    subprocess.run([*control, "start"], check=True, stdout=subprocess.DEVNULL, cwd="/")
    yield f"postgresql+psycopg://medvit@127.0.0.1:{port}/postgres"
    subprocess.run([*control, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL, cwd="/")
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """What the server needs to find a bucket `runs`; empty where there is no stand-in for S3."""
    packages = os.environ.get("MEDVIT_S3", "")
    if not packages or not (Path(packages) / "moto").is_dir():
        yield {}
        return
    port = free_port()
    own = {"PYTHONPATH": packages, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "SECRET-of-s3",
           "AWS_DEFAULT_REGION": "us-east-1", "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}"}  # fmt: skip
    program, quiet = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], subprocess.DEVNULL
    process = subprocess.Popen(program, env={**os.environ, **own}, stdout=quiet, stderr=quiet)
    answered(f"http://127.0.0.1:{port}/moto-api/", process)
    urlopen(Request(f"http://127.0.0.1:{port}/runs", method="PUT"), timeout=10).close()
    yield own
    process.kill()
    process.wait()


def answered(address: str, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            urlopen(address, timeout=5).close()  # noqa: S310
        except (URLError, OSError):
            time.sleep(0.3)
        else:
            return
    raise AssertionError(f"{address} does not answer")


@pytest.fixture(scope="module")
def team(postgres: str, s3: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the server."""
    pytest.importorskip("flask_wtf", reason="MLflow's log-ins need flask-wtf: pip install 'medvit[server]'")
    place, port = tmp_path_factory.mktemp("team"), free_port()
    (place / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{place}/auth.db\nadmin_username = admin\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    own = {"MLFLOW_AUTH_CONFIG_PATH": str(place / "auth.ini"), "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
           "MLFLOW_FLASK_SERVER_SECRET_KEY": "k" * 32, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1",
           "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # fmt: skip
    kept = "s3://runs/store" if s3 else str(place / "artifacts")
    program = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", postgres, "--app-name", "basic-auth",
               "--artifacts-destination", kept, "--workers", "1", "--port", str(port)]  # fmt: skip
    with (place / "log").open("w") as log:
        process = subprocess.Popen(program, env={**os.environ, **own, **s3}, cwd=place, stdout=log, stderr=log,
                                   start_new_session=True)  # fmt: skip
    answered(f"http://127.0.0.1:{port}/health", process)
    yield f"http://127.0.0.1:{port}"
    os.killpg(process.pid, 9)
    process.wait()


def told(run: Run) -> None:
    run.params({"seed": 3})
    for step in range(5):
        run.metrics({"train/loss": 1 / (step + 1)}, step)
    run.metrics({"val/odd": float("nan")})
    run.json({"a": 1}, "report/test/report.json")


def test_a_run_is_sent_to_postgresql_behind_a_log_in_and_a_wrong_password_is_one_line_and_costs_nothing(
    team: str, runs: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any, caplog: Any
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong-SECRET")
    run = tracking.start(runs, "films", "behind a log-in")
    with uploader.mirrored(run.folder, team), run:
        told(run)
    assert run.status == "FINISHED"
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(
        f"{team}: it refuses the credentials (401); give MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_U"
    )
    with pytest.raises(RunError, match=r"^[^\n]*refuses the credentials \(401\)[^\n]*$"):
        sync(run.id, at(runs, team))
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    there = sync(run.id, at(runs, team))
    assert sync(run.id, at(runs, team)) == there  # a second time nothing is left
    client = MlflowClient(tracking_uri=team)
    kept = client.get_run(there)
    assert (kept.info.status, kept.data.params, kept.data.tags["medvit.run"]) == ("FINISHED", {"seed": "3"}, run.id)
    history = [(one.step, one.value) for one in client.get_metric_history(there, "train/loss")]
    assert sorted(history) == [(step, 1 / (step + 1)) for step in range(5)]
    assert str(kept.data.metrics["val/odd"]) == "nan"
    got = client.download_artifacts(there, "report/test/report.json")
    assert Path(got).read_bytes() == run.fetch("report/test/report.json", runs / "fetched").read_bytes()
    written = [file for file in runs.rglob("*") if file.is_file()]
    assert not [file.name for file in written if b"SECRET" in file.read_bytes()]
    assert "SECRET" not in caplog.text


def test_the_artifacts_of_the_server_are_in_s3(team: str, s3: dict[str, str], runs: Path, monkeypatch: Any) -> None:
    if not s3:
        pytest.skip("no stand-in for S3: MEDVIT_S3 names no folder with moto and boto3 (.ci/run installs them)")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    with tracking.start(runs, "films", "in s3") as run:
        run.json({"a": 1}, "report/test/report.json")
    there = sync(run.id, at(runs, team))
    with urlopen(f"{s3['MLFLOW_S3_ENDPOINT_URL']}/runs?list-type=2", timeout=10) as answer:  # noqa: S310
        listed = answer.read().decode()
    assert f"/{there}/artifacts/report/test/report.json</Key>" in listed
