"""What a config may call: the classes that conf/ names, and those the user trusts by the words of the command."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from medvit.config_words import nearest
from medvit.errors import ConfigError

_TARGET = re.compile(r"_target_:\s*([\w.]+)")
_TRUSTED: set[str] = set()
_STARTS_CODE = ("callbacks", "hydra_logging", "job_logging", "launcher", "sweeper")  # hydra makes objects of these


@functools.cache
def named(folder: Path) -> dict[str, frozenset[str]]:
    """Return every `_target_` of the YAML files in `folder` (conf/), by the folder of their group."""
    found: dict[str, set[str]] = {}
    for file in folder.rglob("*/*.yaml"):
        group = file.relative_to(folder).parts[0]
        found.setdefault(group, set()).update(_TARGET.findall(file.read_text(encoding="utf-8")))
    return {group: frozenset(names) for group, names in found.items()}


def trust_only(words: Iterable[str]) -> None:
    """Trust what `trust=[...]` names among the words of a command or of a call in Python, and nothing else."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    _TRUSTED.clear()
    given = [word for word in words if word.lstrip("+").startswith("trust=")]
    for override in OverridesParser.create().parse_overrides(given):
        value: Any = override.value()
        _TRUSTED.update(map(str, value if isinstance(value, list) else [value]))


def refusals(targets: Iterable[str], folder: Path, groups: Sequence[str] = ()) -> list[str]:
    """Return the targets that no file of conf/ names, in one of `groups` where these are given, and nobody trusts."""
    shipped = {name for group, names in named(folder).items() if not groups or group in groups for name in names}
    return [
        f"_target_ {target} is none of the classes that conf/ names{nearest(target, shipped, 0.8)}; if you trust its "
        f"code, add trust=[{target}] to the command line, the only place where trust counts"
        for target in dict.fromkeys(targets)
        if target not in shipped | _TRUSTED
    ]


def made(node: Any) -> Any:
    """Return the object of a node whose targets were checked; nothing in it is interpolated or resolved any more."""
    if isinstance(node, list):
        return [made(one) for one in node]
    if not isinstance(node, dict):
        return node
    values = {key: made(value) for key, value in node.items() if key != "_target_"}
    if "_target_" not in node:
        return values
    module, _, name = node["_target_"].rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"_target_ {node['_target_']} does not exist: {error}") from error
    return found(*values.pop("_args_", ()), **values)


def hydra_problems(asked: Any, shipped: Any) -> list[str]:
    """Return the settings of Hydra itself that would make it call what a config names, or change the environment."""
    parts = [f"hydra.{part}" for part in _STARTS_CODE if asked[part] != shipped[part]]
    parts += ["hydra.job.env_set"] * (asked["job"]["env_set"] != shipped["job"]["env_set"])
    return [f"{part} makes Hydra call what a config names; medvit does not take it: leave it out" for part in parts]
