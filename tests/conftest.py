"""What every test shares: quiet threads, the folder of real images, and the generated sets."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a busy second core makes torch 30 times slower otherwise
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "1")

from pathlib import Path

import jaxtyping
import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = os.environ.get("MEDVIT_REAL_DATA", "")
    if not folder:
        pytest.skip("MEDVIT_REAL_DATA is not set: the real images are not at hand")
    return Path(folder).resolve()


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test give a stand-in, or a wrong type on purpose; annotations are checked otherwise (`tests/typed.py`)."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
