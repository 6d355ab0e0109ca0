"""What tests of tracking share: a runs folder, and a client that gives up at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from medvit.tracking import store


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracking") / "runs"
    store.open_client(folder)
    return folder


@pytest.fixture
def few_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
