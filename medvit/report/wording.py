"""Formatting of numbers and intervals on the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medvit.dicom.tags import uid_name
from medvit.metric.bootstrap import Interval, short

_ONLY_YES = {"positive", "pos", "present", "yes", "true", "1"}


def class_name(finding: str, labels: Mapping[str, Sequence[str]]) -> str:
    """Return what a finding is called on the page: the label table's word for its presence, unless that says only yes.

    `labels`: finding -> the words for absence and presence, such as {"finding": ("normal", "opacity")}.
    """
    present = labels.get(finding, ("", ""))[1]
    return finding if not present or present.lower() in _ONLY_YES else present


def format_estimate(value: Any) -> str:
    """Return a cell as it is read: three decimals and the interval in brackets, or why there is no number."""
    if isinstance(value, Interval):
        return str(value)
    if isinstance(value, float):
        return short(value) if math.isfinite(value) else ""
    return "" if value is None else uid_name(str(value))


def full_precision(value: Any) -> str:
    """Return the number with all its digits, as report.json has it, for the cell's attribute."""
    number = value.value if isinstance(value, Interval) else value
    return repr(float(number)) if isinstance(number, float) and math.isfinite(number) else ""
