"""`python -m medvit.train`: fine-tune a Vision Transformer; with nothing given, on generated chest films."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit import generated, resume, run_lifecycle
from medvit.command_line import anywhere, command_line
from medvit.config import conf_dir, entry
from medvit.config_targets import named, targets
from medvit.engine.settings.contradictions import contradictions, ranges
from medvit.engine.settings.part_problems import GIVEN
from medvit.errors import ConfigError

if TYPE_CHECKING:
    from medvit.engine.callbacks.training import Report
    from medvit.engine.fit import Fitted
    from medvit.tracking.run import Run

_ADDED = {"preprocess": ("after_reading", "after_resampling", "before_normalisation"), "augment": ("more",)}
_NOT_SOLVED = ("optim.plan", "trainer.epochs", "trainer.patience", "trainer.skip_non_finite", "trainer.auto_batch")


def check(settings: dict[str, Any]) -> list[str]:
    """Return numbers that make no sense and what is missing on the disk, before anything heavy is imported."""
    wrong = [*ranges(settings), *contradictions(settings), *resume.problems(settings)]
    return [*wrong, *generated.absent(settings["data"])]


def trial(settings: dict[str, Any]) -> list[str]:
    """Return what is wrong with parts that conf/ does not name, by trying them; imports what they are made of.

    It is told beside other problems: where there are none, a training tries its parts anyway.
    """
    shipped = named(conf_dir())
    groups = ("preprocess", "augment", "model", "optimizer", "scheduler")
    foreign = {one for group in groups for one in targets(settings[group]) if one not in shipped[group]}
    added = [(settings[part] or {}).get(key) for part, keys in _ADDED.items() for key in keys]
    if not foreign and not any(added) and not any(node for group in GIVEN for node in settings[group].values()):
        return []
    from medvit.engine.build import problems_of_added

    return problems_of_added(settings)


def train(settings: dict[str, Any], given: Sequence[str] = (), watch: Callable[[Run], Report] | None = None) -> str:
    """Fit, track and keep the best network of one run, and return the run's id. Never reads the test side.

    `settings` are those of conf/train.yaml; `given` are the words of the command line, which a resumed run checks.
    `watch` is given the run as it opens and returns what takes the numbers of each epoch, in place of the run.

    Raises:
        MedvitError: settings, data or weights that cannot be used; the run is then marked FAILED.
    """
    from medvit import release
    from medvit.engine.build import prepare

    place = Path(settings["tracking"]["folder"])
    if (main := run_lifecycle.helped(place)) is not None:
        return _help(main, resumed=bool(settings["resume"]))
    settings = _used(settings, given)
    run, settings, last = resume.earlier_part(settings, given, place)
    if generated.wanted(settings["data"]):
        generated.make(settings["data"], settings["labels"])
    parts = prepare(settings)  # before a run is opened: what cannot be built leaves none
    if run is None and (settings["trainer"].get("auto_batch") or any((settings.get("callbacks") or {}).values())):
        from medvit.engine.finders import find

        find(settings, parts)  # before the parameters of the run are told
    from medvit.engine.fit import fit
    from medvit.tracking import provenance

    told = provenance.facts(given, parts.network.backbone, parts.strategy)
    with run_lifecycle.tracked(run, settings, _title(settings, parts.strategy), "train", facts=told) as run:
        report = watch(run) if watch else run.metrics
        fitted = fit(settings, run.folder, report, last, run.artifact, parts, run.steps)
        release.publish_training(run, fitted, settings)
    if watch is None:
        _tell(run, fitted, settings)
    return str(run.id)


def _title(settings: dict[str, Any], strategy: Any) -> str:
    """Return data, model, strategy (the one chosen), fold and seed, such as "cxr vit Full fold 2 seed 0"."""
    inner = settings["model"].get("network") or {}
    made = inner if "_target_" in inner else settings["model"]
    parts = (made["_target_"], type(strategy).__name__)
    fold = settings["data"].get("fold")
    told = [*([] if fold is None else [f"fold {fold}"]), f"seed {settings['seed']}"]
    return " ".join([settings["data"]["name"], *(part.rpartition(".")[2] for part in parts), *told])


def _help(run: Run, resumed: bool) -> str:
    """Fit the share of a further device, of a run that another process of the same command tracks and keeps."""
    import json

    from medvit.engine.checkpoint_file import newest
    from medvit.engine.fit import fit

    settings = json.loads((run.folder / "config.json").read_text(encoding="utf-8"))
    with run_lifecycle.helping():
        fit(settings, run.folder, lambda *_: None, newest(run.folder) if resumed else None)
    return str(run.id)


def _used(settings: dict[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """Return the settings without what a recipe says and nothing reads; refuse it where it is given.

    Where the head is solved for, that is all of a training; else what `run_lifecycle.without_idle` leaves out.
    """
    words, optim = [word.lstrip("+") for word in given], settings["optim"]
    if optim["strategy"]["_target_"].endswith(".LogisticProbe"):
        if unused := [word for word in words if word.startswith((*_NOT_SOLVED, *run_lifecycle.READS_OF_PLAN))]:
            raise ConfigError(
                f"{', '.join(unused)} is not used by optim=logistic, which solves for the head: leave it out"
            )
        none: dict[str, Any] = {part: {} for part in run_lifecycle.READS_OF_PLAN}
        return settings | none | {"optim": {**optim, "plan": {}}, "trainer": {**settings["trainer"], "epochs": 1}}
    return run_lifecycle.without_idle(settings, given)


def _tell(run: Run, fitted: Fitted, settings: dict[str, Any]) -> None:
    from medvit.tracking import mirror, saved_view

    folder, trust = Path(settings["tracking"]["folder"]), settings["trust"]
    test = anywhere(command_line("evaluate", {"run": run.id, **({"trust": trust} if trust else {})}, folder))
    scores = "".join(f"  {key:<22}{value:.4f}\n" for key, value in sorted(fitted.scores.items()) if key.count("/") == 1)
    sys.stdout.write(
        f"\nrun {run.id}, best epoch {fitted.best_epoch} by {fitted.task.monitor}\n{scores}"
        f"\n  the run:        {folder}/{run.id}\n  test it:        {test}\n"
        f"  look at it:     {saved_view.command(str(folder.resolve()))}\n"
        f"  then open:      {saved_view.link(run.experiment_id)}\n"
    )
    if there := mirror.state(run.folder):
        sys.stdout.write(f"  on the server:  {saved_view.link(there['experiment'], there['run'], there['uri'])}\n")


@entry("train", check, trial)
def run(settings: dict[str, Any]) -> None:
    """Run the command of conf/train.yaml."""
    from hydra.core.hydra_config import HydraConfig

    train(settings, HydraConfig.get().overrides.task)


if __name__ == "__main__":
    run()
