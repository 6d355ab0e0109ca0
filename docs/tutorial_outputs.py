"""Run the tutorials as they stand and write what each cell prints and draws below it: `make tutorials`.

The site and the notebooks then show what a reader will see. tests/docs/test_tutorials.py runs the same cells with fewer
films and epochs, and compares the words of what they print with the words that stand here.
"""

from __future__ import annotations

import base64
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import jupytext
from nbclient import NotebookClient

PAGES: Final = Path(__file__).resolve().parent / "tutorials"
CELL: Final = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?P<shown><!-- output -->\n(?:```text\n.*?^```\n|!\[.*?\n)+)?",
    re.MULTILINE | re.DOTALL,
)
SHOWN: Final = re.compile(r"^```text\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
_MOST_LINES: Final = 25  # of one output


def execute(text: str, folder: Path) -> list[Any]:
    """Run the Python cells of the Markdown `text` in `folder`, from top to bottom; an error of a cell is raised."""
    notebook = jupytext.reads(CELL.sub(r"```python\n\g<code>```\n", text), fmt="md")
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    NotebookClient(notebook, timeout=7200, resources={"metadata": {"path": str(folder)}}).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell: Any) -> str:
    """Return what the cell printed to stdout, then the text of its last value; pictures and logs are left out."""
    parts = [out["text"] for out in cell.outputs if out.get("name") == "stdout"]
    parts += [out["data"]["text/plain"] for out in cell.outputs if out.output_type == "execute_result"]
    lines = "\n".join(parts if not picture(cell) else parts[:-1]).splitlines()  # not the repr of an axes image
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def picture(cell: Any) -> bytes | None:
    """Return the PNG that the cell drew, or None."""
    drawn = [out["data"]["image/png"] for out in cell.outputs if "image/png" in out.get("data", {})]
    return base64.b64decode(drawn[-1]) if drawn else None


def shown(page: str) -> list[str]:
    """Return the text that stands in the page below each cell, "" where there is none."""
    found = CELL.finditer((PAGES / page).read_text(encoding="utf-8"))
    return ["\n".join(SHOWN.findall(cell["shown"] or "")) for cell in found]


def write(page: str, cells: list[Any], folder: Path) -> None:
    """Put the outputs of `cells`, run in `folder`, into the page, below the cell that made them."""
    path, left = PAGES / page, iter(enumerate(cells))
    places = {f"cd {folder} && ": "", f"sqlite:///{folder}/": "sqlite:///", f"{folder}/": "", f"{sys.prefix}/bin/": ""}

    def below(found: re.Match[str]) -> str:
        number, cell = next(left)
        code, text, image = f"```python\n{found['code']}```\n", printed(cell), picture(cell)
        for place, name in places.items():
            text = text.replace(place, name)
        lines = text.splitlines()
        lines = lines if len(lines) <= _MOST_LINES else [*lines[:_MOST_LINES], "..."]
        shown = "```text\n" + "\n".join(lines) + "\n```\n" if lines else ""
        if image:
            name = f"{path.stem}_{number}.png"
            (PAGES.parent / "images" / name).write_bytes(image)
            shown += f"![What the cell above draws](../images/{name})\n"
        return code + ("<!-- output -->\n" + shown if shown else "")

    path.write_text(CELL.sub(below, path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as place:
            write(name, execute((PAGES / name).read_text(encoding="utf-8"), Path(place)), Path(place))
