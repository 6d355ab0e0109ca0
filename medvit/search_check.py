"""What is wrong with the settings of a search, told at once and before anything heavy is imported."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medvit.config import conf_dir
from medvit.config_check import out_of_range, preflight
from medvit.config_words import overrides_of, readable
from medvit.train import check as check_training
from medvit.tuning.space import Choices, Parameter, parsed

_OWN = ("tracking", "resume", "extend")  # of a training: what the search itself sets
_ALIKE = ("data", "labels", "task", "seed", "experiment", "trust", "subset", "trainer.devices",
          "trainer.limit_val_batches", "trainer.fast_dev_run", "trainer.overfit_batches", *_OWN)  # fmt: skip
_MAY_DIFFER = ("data.sampler", "task.loss", "task.options", "task.smoothing",
               "task.balanced", "data.mean", "data.std")  # fmt: skip
_EXAMPLE = "{optim.plan.lr: {low: 1e-4, high: 1e-2, log: true}, pool: {choices: [mean, attention]}}"


def space_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ranges given, or else those of conf/search_space that have the name of the recipe."""
    recipe = settings["train"].get("experiment")
    if settings["space"] or not recipe:
        return dict(settings["space"])
    for folder in (conf_dir(), Path(os.environ.get("MEDVIT_CONF", "my_conf"))):
        file = folder / "search_space" / f"{recipe}.yaml"
        if file.is_file():
            from omegaconf import OmegaConf

            found: Any = OmegaConf.to_container(OmegaConf.load(file))
            return dict(found)
    return {}


def check(settings: dict[str, Any]) -> list[str]:
    """Return what is wrong with the settings and with each value that they let a trial have."""
    wrong = [*_numbers(settings), *_storage(settings["storage"])]
    given = settings["train"]
    if not isinstance(given, Mapping):
        return [*wrong, f"train={given}: expected settings of medvit.train: {{experiment: RECIPE, data.folder: DIR}}"]
    space = space_of(settings)
    if not space:
        wrong.append(f"space={{}}: expected names of settings of medvit.train with their ranges: {_EXAMPLE}")
    ranges, told = parsed(space)
    wrong += told
    words = overrides_of(given)
    names = [word.lstrip("+").partition("=")[0] for word in words]
    wrong += [f"train: {name} is for the search to set; leave it out" for name in names if _is(name, _OWN)]
    for name in space:
        if _is(name, _ALIKE) and not _is(name, _MAY_DIFFER):
            wrong.append(f"space.{name}: trials are compared on the same data and question; leave it out")
        elif name in names:
            wrong.append(f"space.{name}: train gives {name} too; leave it out there, or here")
    seen: list[dict[str, Any]] = []

    def checked(each: dict[str, Any]) -> list[str]:
        seen.append(each)
        return check_training(each)

    base = preflight(conf_dir(), "train", readable(words), checked)
    wrong += [f"train: {problem}" for problem in base]
    if "trainer.devices" in names and seen and not _one(seen[-1]["trainer"]["devices"]):
        wrong.append(f"train: trainer.devices={seen[-1]['trainer']['devices']}: a trial trains on one device; "
                     "start the command once for each, and say which by CUDA_VISIBLE_DEVICES")  # fmt: skip
    tried = {name: each for name, each in ranges.items() if name not in names and not _refused(name)}
    return list(dict.fromkeys([*wrong, *_values(words, tried, base)]))


def _numbers(settings: Mapping[str, Any]) -> list[str]:
    whole = {"trials": settings["trials"], "sampler.seed": settings["sampler"]["seed"],
             "sampler.startup": settings["sampler"]["startup"]}  # fmt: skip
    pruning = settings["pruning"]
    if pruning is not None:
        whole |= {f"pruning.{key}": pruning[key] for key in ("startup", "warmup_epochs")}
    bad = [name for name, value in whole.items() if isinstance(value, bool) or not isinstance(value, int)]
    wrong = [f"{name}={whole[name]}: expected a whole number" for name in bad]
    from_0 = ("sampler.seed", "pruning.warmup_epochs")
    limits = {name: (0.0 if name in from_0 else 1.0, float("inf")) for name in whole}
    return wrong + out_of_range("", {k: v for k, v in whole.items() if k not in bad}, limits)


def _storage(storage: str | None) -> list[str]:
    wrong = []
    if find_spec("optuna") is None:
        wrong.append("medvit search draws by Optuna, which is not installed: pip install 'medvit[search]'")
    if storage is not None and "://" not in str(storage):
        wrong.append(f"storage={storage}: expected an address such as postgresql+psycopg2://USER@HOST/DATABASE, or "
                     "null for the file search.db in tracking.folder")  # fmt: skip
    return wrong


def _is(name: str, groups: tuple[str, ...]) -> bool:
    return any(name == group or name.startswith(f"{group}.") for group in groups)


def _refused(name: str) -> bool:
    return _is(name, _ALIKE) and not _is(name, _MAY_DIFFER)


def _one(devices: Any) -> bool:
    return str(devices) == "1" or (isinstance(devices, list) and len(devices) == 1)


def _values(words: list[str], space: Mapping[str, Parameter], told: list[str]) -> list[str]:
    """Return the values that no trial could have: alone, and beside each choice of another setting.

    All settings' first values are tried together, then all second ones, and so on; each by itself only where that is
    refused.
    """
    samples = {name: each.samples() for name, each in space.items()}
    suspects: list[tuple[str, Any]] = []
    for place in range(max(map(len, samples.values()), default=0)):
        together = {name: values[place] for name, values in samples.items() if place < len(values)}
        suspects += together.items() if _problems(words, together, told) else ()
    wrong = []
    for name, value in suspects:
        found = _problems(words, {name: value}, told)
        beside = [
            {other: each}
            for other, more in (space.items() if found else ())
            if other != name and isinstance(more, Choices)
            for each in more.values
        ]
        if found and all(_problems(words, {**one, name: value}, told) for one in beside):
            wrong += [f"space.{name}: {problem}" for problem in found]
    return wrong


def _problems(words: list[str], values: Mapping[str, Any], told: list[str]) -> list[str]:
    found = preflight(conf_dir(), "train", readable([*words, *overrides_of(values)]), check_training)
    return [each for each in found if each not in told]
