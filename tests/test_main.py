"""The front door in the shell: `medvit`, `medvit COMMAND`, and what an unknown command is answered."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medvit.__main__ import commands

ROOT = Path(__file__).resolve().parents[1]


def called(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


def test_every_command_is_listed_in_the_order_of_the_work() -> None:
    listed = list(commands())
    in_order = ["index", "split", "train", "evaluate", "compare", "register", "export", "predict"]
    assert [name for name in listed if name in in_order] == in_order
    runnable = {f.stem for f in (ROOT / "medvit").glob("[a-z]*.py") if '\nif __name__ == "__main__":' in f.read_text()}
    assert set(listed) == runnable
    assert all(commands().values())


def test_the_list_comes_at_once_and_without_torch() -> None:
    before = os.times().children_user
    page = called("medvit")
    assert page.returncode == 0
    assert "  train     fine-tune a Vision Transformer" in page.stdout
    assert os.times().children_user - before < 1.0  # 0.04 s alone; importing torch costs several seconds


def test_a_misspelt_command_is_answered_with_the_nearest_one() -> None:
    told = called("medvit", "trian")
    assert (told.returncode, told.stdout) == (2, "")
    assert "no command 'trian'; did you mean `medvit train`?" in told.stderr
    assert "expected one of" in called("medvit", "qqqq").stderr


@pytest.mark.parametrize(
    "words", [["train", "trainer.epohcs=3"], ["export"], ["weights", "nothing"], ["split", "--help"]]
)
def test_a_command_says_and_returns_the_same_by_both_ways(words: list[str]) -> None:
    name, *rest = words
    one, other = called("medvit", name, *rest), called(f"medvit.{name}", *rest)
    assert (one.returncode, one.stdout, one.stderr) == (other.returncode, other.stdout, other.stderr)


def test_the_shell_completes_commands_and_their_settings() -> None:
    installed = called("medvit", "train", "--shell-completion", "install=bash").stdout
    assert "complete -o nospace -o default -F hydra_bash_completion medvit" in installed
    assert "train" in called("medvit", "-sc", "query=bash", COMP_LINE="medvit tr").stdout.split()
    settings = called("medvit", "-sc", "query=bash", COMP_LINE="medvit train trainer.ep").stdout
    assert settings.split() == ["trainer.epochs="]
