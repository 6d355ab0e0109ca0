"""`python -m medvit.evaluate`: thresholds frozen on validation, then the test split opened once and reported."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.command_line import command_line
from medvit.config import entry
from medvit.config_check import refused_by
from medvit.mlflow_server import server_of

if TYPE_CHECKING:
    from medvit.prediction.spec import EvaluationSpec
    from medvit.report.page import Report


def spec_from(settings: dict[str, Any], kind: str, names: tuple[str, ...]) -> EvaluationSpec:
    """Return what conf/evaluate.yaml asks for, for a task of this kind and these outputs.

    Raises:
        EvaluationError: a rule or number that makes no sense.
    """
    from medvit.prediction.spec import from_json

    first = dict(settings["operating_point"])
    points = [first, *first.pop("more")]
    keys = ("aggregate", "bootstrap", "calibration", "subgroups", "detail")
    return from_json({"kind": kind, "names": names, "points": points, **{key: settings[key] for key in keys}})


def evaluate_again(
    predictions: Path, settings: dict[str, Any], out: Path | None = None, given: Collection[str] | None = None
) -> Report:
    """Report on the predictions of an earlier evaluation, with the thresholds frozen then, without model or images.

    The report goes to `out`, by default the folder `again` beside the predictions. With `given`, only these top-level
    settings are used; the others are those of the report.json beside the predictions.

    Raises:
        EvaluationError: a file that is missing or damaged, thresholds that were changed or frozen with other settings.
    """
    from medvit.evaluation.reproduce import reproduce

    return reproduce(predictions, partial(spec_from, settings), out or predictions.parent / "again", given)


def problems(settings: dict[str, Any]) -> list[str]:
    """Return what is wrong with the settings before anything heavy is imported."""
    given = [key for key in ("run", "runs", "predictions") if settings[key]]
    found = (
        []
        if len(given) == 1
        else [f"give one of run=RUN_ID, runs=[ID,ID] or predictions=FILE; found {' and '.join(given) or 'none'}"]
    )
    site, name = settings["data"]["folder"], settings["data"]["name"]
    if site and not (Path(site) / "manifest.parquet").is_file():
        line = command_line("index", {"data.root": "DIR", "data.folder": site})
        found.append(f"data.folder has no manifest.parquet; run `{line}`")
    if site and (not re.fullmatch("[A-Za-z0-9_-]{1,40}", str(name)) or str(name).lower() in {"train", "val", "test"}):
        found.append(f"data.name={name}: expected a name of its own in a-z, A-Z, 0-9, _ and -")
    if site and not settings["run"]:
        found.append("data.folder needs run=RUN_ID: one model is tested on another site")
    if settings["split"] not in {"test", "val"}:
        found.append(f"split={settings['split']}: expected test or val; another site is data.folder=DIR data.name=NAME")
    if settings["runs"] and len(set(settings["runs"])) < max(2, len(settings["runs"])):
        found.append("runs: expected two or more different run ids")
    found += refused_by(lambda: spec_from(settings, "binary", ("finding",)))
    if settings["predictions"] and not Path(settings["predictions"]).is_file():
        found.append("predictions=... is not a file; expected FOLDER/predictions.parquet")
    return found


def evaluate_by(settings: dict[str, Any], given: Collection[str] | None = None) -> Report:
    """Evaluate a run, several runs of one recipe, or earlier predictions, as conf/evaluate.yaml asks.

    `given`: the top-level settings that were given, for earlier predictions; see `evaluate_again`.
    """
    if asked := settings["runs"] or ([settings["run"]] if settings["run"] else []):
        from medvit.tracking.fetch import bring

        server = server_of(settings["tracking"])
        found = [bring(str(each), settings["tracking"], server) for each in asked]
        settings = {**settings, "run": found[0] if settings["run"] else None, "runs": settings["runs"] and found}
    if settings["run"]:
        from medvit.evaluation.run import evaluate_run

        return evaluate_run(settings, spec_from)
    if settings["runs"]:
        from medvit.evaluation.seeds import evaluate_seeds

        return evaluate_seeds(settings, spec_from)
    out = Path(settings["out"]) if settings["out"] else None
    return evaluate_again(Path(settings["predictions"]), settings, out, given)


@entry("evaluate", problems)
def run(settings: dict[str, Any]) -> None:
    """Run the command of conf/evaluate.yaml."""
    from hydra.core.hydra_config import HydraConfig

    given = {change.lstrip("+~").partition("=")[0].partition(".")[0] for change in HydraConfig.get().overrides.task}
    sys.stdout.write("\n".join(["", *evaluate_by(settings, given).headline, ""]))


if __name__ == "__main__":
    run()
