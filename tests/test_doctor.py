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
from medvit.dicom.codec import decode


def test_a_sound_machine_has_every_part_told_and_nothing_broken_or_made(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("MEDVIT_PSEUDO_KEY_FILE", str(tmp_path / "keys" / "k"))
    found = {one.name: one for one in doctor.examine(tmp_path / "work", tmp_path / "runs")}
    parts = "python packages torch GPU DICOM-codecs data-folder runs-folder memory MLflow-store pseudonym-key weights"
    parts += " telemetry"
    assert list(found) == [name.replace("-", " ") for name in parts.split()]
    assert [one for one in found.values() if one.state == "broken"] == []
    assert found["telemetry"].state == "ok"
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
    assert "damaged" in found["MLflow store"].found
    assert "chmod 600" in found["pseudonym key"].fix


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
        [sys.executable, "-m", "medvit.doctor", "deep=true"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "broken  pseudonym key" in done.stdout
    assert "1 broken" in done.stdout


def test_looking_needs_neither_torch_nor_mlflow() -> None:
    ask = (
        "from pathlib import Path; from medvit.doctor import examine; list(examine(Path('work'), Path('runs')))\n"
        "import sys; print({'torch', 'mlflow', 'pandas', 'monai'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_what_the_files_of_torch_say_is_what_torch_says() -> None:
    import torch

    (quick, *_), (deep, *_) = doctor._torch_build(), doctor._torch()
    assert quick.found.split(", built")[0] == torch.__version__
    assert deep.found.startswith(quick.found)


def test_a_gpu_that_the_build_of_torch_cannot_use_is_broken(tmp_path: Path, monkeypatch: Any) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA T4, 15360 MiB, 7.5'\necho 'NVIDIA H200, 143771 MiB, 9.0'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "__version__ = '2.13.0+cpu'\ncuda: str | None = None\n")
    _, card, told = doctor._torch_build()
    assert card.found == "NVIDIA T4 (15360 MiB, bf16 no), NVIDIA H200 (143771 MiB, bf16 yes)"
    assert (told.state, told.found) == ("broken", "this build of torch cannot use the GPU")
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "__version__ = '2.13.0'\ncuda: str | None = '12.8'\n")
    assert [one.found for one in doctor._torch_build()] == ["2.13.0, built for CUDA 12.8", card.found]


@pytest.mark.slow
def test_a_store_says_how_many_runs_are_open_and_whether_another_mlflow_made_it(tmp_path: Path) -> None:
    import sqlite3

    from medvit.tracking import run as runs

    runs.start(tmp_path, "e", "one").finish()
    file = tmp_path / "mlflow.db"
    assert doctor._store(file).found.endswith(", 1 runs")
    assert doctor._store(file).state == "ok"
    runs.start(tmp_path, "e", "two")
    before = file.read_bytes()
    assert (doctor._store(file).state, doctor._store(file).found.split(", ", 1)[1]) == (
        "look",
        "2 runs, 1 marked RUNNING",
    )
    assert file.read_bytes() == before
    with sqlite3.connect(file) as store:
        store.execute("update alembic_version set version_num = 'from_later'")
    assert "is not of MLflow" in doctor._store(file).found


def test_published_weights_are_found_in_the_store_and_in_the_hubs_cache(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("MEDVIT_WEIGHTS", str(tmp_path / "store"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert doctor._weights().state == "look"
    cached = tmp_path / "hub" / "models--microsoft--rad-dino" / "snapshots" / "ab" / "model.safetensors"
    (tmp_path / "store" / "facebook--dinov2-base").mkdir(parents=True)
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert doctor._weights().found.startswith("2 of ")
    assert "microsoft/rad-dino" in doctor._weights().found


def test_a_container_is_told_with_what_it_may_use(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "memory.max").write_text(f"{2 << 30}\n")
    monkeypatch.setattr(doctor, "_CONTAINER", tmp_path / "memory.max")
    assert (doctor._memory().state, doctor._memory().found.split(",")[0]) == ("look", "2 GiB")


def test_a_switch_of_telemetry_that_something_turned_back_is_broken(monkeypatch: Any) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    assert doctor._telemetry().state == "broken"
    assert "export ORT_DISABLE_TELEMETRY=1" in doctor._telemetry().fix
