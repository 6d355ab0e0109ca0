"""`python -m medvit.compare`: two evaluated runs on the same test set, paired by patient."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.command_line import command_line
from medvit.config import entry
from medvit.errors import RunError
from medvit.mlflow_server import server_of

if TYPE_CHECKING:
    from medvit.report.comparison import Side
    from medvit.report.page import Report


def compare(
    folders: tuple[Path, Path],
    out: Path,
    *,
    names: tuple[str, str] = ("one", "other"),
    split: str = "test",
    subgroups: list[str] | None = None,
) -> Report:
    """Compare two evaluation folders, write report.html, report.json and tables into `out`; `names` head the columns.

    Raises:
        RunError: a folder without an evaluation.
        EvaluationError: the test sets, findings or settings differ.
    """
    from medvit.report import comparison, page

    sides = [_side(folder, name, split, subgroups) for folder, name in zip(folders, names, strict=True)]
    report = comparison.compare(*sides)
    page.write(report, out)
    return report


def _side(folder: Path, name: str, split: str, subgroups: list[str] | None) -> Side:
    import json
    from dataclasses import replace

    from medvit.evaluation import protocol
    from medvit.prediction.spec import from_json
    from medvit.report.comparison import Side

    if missing := [n for n in ("predictions.parquet", "thresholds.json", "report.json") if not (folder / n).is_file()]:
        known = split in {"test", "val"} and folder.name == f"evaluation_{split}"
        run, runs = (folder.parent.name, folder.parent.parent) if known else ("RUN_ID", Path("runs"))
        line = command_line("evaluate", {"run": run, "split": split}, runs)
        raise RunError(f"{name} has no {', '.join(missing)}; evaluate the run first: {line}")
    spec = from_json(json.loads((folder / "report.json").read_text("utf-8"))["spec"])
    spec = replace(spec, subgroups=None if subgroups is None else tuple(subgroups))
    return Side(*protocol.sample_of(folder, spec, split), name)


def _evaluation(word: str, where: dict[str, Any], split: str) -> tuple[Path, str]:
    """Return the folder of an evaluation and its name, from a folder, a run id or "latest"; raises RunError."""
    from medvit.evaluation.protocol import evaluation_folder
    from medvit.tracking import run as tracking
    from medvit.tracking.fetch import bring

    if Path(word).is_dir():
        return Path(word), ""
    runs = Path(where["folder"])
    if not (runs / word).is_dir() and (server := server_of(where)):
        word = bring(word, where, server, data=False)
    if word == "latest" or not (runs / word).is_dir():
        word = tracking.get(word, runs, finished=word == "latest").id
    return evaluation_folder(runs, word, split), word[:8]


def compare_by(settings: dict[str, Any]) -> tuple[Report, Path]:
    """Compare two evaluations as conf/compare.yaml asks; return the report and its folder."""
    split = settings["split"]
    (one, name), (other, second) = (
        _evaluation(str(settings[key]), settings["tracking"], split) for key in ("one", "other")
    )
    names = (name, second) if name and second else ("one", "other")
    out = Path(settings["out"]) if settings["out"] else one / "comparison"
    return compare((one, other), out, names=names, split=split, subgroups=settings["subgroups"]), out


@entry("compare")
def run(settings: dict[str, Any]) -> None:
    """Run the command of conf/compare.yaml."""
    report, out = compare_by(settings)
    sys.stdout.write("\n".join([*report.headline, f"report: {out / 'report.html'}"]) + "\n")


if __name__ == "__main__":
    run()
