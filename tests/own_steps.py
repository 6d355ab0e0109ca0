"""Steps of a user's own for tests: a file that can be imported, whose classes are trusted as on a command line."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from medvit.config_targets import trust_only


@contextmanager
def trusted(
    module: str, text: str, names: Iterable[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Write `text` as `module` into `folder` and trust its classes `names` within the block."""
    (folder / f"{module}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    trust_only([f"trust=[{', '.join(f'{module}.{name}' for name in names)}]"])
    yield
    sys.modules.pop(module, None)
    trust_only([])
