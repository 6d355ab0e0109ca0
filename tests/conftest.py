"""What every test shares: quiet threads, the folder of real images, and the generated sets."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a busy second core makes torch 30 times slower otherwise
os.environ.update(ORT_DISABLE_TELEMETRY="1", MLFLOW_DISABLE_TELEMETRY="true")  # tests import both before medvit

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest


@pytest.fixture(scope="session", autouse=True)
def _same_pseudonyms_every_time(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One key for all tests: splits go by pseudonym, so a fresh key would give other sides, and other sizes of them."""
    key = tmp_path_factory.mktemp("key") / "pseudonym.key"
    key.touch(mode=0o600)
    key.write_bytes(b"0123456789abcdef" * 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDVIT_PSEUDO_KEY_FILE", str(key))
        yield


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
