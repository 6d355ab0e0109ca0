"""`python -m medvit.compare`: two evaluated runs on the same test set, paired by patient."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.config import entry
from medvit.errors import RunError

if TYPE_CHECKING:
    from medvit.report.comparison import Side
    from medvit.report.evaluation import Report


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
    from medvit.report import comparison, evaluation

    sides = [_side(folder, name, split, subgroups) for folder, name in zip(folders, names, strict=True)]
    report = comparison.compare(*sides)
    evaluation.write(report, out)
    return report


def _side(folder: Path, name: str, split: str, subgroups: list[str] | None) -> Side:
    import json
    from dataclasses import replace

    from medvit.report import protocol
    from medvit.report.comparison import Side
    from medvit.report.spec import from_json

    if missing := [n for n in ("predictions.parquet", "thresholds.json", "report.json") if not (folder / n).is_file()]:
        raise RunError(
            f"{name} has no {', '.join(missing)}; evaluate the run first: python -m medvit.evaluate run=RUN_ID"
        )
    spec = from_json(json.loads((folder / "report.json").read_text("utf-8"))["spec"])
    spec = replace(spec, subgroups=None if subgroups is None else tuple(subgroups))
    return Side(*protocol.sample_of(folder, spec, split), name)


@entry("compare")
def run(settings: dict[str, Any]) -> None:
    """Run the command of conf/compare.yaml."""
    from medvit.report.protocol import evaluation_folder

    runs, split = Path(settings["tracking"]["folder"]), settings["split"]
    words = (str(settings["one"]), str(settings["other"]))
    folders = tuple(Path(word) if Path(word).is_dir() else evaluation_folder(runs, word, split) for word in words)
    names = ("one", "other") if any(Path(word).is_dir() for word in words) else (words[0][:8], words[1][:8])
    out = Path(settings["out"]) if settings["out"] else folders[0] / "comparison"
    report = compare((folders[0], folders[1]), out, names=names, split=split, subgroups=settings["subgroups"])
    sys.stdout.write("\n".join([*report.headline, f"report: {out / 'report.html'}"]) + "\n")


if __name__ == "__main__":
    run()
