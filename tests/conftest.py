"""What every test shares: quiet threads, the folder of real images, and the generated sets."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a busy second core makes torch 30 times slower otherwise
os.environ.update(ORT_DISABLE_TELEMETRY="1", MLFLOW_DISABLE_TELEMETRY="true")  # tests import both before medvit

from collections.abc import Callable
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="session")
def make_table() -> Callable[..., Any]:
    """Make predictions as evaluate writes them (`predictions_tables`)."""
    from predictions_tables import make_table

    return make_table


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., Any]:
    """Make what an evaluation of such predictions is asked to do."""
    from predictions_tables import make_spec

    return make_spec
