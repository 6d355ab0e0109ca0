"""The figure of a learning curve: AUROC against training patients, a line per start, baselines in grey."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from medvit.report.figures import MODEL, OTHER, QUIET, Figure, panels
from medvit.report.table import Table

_COLOURS = (MODEL, OTHER, "#2f7d4f", "#7a4fa3", "#a3842f")
_MARKS = "osD^v"
_APART = 0.02  # of a line's points from those of the next, of their number of patients, so that bars do not hide bars


def draw(table: Table, starts: Sequence[str], split: str) -> Figure:
    """Return the figure of the rows of a curve's table; whiskers are their intervals."""
    lines = list(dict.fromkeys(row["start"] for row in table.rows))

    def line(axes: Any, _: str) -> None:
        for place, name in enumerate(lines):
            rows = [row for row in table.rows if row["start"] == name]
            known = name in starts
            colour = _COLOURS[starts.index(name) % len(_COLOURS)] if known else QUIET
            x = [row["patients"] * (1 + _APART * (place - (len(lines) - 1) / 2)) for row in rows]
            y = [row["auroc"].value for row in rows]
            ends = [[end if math.isfinite(end) else row["auroc"].value for end in (row["auroc"].low, row["auroc"].high)]
                    for row in rows]  # fmt: skip
            bars = [[max(0.0, value - low) for value, (low, _) in zip(y, ends, strict=True)],
                    [max(0.0, high - value) for value, (_, high) in zip(y, ends, strict=True)]]  # fmt: skip
            axes.errorbar(x, y, bars, color=colour, marker=_MARKS[place % len(_MARKS)], markersize=4, linewidth=1.3,
                          elinewidth=0.9, linestyle="-" if known else "--", label=name)  # fmt: skip
        counts = sorted({row["patients"] for row in table.rows})
        axes.set(xscale="log", xlabel="Training patients", ylabel=f"AUROC, {split} side")
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
        axes.grid(axis="y", linewidth=0.4, color=QUIET, alpha=0.4)
        axes.legend(loc="lower right")

    caption = f"Mean AUROC over seeds on the {split} side against training patients; whiskers: intervals over patients."
    return panels("curve", table.title, caption, [table.title], line, (6.2, 4.0))
