"""Troubleshooting by code: whatever medvit can say has an entry that says what to do."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import medvit.errors
from medvit import config, predict
from medvit.engine.guards import stop

ROOT = Path(__file__).resolve().parents[2]
ROWS = re.findall(
    r"^\| (\S.*?) \| (.+?) \| ?(.*?) ?\|$", (ROOT / "docs/reference/errors.md").read_text("utf-8"), re.MULTILINE
)
CODE = re.compile(r"\b[EWIQ]-[A-Z0-9]{2,}\b")


def said_by_medvit() -> set[str]:
    """Return the codes in every string of the package, also of docstrings, which are promises."""
    found: set[str] = set()
    for file in (ROOT / "medvit").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(CODE.findall(node.value))
    return found


def test_every_code_that_medvit_can_say_has_a_cause_and_an_advice() -> None:
    explained = {code[1:-1]: (cause, advice) for code, cause, advice in ROWS if CODE.fullmatch(code[1:-1])}
    assert said_by_medvit() == set(explained)
    assert [code for code, (cause, advice) in explained.items() if not cause or not advice] == []


def test_every_exit_code_of_a_command_is_explained() -> None:
    errors = [kind for kind in vars(medvit.errors).values() if isinstance(kind, type) and hasattr(kind, "exit_code")]
    codes = {kind.exit_code for kind in errors} | {0, predict.SOME_REJECTED, config._INTERNAL}
    codes |= {128 + number for number in stop.SIGNALS}
    rows = {int(code): text for code, text, _ in ROWS if code.isdigit()}
    assert codes == set(rows)
    assert [kind.__name__ for kind in errors if kind.__name__ not in rows[kind.exit_code]] == []
