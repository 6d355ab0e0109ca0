"""The saved view is not documented by MLflow, so a real browser keeps watch over it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from medvit.tracking import run as tracking
from medvit.tracking import saved_view, store

pytestmark = [pytest.mark.browser, pytest.mark.slow]
CHROMIUM = os.environ.get("MEDVIT_CHROMIUM", "/usr/bin/chromium")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("browser") / "runs"
    for name, best in (("vit_tiny seed 0", 0.91), ("vit_tiny seed 1", 0.94)):
        with tracking.start(folder, "chest films", name) as run:
            run.params({"seed": 0, "model": {"width": 192, "depth": 12}})
            for epoch in range(5):
                run.metrics({"train/loss": 0.7 / (epoch + 1), "val/auroc": best - 0.1 / (epoch + 1)}, epoch)
            saved_view.save(run.client, run.experiment_id, ["val/auroc", "train/loss"], ["model.width", "seed"])
    return folder, run.experiment_id


@pytest.fixture(scope="module")
def server(runs: tuple[Path, str]) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store.store_uri(runs[0])]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with (runs[0] / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(f"{address}/health", process, runs[0] / "server.log")
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(180):
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(address, timeout=2):  # noqa: S310 (our own loopback server)
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail("the MLflow server did not answer in 90 s")


def test_the_saved_view_shows_our_metrics_and_parameters(runs, server, tmp_path) -> None:
    if not shutil.which(CHROMIUM):
        pytest.skip("no Chromium: apt-get install chromium, or set MEDVIT_CHROMIUM")
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1500, "height": 700})
        page.goto(saved_view.link(runs[1], base=server), wait_until="domcontentloaded")
        expect(page.get_by_text("vit_tiny seed 1").first).to_be_visible(timeout=60_000)
        shot = Path(os.environ.get("MEDVIT_SHOTS", str(tmp_path)))
        page.wait_for_timeout(3000)
        page.screenshot(path=str(shot / "mlflow_view.png"))
        text = page.inner_text("body")
        browser.close()
    missing = [name for name in ("val/auroc", "train/loss", "model.width", "seed") if name not in text]
    assert not missing, f"columns not on the page: {missing}"
    assert text.index("vit_tiny seed 1") < text.index("vit_tiny seed 0"), "not ordered by val/auroc, best first"
    assert "viewing a shared view" in text
    assert "Agent versions" not in text, "the page opened as a GenAI experiment"
