"""How a number is read on the page: three decimals, its interval in brackets, or why there is none."""

from __future__ import annotations

import math
from typing import Any

from medvit.metric.bootstrap import Interval


def cell(value: Any) -> str:
    """Return a cell as it is read: three decimals and the interval in brackets, or why there is no number."""
    if isinstance(value, Interval):
        if not math.isfinite(value.value):
            return value.note or "n/a"
        return f"{_short(value.value)} {bounds(value)}"
    if isinstance(value, float):
        return _short(value) if math.isfinite(value) else ""
    return "" if value is None else named(str(value))


def named(word: str) -> str:
    """Return a registered DICOM UID by its name, any other word as it is."""
    if not word.startswith("1.2.840.10008."):
        return word
    from medvit.dicom.tags import syntax_name

    return syntax_name(word).removesuffix(f" ({word})")


def bounds(value: Interval) -> str:
    """Return an interval's two ends in brackets, or why there are none."""
    if not math.isfinite(value.low):
        return f"(no interval: {value.note})"
    if value.low == value.high and value.value != 0:
        return "(no interval: every draw gives this value)"
    return f"({_short(value.low)} to {_short(value.high) if math.isfinite(value.high) else '∞'})"


def exact(value: Any) -> str:
    """Return the number with all its digits, as report.json has it, for the cell's attribute."""
    number = value.value if isinstance(value, Interval) else value
    return repr(float(number)) if isinstance(number, float) and math.isfinite(number) else ""


def _short(value: float) -> str:
    size = abs(value)
    text = f"{value:.2g}" if 0 < size < 0.001 else f"{value:.3f}" if size < 10 else f"{value:.1f}"
    return text.replace("-", "−")
