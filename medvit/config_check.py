"""Everything that can be wrong with the settings, found at once and without importing torch."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from medvit.config_known import absent, flat, of_command, unknown, unread
from medvit.config_targets import hydra_problems, refusals, trust_only
from medvit.config_words import nearest, nearest_setting

Check = Callable[[dict[str, Any]], list[str]]


def preflight(folder: Path, name: str, arguments: list[str], check: Check | None) -> list[str]:
    """Return every problem of `arguments` against conf/`name`.yaml, nearest valid names included."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    parser = OverridesParser.create()
    overrides, problems = [], []
    for argument in arguments:
        try:
            overrides.append(parser.parse_override(argument))
        except HydraException:
            problems.append(
                f"{argument!r} is not of the form key=value; put quotes within quotes around a value that holds "
                "commas, '=' or brackets, such as 'data.root=\"films, old\"', and settings whose keys hold them into "
                "my_conf/experiment/mine.yaml, taken by experiment=mine"
            )
    if any(o.is_sweep_override() for o in overrides):
        return list(dict.fromkeys(p for job in _jobs(overrides) for p in preflight(folder, name, job, check)))
    trust_only(o.input_line for o in overrides)
    roots = [folder, *_search_path(overrides)]
    groups = [o for o in overrides if _is_group(roots, o.get_key_element())]
    problems += [p for o in groups for p in _unknown_choice(roots, o)]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(folder), version_base="1.3"):
        try:
            known_choices = [o.input_line for o in groups if not _unknown_choice(roots, o)]
            paths = [o.input_line for o in overrides if o.get_key_element() == "hydra.searchpath"]
            base = compose(name, known_choices + paths)
            defaults = dict(flat(OmegaConf.to_container(base)))
            problems += [p for o in overrides if o not in groups for p in _bad_key(o, defaults)]
            if problems:
                return [*dict.fromkeys(problems)]  # one for a mapping that replaces, which stands there twice
            config = compose(name, [o.input_line for o in overrides], return_hydra_config=True)
            written: Any = OmegaConf.to_container(config)
            shipped: Any = OmegaConf.to_container(compose(name, return_hydra_config=True)["hydra"])
            problems = hydra_problems(written.pop("hydra"), shipped)
            if written["trust"] and not any(o.key_or_group == "trust" for o in overrides):
                problems.append("trust stands in a preset or recipe; it counts on the command line alone: trust=[...]")
            known, given = of_command(name), [o.key_or_group for o in overrides if o not in groups]
            made = (written.get("data") or {}).get("generate") or {}
            generated = Path(str(made.get("folder"))).parent == Path(str(written["data"]["folder"])) if made else False
            problems += [*unknown(written, known, defaults), *unread(name, given, known, generated)]
            problems += absent(written, known[name])
            problems += [*_no_lists(written, overrides), *_no_values(written)]
            if problems:
                return problems
            settings: Any = OmegaConf.to_container(OmegaConf.masked_copy(config, list(written)), resolve=True)
        except (HydraException, OmegaConfBaseException) as error:
            return [*problems, " ".join(str(error).split())]
    problems += [*refusals(targets(settings), folder), *target_problems(settings), *_store(settings)]
    return problems or (check(settings) if check else [])


def _store(settings: dict[str, Any]) -> list[str]:
    """Return what names another MLflow store than the runs folder, which would be left unused."""
    folder = str((settings.get("tracking") or {}).get("folder") or "")
    found = [f"tracking.folder={folder}: expected a folder on this machine, not an address"] if "://" in folder else []
    own = f"sqlite:///{Path(folder).resolve()}/mlflow.db"
    return found + [
        f"{name} is set to another store than tracking.folder={folder}, where runs go: unset it (env -u {name} ...)"
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
        if folder and os.environ.get(name, own) not in ("", own)
    ]


def _jobs(overrides: list[Any]) -> list[list[str]]:
    """Return the words of jobs in which every value of a multirun occurs: each beside the first of the others."""
    values = [[o.input_line] for o in overrides]
    for place, override in enumerate(overrides):
        if override.is_sweep_override():
            key = override.input_line.partition("=")[0]
            values[place] = [f"{key}={value}" for value in override.sweep_string_iterator()]
    first = [each[0] for each in values]
    return [[*first[:at], one, *first[at + 1 :]] for at, each in enumerate(values) for one in each if len(each) > 1]


def _no_values(written: Any) -> list[str]:
    """Return the settings that must be given and are not; a list where some other setting takes an element of it."""
    values = dict(flat(written))
    lists = _parted(values)
    missing = sorted(key for key, value in values.items() if value == "???")
    return [f"{key} has no value; give {key}={'[NAME]' if key in lists else '...'}" for key in missing]


def _no_lists(written: Any, overrides: list[Any]) -> list[str]:
    """Return the overrides that give one word where a list is taken apart by another setting."""
    lists = _parted(dict(flat(written)))
    given = {o.key_or_group: o.value() for o in overrides if o.key_or_group in lists and not o.is_delete()}
    return [
        f"{key}={value}: expected a list; write {key}=[{value}]"
        for key, value in given.items()
        if isinstance(value, (str, int, float))
    ]


def _parted(values: dict[str, Any]) -> set[str]:
    """Return the keys whose elements are referred to, as in `${labels.target[0]}`."""
    return {key for value in values.values() for key in re.findall(r"\$\{([\w.]+)\[", str(value))}


def out_of_range(prefix: str, node: dict[str, Any], limits: dict[str, tuple[float, float]]) -> list[str]:
    """Return the numbers of `node` outside their (least, most), by name behind `prefix`; those not there are left."""
    return [
        f"{prefix}{name}={node[name]}: expected {least:g} " + ("and more" if most == float("inf") else f"to {most:g}")
        for name, (least, most) in limits.items()
        if name in node and (node[name] is None or not least <= node[name] <= most)
    ]


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


def _search_path(overrides: list[Any]) -> list[Path]:
    values = [o.value() for o in overrides if o.get_key_element() == "hydra.searchpath"]
    return [Path(str(item).removeprefix("file://")) for value in values for item in value]


def _is_group(roots: list[Path], key: str) -> bool:
    name = key.lstrip("+~").split("@")[0]
    return any((root / name).is_dir() for root in roots) and "." not in name


def _unknown_choice(roots: list[Path], override: Any) -> list[str]:
    group, choice = override.get_key_element().lstrip("+~").split("@")[0], override.value()
    options = sorted({p.stem for root in roots for p in (root / group).glob("*.yaml")})
    wanted = choice if isinstance(choice, list) else [choice]
    return [
        f"{group}={item} does not exist{nearest(str(item), options)}; {group} can be {', '.join(options)}"
        for item in wanted
        if item not in options and not any((root / group / f"{item}.yaml").is_file() for root in roots)
    ]


def _bad_key(override: Any, defaults: dict[str, Any]) -> list[str]:
    key = override.key_or_group
    if key.startswith("hydra.") or override.is_add() or override.is_force_add():
        return []
    if defaults.get(key.rpartition(".")[0]) == {}:
        return [f"{key} is not set by default; give it with a plus: +{key}=..."]
    if key not in defaults:
        return [f"'{key}' is not a setting{nearest_setting(key, defaults)}"]
    if override.is_delete():
        return []
    return _bad_type(key, override.value(), defaults[key])


def _bad_type(key: str, value: Any, default: Any) -> list[str]:
    kinds = {bool: (bool,), int: (int,), float: (int, float), list: (list,), dict: (dict,)}
    allowed = kinds.get(type(default))
    is_reference = isinstance(value, str) and value.startswith("${")
    if allowed is None or value is None or is_reference:
        return []
    wrong = not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed)
    if wrong and isinstance(default, dict) and default:
        return [
            f"{key}={value}: {key} holds several settings; give one, such as {', '.join(f'{key}.{n}' for n in default)}"
        ]
    found = f"{value!r} ({type(value).__name__})"
    return [f"{key}={found} is not of type {type(default).__name__} (default {default!r})"] if wrong else []
