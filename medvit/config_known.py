"""Which settings a command knows: those of conf/, arguments of a `_target_`, and what another setting refers to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from medvit.config_words import OPEN_MAPPINGS, nearest_setting

_OF_A_DATA_SET = ("index", "split", "train")  # commands that take a preset of conf/data, which serves all three
_NOT_READ = {  # settings of that preset which stand in a command's own config for another command
    "index": {"labels.values"},
    "split": set[str](),
    "train": {"data.root", "labels.csv", "labels.keep", "labels.on"},
}


def flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting of a nested config with its dotted name, groups before what they hold."""
    if prefix:
        yield prefix, node
    if isinstance(node, dict):
        for key, value in node.items():
            yield from flat(value, f"{prefix}.{key}" if prefix else str(key))


def of_command(name: str) -> dict[str, dict[str, Any]]:
    """Return the settings of conf/ that `name` takes with their values there, by the command that reads them."""
    from hydra import compose
    from omegaconf import OmegaConf

    found = {}
    for command in sorted(_OF_A_DATA_SET, key=name.__ne__) if name in _OF_A_DATA_SET else [name]:
        composed: Any = OmegaConf.to_container(compose(command, ["data=folder"] if command == "train" else []))
        found[command] = dict(flat(composed)) if command == name else _of_data(composed)
        found[command] |= {key: {} for key in _referred(flat(composed)) - found[command].keys()}
    return found


def _of_data(composed: dict[str, Any]) -> dict[str, Any]:
    return dict(flat({key: value for key, value in composed.items() if key in ("data", "labels", "split")}))


def unknown(written: Any, known: dict[str, dict[str, Any]], chosen: dict[str, Any]) -> list[str]:
    """Return the settings of a composed, unresolved config that nothing reads, each with the nearest that is read.

    `chosen` is the config of the same groups without single settings: a mapping empty there takes no key.
    """
    settings, everyones = dict(flat(written)), {key for each in known.values() for key in each}
    referred = _referred(settings.items())
    problems: dict[str, str] = {}
    for key in settings:
        above = _above(key)
        is_argument = any("_target_" in settings[one] for one in above if isinstance(settings[one], dict))
        is_free = OPEN_MAPPINGS & {key, *above} or any(f"{one}.".startswith(f"{key}.") for one in referred)
        if problems.keys() & set(above) or is_argument or is_free:
            continue
        if key.rpartition(".")[2] in {"True", "False"}:
            word = '"on" or "yes"' if key.endswith("True") else '"off" or "no"'
            problems[key] = f"{key}: YAML reads on, off, yes and no as true and false; put the key in quotes: {word}"
        elif key not in everyones:
            problems[key] = f"'{key}' is not a setting{nearest_setting(key, everyones)}"
        elif key not in chosen and any(chosen.get(one) == {} for one in above):
            problems[key] = f"'{key}' is not used by what is chosen for {key.partition('.')[0]}; leave it out"
    return list(problems.values())


def absent(written: Any, known: dict[str, Any]) -> list[str]:
    """Return what a command reads and a config lacks: taken away by `~`, or not there in a preset of one's own.

    Arguments of a part and of the plan have defaults of their own.
    """
    settings, problems = dict(flat(written)), []
    for key, value in known.items():
        above = key.rpartition(".")[0]
        parents = [each.get(above, {}) if above else {} for each in (settings, known)]
        is_argument = any("_target_" in parent for parent in parents if isinstance(parent, dict))
        holds = not above or (isinstance(settings.get(above), dict) and above != "optim.plan")
        if key not in settings and value != {} and holds and not is_argument:
            problems.append(f"{key} is missing; give it a value (in conf/: {value})")
    return problems


def unread(name: str, given: Iterable[str], known: dict[str, dict[str, Any]], generated: bool) -> list[str]:
    """Return the settings of a data set that are given to one command and read by another alone.

    With `generated`, training makes and indexes the set itself and reads what that takes.
    """
    groups = {"data", "labels", "split"}
    own = {each: settings.keys() - groups - _NOT_READ.get(each, set()) for each, settings in known.items()}
    if generated:
        own[name] |= _NOT_READ[name]
    problems = []
    for key in given:
        path = {key, *_above(key)}
        readers = [each for each in known if own[each] & path]
        if key.startswith("data.generate.") and not generated:
            problems.append(f"{key} is not used: data.folder is not the folder of the generated set")
        elif key.partition(".")[0] in groups and readers and name not in readers:
            problems.append(f"{key} is read by `python -m medvit.{readers[0]}`, not by {name}: give it there")
    return problems


def _above(key: str) -> list[str]:
    return [key.rsplit(".", n)[0] for n in range(1, key.count(".") + 1)]


def _referred(settings: Iterable[tuple[str, Any]]) -> set[str]:
    """Return the keys that occur in interpolations, as in `${data.root}/labels.csv`."""
    texts = (value for _, value in settings if isinstance(value, str))
    return {key for text in texts for key in re.findall(r"\$\{(?:oc\.\w+:)?([\w.]+)", text)}
