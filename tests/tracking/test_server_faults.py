"""What is wrong with a server, said in one line; a training that never waits for it; runs that are sent to none."""

from __future__ import annotations

import logging
import os
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tracking.servers import at

from medvit.errors import RunError
from medvit.file_lock import locked
from medvit.sync import sync
from medvit.tracking import journal, mirror, uploader
from medvit.tracking import run as tracking
from medvit.tracking.run import Run

pytestmark = pytest.mark.usefixtures("few_retries")


class Failing(BaseHTTPRequestHandler):
    """A server that answers 503."""

    wait, code = 0.0, 503

    def do_POST(self) -> None:
        time.sleep(self.wait)
        self.send_response(self.code)
        self.end_headers()

    do_GET = do_POST  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Slow(Failing):
    """One that takes two seconds for it."""

    wait = 2.0


@pytest.fixture
def addresses() -> Iterator[dict[str, str]]:
    slow = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=slow.serve_forever, daemon=True).start()
    silent = socket.socket()  # takes connections and never answers
    silent.bind(("127.0.0.1", 0))
    silent.listen(50)
    yield {"slow": f"http://127.0.0.1:{slow.server_port}", "silent": f"http://127.0.0.1:{silent.getsockname()[1]}",
           "absent": "http://127.0.0.1:9", "unknown": "http://no-such-machine.invalid"}  # fmt: skip
    slow.shutdown()
    silent.close()


@pytest.mark.parametrize(
    ("kind", "said"),
    [("slow", "it answers 503"), ("absent", "nothing answers there"), ("unknown", "no machine of this name is known"),
     ("silent", "it does not answer in time")],
)  # fmt: skip
def test_what_is_wrong_with_a_server_is_said_in_one_line(
    kind: str, said: str, addresses: dict[str, str], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    with tracking.start(runs, "films", kind) as run:
        pass
    with pytest.raises(RunError, match=f"^{addresses[kind]}: {said}[^\n]*$"):
        sync(run.id, at(runs, addresses[kind]))


def test_a_certificate_of_an_unknown_authority_is_refused_by_name_and_taken_when_its_file_is_given(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -addext subjectAltName=DNS:localhost -days 2"
    files = ["-keyout", tmp_path / "key.pem", "-out", tmp_path / "ca.pem"]
    subprocess.run([*made.split(), *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca.pem", tmp_path / "key.pem")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Failing)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    uri = f"https://localhost:{server.server_port}"
    with tracking.start(runs, "films", "certificate") as run:
        pass
    with pytest.raises(
        RunError, match="its certificate is not accepted; give the CA's file as MLFLOW_TRACKING_SERVER_C"
    ):
        sync(run.id, at(runs, uri))
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(tmp_path / "ca.pem"))
    with pytest.raises(RunError, match="it answers 503"):
        sync(run.id, at(runs, uri))
    server.shutdown()


@pytest.mark.parametrize(
    ("code", "said"), [(404, "it does not answer as an MLflow server"), (413, "it refuses what it")]
)
def test_what_a_server_refuses_for_good_is_not_asked_again(code: int, said: str, runs: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(Failing, "code", code)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Failing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tracking.start(runs, "films", f"refused {code}") as run:
        pass
    with pytest.raises(RunError, match=re.escape(said)) as told:
        sync(run.id, at(runs, f"http://127.0.0.1:{server.server_port}"))
    assert not isinstance(told.value, mirror.Unreachable)
    server.shutdown()


def test_a_server_that_is_slow_and_fails_costs_a_training_less_than_a_second_and_the_run_is_closed(
    addresses: dict[str, str], runs: Path, capfd: Any, caplog: Any
) -> None:
    def trained(run: Run) -> float:
        begun = time.monotonic()
        for step in range(60):
            run.metrics({"train/loss": 0.5}, step)
            time.sleep(0.02)
        return time.monotonic() - begun

    for _ in range(4):  # on a busy machine more than the server takes time; one that waited for it would take it always
        with tracking.start(runs, "films", "alone") as run:
            alone = trained(run)
        run = tracking.start(runs, "films", "beside")
        caplog.clear()
        capfd.readouterr()
        begun = time.monotonic()
        with uploader.mirrored(run.folder, addresses["slow"]), run:
            took = time.monotonic() - begun + trained(run)
        assert run.status == "FINISHED"
        if took - alone < 1:
            break
    else:
        raise AssertionError(f"{took:.2f} s beside a slow server, {alone:.2f} s without one")
    (line,) = capfd.readouterr().err.splitlines()
    assert line == (
        f"{addresses['slow']}: it answers 503: the run goes on, and what is missing there is sent when it is back"
    )
    (end,) = [each.message for each in caplog.records if each.levelno == logging.WARNING]
    assert f"-m medvit.sync run={run.folder} tracking.uri={addresses['slow']}" in end


def test_a_run_that_another_process_sends_is_left_to_it(runs: Path, capfd: Any) -> None:
    with tracking.start(runs, "films", "held") as run:
        pass
    with locked(run.folder / uploader.LOCK):
        uploader.follow(run.folder, "http://127.0.0.1:9")
        with pytest.raises(RunError, match="another process sends this run already"):
            sync(run.id, at(runs, "http://127.0.0.1:9"))
    assert capfd.readouterr().err == "another process sends this run to its server already\n"


def test_a_run_of_an_earlier_version_and_a_missing_address_say_what_to_do(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with tracking.start(runs, "films", "old") as run:
        pass
    with pytest.raises(RunError, match=r"no server is named: give tracking\.uri="):
        sync(run.id, at(runs, ""))
    (run.folder / journal.NAME).unlink()
    with pytest.raises(RunError, match="the run has no journal"):
        sync(str(run.folder), at(runs, "http://127.0.0.1:9"))
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
