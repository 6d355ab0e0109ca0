"""`python -m medvit.evaluate`: thresholds frozen on validation, then the test split opened once and reported."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.config import entry

if TYPE_CHECKING:
    from medvit.report.evaluation import Report
    from medvit.report.spec import EvaluationSpec


def spec_from(settings: dict[str, Any], kind: str, names: tuple[str, ...]) -> EvaluationSpec:
    """Return what conf/evaluate.yaml asks for, for a task of this kind and these outputs.

    Raises:
        EvaluationError: a rule or number that makes no sense.
    """
    from medvit.report.spec import from_json

    first = dict(settings["operating_point"])
    points = [first, *first.pop("more")]
    keys = ("aggregate", "bootstrap", "calibration", "subgroups", "detail")
    return from_json({"kind": kind, "names": names, "points": points, **{key: settings[key] for key in keys}})


def evaluate_again(predictions: Path, settings: dict[str, Any], out: Path | None = None) -> Report:
    """Report on the predictions of an earlier evaluation, with the thresholds frozen then, without model or images.

    The report goes to `out`, by default the folder `again` beside the predictions.

    Raises:
        EvaluationError: a file that is missing or damaged, thresholds that were changed or frozen with other settings.
    """
    from medvit.report import keep, protocol
    from medvit.report.frozen import read

    file = predictions.parent / "thresholds.json"
    task = read(file).content["decides"]
    spec = spec_from(settings, task["kind"], tuple(task["names"]))
    validation, test = protocol.sides(predictions, settings["split"])
    return protocol.evaluate_predictions(
        validation,
        test,
        spec,
        out or predictions.parent / "again",
        frozen=file,
        extras=keep.load(predictions.parent),
        split=settings["split"],
    )


def problems(settings: dict[str, Any]) -> list[str]:
    """Return what is wrong with the settings before anything heavy is imported."""
    given = [key for key in ("run", "predictions") if settings[key]]
    found = (
        []
        if len(given) == 1
        else [f"give either run=RUN_ID or predictions=FILE; found {' and '.join(given) or 'neither'}"]
    )
    if settings["predictions"] and not Path(settings["predictions"]).is_file():
        found.append("predictions=... is not a file; expected FOLDER/predictions.parquet")
    return found


@entry("evaluate", problems)
def run(settings: dict[str, Any]) -> None:
    """Run the command of conf/evaluate.yaml."""
    if settings["run"]:
        from medvit.trial import evaluate_run

        report = evaluate_run(settings, spec_from)
        sys.stdout.write("\n".join(["", *report.headline, ""]))
        return
    out = Path(settings["out"]) if settings["out"] else None
    evaluate_again(Path(settings["predictions"]), settings, out)


if __name__ == "__main__":
    run()
