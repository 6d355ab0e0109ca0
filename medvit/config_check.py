"""Everything that can be wrong with the settings, found at once and without importing torch."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from medvit.config_known import absent, flat, of_command, unknown, unread, unused
from medvit.config_targets import hydra_problems, refusals, target_problems, targets, trust_only
from medvit.config_words import completed, nearest, nearest_setting, setting_with, words_with
from medvit.errors import MedvitError
from medvit.mlflow_server import store_problems

Check = Callable[[dict[str, Any]], list[str]]


def preflight(
    folder: Path, name: str, arguments: list[str], check: Check | None, trial: Check | None = None
) -> list[str]:
    """Return every problem of `arguments` against conf/`name`.yaml, nearest valid names included.

    A word that is wrong is told and left out, so that the others are checked too, down to `check` of the command,
    and, where anything is wrong, its `trial`.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

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
        jobs = (preflight(folder, name, job, check, trial) for job in _jobs(overrides))
        return list(dict.fromkeys([*problems, *(problem for job in jobs for problem in job)]))
    trust_only(o.input_line for o in overrides)
    roots = [folder, *_search_path(overrides)]
    groups = [o for o in overrides if _is_group(roots, o.get_key_element())]
    bad = {o.key_or_group: found for o in groups if (found := _unknown_choice(roots, o))}
    problems += [problem for found in bad.values() for problem in found]
    kept = [o for o in overrides if o.key_or_group not in bad]
    later = _composed(folder, name, kept, [o for o in kept if o in groups], check, trial, told=bool(problems))
    if {"experiment", "data"} & bad.keys():  # they may hold what is missing, and set what contradicts something
        later = [each for each in later if each.startswith("'")]
    return list(dict.fromkeys([*problems, *(each for each in later if not _of_groups(each, bad))]))


def _of_groups(problem: str, groups: Iterable[str]) -> bool:
    """Return whether a problem is about parts that were not found: it would be another with the right ones."""
    return any(re.search(rf"(^|[\s'({{]){re.escape(group)}[.=:]", problem) for group in groups)


def _composed(
    folder: Path,
    name: str,
    overrides: list[Any],
    groups: list[Any],
    check: Check | None,
    trial: Check | None = None,
    *,
    told: bool = False,
) -> list[str]:
    """Return the problems of overrides that can be parsed, with groups that are there; `told`: there are others."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    GlobalHydra.instance().clear()
    problems: list[str] = []
    with initialize_config_dir(str(folder), version_base="1.3"):
        try:
            paths = [o for o in overrides if o.get_key_element() == "hydra.searchpath"]
            base = compose(name, [o.input_line for o in (*groups, *paths)])
            defaults = dict(flat(OmegaConf.to_container(base)))
            texts = _texts(folder, name)
            wrong = {
                o.input_line: said
                for o in overrides
                if o not in groups and (said := _bad_key(o, defaults, texts, folder))
            }
            problems += [problem for found in wrong.values() for problem in found]
            used = [o for o in overrides if o.input_line not in wrong]
            config = compose(name, [o.input_line for o in used], return_hydra_config=True)
            written: Any = OmegaConf.to_container(config)
            problems += hydra_problems(written.pop("hydra"), _hydra_of(name))
            if written["trust"] and not any(o.key_or_group == "trust" for o in overrides):
                problems.append("trust stands in a preset or recipe; it counts on the command line alone: trust=[...]")
            known, given = of_command(name), [o.key_or_group for o in used if o not in groups]
            made = (written.get("data") or {}).get("generate") or {}
            generated = Path(str(made.get("folder"))).parent == Path(str(written["data"]["folder"])) if made else False
            strange = unknown(written, known, defaults)
            problems += [*strange.values(), *unread(name, given, known, generated), *unused(name, given, written)]
            problems += [*absent(written, known[name]), *_no_lists(written, used), *_no_values(written)]
            complete = _completed(config, written, known[name], strange)
            whole = OmegaConf.masked_copy(complete, [key for key in written if key in complete])
            settings: Any = completed(OmegaConf.to_container(whole, resolve=True))
        except (HydraException, OmegaConfBaseException) as error:
            return problems or [" ".join(str(error).split())]
    problems += [
        *refusals(targets(settings), folder),
        *target_problems(settings),
        *store_problems(settings.get("tracking") or {}),
    ]
    problems += _checked(check, settings, written, told=bool(problems)) if check else []
    tried = _checked(trial, settings, written, told=True) if trial and (problems or told) else []
    return [*problems, *(each for each in tried if not any(one in each or each in one for one in problems))]


@functools.cache
def _hydra_of(name: str) -> Any:
    """Return Hydra's own settings as conf/ has them for a command."""
    from hydra import compose
    from omegaconf import OmegaConf

    return OmegaConf.to_container(compose(name, return_hydra_config=True)["hydra"])


def _completed(config: Any, written: Any, known: dict[str, Any], strange: Iterable[str]) -> Any:
    """Return the config without what is no setting, and with stand-ins for what is missing: so the rest can be read."""
    from omegaconf import OmegaConf, open_dict

    lists = _parted(dict(flat(written)))
    with open_dict(config):
        for key in strange:
            above, _, last = key.rpartition(".")
            (OmegaConf.select(config, above) if above else config).pop(last)
        for key in _missing(written):
            OmegaConf.update(config, key, ["?"] if key in lists else "?", force_add=True)
        for key in lists:
            value = OmegaConf.select(config, key)
            if isinstance(value, str | int | float):
                OmegaConf.update(config, key, [value], force_add=True)
        for key in {each.split(" ")[0] for each in absent(written, known)}:
            OmegaConf.update(config, key, known[key], force_add=True)
    return config


def _missing(written: Any) -> list[str]:
    return sorted(key for key, value in flat(written) if value == "???")


def _checked(check: Check, settings: dict[str, Any], written: Any, *, told: bool) -> list[str]:
    """Return what a command's own check finds, but for what has no value or refers to that, and is told already.

    Where something is told, the settings may be such that the check cannot read them.
    """
    missing = _missing(written)
    about = {key for key, value in flat(written) if any(f"${{{one}" in str(value) for one in missing)} | {*missing}
    try:
        found = check(settings)
    except (KeyError, TypeError, AttributeError, ValueError):
        if not told:
            raise
        return []
    return [each for each in found if not any(re.match(rf"{re.escape(key)}\b", each) for key in about)]


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


def refused_by(*steps: Callable[[], object]) -> list[str]:
    """Return what steps that only look at settings refuse, one line for each problem."""
    found: list[str] = []
    for step in steps:
        try:
            step()
        except (MedvitError, TypeError) as error:
            found += re.split(r"; (?!did you mean|expected|give |leave |use )|\n", str(error))
    return found


def out_of_range(prefix: str, node: dict[str, Any], limits: dict[str, tuple[float, float]]) -> list[str]:
    """Return the numbers of `node` outside their (least, most), by name behind `prefix`; those not there are left."""
    return [
        f"{prefix}{name}={node[name]}: expected {least:g} " + ("and more" if most == float("inf") else f"to {most:g}")
        for name, (least, most) in limits.items()
        if name in node and (node[name] is None or not least <= node[name] <= most)
    ]


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
        f"{group}={item} does not exist{nearest(str(item), options) or _of_a_setting(roots, group, item)}; "
        f"{group} can be {', '.join(options)}"
        for item in wanted
        if item not in options and not any((root / group / f"{item}.yaml").is_file() for root in roots)
    ]


def _of_a_setting(roots: list[Path], group: str, word: object) -> str:
    """Return the setting of one of a group's words that takes this word, as trainer.accelerator takes gpu."""
    files = sorted((roots[0] / group).glob("*.yaml"))
    texts = [re.sub(r"^(?=\w)", " ", file.read_text(encoding="utf-8"), flags=re.MULTILINE) for file in files]
    return setting_with(group, word, [f"{group}:\n{text}" for text in texts])


def _texts(folder: Path, name: str) -> list[str]:
    """Return the text of a command's config, and of those in its defaults whose settings stand beside its own."""
    from omegaconf import DictConfig, OmegaConf

    own = (folder / f"{name}.yaml").read_text(encoding="utf-8")
    parts = [each for each in OmegaConf.create(own).defaults if isinstance(each, DictConfig)]
    files = [folder / str(group) / f"{word}.yaml" for each in parts for group, word in each.items()]
    found = [file.read_text(encoding="utf-8") for file in files if file.is_file()]
    return [own, *(text for text in found if text.startswith("# @package _global_"))]


def _bad_key(override: Any, defaults: dict[str, Any], texts: list[str], folder: Path) -> list[str]:
    key = override.key_or_group
    if key.startswith("hydra.") or override.is_add() or override.is_force_add():
        return []
    if defaults.get(key.rpartition(".")[0]) == {}:
        return [f"{key} is not set by default; give it with a plus: +{key}=..."]
    if key not in defaults:
        return [f"'{key}' is not a setting{words_with(folder, key) or nearest_setting(key, defaults)}"]
    if override.is_delete():
        return []
    if isinstance(defaults[key], dict) and defaults[key] and isinstance(override.value(), str):
        several = f"{key}={override.value()}: {key} holds several settings"
        within = ", ".join(f"{key}.{name}" for name in defaults[key])
        return [f"{several}{setting_with(key, override.value(), texts) or f'; give one, such as {within}'}"]
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
