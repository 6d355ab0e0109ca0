"""Every command block of README and docs is run, page by page, as a reader would paste it.

A page says what a reader has at hand by `<!-- inputs: films -->` (`inputs.py`). A block that needs a network, a GPU, a
scheduler or a server that stays is marked `<!-- not run: reason -->` on the line before it. `quick.yaml` is appended.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import inputs
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"(?:^<!-- not run: (.+?) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^(?:\$ )?(?:python3? |medvit |make |mlflow |pip |import medvit|bash |git )", re.MULTILINE)
MAY_STAY = 15  # blocks that are not run
MEASURED = "results.md"  # figures on real images, each under the command it took hours to make them by


class Block(NamedTuple):
    """One fenced block: why it is not run ("" if it is), its language, its text."""

    reason: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in FENCE.findall(page.read_text(encoding="utf-8"))]


def runnable(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language in ("bash", "python") and not block.reason]


TUTORIALS = ROOT / "docs" / "tutorials"  # notebooks: run as such by test_tutorials.py
TO_RUN = [page for page in PAGES if runnable(page) and TUTORIALS not in page.parents]


@pytest.mark.slow
@pytest.mark.parametrize("page", TO_RUN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_command_blocks_of_a_page_run_from_top_to_bottom(page: Path, tmp_path: Path) -> None:
    kind = re.search(r"<!-- inputs: (\w+) -->", page.read_text(encoding="utf-8"))
    if kind:
        inputs.KINDS[kind[1]](tmp_path)
    shims = tmp_path / ".bin"
    shims.mkdir()
    quick = Path(__file__).with_name("quick_python.py")
    for name, call in (("python", '"$@"'), ("medvit", '-m medvit "$@"')):
        (shims / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "{quick}" {call}\n', encoding="utf-8")
        (shims / name).chmod(0o755)
    path = os.pathsep.join([str(shims), str(Path(sys.executable).parent), os.environ["PATH"]])
    places = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    own = {"PATH": path, "PYTHONPATH": places}
    for block in runnable(page):
        call = ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else [sys.executable, "-c"]
        done = subprocess.run(
            [*call, block.text], cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, **own}
        )
        assert done.returncode == 0, f"{block.text}\n{done.stdout[-1500:]}\n{done.stderr[-2500:]}"


def test_blocks_that_are_not_run_say_why_and_are_few() -> None:
    left = [(page.name, block) for page in PAGES for block in blocks(page) if block.reason]
    assert all(len(block.reason) > 5 for _, block in left)
    counted = [name for name, _ in left if name != MEASURED]
    assert len(counted) <= MAY_STAY, counted


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_command_hides_in_a_block_that_is_no_command_block(page: Path) -> None:
    hidden = [block.text for block in blocks(page) if not block.language]
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    hidden += re.findall(r"^ {4}(?:python|medvit|mlflow) .*$", text, re.MULTILINE)
    assert hidden == []
