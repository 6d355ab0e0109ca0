"""Acceptance limits of a model: ranges of its training images, checked before every prediction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
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
_OLDEST = 90.0  # years: a manifest says no higher age (SE-09), so that older patients lie inside its limits
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
    seen = set(facts["burned_in"]) if "burned_in" in facts else set()
    found["burned_in"] = sorted({"no", "unknown"} | seen)
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
        DicomRefusal: code E-ACCEPT; `found` says each fact outside and what is allowed, `tag` their elements in order.
    """
    classes, fix = limits.get("sop_class", [facts.sop_class]), "the model was not trained on such images; do not use it"
    if classes == [""] and facts.sop_class:
        found = (
            f"a DICOM object ({facts.modality or 'no modality'}), trained on PNG, JPEG or NIfTI files, never on DICOM"
        )
        raise DicomRefusal("E-ACCEPT", found, tag=_SETS["sop_class"], fix=fix)
    if "" not in classes and not facts.sop_class:
        found = f"no DICOM header, trained on DICOM objects ({_words(limits.get('modality', classes))})"
        raise DicomRefusal("E-ACCEPT", found, tag=_SETS["sop_class"], fix=fix)
    wrong: list[tuple[str, str]] = []
    for name, tag in {**_SETS, "burned_in": "(0028,0301)"}.items():
        value = str(getattr(facts, name))
        if name in limits and value not in limits[name]:
            said = "of no known name" if name in _FREE and value not in NAMED else value or "not given"
            wrong.append((f"{name} is {said}, allowed {_words(limits[name])}", tag))
    for name, tag in _RANGES.items():
        if name in limits and (outside := _outside(name, facts, limits[name])):
            wrong.append((f"{name} is {outside}, allowed {limits[name]['min']:g} to {limits[name]['max']:g}", tag))
    if wrong:
        found, tags = ("; ".join(part) for part in zip(*wrong, strict=True))
        raise DicomRefusal("E-ACCEPT", found, tag=tags, fix=fix)


def _words(values: Iterable[str]) -> str:
    return " or ".join(word or "not given" for word in values)


def _outside(name: str, facts: Facts, limit: Mapping[str, Any]) -> str:
    """Return a number that lies outside its limits as text, "" for one inside."""
    value = facts.spacing_mm[0] if name == "spacing_mm" and facts.spacing_mm else getattr(facts, name)
    if value is None:
        return "" if limit.get("unknown") else "not given"
    value = min(value, _OLDEST) if name == "age_years" else value
    return "" if limit["min"] <= value <= limit["max"] else f"{value:g}"
