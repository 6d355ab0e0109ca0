"""Commands as lines that a shell takes as they stand, for what medvit prints and for what its messages advise."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medvit.config_words import overrides_of

_RUNS = Path("runs")  # tracking.folder of conf/, which need not be given


def command_line(name: str, settings: Mapping[str, Any], runs: Path = _RUNS) -> str:
    """Return `python -m medvit.NAME key=value ...`, quoted for the shell and for Hydra.

    `runs` is the runs folder, given as tracking.folder where it is not the default one.
    """
    if runs.resolve() != _RUNS.resolve():
        near = runs.resolve().is_relative_to(Path.cwd())
        settings = {**settings, "tracking.folder": runs.resolve().relative_to(Path.cwd()) if near else runs.resolve()}
    return shlex.join(["python", "-m", f"medvit.{name}", *(_word(key, value) for key, value in settings.items())])


def anywhere(line: str) -> str:
    """Return a line of `command_line` for a new shell, wherever it starts: with this working folder and this Python."""
    return f"cd {shlex.quote(str(Path.cwd()))} && {shlex.quote(sys.executable)}{line.removeprefix('python')}"


def _word(key: str, value: Any) -> str:
    """Return key=value, in Hydra's quotes only where it would read the bare text as something else."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    bare = f"{key}={value}"
    try:
        if isinstance(value, str | Path) and OverridesParser.create().parse_override(bare).value() == str(value):
            return bare
    except HydraException:
        pass
    return overrides_of({key: value})[0]
