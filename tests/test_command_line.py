"""Lines that medvit prints: a shell and Hydra read in them what was meant."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from medvit.command_line import anywhere, command_line
from medvit.config_words import readable


@pytest.mark.parametrize(
    "value",
    ["work/cxr", "my films", "it's", 'a "b"', "films, old", "Größe & Co", "$HOME", "1e3", "null", "12345678", "[x]", 3],
)
def test_a_pasted_setting_arrives_as_it_was_given(value: Any) -> None:
    line = command_line("split", {"data.folder": value})
    shell = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True
    ).stdout.split("\0")
    assert shell[:3] == ["python", "-m", "medvit.split"]
    (word,) = readable(shell[3:-1])
    assert OverridesParser.create().parse_override(word).value() == value


def test_the_runs_folder_is_named_unless_it_is_the_default_one(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    asked = "python -m medvit.evaluate run=ab"
    assert command_line("evaluate", {"run": "ab"}) == asked
    assert command_line("evaluate", {"run": "ab"}, tmp_path / "runs") == asked
    assert command_line("evaluate", {"run": "ab"}, tmp_path / "other") == f"{asked} tracking.folder=other"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir("here")
    assert command_line("evaluate", {"run": "ab"}, tmp_path / "runs") == f"{asked} tracking.folder={tmp_path}/runs"


def test_a_line_for_anywhere_works_where_neither_folder_nor_python_is_known(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "a b").mkdir()
    monkeypatch.chdir(tmp_path / "a b")
    line = anywhere(command_line("split", {"data.folder": "x"}))
    assert shlex.split(line) == [
        "cd",
        str(tmp_path / "a b"),
        "&&",
        sys.executable,
        "-m",
        "medvit.split",
        "data.folder=x",
    ]
