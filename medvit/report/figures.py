"""The figures of the report, drawn from the same tables that are printed; SVG for the page, PNG for the folder."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.dicom.tags import uid_name
from medvit.metric.bootstrap import DEFINED, Interval
from medvit.metric.ranking import Ranking, pr_curve, ratio, roc_curve
from medvit.prediction.predictions import Finding, Sample, findings_of
from medvit.prediction.thresholds import FrozenThresholds
from medvit.report.table import Row, Table

Array = NDArray[np.float64]
MODEL, OTHER, QUIET = "#1f4e79", "#c4572b", "#8a8f98"  # told apart in grey print and by colour-blind readers
_GRID = np.linspace(0.0, 1.0, 101)
_STYLE = {
    "font.size": 9.0, "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "axes.spines.top": False,
    "axes.spines.right": False, "axes.titlesize": 9.5, "axes.titleweight": "bold", "axes.edgecolor": QUIET,
    "legend.frameon": False, "legend.fontsize": 8.0, "svg.fonttype": "path", "svg.hashsalt": "medvit",
    "figure.dpi": 110.0,
}  # fmt: skip
Draw = Callable[[Any, str], None]


@dataclass(frozen=True)
class Figure:
    """One drawn figure: `svg` text for the page, `png` bytes for the folder, `caption` for both (also the alt text)."""

    name: str
    title: str
    caption: str
    svg: str
    png: bytes


def panels(name: str, title: str, caption: str, names: Sequence[str], draw: Draw, size: tuple[float, float]) -> Figure:
    """Return a figure with one panel per name, up to three in a row; `size` is that of a panel in inches."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    across = min(3, len(names))
    down = -(-len(names) // across)
    with rc_context(_STYLE):
        canvas = Canvas(figsize=(size[0] * across, size[1] * down), layout="constrained")
        FigureCanvasAgg(canvas)
        for k, each in enumerate(names):
            axes = canvas.add_subplot(down, across, k + 1)
            axes.set_title(each if len(names) > 1 else "", loc="left")  # one panel: the page names it
            draw(axes, each)
        svg, png = io.StringIO(), io.BytesIO()
        canvas.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        canvas.set_layout_engine("none")  # keep the layout that was just found
        canvas.savefig(png, format="png", dpi=150, metadata={"Software": None})
    return Figure(name, title, caption, svg.getvalue(), png.getvalue())


def roc(sample: Sample, frozen: FrozenThresholds) -> Figure | None:
    """Draw ROC curves with a pointwise band over patients and the frozen operating points."""
    found = _defined(sample, frozen)

    def draw(axes: Any, name: str) -> None:
        each = found[name]
        low, high = _roc_band(sample, each)
        _, false, hit = roc_curve(each.target, each.margin)
        axes.fill_between(_GRID, low, high, color=MODEL, alpha=0.15, linewidth=0)
        axes.plot(false, hit, color=MODEL, linewidth=1.5)
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=":")
        for point, mark in zip(frozen.points.get(name, ()), "osD^v", strict=False):
            called = each.probability >= point.threshold
            where = ratio(np.sum(called & (each.target == 0)), np.sum(each.target == 0))
            height = ratio(np.sum(called & (each.target == 1)), np.sum(each.target == 1))
            axes.plot(where, height, mark, color=OTHER, markersize=5, label=f"threshold {point.threshold:.3f}")
        _square(axes, "1 − specificity", "Sensitivity")
        if frozen.points.get(name):
            axes.legend(loc="lower right")

    caption = "ROC on the images tested; band: pointwise interval over patients; marks: thresholds from validation."
    return panels("roc", "ROC", caption, list(found), draw, (3.1, 3.1)) if found else None


def pr(sample: Sample, frozen: FrozenThresholds) -> Figure | None:
    """Draw precision-recall curves with the prevalence as chance."""
    found = _defined(sample, frozen)

    def draw(axes: Any, name: str) -> None:
        each = found[name]
        _, recall, precision = pr_curve(each.target, each.margin)
        axes.step(np.r_[0.0, recall], np.r_[precision[0], precision], where="pre", color=MODEL, linewidth=1.5)
        axes.axhline(each.target.mean(), color=QUIET, linewidth=0.8, linestyle=":")
        _square(axes, "Recall (sensitivity)", "Precision (PPV)")

    caption = "Precision-recall on the images tested; the dotted line is the prevalence, which is chance."
    return panels("pr", "Precision-recall", caption, list(found), draw, (3.1, 3.1)) if found else None


def calibration(table: Table) -> Figure | None:
    """Draw observed shares against mean probabilities, before and after scaling, with bands."""
    names = _names(table)

    def draw(axes: Any, name: str) -> None:
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=":")
        for state, colour, mark in (("before", OTHER, "s"), ("after", MODEL, "o")):
            rows = [row for row in _of(table, name) if row["state"] == state]
            x, y = [row["predicted"] for row in rows], [row["observed"].value for row in rows]
            low, high = ([getattr(row["observed"], end) for row in rows] for end in ("low", "high"))
            axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
            axes.plot(x, y, mark + "-", color=colour, markersize=3.5, linewidth=1.1, label=f"{state} scaling")
        _square(axes, "Mean probability", "Observed share")
        axes.legend(loc="upper left")

    caption = "Reliability in ten bins of equal mass, before and after scaling; bands: intervals over patients."
    return panels("calibration", "Calibration", caption, names, draw, (3.1, 3.1)) if names else None


def decision(table: Table) -> Figure | None:
    """Draw the net benefit of the model, of acting on everyone and on no one."""
    names = _names(table)

    def draw(axes: Any, name: str) -> None:
        rows = _of(table, name)
        x, model = [row["threshold"] for row in rows], [row["model"].value for row in rows]
        low, high = ([getattr(row["model"], end) for row in rows] for end in ("low", "high"))
        axes.fill_between(x, low, high, color=MODEL, alpha=0.15, linewidth=0)
        axes.plot(x, model, color=MODEL, linewidth=1.5, label="model")
        axes.plot(x, [row["all"] for row in rows], color=OTHER, linewidth=1.1, linestyle="--", label="everyone")
        axes.axhline(0.0, color=QUIET, linewidth=0.9, label="no one")
        top = max(np.nanmax(high), 0.02)
        axes.set(xlabel="Risk threshold", ylabel="Net benefit", ylim=(-0.15 * top, 1.08 * top), xlim=(0, max(x)))
        axes.legend(loc="best")

    caption = "Decision curve on calibrated probabilities, with an interval over patients."
    return panels("decision", "Decision curve", caption, names, draw, (3.3, 2.7)) if names else None


def histograms(table: Table) -> Figure | None:
    """Draw how often each probability was given, positives upwards and negatives downwards."""
    names = _names(table)

    def draw(axes: Any, name: str) -> None:
        rows = _of(table, name)
        left = [row["from"] for row in rows]
        width = rows[0]["to"] - rows[0]["from"]
        for key, colour, sign in (("positives", OTHER, 1), ("negatives", MODEL, -1)):
            numbers = np.array([row[key] for row in rows], float)
            shares = sign * numbers / max(1.0, numbers.sum())
            axes.bar(left, shares, width * 0.94, align="edge", color=colour, label=f"{key} (n = {int(numbers.sum())})")
        axes.axhline(0.0, color="black", linewidth=0.7)
        axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):.2g}")
        axes.set(xlabel="Calibrated probability", ylabel="Share of the outcome", xlim=(0, 1))
        axes.legend(loc="best")

    caption = "Distribution of the calibrated probability per outcome, each outcome's bars adding up to 1."
    return panels("histogram", "Probabilities by outcome", caption, names, draw, (3.3, 2.6)) if names else None


def forest(table: Table, overall: dict[str, Interval]) -> Figure | None:
    """Draw the AUROC of every subgroup with its interval, and the overall value as a line."""
    names = [name for name in _names(table) if name in overall]
    lines = max((len(_of(table, name)) for name in names), default=0)

    def draw(axes: Any, name: str) -> None:
        rows = _of(table, name)
        axes.axvline(overall[name].value, color=QUIET, linewidth=0.9, linestyle=":")
        for k, row in enumerate(rows):
            area: Interval = row["auroc"]
            if np.isfinite(area.value):
                if np.isfinite(area.low):
                    axes.plot([area.low, area.high], [k, k], color=MODEL, linewidth=1.3)
                axes.plot(area.value, k, "o", color=MODEL, markersize=4)
            else:
                axes.text(
                    0.02, k, area.note, transform=axes.get_yaxis_transform(), va="center", fontsize=7.5, color=QUIET
                )
        marks = [f"{_short(row['column'])}: {uid_name(row['group'])} (n {row['units']})" for row in rows]
        axes.set_yticks(range(len(rows)), [fill(mark, 50) for mark in marks])
        axes.set(xlabel="AUROC", ylim=(len(rows) - 0.4, -0.6))

    caption = "AUROC by subgroup with intervals over patients; dotted: all together."
    size = (6.4 if len(names) == 1 else 4.4, 0.9 + 0.24 * lines)
    return panels("subgroups", "Subgroups", caption, names, draw, size) if names and lines else None


def _defined(sample: Sample, frozen: FrozenThresholds) -> dict[str, Finding]:
    return {each.name: each for each in findings_of(sample, frozen.calibration) if each.both}


def _roc_band(sample: Sample, found: Finding) -> tuple[Array, Array]:
    ranking = Ranking(found.target, found.margin)

    def heights(weight: Array) -> Array:
        positive, negative = ranking.groups(weight)
        sides = [np.cumsum(side[:, ::-1], axis=1) for side in (positive, negative)]
        hit, false = (np.c_[np.zeros(len(weight)), ratio(side, side[:, -1:])] for side in sides)
        return np.stack([np.interp(_GRID, x, y) for x, y in zip(false, hit, strict=True)])

    sample_ = sample.draws.apply(heights, found.rows)
    if np.isfinite(sample_).all(axis=1).mean() < DEFINED:
        nothing = np.full(_GRID.size, np.nan)
        return nothing, nothing
    tail = (1 - sample.spec.bootstrap.level) / 2
    low, high = np.nanquantile(sample_, [tail, 1 - tail], axis=0)
    return low, high


def _square(axes: Any, x: str, y: str) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y, aspect="equal")
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])


def _names(table: Table) -> list[str]:
    return list(dict.fromkeys(row["finding"] for row in table.rows))


def _of(table: Table, name: str) -> list[Row]:
    return [row for row in table.rows if row["finding"] == name]


def _short(column: str) -> str:
    return {"age_years": "age", "manufacturer": "vendor"}.get(column, column.removeprefix("table."))
