"""Commands on systems that lack parts of POSIX: an interpreter without them, as on Windows, and a locked file there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

import medvit
from medvit import file_lock
from medvit.bundle import isolate
from medvit.bundle.isolate import Isolated
from medvit.errors import DicomRefusal

pytest_plugins = ["bundle.conftest"]

# Modules, signals and functions of Python that Windows does not have, or only after an import of its own.
_WITHOUT = """
import importlib, os, pkgutil, signal, sys
class Without:
    def find_spec(self, name, path=None, target=None):
        frame = sys._getframe(1)
        while "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        asks = frame.f_globals.get("__name__", "")  # other packages were installed for this system and need them
        if name in ("fcntl", "resource", "pwd", "grp", "termios") and asks.startswith("medvit"):
            raise ImportError(f"No module named {name}", name=name)
sys.meta_path.insert(0, Without())
for name in ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGKILL", "SIGALRM"):
    delattr(signal, name)
for name in ("sched_getaffinity", "fchmod", "nice"):
    delattr(os, name)
import medvit
import medvit.bundle.isolate
medvit.bundle.isolate._SPAWNS = True
"""


def run_without(code: str, *given: object) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter that lacks what Windows lacks."""
    return subprocess.run(
        [sys.executable, "-c", _WITHOUT + code, *map(str, given)], capture_output=True, text=True, check=False
    )


def test_every_module_of_medvit_is_imported_where_python_has_no_fcntl_resource_or_sigusr1() -> None:
    found = run_without("""
failed = []
for module in pkgutil.walk_packages(medvit.__path__, "medvit."):
    if module.name.endswith((".__main__", ".pyfunc_code")):
        continue
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        if error.name not in {"transformers", "pynetdicom"}:
            failed.append(f"{module.name}: {error}")
print(failed)
""")
    assert found.stdout.strip() == "[]", found.stdout + found.stderr[-2000:]


def test_predictions_without_posix_are_those_of_this_machine(bundle: Path, films: list[Path], tmp_path: Path) -> None:
    found = run_without(
        "print(medvit.predict(sys.argv[1], sys.argv[2], sys.argv[3], workers=2)['status'].tolist())",
        bundle, films[0].parents[2], tmp_path / "there",
    )  # fmt: skip
    assert "OK" in found.stdout, found.stderr[-2000:]
    medvit.predict(bundle, films[0].parents[2], tmp_path / "here", workers=2)
    here, there = (pd.read_csv(tmp_path / place / "predictions.csv") for place in ("here", "there"))
    pd.testing.assert_frame_equal(here, there)


def crash_or_read(source: str) -> Any:
    """Work of a child: end it, or answer."""
    if source == "crash":
        os._exit(7)
    return source.upper()


def test_a_decoder_that_crashes_costs_one_object_also_where_children_are_spawned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(isolate, "_SPAWNS", True)
    with Isolated(crash_or_read, seconds=60) as child:
        assert child("a") == "A"
        with pytest.raises(DicomRefusal, match="E-CRASH"):
            child("crash")
        assert child("b") == "B"


def test_a_lock_of_windows_is_waited_for_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows locks bytes of a file: two handles want the same one, beyond what is written there."""
    held: set[int] = set()
    asked: list[int] = []

    def locking(descriptor: int, mode: int, count: int) -> None:
        place = os.lseek(descriptor, 0, os.SEEK_CUR)
        asked.append(place)
        if place in held:
            held.discard(place)  # its holder ends meanwhile
            raise OSError(13, "Permission denied")
        held.add(place)

    monkeypatch.setattr(file_lock, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
    with file_lock.locked(tmp_path / "lock"):
        (tmp_path / "lock").write_text("what the holder writes")
        with pytest.raises(BlockingIOError), file_lock.locked(tmp_path / "lock", wait=False):
            pass
        with file_lock.locked(tmp_path / "lock"):
            held.add(asked[0])
            with file_lock.locked(tmp_path / "lock"):
                pass
    assert len(set(asked)) == 1
    assert asked[0] > 1 << 20
