"""Which images a model may be asked about: the envelope of its training set, checked before every prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from medvit.errors import DicomRefusal
from medvit.types import Facts

if TYPE_CHECKING:
    import pandas as pd

_SETS = {"modality": "(0008,0060)", "sop_class": "(0008,0016)", "view": "(0018,5101)", "body_part": "(0018,0015)"}
_RANGES = {"rows": "(0028,0010)", "columns": "(0028,0011)", "spacing_mm": "(0028,0030)", "age_years": "(0010,1010)"}
_ROOM = {"rows": 2.0, "columns": 2.0, "spacing_mm": 1.5}  # factor a site may lie outside the training range


def envelope(facts: pd.DataFrame) -> dict[str, Any]:
    """Return what the training images (rows with the columns of `Facts`) were like, as plain JSON.

    Words: every value seen, "" where some images did not say. Numbers: least and most seen, with a factor of room for
    matrix and pixel spacing, ages with five to ten years; `unknown` says whether images without the value were seen.
    """
    found: dict[str, Any] = {}
    for name in _SETS:
        if name in facts:
            found[name] = sorted({str(value) for value in facts[name].fillna("")})
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
            wrong.append((f"{name} {value or 'not given'}", shown, tag))
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
