"""The files that medvit writes have the columns, keys and files that docs/reference/schemas.md says, and no others."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from medvit.dataset.manifest import FACTS, IDENTITY

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/reference/schemas.md").read_text(encoding="utf-8")


def said(title: str) -> dict[str, bool]:
    """Return what a section's table names, and whether it is always there."""
    section = TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
    return {name: not star for cell in cells for name, star in re.findall(r"`([^`]+)`(\*?)", cell)}


def differences(title: str, found: set[str]) -> tuple[list[str], list[str]]:
    """Return what was found and is not in the table, and what the table promises and was not found."""
    names = said(title)
    patterns = {name: re.compile(re.sub(r"<\w+>", ".+", re.escape(name))) for name in names}
    unsaid = [one for one in sorted(found) if not any(pattern.fullmatch(one) for pattern in patterns.values())]
    absent = [name for name in names if names[name] and not any(patterns[name].fullmatch(one) for one in found)]
    return unsaid, absent


def test_every_fact_of_the_manifest_is_in_its_table() -> None:
    unsaid, absent = differences("manifest.parquet", {*IDENTITY, *FACTS, "label.finding"})
    assert (unsaid, absent) == ([], [])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("schemas")
    shim = str(Path(__file__).with_name("quick_python.py"))
    embed = ["embed", "data.folder=work/phantom_cxr", "run=latest", "page=false", "out=embedded"]
    for words in (["train"], embed, ["evaluate", "run=latest"], ["export", "run=latest", "out=bundle"]):
        subprocess.run(
            [sys.executable, shim, "-m", f"medvit.{words[0]}", *words[1:]],
            cwd=folder,
            check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("title", ["manifest.parquet", "splits.parquet", "predictions.parquet", "embeddings.parquet"])
def test_the_tables_hold_the_columns_that_are_said(made: Path, title: str) -> None:
    from pyarrow import parquet

    columns = set(parquet.read_schema(next(made.rglob(title))).names)
    assert differences(title, columns) == ([], [])


@pytest.mark.slow
@pytest.mark.parametrize("title", ["report.json", "thresholds.json"])
def test_the_json_files_hold_the_keys_that_are_said(made: Path, title: str) -> None:
    content = json.loads(next(made.glob(f"runs/*/evaluation_test/{title}")).read_text(encoding="utf-8"))
    assert differences(title, set(content)) == ([], [])


@pytest.mark.slow
def test_the_journal_holds_the_events_that_are_said(made: Path) -> None:
    lines = next(made.glob("runs/*/journal.jsonl")).read_text(encoding="utf-8").splitlines()
    assert differences("journal.jsonl", {json.loads(line)["event"] for line in lines}) == ([], [])


@pytest.mark.slow
def test_the_bundle_holds_the_files_that_are_said(made: Path) -> None:
    bundle = made / "bundle"
    files = {file.relative_to(bundle).as_posix() for file in bundle.rglob("*") if file.is_file()}
    assert differences("The bundle", files) == ([], [])
