"""Pages of the site that are made while it is built: settings and recipes of conf/, and the tutorials as notebooks.

A hook of mkdocs (`hooks` in mkdocs.yml). What stands in conf/ is said there only: a setting is explained by the comment
on its line, or by that of the same setting in another file of its group, or by that of the mapping which holds it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jupytext
import yaml
from mkdocs.structure.files import File, Files

from medvit.__main__ import commands

CONF = Path(__file__).resolve().parents[1] / "conf"
COMMANDS = (*(name for name in commands() if (CONF / f"{name}.yaml").is_file()), "base")
GROUPS = ("preprocess", "augment", "model", "pool", "bag", "task", "objective", "optim", "optimizer", "scheduler",
          "trainer", "callbacks", "logger", "metrics", "tracking")  # fmt: skip
_OF_COMMANDS = {"labels": "index", "split": "split", "data": "index"}  # what presets of data/ set for those commands
_UNSAID = ("defaults", "hydra")
_INTRODUCTION = """\
Generated from `conf/`. On the command line a setting is `name=value`, in Python `name=value` with `__` for each dot.
`???` must be given. A group is chosen by its name (`model=vit_small_16`), and each of its settings can be changed
(`model.width=192`). Wrong names and values are refused, all at once, with the nearest valid one.
"""


class Setting(NamedTuple):
    """One line of conf/: its dotted name, its value as it is written there, and its comment ("" for none)."""

    name: str
    value: str
    comment: str


@functools.cache
def settings_of(file: Path) -> list[Setting]:
    """Return every setting of one YAML file with its own comment; mappings that only hold others have no value."""
    text = file.read_text(encoding="utf-8")
    root, lines = yaml.compose(text), text.splitlines()
    return [] if root is None else [*_settings(root, "", text, lines)]


def _settings(node: Any, prefix: str, text: str, lines: list[str]) -> Iterator[Setting]:
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if key.value == "_target_" or name in _UNSAID:
            continue
        nested = isinstance(value, yaml.MappingNode) and not value.flow_style
        written = "" if nested else re.sub(r"\s+", " ", text[value.start_mark.index : value.end_mark.index])
        yield Setting(name, written, _comment(lines, key.start_mark.line))
        if nested:
            yield from _settings(value, name + ".", text, lines)


def _comment(lines: list[str], line: int) -> str:
    """Return the comment at the end of a line, with the comment lines that go on below it, indented."""
    found = re.search(r"\s#\s(.*)$", lines[line])
    said = [found[1]] if found else []
    while said and line + 1 < len(lines) and (more := re.match(r"\s{4,}#\s+(.*)$", lines[line + 1])):
        said.append(more[1])
        line += 1
    return " ".join(said)


def explanation(setting: Setting, group: str) -> str:
    """Return what a setting means, wherever in conf/ it is said; "" if nowhere."""
    name = setting.name
    while name:
        said = setting.comment if name == setting.name else ""
        said = said or _said_in_group(name, group) or _said_in_group(name, _OF_COMMANDS.get(name.split(".")[0], group))
        if said:
            return said
        name = name.rpartition(".")[0]
    return ""


def _said_in_group(name: str, group: str) -> str:
    files = sorted((CONF / group).glob("*.yaml")) or [CONF / f"{group}.yaml"]
    said = [one.comment for file in files for one in settings_of(file) if one.name == name and one.comment]
    return said[0] if said else ""


def head(file: Path) -> list[str]:
    """Return the comment lines a file begins with."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("# @package")]
    end = next((place for place, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return [line.removeprefix("#").removeprefix(" ") for line in lines[:end]]


def settings_page() -> str:
    """Return the reference of all settings: one table per command, one per group of train."""
    text = ["# Settings\n", _INTRODUCTION]
    for command in COMMANDS:
        file = CONF / f"{command}.yaml"
        title = "Every command" if command == "base" else command
        judged = [CONF / "evaluation" / "default.yaml"] * ("evaluation: default" in file.read_text(encoding="utf-8"))
        text += [f"## {title}\n", *_usage(head(file)), *_table(file.stem, [file, *judged])]
    for group in ("data", *GROUPS):
        files = sorted((CONF / group).glob("*.yaml"))
        text += [f"## {group}\n"]
        if group == "data":
            files = [CONF / "data" / "folder.yaml"]
            text += ["Keys of a data set when training; the presets are in [recipes and data sets](recipes.md).\n"]
        else:
            text += ["| choice | what it is |", "|---|---|"]
            text += [f"| `{group}={file.stem}` | {_cell(' '.join(head(file)))} |" for file in files] + [""]
        text += _table(group, files)
    return "\n".join(text)


def _usage(lines: list[str]) -> list[str]:
    return ["```text", *lines, "```\n"]


def _table(group: str, files: list[Path]) -> list[str]:
    """Return the table of settings; of several files, which values they hold."""
    found: dict[str, dict[str, str]] = {}
    said: dict[str, str] = {}
    for file in files:
        for one in settings_of(file):
            if not one.value and not one.comment:
                continue
            found.setdefault(one.name, {})[file.stem] = one.value
            said.setdefault(one.name, explanation(one, group))
    prefix = f"{group}." if group in GROUPS else ""
    rows = [f"| `{prefix}{name}` | {_values(values)} | {_cell(said[name])} |" for name, values in found.items()]
    return ["| setting | as it comes | meaning |", "|---|---|---|", *rows, ""] if rows else []


def _values(values: dict[str, str]) -> str:
    kinds = dict.fromkeys(values.values())
    if len(kinds) == 1:
        return _code(next(iter(kinds)))
    of = {kind: [stem for stem, value in values.items() if value == kind] for kind in kinds}
    return "<br>".join(f"{_code(kind)} {', '.join(stems)}" for kind, stems in of.items())


def _code(value: str) -> str:
    return f"`{value}`".replace("|", "\\|") if value else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def recipes_page() -> str:
    """Return the recipes and data sets with what their files say of purpose, source, licence and checks."""
    text = ["# Recipes and data sets\n", "Generated from `conf/experiment` and `conf/data`.\n"]
    for title, folder, word in (
        ("Recipes", "experiment", "experiment"),
        ("Ranges for medvit search", "search_space", "search_space"),
        ("Data sets", "data", "data"),
    ):
        text.append(f"## {title}\n")
        for file in sorted((CONF / folder).glob("*.yaml")):
            text += [f"### `{word}={file.stem}`\n", *_usage(head(file))]
    return "\n".join(text)


PAGES = {"reference/settings.md": settings_page, "reference/recipes.md": recipes_page}


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages and notebooks (called by mkdocs)."""
    for place, page in PAGES.items():
        files.append(File.generated(config, place, content=page()))
    for page in sorted((Path(config.docs_dir) / "tutorials").glob("*.md")):
        notebook = jupytext.writes(jupytext.read(page, fmt="md"), fmt="ipynb")
        files.append(File.generated(config, f"tutorials/{page.stem}.ipynb", content=notebook))
    return files
