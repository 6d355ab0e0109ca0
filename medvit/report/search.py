"""Table and figure of a search: every trial with its values and score, the course of it, and slices by setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medvit.report.figures import MODEL, OTHER, QUIET, Figure, panels
from medvit.report.table import Row, Table

_SLICES = 5  # settings that are drawn, the most important ones
_SHOWN = 10  # trials in the Markdown table


@dataclass(frozen=True)
class Searched:
    """One trial: how it ended ("complete", "pruned", "diverged", ...), its score or last value, its values."""

    number: int
    outcome: str
    score: float | None
    epochs: int
    values: Mapping[str, Any]
    run: str
    reason: str


def table(trials: Sequence[Searched], names: Sequence[str], monitor: str) -> Table:
    """Return every trial as a row, in their order."""
    rows: list[Row] = [
        {"trial": each.number, "outcome": each.outcome, "score": each.score, "epochs": each.epochs,
         **{name: _cell(each.values.get(name)) for name in names}, "run": each.run, "reason": each.reason}
        for each in trials
    ]  # fmt: skip
    heads = {"trial": "Trial", "outcome": "Outcome", "score": monitor, "epochs": "Epochs"}
    columns = {**heads, **{name: name for name in names}, "run": "Run", "reason": "Reason"}
    note = f"Score: best {monitor} of the epochs; of a pruned trial the last. The test side was not opened."
    return Table("search", "Hyperparameter search", columns, rows, note)


def markdown(found: Table, names: Sequence[str], monitor: str, lowest: bool, importances: Mapping[str, float]) -> str:
    """Return the best trials as a Markdown table, how the others ended, and what matters."""
    done = [row for row in found.rows if row["outcome"] == "complete"]
    best = sorted(done, key=lambda row: row["score"] if lowest else -row["score"])[:_SHOWN]
    heads = ["trial", monitor, *names]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in best:
        cells = [str(row["trial"]), f"{row['score']:.4f}", *(_short(row[name]) for name in names)]
        lines.append(f"| {' | '.join(cells)} |")
    counts = {each: sum(row["outcome"] == each for row in found.rows) for each in dict.fromkeys(
        row["outcome"] for row in found.rows)}  # fmt: skip
    lines += ["", f"{len(found.rows)} trials: {', '.join(f'{count} {each}' for each, count in counts.items())}."]
    if importances:
        told = ", ".join(f"{name} {share:.0%}" for name, share in importances.items())
        lines.append(f"Share of the variance of the scores (fANOVA): {told}.")
    lines.append(f"{found.note} The best of many validation scores is too good: evaluate the chosen one, once.")
    return "\n".join(lines)


def draw(trials: Sequence[Searched], names: Sequence[str], logs: Sequence[str], monitor: str, lowest: bool) -> Figure:
    """Return the figure: the course of the search, then the score against each of the first settings of `names`.

    logs: names of those that were drawn on a logarithmic scale.
    """
    scored = [each for each in trials if each.score is not None]
    done = [each for each in scored if each.outcome == "complete"]
    pruned = [each for each in scored if each.outcome != "complete"]
    course = "Course"

    def panel(axes: Any, name: str) -> None:
        if name == course:
            _course(axes, done, lowest)
            axes.set(xlabel="Trial", ylabel=monitor)
        else:
            _slice(axes, name, [*done, *pruned], len(done))
            if name in logs:
                axes.set_xscale("log")
            axes.set(xlabel=name, ylabel=monitor)
        if pruned and name == course:
            axes.plot([each.number for each in pruned], [each.score for each in pruned], "x", color=QUIET,
                      markersize=4, label="pruned: last value")  # fmt: skip
        if name == course:
            axes.legend(loc="best")
        axes.grid(axis="y", linewidth=0.4, color=QUIET, alpha=0.4)

    caption = (
        f"Best {monitor} of every trial and the best so far; then the same against each setting (grey: pruned). "
        "Validation side alone."
    )
    return panels("search", "Hyperparameter search", caption, [course, *names[:_SLICES]], panel, (3.6, 2.9))


def _course(axes: Any, done: Sequence[Searched], lowest: bool) -> None:
    numbers, scores = [each.number for each in done], [float(each.score or 0.0) for each in done]
    best = [(min if lowest else max)(scores[: place + 1]) for place in range(len(scores))]
    axes.plot(numbers, scores, "o", color=MODEL, markersize=4, label="complete")
    axes.step(numbers, best, where="post", color=OTHER, linewidth=1.2, label="best so far")


def _slice(axes: Any, name: str, trials: Sequence[Searched], complete: int) -> None:
    values = [_cell(each.values.get(name)) for each in trials]
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        words = list(dict.fromkeys(str(value) for value in values))
        axes.set_xticks(range(len(words)), words)
        axes.set_xlim(-0.5, len(words) - 0.5)
        values = [words.index(str(value)) for value in values]
    scores = [each.score for each in trials]
    axes.plot(values[complete:], scores[complete:], "x", color=QUIET, markersize=4)
    axes.plot(values[:complete], scores[:complete], "o", color=MODEL, markersize=4)


def _cell(value: Any) -> Any:
    return str(value) if isinstance(value, list | Mapping) else value


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
