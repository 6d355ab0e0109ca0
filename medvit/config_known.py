"""Which settings a command knows: those of conf/, arguments of a `_target_`, and what another setting refers to."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from typing import Any

from medvit.config_words import OPEN_MAPPINGS, nearest_setting

_OF_A_DATA_SET = ("index", "split", "train", "pretrain")  # commands that take a preset of conf/data, which serves all
_TRAINS = ("crossval",)  # commands that take all of train besides what is their own
_NOT_READ = {  # settings of that preset which stand in a command's own config for another command
    "index": {"labels.values"},
    "split": set[str](),
    "train": {"data.root", "labels.csv", "labels.keep", "labels.on"},
    "pretrain": {"data.root", *(f"labels.{key}" for key in ("csv", "keep", "on", "target", "values"))},
}
_NOT_READ |= dict.fromkeys(_TRAINS, _NOT_READ["train"])
_NEEDS: dict[
    tuple[str, str], tuple[str, tuple[Any, ...]]
] = {  # used where another setting has one of these values, or any
    ("split", "split.folds"): ("split.strategy", ("kfold", "nested")),
    ("split", "split.column"): ("split.strategy", ("leave_one_out", "after", "given")),
    ("split", "split.cutoff"): ("split.strategy", ("after",)),
    ("split", "split.on_shared"): ("split.strategy", ("given",)),
    ("split", "split.fractions"): ("split.strategy", ("stratified", "kfold")),
    ("crossval", "seed"): ("seeds", (None,)),
    ("split", "embed"): ("audit", (True,)),
    ("train", "tracking.register"): ("tracking.log_model", (True,)),
    ("train", "subset.seed"): ("subset.share", ()),
    ("embed", "model.image_size"): ("model.weights", ()),
    ("embed", "weights.accept_licence"): ("model.weights", ()),
    ("embed", "tracking.folder"): ("run", ()),
    ("embed", "batch_size"): ("run", ()),
    ("embed", "neighbours"): ("page", (True,)),
    ("embed", "clusters"): ("page", (True,)),
    ("embed", "seed"): ("page", (True,)),
    ("evaluate", "data.name"): ("data.folder", ()),
    ("evaluate", "sections.images"): ("sections.explain", (True,)),
    ("evaluate", "sections.methods"): ("sections.explain", (True,)),
    ("evaluate", "sections.permuted"): ("sections.explain", (True,)),
}


NAMED_PARTS = frozenset({"callbacks", "logger", "metrics"})
"""Groups that hold parts under names of the user's own: {_target_: CLASS, ...} each."""


def flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting of a nested config with its dotted name, groups before what they hold."""
    if prefix:
        yield prefix, node
    if isinstance(node, dict):
        for key, value in node.items():
            yield from flat(value, f"{prefix}.{key}" if prefix else str(key))


@functools.cache
def of_command(name: str) -> dict[str, dict[str, Any]]:
    """Return the settings of conf/ that `name` takes with their values there, by the command that reads them."""
    from hydra import compose
    from omegaconf import OmegaConf

    found = {}
    known = [name if each == "train" and name in _TRAINS else each for each in _OF_A_DATA_SET]
    for command in sorted(known, key=name.__ne__) if name in known else [name]:
        composed: Any = OmegaConf.to_container(
            compose(command, [] if command in ("index", "split") or name not in known else ["data=folder"])
        )
        found[command] = dict(flat(composed)) if command == name else _of_data(composed)
        found[command] |= {key: {} for key in _referred(flat(composed)) - found[command].keys()}
    return found


def _of_data(composed: dict[str, Any]) -> dict[str, Any]:
    return dict(flat({key: value for key, value in composed.items() if key in ("data", "labels", "split")}))


def unknown(written: Any, known: dict[str, dict[str, Any]], chosen: dict[str, Any]) -> dict[str, str]:
    """Return the settings of a composed, unresolved config that nothing reads, each with the nearest that is read.

    `chosen` is the config of the same groups without single settings: a mapping empty there takes no key.
    """
    settings, everyones = dict(flat(written)), {key for each in known.values() for key in each}
    referred = _referred(settings.items())
    problems: dict[str, str] = {}
    for key in settings:
        above = _above(key)
        is_argument = any("_target_" in settings[one] for one in above if isinstance(settings.get(one), dict))
        is_free = (OPEN_MAPPINGS | NAMED_PARTS) & {key, *above} or any(
            f"{one}.".startswith(f"{key}.") for one in referred
        )
        if problems.keys() & set(above) or is_argument or is_free:
            continue
        if key.rpartition(".")[2] in {"True", "False"}:
            word = '"on" or "yes"' if key.endswith("True") else '"off" or "no"'
            problems[key] = f"{key}: YAML reads on, off, yes and no as true and false; put the key in quotes: {word}"
        elif key not in everyones:
            problems[key] = f"'{key}' is not a setting{nearest_setting(key, everyones)}"
        elif key not in chosen and any(chosen.get(one) == {} for one in above):
            problems[key] = f"'{key}' is not used by what is chosen for {key.partition('.')[0]}; leave it out"
    return problems


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


def unused(name: str, given: Iterable[str], written: Any) -> list[str]:
    """Return the settings given that another one, as it is, leaves without effect."""
    settings, problems = dict(flat(written)), []
    for key in given:
        if name == "index" and key.startswith("labels.") and key != "labels.csv" and not settings.get("labels.csv"):
            problems.append(f"{key} is not used without labels.csv=FILE: give that, or leave {key} out")
            continue
        other, values = _NEEDS.get((name, key), ("", ()))
        value = settings.get(other)
        if other and (value in values if values else value):
            continue
        if other:
            right = " or ".join(f"{other}={each}" for each in values) if values else f"{other}=..."
            right = right.replace("True", "true").replace("None", "null")
            problems.append(f"{key} is used with {right} alone: give that, or leave {key} out")
    return problems


def _above(key: str) -> list[str]:
    return [key.rsplit(".", n)[0] for n in range(1, key.count(".") + 1)]


def _referred(settings: Iterable[tuple[str, Any]]) -> set[str]:
    """Return the keys that occur in interpolations, as in `${data.root}/labels.csv`."""
    texts = (value for _, value in settings if isinstance(value, str))
    return {key for text in texts for key in re.findall(r"\$\{(?:oc\.\w+:)?([\w.]+)", text)}
