"""Ranges of settings, as `space` of conf/search.yaml and the files of conf/search_space give them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from medvit.config_words import nearest

_KEYS = ("low", "high", "log", "step", "choices")
_EXAMPLE = "{low: 1e-4, high: 1e-2, log: true} or {choices: [mean, attention]}"


class Range(NamedTuple):
    """Numbers from `low` to `high`, both included; whole ones where both ends and the setting are whole."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def samples(self) -> list[Any]:
        """Return the values that a check tries."""
        return [self.low, self.high]


class Choices(NamedTuple):
    """Some values, each a word, a number, a list or a mapping."""

    values: tuple[Any, ...]

    def samples(self) -> list[Any]:
        """Return the values that a check tries."""
        return list(self.values)


Parameter: TypeAlias = Range | Choices


def parsed(space: Mapping[str, Any]) -> tuple[dict[str, Parameter], list[str]]:
    """Return the ranges by the name of their setting, and what is wrong with those that are none."""
    found: dict[str, Parameter] = {}
    wrong: list[str] = []
    for name, node in space.items():
        if problems := _problems(node):
            wrong += [f"space.{name}: {each}" for each in problems]
        elif "choices" in node:
            found[name] = Choices(tuple(node["choices"]))
        else:
            found[name] = Range(node["low"], node["high"], bool(node.get("log")), node.get("step"))
    return found, wrong


def _problems(node: Any) -> list[str]:
    if not isinstance(node, Mapping):
        return [f"found {node}, expected a range or choices: {_EXAMPLE}"]
    if unknown := [key for key in node if key not in _KEYS]:
        return [f"'{key}' is no part of a range{nearest(key, _KEYS)}; expected {_EXAMPLE}" for key in unknown]
    if "choices" in node:
        return _of_choices(node)
    if missing := [key for key in ("low", "high") if key not in node]:
        return [f"{' and '.join(missing)} missing; expected {_EXAMPLE}"]
    return _of_range(node)


def _of_choices(node: Mapping[str, Any]) -> list[str]:
    if len(node) > 1:
        return [f"choices and {', '.join(key for key in node if key != 'choices')} cannot both be given"]
    values = node["choices"]
    if not isinstance(values, list) or len({json.dumps(each, sort_keys=True) for each in values}) < 2:
        return [f"choices={values}: expected two and more different values, such as [mean, attention]"]
    if len({json.dumps(each, sort_keys=True) for each in values}) < len(values):
        return [f"choices={values}: a value stands there twice"]
    return []


def _of_range(node: Mapping[str, Any]) -> list[str]:
    low, high, log, step = node["low"], node["high"], node.get("log", False), node.get("step")
    numbers = [each for each in (low, high, step) if each is not None]
    if low is None or high is None or any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        return [f"low={low}, high={high}, step={step}: expected numbers; words are given as choices: [...]"]
    if not isinstance(log, bool):
        return [f"log={log}: expected true or false"]
    wrong = []
    if not low < high or low in (float("inf"), float("-inf")) or high == float("inf"):
        wrong.append(f"low={low}, high={high}: the range is empty or reversed; low must be below high")
    if log and low <= 0:
        wrong.append(f"low={low}: a range with log: true begins above 0")
    if step is not None and (log or not 0 < step <= high - low):
        wrong.append(f"step={step}: expected a number above 0 and no larger than the range, without log: true")
    return wrong
