"""Every leaf of conf/ as one setting, found by globbing, and another value of it, that has to show.

A setting is a dotted key and what takes it: the nearest `_target_` above it, or a command. Leaves of presets, recipes
and words that name the same setting are one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import yaml

from medvit.config import conf_dir
from medvit.config_known import flat
from medvit.config_words import OPEN_MAPPINGS

SHARED = ("data", "experiment")  # folders of conf/ whose files set what commands and parts have
RANGES = "search_space"  # of settings that stand elsewhere: tests/test_search.py
GROUPS = sorted(path.name for path in conf_dir().iterdir() if path.is_dir() and path.name not in (*SHARED, RANGES))
COMMANDS = sorted(path.stem for path in conf_dir().glob("*.yaml") if path.stem != "base")
_POLICIES = {"data.accept", "data.series"}  # open mappings whose keys are fields of medvit's own


class Setting(NamedTuple):
    """`target` takes `key`: a class that conf/ names, or "" for a command."""

    target: str
    key: str

    def __str__(self) -> str:
        return f"{self.target.rpartition('.')[2]}:{self.key}" if self.target else self.key


def leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[Setting, Any]]:
    """Yield every leaf of a file of conf/ with its value; mappings with keys of the user's own are one leaf."""
    own = {key: value for key, value in content.items() if key not in ("defaults", "hydra")}
    found = dict(flat(own))
    for key, value in found.items():
        above = [key.rsplit(".", n)[0] for n in range(1, key.count(".") + 1)]
        open_above = {f"{prefix}{one}" for one in above} & OPEN_MAPPINGS - _POLICIES
        whole = f"{prefix}{key}" in OPEN_MAPPINGS - _POLICIES or not isinstance(value, dict) or not value
        if key.endswith("_target_") or open_above or not whole:
            continue
        holders = [found[one] for one in above if "_target_" in found[one]] + [own]
        yield Setting(str(holders[0].get("_target_", "")), f"{prefix}{key}"), value


@functools.cache
def words(group: str) -> dict[str, dict[Setting, Any]]:
    """Return the leaves of every word of a folder of conf/; "" gives those of the commands."""
    prefix = f"{group}." if group and group not in SHARED else ""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted((conf_dir() / group).glob("*.yaml"))}
    return {word: dict(leaves(yaml.safe_load(text) or {}, prefix)) for word, text in texts.items()}


def another(setting: Setting, value: Any, other: Mapping[str, Any]) -> Any:
    """Return another value: of the table `other`, by `Target:key` or key, or as the kind of the value suggests."""
    for name in (str(setting), setting.key):
        if name in other:
            return other[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 0.5 or 0.4
    raise LookupError(f"{setting}={value!r}: add to OTHER the value that has to show")
