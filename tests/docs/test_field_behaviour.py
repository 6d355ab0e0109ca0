"""The page on libraries and formats: every behaviour it says medvit handles is held by tests and scripts that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/field-behaviour.md").read_text(encoding="utf-8")
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith("| behaviour")]


def test_every_behaviour_is_held_by_a_test_that_exists() -> None:
    assert len(ROWS) >= 25
    assert [row for row in ROWS if not re.search(r"`tests/\S+::test_\w+`", row.split("|")[-2])] == []
    for path, name in set(re.findall(r"`(tests/\S+\.py)::(\w+)`", TEXT)):
        defined = {node.name for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))) if hasattr(node, "name")}
        assert name in defined, f"{path} has no {name}"


def test_every_script_named_is_there_and_every_script_there_is_listed() -> None:
    scripts = {path.name for path in (ROOT / "findings").glob("*.sh")}
    listed = set(re.findall(r"`(\w+\.sh)`", (ROOT / "findings/README.md").read_text("utf-8")))
    assert listed == scripts
    assert set(re.findall(r"findings/(\w+\.sh)", TEXT)) <= scripts
