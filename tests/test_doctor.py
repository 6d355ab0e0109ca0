"""`medvit doctor`: what is broken is named with what to do, and nothing is made or changed by looking."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from medvit import doctor
from medvit.dicom import decode


def test_a_sound_machine_has_every_part_told_and_nothing_broken_or_made(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("MEDVIT_PSEUDO_KEY_FILE", str(tmp_path / "keys" / "k"))
    found = {one.name: one for one in doctor.examine(tmp_path / "work", tmp_path / "runs")}
    parts = (
        "python packages torch GPU bf16 DICOM-codecs data-folder runs-folder memory MLflow-store pseudonym-key weights"
    )
    assert list(found) == [name.replace("-", " ") for name in parts.split()]
    assert [one for one in found.values() if one.state == "broken"] == []
    assert found["torch"].found.startswith(metadata.version("torch").split("+")[0])
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_others_may_read_a_damaged_store_and_a_missing_codec_are_broken(
    tmp_path: Path, monkeypatch: Any
) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"0" * 32)
    key.chmod(0o644)
    monkeypatch.setenv("MEDVIT_PSEUDO_KEY_FILE", str(key))
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 100)
    monkeypatch.setattr(decode, "available", lambda codec: codec.name != "imagecodecs.jpegls")
    found = {one.name: one for one in doctor.examine(tmp_path, tmp_path)}
    assert {name for name, one in found.items() if one.state == "broken"} == {
        "DICOM codecs",
        "MLflow store",
        "pseudonym key",
    }
    assert "mode 0644, expected 0600" in found["pseudonym key"].found
    assert "imagecodecs.jpegls" in found["DICOM codecs"].found
    assert "damaged" in found["MLflow store"].fix


def test_versions_outside_what_medvit_asks_for_are_named(monkeypatch: Any) -> None:
    true = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "1.0" if name == "pydicom" else true(name))
    told = doctor._packages()
    assert (told.state, told.found) == ("broken", "pydicom 1.0 (expected <4,>=3.0.2)")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_told_with_the_setting_to_give(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert doctor._disk("runs folder", tmp_path / "runs").fix == "give tracking.folder=DIR"


@pytest.mark.slow
def test_the_command_ends_with_1_where_something_is_broken(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"0")
    (tmp_path / "key").chmod(0o600)
    env = {**os.environ, "MEDVIT_PSEUDO_KEY_FILE": str(tmp_path / "key")}
    done = subprocess.run(
        [sys.executable, "-m", "medvit.doctor"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "broken  pseudonym key" in done.stdout
    assert "1 broken" in done.stdout
