"""Checkpoint families: detection and renaming of tensors by the rules of `families.yaml`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any

import yaml  # type: ignore[import-untyped]

from medvit.errors import WeightsError


@dataclass(frozen=True)
class Family:
    """One row of `families.yaml`; its head comment explains every field."""

    name: str
    detect: Mapping[str, Any]
    licence: str
    citation: str
    eps: float = 1e-6
    act: str = "gelu"
    gated_act: str | None = None
    interpolation: str = "bicubic"
    offset: float = 0.0
    rope: str | None = None
    theta: float = 10000.0
    reference: tuple[int, ...] | None = None
    pool: str = "cls"
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    gated: bool = False
    assumed: bool = False

    def fits(self, keys: Iterable[str], model_type: str, architecture: str) -> bool:
        """Return whether every condition of `detect` holds."""
        names = list(keys)
        rules = self.detect

        def somewhere(pattern: str) -> bool:
            return any(re.search(pattern, key) for key in names)

        if "bare" in rules and not (model_type or architecture):
            told = all(somewhere(pattern) for pattern in rules["bare"])
        else:
            told = ("model_type" not in rules or model_type in rules["model_type"]) and (
                "architecture" not in rules or bool(re.search(rules["architecture"], architecture))
            )
        return (
            told
            and all(somewhere(pattern) for pattern in rules.get("keys", ()))
            and not any(somewhere(pattern) for pattern in rules.get("without", ()))
        )


@dataclass(frozen=True)
class Table:
    """The whole of `families.yaml`: families in order of detection, key rules, and the statistics that have a name."""

    families: Mapping[str, Family]
    rename: tuple[tuple[re.Pattern[str], str], ...]
    drop: tuple[re.Pattern[str], ...]
    heads_by_width: Mapping[int, int]
    statistics: Mapping[str, Mapping[str, list[float]]]


@cache
def table() -> Table:
    """Return the table, read once."""
    raw = yaml.safe_load((files("medvit.model.pretrained") / "families.yaml").read_text(encoding="utf-8"))
    families = {}
    for name, row in raw["families"].items():
        statistics = raw["statistics"][row.pop("statistics")]
        if "reference" in row:
            row["reference"] = tuple(row["reference"])
        families[name] = Family(name=name, mean=tuple(statistics["mean"]), std=tuple(statistics["std"]), **row)
    return Table(
        families=families,
        rename=tuple((re.compile(pattern), replacement) for pattern, replacement in raw["rename"]),
        drop=tuple(re.compile(pattern) for pattern in raw["drop"]),
        heads_by_width=raw["heads_by_width"],
        statistics=raw["statistics"],
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "; nearest: a, b" for a message, or what is known when nothing is near."""
    names = sorted(known)
    close = get_close_matches(name, names, 3, cutoff=0.5)
    return f"nearest: {', '.join(close)}" if close else f"known: {', '.join(names[:12])}"


def detect(keys: Iterable[str], config: Mapping[str, Any]) -> Family:
    """Return the family of a checkpoint from its key names and its config.json ({} where there is none).

    A config key `medvit_family` names it outright. WeightsError when nothing fits, naming the nearest model type.
    """
    known = table().families
    names = list(keys)
    if "medvit_family" in config:
        name = str(config["medvit_family"])
        if name not in known:
            raise WeightsError(f"family {name!r} is unknown; {nearest(name, known)}")
        return known[name]
    model_type, architecture = str(config.get("model_type", "")), str(config.get("architecture", ""))
    for family in known.values():
        if family.fits(names, model_type, architecture):
            return family
    types = {word for family in known.values() for word in family.detect.get("model_type", ())}
    asked = model_type or architecture or "no config.json"
    raise WeightsError(
        f"no checkpoint family fits ({asked}; {len(names)} tensors such as {', '.join(sorted(names)[:3])}); "
        f"{nearest(model_type, types)}; name it with medvit_family in config.json: {', '.join(known)}"
    )


def rename(key: str) -> str | None:
    """Return the canonical name of one tensor, or None where it is no part of an encoder."""
    rules = table()
    name = key
    for pattern, replacement in rules.rename:
        name = pattern.sub(replacement, name)
    return None if any(pattern.search(name) or pattern.search(key) for pattern in rules.drop) else name
