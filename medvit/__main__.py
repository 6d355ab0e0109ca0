"""`medvit` and `python -m medvit`: list the commands in the order of the work, or run one of them.

`medvit train ...` is `python -m medvit.train ...`: same settings, messages and exit codes.
"""

from __future__ import annotations

import difflib
import os
import re
import runpy
import sys
from pathlib import Path

_ORDER = (
    *("doctor", "init", "unpack", "index", "split", "weights", "embed", "pretrain", "train", "search"),
    *("crossval", "curve"),
    *("evaluate", "compare", "register", "export", "predict", "classify", "sync"),
)
_FIRST_LINE = re.compile(r'"""`python -m medvit\.\w+[^`]*`: (.*?)\.?(?:""")?$')
_UNKNOWN = 2  # as a ConfigError
_COMPLETION = {"--shell-completion", "-sc"}


def commands() -> dict[str, str]:
    """Return every command with the first line of its module's docstring, in the order of the work."""
    found = {}
    for file in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        with file.open(encoding="utf-8") as text:
            if told := _FIRST_LINE.match(text.readline().rstrip()):
                found[file.stem] = told[1]
    known = [name for name in _ORDER if name in found]
    return {name: found[name] for name in [*known, *sorted(found.keys() - set(known))]}


def overview() -> str:
    """Return the page that `medvit` alone and `medvit --help` print."""
    lines = [f"  {name:<10}{purpose}" for name, purpose in commands().items()]
    head = "medvit COMMAND [setting=value ...], the same as python -m medvit.COMMAND; in the order of the work:"
    tail = (
        "medvit COMMAND --help shows the settings of one. To complete commands and settings in bash (zsh, fish):\n"
        '  eval "$(medvit train --shell-completion install=bash)"'
    )
    return "\n".join([head, "", *lines, "", tail, ""])


def main() -> None:
    """Run the command that `sys.argv` names; exit code 2 for one that does not exist."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in {"--help", "-h", "help"}:
        sys.stdout.write(overview())
        return
    known = commands()
    if name in _COMPLETION:
        _complete(known)
        return
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean `medvit {near[0]}`?" if near else f"expected one of {', '.join(known)}"
        sys.stderr.write(f"ConfigError: medvit has no command {name!r}; {hint} (`medvit` alone lists all)\n")
        sys.exit(_UNKNOWN)
    sys.argv[1:] = arguments
    if _COMPLETION & set(arguments):
        _hydra(name)
    else:
        runpy.run_module(f"medvit.{name}", run_name="__main__", alter_sys=True)


def _complete(known: dict[str, str]) -> None:
    """Answer the shell, which asks `medvit -sc query=SHELL` with the line so far in COMP_LINE."""
    line = os.environ.get("COMP_LINE", "")
    _, _, rest = line.partition(" ")
    name, space, settings = rest.lstrip().partition(" ")
    if space and name in known:
        os.environ["COMP_LINE"] = f"medvit {settings}"
        _hydra(name)
    else:
        sys.stdout.write(" ".join(known) + "\n")


def _hydra(name: str) -> None:
    """Let Hydra complete the settings of a command: for the word `medvit`, so that `sys.argv` names no file."""
    sys.argv[0] = "medvit"
    runpy.run_module(f"medvit.{name}", run_name="__main__")


if __name__ == "__main__":
    main()
