"""What a config may call: the classes that conf/ names, MONAI's transforms of arrays, and those the user trusts.

Trust is given by the words of a command alone.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from medvit.config_words import nearest
from medvit.errors import ConfigError
from medvit.renamed import TARGETS

_TARGET = re.compile(r"_target_:\s*([\w.]+)")
_TRUSTED: set[str] = set()
_MONAI = re.compile(r"monai\.transforms\.[A-Z]\w*")  # arrays in, arrays out: no trust needed
# but for those that read or write files, print pixels, or call what they are given by its name
_NO_ARRAYS = re.compile(
    r"monai\.transforms\.(Rand)?(Load|Save|Write|Lambda|DataStats|TorchVision|TorchIO|CuCIM|SimulateDelay)"
)
_STARTS_CODE = ("callbacks", "hydra_logging", "job_logging", "launcher", "sweeper")  # hydra makes objects of these


@functools.cache
def named(folder: Path) -> dict[str, frozenset[str]]:
    """Return every `_target_` of the YAML files in `folder` (conf/), by the folder of their group."""
    names: dict[str, set[str]] = {}
    for file in folder.rglob("*/*.yaml"):
        group = file.relative_to(folder).parts[0]
        names.setdefault(group, set()).update(_TARGET.findall(file.read_text(encoding="utf-8")))
    return {group: frozenset(each) for group, each in names.items()}


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
    shipped = _shipped(folder, groups)
    return [
        _no_module(target)
        if target.isidentifier()
        else f"_target_ {target} is none of the classes that conf/ names{nearest(target, shipped, 0.8)}; if you trust "
        f"its code, add trust=[{target}] to the command line, the only place where trust counts"
        for target in dict.fromkeys(targets)
        if needs_trust(target, folder, groups) and TARGETS.get(target, target) not in _TRUSTED
    ]


def _no_module(name: str) -> str:
    """Say where a class is that is named without its module, by MONAI's list of transforms, which is not imported."""
    found = importlib.util.find_spec("monai")
    file = Path(str(found.origin)).parent / "transforms" / "__init__.py" if found and found.origin else Path()
    known = set(re.findall(r"\b[A-Z]\w+", file.read_text(encoding="utf-8"))) if file.is_file() else set()
    if name in known:
        return f"_target_ {name} names no module; write monai.transforms.{name}"
    close = nearest(name, known, 0.8).replace("'", "'monai.transforms.", 1)
    return f"_target_ {name} names no module{close}; expected the module too, such as my_steps.{name}"


def needs_trust(target: str, folder: Path, groups: Sequence[str] = ()) -> bool:
    """Say whether a target counts only where the words of a command trust it; arguments as of `refusals`."""
    return TARGETS.get(target, target) not in _shipped(folder, groups) and not _changes_arrays(target)


def _shipped(folder: Path, groups: Sequence[str]) -> set[str]:
    return {name for group, names in named(folder).items() if not groups or group in groups for name in names}


def _changes_arrays(target: str) -> bool:
    return bool(_MONAI.fullmatch(target)) and not _NO_ARRAYS.match(target)


def made(node: Any) -> Any:
    """Return the object of a node whose targets were checked; nothing in it is interpolated or resolved any more.

    What a class names in `AS_WRITTEN` it is given as it stands in the config: a list of transforms that it compiles.
    """
    if isinstance(node, list):
        return [made(one) for one in node]
    if not isinstance(node, dict):
        return node
    if "_target_" not in node:
        return {key: made(value) for key, value in node.items()}
    found = imported(node["_target_"])
    kept = getattr(found, "AS_WRITTEN", ())
    values = {key: value if key in kept else made(value) for key, value in node.items() if key != "_target_"}
    try:
        return found(*values.pop("_args_", ()), **values)
    except TypeError as error:
        if strange := _not_taken(found, values):
            raise ConfigError(f"{node['_target_']} cannot be built: {'; '.join(strange)}") from error
        raise


def _not_taken(kind: Any, values: dict[str, Any]) -> list[str]:
    """Return the arguments that a class or function has no parameter for, with the nearest it has."""
    try:
        known = inspect.signature(kind).parameters
    except (TypeError, ValueError):
        return []
    if any(one.kind is one.VAR_KEYWORD for one in known.values()):
        return []
    return [f"it takes no '{key}'{nearest(key, known)}" for key in values if key not in known]


def imported(target: str) -> Any:
    """Return the class or function of a target that was checked; raises ConfigError where there is none."""
    if _NO_ARRAYS.match(target) and target not in _TRUSTED:
        raise ConfigError(
            f"_target_ {target} reads, writes, prints or calls what it is given: no step of medvit's pipeline; if you "
            f"need it, add trust=[{target}] to the command line"
        )
    module, _, name = target.rpartition(".")
    if not module:
        raise ConfigError(_no_module(name))
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        there = [f"{module}.{one}" for one in dir(sys.modules.get(module))] if isinstance(error, AttributeError) else []
        raise ConfigError(f"_target_ {target} does not exist: {error}{nearest(target, there, 0.8)}") from error


def hydra_problems(asked: Any, shipped: Any) -> list[str]:
    """Return the settings of Hydra itself that would make it call what a config names, or change the environment."""
    parts = [f"hydra.{part}" for part in _STARTS_CODE if asked[part] != shipped[part]]
    parts += ["hydra.job.env_set"] * (asked["job"]["env_set"] != shipped["job"]["env_set"])
    return [f"{part} makes Hydra call what a config names; medvit does not take it: leave it out" for part in parts]


def targets(node: Any) -> Iterator[str]:
    """Yield every `_target_` in a nested config."""
    for found in _nodes(node):
        yield found["_target_"]


def target_problems(settings: Any) -> list[str]:
    """Return arguments that a medvit target does not take, or lacks, read from its source without importing it."""
    problems = []
    for node in _nodes(settings):
        target = node["_target_"]
        signature = _signature(target) if target.startswith("medvit.") else None
        if signature is None:
            continue
        names, _ = signature
        unknown = [key for key in node if not key.startswith("_") and key not in names]
        problems += [f"{target} takes no '{key}'{nearest(key, sorted(names))}" for key in unknown]
    return problems


def _nodes(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if isinstance(node.get("_target_"), str):
            yield node
        for value in node.values():
            yield from _nodes(value)
    elif isinstance(node, list):
        for value in node:
            yield from _nodes(value)


def _signature(target: str) -> tuple[set[str], set[str]] | None:
    """Return (all, required) parameter names of a medvit class or function, or None where they cannot be known."""
    module, _, name = target.rpartition(".")
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    if spec is None or not spec.origin:
        return None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return _arguments(node.args, skip=0)
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _class_arguments(node, tree)
    return None


def _class_arguments(node: ast.ClassDef, tree: ast.Module) -> tuple[set[str], set[str]] | None:
    """Return the parameters of a class: of its `__init__`, or of its dataclass fields and those of its bases."""
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            return _arguments(part.args, skip=1)
    names, required = set[str](), set[str]()
    for base in node.bases:
        inherited = _base_arguments(ast.unparse(base), tree)
        if inherited is None:
            return None
        names |= inherited[0]
        required |= inherited[1]
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        for part in node.body:
            if not isinstance(part, ast.AnnAssign) or not isinstance(part.target, ast.Name):
                continue
            if "ClassVar" not in ast.unparse(part.annotation):
                names.add(part.target.id)
                required |= {part.target.id} if part.value is None else set()
    return names, required


def _base_arguments(name: str, tree: ast.Module) -> tuple[set[str], set[str]] | None:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _class_arguments(node, tree)
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            return _signature(f"{node.module}.{name}")
    return None


def _arguments(arguments: ast.arguments, skip: int) -> tuple[set[str], set[str]] | None:
    if arguments.kwarg:
        return None
    positional = [*arguments.posonlyargs, *arguments.args][skip:]
    required = {a.arg for a in positional[: len(positional) - len(arguments.defaults)]}
    required |= {a.arg for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d is None}
    return {a.arg for a in [*positional, *arguments.kwonlyargs]}, required
