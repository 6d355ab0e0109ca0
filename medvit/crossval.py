"""`python -m medvit.crossval`: train every fold, or several seeds, and report on all of them together."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit import generated, resume, run_lifecycle
from medvit.command_line import anywhere, command_line
from medvit.config import entry
from medvit.config_check import refused_by
from medvit.errors import ConfigError
from medvit.evaluate import spec_from
from medvit.train import check as check_training
from medvit.train import train

if TYPE_CHECKING:
    from medvit.report.page import Report
    from medvit.tracking.run import Run

_OWN = ("folds", "seeds", "operating_point", "bootstrap", "aggregate", "calibration", "subgroups", "detail")
_FILE = "crossval.json"  # in the folder of the parent run: the settings it was started with


def check(settings: dict[str, Any]) -> list[str]:
    """Return numbers that make no sense and what is missing on the disk, before anything heavy is imported."""
    found = [
        *check_training({**settings, "extend": None}),
        *refused_by(lambda: spec_from(settings, "binary", ("finding",))),
    ]
    for key in ("folds", "seeds"):
        given = settings[key]
        fits = isinstance(given, list) and all(type(each) is int and each >= 0 for each in given)
        if given is not None and (not fits or not given or len(set(given)) < len(given)):
            found.append(f"{key}={given}: expected different whole numbers, such as {key}=[0,1,2]")
    if settings["data"]["fold"] is not None:
        found.append(
            f"data.fold={settings['data']['fold']}: crossval trains each fold; give folds=[...] for some of them"
        )
    if settings["extend"] is not None:
        found.append(f"extend={settings['extend']}: the folds of a crossval keep their length; start a new one")
    if settings["tracking"]["register"]:
        found.append("tracking.register: a crossval registers nothing; test its run first, then register that")
    return found


def crossval(settings: dict[str, Any], given: Sequence[str] = ()) -> tuple[Run, Report]:
    """Train the folds and seeds that are not finished yet under one run, report on all, and return run and report.

    `settings` are those of conf/crossval.yaml; `given` are the words of the command line.

    Raises:
        MedvitError: settings, data or weights that cannot be used; what was trained by then stays, see `resume`.
    """
    from medvit.dataset import manifest, splits
    from medvit.evaluation.cross_validation import Member, report_on

    place, parent = Path(settings["tracking"]["folder"]), None
    if (main := run_lifecycle.helped(place)) is not None:  # a further device of one of the trainings
        train({**settings, "resume": main.id if resume.has_checkpoint(main.folder) else None})
        raise SystemExit(0)
    if settings["resume"]:
        parent, settings = resume.children_as_they_were(settings, given, place, _FILE)
    if generated.wanted(settings["data"]):
        generated.make(settings["data"], settings["labels"])
    table = manifest.read(Path(settings["data"]["folder"]))
    frozen = splits.read(Path(settings["data"]["folder"]), table)
    folds, seeds = _asked(settings, frozen.folds), settings["seeds"] or [settings["seed"]]
    title = f"{settings['data']['name']} crossval, {len(folds)} folds, {len(seeds)} seeds"
    with run_lifecycle.tracked(parent, settings, title, "crossval", run_lifecycle.children_stopped) as parent:
        (parent.folder / _FILE).write_text(json.dumps(settings, indent=1, sort_keys=True), encoding="utf-8")
        members = [Member(_trained(parent, f, seed, settings, given), f, seed) for f in folds for seed in seeds]
        report = report_on(parent, members, str(frozen.spec["strategy"]), settings, spec_from)
    return parent, report


def _asked(settings: dict[str, Any], count: int) -> list[int | None]:
    """Return the folds to train; [None] for several seeds of a split that has none."""
    if not count:
        if settings["folds"] or not settings["seeds"] or len(settings["seeds"]) < 2:
            raise ConfigError(
                "this split has no folds: make some (medvit.split split.strategy=kfold), or give seeds=[0,1,2]"
            )
        return [None]
    asked = settings["folds"] or list(range(count))
    if absent := [fold for fold in asked if fold >= count]:
        raise ConfigError(f"folds={asked}: this split has folds 0 to {count - 1}, not {absent}")
    if len(asked) == 1 and not settings["seeds"]:
        raise ConfigError(f"folds={asked}: one fold is one training; use medvit.train data.fold={asked[0]}")
    return list(asked)


def _trained(parent: Run, fold: int | None, seed: int, settings: dict[str, Any], given: Sequence[str]) -> Run:
    """Return the finished run of a fold and seed: as it is, gone on with where it was stopped, or trained now."""
    from medvit.tracking import run as runs

    tracking = {**settings["tracking"], "name": None, "parent": parent.id}
    own = {key: value for key, value in settings.items() if key not in _OWN}
    own |= {"data": {**own["data"], "fold": fold}, "seed": seed, "resume": None, "tracking": tracking}
    asked, place = json.loads(json.dumps(own)), parent.folder.parent
    for run, params in runs.children(parent):
        if (params.get("data.fold"), params.get("seed")) != (str(fold), str(seed)):
            continue
        if run.status == "FINISHED":
            return run
        if resume.has_checkpoint(run.folder):
            return runs.get(train({**asked, "resume": run.id}), place)
    return runs.get(train(asked, given), place)


@entry("crossval", check)
def run(settings: dict[str, Any]) -> None:
    """Run the command of conf/crossval.yaml."""
    from hydra.core.hydra_config import HydraConfig

    done, report = crossval(settings, HydraConfig.get().overrides.task)
    place = Path(settings["tracking"]["folder"])
    test = anywhere(command_line("evaluate", {"run": done.id}, place))
    sys.stdout.write(
        "\n".join(["", *report.headline, ""]) + f"\nrun {done.id}, the mean of the models\n"
        f"  the report:     {place / done.id / 'evaluation_val' / 'report.html'}\n"
        f"  where the split sets a test side aside, test it:\n{test}\n"
    )


if __name__ == "__main__":
    run()
