"""What a search leaves: table, figure and summary in its run, and the command that trains the best again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.command_line import anywhere, command_line
from medvit.config_words import overrides_of
from medvit.errors import RunError

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from medvit.report.search import Searched
    from medvit.tracking.run import Run
    from medvit.tuning.study import SearchStudy

SCORE = "val/score"  # of a trial: the best of its epochs, where the task's own metric ends with that of the last one
BEST = "best.txt"  # in the run's folder: the command that trains the best trial again; it may name folders


def words_of(settings: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """Return the words of a training with the values of a trial, on one device unless train says which."""
    given = overrides_of(settings["train"])
    devices = [] if any(word.startswith("trainer.devices=") for word in given) else ["trainer.devices=1"]
    return [*given, *devices, *overrides_of(values)]


def publish(study: SearchStudy, parent: Run, settings: dict[str, Any]) -> None:
    """Write table and figure of all trials into the run's folder, attach them, and name the best."""
    from medvit.report import search as report
    from medvit.tuning.space import Range
    from medvit.tuning.study import RUN

    monitor, best = study.study.user_attrs["facts"]["score"], study.best()
    trials = [_searched(study, each) for each in study.trials() if each.state.is_finished()]
    if best is None:
        raise RunError(_all_failed(trials))
    importances = study.importances()
    names = sorted(study.space, key=lambda name: -importances.get(name, 0.0))
    lowest = study.study.direction.name == "MINIMIZE"
    table = report.table(trials, names, monitor)
    text = report.markdown(table, names, monitor, lowest, importances)
    logs = [name for name, each in study.space.items() if isinstance(each, Range) and each.log]
    figure = report.draw([each for each in trials if each.outcome != "stopped"], names, logs, monitor, lowest)
    shown = ", ".join(f"{name}={value}" for name, value in _shown(study, best).items())
    text += f"\n\nBest: trial {best.number}, {monitor} {best.value:.4f}: {shown}.\n"
    files: dict[str, str | bytes] = {"csv": table.to_csv(), "md": text, "svg": figure.svg, "png": figure.png}
    for kind, content in files.items():
        file = parent.folder / f"search.{kind}"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        parent.artifact(file)
    (parent.folder / BEST).write_text(f"{best_command(study, best, settings)}\n", encoding="utf-8")
    _best_so_far(parent, [each for each in trials if each.outcome == "complete"], lowest)
    parent.tags({"medvit.best_trial": str(best.number), "medvit.best_run": str(best.user_attrs.get(RUN, ""))})
    parent.note(text)
    parent.view([SCORE, monitor, "val/loss"], ["data.name", *names])


def _best_so_far(parent: Run, complete: Sequence[Searched], lowest: bool) -> None:
    """Log the best score after each trial, so that the last value of the run is that of the best trial."""
    seen = {point.step for point in parent.client.get_metric_history(parent.id, SCORE)}
    best = None
    for each in complete:
        score = float(each.score or 0.0)
        best = score if best is None else (min if lowest else max)(best, score)
        if each.number not in seen:
            parent.metrics({SCORE: best}, each.number)


def _shown(study: SearchStudy, trial: FrozenTrial) -> dict[str, Any]:
    """Return a trial's values as MLflow may have them: of one that could be a path its place among choices."""
    from medvit.tracking.allow_list import WITHHELD, redacted
    from medvit.tuning.space import Choices

    found = {}
    for name, value in study.values(trial).items():
        parameter = study.space[name]
        withheld = WITHHELD in str(redacted({"space": {name: value}}))
        listed = parameter.values if isinstance(parameter, Choices) else ()
        found[name] = f"choice {listed.index(value) + 1}" if withheld else value
    return found


def _searched(study: SearchStudy, trial: FrozenTrial) -> Searched:
    from medvit.report.search import Searched
    from medvit.tuning.study import OUTCOME, REASON, RUN

    known, curve = trial.user_attrs, trial.intermediate_values
    score = trial.value if trial.state.name == "COMPLETE" else curve.get(max(curve, default=0))
    return Searched(trial.number, str(known.get(OUTCOME, "failed")), score, max(curve, default=0),
                    _shown(study, trial), str(known.get(RUN, "")), str(known.get(REASON, "")))  # fmt: skip


def _all_failed(trials: Sequence[Searched]) -> str:
    reasons = dict.fromkeys(f"{each.outcome}: {each.reason}" for each in trials if each.reason)
    lines = [f"  - {reason} ({sum(f'{each.outcome}: {each.reason}' == reason for each in trials)} trials)"
             for reason in list(reasons)[:5]]  # fmt: skip
    return "\n".join([f"none of the {len(trials)} trials came to its end; change train or space:", *lines])


def best_command(study: SearchStudy, best: FrozenTrial, settings: dict[str, Any]) -> str:
    """Return the line that trains with the values of the best trial: the same training, as a run of its own."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create()
    words = [parser.parse_override(word) for word in words_of(settings, study.values(best))]
    again = {f"{'+' if each.is_add() else ''}{each.key_or_group}": each.value() for each in words}
    usual = {"uri": None, "experiment": "medvit"}
    again |= {f"tracking.{key}": value for key, value in settings["tracking"].items() if usual.get(key, value) != value}
    return anywhere(command_line("train", again, Path(settings["tracking"]["folder"])))
