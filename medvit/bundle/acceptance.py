"""Which images a model may be asked about: the envelope of its training set, checked before every prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from medvit.dicom.facts import NAMED
from medvit.errors import DicomRefusal
from medvit.types import Facts

if TYPE_CHECKING:
    import pandas as pd

_SETS = {"modality": "(0008,0060)", "sop_class": "(0008,0016)", "view": "(0018,5101)", "body_part": "(0018,0015)"}
_RANGES = {"rows": "(0028,0010)", "columns": "(0028,0011)", "spacing_mm": "(0028,0030)", "age_years": "(0010,1010)"}
_FREE = ("view", "body_part")  # anybody may write anything there
_SHARED = 3  # patients who have it make a free text a word of the site, and no name
_ROOM = {"rows": 2.0, "columns": 2.0, "spacing_mm": 1.5}  # factor a site may lie outside the training range


def envelope(facts: pd.DataFrame) -> dict[str, Any]:
    """Return what the training images (rows with the columns of `Facts`) were like, as plain JSON.

    Words: every value seen, "" where some images did not say; views and body parts of no known name only where three
    patients have them, for they could name one. Numbers: least and most seen, with a factor of room for
    matrix and pixel spacing, ages with five to ten years; `unknown` says whether images without the value were seen.
    """
    found: dict[str, Any] = {}
    for name in _SETS:
        if name in facts:
            words = facts[name].fillna("").astype(str)
            who = facts["patient"] if "patient" in facts else words.index.to_series()
            shared = who.groupby(words).nunique() >= _SHARED
            kept = {word for word in words if name not in _FREE or word in NAMED or shared[word]}
            found[name] = sorted(kept) or [""]
    for name in _RANGES:
        column = "spacing_row_mm" if name == "spacing_mm" else name
        if column not in facts or not facts[column].notna().any():
            continue
        values = facts[column].dropna().astype(float)
        room = _ROOM.get(name, 1.0)
        low, high = float(values.min()) / room, float(values.max()) * room
        if name == "age_years":
            low, high = max(0.0, 5.0 * math.floor(low / 5 - 1)), 5.0 * math.ceil(high / 5 + 1)
        found[name] = {"min": low, "max": high, "unknown": bool(facts[column].isna().any())}
    found["burned_in"] = ["no", "unknown"]
    return found


def problems(limits: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with limits that somebody wrote: names that are none, and shapes that no check can use."""
    found = []
    for name, limit in limits.items():
        if name in _SETS or name == "burned_in":
            good = isinstance(limit, list) and bool(limit) and all(isinstance(word, str) for word in limit)
            shape = 'a list of words, "" for images that do not say'
        elif name in _RANGES:
            good = isinstance(limit, Mapping) and _number(limit.get("min")) and _number(limit.get("max"))
            good = good and limit["min"] <= limit["max"] and set(limit) <= {"min", "max", "unknown"}
            shape = "{min: NUMBER, max: NUMBER, unknown: true or false}"
        elif name == "unlike":
            good = isinstance(limit, Mapping) and set(limit) <= {"warn", "refuse"} and all(map(_number, limit.values()))
            shape = "{warn: NUMBER, refuse: NUMBER}"
        else:
            good, shape = False, f"one of {', '.join((*_SETS, *_RANGES, 'burned_in', 'unlike'))}"
        found += [] if good else [f"acceptance.{name}: expected {shape}"]
    return found


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check(facts: Facts, limits: Mapping[str, Any]) -> None:
    """Raise DicomRefusal E-ACCEPT naming every fact of an image that lies outside the limits.

    Raises:
        DicomRefusal: code E-ACCEPT; `found`, `allowed` and `tag` of all facts outside, in the same order.
    """
    wrong: list[tuple[str, str, str]] = []
    for name, tag in {**_SETS, "burned_in": "(0028,0301)"}.items():
        value = str(getattr(facts, name))
        if name in limits and value not in limits[name]:
            shown = ", ".join(word or "not given" for word in limits[name])
            hidden = name in _FREE and value not in NAMED
            wrong.append((f"{name} {'of no known name' if hidden else value or 'not given'}", shown, tag))
    for name, tag in _RANGES.items():
        if name in limits:
            wrong += _outside(name, facts, limits[name], tag)
    if wrong:
        found, allowed, tags = ("; ".join(part) for part in zip(*wrong, strict=True))
        fix = "the model was not trained on such images; do not use it here"
        raise DicomRefusal("E-ACCEPT", found, allowed=allowed, tag=tags, fix=fix)


def _outside(name: str, facts: Facts, limit: Mapping[str, Any], tag: str) -> list[tuple[str, str, str]]:
    value = facts.spacing_mm[0] if name == "spacing_mm" and facts.spacing_mm else getattr(facts, name)
    allowed = f"{limit['min']:g} to {limit['max']:g}"
    if value is None:
        return [] if limit.get("unknown") else [(f"{name} not given", allowed, tag)]
    return [] if limit["min"] <= value <= limit["max"] else [(f"{name} {value:g}", allowed, tag)]
